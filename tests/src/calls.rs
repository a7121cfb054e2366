//! What a node process does for callers that wait: writes and reads at every level, in sessions that come and go as tokens.
//! The lines are described at the head of [`crate::processes`]. IMPURE: threads, and the standard output.
//!
//! What is not here: what the answers are held against ([`crate::levels`]).

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use raftwerk::{
    Consistency, Engine, FrozenState, Group, GroupId, NodeId, ProposeError, ReadAnswer, ReadError,
    ReadOptions, Session,
};

use crate::journal::{BRIEF, Brief};

/// Calls that may wait at one time; more wait for their turn.
const CALLERS: usize = 16;

type Failed = Box<dyn Error>;

/// Takes calls, and answers them on the standard output when it can.
pub struct Calls {
    queue: Sender<String>,
}

struct Node {
    engine: Engine,
    kept: Mutex<BTreeMap<u64, FrozenState>>,
}

impl Calls {
    /// Callers of this engine.
    #[must_use]
    pub fn start(engine: &Engine) -> Self {
        let (queue, calls) = mpsc::channel();
        let calls = Arc::new(Mutex::new(calls));
        let node = Arc::new(Node { engine: engine.clone(), kept: Mutex::default() });
        for _ in 0..CALLERS {
            let (calls, node) = (Arc::clone(&calls), Arc::clone(&node));
            thread::spawn(move || serve(&calls, &node));
        }
        Self { queue }
    }

    /// Takes a line, if it is a call.
    #[must_use]
    pub fn take(&self, line: &str) -> bool {
        let begins = ["write ", "look ", "keep ", "again ", "transfer "];
        begins.iter().any(|begin| line.starts_with(begin)) && self.queue.send(line.to_owned()).is_ok()
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(calls: &Mutex<Receiver<String>>, node: &Node) {
    loop {
        let Ok(line) = held(calls).recv() else { return };
        let answer = node.answer(&line).unwrap_or_else(|error| format!("confused 0 {line:?}: {error}\n"));
        if say(&answer).is_err() {
            return; // nobody listens any more
        }
    }
}

/// Prints whole lines at once.
///
/// # Errors
/// Of the standard output.
pub fn say(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

impl Node {
    fn answer(&self, line: &str) -> Result<String, Failed> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["write", token, group, session] => self.write(token, group, &session_of(session)?),
            ["look", token, group, level, wait, session] => {
                let (group, session) = (self.group(group)?, session_of(session)?);
                let read = group.query(BRIEF, options(level, wait, &session)?).wait();
                shown(token, read, &session)
            }
            ["keep", token, group, level, wait, session] => {
                let (group, session) = (self.group(group)?, session_of(session)?);
                let frozen = group.freeze(options(level, wait, &session)?).wait();
                if let Ok(state) = &frozen {
                    held(&self.kept).insert(token.parse()?, state.clone());
                }
                shown(token, frozen.map(|state| state.query(BRIEF)), &session)
            }
            ["again", token] => {
                let state = held(&self.kept).remove(&token.parse()?).ok_or("nothing was kept")?;
                let answer = state.query(BRIEF);
                Ok(format!("again {token} {} {}\n", answer.index, brief_of(&answer)?))
            }
            ["transfer", group, node] => {
                drop(self.group(group)?.transfer_leadership(NodeId(node.parse()?)));
                Ok(String::new())
            }
            _ => Err("what is that?".into()),
        }
    }

    fn group(&self, id: &str) -> Result<Group, Failed> {
        Ok(self.engine.group(GroupId(id.parse()?)))
    }

    fn write(&self, token: &str, group: &str, session: &Session) -> Result<String, Failed> {
        let payload = token.parse::<u64>()?.to_le_bytes();
        Ok(match self.group(group)?.propose_in(payload.to_vec(), session).wait() {
            Ok(applied) => {
                let count = u64::from_le_bytes(applied.reply[..].try_into()?);
                format!("wrote {token} {} {count} {}\n", applied.id.index, word_of_session(session))
            }
            Err(ProposeError::NotLeader { hint }) => {
                format!("unwritten {token} not {}\n", hint.map_or(0, |node| node.0))
            }
            Err(ProposeError::Busy) => format!("unwritten {token} not 0\n"),
            Err(ProposeError::Unknown) => format!("unwritten {token} unknown\n"),
            Err(error) => return Err(error.into()),
        })
    }
}

fn options<'a>(level: &str, wait: &str, session: &'a Session) -> Result<ReadOptions<'a>, Failed> {
    let options = ReadOptions::new(level_of(level).ok_or("no such level")?).in_session(session);
    Ok(match wait.parse()? {
        0 => options,
        ms => options.or_wait(Duration::from_millis(ms)),
    })
}

