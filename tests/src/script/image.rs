//! A replica's disk: what a sequence of writes amounts to.

use raftwerk_frame::{Configuration, EntryId, HardState, Index, Membership, Run};
use raftwerk_raft::{Restored, TermRun};

/// An entry as logs and the wire hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// `None` is the no-op that opens a leader's term.
    pub(crate) payload: Option<String>,
    /// Of an entry that has no payload and is no no-op.
    pub(crate) configuration: Option<Configuration>,
    /// What it says is not here: as witnesses have entries, all but configurations.
    pub(crate) is_withheld: bool,
}

impl Entry {
    pub(crate) const fn with_payload(id: EntryId, payload: Option<String>) -> Self {
        Self { id, payload, configuration: None, is_withheld: false }
    }

    /// As a witness gets it.
    pub(crate) fn withheld(self) -> Self {
        match self.configuration {
            Some(_) => self,
            None => Self { is_withheld: true, ..Self::with_payload(self.id, None) },
        }
    }
}

/// The configurations among entries.
pub(crate) fn memberships(entries: &[Entry]) -> Vec<Membership> {
    let membership = |entry: &Entry| {
        let configuration = entry.configuration.clone()?;
        Some(Membership { index: entry.id.index, configuration })
    };
    entries.iter().filter_map(membership).collect()
}

/// What a state machine holds: the entries it was given.
pub(crate) type State = Vec<Entry>;

/// A whole state at a point in the log, as a checkpoint or on its way to another replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) id: EntryId,
    pub(crate) configuration: Configuration,
    pub(crate) state: State,
}

/// One write to the log.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    HardState(HardState),
    /// Replaces everything from the first one on.
    Entries(Vec<Entry>),
    /// The log begins after the checkpoint; what follows it stays.
    Compact(Checkpoint),
    /// The log begins after the checkpoint, and is empty.
    Restart(Checkpoint),
}

/// What some writes amount to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) hard_state: HardState,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) log: Vec<Entry>,
}

impl Image {
    pub(crate) fn write(&mut self, write: &Write) {
        match write {
            Write::HardState(hard_state) => self.hard_state = *hard_state,
            Write::Entries(entries) => {
                let Some(first) = entries.first() else { return };
                self.log.retain(|entry| entry.id.index < first.id.index);
                let end = self.last().index;
                assert_eq!(end.next(), first.id.index, "a log has no holes");
                self.log.extend_from_slice(entries);
            }
            Write::Compact(checkpoint) => {
                self.log.retain(|entry| entry.id.index > checkpoint.id.index);
                self.checkpoint = checkpoint.clone();
            }
            Write::Restart(checkpoint) => {
                self.log.clear();
                self.checkpoint = checkpoint.clone();
            }
        }
    }

    /// The last entry, or the one at which the log begins.
    pub(crate) fn last(&self) -> EntryId {
        self.log.last().map_or(self.checkpoint.id, |entry| entry.id)
    }

    /// The entries from `first` to `last`, as far as they are there.
    pub(crate) fn between(&self, first: Index, last: Index) -> impl Iterator<Item = &Entry> {
        self.log.iter().filter(move |entry| (first..=last).contains(&entry.id.index))
    }

    /// What a replica is told when it starts from this.
    pub(crate) fn restored(&self, is_witness: bool) -> Restored {
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &self.log {
            if runs.last().is_none_or(|run| run.term != entry.id.term) {
                runs.push(TermRun { term: entry.id.term, first: entry.id.index });
            }
        }
        Restored {
            origin: Default::default(),
            is_witness,
            hard_state: self.hard_state,
            compacted: self.checkpoint.id,
            configuration: self.checkpoint.configuration.clone(),
            runs,
            last: self.last().index,
            applied: self.checkpoint.id.index,
        }
    }
}

/// What the core is told of entries.
pub(crate) fn runs(entries: &[Entry]) -> Vec<Run> {
    let same_term = |one: &Entry, other: &Entry| one.id.term == other.id.term;
    entries
        .chunk_by(same_term)
        .map(|chunk| Run { term: chunk[0].id.term, count: chunk.len() as u64 })
        .collect()
}
