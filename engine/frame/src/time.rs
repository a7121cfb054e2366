//! A point in time as a number. The driver of the engine supplies it; this code reads no clock.

use core::ops::Add;
use core::time::Duration;

/// Nanoseconds since an origin that the driver chose. Only differences are meaningful, and only within one
/// process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Later than every deadline: "never".
    pub const NEVER: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates at [`Time::NEVER`].
    fn add(self, by: Duration) -> Self {
        let nanos = if by.as_secs() > u64::MAX / 2_000_000_000 { u64::MAX } else { by.as_nanos() as u64 };
        Self(self.0.saturating_add(nanos))
    }
}