fn shown(token: &str, read: Result<ReadAnswer, ReadError>, session: &Session) -> Result<String, Failed> {
    Ok(match read {
        Ok(answer) => {
            let age = answer.staleness.map_or("-".to_owned(), |age| age.as_nanos().to_string());
            let (index, brief) = (answer.index, brief_of(&answer)?);
            format!("shown {token} {index} {brief} {age} {}\n", word_of_session(session))
        }
        Err(ReadError::Behind { applied, wanted }) => format!("hidden {token} behind {applied} {wanted}\n"),
        Err(ReadError::NotLeader { .. } | ReadError::Stale { .. } | ReadError::Busy) => {
            format!("hidden {token} for now\n")
        }
        Err(error) => return Err(error.into()),
    })
}

fn brief_of(answer: &ReadAnswer) -> Result<String, Failed> {
    let Brief { count, last, hash } = Brief::decode(&answer.reply).ok_or("the journal answers in brief")?;
    Ok(format!("{count} {last} {hash}"))
}

/// A level as a word of a line.
#[must_use]
pub fn word_of(level: Consistency) -> String {
    match level {
        Consistency::Strong => "strong".to_owned(),
        Consistency::BoundedStaleness(bound) => format!("within:{}", bound.as_nanos()),
        Consistency::Monotonic => "monotonic".to_owned(),
        Consistency::ReadMyWrites => "own".to_owned(),
        Consistency::ConsistentPrefix => "prefix".to_owned(),
        Consistency::Eventual => "eventual".to_owned(),
    }
}

fn level_of(word: &str) -> Option<Consistency> {
    Some(match word {
        "strong" => Consistency::Strong,
        "monotonic" => Consistency::Monotonic,
        "own" => Consistency::ReadMyWrites,
        "prefix" => Consistency::ConsistentPrefix,
        "eventual" => Consistency::Eventual,
        _ => {
            let bound = word.strip_prefix("within:")?.parse().ok()?;
            Consistency::BoundedStaleness(Duration::from_nanos(bound))
        }
    })
}

fn word_of_session(session: &Session) -> String {
    session.to_token().iter().fold(String::new(), |mut word, byte| {
        let _always = write!(word, "{byte:02x}");
        word
    })
}

/// A new session for `-`; what several have seen and written together, if there is a `+` between them.
fn session_of(word: &str) -> Result<Session, Failed> {
    let session = Session::new();
    for token in word.split('+').filter(|token| *token != "-") {
        let digits = |at| token.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Option<Vec<u8>> = (0..token.len()).step_by(2).map(digits).collect();
        session.merge(&Session::from_token(&bytes.ok_or("a token is hexadecimal")?)?);
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use raftwerk::Index;

    use super::*;

    #[test]
    fn levels_and_sessions_are_what_their_words_say() {
        let bound = Consistency::BoundedStaleness(Duration::from_millis(7));
        let others = [Consistency::Strong, Consistency::Monotonic, Consistency::ReadMyWrites];
        for level in others.into_iter().chain([bound, Consistency::ConsistentPrefix, Consistency::Eventual]) {
            assert_eq!(level_of(&word_of(level)), Some(level));
        }
        assert_eq!(level_of("within:soon"), None);
        let (one, other) = (Session::new(), Session::new());
        one.wrote(GroupId(3), Index(8));
        other.saw(GroupId(3), Index(9));
        let both = format!("{}+{}", word_of_session(&one), word_of_session(&other));
        one.merge(&other);
        assert_eq!(session_of(&both).unwrap(), one);
        assert_eq!(session_of("-").unwrap(), Session::new());
        assert!(session_of("0g").is_err() && session_of("00").is_err());
    }
}
