//! What the worker does when the memory of its lane gets short (`Config::memory_bytes`).
//!
//! The lane drops its latest batches from memory by itself. Then proposals are `Busy`, appends of leaders are
//! dropped as if the network had lost them, and reading the log for followers that are behind waits until
//! earlier readers release it. Terms, votes and the rest of the protocol go on. The shortage ends as readers
//! release memory, and as groups with a large share of the index are checkpointed, which begins when the
//! index takes up half of the memory.

use std::time::Duration;

use raftwerk_frame::Time;
use raftwerk_wal::{Disk, Frames, GroupSlot};

use crate::node::submission::SUBMISSION_BYTES;
use crate::worker::Worker;
use crate::worker::replication::receive::UNIT_BYTES;
use crate::worker::storage::snapshots::Pressure;

/// How long readers wait before they try again, and how often the index is examined.
const PAUSE: Duration = Duration::from_millis(10);

/// What waits for memory.
#[derive(Debug)]
pub(in crate::worker) struct Shortage {
    /// Groups with followers that need entries which are not in memory.
    waiting: Vec<GroupSlot>,
    readers_at: Time,
    index_at: Time,
}

impl Shortage {
    pub(in crate::worker) const fn none() -> Self {
        Self { waiting: Vec::new(), readers_at: Time::NEVER, index_at: Time(0) }
    }
}

impl<D: Disk> Worker<D> {
    /// Whether memory lacks room for another turn's entries, however far the disk gets.
    pub(in crate::worker) fn is_short_of_memory(&self) -> bool {
        let enough = (SUBMISSION_BYTES + self.settings.payload_bytes_max) as u64;
        self.lane.memory_left() <= enough.max(UNIT_BYTES)
    }

    /// When the worker needs a turn for this.
    pub(in crate::worker) const fn shortage_due(&self) -> Time {
        self.upkeep.shortage.readers_at
    }

    /// Whether a follower must wait for these frames; if so, its group is tried again after `PAUSE`.
    pub(in crate::worker) fn must_wait_for(&mut self, slot: GroupSlot, frames: &Frames) -> bool {
        let is_in_memory =
            |lane: &raftwerk_wal::Lane<D>| frames.iter().all(|frame| lane.is_recent(frame.place));
        if !self.lane.must_readers_wait() || is_in_memory(&self.lane) {
            return false;
        }
        self.upkeep.shortage.waiting.push(slot);
        self.upkeep.shortage.readers_at = self.upkeep.shortage.readers_at.min(self.now + PAUSE);
        true
    }

    /// Lets readers try again, and has the index made smaller.
    pub(in crate::worker) fn relieve_memory(&mut self) {
        if self.upkeep.shortage.readers_at <= self.now {
            self.upkeep.shortage.readers_at = Time::NEVER;
            for slot in std::mem::take(&mut self.upkeep.shortage.waiting) {
                self.groups.touch(slot);
            }
        }
        if self.upkeep.shortage.index_at > self.now {
            return;
        }
        self.upkeep.shortage.index_at = self.now + PAUSE;
        let heavy: Vec<GroupSlot> =
            self.lane.heavy().filter_map(|group| self.groups.slot_of(group)).collect();
        for slot in heavy {
            let _made = self.checkpoint_or_compact(slot, Pressure::High);
        }
    }
}
