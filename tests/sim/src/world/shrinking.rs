//! Groups that shrink to their last voter, while the messages of the leader that makes way for it are lost.
//!
//! A leader with one other voter takes itself out of the vote. The entry that does so reaches the other one; nothing that follows does, no
//! answer comes back, and the leader stands still until the other leads, by itself and at once able to commit. What the old
//! leader has taken in meanwhile is then replaced, by a leader whose first words may speak of commits already.
//!
//! What is not here: what becomes of the proposals that the old leader had taken in (`receivers`).

use raftwerk::{Admission, Change, Configuration, GroupId};

use super::asides::Aside;
use super::{World, group_id, node_id};
use crate::fault::Strike;
use crate::node::State;

/// How often the world looks how far it has come, how often the leader is asked again, and how long it may take.
const EVERY: u64 = 20_000_000;
const ASK_AGAIN: u64 = 200_000_000;
const PATIENCE: u64 = 4_000_000_000;
/// A leader that is cut off stands still after so long: what it was given is in its log by then.
const TAKES_IN: u64 = 200_000;
/// How many election timeouts it stands still at the most.
const STILL_TIMEOUTS: u64 = 5;

/// A group on its way to its last voter.
pub(super) struct Shrinking {
    group: GroupId,
    leader: usize,
    other: usize,
    /// The leader is asked to stay, without a vote.
    stays: bool,
    /// Proposals that the leader gets, once its messages arrive no more.
    proposals: u64,
    /// It stands still until so long after the other leads.
    wakes_after: u64,
    step: Step,
    ask_at: u64,
    until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There are to be two voters.
    ToTwo,
    /// The leader is asked to make way, and is to have that in its log.
    ToOne,
    /// It is on its way to the other.
    Sent,
    /// Neither reaches the other; the leader is to stand still.
    Parted,
    /// It stands still, and the other is to lead.
    Still,
}

