//! Nodes that are not equally willing to lead: what that means once all is calm.
//!
//! Priority changes which node campaigns first, never which one may win. So it is judged in peace: all replicas are equal, and the leader
//! is cut off. Another leads soon; and where a replica waits two election timeouts longer than another that lives, has a vote and the
//! same log, it is not the one. (One timeout longer is not enough to tell, by clocks that drift, and when votes are split.) That the
//! unwilling never ask, `watch` sees.
//!
//! What is not here: how priorities are drawn (`plan`).

use raftwerk_frame::{EntryId, GroupId, NodeId, Term};
use raftwerk_raft::PRIORITY_MAX;

use super::{World, group_id};
use crate::watch::{Checked, Violation};

/// How many election timeouts (the longest that is drawn, 2 T) a group may be without a leader, besides what its voters wait.
const TIMEOUTS_TO_LEAD: u64 = 10;
/// A difference in priority that decides.
const CLEAR: u8 = 2;

/// A group that is about to lose its leader.
struct Orphaned {
    group: GroupId,
    term: u64,
    /// The highest priority of the replicas that could lead.
    best: u8,
}

impl World<'_> {
    /// How much longer than others the least willing wait, in nanoseconds.
    pub(super) fn patience(&self) -> u64 {
        let least = self.plan.priorities.iter().filter(|priority| **priority > 0).min();
        let steps = PRIORITY_MAX - least.copied().unwrap_or(PRIORITY_MAX);
        u64::from(steps) * self.longest_timeout()
    }

    /// A node starts: in every fourth start, where not all are equal, it is another's turn to be willing.
    pub(super) fn draw_priority(&mut self, at: usize) {
        let chance = &mut self.chances.priorities;
        if self.plan.is_unequal && !self.is_ending && self.nodes[at].life > 0 && chance.below(4) == 0 {
            let drawn = chance.one_of(&[PRIORITY_MAX, PRIORITY_MAX, 1, 0]);
            let is_taken = self.plan.priorities.iter().enumerate().any(|(of, is)| of != at && *is == 0);
            self.plan.priorities[at] = if drawn == 0 && is_taken { 1 } else { drawn };
        }
    }

    /// A node of priority 0 may be the only one that can lead: in the end it has to.
    pub(super) fn make_willing(&mut self) -> Checked {
        for at in 0..self.nodes.len() {
            if self.plan.priorities[at] == 0 {
                self.plan.priorities[at] = 1;
                if self.nodes[at].body.is_some() {
                    self.fall(at, false)?;
                }
            }
        }
        Ok(())
    }

    /// Cuts off a leader, and sees which node is next.
    pub(super) fn prefer(&mut self) -> Checked {
        // An old message of a leader that is cut off, if it comes that late, is one of a leader still.
        if !self.plan.is_unequal || self.plan.net.late_ppm > 0 {
            return Ok(());
        }
        let first = group_id(self.seed as usize % self.plan.groups);
        let Some(leader) = self.leading(first) else { return Ok(()) };
        let groups = (0..self.plan.groups).map(group_id);
        let mut orphaned: Vec<Orphaned> = groups.filter_map(|group| self.orphan(leader, group)).collect();
        if orphaned.is_empty() {
            return Ok(());
        }
        self.say(|| format!("n{}  is cut off, to see who is next", leader + 1));
        for other in (0..self.nodes.len()).filter(|other| *other != leader) {
            for (from, to) in [(leader, other), (other, leader)] {
                // What is on its way is lost with it: it would be a message of a leader for as long as it takes.
                let link = self.links.link(from, to);
                (link.cuts, link.made_at) = (link.cuts + 1, self.now);
            }
        }
        let timeout = 2 * self.longest_timeout();
        let deadline = self.now + TIMEOUTS_TO_LEAD * timeout + self.patience();
        let mut checked = Ok(());
        self.run_until(deadline, |world| {
            orphaned.retain(|of| match world.successor(leader, of) {
                Some(next) if checked.is_ok() => {
                    checked = world.check_preferred(next, of);
                    false
                }
                next => next.is_none(),
            });
            orphaned.is_empty() || checked.is_err()
        })?;
        checked?;
        match orphaned.first() {
            None => Ok(()),
            Some(of) => {
                let text = self.describe(of.group.0 as usize - 1);
                Err(Violation::new(
                    "progress",
                    format!("nobody leads {} after n{}: {text}", of.group, leader + 1),
                ))
            }
        }
    }

    /// What to expect of a group without its leader; `None`: nothing.
    fn orphan(&self, leader: usize, group: GroupId) -> Option<Orphaned> {
        let (at, now, committed) = self.led_by(group)?;
        if at != leader || now != committed || !now.outgoing.is_empty() {
            return None;
        }
        let last_of = |node: &NodeId| -> Option<EntryId> {
            let of = node.0 as usize - 1;
            let node = self.nodes.get(of).filter(|node| of != leader && node.is_reachable())?;
            let body = node.body.as_ref()?;
            let view = body.replicas(body.worker_of(group)).find(|view| view.group == group)?;
            // No message of a node that came back empty arrives, until it is added again.
            let is_empty = view.core.term() == Term(0);
            let is_fit = !is_empty && !view.core.is_fenced() && view.core.configuration() == &now;
            is_fit.then(|| view.core.last())
        };
        let alive: Vec<(NodeId, EntryId)> =
            now.voters.iter().filter_map(|node| Some((*node, last_of(node)?))).collect();
        let last = alive.iter().map(|(_, last)| *last).max()?;
        let can_lead = |(node, of): &&(NodeId, EntryId)| *of == last && !now.is_witness(*node);
        let best = alive.iter().filter(can_lead).map(|(node, _)| self.plan.priorities[node.0 as usize - 1]);
        let best = best.max().filter(|best| *best > 0)?;
        (alive.len() > now.voters.len() / 2).then(|| Orphaned {
            group,
            term: self.led_term(leader, group),
            best,
        })
    }

    /// The leader of a later term.
    fn successor(&self, leader: usize, of: &Orphaned) -> Option<usize> {
        let next = self.leading(of.group).filter(|next| *next != leader)?;
        (self.led_term(next, of.group) > of.term).then_some(next)
    }

    fn check_preferred(&self, next: usize, of: &Orphaned) -> Checked {
        let priority = self.plan.priorities[next];
        // How long one waits is counted in its own T.
        let are_alike = self.nodes.iter().all(|node| node.timeout == self.nodes[next].timeout);
        if priority + CLEAR > of.best || !are_alike {
            return Ok(());
        }
        let what = format!(
            "n{} leads {} with priority {priority}, and one with {} could: {}",
            next + 1,
            of.group,
            of.best,
            self.describe(of.group.0 as usize - 1)
        );
        Err(Violation::new("the willing lead", what))
    }
}
