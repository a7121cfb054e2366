//! Batches that need not be synced: written at once, durable with the next synced one, and never a hole.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::*;
use crate::disk::files::Durability;
use crate::disk::simulated::{Call, Fate, Outcome, SectorFate};
use crate::format::segment::PAGE_BYTES;

/// One relaxed frame.
fn relaxed<D: Disk>(lane: &mut Lane<D>, slot: GroupSlot, index: u64) {
    let mut frame = lane.begin_frame(slot, id(index, 1), 1000).unwrap();
    frame.relax();
    assert!(frame.push(EntryKind::Payload, &payload(index, 1, 900)));
    assert!(frame.finish().is_some());
}

/// A lane with one durable entry.
fn begun(files: &MemoryFiles) -> (MemoryLane, GroupSlot) {
    let (mut lane, ..) = open(files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 900);
    settle(&mut lane);
    (lane, slot)
}

fn entries(files: &MemoryFiles) -> usize {
    stories(&open(files).0)[&GroupId(1)].entries.len()
}

fn power_cut(files: &MemoryFiles, fate: SectorFate) -> MemoryFiles {
    files.after_power_cut(|_, _| fate)
}

#[test]
fn what_asks_for_no_sync_is_written_and_not_called_durable() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    let syncs = lane.stats().syncs;
    relaxed(&mut lane, slot, 2);
    let submitted = lane.submit_relaxed().unwrap().unwrap();
    let progress = lane.poll().unwrap();
    assert_eq!((progress.written, progress.durable), (submitted, Lsn(1)));
    assert!(lane.has_unsynced());
    let stats = lane.stats();
    assert_eq!((stats.syncs, stats.relaxed_batches, stats.queued_bytes > 0), (syncs, 1, true));
    drop(lane);
    assert_eq!(entries(&power_cut(&files, SectorFate::Old)), 1, "a power cut may take it");
    assert_eq!(entries(&power_cut(&files, SectorFate::Garbage(7))), 1, "and that is no damage");
    assert_eq!(entries(&files), 2, "the end of the process does not");
}

#[test]
fn the_next_synced_batch_makes_everything_before_it_durable() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    relaxed(&mut lane, slot, 2);
    lane.submit_relaxed().unwrap();
    append(&mut lane, slot, id(3, 1), 1, 900);
    let last = settle(&mut lane);
    assert!(!lane.has_unsynced() && lane.poll().unwrap().written == last);
    drop(lane);
    assert_eq!(entries(&power_cut(&files, SectorFate::Old)), 3);
}

#[test]
fn a_sync_on_demand_makes_it_durable_and_says_nothing_new() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    assert_eq!(lane.sync().unwrap(), None, "there is nothing to sync");
    relaxed(&mut lane, slot, 2);
    lane.submit_relaxed().unwrap();
    let synced = lane.sync().unwrap().unwrap();
    while lane.poll().unwrap().durable < synced {}
    assert!(!lane.has_unsynced());
    relaxed(&mut lane, slot, 3);
    settle(&mut lane);
    let before = stories(&lane);
    drop(lane);
    let (lane, _, report) = open(&power_cut(&files, SectorFate::Old));
    assert_eq!((stories(&lane), report.batches), (before, 4));
}

#[test]
fn a_sync_covers_every_segment_that_was_written_without() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    let mut index = 1;
    let first = lane.segments.current().sequence;
    // Below the bound at which unsynced batches are synced at once.
    lane.options.queue_bytes_max = 1 << 20;
    while lane.segments.current().sequence < first + 2 {
        index += 1;
        relaxed(&mut lane, slot, index);
        lane.submit_relaxed().unwrap();
        lane.poll().unwrap();
    }
    assert_eq!(lane.poll().unwrap().durable, Lsn(1));
    index += 1;
    append(&mut lane, slot, id(index, 1), 1, 900);
    settle(&mut lane);
    drop(lane);
    assert_eq!(entries(&power_cut(&files, SectorFate::Old)) as u64, index);
}

#[test]
fn a_turn_with_a_fact_or_an_entry_of_the_usual_kind_is_synced() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    relaxed(&mut lane, slot, 2);
    lane.hard_state(slot, HardState { term: Term(2), vote: None }).unwrap();
    lane.submit_relaxed().unwrap();
    assert!(!lane.has_unsynced(), "a vote waits for nobody");
    let other = lane.attach(GroupId(2));
    relaxed(&mut lane, slot, 3);
    append(&mut lane, other, id(1, 1), 1, 20);
    let last = lane.submit_relaxed().unwrap().unwrap();
    assert!(!lane.has_unsynced());
    while lane.poll().unwrap().durable < last {}
    assert_eq!(lane.stats().relaxed_batches, 0);
}

