//! How long to wait before a connection is tried again: full jitter under a doubling ceiling.
//!
//! Pure arithmetic from a seed; what is not here: clocks and timers (`dial.rs`).
use std::time::Duration;

/// The waits of one dialler.
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
    ceiling: Duration,
    state: u64,
}

impl Backoff {
    /// Waits below a ceiling that starts at `first` and doubles up to `last`.
    pub(crate) fn new(first: Duration, last: Duration, seed: u64) -> Self {
        Self { first, last, ceiling: first, state: seed }
    }

    /// The next wait, uniform in zero to the ceiling; raises the ceiling.
    pub(crate) fn next(&mut self) -> Duration {
        let share = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        let wait = self.ceiling.mul_f64(share);
        self.ceiling = (self.ceiling * 2).min(self.last);
        wait
    }

    /// A connection was made: start over.
    pub(crate) fn reset(&mut self) {
        self.ceiling = self.first;
    }

    /// SplitMix64: enough to keep nodes from dialling in step.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_below_a_ceiling_that_doubles_and_stops(seed: u64) {
            let (first, last) = (Duration::from_millis(50), Duration::from_secs(5));
            let mut backoff = Backoff::new(first, last, seed);
            let mut ceiling = first;
            for _ in 0..20 {
                prop_assert!(backoff.next() <= ceiling);
                ceiling = (ceiling * 2).min(last);
            }
            backoff.reset();
            prop_assert!(backoff.next() <= first);
        }
    }

    #[test]
    fn waits_of_one_dialler_are_spread() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second, 7);
        let waits: std::collections::BTreeSet<Duration> = (0..8).map(|_| backoff.next()).collect();
        assert_eq!(waits.len(), 8);
    }

    #[test]
    fn different_seeds_do_not_wait_in_step() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5), seed);
            (0..4).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2));
        assert_eq!(waits(3), waits(3));
    }
}
