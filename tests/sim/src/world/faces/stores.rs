//! The store: keys that many users write, keys that stay, and pairs of keys that are written together.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use raftwerk::kv::codec::{self, Found, Swap};
use raftwerk::kv::{Served, Store, StoreError};
use raftwerk::{Consistency, Index, ReadOptions};
use rustc_hash::FxHashMap;

use super::calls::{Asked, Ended, Told, ended};
use super::{MARK, User, World, group_id, width_before};
use crate::disk::held;
use crate::ledger::hash_of;
use crate::linearizability::{Call as Seen, KvInput, KvOutput};
use crate::watch::{Checked, Violation};

/// Keys of a group that many use.
const KEYS: u64 = 3;
/// Keys that are set once and stay, in all groups together: a scan goes through them all.
const ADDED_MAX: usize = 80;
/// The most pairs: one with a last write of unknown outcome is given up for another.
const PAIRS_MAX: usize = 64;
/// How long a read of any replica may wait.
const ELSEWHERE: Duration = Duration::from_secs(2);

/// A write of one key.
#[derive(Debug)]
pub(super) struct Write {
    group: usize,
    input: KvInput,
    /// The hash of its bytes; `None`: others may have the same.
    payload: Option<u64>,
}

/// A read of one key.
#[derive(Debug)]
pub(super) struct Get {
    group: usize,
    key: Bytes,
    /// In a session, which has written so much of the group; `None`: linearizably.
    floor: Option<u64>,
}

/// Two keys that are always written together, by one user, with a number that rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) group: usize,
    number: usize,
    /// What was acknowledged when it was called.
    acknowledged: u64,
}

/// A pair, as its users know it.
pub(super) struct Written {
    group: usize,
    /// What was sent last, and acknowledged last: the same, where nothing is on its way.
    sent: u64,
    pub(super) acknowledged: u64,
    is_given_up: bool,
}

/// What users know together.
#[derive(Default)]
pub(super) struct Record {
    pub(super) history: Vec<Seen<KvInput, KvOutput>>,
    /// By value: which payload wrote it.
    payloads: FxHashMap<Bytes, u64>,
    /// Keys that stay, in the order of their acknowledgement; and all that were ever sent.
    pub(super) added: Vec<(Bytes, Index)>,
    sent: usize,
    pub(super) pairs: Vec<Written>,
}

impl Record {
    fn see(&mut self, called: u64, returned: Option<u64>, input: KvInput, output: Option<KvOutput>) {
        let client = self.history.len() as u32;
        self.history.push(Seen { client, called, returned, input, output });
    }

    /// A write with an unknown outcome.
    pub(super) fn lost(&mut self, write: Write, called: u64) {
        self.see(called, None, write.input, None);
    }

    pub(super) fn abandon(&mut self, pair: &Pair) {
        self.pairs[pair.number].is_given_up = true;
    }
}

/// A key of a half of a pair.
fn half(first: u8, number: usize, half: u8) -> Bytes {
    vec![MARK, first, b'p', number as u8, half].into()
}

