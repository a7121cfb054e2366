//! What was asked and what was told, and whether the one is a right answer to the other. Pure: times are numbers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raftwerk::{Consistency, Index};
use raftwerk_sim::Violation;
use raftwerk_sim::levels::{Asked, Commits, Shown};
use raftwerk_sim::linearizability::{self, Call, Register, RegisterInput, RegisterOutput, Verdict};

use crate::journal::{Brief, Line};

/// How many levels there are.
pub const LEVELS: usize = 6;
/// Steps of the search for an order, of which a usual history takes a thousandth.
const STEPS_MAX: u64 = 100_000_000;

/// The place of a level among all.
#[must_use]
pub const fn level_at(level: Consistency) -> usize {
    match level {
        Consistency::Strong => 0,
        Consistency::BoundedStaleness(_) => 1,
        Consistency::Monotonic => 2,
        Consistency::ReadMyWrites => 3,
        Consistency::ConsistentPrefix => 4,
        Consistency::Eventual => 5,
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody knows, or nobody knows yet.
    Open,
    /// It is there.
    Acknowledged {
        /// When that was heard.
        at: u64,
        /// Where it stands in the log.
        index: u64,
        /// How many lines the journal had then, with it.
        lines: u64,
    },
    /// It is not, and will not be.
    Refused,
}

/// A write.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// To which group.
    pub group: u64,
    /// When it was asked for.
    pub called: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// By which node.
    pub node: u64,
    /// Of which group.
    pub group: u64,
    /// What was asked; how much was committed then is found out later.
    pub asked: Asked,
    /// What was answered, as far as levels go …
    pub shown: Shown,
    /// … and the journal itself.
    pub brief: Brief,
    /// When that was heard.
    pub answered: u64,
}

/// All of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By token, of which no two are the same.
    pub writes: BTreeMap<u64, Write>,
    /// In the order of their answers.
    pub looks: Vec<Look>,
}

/// What a judged history held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes that nobody knew of, and that are there.
    pub found: u64,
    /// Answers, by level.
    pub looks: [u64; LEVELS],
    /// Of those, how many had not seen a write that was acknowledged before they were asked for.
    pub stale: [u64; LEVELS],
}

type Judged<T> = Result<T, Violation>;

fn broken<T>(rule: &str, what: String) -> Judged<T> {
    Err(Violation { invariant: rule.to_owned(), what })
}

