//! Deadlines of a worker's groups. One valid entry per group; a deadline that moves later costs nothing until
//! it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use raftwerk_frame::Time;
use raftwerk_wal::GroupSlot;

/// The deadlines of a worker's groups.
///
/// A follower's deadline moves later with every message. Re-sorting then would cost a step per message; so an
/// entry stays where it is, and when it is due, the worker compares it with the group's deadline and adds it
/// again if it was too early.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Time, GroupSlot)>>,
}

impl Timers {
    /// Adds an entry. The caller keeps track of which entry of a group is the valid one.
    pub(crate) fn add(&mut self, at: Time, slot: GroupSlot) {
        self.heap.push(Reverse((at, slot)));
    }

    /// Removes and returns an entry that is due.
    pub(crate) fn due(&mut self, now: Time) -> Option<(Time, GroupSlot)> {
        let Reverse((at, _)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest entry.
    pub(crate) fn next(&self) -> Time {
        self.heap.peek().map_or(Time::NEVER, |Reverse((at, _))| *at)
    }
}
