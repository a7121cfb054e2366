//! The operator of a cluster with changing groups: nodes that lost their disks are taken out of their groups and let in again
//! as newcomers; replicas that were removed are dropped from disks that are kept, and join again.
//!
//! A node without its disk may first do what it would do at every start: make its groups. No message of it may arrive then. No peer
//! gets a notice: which log is meant is in the configurations. What is not here: when it happens (`faults`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use raftwerk::{Admission, Change, Configuration, GroupId, Reconfiguration};
use raftwerk_frame::LogId;
use raftwerk_raft::Origin;
use raftwerk_wal::simulated::MemoryFiles;

use super::{Event, World, group_id, node_id};
use crate::fault::Strike;
use crate::node::State;
use crate::watch::Checked;

/// How often the operator looks.
const EVERY: u64 = 300_000_000;

impl World<'_> {
    /// The log that a node has now.
    pub(super) fn log_of(&self, at: usize) -> u64 {
        self.seed ^ (at as u64 + 1) << 32 ^ self.nodes[at].disks_lost << 56
    }

    /// Whether a configuration means the log that a node has now, and the replica in it.
    pub(super) fn is_meant(&self, at: usize, group: GroupId, configuration: &Configuration) -> bool {
        if self.was_dropped(at, group) {
            return false;
        }
        let node = &self.nodes[at];
        let is_founder = |body: &raftwerk::drive::Node<_>| {
            let mut replicas = body.replicas(body.worker_of(group));
            replicas.any(|view| view.group == group && view.core.origin() == Origin::InitialMember)
        };
        match configuration.log_of(node_id(at)) {
            Some(log) => log == LogId(self.log_of(at)),
            None => node.disks_lost == 0 && node.body.as_ref().is_none_or(is_founder),
        }
    }

    /// Whether a node's replicas of a group are witnesses: some of those on nodes that did not found it, where groups change.
    pub(super) fn is_witness(&self, at: usize, group: GroupId) -> bool {
        let founders = &self.plan.voters[group.0 as usize - 1];
        let mixed = (self.seed ^ (at as u64) << 32 ^ group.0 << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let of_eight = if self.plan.insists_on_witnesses { 7 } else { 4 };
        self.plan.is_churning && !self.plan.replaces && !founders.contains(&at) && mixed >> 61 < of_eight
    }

    /// Whether a node takes part in a group, by its leader's configuration.
    pub(super) fn is_member(&self, at: usize, group: GroupId) -> bool {
        self.led_by(group).is_some_and(|(_, now, _)| now.contains(node_id(at)))
    }

    /// Whether a witness votes in a group, by its leader's configuration.
    pub(super) fn has_witness(&self, group: GroupId) -> bool {
        let votes = |now: &Configuration| now.voters.iter().any(|node| now.is_witness(*node));
        self.led_by(group).is_some_and(|(_, now, _)| votes(&now))
    }

    /// Whether the operator has something to do with a node.
    pub(super) fn is_busy_with(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let has_slipped = self.asides.slip.as_ref().is_some_and(|slip| slip.node == at);
        // What was asked for before may still be on its way into a core, where turns are slow.
        let has_orders =
            node.body.as_ref().is_some_and(|body| (0..body.lanes()).any(|worker| body.has_orders(worker)));
        has_slipped
            || has_orders
            || node.is_wiped
            || node.farewell
            || !node.leaving.is_empty()
            || !node.to_create.is_empty()
    }

    /// Whether a node of a cluster with changing groups may lose its disk: one at a time, where every group can do without
    /// it, whatever its members are about to be.
    pub(super) fn can_do_without(&self, at: usize) -> bool {
        let id = node_id(at);
        (0..self.nodes.len()).all(|other| {
            let node = &self.nodes[other];
            let Some(body) = node.body.as_ref().filter(|_| !self.is_busy_with(other)) else { return false };
            (0..body.lanes()).flat_map(|worker| body.replicas(worker)).all(|view| {
                let core = view.core;
                let now = core.configuration();
                let committed = core.configuration_up_to(core.commit()).map(|(_, committed)| committed);
                let is_settled = committed == Some(now) && now.outgoing.is_empty();
                let is_spare = !now.voters.contains(&id) || now.voters.len() > 2;
                // What witnesses know to be committed may be whole with one voter only.
                let is_spare = is_spare && (now.witnesses.as_slice().is_empty() || !now.may_lead(id));
                is_settled && is_spare && core.new_members().next().is_none()
            })
        })
    }

    /// Whether a node of a cluster with changing groups may lose something of what was durable: one of all nodes, and only while no
    /// configuration that any node has, be it in force, committed or neither, needs it. What was committed in any of them is then
    /// on another node, too. All nodes are there to be looked at.
    pub(super) fn may_be_damaged(&self, at: usize) -> bool {
        let id = node_id(at);
        let is_spared_by = |half: &[raftwerk::NodeId]| !half.contains(&id) || half.len() > 2;
        let is_spare = |of: &Configuration| {
            // What witnesses know to be committed may be whole with one voter only.
            let is_one_of_few = !of.witnesses.as_slice().is_empty() && of.may_lead(id);
            is_spared_by(&of.voters) && is_spared_by(&of.outgoing) && !is_one_of_few
        };
        (0..self.nodes.len()).all(|other| {
            let node = &self.nodes[other];
            let Some(body) = node.body.as_ref().filter(|_| !self.is_busy_with(other)) else { return false };
            let mut views = (0..body.lanes()).flat_map(|worker| body.replicas(worker));
            // A witness that joined and has lost all does not know that it is one.
            let is_told = other != at
                || (0..body.lanes()).flat_map(|of| body.replicas(of)).all(|view| !view.core.is_witness());
            (other == at || !node.is_damaged)
                && is_told
                && views.all(|view| view.core.memberships().all(|(_, of)| is_spare(of)))
        })
    }

    /// A node's disk is lost, and the operator begins to look after it.
    pub(super) fn lose_disk(&mut self, strike: &Strike) -> Checked {
        let at = strike.node;
        self.fall(at, strike.salt & 1 == 0)?;
        let has_heard = |other: &crate::node::SimNode| {
            let noted = other.body.as_ref().map_or_else(|| other.noted.clone(), |body| body.peers());
            noted.iter().any(|note| note.node == node_id(at))
        };
        let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        let is_known = others.all(|(_, other)| has_heard(other));
        if is_known && strike.salt & 2 == 0 {
            // It makes its groups, as if nothing had been.
            let first_groups = self.first_groups(at);
            let node = &mut self.nodes[at];
            (node.files, node.is_wiped, node.disks_lost) = (MemoryFiles::new(), true, node.disks_lost + 1);
            (node.to_create, node.joins) = (first_groups, Vec::new());
            self.watch.replaced(at);
        } else {
            self.begin_anew(at);
        }
        self.nodes[at].farewell = true;
        self.at(self.now + EVERY, Event::Operate { node: at as u16 });
        Ok(())
    }

    /// A node that is down gets an empty disk, with which it joins its groups.
    fn begin_anew(&mut self, at: usize) {
        self.say(|| format!("n{}  is a newcomer now", at + 1));
        let first_groups = self.first_groups(at);
        let node = &mut self.nodes[at];
        (node.files, node.is_wiped, node.disks_lost) = (MemoryFiles::new(), false, node.disks_lost + 1);
        (node.joins, node.to_create) = (first_groups.clone(), first_groups);
        let log = LogId(self.log_of(at));
        self.watch.reborn(at, log);
    }

    /// Does the next step for a node that lost its disk.
    pub(super) fn operate(&mut self, at: usize) -> Checked {
        if self.is_ending || !self.nodes[at].farewell {
            return Ok(());
        }
        let is_out = self.take_out(at);
        if is_out && self.nodes[at].is_wiped {
            self.fall(at, false)?;
            self.begin_anew(at);
        } else if is_out && self.let_in(at) {
            self.nodes[at].farewell = false;
            return Ok(());
        }
        self.at(self.now + EVERY, Event::Operate { node: at as u16 });
        Ok(())
    }

    /// What the latest leader of a group goes by: in force, and committed.
    pub(super) fn led_by(&self, group: GroupId) -> Option<(usize, Configuration, Configuration)> {
        let leader = self.leading(group)?;
        let body = self.nodes[leader].body.as_ref()?;
        let view = body.replicas(body.worker_of(group)).find(|view| view.group == group)?;
        let (_, committed) = view.core.configuration_up_to(view.core.commit())?;
        Some((leader, view.core.configuration().clone(), committed.clone()))
    }

    pub(super) fn ask_for(&mut self, leader: usize, group: GroupId, change: Change, newcomers: Admission) {
        if let Some(body) = &self.nodes[leader].body {
            drop(
                body.group(group)
                    .reconfigure(Reconfiguration { admission: newcomers, ..Reconfiguration::of([change]) }),
            );
        }
        self.answer_bells(leader);
    }

    /// Has all groups take the node's earlier log out of their members; whether all leaders know that it is.
    fn take_out(&mut self, at: usize) -> bool {
        let (id, log) = (node_id(at), LogId(self.log_of(at)));
        let mut is_out = true;
        for group in (0..self.plan.groups).map(group_id) {
            let Some((leader, now, committed)) = self.led_by(group) else {
                is_out = false;
                continue;
            };
            let is_other = |of: &Configuration| of.contains(id) && of.log_of(id) != Some(log);
            if is_other(&now) || is_other(&committed) {
                is_out = false;
                self.ask_for(leader, group, Change::Remove(id), Admission::Unchecked);
            }
        }
        is_out
    }

    /// Has the groups that began with the node take it in; whether all have.
    fn let_in(&mut self, at: usize) -> bool {
        let mut is_in = true;
        for group in 0..self.plan.groups {
            if !self.plan.voters[group].contains(&at) {
                continue;
            }
            let Some((leader, now, _)) = self.led_by(group_id(group)) else {
                is_in = false;
                continue;
            };
            if !now.contains(node_id(at)) {
                is_in = false;
                self.ask_for(leader, group_id(group), Change::Voter(node_id(at)), Admission::Awaited);
            }
        }
        is_in
    }

    /// A replica that knows that it is removed is dropped from its node, to join again.
    pub(super) fn drop_replica(&mut self, strike: &Strike) {
        let group = group_id((strike.salt >> 32) as usize % self.plan.groups);
        let Some((_, now, committed)) = self.led_by(group) else { return };
        for at in 0..self.nodes.len() {
            let is_named = now.contains(node_id(at)) || committed.contains(node_id(at));
            let node = &mut self.nodes[at];
            let is_busy =
                node.is_wiped || node.is_fenced || node.state != State::Up || !node.to_create.is_empty();
            let Some(body) = node.body.as_ref().filter(|_| !is_named && !is_busy) else { continue };
            let knows = body
                .replicas(body.worker_of(group))
                .any(|view| view.group == group && view.core.is_removed());
            if knows && !node.leaving.iter().any(|(of, _)| *of == group) {
                node.leaving.push((group, body.remove_group(group)));
                self.say(|| format!("n{}  drops {group}", at + 1));
                return self.answer_bells(at);
            }
        }
    }

    /// Replicas that are dropped join again; one that was dropped by mistake, when its operator has noticed (`slipping`).
    pub(super) fn mind_leaving(&mut self, at: usize) {
        let missed = self.asides.slip.as_ref().filter(|slip| slip.node == at).map(|slip| slip.group);
        let node = &mut self.nodes[at];
        let mut cx = Context::from_waker(Waker::noop());
        let (joins, to_create, dropped) = (&mut node.joins, &mut node.to_create, &mut node.dropped);
        node.leaving.retain_mut(|(group, removal)| match Pin::new(removal).poll(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(gone) => {
                if gone.is_err() {
                    dropped.push(*group); // the log has failed: perhaps it is
                }
                joins.push(*group);
                if missed != Some(*group) || gone.is_err() {
                    to_create.push(*group);
                }
                false
            }
        });
    }
}
