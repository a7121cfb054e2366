//! Conditions of a lane and its groups that begin and end: examined once a turn, reported by
//! [`crate::node::events`].
//!
//! Not here: conditions that are reported where they occur and last until the node ends, or have no end
//! (damage, a failed log).

use raftwerk_frame::{GroupId, Time};
use raftwerk_wal::{Disk, GroupSlot};
use rustc_hash::FxHashMap;

use crate::node::events::{Condition, SLOW_SYNC};
use crate::worker::Worker;

/// A larger table is freed when it is empty.
const FEW: usize = 64;

/// The conditions last reported, and the groups that may have to be.
#[derive(Debug, Default)]
pub(in crate::worker) struct LaneConditions {
    is_full: bool,
    is_hung: bool,
    lacks_leaders: bool,
    /// Groups without a known leader, since when.
    leaderless: FxHashMap<GroupId, Time>,
    /// When to examine them again, if there are any.
    look_at: Time,
}

/// What becomes of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Begins,
    Ends,
}

impl LaneConditions {
    pub(in crate::worker) fn forget(&mut self, group: GroupId) {
        self.leaderless.remove(&group);
        if self.leaderless.is_empty() && self.leaderless.capacity() > FEW {
            self.leaderless = FxHashMap::default(); // at the start all groups are in it
        }
    }

    pub(in crate::worker) fn next_deadline(&self) -> Time {
        if self.leaderless.is_empty() && !self.lacks_leaders { Time::NEVER } else { self.look_at }
    }
}

impl<D: Disk> Worker<D> {
    pub(in crate::worker) fn report(&self, condition: Condition) {
        self.env.dispatch.events().report(self.now, condition);
    }

    pub(in crate::worker) fn resolve(&self, condition: &Condition) {
        self.env.dispatch.events().resolve(condition);
    }

    fn set_condition(&self, change: Change, condition: Condition) {
        match change {
            Change::Begins => self.report(condition),
            Change::Ends => self.resolve(&condition),
        }
    }

    /// Reports what has changed. Costs two comparisons if nothing has.
    pub(in crate::worker) fn report_conditions(&mut self) {
        let lane = self.settings.worker;
        let (is_full, is_hung) = (self.upkeep.is_full(), !self.is_poisoned && self.is_stalled());
        if std::mem::replace(&mut self.groups.conditions.is_full, is_full) != is_full {
            let change = if is_full { Change::Begins } else { Change::Ends };
            self.set_condition(change, Condition::DiskFull { lane });
        }
        if std::mem::replace(&mut self.groups.conditions.is_hung, is_hung) != is_hung {
            let change = if is_hung { Change::Begins } else { Change::Ends };
            self.set_condition(change, Condition::DiskHung { lane });
        }
        if self.now >= self.groups.conditions.next_deadline() {
            self.look_for_leaders();
        }
    }

    /// A batch has become durable: reports a slow sync.
    pub(in crate::worker) fn note_sync(&self, since: Time) {
        let took = self.now.since(since);
        if took > SLOW_SYNC {
            self.report(Condition::SlowSync { lane: self.settings.worker, took });
        }
    }

    /// A group's known leader may have changed, or been lost.
    pub(in crate::worker) fn note_leader(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get(slot) else { return };
        let (group, leader) = (replica.id, replica.core.leader());
        if leader.is_some() {
            return self.groups.conditions.forget(group);
        }
        if self.groups.conditions.leaderless.is_empty() && !self.groups.conditions.lacks_leaders {
            self.groups.conditions.look_at = self.now + self.settings.election_timeout;
        }
        self.groups.conditions.leaderless.entry(group).or_insert(self.now);
    }

    /// Finds the groups that have known of no leader for T. Runs once in T, as long as there are any.
    fn look_for_leaders(&mut self) {
        let (now, patience) = (self.now, self.settings.election_timeout);
        self.groups.conditions.look_at = now + patience;
        let mut leaderless = std::mem::take(&mut self.groups.conditions.leaderless);
        // A replica that has yet to be added waits for that, and is dropped from the table until it loses a
        // leader.
        leaderless.retain(|group, _| {
            self.groups.find(*group).is_some_and(|replica| {
                let (core, me) = (&replica.core, self.settings.node);
                core.configuration().contains(me) && !core.is_removed()
            })
        });
        let long = leaderless.iter().filter(|(_, since)| **since + patience <= now);
        let (groups, first) = (long.clone().count() as u64, long.map(|(group, _)| *group).min());
        (self.groups.conditions.leaderless, self.groups.conditions.lacks_leaders) = (leaderless, groups > 0);
        let (lane, group) = (self.settings.worker, first.unwrap_or_default());
        let change = if groups > 0 { Change::Begins } else { Change::Ends };
        self.set_condition(change, Condition::NoLeader { lane, groups, group });
    }
}
