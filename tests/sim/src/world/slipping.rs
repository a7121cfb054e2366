//! An operator's slip: a replica is dropped that is a member of its group, or leads it; and the way back.
//!
//! The rest of the group has to go on: one replica is gone, as if its disk had been lost, but for what it had promised. The
//! operator finds out, has it removed, and has its node join again; until then the node has nothing of the group. So it befalls a
//! group that can do without that replica, one at a time; and the end of the run waits until all is as it was. Groups at rest, and
//! their leaders, are dropped most often: no node gets a notice, and none asks.
//!
//! What is not here: replicas that are dropped because they were removed (`operator`), and the same once the faults have ended
//! (`resting`).

use raftwerk::{Admission, Change, GroupId, Reconfiguration};
use raftwerk_raft::reconfig;

use super::asides::Aside;
use super::{World, group_id, node_id};
use crate::fault::Strike;
use crate::node::State;
use crate::watch::{Checked, Violation};

/// How often the operator looks, and how long all may take once the faults have ended.
const EVERY: u64 = 200_000_000;
const TO_MAKE_GOOD: u64 = 120_000_000_000;

/// A replica that was dropped by mistake.
pub(super) struct Slip {
    pub(super) group: GroupId,
    pub(super) node: usize,
    /// The group knows that it is gone.
    pub(super) is_out: bool,
    /// It comes back as what it was: with a vote, or without.
    had_vote: bool,
    /// The operator does not look before then.
    after: u64,
}

