//! What one replica has written and what of it would survive a crash: a log modelled entry by entry. No file,
//! and no bytes: an entry is a term and a number in place of its payload. Next: `cluster`, which uses it.

use std::collections::VecDeque;

use raftwerk_frame::{EntryId, HardState, Index, Run, Term};
use raftwerk_raft::{Origin, TermRun};

/// Payloads from here on represent configurations.
pub(crate) const MEMBERSHIPS: u64 = 1 << 60;

/// The payload of an entry without payload, as a witness holds it.
pub(crate) const WITHHELD: u64 = 0;

/// One entry; its payload is a number that no other entry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: Term,
    pub(crate) payload: u64,
}

impl Entry {
    pub(crate) const fn is_membership(self) -> bool {
        self.payload >= MEMBERSHIPS
    }

    /// As a witness receives it: with the payload only if it is a configuration.
    pub(crate) const fn withheld(self) -> Self {
        if self.is_membership() { self } else { Self { payload: WITHHELD, ..self } }
    }
}

/// A state machine's checkpoint: the last applied entry, and the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) id: EntryId,
    pub(crate) state: u64,
    /// The payload that represents the configuration there; 0 for an empty one.
    pub(crate) membership: u64,
}

/// The whole durable state of one replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) origin: Origin,
    pub(crate) hard_state: HardState,
    pub(crate) compacted: EntryId,
    /// The first of them is just after `compacted`.
    pub(crate) entries: Vec<Entry>,
    pub(crate) checkpoint: Checkpoint,
    /// As in [`Checkpoint`], at `compacted`.
    pub(crate) membership: u64,
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    HardState(HardState),
    /// Replaces everything from `from` on.
    Entries {
        from: Index,
        entries: Vec<Entry>,
    },
    Install {
        snapshot: Checkpoint,
        keep_tail: bool,
    },
    Checkpoint(Checkpoint),
    Compact(Index),
    /// The log begins in the configuration that this payload represents.
    InitialConfiguration(u64),
}

impl Image {
    pub(crate) fn last(&self) -> EntryId {
        let term = self.entries.last().map_or(self.compacted.term, |entry| entry.term);
        EntryId::new(term, self.compacted.index.plus(self.entries.len() as u64))
    }

    pub(crate) fn entry(&self, index: Index) -> Option<Entry> {
        let at = index.0.checked_sub(self.compacted.index.0 + 1)?;
        self.entries.get(at as usize).copied()
    }

    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.compacted.index {
            Some(self.compacted.term)
        } else {
            self.entry(index).map(|entry| entry.term)
        }
    }

    /// Whether the entry, or a snapshot that covers it, is here.
    pub(crate) fn covers(&self, id: EntryId) -> bool {
        id.index < self.compacted.index || self.term_at(id.index) == Some(id.term)
    }

    pub(crate) fn term_runs(&self) -> Vec<TermRun> {
        let mut runs: Vec<TermRun> = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            if runs.last().is_none_or(|run| run.term != entry.term) {
                runs.push(TermRun { term: entry.term, first: self.compacted.index.plus(at as u64 + 1) });
            }
        }
        runs
    }

    /// Every configuration among the entries, and its index.
    pub(crate) fn memberships(&self) -> impl DoubleEndedIterator<Item = (Index, u64)> + '_ {
        let found = self.entries.iter().enumerate().filter(|(_, entry)| entry.is_membership());
        found.map(|(at, entry)| (self.compacted.index.plus(at as u64 + 1), entry.payload))
    }

    /// The payload that represents the configuration in force at `index`.
    pub(crate) fn membership_up_to(&self, index: Index) -> u64 {
        let found = self.memberships().rfind(|(at, _)| *at <= index);
        found.map_or(self.membership, |(_, payload)| payload)
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::HardState(hard_state) => self.hard_state = *hard_state,
            Write::Entries { from, entries } => {
                let keep = from
                    .0
                    .checked_sub(self.compacted.index.0 + 1)
                    .expect("compacted entries are not rewritten");
                assert!(keep as usize <= self.entries.len(), "a write leaves no gap");
                self.entries.truncate(keep as usize);
                self.entries.extend_from_slice(entries);
            }
            Write::Install { snapshot, keep_tail } => {
                if *keep_tail {
                    self.compact(snapshot.id.index);
                } else {
                    self.entries.clear();
                    self.compacted = snapshot.id;
                }
                self.membership = snapshot.membership;
                assert_eq!(self.compacted, snapshot.id);
                self.checkpoint = *snapshot;
            }
            Write::Checkpoint(checkpoint) => self.checkpoint = *checkpoint,
            Write::Compact(to) => self.compact(*to),
            Write::InitialConfiguration(membership) => self.membership = *membership,
        }
    }

    fn compact(&mut self, to: Index) {
        let term = self.term_at(to).expect("what is compacted is held");
        self.membership = self.membership_up_to(to);
        self.entries.drain(..(to.0 - self.compacted.index.0) as usize);
        self.compacted = EntryId::new(term, to);
    }
}

/// What was written, in order, and how much of it is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) durable: Image,
    pub(crate) written: Image,
    pending: VecDeque<Write>,
    synced: u64,
    hard_state_at: u64,
}

impl Disk {
    pub(crate) fn new(image: Image) -> Self {
        Self { durable: image.clone(), written: image, ..Self::default() }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.written.apply(&write);
        self.pending.push_back(write);
        if matches!(self.pending.back(), Some(Write::HardState(_))) {
            self.hard_state_at = self.position();
        }
    }

    /// The number of writes so far.
    pub(crate) fn position(&self) -> u64 {
        self.synced + self.pending.len() as u64
    }

    /// The number of writes that are durable.
    pub(crate) const fn synced(&self) -> u64 {
        self.synced
    }

    /// The position after the last write of a hard state.
    pub(crate) const fn hard_state_at(&self) -> u64 {
        self.hard_state_at
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes the next `count` writes durable; returns the last entry among them, as it was written.
    pub(crate) fn sync(&mut self, count: usize) -> Option<EntryId> {
        let mut last = None;
        for write in self.pending.drain(..count) {
            self.durable.apply(&write);
            self.synced += 1;
            if let Write::Entries { from, entries } = &write {
                let term = entries.last().expect("a write of entries has some").term;
                last = Some(EntryId::new(term, from.plus(entries.len() as u64 - 1)));
            }
        }
        last
    }

    /// Drops what was not durable.
    pub(crate) fn crash(&mut self) {
        self.pending.clear();
        self.written = self.durable.clone();
        self.hard_state_at = self.synced;
    }
}

/// The runs that the core receives of entries.
pub(crate) fn runs_of(entries: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.term == entry.term => run.count += 1,
            _ => runs.push(Run { term: entry.term, count: 1 }),
        }
    }
    runs
}
