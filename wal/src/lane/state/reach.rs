//! How far behind its end the log is read, which is how much of it is worth keeping in memory.
//!
//! Entries are read when they are applied and when they are sent: under load tens of megabytes behind the end.
//! Not here: the batches that are kept (`recent`), and the budget (`memory`).

use std::cell::Cell;
use std::time::Duration;

use raftwerk_frame::Time;

/// What was read longer ago than twice this does not count.
const PERIOD: Duration = Duration::from_secs(5);

/// The farthest reads of this period and the last one.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// In this period, in bytes of the log behind its end.
    farthest: Cell<u64>,
    before: u64,
    since: Time,
}

impl Reach {
    /// A place so many bytes of the log behind its end was read.
    pub(crate) fn note(&self, bytes: u64) {
        self.farthest.set(self.farthest.get().max(bytes));
    }

    /// Sets the time, which never falls.
    pub(crate) fn set_time(&mut self, now: Time) {
        assert!(now >= self.since, "the time of a lane never falls");
        let age = now.since(self.since);
        if age >= PERIOD {
            let farthest = self.farthest.take();
            self.before = if age < 2 * PERIOD { farthest } else { 0 };
            self.since = now;
        }
    }

    /// The farthest of the reads that count.
    pub(crate) fn bytes(&self) -> u64 {
        self.farthest.get().max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_read_counts_for_one_period_and_the_rest_of_its_own() {
        let mut reach = Reach::default();
        let at = |millis: u64| Time(Duration::from_millis(millis).as_nanos() as u64);
        [7, 30, 9].iter().for_each(|bytes| reach.note(*bytes));
        assert_eq!(reach.bytes(), 30);
        reach.set_time(at(4_999));
        reach.note(4);
        assert_eq!(reach.bytes(), 30);
        reach.set_time(at(5_000));
        reach.note(5);
        assert_eq!(reach.bytes(), 30);
        reach.set_time(at(10_000));
        assert_eq!(reach.bytes(), 5);
        reach.set_time(at(30_000));
        assert_eq!(reach.bytes(), 0, "nothing was read for long");
    }
}