impl History {
    /// Judges everything, given the journals as they are in the end: by group, tokens with their indices in the order of the lines.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn judge(&self, journals: &BTreeMap<u64, Vec<(u64, u64)>>) -> Judged<Tally> {
        let mut tally = Tally::default();
        for (group, journal) in journals {
            self.judge_writes(*group, journal, &mut tally)?;
            self.judge_looks(*group, journal, &mut tally)?;
            self.judge_order(*group, journal)?;
        }
        Ok(tally)
    }

    fn writes_of(&self, group: u64) -> impl Iterator<Item = (u64, &Write)> {
        self.writes
            .iter()
            .filter(move |(_, write)| write.group == group)
            .map(|(token, write)| (*token, write))
    }

    fn judge_writes(&self, group: u64, journal: &[(u64, u64)], tally: &mut Tally) -> Judged<()> {
        let mut places = BTreeMap::new();
        for (line, (token, index)) in (1..).zip(journal) {
            let write = self.writes.get(token).filter(|write| write.group == group);
            if places.insert(*token, (line, *index)).is_some() || write.is_none() {
                return broken(
                    "refused is refused",
                    format!("{token} in group {group}: twice, or of nobody"),
                );
            }
        }
        for (token, write) in self.writes_of(group) {
            let place = places.get(&token).copied();
            match write.outcome {
                Outcome::Open => tally.found += u64::from(place.is_some()),
                Outcome::Refused if place.is_some() => {
                    return broken("refused is refused", format!("{token} in group {group} is at {place:?}"));
                }
                Outcome::Refused => {}
                Outcome::Acknowledged { index, lines, .. } if place == Some((lines, index)) => {
                    tally.acknowledged += 1;
                }
                Outcome::Acknowledged { index, lines, .. } => {
                    let what = format!("{token} in group {group}: line {lines} at {index}, and is {place:?}");
                    return broken("acknowledged is kept", what);
                }
            }
        }
        Ok(())
    }

    /// When how much of a group was known to be acknowledged.
    fn commits_of(&self, group: u64) -> Commits {
        let heard = self.writes_of(group).filter_map(|(_, write)| match write.outcome {
            Outcome::Acknowledged { at, index, .. } => Some((at, index)),
            _ => None,
        });
        let mut heard: Vec<(u64, u64)> = heard.collect();
        heard.sort_unstable();
        let mut commits = Commits::default();
        heard.into_iter().for_each(|(at, index)| commits.note(at, index));
        commits
    }

    fn judge_looks(&self, group: u64, journal: &[(u64, u64)], tally: &mut Tally) -> Judged<()> {
        let commits = self.commits_of(group);
        let mut briefs = vec![Brief::default()];
        for (token, index) in journal {
            let payload = Bytes::copy_from_slice(&token.to_le_bytes());
            briefs.push(briefs[briefs.len() - 1].and(&Line { index: Index(*index), payload }));
        }
        for look in self.looks.iter().filter(|look| look.group == group) {
            let index = look.shown.index;
            let right = briefs[journal.partition_point(|(_, at)| *at <= index)];
            if look.brief != right {
                let what = format!("{look:?}: the journal at {index} is {right:?}");
                return broken("an answer is of its index", what);
            }
            let asked = Asked { committed: commits.at(look.asked.called), ..look.asked };
            asked.judge(&look.shown, &commits).map_err(|violation| Violation {
                what: format!("{look:?}: {}", violation.what),
                ..violation
            })?;
            let level = level_at(asked.level);
            tally.looks[level] += 1;
            tally.stale[level] += u64::from(index < asked.committed);
        }
        Ok(())
    }

    /// Whether writes and strong reads have an order. What nobody knows of and is not there has never happened, or somebody
    /// would have seen it.
    fn judge_order(&self, group: u64, journal: &[(u64, u64)]) -> Judged<()> {
        let there: BTreeSet<u64> = journal.iter().map(|(token, _)| *token).collect();
        let written =
            self.writes_of(group).filter(|(token, _)| there.contains(token)).map(|(token, write)| {
                let (returned, output) = match write.outcome {
                    Outcome::Acknowledged { at, .. } => (Some(at), Some(RegisterOutput::Written)),
                    _ => (None, None),
                };
                let input = RegisterInput::Write(token as i64);
                Call { client: 0, called: write.called, returned, input, output }
            });
        let strong = |look: &&Look| look.group == group && look.asked.level == Consistency::Strong;
        let read = self.looks.iter().filter(strong).map(|look| {
            let last = (look.brief.count > 0).then_some(look.brief.last as i64);
            Call {
                client: look.node as u32,
                called: look.asked.called,
                returned: Some(look.answered),
                input: RegisterInput::Read,
                output: Some(RegisterOutput::Holds(last)),
            }
        });
        let calls: Vec<_> = written.chain(read).collect();
        match linearizability::check(&Register, &calls, STEPS_MAX) {
            Verdict::Linearizable => Ok(()),
            Verdict::Violation(violation) => broken("linearizable", violation.describe(&calls)),
            Verdict::OutOfBudget => {
                broken("linearizable", format!("{STEPS_MAX} steps are not enough to tell"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: u64 = 1_000_000;

    /// Three writes to group 1, acknowledged at 10, 20 and 30 ms with indices 2, 3 and 5; a fourth refused, a fifth lost.
    fn history() -> (History, BTreeMap<u64, Vec<(u64, u64)>>) {
        let mut history = History::default();
        for (token, at, index) in [(1, 10, 2), (2, 20, 3), (3, 30, 5)] {
            let outcome = Outcome::Acknowledged { at: at * MS, index, lines: token };
            history.writes.insert(token, Write { group: 1, called: (at - 5) * MS, outcome });
        }
        history.writes.insert(4, Write { group: 1, called: 12 * MS, outcome: Outcome::Refused });
        history.writes.insert(5, Write { group: 1, called: 12 * MS, outcome: Outcome::Open });
        (history, BTreeMap::from([(1, vec![(1, 2), (2, 3), (3, 5)])]))
    }

    /// Asked for at 40 ms, in a session that has seen 3 and written 2, and shown the state after so many lines.
    fn look(level: Consistency, index: u64, lines: usize) -> Look {
        let (_, journals) = history();
        let line = |(token, index): &(u64, u64)| Line {
            index: Index(*index),
            payload: Bytes::copy_from_slice(&token.to_le_bytes()),
        };
        let brief = Brief::of(&journals[&1][..lines].iter().map(line).collect::<Vec<_>>());
        let (called, answered) = (40 * MS, 41 * MS);
        let floor = Asked::floor(level, 3, 2);
        let asked = Asked { level, called, committed: 0, floor, rate_ppm: 950_000 };
        let shown = Shown { at: called, index, staleness: None };
        Look { node: 1, group: 1, asked, shown, brief, answered }
    }

    fn rule_broken(look: Look) -> Option<String> {
        let (mut history, journals) = history();
        history.looks.push(look);
        history.judge(&journals).err().map(|violation| violation.invariant)
    }

    #[test]
    fn each_level_may_show_what_it_may_and_nothing_older() {
        let within = |us| Consistency::BoundedStaleness(Duration::from_micros(us));
        let (old, older, oldest) = ((4, 2), (2, 1), (0, 0));
        let cases = [
            (Consistency::Strong, (5, 3), old, "strong reads are strong"),
            // By a clock that is 5 % slow, 9.4 ms are 9.9, and 9.6 are 10.1.
            (within(9_400), (5, 3), old, "bounded staleness"),
            (within(9_600), old, older, "bounded staleness"),
            (Consistency::Monotonic, (3, 2), older, "monotonic reads"),
            (Consistency::ReadMyWrites, older, oldest, "reads see own writes"),
        ];
        for (level, good, bad, rule) in cases {
            assert_eq!(rule_broken(look(level, good.0, good.1)), None, "{level:?}");
            assert_eq!(rule_broken(look(level, bad.0, bad.1)).as_deref(), Some(rule), "{level:?}");
        }
        for level in [Consistency::ConsistentPrefix, Consistency::Eventual] {
            assert_eq!(rule_broken(look(level, 0, 0)), None);
            // Of the second entry, without it.
            assert_eq!(rule_broken(look(level, 3, 1)).as_deref(), Some("an answer is of its index"));
        }
        let mut aged = look(Consistency::Eventual, 3, 2);
        aged.shown.staleness = Some(Duration::from_micros(9_400));
        assert_eq!(rule_broken(aged).as_deref(), Some("an age is what it says"));
    }

    #[test]
    fn a_state_that_never_was_is_noticed_at_every_level() {
        let mut skips = look(Consistency::Eventual, 5, 3);
        skips.brief = Brief { count: 2, ..skips.brief };
        assert_eq!(rule_broken(skips).as_deref(), Some("an answer is of its index"));
    }

    #[test]
    fn strong_reads_have_an_order() {
        let (mut history, journals) = history();
        // While the third write was under way, one saw it, and then another did not.
        for (at, index, lines) in [(26, 5, 3), (28, 3, 2)] {
            let mut look = look(Consistency::Strong, index, lines);
            (look.asked.called, look.shown.at, look.answered) = (at * MS, at * MS, at * MS + 1);
            history.looks.push(look);
        }
        assert_eq!(history.judge(&journals).unwrap_err().invariant, "linearizable");
        history.looks.reverse();
        assert_eq!(history.judge(&journals).unwrap_err().invariant, "linearizable", "whoever is heard first");
        history.looks.truncate(1);
        let tally = history.judge(&journals).unwrap();
        assert_eq!((tally.acknowledged, tally.found, tally.looks[0], tally.stale), (3, 0, 1, [0; 6]));
    }

    #[test]
    fn writes_are_where_they_should_be() {
        let rule = |change: fn(&mut Vec<(u64, u64)>)| {
            let (history, mut journals) = history();
            change(journals.get_mut(&1).unwrap());
            history.judge(&journals).err().map(|violation| violation.invariant)
        };
        assert_eq!(rule(|_| {}), None);
        assert_eq!(rule(|journal| journal.push((5, 6))), None, "nobody knew of it");
        for (change, name) in [
            ((|journal| journal.truncate(2)) as fn(&mut Vec<(u64, u64)>), "acknowledged is kept"),
            (|journal| journal[2].1 = 6, "acknowledged is kept"),
            (|journal| journal.insert(2, (5, 4)), "acknowledged is kept"),
            (|journal| journal.push((4, 6)), "refused is refused"),
            (|journal| journal.push((3, 6)), "refused is refused"),
            (|journal| journal.push((77, 6)), "refused is refused"),
        ] {
            assert_eq!(rule(change).as_deref(), Some(name));
        }
    }
}