#[test]
fn a_follower_puts_off_the_sync_of_frames_that_say_so() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    let mut out = vec![0; 4096];
    let mut writer = FrameWriter::new(&mut out, GroupId(1), id(2, 1)).unwrap();
    writer.relax();
    assert!(writer.push(EntryKind::Payload, b"two"));
    let header = writer.finish().unwrap();
    lane.append_frame(slot, &out[..header.frame_bytes()], &header).unwrap();
    lane.submit_relaxed().unwrap();
    assert!(lane.has_unsynced());
    let plain = frame_of(1, id(3, 1), &[(EntryKind::Payload, b"three".to_vec())]);
    let (header, _) = frame::parse(&plain).unwrap();
    lane.append_frame(slot, &plain, &header).unwrap();
    lane.submit_relaxed().unwrap();
    assert!(!lane.has_unsynced());
}

#[test]
fn much_that_is_unsynced_is_synced_before_it_fills_the_queue() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    for index in 2..100 {
        relaxed(&mut lane, slot, index);
        lane.submit_relaxed().unwrap();
        lane.poll().unwrap();
        assert!(lane.stats().queued_bytes <= lane.options.queue_bytes_max as u64 / 2);
    }
    assert!(lane.poll().unwrap().durable > Lsn(50));
}

#[test]
fn a_failed_sync_poisons_what_was_written_before_it_too() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    for _ in 0..9 {
        lane.poll().unwrap(); // segments are made ahead
    }
    relaxed(&mut lane, slot, 2);
    lane.submit_relaxed().unwrap();
    lane.poll().unwrap();
    lane.sync().unwrap();
    files.fail_change(2, 1, std::io::ErrorKind::Other); // the write, then the sync
    assert!(lane.poll().is_err());
    files.heal();
    assert!(lane.sync().is_err() && lane.marks.durable() == Lsn(1));
}

#[test]
fn the_real_disk_writes_first_and_syncs_later_in_every_mode() {
    for mode in AppendMode::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (mut lane, ..) = open_os(dir.path(), mode, small());
        let slot = lane.attach(GroupId(1));
        append(&mut lane, slot, id(1, 1), 1, 900);
        settle(&mut lane);
        let (durable, mut index) = (lane.marks.durable(), 1);
        for _ in 0..3 {
            index += 1;
            relaxed(&mut lane, slot, index);
            let submitted = lane.submit_relaxed().unwrap().unwrap();
            while lane.poll().unwrap().written < submitted {
                std::thread::yield_now();
            }
            assert_eq!(lane.marks.durable(), durable, "{mode:?}");
        }
        let synced = lane.sync().unwrap().unwrap();
        while lane.poll().unwrap().durable < synced {
            std::thread::yield_now();
        }
        let before = stories(&lane);
        drop(lane);
        assert_eq!(stories(&open_os(dir.path(), mode, small()).0), before);
    }
}

#[test]
fn small_batches_share_a_page_up_to_the_one_that_syncs_them() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    let page = PAGE_BYTES as u64;
    let (begins, bytes) = (lane.write_offset, lane.stats().bytes_synced);
    assert!(begins.is_multiple_of(page));
    for index in 2..=6 {
        append_relaxed(&mut lane, slot, id(index, 1), 100);
        lane.poll().unwrap();
    }
    assert!(lane.write_offset - begins < page / 2);
    // The first batch wrote its whole page, and each of the others only itself.
    assert!(lane.stats().bytes_synced - bytes < page + page / 2);
    let synced = lane.sync().unwrap().unwrap();
    while lane.poll().unwrap().durable < synced {}
    assert_eq!(lane.write_offset, begins + page, "what comes now has a page of its own");
    append(&mut lane, slot, id(7, 1), 1, 100);
    settle(&mut lane);
    assert_eq!(lane.write_offset, begins + 2 * page);
    let before = stories(&lane);
    drop(lane);
    let (lane, _, report) = open(&power_cut(&files, SectorFate::Old));
    assert_eq!((stories(&lane), report.batches), (before, 8));
}

