//! Conditions of a lane and its groups that begin and end: examined once a turn, reported by
//! [`crate::events`].
//!
//! Not here: conditions that are reported where they occur and last until the node ends, or have no end
//! (damage, a failed log).

use raftwerk_frame::{GroupId, Time};
use raftwerk_wal::{Disk, GroupSlot};
use rustc_hash::FxHashMap;

use super::Worker;
use crate::events::{Ill, SLOW_SYNC};

/// A larger table is freed when it is empty.
const FEW: usize = 64;

/// The conditions last reported, and the groups that may have to be.
#[derive(Debug, Default)]
pub(super) struct States {
    is_full: bool,
    is_hung: bool,
    lacks_leaders: bool,
    /// Groups without a known leader, since when.
    leaderless: FxHashMap<GroupId, Time>,
    /// When to examine them again, if there are any.
    look_at: Time,
}

impl States {
    pub(super) fn forget(&mut self, group: GroupId) {
        self.leaderless.remove(&group);
        if self.leaderless.is_empty() && self.leaderless.capacity() > FEW {
            self.leaderless = FxHashMap::default(); // at the start all groups are in it
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        if self.leaderless.is_empty() && !self.lacks_leaders { Time::NEVER } else { self.look_at }
    }
}

impl<D: Disk> Worker<D> {
    pub(super) fn report(&self, ill: Ill) {
        self.dispatch.events().tell(self.now, ill);
    }

    pub(super) fn is_over(&self, ill: &Ill) {
        self.dispatch.events().is_over(ill);
    }

    fn tell_whether(&self, is_so: bool, ill: Ill) {
        if is_so { self.report(ill) } else { self.is_over(&ill) }
    }

    /// Reports what has changed. Costs two comparisons if nothing has.
    pub(super) fn tell_states(&mut self) {
        let lane = self.settings.worker;
        let (is_full, is_hung) = (self.is_full, !self.is_poisoned && self.is_stalled());
        if std::mem::replace(&mut self.states.is_full, is_full) != is_full {
            self.tell_whether(is_full, Ill::DiskFull { lane });
        }
        if std::mem::replace(&mut self.states.is_hung, is_hung) != is_hung {
            self.tell_whether(is_hung, Ill::DiskHung { lane });
        }
        if self.now >= self.states.next_deadline() {
            self.look_for_leaders();
        }
    }

    /// A batch has become durable: reports a slow sync.
    pub(super) fn note_sync(&self, since: Time) {
        let took = self.now.since(since);
        if took > SLOW_SYNC {
            self.report(Ill::SlowSync { lane: self.settings.worker, took });
        }
    }

    /// A group's known leader may have changed, or been lost.
    pub(super) fn note_leader(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        if replica.core.leader().is_some() {
            return self.states.forget(replica.id);
        }
        if self.states.leaderless.is_empty() && !self.states.lacks_leaders {
            self.states.look_at = self.now + self.settings.election_timeout;
        }
        self.states.leaderless.entry(replica.id).or_insert(self.now);
    }

    /// Finds the groups that have known of no leader for T. Runs once in T, as long as there are any.
    fn look_for_leaders(&mut self) {
        let (now, patience) = (self.now, self.settings.election_timeout);
        self.states.look_at = now + patience;
        let mut leaderless = std::mem::take(&mut self.states.leaderless);
        // A replica that has yet to be added waits for that, and is dropped from the table until it loses a
        // leader.
        leaderless.retain(|group, _| {
            self.replica(*group).is_some_and(|replica| {
                let (core, me) = (&replica.core, self.settings.node);
                core.configuration().contains(me) && !core.is_removed()
            })
        });
        let long = leaderless.iter().filter(|(_, since)| **since + patience <= now);
        let (groups, first) = (long.clone().count() as u64, long.map(|(group, _)| *group).min());
        (self.states.leaderless, self.states.lacks_leaders) = (leaderless, groups > 0);
        let (lane, group) = (self.settings.worker, first.unwrap_or_default());
        self.tell_whether(groups > 0, Ill::NoLeader { lane, groups, group });
    }
}
