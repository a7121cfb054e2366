//! Disk health of a worker: whether its log makes progress. Its node heartbeats depend on it (rule 7 of
//! [`crate::worker::liveness::support`]).
//!
//! At any time a write is in flight, or one was finished within T, the election timeout: where no batch is, a
//! *probe* is written. So a disk that hangs is detected at most 2 T later, with or without load.
//!
//! A slow disk is not a failed one. A write of up to T changes nothing. A longer one is a hang, and makes the
//! worker *stalled*: it leads no group that another node can lead. When the disk completes writes again, the
//! worker is healthy after a back-off of T without a hang; if it stalls again soon after that, the back-off
//! doubles, up to [`BACK_OFF_MAX`]. So a disk that hangs repeatedly does not move leadership back and forth,
//! and no worker is excluded for good.
//!
//! A segment that entries wait for must arrive in time, too, but takes longer to make: up to four times T is
//! healthy.
//!
//! What is not here: writing probes, and the effect of a stall on other nodes (`worker::liveness::nodes`).
//! Pure: time is a number.

use std::time::Duration;

use raftwerk_frame::Time;

/// The longest back-off, in T.
const BACK_OFF_MAX: u32 = 8;
/// How long the next segment may take to be made, in T, while entries wait for it: making one writes much.
const SEGMENT_PATIENCE: u32 = 4;
/// A worker that was healthy for so long, in T, starts again with the shortest back-off.
const BACK_OFF_RESET_AFTER: u32 = 32;

/// The disk health of a worker.
#[derive(Debug)]
pub(crate) struct DiskHealth {
    /// T.
    patience: Duration,
    /// When a write last finished, or the worker began.
    finished: Time,
    /// Since when a probe is in flight.
    probed: Option<Time>,
    /// Since when entries wait for a segment.
    awaited: Option<Time>,
    is_healthy: bool,
    /// When it last changed between healthy and stalled.
    changed: Time,
    /// The back-off after which it is healthy again.
    back_off: Duration,
    /// If stalled: since when nothing has hung.
    unhung_since: Option<Time>,
}

impl DiskHealth {
    pub(crate) const fn new(now: Time, patience: Duration) -> Self {
        Self {
            patience,
            finished: now,
            probed: None,
            awaited: None,
            is_healthy: true,
            changed: Time(0),
            back_off: Duration::ZERO,
            unhung_since: None,
        }
    }

    /// A batch, or a probe, is durable.
    pub(crate) fn finished(&mut self, now: Time) {
        self.finished = now;
    }

    /// A probe is in flight.
    pub(crate) fn probe_in_flight(&mut self, now: Time) {
        self.probed.get_or_insert(now);
    }

    /// No probe is in flight.
    pub(crate) fn probe_done(&mut self, now: Time) {
        if self.probed.take().is_some() {
            self.finished(now);
        }
    }

    /// Entries wait until the next segment is made.
    pub(crate) fn segment_awaited(&mut self, now: Time) {
        self.awaited.get_or_insert(now);
    }

    /// No entries wait for a segment.
    pub(crate) const fn segment_made(&mut self) {
        self.awaited = None;
    }

    /// Whether nothing was finished for so long that a probe is due. False while a write is in flight.
    pub(crate) fn wants_probe(&self, now: Time, oldest: Option<Time>) -> bool {
        self.since(oldest).is_none() && self.finished + self.patience <= now
    }

    /// Whether a write has been in flight for longer than T, or a segment outstanding for longer than four.
    /// `oldest`: since when the oldest batch has been in flight.
    pub(crate) fn is_hung(&self, now: Time, oldest: Option<Time>) -> bool {
        self.hangs_at(oldest) < now
    }

    /// The time from which it counts as hung, if nothing is finished before.
    fn hangs_at(&self, oldest: Option<Time>) -> Time {
        let answer = self.since(oldest).map_or(Time::NEVER, |since| since + self.patience);
        let segment = self.awaited.map_or(Time::NEVER, |since| since + self.patience * SEGMENT_PATIENCE);
        answer.min(segment)
    }

    /// Re-evaluates; returns whether the worker is healthy.
    pub(crate) fn evaluate(&mut self, now: Time, oldest: Option<Time>) -> bool {
        if self.is_hung(now, oldest) {
            self.unhung_since = None;
            if self.is_healthy {
                let is_repeated = self.back_off > Duration::ZERO
                    && now < self.changed + self.patience * BACK_OFF_RESET_AFTER;
                self.back_off = if is_repeated { 2 * self.back_off } else { self.patience }
                    .min(self.patience * BACK_OFF_MAX);
                (self.is_healthy, self.changed) = (false, now);
            }
        } else if !self.is_healthy && self.finished >= *self.unhung_since.get_or_insert(now) + self.back_off {
            (self.is_healthy, self.changed) = (true, now);
        }
        self.is_healthy
    }

