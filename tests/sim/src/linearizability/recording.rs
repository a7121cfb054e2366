//! Reads histories that other systems' tests have recorded: one event a line.
//!
//! ```text
//! register:   INFO  jepsen.util - 3 :invoke :cas [4 1]       process, event, function, argument; any blanks
//! key-value:  {:process 9, :type :invoke, :f :append, :key "0", :value "x 9 0 y"}
//!
//! event = :invoke   the call is made
//!       | :ok       it returned, with the argument as its result
//!       | :fail     a compare-and-set found something else; with :timed-out, and for other calls, it never happened
//!       | :info     its outcome is unknown
//! ```
//! A process makes one call at a time; one that is running when the recording ends has an unknown outcome. Times are the
//! numbers of the lines.
//!
//! What is not here: files. The caller reads them, and knows which verdict they should get.

mod key_value;
mod register;

use std::collections::BTreeMap;

use super::{Call, KeyValue, KvInput, KvOutput, Register, RegisterInput, RegisterOutput, Verdict, check};

/// A history that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Of one register.
    Register(Vec<Call<RegisterInput, RegisterOutput>>),
    /// Of a map in which all keys hold the empty string at first.
    KeyValue(Vec<Call<KvInput, KvOutput>>),
}

/// Why a text is not a recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct RecordingError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: LineError,
}

/// What is wrong with a line of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It has not the form of its kind of recording.
    #[error("the line is not an event")]
    Form,
    /// The event is none that is known.
    #[error("the event is unknown")]
    Event,
    /// The function is none that is known, or its argument is not of its kind.
    #[error("the function or its argument is unknown")]
    Function,
    /// A process made a call while its last one was running.
    #[error("the process has a call running already")]
    Running,
    /// A call ended that was not made, or was another.
    #[error("the process has no such call running")]
    NotRunning,
}

impl Recording {
    /// Reads a recording; its first line gives its kind. Empty lines are skipped.
    ///
    /// # Errors
    /// [`RecordingError`] at the first line that cannot be.
    pub fn parse(text: &str) -> Result<Self, RecordingError> {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        if first.starts_with('{') {
            calls(text, key_value::read, key_value::kind).map(Self::KeyValue)
        } else {
            calls(text, register::read, register::kind).map(Self::Register)
        }
    }

    /// Checks it against its model, in at most `budget` steps.
    #[must_use]
    pub fn check(&self, budget: u64) -> Verdict {
        match self {
            Self::Register(history) => check(&Register, history, budget),
            Self::KeyValue(history) => {
                check(&KeyValue { initial: Some(bytes::Bytes::new()) }, history, budget)
            }
        }
    }

    /// Explains a violation that [`Recording::check`] has found.
    #[must_use]
    pub fn describe(&self, violation: &super::Violation) -> String {
        match self {
            Self::Register(history) => violation.describe(history),
            Self::KeyValue(history) => violation.describe(history),
        }
    }

    /// How many calls there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Register(history) => history.len(),
            Self::KeyValue(history) => history.len(),
        }
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The contents of a line.
struct Line<I, O> {
    process: u32,
    event: Event<I, O>,
}

enum Event<I, O> {
    /// This call is made.
    Made(I),
    /// A call of this kind ended, and this became of it.
    Ended(Kind, End<O>),
}

/// What became of a call.
enum End<O> {
    /// It returned this.
    Returned(O),
    /// It was without any effect, and gave no answer.
    Void,
    /// The outcome is unknown.
    Lost,
}

/// The function that is called, as the recordings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    CompareAndSet,
    Append,
}

