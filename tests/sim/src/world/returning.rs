//! Replicas that leave a group and come back to the same leader, which then gets once more what they had sent before they went.
//!
//! A replica is taken out, dropped from its disk, and taken in again as soon as it is gone. What it had said meanwhile to its leader
//! arrives once more, as late copies do, when the leader has made a place for the newcomer: of the same node, of the same log,
//! in the same term. None of it is true of the newcomer.
//!
//! What is not here: how often this happens (`plan`), copies that are late by chance (`net`).

use std::collections::VecDeque;

use bytes::Bytes;
use raftwerk::{Admission, Change, Configuration, GroupId};
use raftwerk_net::Channel;

use super::{Event, Unit, World, group_id, node_id};
use crate::fault::{FaultKind, Strike};
use crate::node::State;

/// How often the world looks how far it has come …
const EVERY: u64 = 5_000_000;
/// … how often the leader is asked again, and how long it may take.
const ASK_AGAIN: u64 = 100_000_000;
const PATIENCE: u64 = 3_000_000_000;
/// So much of what was said last is said again.
const SAID_MAX: usize = 24;

/// One that is on its way out, or in again.
pub(super) struct Returning {
    group: GroupId,
    node: usize,
    leader: usize,
    term: u64,
    until: u64,
    ask_at: u64,
    step: Step,
    said: VecDeque<(Channel, Bytes)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is a member, and its leader is asked to take it out.
    Leaves,
    /// It knows that it is out, and is being dropped.
    Goes,
    /// It is gone, and the leader is asked to take its node in.
    Comes,
}

impl World<'_> {
    /// A replica is to leave and to come back; whether there is one that can.
    pub(super) fn begin_return(&mut self, strike: &Strike) -> bool {
        let group = group_id((strike.salt >> 32) as usize % self.plan.groups);
        let Some((leader, now, committed)) = self.led_by(group).filter(|_| self.returning.is_none()) else {
            return false;
        };
        if self.is_anybody_busy() {
            return false;
        }
        let may_go = |at: &usize| {
            let id = node_id(*at);
            *at != leader && self.nodes[*at].state == State::Up && now.contains(id) && committed.contains(id)
        };
        let others: Vec<usize> = (0..self.nodes.len()).filter(may_go).collect();
        let Some(node) = others.get((strike.salt >> 8) as usize % others.len().max(1)).copied() else {
            return false;
        };
        let term = self.led_term(leader, group);
        let (until, ask_at, step, said) = (self.now + PATIENCE, 0, Step::Leaves, VecDeque::new());
        self.returning = Some(Returning { group, node, leader, term, until, ask_at, step, said });
        self.follow_return();
        true
    }

    fn is_anybody_busy(&self) -> bool {
        (0..self.nodes.len()).any(|at| self.is_busy_with(at))
    }

    pub(super) fn led_term(&self, leader: usize, group: GroupId) -> u64 {
        let body = self.nodes[leader].body.as_ref();
        let view =
            body.and_then(|body| body.replicas(body.worker_of(group)).find(|view| view.group == group));
        view.map_or(0, |view| view.core.term().0)
    }

    /// Sees how far it has come. Where another leads meanwhile, there is nothing to be seen any more.
    pub(super) fn follow_return(&mut self) {
        let Some(mut story) = self.returning.take() else { return };
        let Some((leader, now, committed)) = self.led_by(story.group) else { return };
        let is_same = leader == story.leader && self.led_term(leader, story.group) == story.term;
        if !is_same || self.is_ending || self.now > story.until || self.nodes[story.node].state != State::Up {
            return;
        }
        if self.next_step(&mut story, &now, &committed) {
            return;
        }
        self.returning = Some(story);
        self.at(self.now + EVERY, Event::Return);
    }

    /// Does the next step; whether that was the last.
    fn next_step(&mut self, story: &mut Returning, now: &Configuration, committed: &Configuration) -> bool {
        let (id, group) = (node_id(story.node), story.group);
        match story.step {
            // One thing at a time: with another's disk gone, a group might not do without this one too.
            Step::Leaves if self.is_anybody_busy() => return true,
            Step::Leaves if now.contains(id) || committed.contains(id) => {
                self.ask_now_and_then(story, Change::Remove(id));
            }
            Step::Leaves => {
                let node = &mut self.nodes[story.node];
                let Some(body) = &node.body else { return true };
                let mut replicas = body.replicas(body.worker_of(group));
                if replicas.any(|view| view.group == group && view.core.is_removed()) {
                    let removal = body.remove_group(group);
                    drop(replicas);
                    node.leaving.push((group, removal));
                    story.step = Step::Goes;
                    self.say(|| format!("n{}  drops {group}, to return", story.node + 1));
                    self.answer_bells(story.node);
                }
            }
            Step::Goes => {
                if !self.nodes[story.node].leaving.iter().any(|(of, _)| *of == group) {
                    (story.step, story.ask_at) = (Step::Comes, 0);
                    self.ask_now_and_then(story, Change::Voter(id));
                }
            }
            Step::Comes if !now.contains(id) => self.ask_now_and_then(story, Change::Voter(id)),
            Step::Comes => {
                self.say(|| format!("n{}  is in {group} again; what it said is heard again", story.node + 1));
                for (number, (channel, bytes)) in (1_u64..).zip(std::mem::take(&mut story.said)) {
                    self.faults.add(FaultKind::Late);
                    let (from, to) = (story.node, story.leader);
                    let unit = Unit { from, to, channel, bytes, sent: self.now, is_late: true };
                    self.carry(self.now + number * 1_000, unit);
                }
                return true;
            }
        }
        false
    }

    fn ask_now_and_then(&mut self, story: &mut Returning, change: Change) {
        if self.now >= story.ask_at {
            story.ask_at = self.now + ASK_AGAIN;
            self.ask_for(story.leader, story.group, change, Admission::Awaited);
        }
    }

    /// Notes what a replica that is about to go sends to its leader.
    pub(super) fn overhear(&mut self, from: usize, to: usize, channel: Channel, bytes: &Bytes) {
        let Some(story) = &mut self.returning else { return };
        if story.step == Step::Comes || (from, to) != (story.node, story.leader) {
            return;
        }
        story.said.push_back((channel, bytes.clone()));
        if story.said.len() > SAID_MAX {
            story.said.pop_front();
        }
    }
}