    /// When the writes now in flight will count as hung.
    pub(crate) fn next_deadline(&self, now: Time, oldest: Option<Time>) -> Time {
        let hangs_at = Time(self.hangs_at(oldest).0.saturating_add(1));
        if hangs_at > now { hangs_at } else { Time::NEVER }
    }

    /// Since when the disk has had a write outstanding. It could not begin a write submitted while it was
    /// busy before it had finished the earlier ones.
    fn since(&self, oldest: Option<Time>) -> Option<Time> {
        oldest.into_iter().chain(self.probed).min().map(|since| since.max(self.finished))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_millis(500);

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    /// A write hangs from `from` to `to`; then quick writes follow until the worker is healthy. Returns when
    /// that is.
    fn hang(disk_health: &mut DiskHealth, from: u64, to: u64) -> u64 {
        assert!(disk_health.evaluate(at(from), Some(at(from))));
        assert!(!disk_health.evaluate(at(to), Some(at(from))));
        disk_health.finished(at(to));
        (to..)
            .step_by(10)
            .find(|ms| {
                disk_health.finished(at(*ms));
                disk_health.evaluate(at(*ms), None)
            })
            .unwrap()
    }

    #[test]
    fn where_nothing_is_written_it_asks_once_in_t_and_a_disk_that_does_not_answer_hangs() {
        let mut disk_health = DiskHealth::new(at(0), T);
        assert!(!disk_health.wants_probe(at(499), None) && disk_health.wants_probe(at(500), None));
        assert!(!disk_health.wants_probe(at(500), Some(at(400))), "a batch tells as much");
        disk_health.probe_in_flight(at(500));
        assert_eq!(disk_health.next_deadline(at(600), None), Time(at(1000).0 + 1));
        assert!(!disk_health.wants_probe(at(5000), None), "one is enough");
        assert!(disk_health.evaluate(at(1000), None) && !disk_health.evaluate(at(1001), None));
        assert_eq!(disk_health.next_deadline(at(1001), None), Time::NEVER);
        disk_health.probe_done(at(2000));
        assert!(!disk_health.wants_probe(at(2499), None) && disk_health.wants_probe(at(2500), None));
    }

    #[test]
    fn a_segment_that_is_not_made_hangs_whatever_else_the_disk_does() {
        let mut disk_health = DiskHealth::new(at(0), T);
        for ms in (0..=2_000).step_by(100) {
            disk_health.finished(at(ms));
            disk_health.segment_awaited(at(ms));
            assert!(disk_health.evaluate(at(ms), None));
        }
        assert_eq!(disk_health.next_deadline(at(2_000), None), Time(at(2_000).0 + 1));
        disk_health.finished(at(2_001));
        assert!(!disk_health.evaluate(at(2_001), None));
        disk_health.segment_made();
        assert!(
            !disk_health.is_hung(at(2_002), None)
                && disk_health.next_deadline(at(2_002), None) == Time::NEVER
        );
    }

    #[test]
    fn slow_is_not_dead() {
        let mut disk_health = DiskHealth::new(at(0), T);
        for ms in (0..60_000).step_by(500) {
            assert!(disk_health.evaluate(at(ms + 500), Some(at(ms))));
            disk_health.finished(at(ms + 500));
        }
    }

    #[test]
    fn a_batch_that_waits_for_others_does_not_hang() {
        let mut disk_health = DiskHealth::new(at(0), T);
        // Submitted at the same time, four batches are written one after the other.
        for ms in [400, 800, 1_200, 1_600] {
            assert!(disk_health.evaluate(at(ms), Some(at(0))));
            disk_health.finished(at(ms));
        }
    }

    #[test]
    fn who_hung_is_well_after_a_calm_and_after_a_longer_one_each_time_that_it_happens_again() {
        let mut disk_health = DiskHealth::new(at(0), T);
        let mut now = 1_000;
        for back_off in [500, 1_000, 2_000, 4_000, 4_000, 4_000] {
            let well_at = hang(&mut disk_health, now, now + 900);
            assert_eq!(well_at, now + 900 + back_off);
            now = well_at + 1_000;
        }
        now += 20_000;
        assert_eq!(hang(&mut disk_health, now, now + 900), now + 900 + 500, "that was long ago");
    }

    #[test]
    fn calm_is_only_where_something_was_finished() {
        let mut disk_health = DiskHealth::new(at(0), T);
        assert!(!disk_health.evaluate(at(1_000), Some(at(0))));
        disk_health.finished(at(1_100));
        assert!(!disk_health.evaluate(at(1_100), None) && !disk_health.evaluate(at(9_000), None));
        disk_health.probe_in_flight(at(9_000));
        assert!(!disk_health.evaluate(at(9_100), None));
        disk_health.probe_done(at(9_200));
        assert!(disk_health.evaluate(at(9_200), None));
    }
}
