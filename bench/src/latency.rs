//! Latencies: recorded in nanoseconds, reported in microseconds.
//!
//! Whether a time was measured from when an operation left or from when it should have left is the
//! [`client`](crate::client)'s affair.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer ones are recorded as this.
const NANOS_MAX: u64 = 600_000_000_000;

/// A histogram with three significant digits, some hundred KiB, a few nanoseconds per record.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(100, NANOS_MAX, 3).expect("the bounds are valid constants"))
    }
}

impl Latencies {
    /// Counts one operation that took `nanos`.
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Counts all that another has counted, too.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so nothing is out of range.
        let _fits = self.0.add(&other.0);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The figures; `None` if nothing was counted.
    #[must_use]
    pub fn summary(&self) -> Option<LatencyUs> {
        if self.0.is_empty() {
            return None;
        }
        let us = |nanos: u64| (nanos as f64 / 100.0).round() / 10.0;
        let at = |quantile| us(self.0.value_at_quantile(quantile));
        Some(LatencyUs {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: us(self.0.max()),
        })
    }
}

/// Quantiles in microseconds, to a tenth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencyUs {
    /// Half were at most this.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// 99.99 %.
    pub p9999: f64,
    /// The longest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        for us in 1..=10_000u64 {
            latencies.record(us * 1000);
        }
        let summary = latencies.summary().unwrap();
        let close = |value: f64, wanted: f64| (value / wanted - 1.0).abs() < 0.002;
        assert!(close(summary.p50, 5_000.0) && close(summary.p90, 9_000.0) && close(summary.p99, 9_900.0));
        assert!(
            close(summary.p999, 9_990.0) && close(summary.p9999, 9_999.0) && close(summary.max, 10_000.0)
        );
        assert_eq!(latencies.count(), 10_000);
    }

    #[test]
    fn what_is_out_of_range_is_kept_at_the_edge() {
        let mut latencies = Latencies::default();
        latencies.record(0);
        latencies.record(u64::MAX);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.summary().unwrap().max >= 600_000_000.0);
    }
}