impl World<'_> {
    pub(super) fn slip(&mut self, strike: &Strike) {
        if self.asides.slip.is_some() || self.asides.shrinking.is_some() || self.is_ending {
            return;
        }
        let fit: Vec<(usize, GroupId)> = (0..self.plan.groups)
            .map(group_id)
            .flat_map(|group| (0..self.nodes.len()).map(move |at| (at, group)))
            .filter(|(at, group)| self.can_drop(*at, *group))
            .collect();
        let is_quiescent = |at: usize, group: GroupId| {
            let body = self.nodes[at].body.as_ref();
            body.is_some_and(|body| {
                let mut views = body.replicas(body.worker_of(group));
                views.any(|view| view.group == group && view.core.is_leader() && view.core.is_quiescent())
            })
        };
        let resting: Vec<(usize, GroupId)> =
            fit.iter().copied().filter(|(at, group)| is_quiescent(*at, *group)).collect();
        let leading: Vec<(usize, GroupId)> =
            fit.iter().copied().filter(|(at, group)| self.leading(*group) == Some(*at)).collect();
        let wanted = [resting, leading, fit].into_iter().skip((strike.salt % 3) as usize);
        let Some(chosen) = wanted.into_iter().find(|some| !some.is_empty()) else { return };
        let (node, group) = chosen[(strike.salt >> 8) as usize % chosen.len()];
        self.drop_by_mistake(node, group, self.now + (strike.salt >> 16) % 4_000_000_000);
    }

    /// A node's replica is dropped. The operator does not look before `after`.
    pub(super) fn drop_by_mistake(&mut self, node: usize, group: GroupId, after: u64) {
        let had_vote = self.led_by(group).is_none_or(|(_, now, _)| now.is_voter(node_id(node)));
        let Some(body) = &self.nodes[node].body else { return };
        let removal = body.remove_group(group);
        self.nodes[node].leaving.push((group, removal));
        self.say(|| format!("n{}  drops {group} by mistake", node + 1));
        self.asides.slip = Some(Slip { group, node, is_out: false, had_vote, after });
        self.answer_bells(node);
        self.aside(self.now + EVERY, Aside::Slip);
    }

    /// Whether a group can do without a member's replica, whatever is known where.
    pub(super) fn can_drop(&self, at: usize, group: GroupId) -> bool {
        let id = node_id(at);
        let mut is_here = false;
        let can = (0..self.nodes.len()).all(|other| {
            let node = &self.nodes[other];
            let is_ready = node.state == State::Up && !node.is_fenced && !self.is_busy_with(other);
            let Some(body) = node.body.as_ref().filter(|_| is_ready) else { return false };
            let Some(view) = body.replicas(body.worker_of(group)).find(|view| view.group == group) else {
                return true;
            };
            let (core, now) = (view.core, view.core.configuration());
            is_here |= other == at && now.contains(id) && !core.is_removed();
            let committed = core.configuration_up_to(core.commit()).map(|(_, committed)| committed);
            let is_settled = committed == Some(now) && now.outgoing.is_empty();
            let is_spare = !now.voters.contains(&id) || now.voters.len() > 2;
            // What witnesses know to be committed may be whole with one voter only.
            let is_spare = is_spare && (now.witnesses.as_slice().is_empty() || !now.may_lead(id));
            is_settled && is_spare && core.new_members().next().is_none()
        });
        can && is_here
    }

    /// Whether a configuration that names a node means a replica that was dropped by mistake.
    pub(super) fn was_dropped(&self, at: usize, group: GroupId) -> bool {
        let of = self.asides.slip.as_ref();
        of.is_some_and(|slip| slip.node == at && slip.group == group && !slip.is_out)
    }

    /// Does the next step.
    pub(super) fn follow_slip(&mut self) {
        let Some(slip) = &self.asides.slip else { return };
        let (group, at, id) = (slip.group, slip.node, node_id(slip.node));
        let (after, was_out, had_vote) = (slip.after, slip.is_out, slip.had_vote);
        let node = &self.nodes[at];
        let is_gone = node.leaving.iter().all(|(of, _)| *of != group) && node.state == State::Up;
        let is_here = node
            .body
            .as_ref()
            .is_some_and(|body| body.replicas(body.worker_of(group)).any(|view| view.group == group));
        let has_joined = is_gone && is_here && !node.to_create.contains(&group);
        let known = if self.now < after && !self.is_ending { None } else { self.led_by(group) };
        let known = known.filter(|_| is_gone);
        self.aside(self.now + EVERY, Aside::Slip);
        let Some((leader, now, committed)) = known else { return };
        if now.is_joint() && !now.auto_leave {
            // Held by an earlier wish, and to be left by one.
            if let Some(body) = &self.nodes[leader].body {
                drop(body.group(group).reconfigure(Reconfiguration::of([])));
            }
            return self.answer_bells(leader);
        }
        let is_out = was_out || !now.contains(id) && !committed.contains(id);
        if is_out && !is_here && !self.nodes[at].to_create.contains(&group) {
            self.nodes[at].to_create.push(group);
            self.call(at, 0, self.now);
        }
        if let Some(slip) = &mut self.asides.slip {
            slip.is_out = is_out;
        }
        if !is_out {
            if now.contains(id) {
                self.ask_for(leader, group, Change::Remove(id), Admission::Unchecked);
            }
        } else if now.contains(id) && committed.contains(id) {
            self.say(|| format!("n{}  is a member of {group} again", at + 1));
            self.asides.slip = None;
        } else if has_joined && !now.contains(id) {
            let change = match (had_vote, self.is_witness(at, group)) {
                (true, false) => Change::Voter(id),
                // Meanwhile too few others may vote for a witness to have a vote among them.
                (true, true) if reconfig::simple(&now, &[Change::Witness(id)]).is_ok() => Change::Witness(id),
                (_, true) => Change::WitnessLearner(id),
                (false, false) => Change::Learner(id),
            };
            self.ask_for(leader, group, change, Admission::Awaited);
        }
    }

    /// In the end all is as it was.
    pub(super) fn make_good(&mut self) -> Checked {
        if self.run_until(self.now + TO_MAKE_GOOD, |world| world.asides.slip.is_none())? {
            return Ok(());
        }
        let Some(slip) = &self.asides.slip else { return Ok(()) };
        let led = self.led_by(slip.group).map(|(leader, now, _)| (leader + 1, now));
        let (node, is_out) = (slip.node + 1, slip.is_out);
        let what = format!(
            "n{node} never came back (out: {is_out}, leader and members {led:?}): {}",
            self.describe(slip.group.0 as usize - 1)
        );
        Err(Violation::new("convergence", what))
    }
}
