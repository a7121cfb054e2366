//! Connections that are made again: both ends get a notice, as by a transport; and what comes of it.
//!
//! A group that went to rest without one of its replicas sends nothing. If that was out of reach and has no vote, nothing but the
//! connection, and beats, tell its leader that it is back. So that is tried in the end, at best on a node with another number of
//! workers, when no client writes any more: a replica that is back becomes equal to the others by itself.
//!
//! What is not here: connections that break (`faults`, `nodes`), and real ones (`wire`).

use raftwerk::GroupId;

use super::{Event, World, group_id, node_id};
use crate::chance::Chance;
use crate::node::State;
use crate::watch::{Checked, Violation};

/// How long it takes to connect, in nanoseconds, at the most.
const CONNECTS: u64 = 2_000_000;
/// How many election timeouts (the longest that is drawn, 2 T) a group has to go to rest.
const TIMEOUTS_TO_REST: u64 = 20;
/// And all, to hear of each other again.
const TIMEOUTS_TO_CALM: u64 = 4;
/// And for a replica that is back, to become equal.
const TO_BECOME_EQUAL: u64 = 120_000_000_000;

/// A group, and one that has no vote there.
#[derive(Clone, Copy, Debug)]
struct Remote {
    group: usize,
    learner: usize,
}

impl World<'_> {
    /// Two nodes connect, if nothing is between them.
    pub(super) fn connect(&mut self, one: usize, other: usize) {
        if self.plan.tells_of_connections {
            self.connect_surely(one, other);
        }
    }

    fn connect_surely(&mut self, one: usize, other: usize) {
        let are_up = [one, other].iter().all(|at| self.nodes[*at].state == State::Up);
        if one == other || !are_up || self.plan.quic.is_some() {
            return;
        }
        let soon = self.now + 1 + self.chances.connections.below(CONNECTS);
        for (node, peer) in [(one, other), (other, one)] {
            let life = self.nodes[node].life;
            self.at(soon, Event::Reached { node: node as u16, peer: peer as u16, life });
        }
    }

    /// All links are mended, and a node that was cut off from another connects to it.
    pub(super) fn mend_links(&mut self) {
        let count = self.nodes.len();
        let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| (one, other)));
        let is_cut = |(one, other): &(usize, usize)| {
            self.links.is_cut(*one, *other) || self.links.is_cut(*other, *one)
        };
        let cut: Vec<(usize, usize)> = pairs.filter(is_cut).collect();
        self.links.heal();
        for (one, other) in cut {
            self.connect(one, other);
        }
    }

    /// A node that has started connects to all that are there.
    pub(super) fn connect_to_all(&mut self, at: usize) {
        for other in 0..self.nodes.len() {
            self.connect(at, other);
        }
    }

    /// A connection was made; or not, if a node has gone by now.
    pub(super) fn reached(&mut self, at: usize, peer: usize, life: u32) {
        let is_cut = self.links.is_cut(at, peer) || self.links.is_cut(peer, at);
        let node = &self.nodes[at];
        if is_cut || node.life != life || !node.is_reachable() || !self.nodes[peer].is_reachable() {
            return;
        }
        if let Some(body) = &node.body {
            body.connected(node_id(peer));
            self.answer_bells(at);
        }
    }

    /// A replica without a vote is out of reach while something is committed, and its group goes to rest without it. Then it is
    /// back, and no client writes.
    pub(super) fn come_within_reach(&mut self) -> Checked {
        let mut chance = Chance::of(self.seed, "reaching");
        if !self.plan.is_churning || self.plan.quic.is_some() || chance.below(4) == 0 {
            return Ok(());
        }
        let all: Vec<Remote> = (0..self.plan.groups).filter_map(|group| self.remote(group)).collect();
        if all.is_empty() {
            return Ok(());
        }
        let Remote { group, learner } = chance.one_of(&all);
        self.say(|| format!("n{}  is out of reach, and has no vote in {}", learner + 1, group_id(group)));
        self.set_apart(learner, 1);
        let progress = self.progress(group..group + 1);
        if self.has_vote(group, learner) {
            // It was just being given one, and may be needed.
            self.bring_back(learner);
            return self.progress(group..group + 1);
        }
        progress?;
        let timeout = 2 * self.longest_timeout();
        let rests =
            self.run_until(self.now + TIMEOUTS_TO_REST * timeout, |world| world.rests_without(group))?;
        self.say(|| format!("n{}  is back; at rest without it: {rests}", learner + 1));
        self.bring_back(learner);
        if self.run_until(self.now + TO_BECOME_EQUAL, |world| world.is_equal(group).is_some())? {
            // A node that was out of reach may be about to campaign in its other groups: their leaders reach it first.
            let calm = TIMEOUTS_TO_CALM * timeout + self.patience();
            return self.run_until(self.now + calm, |_| false).map(|_| ());
        }
        let what = format!("n{} is back, and hears nothing: {}", learner + 1, self.describe(group));
        Err(Violation::new("convergence", what))
    }

    /// A replica without a vote in a group, at best on a node with workers that are not those of the leader's.
    fn remote(&self, group: usize) -> Option<Remote> {
        let id = group_id(group);
        let (leader, now, committed) = self.led_by(id)?;
        if now != committed || !now.outgoing.is_empty() {
            return None;
        }
        let workers = |at: usize| self.nodes[at].body.as_ref().map(|body| body.lanes());
        let is_fit = |at: &usize| {
            *at != leader
                && self.nodes.get(*at).is_some_and(|node| node.is_reachable() && !node.is_wiped)
                && self.holds_configuration(*at, id, &now)
        };
        let learners = now.learners.iter().map(|node| node.0 as usize - 1).filter(is_fit);
        let learner = learners.max_by_key(|at| workers(*at) != workers(leader))?;
        Some(Remote { group, learner })
    }

    /// Whether a configuration in any replica's log gives a node a vote, be it committed or not.
    fn has_vote(&self, group: usize, at: usize) -> bool {
        let id = group_id(group);
        let bodies = self.nodes.iter().filter_map(|node| node.body.as_ref());
        let mut views =
            bodies.flat_map(|body| body.replicas(body.worker_of(id))).filter(|view| view.group == id);
        views.any(|view| view.core.configuration().is_voter(node_id(at)))
    }

    fn holds_configuration(&self, at: usize, id: GroupId, now: &raftwerk_frame::Configuration) -> bool {
        let Some(body) = &self.nodes[at].body else { return false };
        body.replicas(body.worker_of(id)).any(|view| view.group == id && view.core.configuration() == now)
    }

    /// Whether the leader of a group lets it rest, and a member is not there.
    fn rests_without(&self, group: usize) -> bool {
        let id = group_id(group);
        let Some(body) = self.leading(id).and_then(|leader| self.nodes[leader].body.as_ref()) else {
            return false;
        };
        body.replicas(body.worker_of(id))
            .any(|view| view.group == id && view.core.is_quiescent_without_peer())
    }

    /// Everybody reaches a node again, and both ends know.
    pub(super) fn bring_back(&mut self, at: usize) {
        self.set_apart(at, -1);
        for other in 0..self.nodes.len() {
            self.connect_surely(at, other);
        }
    }

    /// No node reaches this one, and both ends know; or all do again.
    pub(super) fn set_apart(&mut self, at: usize, by: i32) {
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            for (from, to) in [(at, other), (other, at)] {
                let link = self.links.link(from, to);
                link.cuts = link.cuts.saturating_add_signed(by);
                if by > 0 {
                    self.notice(from, to, self.nodes[from].life);
                }
            }
        }
    }
}
