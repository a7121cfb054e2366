//! What is the matter with a lane and its groups: seen here once a turn, and told by [`crate::events`].
//!
//! What is not here: what is noticed where it happens and has no end, or ends with the node (damage, a log that has failed).

use raftwerk_frame::{GroupId, Time};
use raftwerk_wal::{Disk, GroupSlot};
use rustc_hash::FxHashMap;

use super::Worker;
use crate::events::{Ill, SLOW_SYNC};

/// A list of so many is kept for its memory.
const FEW: usize = 64;

/// What was told, and what may have to be.
#[derive(Debug, Default)]
pub(super) struct States {
    is_full: bool,
    is_hung: bool,
    lacks_leaders: bool,
    /// Groups that know of no leader, since when.
    leaderless: FxHashMap<GroupId, Time>,
    /// When to look at them again, if there are any.
    look_at: Time,
}

impl States {
    pub(super) fn forget(&mut self, group: GroupId) {
        self.leaderless.remove(&group);
        if self.leaderless.is_empty() && self.leaderless.capacity() > FEW {
            self.leaderless = FxHashMap::default(); // all began together, once
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

    /// Tells what has changed. Costs two comparisons where nothing has.
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

    /// A batch has become durable.
    pub(super) fn note_sync(&self, since: Time) {
        let took = self.now.since(since);
        if took > SLOW_SYNC {
            self.report(Ill::SlowSync { lane: self.settings.worker, took });
        }
    }

    /// A group may know of another leader than before, or of none.
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

    /// Which groups have known of no leader for T. Looked at once in T, as long as there are any.
    fn look_for_leaders(&mut self) {
        let (now, patience) = (self.now, self.settings.election_timeout);
        self.states.look_at = now + patience;
        let mut leaderless = std::mem::take(&mut self.states.leaderless);
        // One that joins waits for whoever lets it in, and is heard of again when it has had a leader.
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
