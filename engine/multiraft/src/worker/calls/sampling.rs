//! One of the worker's writes is followed from its call to its answer; then another.
//!
//! The inbox stamps a request when it is asked to, and the last proposal of that request is followed. What is
//! not here: what the figures mean ([`crate::WriteStages`]).

use raftwerk_frame::{EntryId, GroupId, Time};
use raftwerk_wal::{Disk, GroupSlot};

use crate::api::stats::stages::StageNanos;
use crate::worker::Worker;
use crate::worker::groups::replica::Replica;

/// How far the followed write is.
#[derive(Clone, Copy, Debug, Default)]
enum Progress {
    /// There is none; the inbox stamps the next request.
    #[default]
    None,
    /// It is the `nth` proposal that is queued beside its group in this turn.
    Queued { called: Called, slot: GroupSlot, group: GroupId, nth: u64 },
    /// It is an entry.
    Appended(Followed),
}

/// When it was called, and when the turn that takes it began.
#[derive(Clone, Copy, Debug)]
struct Called {
    at: Time,
    taken: Time,
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    called: Called,
    slot: GroupSlot,
    group: GroupId,
    id: EntryId,
    handed: Option<Time>,
    durable: Option<Time>,
    committed: Option<Time>,
    applied: Option<Time>,
}

impl Followed {
    /// What its stages took, once it is answered; `None` if it has not passed all of them.
    fn stages(&self, answered: Time) -> Option<StageNanos> {
        let Self { called, handed, durable, committed, applied, .. } = *self;
        let (handed, durable, committed, applied) = (handed?, durable?, committed?, applied?);
        let from = |start: Time, end: Time| end.0.saturating_sub(start.0);
        Some(StageNanos {
            queue: from(called.at, called.taken),
            batch: from(called.taken, handed),
            sync: from(handed, durable),
            replicate: from(handed, committed),
            apply: from(committed, applied),
            reply: from(applied, answered),
            total: from(called.at, answered),
        })
    }
}

/// The write that a worker follows.
#[derive(Debug, Default)]
pub(in crate::worker) struct Sampling {
    progress: Progress,
    /// While a stamped request is taken in: each proposal of it takes the place of the one before.
    choosing: Option<Called>,
}

impl Sampling {
    /// The proposals of a request that was called at `at` are queued next.
    pub(super) const fn begin_choice(&mut self, at: Time, taken: Time) {
        self.choosing = Some(Called { at, taken });
    }

    /// All of them are queued. Whether one of them is followed now.
    pub(super) const fn end_choice(&mut self) -> bool {
        self.choosing = None;
        !matches!(self.progress, Progress::None)
    }

    /// A proposal is queued beside its group, as the `nth` there.
    #[inline]
    pub(super) const fn note_queued(&mut self, slot: GroupSlot, group: GroupId, nth: usize) {
        if let Some(called) = self.choosing {
            self.progress = Progress::Queued { called, slot, group, nth: nth as u64 };
        }
    }

    /// The queued proposals of a group are entries now, from `first` on.
    pub(in crate::worker) fn note_appended(&mut self, of: GroupSlot, first: EntryId) {
        if let Progress::Queued { called, slot, group, nth } = self.progress
            && slot == of
        {
            let id = EntryId::new(first.term, first.index.plus(nth));
            let (handed, durable, committed, applied) = (None, None, None, None);
            self.progress =
                Progress::Appended(Followed { called, slot, group, id, handed, durable, committed, applied });
        }
    }
}

impl<D: Disk> Worker<D> {
    /// The time now, where the node has a clock; otherwise that of the turn.
    fn clock(&self) -> Time {
        self.env.clock.map_or(self.now, crate::node::threads::Clock::now)
    }

    /// A batch was handed to the disk.
    pub(in crate::worker) fn note_sample_handed(&mut self) {
        let now = self.clock();
        if let Progress::Appended(followed) = &mut self.calls.sampling.progress {
            followed.handed.get_or_insert(now);
        }
    }

    /// Notes what the followed write has reached. Called where it may have reached something.
    pub(in crate::worker) fn follow_sample(&mut self) {
        let Progress::Appended(mut followed) = self.calls.sampling.progress else { return };
        let now = self.clock();
        let (slot, EntryId { term, index }) = (followed.slot, followed.id);
        // Where it does not lead in that term any more, another leader's entry may get the index.
        let leads = |replica: &&Replica| {
            replica.id == followed.group && replica.core.is_leader() && replica.core.term() == term
        };
        let replica = self.groups.get(slot).filter(leads);
        let Some(replica) = replica else { return self.next_sample() };
        if replica.core.durable() >= index {
            followed.durable.get_or_insert(now);
        }
        if replica.core.commit() >= index {
            followed.committed.get_or_insert(now);
        }
        if replica.applied >= index {
            followed.applied.get_or_insert(now);
        }
        self.calls.sampling.progress = Progress::Appended(followed);
    }

    /// The turn's answers are handed over: the followed write may be among them.
    pub(in crate::worker) fn end_sample(&mut self) {
        match self.calls.sampling.progress {
            Progress::None => {}
            // Its turn did not make it an entry: it was refused.
            Progress::Queued { .. } => self.next_sample(),
            Progress::Appended(followed) => {
                if let Some(stages) = followed.stages(self.clock()) {
                    self.env.metrics.stages().record(stages);
                    self.next_sample();
                }
            }
        }
    }

    fn next_sample(&mut self) {
        self.calls.sampling.progress = Progress::None;
        self.env.inbox.stamp_next();
    }
}