/// Joins beginnings and ends.
fn calls<I, O>(
    text: &str,
    read: impl Fn(&str) -> Result<Line<I, O>, LineError>,
    kind_of: impl Fn(&I) -> Kind,
) -> Result<Vec<Call<I, O>>, RecordingError> {
    let mut history: Vec<Option<Call<I, O>>> = Vec::new();
    let mut running: BTreeMap<u32, usize> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why| RecordingError { line: number, why };
        let Line { process, event } = read(line).map_err(wrong)?;
        match event {
            Event::Made(input) => {
                if running.insert(process, history.len()).is_some() {
                    return Err(wrong(LineError::Running));
                }
                let called = number as u64;
                history.push(Some(Call { client: process, called, returned: None, input, output: None }));
            }
            Event::Ended(kind, end) => {
                let slot = running.remove(&process).map(|at| &mut history[at]);
                let slot = slot.ok_or(wrong(LineError::NotRunning))?;
                match (slot.as_mut(), end) {
                    (Some(call), _) if kind_of(&call.input) != kind => {
                        return Err(wrong(LineError::NotRunning));
                    }
                    (Some(call), End::Returned(output)) => {
                        (call.returned, call.output) = (Some(number as u64), Some(output));
                    }
                    (_, End::Void) => *slot = None,
                    _ => {}
                }
            }
        }
    }
    Ok(history.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, LineError) {
        let error = Recording::parse(text).unwrap_err();
        (error.line, error.why)
    }

    #[test]
    fn a_register_log_becomes_calls_with_line_numbers_for_times() {
        let text = "INFO  jepsen.util - 0\t:invoke\t:write\t4\n\
                    INFO  jepsen.util - 12   :invoke :cas    [4 1]\n\n\
                    INFO  jepsen.util - 0\t:ok\t:write\t4\n\
                    INFO  jepsen.util - 12   :fail   :cas    [4 1]\n\
                    INFO  jepsen.util - 0\t:invoke\t:read\tnil\n\
                    INFO  jepsen.util - 0\t:fail\t:read\t:timed-out\n\
                    INFO  jepsen.util - 1\t:invoke\t:write\t2\n\
                    INFO  jepsen.util - 1\t:info\t:write\t:timed-out\n";
        let call = |client, called, returned, input, output| Call { client, called, returned, input, output };
        let cas = RegisterInput::CompareAndSet { expected: 4, new: 1 };
        let history = vec![
            call(0, 1, Some(4), RegisterInput::Write(4), Some(RegisterOutput::Written)),
            call(12, 2, Some(5), cas, Some(RegisterOutput::Swapped(false))),
            call(1, 8, None, RegisterInput::Write(2), None),
        ];
        assert_eq!(Recording::parse(text), Ok(Recording::Register(history)));
    }

    #[test]
    fn a_key_value_log_becomes_calls() {
        let text = "{:process 2, :type :invoke, :f :append, :key \"0\", :value \"x 9, 0 y\"}\n\
                    {:process 3, :type :invoke, :f :get, :key \"0\", :value nil}\n\
                    {:process 3, :type :ok, :f :get, :key \"0\", :value \"\"}\n";
        let Recording::KeyValue(history) = Recording::parse(text).unwrap() else { panic!("another kind") };
        let key = bytes::Bytes::from_static(b"0");
        assert_eq!(history[0].input, KvInput::Append { key: key.clone(), value: "x 9, 0 y".into() });
        assert_eq!((history[0].returned, &history[0].output), (None, &None));
        assert_eq!(history[1].input, KvInput::Get { key });
        assert_eq!(history[1].output, Some(KvOutput::Found(Some("".into()))));
    }

    #[test]
    fn lines_that_cannot_be_are_named() {
        let made = "INFO  jepsen.util - 0\t:invoke\t:write\t4\n";
        assert_eq!(wrong("something"), (1, LineError::Form));
        assert_eq!(wrong(&format!("{made}{made}")), (2, LineError::Running));
        assert_eq!(wrong("\nINFO  jepsen.util - 0\t:ok\t:write\t4\n"), (2, LineError::NotRunning));
        assert_eq!(wrong(&format!("{made}INFO  jepsen.util - 0 :ok :read 4")), (2, LineError::NotRunning));
        assert_eq!(wrong("INFO  jepsen.util - 0\t:thinks\t:write\t4"), (1, LineError::Event));
        assert_eq!(wrong("INFO  jepsen.util - 0\t:invoke\t:write\t[4"), (1, LineError::Function));
        assert_eq!(wrong("INFO  jepsen.util - 0\t:invoke\t:cas\t[4 1 1]"), (1, LineError::Function));
        assert_eq!(wrong("{:process 1, :type :invoke, :f :get, :key \"0}"), (1, LineError::Form));
        assert_eq!(wrong("{:process 1, :type :invoke, :f :get}"), (1, LineError::Form));
    }

    #[test]
    fn an_empty_text_is_an_empty_history() {
        let recording = Recording::parse("\n").unwrap();
        assert!(recording.is_empty() && recording.check(0).is_linearizable());
    }
}
