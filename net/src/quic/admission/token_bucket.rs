//! A token bucket: the rate limiter of handshakes and of Initial packets.
//!
//! Pure: time is a number of nanoseconds.
use super::SECOND;

/// A token bucket: a burst, and a rate per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    /// In billionths of a token, so that a rate times nanoseconds gives the increment.
    level: u64,
    at: u64,
    per_second: u64,
}

impl TokenBucket {
    /// A full bucket: the tokens of a second.
    pub(super) fn new(per_second: u64, now: u64) -> Self {
        Self { level: per_second * SECOND, at: now, per_second }
    }

    /// Takes one token; false if there is none.
    pub(super) fn take(&mut self, now: u64) -> bool {
        let full = self.per_second * SECOND;
        let gained = now.saturating_sub(self.at).min(SECOND) * self.per_second;
        self.level = (self.level + gained).min(full);
        self.at = self.at.max(now);
        let has_one = self.level >= SECOND;
        self.level -= if has_one { SECOND } else { 0 };
        has_one
    }
}
