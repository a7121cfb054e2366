//! The model of a map from keys to values: what the key-value machine promises of each key, and append besides.
//!
//! What is not here: scans and batches, which touch several keys, and versions. A batch may be recorded as one call per
//! key: that checks everything but its being atomic.

use bytes::Bytes;

use super::{Model, Step};

/// A map from keys to values.
#[derive(Clone, Debug, Default)]
pub struct KeyValue {
    /// What every key holds at first. `None`: nothing. Stores that do not tell absent from empty start with empty bytes.
    pub initial: Option<Bytes>,
}

/// What is asked of a [`KeyValue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvInput {
    /// What does the key hold?
    Get {
        /// The key.
        key: Bytes,
    },
    /// Let the key hold this.
    Put {
        /// The key.
        key: Bytes,
        /// What it then holds.
        value: Bytes,
    },
    /// Let the key hold what it holds, and this after it.
    Append {
        /// The key.
        key: Bytes,
        /// What is added at the end; all there is, where nothing was.
        value: Bytes,
    },
    /// Let the key hold nothing.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// If the key holds exactly `expected`, let it hold `new`.
    CompareAndSet {
        /// The key.
        key: Bytes,
        /// What it must hold; `None`: nothing.
        expected: Option<Bytes>,
        /// What it then holds; `None`: nothing.
        new: Option<Bytes>,
    },
}

/// What a [`KeyValue`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvOutput {
    /// To a put or an append: it is done.
    Done,
    /// To a get: what the key holds, if anything.
    Found(Option<Bytes>),
    /// To a delete: whether there was anything.
    Existed(bool),
    /// To a compare-and-set: it held what was expected.
    Swapped,
    /// To a compare-and-set: it held this instead, or nothing.
    Refused(Option<Bytes>),
}

impl KvInput {
    /// The key that is touched.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        match self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Append { key, .. }
            | Self::Delete { key }
            | Self::CompareAndSet { key, .. } => key,
        }
    }

    /// Whether one that holds `state` may answer `output`.
    fn fits(&self, state: Option<&Bytes>, output: &KvOutput) -> bool {
        match (self, output) {
            (Self::Get { .. }, KvOutput::Found(found)) => found.as_ref() == state,
            (Self::Put { .. } | Self::Append { .. }, KvOutput::Done) => true,
            (Self::Delete { .. }, KvOutput::Existed(existed)) => *existed == state.is_some(),
            (Self::CompareAndSet { expected, .. }, KvOutput::Swapped) => expected.as_ref() == state,
            (Self::CompareAndSet { expected, .. }, KvOutput::Refused(found)) => {
                expected.as_ref() != state && found.as_ref() == state
            }
            _ => false,
        }
    }
}

impl Model for KeyValue {
    type State = Option<Bytes>;
    type Input = KvInput;
    type Output = KvOutput;

    fn initial(&self) -> Option<Bytes> {
        self.initial.clone()
    }

    fn key<'i>(&self, input: &'i KvInput) -> &'i [u8] {
        input.key()
    }

    fn only_observes(&self, input: &KvInput, output: Option<&KvOutput>) -> bool {
        match input {
            KvInput::Get { .. } => true,
            KvInput::Put { .. } | KvInput::Append { .. } => false,
            KvInput::Delete { .. } => output == Some(&KvOutput::Existed(false)),
            KvInput::CompareAndSet { .. } => matches!(output, Some(KvOutput::Refused(_))),
        }
    }

    fn step(&self, state: &Option<Bytes>, input: &KvInput, output: Option<&KvOutput>) -> Step<Option<Bytes>> {
        if output.is_some_and(|output| !input.fits(state.as_ref(), output)) {
            return Step::Illegal;
        }
        let next = match input {
            KvInput::Get { .. } => return Step::Unchanged,
            KvInput::Put { value, .. } => Some(value.clone()),
            KvInput::Append { value, .. } => match state {
                Some(held) => Some([&held[..], &value[..]].concat().into()),
                None => Some(value.clone()),
            },
            KvInput::Delete { .. } => None,
            KvInput::CompareAndSet { expected, new, .. } if expected == state => new.clone(),
            KvInput::CompareAndSet { .. } => return Step::Unchanged,
        };
        Step::between(state, next)
    }
}
