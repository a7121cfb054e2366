//! The pace of bulk writes. Pure.
//!
//! A checkpoint can be as large as a group's whole state. Written at once it fills the device's queue, and
//! every entry waits behind it: see "Checkpoints beside appends" in `engine/docs/log_format.md` for the cost.
//! So a save is written in steps, each of them synced, with a pause after it proportional to the step's
//! duration: the slower the device, the longer. The pause shrinks as the log fills: freeing the log must not
//! be slower than filling it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The longest pause after one step: a device that stalled for seconds must not delay a save for minutes.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The longest pause as a multiple of its step's duration.
const PAUSE_FACTOR_MAX: u32 = 3;

/// The pace of one lane's saves: set by the lane, read by the snapshot thread.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The pause as a multiple of the step's duration.
    pause_factor: AtomicU32,
}

impl Pace {
    /// Adapts the pace to a log of `bytes` that should stay below `bytes_max`.
    pub(crate) fn adapt(&self, bytes: u64, bytes_max: u64) {
        let pause_factor = match bytes {
            _ if bytes > bytes_max / 4 * 3 => 0,
            _ if bytes > bytes_max / 2 => 1,
            _ => PAUSE_FACTOR_MAX,
        };
        assert!(pause_factor <= PAUSE_FACTOR_MAX, "a pause is set within its bound");
        self.pause_factor.store(pause_factor, Ordering::Relaxed);
    }

    /// Saves without pauses: the disk has no space for more of the log.
    pub(crate) fn hurry(&self) {
        self.pause_factor.store(0, Ordering::Relaxed);
    }

    /// How long a save pauses after a step that took `worked`.
    pub(crate) fn pause_after(&self, worked: Duration) -> Duration {
        let pause_factor = self.pause_factor.load(Ordering::Relaxed);
        assert!(pause_factor <= PAUSE_FACTOR_MAX, "a pause is taken within its bound");
        worked.saturating_mul(pause_factor).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_hurries_as_the_log_fills_and_never_pauses_for_long() {
        let (pace, step) = (Pace::default(), Duration::from_millis(2));
        let pause_at = |bytes| {
            pace.adapt(bytes, 1000);
            pace.pause_after(step)
        };
        assert_eq!(pause_at(0), 3 * step);
        assert_eq!(pause_at(500), 3 * step);
        assert_eq!(pause_at(501), step);
        assert_eq!(pause_at(751), Duration::ZERO);
        pace.hurry();
        assert_eq!(pace.pause_after(step), Duration::ZERO);
        pace.adapt(u64::MAX - 1, u64::MAX);
        assert_eq!(pace.pause_after(step), Duration::ZERO);
        pace.adapt(0, u64::MAX);
        assert_eq!(pace.pause_after(Duration::from_secs(9)), PAUSE_MAX);
    }
}