impl World<'_> {
    pub(super) fn begin_shrinking(&mut self, strike: &Strike) {
        let group = group_id((strike.salt >> 32) as usize % self.plan.groups);
        if self.asides.shrinking.is_some() || (0..self.nodes.len()).any(|at| self.is_busy_with(at)) {
            return;
        }
        let Some((leader, now, committed)) = self.led_by(group) else { return };
        let others: Vec<usize> = now.voters.iter().map(|node| node.0 as usize - 1).collect();
        let is_fit =
            |at: &usize| *at != leader && self.nodes[*at].is_reachable() && !now.is_witness(node_id(*at));
        let others: Vec<usize> = others.into_iter().filter(is_fit).collect();
        if now != committed || others.is_empty() {
            return;
        }
        let delays = self.plan.net.delay + self.plan.net.jitter;
        self.asides.shrinking = Some(Shrinking {
            group,
            leader,
            other: others[(strike.salt >> 8) as usize % others.len()],
            stays: strike.salt & 1 == 0,
            proposals: 1 + (strike.salt >> 16) % 4,
            wakes_after: delays + (strike.salt >> 24) % (2 * delays + 1),
            step: Step::ToTwo,
            ask_at: 0,
            until: self.now + PATIENCE,
        });
        self.follow_shrinking();
    }

    /// Sees how far it has come; with another leader, or at the end, there is nothing to be seen any more.
    pub(super) fn follow_shrinking(&mut self) {
        let Some(mut story) = self.asides.shrinking.take() else { return };
        let are_up = [story.leader, story.other].iter().all(|at| self.nodes[*at].state == State::Up);
        if self.is_ending || !are_up || self.now > story.until {
            return self.give_up_shrinking(&story);
        }
        match story.step {
            Step::ToTwo | Step::ToOne => {
                let known = self.led_by(story.group);
                let Some((_, now, committed)) = known.filter(|(leader, ..)| *leader == story.leader) else {
                    return;
                };
                self.ask_to_shrink(&mut story, &now, &committed);
                self.aside(self.now + EVERY, Aside::Shrink);
            }
            Step::Sent => {
                // What follows from here on does not arrive, and neither does an answer.
                self.part_for_good(&story, 1);
                let (group, count) = (story.group.0 as usize - 1, story.proposals);
                self.propose_besides(group, story.leader, count, false);
                story.step = Step::Parted;
                self.aside(self.now + TAKES_IN, Aside::Shrink);
            }
            Step::Parted => {
                let timeout = self.plan.settings.election_timeout.as_nanos() as u64;
                let until = self.now + STILL_TIMEOUTS * timeout;
                self.nodes[story.leader].frozen_until = until;
                (story.step, story.until) = (Step::Still, until);
                self.aside(until + 1, Aside::Shrink);
            }
            Step::Still => {}
        }
        self.asides.shrinking = Some(story);
    }

    /// A worker has had a turn, and none of its messages has left yet.
    pub(super) fn mind_shrinking(&mut self, at: usize) {
        let Some(story) = &self.asides.shrinking else { return };
        let (is_leaving, is_next) = (story.step == Step::ToOne, story.step == Step::Still);
        if !(is_leaving && at == story.leader || is_next && at == story.other) {
            return;
        }
        let (group, leader) = (story.group, story.leader);
        let Some(body) = &self.nodes[at].body else { return };
        let Some(view) = body.replicas(body.worker_of(group)).find(|view| view.group == group) else {
            return;
        };
        let core = view.core;
        let has_appended = !core.configuration().is_voter(node_id(leader)) && core.is_leader();
        if is_leaving && has_appended && core.last().index == core.configuration_index() {
            // Once this turn's messages are on their way, which they are before any time passes.
            self.set_shrinking(Step::Sent);
            self.aside(self.now + 1, Aside::Shrink);
        } else if is_next && core.is_leader() {
            self.let_successor_speak();
        }
    }

    fn set_shrinking(&mut self, step: Step) {
        if let Some(story) = &mut self.asides.shrinking {
            story.step = step;
        }
    }

    /// The other leads: its messages arrive, and the old leader wakes once one has.
    fn let_successor_speak(&mut self) {
        let Some(story) = self.asides.shrinking.take() else { return };
        self.say(|| format!("n{}  is the last voter of {}", story.other + 1, story.group));
        self.part_for_good(&story, -1);
        let until = self.now + self.plan.disk.sync * 2 + story.wakes_after;
        self.nodes[story.leader].frozen_until = until;
        for worker in 0..self.nodes[story.leader].rounds.len() {
            self.call(story.leader, worker, until);
        }
    }

    fn give_up_shrinking(&mut self, story: &Shrinking) {
        if matches!(story.step, Step::Parted | Step::Still) && !self.links.is_healed {
            self.part_for_good(story, -1);
        }
    }

    /// Two nodes do not hear each other; or do again.
    fn part_for_good(&mut self, story: &Shrinking, by: i32) {
        if by < 0 && self.links.is_healed {
            return; // what is cut now was cut by others
        }
        for (from, to) in [(story.leader, story.other), (story.other, story.leader)] {
            let link = self.links.link(from, to);
            link.cuts = link.cuts.saturating_add_signed(by);
        }
    }

    /// Asks for the next configuration, now and then.
    fn ask_to_shrink(&mut self, story: &mut Shrinking, now: &Configuration, committed: &Configuration) {
        if self.now < story.ask_at || now != committed || !now.outgoing.is_empty() {
            return;
        }
        story.ask_at = self.now + ASK_AGAIN;
        let (me, other) = (node_id(story.leader), node_id(story.other));
        let third = now.voters.iter().find(|node| **node != me && **node != other);
        let change = match third {
            Some(third) => Change::Remove(*third),
            None if story.stays => Change::Learner(me),
            None => Change::Remove(me),
        };
        story.step = if third.is_some() { Step::ToTwo } else { Step::ToOne };
        self.ask_for(story.leader, story.group, change, Admission::Awaited);
    }
}
