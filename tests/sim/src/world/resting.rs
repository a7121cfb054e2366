//! A group at rest loses its leader's replica, when nothing else goes wrong any more.
//!
//! Its followers expect nothing of a leader that lets them rest, and their nodes go on supporting its node for the sake of other groups.
//! So a message of the replica that goes, or its node's answer to a query for it, is all that wakes them. During the faults something
//! else does sooner or later: a connection that breaks, a node that stands still. So it is tried in the end, where groups are several.
//! Nothing but reads at followers is asked for, and the group has to commit something within the time that it has after faults; then
//! the operator makes good, as ever (`slipping`).
//!
//! What is not here: groups at rest with learners that were out of reach (`reaching`).

use raftwerk::GroupId;

use super::{World, group_id};
use crate::watch::Checked;

/// How many election timeouts (the longest that is drawn, 2 T) a group has to go to rest.
const TIMEOUTS_TO_REST: u64 = 20;
/// How often the world looks whether one does.
const EVERY: u64 = 200_000_000;

impl World<'_> {
    /// In every second run in which replicas are dropped by mistake, and there are several groups.
    pub(super) fn lose_resting_leader(&mut self) -> Checked {
        if !self.plan.drops_at_rest || self.plan.groups < 2 || self.subject.noise(0).is_none() {
            return Ok(());
        }
        let timeout = 2 * self.longest_timeout();
        let until = self.now + TIMEOUTS_TO_REST * timeout;
        let mut found = self.resting_leader();
        while found.is_none() && self.now < until {
            self.run_until(self.now + EVERY, |_| false)?;
            found = self.resting_leader();
        }
        let Some((leader, group)) = found else { return Ok(()) };
        self.drop_by_mistake(leader, group, self.now);
        let place = group.0 as usize - 1;
        // It is gone when the log has that durably.
        self.run_until(self.now + timeout, |_| false)?;
        self.ask_to_go_on(place, timeout)?;
        self.progress(place..place + 1)?;
        self.make_good()?;
        self.converge()
    }

    /// A leader that rests with all that follow it, in a group that can do without it.
    fn resting_leader(&self) -> Option<(usize, GroupId)> {
        let mut groups = (0..self.plan.groups).map(group_id);
        groups.find_map(|group| {
            let leader = self.leading(group)?;
            let rests = |at: usize| {
                let body = self.nodes[at].body.as_ref();
                body.is_some_and(|body| {
                    let mut views = body.replicas(body.worker_of(group));
                    views.any(|view| view.group == group && view.core.is_quiescent())
                })
            };
            let all_rest = || self.members(group.0 as usize - 1).into_iter().all(rests);
            (self.can_drop(leader, group) && all_rest()).then_some((leader, group))
        })
    }
}