/// Panics at a write to a page that holds durable data. A file's pages are forgotten when it is reused.
#[derive(Default)]
struct PagesOnce {
    written: BTreeSet<(String, u64)>,
    durable: BTreeSet<(String, u64)>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Fate for PagesOnce {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        match call {
            Call::Write { path, offset: 0, .. } => {
                self.written.retain(|(of, _)| of != path);
                self.durable.retain(|(of, _)| of != path);
            }
            Call::Write { path, offset, bytes, durability } => {
                let page = PAGE_BYTES as u64;
                for number in offset / page..(offset + bytes as u64).div_ceil(page) {
                    let at = (path.to_owned(), number);
                    if self.durable.contains(&at) {
                        *self.broken.lock().unwrap() = Some(format!("{path}: page {number}"));
                    }
                    if durability == Durability::Synced {
                        self.durable.insert(at)
                    } else {
                        self.written.insert(at)
                    };
                }
            }
            Call::Sync(path) => {
                let (synced, rest) =
                    std::mem::take(&mut self.written).into_iter().partition(|(of, _)| of == path);
                self.written = rest;
                self.durable.extend::<BTreeSet<_>>(synced);
            }
            _ => {}
        }
        Outcome::Done
    }
}

#[test]
fn nothing_is_written_to_a_page_that_holds_something_durable() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    lane.disk_mut().runs_by_itself = false;
    let broken = Arc::default();
    files.decided_by(Some(Box::new(PagesOnce { broken: Arc::clone(&broken), ..PagesOnce::default() })));
    let (mut dice, mut index) = (0x5EED_u64, 1);
    let mut roll = |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % below
    };
    let (mut shared, mut synced) = (0, 0);
    while lane.stats().recycled < 12 {
        index += 1;
        let bytes = [10, 90, 700, 5000][roll(4) as usize];
        if roll(4) > 0 {
            append_relaxed(&mut lane, slot, id(index, 1), bytes);
            shared += u64::from(!lane.write_offset.is_multiple_of(PAGE_BYTES as u64));
        } else {
            append(&mut lane, slot, id(index, 1), 1, bytes);
            synced += u64::from(lane.submit().unwrap().is_some());
        }
        for _ in 0..roll(4) {
            let _is_busy = lane.disk_mut().run_background() || lane.disk_mut().run_appends();
            lane.poll().unwrap();
        }
        if lane.turn_budget() == 0 || lane.live_bytes(slot) > 40 << 10 {
            lane.disk_mut().runs_by_itself = true;
            lane.compact(slot, id(index - 1, 1));
            settle(&mut lane);
            lane.disk_mut().runs_by_itself = false;
        }
        assert_eq!(*broken.lock().unwrap(), None, "at entry {index}");
    }
    assert!(shared > 20 && synced > 20, "{shared} batches left room, {synced} were synced");
    lane.disk_mut().runs_by_itself = true;
    lane.hard_state(slot, HardState::default()).unwrap();
    settle(&mut lane);
    let before = stories(&lane);
    drop(lane);
    files.decided_by(None);
    assert_eq!(stories(&open(&power_cut(&files, SectorFate::Garbage(9))).0), before);
}

#[test]
fn batches_that_wait_together_are_one_write_whether_they_share_a_page_or_not() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    lane.disk_mut().runs_by_itself = false;
    while lane.disk_mut().run_background() || lane.disk_mut().run_appends() {
        lane.poll().unwrap();
    }
    for index in 2..=4 {
        append_relaxed(&mut lane, slot, id(index, 1), 30);
    }
    append(&mut lane, slot, id(5, 1), 1, 30);
    let last = lane.submit().unwrap().unwrap();
    let calls = files.changes();
    assert!(lane.disk_mut().run_appends());
    assert_eq!(files.changes() - calls, 2, "a write and a sync");
    assert_eq!(lane.poll().unwrap().durable, last);
    let before = stories(&lane);
    drop(lane);
    assert_eq!(stories(&open(&power_cut(&files, SectorFate::Old)).0), before);
}

#[test]
fn a_batch_in_the_middle_of_a_page_vouches_for_what_was_durable() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    lane.disk_mut().runs_by_itself = false;
    let damaged = lane.write_offset;
    append(&mut lane, slot, id(2, 1), 1, 30);
    let durable = lane.submit().unwrap().unwrap();
    // Sealed before the other is known to be durable: it begins its own page, and claims nothing new.
    append_relaxed(&mut lane, slot, id(3, 1), 30);
    while lane.disk_mut().run_background() || lane.disk_mut().run_appends() {
        lane.poll().unwrap();
    }
    assert_eq!(lane.poll().unwrap().durable, durable, "the other one is not");
    append_relaxed(&mut lane, slot, id(4, 1), 30);
    assert!(lane.disk_mut().run_appends());
    lane.poll().unwrap();
    drop(lane);
    let path = "lane-0/seg-0000000000000001.log";
    assert!(files.rot(path, damaged + 70, 1));
    match open_in(&files, small()) {
        Err(OpenError::Corrupt { file, offset, .. }) => assert_eq!((&*file, offset), (path, damaged)),
        other => panic!("acknowledged, and gone without a word: {:?}", other.map(|opened| opened.2)),
    }
}
