//! Whether only living nodes get support, and what rests on it: the rules `vouched for`, `leases exclude` and `rest is
//! earned`, after each turn of a worker.
//!
//! Both halves of the first hold whatever the network does. A beat is answered only if it was sent after one of ours that is younger
//! than T, and a promise lasts T: so a supported worker has had a turn within 2 T. And a worker finds out by itself that its disk
//! hangs, and that it is supported no longer; then it leads no group that could not also be led by others.

use raftwerk::GroupId;
use raftwerk::drive::Node;
use smallvec::SmallVec;

use super::World;
use crate::disk::SimDisk;
use crate::node::State;
use crate::watch::{Checked, Violation};

/// Within so many twentieths of T a supported worker has had a turn: 2 T, and what clocks and steps may add.
const ALIVE_WITHIN: u64 = 50;
/// So many T after its disk began to hang, a worker leads no group: a probe comes within 1.5 T and hangs for T, and a leader without
/// messages of a quorum steps down within 2 T.
const HUNG_AND_LEADING: u64 = 6;
/// … and so many times as long where turns take long: what is due comes one by one.
const SLOW_TIMES: u64 = 2;

impl World<'_> {
    pub(super) fn check_vouching(&mut self, at: usize, worker: usize) -> Checked {
        let mut began = SmallVec::<[(GroupId, u64); 4]>::new();
        let mut resting = SmallVec::<[GroupId; 4]>::new();
        let node = &self.nodes[at];
        let Some(body) = node.body.as_ref().filter(|_| node.state == State::Up) else { return Ok(()) };
        if body.load(worker).is_poisoned {
            return Ok(()); // it takes part in nothing any more
        }
        // Others may have promised for longer than this node would.
        let timeout = self.longest_timeout();
        // What a turn leaves over, those that follow tell: until then groups go by what was so before.
        let are_told = !body.has_pending_support_events(worker);
        let still = node.frozen_until.max(node.clock_still_until);
        let begun = node.hangs_since.max(node.opened).max(still).max(node.stuck.1);
        // An answer that comes twice, the second time much later, makes a leader count its follower as alive.
        let is_heard_late = self.plan.net.late_ppm > 0 || self.plan.replaces;
        let is_slow = self.now < node.slow_turns.1 + HUNG_AND_LEADING * timeout;
        let leads_for = if is_slow { SLOW_TIMES * HUNG_AND_LEADING } else { HUNG_AND_LEADING };
        let hangs = !is_heard_late && node.hangs_until > self.now && self.now > begun + leads_for * timeout;
        let leaps = self.clocks_leap;
        for view in body.replicas(worker) {
            for peer in view.core.peers().filter(|peer| view.core.is_supporting(*peer)) {
                let other = &self.nodes[peer.0 as usize - 1];
                let theirs = Node::<SimDisk>::worker_of_many(view.group, other.rounds.len().max(1));
                let turned = other.turned.get(theirs).copied().unwrap_or_default();
                if are_told && !leaps && self.now > turned + timeout * ALIVE_WITHIN / 20 {
                    let what = format!(
                        "n{} supports worker {theirs} of n{}, which has had no turn for {} ms",
                        at + 1,
                        peer.0,
                        (self.now - turned) / 1_000_000
                    );
                    return Err(Violation::new("vouched for", what));
                }
            }
            if view.core.is_leader() && view.core.is_quiescent() {
                let now = (view.core.term().0, view.core.last().index.0);
                if self.rested[at].get(&view.group) != Some(&now) {
                    resting.push(view.group);
                }
            }
            let (term, led) = (view.core.term().0, &self.latest_led[at]);
            if view.core.is_leader() && led.get(&view.group).is_none_or(|led| *led < term) {
                began.push((view.group, term));
            }
            let is_alone = view.core.configuration().voters.len() < 2;
            if hangs && are_told && view.core.is_leader() && !is_alone {
                // Where no segment has room, nothing can be asked of the disk.
                if body.load(worker).lane.ready_segments > 0 {
                    let what = format!(
                        "n{} leads {}, and its disk has done nothing for {} ms",
                        at + 1,
                        view.group,
                        (self.now - begun) / 1_000_000
                    );
                    return Err(Violation::new("vouched for", what));
                }
            }
        }
        for group in resting {
            let rested = self.check_rest(at, group)?;
            self.rested[at].insert(group, rested);
        }
        for (group, term) in began {
            self.latest_led[at].insert(group, term);
            let newest = &mut self.newest_led[group.0 as usize - 1];
            *newest = term.max(*newest);
            self.check_leases(at, group, term)?;
        }
        Ok(())
    }

    /// A leader lets its group rest: whether all nodes that support its node have everything, so that nothing is left to be sent.
    /// Disks that have lost something since are another matter. Gives the leader's term and last index.
    fn check_rest(&self, leader: usize, group: GroupId) -> Result<(u64, u64), Violation> {
        let core_at = |at: usize| {
            let body = self.nodes[at].body.as_ref().filter(|_| self.nodes[at].is_reachable())?;
            body.replicas(body.worker_of(group)).find(|view| view.group == group).map(|view| view.core)
        };
        let Some(core) = core_at(leader) else { return Ok((0, 0)) };
        let last = core.last().index;
        for peer in core.peers().filter(|peer| core.is_supported_by(*peer)) {
            let at = peer.0 as usize - 1;
            let is_whole = !self.nodes[at].is_damaged && self.nodes[at].disks_lost == 0;
            let is_whole = is_whole && !self.was_dropped(at, group);
            let behind =
                core_at(at).map(raftwerk_raft::Group::durable).filter(|durable| is_whole && *durable < last);
            if let Some(durable) = behind {
                let what = format!("n{} lets {group} rest at {last}, and {peer} has {durable}", leader + 1);
                return Err(Violation::new("rest is earned", what));
            }
        }
        Ok((core.term().0, last.0))
    }

    /// A replica has begun to lead a term: whether all leases of earlier ones are over.
    fn check_leases(&self, leader: usize, group: GroupId, term: u64) -> Checked {
        for (at, node) in
            self.nodes.iter().enumerate().filter(|(at, node)| *at != leader && node.is_reachable())
        {
            let Some(body) = &node.body else { continue };
            let view = body.replicas(body.worker_of(group)).find(|view| view.group == group);
            let is_earlier = view.is_some_and(|view| view.core.is_leader() && view.core.term().0 < term);
            let until = body.lease_until(group).filter(|_| is_earlier);
            let now = node.clock.local(self.now).max(node.latest);
            if let Some(until) = until.filter(|until| *until > now) {
                let what = format!(
                    "n{} begins to lead {group} in term {term}, and n{} has a lease of an earlier one for {} µs",
                    leader + 1,
                    at + 1,
                    (until.0 - now.0) / 1_000
                );
                return Err(Violation::new("leases exclude", what));
            }
        }
        Ok(())
    }
}
