//! What is under test besides the engine: a state machine, what clients ask of it, and whether the answers were right.
//!
//! [`KeyValueSubject`] is the one that comes with the engine. Bring your own by implementing [`Subject`]; a whole example
//! is in `engine/docs/simulation.md`.

use bytes::Bytes;
use raftwerk::exactly_once::ExactlyOnce;
use raftwerk::kv::{KvMachine, codec};
use raftwerk::{GroupId, StateMachine};

use crate::chance::Chance;
use crate::linearizability::{Call, KeyValue, KvInput, KvOutput, Verdict, check};

/// One thing that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A payload to propose. It should be unlike every other, so that a refused one is never taken for an accepted one.
    Write(Bytes),
    /// A query to read with, linearizably.
    Read(Bytes),
}

impl Operation {
    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        match self {
            Self::Write(bytes) | Self::Read(bytes) => bytes,
        }
    }
}

/// A call on one group, as its client saw it. Calls that certainly had no effect are not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The client that called.
    pub client: u32,
    /// When, in numbers of the run's events.
    pub called: u64,
    /// When it returned, and with what. `None`: whether, and when, it takes effect is unknown.
    pub returned: Option<(u64, Bytes)>,
    /// What was asked for.
    pub operation: Operation,
}

/// What is under test besides the engine.
pub trait Subject: Send + Sync {
    /// A new machine for a group.
    fn machine(&self, group: GroupId) -> Box<dyn StateMachine>;

    /// What a client asks for next. `unique` is another number every time.
    fn operation(&self, chance: &mut Chance, unique: u64) -> Operation;

    /// A payload that changes nothing any operation sees, unlike every other; proposed in bursts that no client waits for and
    /// that are not part of what is judged. `None`: there is no such thing; then groups are not judged by `stands still` either.
    fn noise(&self, unique: u64) -> Option<Bytes> {
        let _ = unique;
        None
    }

    /// Whether the machines are [`ExactlyOnce`] ones around a key-value machine: then there are clients that repeat what
    /// they are not sure of, on keys of two bytes that begin with an `o`.
    fn remembers_clients(&self) -> bool {
        false
    }

    /// Whether the answers of a group were right, after the fact.
    ///
    /// # Errors
    /// What was not.
    fn judge(&self, group: GroupId, calls: &[Seen]) -> Result<(), String> {
        let _ = (group, calls);
        Ok(())
    }
}

/// The key-value machine: puts, deletes, compare-and-sets and gets on few keys, judged for linearizability.
#[derive(Clone, Debug)]
pub struct KeyValueSubject {
    /// How many keys a group has; few, so that clients meet.
    pub keys: u64,
}

impl Default for KeyValueSubject {
    fn default() -> Self {
        Self { keys: 5 }
    }
}

/// Steps of the check per call. More than enough unless a history is wrong, or nearly everything ran at once.
const STEPS_PER_CALL: u64 = 20_000;

impl Subject for KeyValueSubject {
    fn machine(&self, _: GroupId) -> Box<dyn StateMachine> {
        Box::new(ExactlyOnce::new(KvMachine::new()))
    }

    fn remembers_clients(&self) -> bool {
        true
    }

    fn operation(&self, chance: &mut Chance, unique: u64) -> Operation {
        let key = [b'k', chance.below(self.keys) as u8];
        let mut bytes = Vec::new();
        // Most values are short, some take a frame of their own.
        let mut value = unique.to_le_bytes().to_vec();
        let long = [0, 0, 0, 0, 40, 600, 3000];
        value.resize(8 + chance.one_of(&long), unique as u8);
        match chance.below(20) {
            0..10 => codec::put(&mut bytes, &key, &value),
            10 => codec::compare_and_set(&mut bytes, &key, None, Some(&value)),
            11 => {
                // Something that another client may have put there a moment ago.
                let guess = unique.saturating_sub(chance.below(4)).to_le_bytes();
                codec::compare_and_set(&mut bytes, &key, Some(&guess), Some(&value));
            }
            12 => {
                // Only a delete has no room for what makes it unique: it travels with a put that no client reads.
                let marker = codec::Change::Put { key: b"marker", value: &unique.to_le_bytes() };
                codec::batch(&mut bytes, &[codec::Change::Delete { key: &key }, marker]);
            }
            _ => {
                codec::get(&mut bytes, &key);
                return Operation::Read(bytes.into());
            }
        }
        Operation::Write(bytes.into())
    }

    fn noise(&self, unique: u64) -> Option<Bytes> {
        let mut bytes = Vec::new();
        codec::put(&mut bytes, b"marker", &unique.to_le_bytes());
        Some(bytes.into())
    }

    fn judge(&self, _: GroupId, calls: &[Seen]) -> Result<(), String> {
        let history: Result<Vec<_>, String> = calls.iter().map(call_of).collect();
        let history = history?;
        match check(&KeyValue::default(), &history, STEPS_PER_CALL * history.len() as u64) {
            Verdict::Linearizable => Ok(()),
            Verdict::Violation(violation) => Err(violation.describe(&history)),
            Verdict::OutOfBudget => {
                Err(format!("no verdict on {} calls within the budget of steps", history.len()))
            }
        }
    }
}

fn call_of(seen: &Seen) -> Result<Call<KvInput, KvOutput>, String> {
    let failed = |error: codec::CodecError| format!("{seen:?}: {error}");
    let copy = Bytes::copy_from_slice;
    let reply = seen.returned.as_ref().map(|(_, reply)| reply);
    let (input, output) = match &seen.operation {
        Operation::Read(query) => {
            let codec::Query::Get { key } = codec::Query::decode(query).map_err(failed)? else {
                return Err("the subject only gets".to_owned());
            };
            let found = |reply| Ok(KvOutput::Found(codec::found(reply)?.map(|found| found.value)));
            (KvInput::Get { key: copy(key) }, reply.map(found).transpose().map_err(failed)?)
        }
        Operation::Write(payload) => match codec::Operation::decode(payload).map_err(failed)? {
            codec::Operation::Put { key, value } => {
                (KvInput::Put { key: copy(key), value: copy(value) }, reply.map(|_| KvOutput::Done))
            }
            codec::Operation::CompareAndSet { key, expected, new } => {
                let input = KvInput::CompareAndSet {
                    key: copy(key),
                    expected: expected.map(copy),
                    new: new.map(copy),
                };
                (input, reply.map(swapped).transpose().map_err(failed)?)
            }
            codec::Operation::Batch(mut changes) => match changes.next() {
                // No client reads the marker.
                Some(codec::Change::Delete { key }) => (KvInput::Delete { key: copy(key) }, None),
                _ => return Err("the subject's batches begin with a delete".to_owned()),
            },
            codec::Operation::Delete { .. } => return Err("the subject does not only delete".to_owned()),
        },
    };
    let returned = seen.returned.as_ref().map(|(at, _)| *at);
    Ok(Call { client: seen.client, called: seen.called, returned, input, output })
}

fn swapped(reply: &Bytes) -> Result<KvOutput, codec::CodecError> {
    Ok(match codec::swapped(reply)? {
        codec::Swap::Applied => KvOutput::Swapped,
        codec::Swap::Refused(found) => KvOutput::Refused(found.map(|found| found.value)),
    })
}
