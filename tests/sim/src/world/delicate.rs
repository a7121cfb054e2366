//! Crashes and refused calls at the worst moments: in the middle of a job of the disk that is half done, and right
//! after a log has begun anew.
//!
//! A crash at a random call hardly ever comes between the two calls that matter. What is drawn here has streams of its own, and most
//! of it in every second run only, so that the others live as they did without. What is not here: what strikes at moments drawn
//! ahead (`faults`), and what must not come of it (`watch`).

use super::{Event, World};
use crate::disk::{Queue, Renamed, SimDisk, held};

/// So many times that a segment's file is used again, its machine stops in the middle of that once.
const CUT_OFF_ONE_IN: u64 = 100;
/// So many times, its name is refused to be made durable, once; and then its machine stops, every second time, when that is tried again.
const NAME_REFUSED_ONE_IN: u64 = 8;
/// The same of checkpoints that are about to be named: but only the process dies, or the machine with it.
const CHECKPOINT_ONE_IN: u64 = 40;
/// Calls that such a job makes, about.
const CHECKPOINT_CALLS: u64 = 10;
/// So many segments that are to go stay once, since the device refuses.
const STAYS_ONE_IN: u64 = 6;
/// So many nodes die once a snapshot's record is on their disk, before anything that follows it is.
const BEGINS_ANEW_ONE_IN: u64 = 4;
/// A new log's manifest is written and named by so many calls.
const MANIFEST_CALLS: u64 = 5;

impl World<'_> {
    /// Before a job of the disk: whether the machine is to stop in the middle of it. A process alone may die there, too.
    pub(super) fn spare_nothing(&mut self, at: usize, queue: Queue, disk: &SimDisk) -> bool {
        if !self.plan.crashes || self.is_ending {
            return false;
        }
        // A file that begins another life may be cut off from it: what it was is gone, and what it is has no name yet.
        let is_reused = queue == Queue::Segments && disk.reuses_next();
        if is_reused && self.chances.segments.below(CUT_OFF_ONE_IN) == 0 {
            held(&self.nodes[at].mishaps).crash_after = Some(self.chances.segments.below(4));
            return true;
        }
        // As far as its directory shows, it may have either name, or be both at a time.
        let is_in_doubt = is_reused && std::mem::take(&mut self.nodes[at].has_refused_name);
        if is_in_doubt && self.chances.names.below(2) == 0 {
            held(&self.nodes[at].mishaps).crash_after = Some(self.chances.names.below(5));
            return true;
        }
        // A checkpoint that is whole and has no name, or has one that is not durable; the one before is there still.
        let is_named = queue == Queue::Snapshots && self.plan.is_delicate && disk.names_next();
        if is_named && self.chances.delicate.below(CHECKPOINT_ONE_IN) == 0 {
            let calls = self.chances.delicate.below(CHECKPOINT_CALLS);
            held(&self.nodes[at].mishaps).crash_after = Some(calls);
        }
        false
    }

    /// A job on segments or snapshot files is done; or refused, where it would free a segment.
    pub(super) fn run_background(&mut self, at: usize, queue: Queue, disk: &SimDisk) {
        let may_refuse =
            queue == Queue::Segments && self.plan.is_delicate && self.plan.fails && !self.is_ending;
        if may_refuse && disk.reuses_next() && self.chances.names.below(NAME_REFUSED_ONE_IN) == 0 {
            held(&self.nodes[at].mishaps).refuses_names = Some(Renamed::NotYet);
            disk.run_background(queue);
            // It was, unless something else went wrong before.
            let left = held(&self.nodes[at].mishaps).refuses_names.take();
            self.nodes[at].has_refused_name = left.is_none();
            return;
        }
        let is_refused = may_refuse && disk.retires_next() && self.chances.delicate.below(STAYS_ONE_IN) == 0;
        if !is_refused {
            return disk.run_background(queue);
        }
        let before = std::mem::replace(&mut held(&self.nodes[at].mishaps).failing_writes, 1);
        disk.run_background(queue);
        held(&self.nodes[at].mishaps).failing_writes = before;
    }

    /// After how many calls a node dies that is about to start: one with an empty disk often before its manifest is durable.
    pub(super) const fn calls_of_a_start(&self, life: u32, calls: u64) -> u64 {
        if life == 0 && self.plan.is_delicate { calls % MANIFEST_CALLS } else { calls }
    }

    /// The record of a snapshot has become durable: what the log held before is gone, and what follows is not there yet.
    pub(super) fn mind_beginning(&mut self, at: usize) {
        if !self.plan.crashes || !self.plan.is_delicate || self.is_ending {
            return;
        }
        if self.chances.delicate.below(BEGINS_ANEW_ONE_IN) == 0 {
            let (life, power) = (self.nodes[at].life, self.chances.delicate.below(2) == 0);
            self.at(self.now + 1, Event::Doom { node: at as u16, life, power });
        }
    }

    /// A node with a log that has just begun anew may die before anything follows in it.
    pub(super) fn mind_install(&mut self, at: usize) {
        if !self.plan.crashes {
            return;
        }
        let node = &mut self.nodes[at];
        let installs = node.body.as_ref().map_or(0, |body| body.stats().installs);
        let is_news = installs > std::mem::replace(&mut node.installs, installs);
        if is_news && !self.is_ending && self.chances.faults.below(4) == 0 {
            let (life, power) = (node.life, self.chances.faults.below(2) == 0);
            let soon = self.now + self.chances.faults.below(4 * self.plan.disk.sync);
            self.at(soon, Event::Doom { node: at as u16, life, power });
        }
    }
}
