//! Facts that come at another time than in etcd, or not at all, and why that is right.
//!
//! A waiver is found by how something differs, and it asks for more than the difference: the fact must come about later, or
//! the same by another way. The reasons are:
//! - **moved**: a change of configuration is under way, and the fact belongs to another command before the same rest. etcd's
//!   configurations count when applied, ours when appended, so they are compared at rest; such a fact counts as found;
//! - **earlier snapshot**: instead of one snapshot, an earlier one, and the entries between the two;
//! - **late**: a few heartbeats later, or when the heir of a removed leader has taken over;
//! - **left out**: the replica has been removed, and is sent nothing any more.

use super::cluster::Cluster;
use super::{Belief, Case, Command, HEARTBEATS_LATE_MAX, Outcome, Run, Strictness, WHY_LATE, differences};

pub(super) const WHY_REMOVED: &str = "a leader gives up the lead when its removal is committed, and hurries an heir, \
    where etcd's goes on or leaves it to a timeout; and who is removed is sent nothing from then on, where etcd's leader \
    sends its removal, too. Those that take part hold, in the end, all that they should";
const WHY_SNAPSHOT: &str = "a configuration counts from when it is appended, so a newcomer is sent a snapshot before \
    the entry that names it is applied, and that entry after it";
const WHY_HEIR: &str = "a removed leader gives up the lead as soon as its removal is committed; it is so when its heir \
    has taken over";
const WHY_LEFT_OUT: &str = "a replica that is removed, be it the leader, hears of nothing that comes after";

/// A fact that is on one side only.
#[derive(Debug)]
pub(super) struct Loose {
    pub(super) line: usize,
    pub(super) span: usize,
    pub(super) fact: String,
    /// Otherwise it should not be.
    pub(super) is_missing: bool,
    /// `None`: it is accounted for with another.
    pub(super) outcome: Option<Outcome>,
}

impl Loose {
    /// The cases that come of it.
    pub(super) fn case(&self, name: &str) -> Option<Case> {
        let name = format!("{name}:{}: {}", self.line, self.fact);
        self.outcome.clone().map(|outcome| Case { name, outcome })
    }

    const fn is_open(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Failed(_)))
    }
}

/// A fact about one entry in one replica: `2 applies 1/3 …`, `2 has durable 1/3 …`.
fn entry_of(fact: &str) -> Option<(u64, u64)> {
    let (node, rest) = fact.split_once(' ')?;
    let rest = rest.strip_prefix("applies ").or_else(|| rest.strip_prefix("has durable "))?;
    let (_, index) = rest.split(' ').next()?.split_once('/')?;
    Some((node.parse().ok()?, index.parse().ok()?))
}

/// A fact about a snapshot: all of it but its index, term and configuration, and its index.
fn snapshot_of(fact: &str) -> Option<(&str, u64)> {
    let (before, what) = fact.split_once(" a snapshot of Index:")?;
    Some((before, what.split(' ').next()?.parse().ok()?))
}

/// Whether, whoever leads in the end, everything is as it should be for those that take part.
pub(super) fn is_so_after_removal(
    command: &Command,
    expected: Option<&[String]>,
    belief: &Belief,
    cluster: &Cluster,
) -> bool {
    let handed_over = cluster.after_handover();
    let is_any_left_out = cluster.ids().any(|node| cluster.is_left_out(node));
    if handed_over.is_none() && !is_any_left_out {
        return false;
    }
    let cluster = handed_over.as_ref().unwrap_or(cluster);
    let (_, mut found) = belief.differences(command, cluster, Strictness::AfterRemoval);
    if command.name == "raft-log" {
        found.extend(differences(command, expected, &Belief::default(), cluster, Strictness::Exact).1);
    }
    cluster.is_led() && found.is_empty()
}

impl Run {
    /// Finds out which loose facts are right to be so.
    pub(super) fn judge_loose_facts(&mut self, cluster: &Cluster) {
        self.find_moved();
        self.waive_earlier_snapshots();
        self.waive_late_heartbeats(cluster);
        self.waive_after_removal(cluster);
    }

