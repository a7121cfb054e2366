//! Facts that come at another time than in etcd, and why that is right.
//!
//! A difference is recognised by its shape, and it has to prove more than that. There are two reasons:
//! - **moved**: a change of configuration is under way, and the fact belongs to another command before the same rest. etcd's
//!   configurations count when applied, ours when appended, so they are compared at rest; such a fact counts as found;
//! - **earlier snapshot**: instead of one snapshot, an earlier one, and the entries between the two. That is waived.

use super::{Case, Outcome, Run};

const WHY_SNAPSHOT: &str = "a configuration counts from when it is appended, so a newcomer is sent a snapshot before \
    the entry that names it is applied, and that entry after it";

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

impl Run {
    /// Finds out which loose facts are right to be so.
    pub(super) fn judge_loose_facts(&mut self) {
        self.find_moved();
        self.waive_earlier_snapshots();
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
}
