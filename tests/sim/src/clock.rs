//! A node's clock: its own origin, its own rate, and leaps. It never goes back, as a monotonic clock must not.

use raftwerk_frame::Time;

/// The clock of one life of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The world's time when this clock showed `base`.
    origin: u64,
    base: u64,
    /// Parts per million that it gains.
    drift_ppm: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    pub(crate) const fn new(now: u64, base: u64, drift_ppm: i64) -> Self {
        Self { origin: now, base, drift_ppm }
    }

    /// What it shows.
    pub(crate) fn local(&self, now: u64) -> Time {
        let passed = i128::from(now.saturating_sub(self.origin));
        let shown = passed * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        Time(self.base + shown as u64)
    }

    /// When it will show `at`, or a little later; never, if that is never.
    pub(crate) fn world(&self, at: Time) -> u64 {
        if at == Time::NEVER {
            return u64::MAX;
        }
        let shown = i128::from(at.0.saturating_sub(self.base));
        let passed = shown * MILLION / (MILLION + i128::from(self.drift_ppm)) + 1;
        self.origin.saturating_add(passed as u64)
    }

    /// Runs at another rate from now on. A clock that stands still goes on at that rate.
    pub(crate) fn run_at(&mut self, now: u64, drift_ppm: i64) {
        *self = Self { origin: self.origin.max(now), base: self.local(now).0, drift_ppm };
    }

    /// Shows what it shows now until then.
    pub(crate) fn stop(&mut self, now: u64, until: u64) {
        *self = Self { origin: until, base: self.local(now).0, drift_ppm: self.drift_ppm };
    }

    /// A clock that stands still goes on.
    pub(crate) fn go_on(&mut self, now: u64) {
        if self.origin > now {
            self.origin = now;
        }
    }

    /// Leaps ahead.
    pub(crate) fn leap(&mut self, now: u64, by: u64) {
        *self = Self { origin: now, base: self.local(now).0 + by, drift_ppm: self.drift_ppm };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_reaches_what_it_was_asked_for_and_never_goes_back() {
        for drift_ppm in [-20_000, 0, 20_000] {
            let mut clock = Clock::new(1_000, 77, drift_ppm);
            for wanted in [78, 1_000_000, 123_456_789_012] {
                let at = clock.world(Time(wanted));
                assert!(clock.local(at).0 >= wanted && clock.local(at).0 <= wanted + 2);
            }
            let before = clock.local(5_000_000);
            clock.leap(5_000_000, 10);
            assert_eq!(clock.local(5_000_000).0, before.0 + 10);
        }
        assert_eq!(Clock::new(0, 0, 5).world(Time::NEVER), u64::MAX);
    }

    #[test]
    fn a_clock_that_stops_goes_on_where_it_was_and_another_rate_leaves_no_gap() {
        let mut clock = Clock::new(1_000, 0, 0);
        clock.stop(2_000, 5_000);
        assert_eq!((clock.local(1_999).0, clock.local(5_000).0, clock.local(5_007).0), (1_000, 1_000, 1_007));
        assert!(clock.world(Time(1_007)) >= 5_007);
        clock.run_at(3_000, 50_000);
        assert_eq!(
            (clock.local(5_000).0, clock.local(6_000).0),
            (1_000, 2_050),
            "it stands still until then"
        );
        clock.run_at(6_000, -50_000);
        assert_eq!((clock.local(6_000).0, clock.local(7_000).0), (2_050, 3_000));
    }
}
