//! What was acknowledged, and whether every replica has it.
//!
//! A [`Subject`] is the state machine under test seen from the client: it builds payloads and queries, remembers each
//! outcome, and afterwards compares replicas with what it remembers. Two kinds: [`kv`] and [`hash`].

pub mod hash;
pub mod kv;
pub mod subset;
pub mod sums;

use bytes::Bytes;
use raftwerk::EntryId;

use crate::workload::KeyNumber;

pub use hash::HashSubject;
pub use kv::KvSubject;

/// The state machine that a cluster runs, as the command line knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MachineKind {
    /// The store's own ordered map; a proposal is a put.
    Kv,
    /// Opaque bytes folded into a hash per group: what engines are compared by.
    Hash,
}

impl MachineKind {
    /// Its name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Hash => "hash",
        }
    }

    /// The shortest payload that can be unique.
    #[must_use]
    pub const fn payload_bytes_min(self) -> usize {
        match self {
            Self::Kv => kv::PAYLOAD_BYTES_MIN,
            Self::Hash => hash::PAYLOAD_BYTES_MIN,
        }
    }
}

/// One write, from its first attempt to its outcome. Counters are unique in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// The group it goes to, counted from 0.
    pub group: u32,
    /// The key it writes.
    pub key: KeyNumber,
    /// What makes it different from every other write.
    pub counter: u64,
}

/// Asks one replica's state machine as it is: group (from 0) and query to answer.
pub type Ask<'a> = dyn FnMut(u32, &[u8]) -> Result<Bytes, String> + 'a;

/// What comparing a replica with the ledger found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged writes that the replica does not have, or has changed. For `hash`: at least so many.
    pub lost: u64,
    /// Why the replica could not be judged; empty if it could.
    pub undecided: Vec<String>,
}

/// The state machine under test, from the client's side.
pub enum Subject {
    /// Puts into a map.
    Kv(KvSubject),
    /// Bytes into a hash.
    Hash(HashSubject),
}

impl Subject {
    /// The subject for `groups` groups, `keys` keys and payloads of exactly `payload_bytes`, at least
    /// [`MachineKind::payload_bytes_min`].
    #[must_use]
    pub fn new(kind: MachineKind, groups: u32, keys: u32, payload_bytes: usize) -> Self {
        assert!(payload_bytes >= kind.payload_bytes_min(), "the command line has checked the payload's size");
        match kind {
            MachineKind::Kv => Self::Kv(KvSubject::new(groups, keys, payload_bytes)),
            MachineKind::Hash => Self::Hash(HashSubject::new(groups, payload_bytes)),
        }
    }

    /// The group, counted from 0, that a key lives in.
    #[inline]
    #[must_use]
    pub fn group_of(&self, key: KeyNumber) -> u32 {
        match self {
            Self::Kv(kv) => kv.group_of(key),
            Self::Hash(hash) => hash.group_of(key),
        }
    }

    /// The payload of a write; the same bytes each time it is asked for.
    #[inline]
    pub fn payload(&mut self, write: &Write) -> &[u8] {
        match self {
            Self::Kv(kv) => kv.payload(write),
            Self::Hash(hash) => hash.payload(write),
        }
    }

    /// The query that reads a key.
    #[inline]
    pub fn query(&mut self, key: KeyNumber) -> &[u8] {
        match self {
            Self::Kv(kv) => kv.query(key),
            Self::Hash(_) => hash::COUNT_QUERY,
        }
    }

    /// What a read that starts now must at least see; give it to [`Subject::is_fresh`] with the answer.
    #[inline]
    #[must_use]
    pub fn floor(&self, group: u32, key: KeyNumber) -> u64 {
        match self {
            Self::Kv(kv) => kv.floor(key),
            Self::Hash(hash) => hash.floor(group),
        }
    }

    /// Whether an answer reflects everything that was acknowledged when the read started.
    #[inline]
    #[must_use]
    pub fn is_fresh(&self, answer: &Bytes, floor: u64) -> bool {
        match self {
            Self::Kv(_) => kv::version_of(answer).is_some_and(|version| version >= floor),
            Self::Hash(_) => hash::count_of(answer).is_some_and(|count| count >= floor),
        }
    }

    /// Notes that a write was acknowledged as the entry `id`.
    #[inline]
    pub fn acknowledged(&mut self, write: &Write, id: EntryId) {
        match self {
            Self::Kv(kv) => kv.acknowledged(write, id),
            Self::Hash(hash) => hash.acknowledged(write),
        }
    }

    /// Notes that a write may or may not have been applied, now or later.
    pub fn unknown(&mut self, write: &Write) {
        match self {
            Self::Kv(kv) => kv.unknown(write),
            Self::Hash(hash) => hash.unknown(write),
        }
    }

    /// Compares a replica that has applied everything with what was acknowledged.
    ///
    /// # Errors
    /// An error of `ask`, or an answer that makes no sense.
    pub fn verify(&mut self, ask: &mut Ask<'_>) -> Result<Verdict, String> {
        match self {
            Self::Kv(kv) => kv.verify(ask),
            Self::Hash(hash) => hash.verify(ask),
        }
    }
}
