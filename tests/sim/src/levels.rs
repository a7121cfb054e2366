//! What an answer at each level has to have seen: one judge of reads, for simulated clusters and for real ones.
//!
//! | rule | what |
//! |---|---|
//! | `an age is what it says` | the state had all that was committed so long before, and longer |
//! | `strong reads are strong` | … all that was committed when the read was called |
//! | `bounded staleness` | … all that was committed so long before the read was called |
//! | `monotonic reads` | … all that the session was shown, wherever that was |
//! | `reads see own writes` | … all that the session has written |
//! | `who is behind says how far` | a refusal names where the session is, and the replica is not there |
//!
//! Times are those of one clock, in nanoseconds, which no node needs to have. What is not here: whether an answer is of the index
//! that it names, and whether histories are linearizable ([`crate::linearizability`]); both need more than one answer.

use std::time::Duration;

use raftwerk::{Consistency, Index, ReadError};

use crate::watch::Violation;

/// What rounding costs at most, from a node's clock to the judge's and back, in nanoseconds.
const ROUNDING: u64 = 16;
/// A clock's rate if it is right.
const RIGHT: u128 = 1_000_000;

/// When how much of a group was known to be committed.
#[derive(Clone, Debug, Default)]
pub struct Commits(Vec<(u64, u64)>);

impl Commits {
    /// So much is committed now. Times do not go back.
    pub fn note(&mut self, now: u64, committed: u64) {
        if self.0.last().is_none_or(|(_, last)| *last < committed) {
            self.0.push((now, committed));
        }
    }

    /// How much was at that time.
    #[must_use]
    pub fn at(&self, time: u64) -> u64 {
        let after = self.0.partition_point(|(at, _)| *at <= time);
        after.checked_sub(1).map_or(0, |last| self.0[last].1)
    }

    /// How much was so long before a moment, by a clock of that rate, in parts per million.
    #[must_use]
    pub fn before(&self, moment: u64, by: Duration, rate_ppm: u32) -> u64 {
        let by = by.as_nanos().saturating_mul(RIGHT) / u128::from(rate_ppm.max(1));
        let by = u64::try_from(by).unwrap_or(u64::MAX).saturating_add(ROUNDING);
        moment.checked_sub(by).map_or(0, |time| self.at(time))
    }
}

/// A read, and what was promised to it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Its level.
    pub level: Consistency,
    /// When it was called.
    pub called: u64,
    /// How much of its group was known to be committed then.
    pub committed: u64,
    /// What a level of a session has to show: see [`Asked::floor`].
    pub floor: u64,
    /// At least how fast the clock of the node runs that answers, in parts per million of the right rate.
    pub rate_ppm: u32,
}

/// An answer, as far as levels go.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// A moment at which the answer had at least its age: when it was given, or any moment between that and the call.
    pub at: u64,
    /// The last entry that its state had seen.
    pub index: u64,
    /// Its age, if it carries one.
    pub staleness: Option<Duration>,
}

impl Asked {
    /// What of a session's two positions counts for a level.
    #[must_use]
    pub const fn floor(level: Consistency, seen: u64, written: u64) -> u64 {
        match level {
            Consistency::Monotonic => seen,
            Consistency::ReadMyWrites => written,
            _ => 0,
        }
    }

