//! A log on a real file system that is too small for it, in every append mode: writes are refused, metadata
//! frames are accepted, and the lane recovers by itself. Needs root, `mkfs.ext4` and a loop device; prints so
//! where they are missing.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

mod small;

use std::path::Path;
use std::task::Waker;
use std::time::Duration;

use raftwerk_frame::frame::EntryKind;
use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, NodeId, Term};
use raftwerk_wal::{
    AppendMode, Directory, Disk, Lane, LaneOptions, LogError, Lsn, OsDisk, OsDiskOptions, OsFiles, Tail,
};
use small::{DISK_BYTES, Small};

fn open(path: &Path, mode: AppendMode) -> Lane<OsDisk> {
    let directory = Directory::open(OsFiles::new(path, mode).unwrap(), 1, 7).unwrap();
    let options = OsDiskOptions { retry_pause: Duration::from_millis(1), ..OsDiskOptions::default() };
    let disk = OsDisk::open(&directory, &options, Waker::noop().clone()).unwrap();
    let options = LaneOptions { segment_bytes: 4 << 20, ..LaneOptions::default() };
    Lane::open(disk, options).unwrap().0
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId::new(Term(term), Index(index))
}

fn settle<D: Disk>(lane: &mut Lane<D>) -> Lsn {
    let last = lane.submit().unwrap().unwrap();
    while lane.poll().unwrap().durable < last {
        std::thread::yield_now();
    }
    last
}

#[test]
fn a_full_disk_refuses_writes_takes_facts_and_heals_by_itself() {
    for mode in AppendMode::ALL {
        let Some(small) = Small::mount() else { return };
        fills_and_heals(&small.path().join("log"), mode);
    }
}

fn fills_and_heals(path: &Path, mode: AppendMode) {
    let mut lane = open(path, mode);
    assert_eq!(lane.stats().mode, mode);
    let slot = lane.attach(GroupId(1));
    let voters = Configuration::of_voters((1..=3).map(NodeId));
    lane.snapshot(slot, id(0, 0), &voters, Tail::Drop);
    let payload = vec![7; 64 << 10];
    let mut last = 0;
    let refused = loop {
        match lane.begin_frame(slot, id(last + 1, 1), payload.len() + 4) {
            Ok(mut frame) => {
                assert!(frame.push(EntryKind::Payload, &payload) && frame.finish().is_some());
            }
            Err(error) => break error,
        }
        last += 1;
        assert!(last * 64 < DISK_BYTES >> 10, "more than the disk holds");
        settle(&mut lane);
        // Once the disk is known to be full, callers get no room. The rest of a turn in progress is refused a
        // little later.
        while lane.turn_budget() == 0 && !lane.poll().unwrap().storage_full {
            std::thread::yield_now();
        }
    };
    assert!(matches!(refused, LogError::StorageFull), "{mode:?}: {refused}");

    // The reserve: for elections, membership changes and compaction.
    lane.hard_state(slot, HardState { term: Term(2), vote: Some(NodeId(1)) }).unwrap();
    lane.append_noop(slot, id(last + 1, 2)).unwrap();
    lane.append_membership(slot, id(last + 2, 2), &Configuration::of_voters([NodeId(1)])).unwrap();
    settle(&mut lane);
    lane.compact(slot, id(last + 2, 2));
    settle(&mut lane);
    while lane.turn_budget() == 0 {
        lane.poll().unwrap();
        std::thread::yield_now();
    }
    let mut frame = lane.begin_frame(slot, id(last + 3, 2), payload.len() + 4).unwrap();
    assert!(frame.push(EntryKind::Payload, &payload) && frame.finish().is_some());
    settle(&mut lane);
    drop(lane);
    let mut lane = open(path, mode);
    let slot = lane.attach(GroupId(1));
    assert_eq!((lane.last(slot), lane.compacted(slot)), (Index(last + 3), id(last + 2, 2)), "{mode:?}");
    assert_eq!(lane.latest_hard_state(slot).term, Term(2));
}

/// Another program fills the disk, to the last block.
fn fill_up(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path.join("ballast")).unwrap();
    for piece in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; piece]).is_ok() {}
        file.sync_all().unwrap();
    }
    let full = std::fs::write(path.join("one-more"), vec![1; 4096]);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_log_on_a_disk_without_a_free_block_opens_and_goes_on_in_its_spares() {
    for mode in AppendMode::ALL {
        let Some(small) = Small::mount() else { return };
        let path = small.path().join("log");
        let mut lane = open(&path, mode);
        let slot = lane.attach(GroupId(1));
        let payload = vec![7; 64 << 10];
        let mut last = 0;
        let mut write = |lane: &mut Lane<OsDisk>| {
            let slot = lane.attach(GroupId(1));
            let mut frame = lane.begin_frame(slot, id(last + 1, 1), payload.len() + 4).unwrap();
            assert!(frame.push(EntryKind::Payload, &payload) && frame.finish().is_some());
            last += 1;
            settle(lane);
            last
        };
        // Some segments are freed, and kept as spares.
        for _ in 0..100 {
            let last = write(&mut lane);
            lane.compact(slot, id(last, 1));
        }
        while std::fs::read_dir(path.join("lane-0"))
            .unwrap()
            .flatten()
            .all(|entry| !entry.file_name().into_string().unwrap().starts_with("spare-"))
        {
            write(&mut lane);
            lane.poll().unwrap();
        }
        drop(lane);
        // The mode is tested on the lock file, which has no block of its own where an earlier version wrote
        // none, or a backup omitted it; and there is no free block.
        std::fs::write(path.join("lock"), []).unwrap();
        fill_up(&small.path());
        for life in 0..2 {
            let mut lane = open(&path, mode);
            assert_eq!(lane.stats().mode, mode, "a full disk refuses no mode");
            let before = lane.stats().recycled;
            let last = write(&mut lane);
            assert!(lane.stats().recycled > before, "{mode:?}, life {life}: it is written to a spare");
            let slot = lane.attach(GroupId(1));
            assert_eq!(lane.last(slot), Index(last));
            lane.compact(slot, id(last, 1));
            settle(&mut lane);
        }
        // A lost copy of a small file does not prevent opening, either: there is no space to rewrite it.
        std::fs::remove_file(path.join("manifest")).unwrap();
        fill_up(&small.path());
        drop(open(&path, mode));
    }
}
