//! The model of one register that holds a number, or nothing yet: read, write, compare-and-set.

use super::{Model, Step};

/// A register. All calls are on the same one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// What is asked of a [`Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterInput {
    /// What does it hold?
    Read,
    /// Let it hold this.
    Write(i64),
    /// If it holds `expected`, let it hold `new`.
    CompareAndSet {
        /// What it must hold.
        expected: i64,
        /// What it then holds.
        new: i64,
    },
}

/// What a [`Register`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOutput {
    /// It holds this; `None`: nothing was written yet.
    Holds(Option<i64>),
    /// It was written.
    Written,
    /// Whether it held what was expected.
    Swapped(bool),
}

impl Model for Register {
    type State = Option<i64>;
    type Input = RegisterInput;
    type Output = RegisterOutput;

    fn initial(&self) -> Option<i64> {
        None
    }

    fn key<'i>(&self, _: &'i RegisterInput) -> &'i [u8] {
        &[]
    }

    fn only_observes(&self, input: &RegisterInput, output: Option<&RegisterOutput>) -> bool {
        match input {
            RegisterInput::Read => true,
            RegisterInput::Write(_) => false,
            RegisterInput::CompareAndSet { .. } => output == Some(&RegisterOutput::Swapped(false)),
        }
    }

    fn step(
        &self,
        state: &Option<i64>,
        input: &RegisterInput,
        output: Option<&RegisterOutput>,
    ) -> Step<Option<i64>> {
        let (next, answer) = match *input {
            RegisterInput::Read => (*state, RegisterOutput::Holds(*state)),
            RegisterInput::Write(value) => (Some(value), RegisterOutput::Written),
            RegisterInput::CompareAndSet { expected, new } if *state == Some(expected) => {
                (Some(new), RegisterOutput::Swapped(true))
            }
            RegisterInput::CompareAndSet { .. } => (*state, RegisterOutput::Swapped(false)),
        };
        if output.is_some_and(|output| *output != answer) {
            Step::Illegal
        } else {
            Step::between(state, next)
        }
    }
}
