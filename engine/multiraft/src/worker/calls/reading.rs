//! The reads of one group that wait: for a read index, for entries, or for a leader.

use std::collections::VecDeque;
use std::time::Duration;

use raftwerk_frame::{Index, Time};
use raftwerk_wal::GroupSlot;

use crate::worker::calls::waiting::{ParkedReads, ReadBatch, Waiting};
use crate::worker::groups::timers::Timers;

/// No timer entry lies further ahead than this, so that reads answered long before their deadlines leave few
/// entries behind.
const AHEAD: Duration = Duration::from_secs(1);

/// A read-index request to the core, and the reads that wait for its answer.
pub(super) struct ReadIndexRequest {
    pub(super) token: u64,
    /// When it was made: the answer covers everything committed before.
    pub(super) at: Time,
    /// The answer: the index to be applied first.
    pub(super) index: Option<Index>,
    pub(super) batch: ReadBatch,
}

/// What a replica knows for its reads.
#[derive(Default)]
pub(in crate::worker) struct Reads {
    /// Reads that wait, if there are any.
    pub(super) reading: Option<Box<Reading>>,
    /// Invariant: everything that was committed anywhere before this time is applied here.
    pub(super) reflects: Option<Time>,
    /// The least staleness bound of the reads since the last read-index request; zero for none.
    pub(super) watched: Duration,
}

impl Reads {
    /// Everything that was committed anywhere before this time is applied here; `None`: unknown.
    pub(in crate::worker) const fn reflects(&self) -> Option<Time> {
        self.reflects
    }

    /// The state is lost: its age is unknown.
    pub(in crate::worker) const fn forget_age(&mut self) {
        self.reflects = None;
    }
}

/// The reads of one group that wait. Present only while there are some.
pub(super) struct Reading {
    /// Reads of this turn for which a read-index request is to be made.
    pub(super) queued: ReadBatch,
    /// A read-index request is due at the end of the turn: for these reads, or to renew the time that the
    /// state reflects.
    pub(super) is_wanted: bool,
    /// Requests to the core, in order.
    pub(super) asked: VecDeque<ReadIndexRequest>,
    /// Reads that wait for entries, or for a leader.
    pub(super) parked: ParkedReads,
    /// How many wait in all of these.
    pub(super) waiting: Waiting,
    /// Deadline of its valid entry in the timers.
    pub(super) due: Time,
    /// The next entry must not be earlier than this.
    pub(super) not_before: Time,
}

impl Reading {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            queued: ReadBatch::default(),
            is_wanted: false,
            asked: VecDeque::new(),
            parked: ParkedReads::default(),
            waiting: Waiting::default(),
            due: Time::NEVER,
            not_before: Time(0),
        })
    }

    /// The core has answered a request. The answer holds for all earlier requests, too.
    pub(super) fn confirm(&mut self, token: u64, index: Index) {
        for asked in self.asked.iter_mut().take_while(|asked| asked.token <= token) {
            asked.index.get_or_insert(index);
        }
    }

    /// No read-index request is outstanding or due.
    pub(super) fn is_quiet(&self) -> bool {
        self.asked.is_empty() && !self.is_wanted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_quiet() && self.queued.is_empty() && self.parked.is_empty()
    }

    /// What it holds, counted anew.
    pub(super) fn held(&self) -> Waiting {
        let mut held = self.parked.held();
        held += self.queued.held();
        self.asked.iter().for_each(|asked| held += asked.batch.held());
        held
    }

    /// The earliest deadline of its reads.
    pub(super) fn first_until(&self) -> Time {
        let asked = self.asked.iter().map(|asked| asked.batch.first_until());
        asked.fold(self.parked.first_until().min(self.queued.first_until()), Time::min)
    }

    /// Keeps its entry in the timers no later than `at`, within the bounds.
    pub(super) fn arm(&mut self, timers: &mut Timers, slot: GroupSlot, now: Time, at: Time) {
        let at = at.min(now + AHEAD).max(self.not_before);
        if at < self.due {
            self.due = at;
            timers.add(at, slot);
        }
    }
}
