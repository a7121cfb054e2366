//! A line of a register's recording, in the words of Jepsen's log. See [`super`] for the form.

use super::super::{RegisterInput, RegisterOutput};
use super::{End, Event, Kind, Line, LineError};

const TIMED_OUT: &str = ":timed-out";

pub(super) const fn kind(input: &RegisterInput) -> Kind {
    match input {
        RegisterInput::Read => Kind::Read,
        RegisterInput::Write(_) => Kind::Write,
        RegisterInput::CompareAndSet { .. } => Kind::CompareAndSet,
    }
}

pub(super) fn read(line: &str) -> Result<Line<RegisterInput, RegisterOutput>, LineError> {
    // What comes before " - " names the log's writer.
    let (_, told) = line.split_once(" - ").ok_or(LineError::Form)?;
    let mut words = told.split_whitespace();
    let mut word = || words.next().ok_or(LineError::Form);
    let (process, event, function, argument) = (word()?, word()?, word()?, word()?);
    let second = words.next();
    if words.next().is_some() {
        return Err(LineError::Function);
    }
    let process = process.parse().map_err(|_| LineError::Form)?;
    let input = || input(function, argument, second);
    let event = match event {
        ":invoke" => Event::Made(input()?),
        ":ok" => Event::Ended(named(function)?, End::Returned(output(function, argument, second)?)),
        ":fail" if function == ":cas" && argument != TIMED_OUT => {
            input()?;
            Event::Ended(Kind::CompareAndSet, End::Returned(RegisterOutput::Swapped(false)))
        }
        ":fail" => Event::Ended(named(function)?, End::Void),
        ":info" => Event::Ended(named(function)?, End::Lost),
        _ => return Err(LineError::Event),
    };
    Ok(Line { process, event })
}

fn named(function: &str) -> Result<Kind, LineError> {
    match function {
        ":read" => Ok(Kind::Read),
        ":write" => Ok(Kind::Write),
        ":cas" => Ok(Kind::CompareAndSet),
        _ => Err(LineError::Function),
    }
}

fn input(function: &str, argument: &str, second: Option<&str>) -> Result<RegisterInput, LineError> {
    match (function, second) {
        (":read", None) if argument == "nil" => Ok(RegisterInput::Read),
        (":write", None) => Ok(RegisterInput::Write(number(argument)?)),
        (":cas", Some(second)) => {
            let expected = argument.strip_prefix('[').ok_or(LineError::Function)?;
            let new = second.strip_suffix(']').ok_or(LineError::Function)?;
            Ok(RegisterInput::CompareAndSet { expected: number(expected)?, new: number(new)? })
        }
        _ => Err(LineError::Function),
    }
}

fn output(function: &str, argument: &str, second: Option<&str>) -> Result<RegisterOutput, LineError> {
    match (function, argument, second) {
        (":read", "nil", None) => Ok(RegisterOutput::Holds(None)),
        (":read", value, None) => Ok(RegisterOutput::Holds(Some(number(value)?))),
        _ => Ok(match input(function, argument, second)? {
            RegisterInput::CompareAndSet { .. } => RegisterOutput::Swapped(true),
            RegisterInput::Read | RegisterInput::Write(_) => RegisterOutput::Written,
        }),
    }
}

fn number(text: &str) -> Result<i64, LineError> {
    text.parse().map_err(|_| LineError::Function)
}