impl World<'_> {
    /// The second byte of a group's keys.
    fn first_byte(&self, group: usize) -> u8 {
        width_before(group, self.plan.groups)
    }

    fn value(&mut self) -> Bytes {
        self.unique += 1;
        Bytes::copy_from_slice(&self.unique.to_le_bytes())
    }

    /// Something is done with a key that many use.
    pub(super) fn use_key(&mut self, user: &mut User, store: &Store, group: usize, node: usize) -> Checked {
        let drawn = self.faces.chance.below(10);
        let key = [MARK, self.first_byte(group), b'k', self.faces.chance.below(KEYS) as u8];
        let floor = (drawn == 0).then_some(user.written[group]);
        if let Some(level) = floor.map(|_| Consistency::ReadMyWrites) {
            let options = ReadOptions::new(level).or_wait(ELSEWHERE);
            let answer = store.at(options).get(&key);
            let get = Get { group, key: Bytes::copy_from_slice(&key), floor };
            self.call_face(user, node, Asked::Get(get), async { Told::Served(answer.await) });
            return Ok(());
        }
        if drawn < 4 {
            let answer = store.get(&key);
            let get = Get { group, key: Bytes::copy_from_slice(&key), floor };
            self.call_face(user, node, Asked::Get(get), async { Told::Found(answer.await) });
            return Ok(());
        }
        let (value, guess) = (self.value(), self.guess());
        let key = Bytes::copy_from_slice(&key);
        let mut bytes = Vec::new();
        let (input, is_unique) = match drawn {
            4..7 => {
                codec::put(&mut bytes, &key, &value);
                let write = store.put(&key, &value);
                self.send(user, node, group, KvInput::Put { key, value }, &bytes, true, async {
                    Told::Version(write.await)
                });
                return Ok(());
            }
            7 => (KvInput::Delete { key: key.clone() }, false),
            8 => (KvInput::CompareAndSet { key: key.clone(), expected: None, new: Some(value) }, true),
            _ => (KvInput::CompareAndSet { key: key.clone(), expected: Some(guess), new: Some(value) }, true),
        };
        match &input {
            KvInput::CompareAndSet { expected, new, .. } => {
                let (expected, new) = (expected.as_deref(), new.as_deref());
                codec::compare_and_set(&mut bytes, &key, expected, new);
                let write = store.compare_and_set(&key, expected, new);
                self.send(user, node, group, input, &bytes, is_unique, async { Told::Swapped(write.await) });
            }
            _ => {
                codec::delete(&mut bytes, &key);
                let write = store.delete(&key);
                self.send(user, node, group, input, &bytes, is_unique, async { Told::Existed(write.await) });
            }
        }
        Ok(())
    }

    /// Something that another user may have put there a moment ago.
    fn guess(&mut self) -> Bytes {
        let before = self.faces.chance.below(6);
        Bytes::copy_from_slice(&self.unique.saturating_sub(before).to_le_bytes())
    }

    fn send(
        &mut self,
        user: &mut User,
        node: usize,
        group: usize,
        input: KvInput,
        bytes: &[u8],
        is_unique: bool,
        answer: impl Future<Output = Told> + 'static,
    ) {
        let payload = hash_of(bytes);
        if !is_unique {
            held(&self.ledger).may_repeat(group_id(group), payload);
        }
        if let KvInput::Put { value, .. } | KvInput::CompareAndSet { new: Some(value), .. } = &input {
            self.faces.record.payloads.insert(value.clone(), payload);
        }
        let payload = is_unique.then_some(payload);
        self.call_face(user, node, Asked::Write(Write { group, input, payload }), answer);
    }

    pub(super) fn take_write(&mut self, user: &mut User, called: u64, write: Write, told: Told) -> Checked {
        let group = write.group;
        let output = match told {
            Told::Version(told) => told.map(|version| {
                self.note_written(user, group, version, write.payload);
                KvOutput::Done
            }),
            Told::Existed(told) => told.map(KvOutput::Existed),
            Told::Swapped(Ok(Swap::Refused(Some(found)))) => {
                self.judge_version(group, &found)?;
                Ok(KvOutput::Refused(Some(found.value)))
            }
            Told::Swapped(told) => told.map(|swap| match swap {
                Swap::Applied => KvOutput::Swapped,
                Swap::Refused(found) => KvOutput::Refused(found.map(|found| found.value)),
            }),
            _ => unreachable!("a write has other answers"),
        };
        match output {
            Ok(output) => {
                self.answered += 1;
                self.faces.record.see(called, Some(self.events), write.input, Some(output));
                Ok(())
            }
            Err(error) => match ended(&error) {
                Ended::Unknown => {
                    self.unknown += 1;
                    self.faces.record.lost(write, called);
                    Ok(())
                }
                _ => self.take_error(user, group, write.payload, &error),
            },
        }
    }

    /// An acknowledgement that names an index: it is of this payload, and the session's own.
    fn note_written(&self, user: &mut User, group: usize, version: Index, payload: Option<u64>) {
        user.written[group] = user.written[group].max(version.0);
        if let Some(payload) = payload {
            held(&self.ledger).acknowledged(group_id(group), version, payload);
        }
    }

    /// A call ended by an error that is certain.
    pub(super) fn take_error(
        &self,
        user: &mut User,
        group: usize,
        payload: Option<u64>,
        error: &StoreError,
    ) -> Checked {
        match ended(error) {
            Ended::Wrong => {
                Err(Violation::new("an answer is of its call", format!("{}: {error}", group_id(group))))
            }
            Ended::Unknown => Ok(()),
            Ended::Refused(leader) => {
                if let Some(payload) = payload {
                    held(&self.ledger).refused(group_id(group), payload);
                }
                if let Some(leader) = leader {
                    user.leaders[group] = leader;
                }
                Ok(())
            }
        }
    }

    /// What was found was written by the entry that it names.
    fn judge_version(&self, group: usize, found: &Found) -> Checked {
        let writer = self.faces.record.payloads.get(&found.value);
        let applied = held(&self.ledger).applied_at(group_id(group), found.version);
        if writer.is_some() && writer.copied() == applied {
            return Ok(());
        }
        let what = format!("{}: {:?} is not what {} wrote", group_id(group), found.value, found.version);
        Err(Violation::new("a version is of its entry", what))
    }

    pub(super) fn take_found(&mut self, user: &mut User, called: u64, get: Get, told: Told) -> Checked {
        let (found, index) = match told {
            Told::Found(Ok(found)) => (found, None),
            Told::Served(Ok(served)) => (served.value, Some(served.index)),
            Told::Found(Err(error)) | Told::Served(Err(error)) => {
                return self.take_error(user, get.group, None, &error);
            }
            _ => unreachable!("a read has other answers"),
        };
        self.answered += 1;
        if let Some(found) = &found {
            self.judge_version(get.group, found)?;
        }
        match (index, get.floor) {
            (Some(index), Some(floor)) if index.0 < floor => {
                let what = format!("{get:?}: answered at {index}");
                Err(Violation::new("reads see own writes", what))
            }
            (Some(_), _) => Ok(()),
            (None, _) => {
                let output = KvOutput::Found(found.map(|found| found.value));
                let input = KvInput::Get { key: get.key };
                self.faces.record.see(called, Some(self.events), input, Some(output));
                Ok(())
            }
        }
    }

    /// A key is set that stays: scans must not miss it from then on.
    pub(super) fn add_key(&mut self, user: &mut User, store: &Store, group: usize, node: usize) -> Checked {
        if self.faces.record.sent == ADDED_MAX {
            return Ok(());
        }
        let (first, groups) = (self.first_byte(group), self.plan.groups);
        let number = self.faces.record.sent as u16;
        self.faces.record.sent += 1;
        let width = (256 / groups as u64).min(4);
        let second = first + self.faces.chance.below(width) as u8;
        let key: Bytes = [&[MARK, second, b's'][..], &number.to_be_bytes()].concat().into();
        let value = self.value();
        let mut bytes = Vec::new();
        codec::put(&mut bytes, &key, &value);
        let payload = hash_of(&bytes);
        self.faces.record.payloads.insert(value.clone(), payload);
        let write = store.put(&key, &value);
        let asked = Write { group, input: KvInput::Put { key, value }, payload: Some(payload) };
        self.call_face(user, node, Asked::Add(asked), async { Told::Version(write.await) });
        Ok(())
    }

    pub(super) fn take_added(
        &mut self,
        user: &mut User,
        write: Write,
        told: Result<Index, StoreError>,
    ) -> Checked {
        match told {
            Ok(version) => {
                self.answered += 1;
                self.note_written(user, write.group, version, write.payload);
                self.faces.record.added.push((write.input.key().clone(), version));
                Ok(())
            }
            Err(error) => self.take_error(user, write.group, write.payload, &error),
        }
    }

    /// Both keys of a pair are set by one batch, or read by one query.
    pub(super) fn use_pair(&mut self, user: &mut User, store: &Store, group: usize, node: usize) -> Checked {
        let first = self.first_byte(group);
        let pairs = &mut self.faces.record.pairs;
        let number = match pairs.iter().position(|pair| pair.group == group && !pair.is_given_up) {
            Some(number) => number,
            None if pairs.len() == PAIRS_MAX => return Ok(()),
            None => {
                pairs.push(Written { group, sent: 0, acknowledged: 0, is_given_up: false });
                pairs.len() - 1
            }
        };
        let written = &mut pairs[number];
        let keys = [half(first, number, 0), half(first, number, 1)];
        let pair = Pair { group, number, acknowledged: written.acknowledged };
        if written.sent > written.acknowledged || self.faces.chance.below(2) == 0 {
            let options = ReadOptions::default().or_wait(ELSEWHERE);
            let many = store.at(options).get_many(&[&keys[0], &keys[1]]);
            self.call_face(user, node, Asked::Both(pair), async { Told::Both(many.await) });
            return Ok(());
        }
        written.sent += 1;
        let sent = written.sent;
        let value = sent.to_le_bytes();
        let changes = keys.each_ref().map(|key| codec::Change::Put { key, value: &value });
        let mut bytes = Vec::new();
        codec::batch(&mut bytes, &changes);
        // One that was refused is sent again.
        held(&self.ledger).may_repeat(group_id(group), hash_of(&bytes));
        let write = store.batch(&changes);
        self.call_face(user, node, Asked::Pair(pair, sent), async { Told::Version(write.await) });
        Ok(())
    }

    pub(super) fn take_pair(
        &mut self,
        user: &mut User,
        pair: Pair,
        number: u64,
        told: Result<Index, StoreError>,
    ) -> Checked {
        let written = &mut self.faces.record.pairs[pair.number];
        match told {
            Ok(version) => {
                self.answered += 1;
                written.acknowledged = number;
                self.note_written(user, pair.group, version, None);
                Ok(())
            }
            Err(error) => {
                match ended(&error) {
                    Ended::Unknown => written.is_given_up = true,
                    _ => written.sent = written.acknowledged,
                }
                self.take_error(user, pair.group, None, &error)
            }
        }
    }

    pub(super) fn take_both(
        &mut self,
        user: &mut User,
        pair: &Pair,
        told: Result<Vec<Served<Option<Found>>>, StoreError>,
    ) -> Checked {
        let both = match told {
            Ok(both) => both,
            Err(error) => return self.take_error(user, pair.group, None, &error),
        };
        self.answered += 1;
        let [one, other] = &both[..] else {
            return Err(Violation::new("an answer is of its call", format!("{pair:?}: {both:?}")));
        };
        let is_one = one == other;
        let number = one.value.as_ref().map_or(0, |found| number_of(&found.value));
        if is_one && number >= pair.acknowledged {
            return Ok(());
        }
        Err(Violation::new("a page is of one moment", format!("{pair:?}: {one:?}, {other:?}")))
    }
}

/// The number that a half of a pair holds.
pub(super) fn number_of(value: &[u8]) -> u64 {
    value.try_into().map_or(u64::MAX, u64::from_le_bytes)
}