    /// Whether an answer shows what it must.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn judge(&self, shown: &Shown, commits: &Commits) -> Result<(), Violation> {
        let index = shown.index;
        if let Some(staleness) = shown.staleness {
            let least = commits.before(shown.at, staleness, self.rate_ppm);
            if index < least {
                let what = format!("at {index}, {staleness:?} old, and {least} were committed before");
                return Err(Violation::new("an age is what it says", what));
            }
        }
        let (rule, least) = match self.level {
            Consistency::Strong => ("strong reads are strong", self.committed),
            Consistency::BoundedStaleness(bound) => {
                ("bounded staleness", commits.before(self.called, bound, self.rate_ppm))
            }
            Consistency::Monotonic => ("monotonic reads", self.floor),
            Consistency::ReadMyWrites => ("reads see own writes", self.floor),
            Consistency::ConsistentPrefix | Consistency::Eventual => return Ok(()),
        };
        if index < least {
            return Err(Violation::new(rule, format!("at {index}, and not at {least}")));
        }
        Ok(())
    }

    /// Whether a replica that reports to be behind is: by what the session really has.
    ///
    /// # Errors
    /// The rule `who is behind says how far`.
    pub fn judge_refusal(&self, error: &ReadError) -> Result<(), Violation> {
        match *error {
            ReadError::Behind { applied, wanted } if wanted != Index(self.floor) || applied >= wanted => {
                let what = format!("at {applied}, not {wanted}; the session is at {}", self.floor);
                Err(Violation::new("who is behind says how far", what))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn commits() -> Commits {
        let mut commits = Commits::default();
        for (at, index) in [(10, 1), (20, 2), (20, 1), (30, 7)] {
            commits.note(at * MS, index);
        }
        commits
    }

    fn asked(level: Consistency, floor: u64) -> Asked {
        let called = 40 * MS;
        Asked { level, called, committed: commits().at(called), floor, rate_ppm: 1_000_000 }
    }

    fn rule_of(asked: &Asked, index: u64, staleness: Option<Duration>) -> Option<String> {
        let shown = Shown { at: asked.called, index, staleness };
        asked.judge(&shown, &commits()).err().map(|violation| violation.invariant)
    }

    #[test]
    fn what_was_committed_is_known_at_any_time() {
        let commits = commits();
        assert_eq!([9, 10, 29, 30, 99].map(|ms| commits.at(ms * MS)), [0, 1, 2, 7, 7]);
        assert_eq!(commits.before(40 * MS, Duration::from_millis(9), 1_000_000), 7);
        assert_eq!(commits.before(40 * MS, Duration::from_millis(11), 1_000_000), 2);
        assert_eq!(commits.before(40 * MS, Duration::MAX, 1_000_000), 0);
        // Ten of a slow clock are more than ten.
        assert_eq!(commits.before(40 * MS, Duration::from_micros(9_900), 1_000_000), 7);
        assert_eq!(commits.before(40 * MS, Duration::from_micros(9_900), 950_000), 2);
    }

    #[test]
    fn every_level_has_an_answer_that_breaks_it_and_one_that_just_does_not() {
        let within = |ms| Consistency::BoundedStaleness(Duration::from_millis(ms));
        let cases = [
            (Consistency::Strong, 0, 7, "strong reads are strong"),
            (within(11), 0, 2, "bounded staleness"),
            (within(21), 0, 1, "bounded staleness"),
            (Consistency::Monotonic, 5, 5, "monotonic reads"),
            (Consistency::ReadMyWrites, 5, 5, "reads see own writes"),
        ];
        for (level, floor, least, rule) in cases {
            let asked = asked(level, floor);
            assert_eq!(rule_of(&asked, least, None), None, "{level:?}");
            assert_eq!(rule_of(&asked, least - 1, None).as_deref(), Some(rule), "{level:?}");
        }
        for level in [Consistency::ConsistentPrefix, Consistency::Eventual] {
            assert_eq!(rule_of(&asked(level, 9), 0, None), None);
            let age = Some(Duration::from_millis(11));
            assert_eq!(rule_of(&asked(level, 9), 2, age), None);
            assert_eq!(rule_of(&asked(level, 9), 1, age).as_deref(), Some("an age is what it says"));
        }
    }

    #[test]
    fn a_refusal_must_be_true() {
        let asked = asked(Consistency::Monotonic, 5);
        let behind = |applied, wanted| ReadError::Behind { applied: Index(applied), wanted: Index(wanted) };
        assert!(asked.judge_refusal(&behind(4, 5)).is_ok() && asked.judge_refusal(&ReadError::Busy).is_ok());
        assert!(asked.judge_refusal(&behind(5, 5)).is_err() && asked.judge_refusal(&behind(3, 4)).is_err());
    }
}
