//! A write or sync fails, and the page cache keeps pages marked clean that the device does not have. The
//! process is restarted in place, and the machine keeps running: what the next run reports as durable is on
//! the device.
//!
//! The same through a real system's calls, in every append mode: `wal/tests/forgetful_disk.rs`.

use super::*;
use crate::disk::simulated::{Call, Fate, Outcome, SectorFate};

/// The n-th write or sync of a segment fails that way.
struct FailsOnce(u64);

impl Fate for FailsOnce {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        let (Call::Write { .. } | Call::Sync(_)) = call else { return Outcome::Done };
        self.0 = self.0.wrapping_sub(1);
        if self.0 == 0 { Outcome::FailStale(std::io::ErrorKind::Other) } else { Outcome::Done }
    }
}

/// Appends `entries` entries, or until one fails. Returns the last durable one.
fn live(lane: &mut MemoryLane, is_relaxed: bool, entries: u64) -> u64 {
    let slot = lane.attach(GroupId(1));
    let mut durable = lane.last(slot).0;
    for index in durable + 1..=durable + entries {
        if is_relaxed {
            append_relaxed(lane, slot, id(index, 1), 300);
            // Several are synced later, together.
            if !index.is_multiple_of(3) {
                continue;
            }
            let _lsn = lane.sync().unwrap();
        } else {
            append(lane, slot, id(index, 1), 1, 300);
        }
        let Ok(last) = lane.submit() else { return durable };
        let last = last.unwrap_or(lane.marks.submitted());
        loop {
            match lane.poll() {
                Ok(progress) if progress.durable >= last => break,
                Ok(_) => {}
                Err(_) => return durable,
            }
        }
        durable = index;
    }
    durable
}

#[test]
fn what_a_new_life_calls_durable_is_on_the_device() {
    for is_relaxed in [false, true] {
        let (mut failures, mut kept_in_cache) = (0, 0);
        for n in 1.. {
            let files = MemoryFiles::new();
            let (mut lane, ..) = open(&files);
            live(&mut lane, false, 2);
            files.decided_by(Some(Box::new(FailsOnce(n))));
            let durable = live(&mut lane, is_relaxed, 12);
            let has_failed = lane.poll().is_err();
            drop(lane);
            files.decided_by(None);
            // Restart in place: the cached pages are there.
            let (mut lane, _, report) = open(&files);
            let slot = lane.attach(GroupId(1));
            let reached = lane.last(slot).0;
            assert!(reached >= durable, "write {n}");
            assert_eq!(story(&lane, slot).entries.len() as u64, reached);
            assert!(!has_failed || report.damage.is_empty());
            // Now the machine stops. This run has written nothing yet, and has reported everything it found
            // as durable.
            let device = files.after_power_cut(|_, _| SectorFate::Old);
            let (mut left, ..) = open(&device);
            let slot = left.attach(GroupId(1));
            assert_eq!(left.last(slot).0, reached, "write {n}: what opening found is not on the device");
            // Alternatively the run continues before that.
            let more = live(&mut lane, is_relaxed, 6);
            let device = files.after_power_cut(|_, _| SectorFate::Old);
            let (mut left, ..) = open(&device);
            let slot = left.attach(GroupId(1));
            assert!(left.last(slot).0 >= more, "write {n}: {} of {more}", left.last(slot).0);
            failures += u32::from(has_failed);
            kept_in_cache += u32::from(has_failed && durable < 14 && reached == durable);
            if !has_failed && n > 60 {
                break;
            }
        }
        assert!(failures > 5 && kept_in_cache > 0, "{failures} failures, {kept_in_cache}");
    }
}