    fn find_moved(&mut self) {
        for at in 0..self.loose.len() {
            let (before, from) = self.loose.split_at_mut(at);
            let Some((one, after)) = from.split_first_mut() else { return };
            if !one.is_open() || !self.changing.contains(&one.span) {
                continue;
            }
            let other = before.iter_mut().chain(after).find(|other| {
                other.is_open()
                    && other.span == one.span
                    && other.is_missing != one.is_missing
                    && other.fact == one.fact
            });
            if let Some(other) = other {
                let outcome = |loose: &Loose| loose.is_missing.then_some(Outcome::Passed);
                (one.outcome, other.outcome) = (outcome(one), outcome(other));
            }
        }
    }

    /// A missing snapshot, of which an earlier one was sent, or installed, with all the entries up to it.
    fn waive_earlier_snapshots(&mut self) {
        for at in 0..self.loose.len() {
            let wanted = &self.loose[at];
            let Some((what, index)) =
                snapshot_of(&wanted.fact).filter(|_| wanted.is_open() && wanted.is_missing)
            else {
                continue;
            };
            let is_with = |loose: &Loose| loose.is_open() && !loose.is_missing && loose.line == wanted.line;
            let earlier = self.loose.iter().position(|loose| {
                is_with(loose)
                    && snapshot_of(&loose.fact).is_some_and(|(other, at)| other == what && at < index)
            });
            let Some(earlier) = earlier else { continue };
            let (_, from) = snapshot_of(&self.loose[earlier].fact).unwrap_or_default();
            // The last word names the receiver of one that is sent, the first the replica that installs it.
            let mut words = what.split(' ').filter_map(|word| word.parse::<u64>().ok());
            let Some(node) = words.next_back() else { continue };
            let between = |loose: &Loose| {
                entry_of(&loose.fact)
                    .filter(|(at, index_of)| *at == node && (from + 1..=index).contains(index_of))
            };
            let entries: Vec<usize> = (0..self.loose.len())
                .filter(|at| !self.loose[*at].is_missing && self.loose[*at].line == wanted.line)
                .filter(|at| between(&self.loose[*at]).is_some())
                .collect();
            // Each durable, and each applied.
            if entries.len() as u64 != (index - from) * 2 {
                continue;
            }
            entries.into_iter().chain([earlier]).for_each(|at| self.loose[at].outcome = None);
            self.loose[at].outcome = Some(Outcome::Waived(WHY_SNAPSHOT.to_owned()));
        }
    }

    fn waive_late_heartbeats(&mut self, cluster: &Cluster) {
        let mut cluster = cluster.clone();
        for heartbeats in 1..=HEARTBEATS_LATE_MAX {
            let Ok(after) = cluster.after_heartbeat() else { return };
            cluster = after;
            let late = cluster.take_facts();
            self.waive_found(late, &format!("{heartbeats} heartbeats later: {WHY_LATE}"));
        }
    }

    /// What comes later: behind switched-off output, or when a removed leader's heir takes over; or never, to a replica
    /// that was removed.
    fn waive_after_removal(&mut self, cluster: &Cluster) {
        let is_any_left_out = cluster.ids().any(|node| cluster.is_left_out(node));
        if !is_any_left_out {
            return;
        }
        let mut late = std::mem::take(&mut self.unseen);
        late.extend(cluster.after_handover().map(|mut after| after.take_facts()).unwrap_or_default());
        // What was missed before anybody changed anything has nothing to do with it.
        let (mut others, all) = (Vec::new(), std::mem::take(&mut self.loose));
        for loose in all {
            let list = if self.changing.contains(&loose.span) { &mut self.loose } else { &mut others };
            list.push(loose);
        }
        self.waive_found(late, WHY_HEIR);
        for loose in self.loose.iter_mut().filter(|loose| loose.is_open() && loose.is_missing) {
            if entry_of(&loose.fact).is_some_and(|(node, _)| cluster.is_left_out(node)) {
                loose.outcome = Some(Outcome::Waived(WHY_LEFT_OUT.to_owned()));
            }
        }
        self.loose.append(&mut others);
    }

    fn waive_found(&mut self, mut late: Vec<String>, why: &str) {
        for loose in self.loose.iter_mut().filter(|loose| loose.is_open() && loose.is_missing) {
            if let Some(at) = late.iter().position(|late| *late == loose.fact) {
                late.swap_remove(at);
                loose.outcome = Some(Outcome::Waived(why.to_owned()));
            }
        }
    }
}
