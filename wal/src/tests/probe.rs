//! An occasional page of zeros, where the next batch will lie: it leaves no trace in the log.

use super::*;
use crate::disk::simulated::{Call, Fate, Outcome, SectorFate};

/// Every call fails.
struct Broken;

impl Fate for Broken {
    fn decide(&mut self, _: Call<'_>) -> Outcome {
        Outcome::Fail(std::io::ErrorKind::Other)
    }
}

/// Writes a probe, as soon as a segment has space for it, and waits for it.
fn probe<D: Disk>(lane: &mut Lane<D>) {
    while !lane.probe().unwrap() {
        lane.poll().unwrap();
        std::thread::yield_now();
    }
    while lane.is_probing() {
        lane.poll().unwrap();
        std::thread::yield_now();
    }
}

fn is_as_if_nothing_had_been<D: Disk>(open: &mut dyn FnMut() -> Opened<D>) {
    let (mut lane, _, _) = open();
    let slot = lane.attach(GroupId(1));
    // Enough that batches end at a segment's last byte, and probes begin the next one.
    for index in 1..=40 {
        append(&mut lane, slot, id(index, 1), 1, 3 << 10);
        settle(&mut lane);
        probe(&mut lane);
        probe(&mut lane);
    }
    let (before, stats) = (stories(&lane), lane.stats());
    assert_eq!((stats.probes, stats.batches, stats.queued_bytes), (80, 40, 0));
    assert!(stats.segments > 2, "it has gone through some segments");
    drop(lane);
    let (lane, _, report) = open();
    assert_eq!((stories(&lane), report.last, report.torn), (before, Lsn(40), None));
}

#[test]
fn what_is_written_between_probes_is_found_again_in_memory() {
    let files = MemoryFiles::new();
    is_as_if_nothing_had_been(&mut || open(&files));
}

#[test]
fn what_is_written_between_probes_is_found_again_on_a_file_system() {
    for mode in [AppendMode::Buffered, AppendMode::Direct] {
        let folder = tempfile::tempdir().unwrap();
        is_as_if_nothing_had_been(&mut || open_os(folder.path(), mode, small()));
    }
}

#[test]
fn a_probe_waits_for_nothing_that_tells_as_much_and_batches_wait_for_a_probe() {
    let files = MemoryFiles::new();
    let (mut lane, _, _) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 10);
    lane.disk_mut().runs_by_itself = false;
    lane.submit().unwrap();
    assert!(!lane.probe().unwrap(), "a batch is on its way");
    while lane.disk_mut().run_background() {}
    lane.poll().unwrap();
    lane.disk_mut().run_appends();
    assert_eq!(lane.poll().unwrap().durable, Lsn(1));
    assert!(lane.probe().unwrap());
    assert!(!lane.probe().unwrap(), "one is enough");
    append(&mut lane, slot, id(2, 1), 1, 10);
    lane.submit().unwrap();
    assert_eq!((lane.poll().unwrap().durable, lane.is_probing()), (Lsn(1), true));
    lane.disk_mut().run_appends();
    assert_eq!((lane.poll().unwrap().durable, lane.is_probing()), (Lsn(2), false));
    let before = stories(&lane);
    drop(lane);
    assert_eq!(stories(&open(&files).0), before);
}

#[test]
fn a_probe_that_fails_poisons_the_lane() {
    let files = MemoryFiles::new();
    let (mut lane, _, _) = open(&files);
    lane.poll().unwrap();
    files.decided_by(Some(Box::new(Broken)));
    assert!(lane.probe().unwrap());
    assert!((0..8).any(|_| lane.poll().is_err()));
    assert!(lane.probe().is_err());
}

#[test]
fn a_probe_that_a_power_cut_tears_is_no_damage() {
    let files = MemoryFiles::new();
    let (mut lane, _, _) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 10);
    settle(&mut lane);
    let before = stories(&lane);
    probe(&mut lane);
    drop(lane);
    let path = files.paths().into_iter().find(|path| path.ends_with(".log")).unwrap();
    for garbage in [0x00, 0x5A, 0xFF] {
        let files = files.after_power_cut(|_, _| SectorFate::New);
        files.overwrite(&path, 2 * 4096 + 512, &[garbage; 1024]);
        let (lane, _, report) = open(&files);
        assert_eq!((stories(&lane), report.last, report.damage.len()), (before.clone(), Lsn(1), 0));
    }
}
