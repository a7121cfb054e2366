//! A log on a real file system that is too small for it, in every append mode: writes are refused, facts go through, and
//! service resumes by itself. Needs root, `mkfs.ext4` and a loop device; says so where they are missing.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::task::Waker;
use std::time::Duration;

use raftwerk_frame::frame::EntryKind;
use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, NodeId, Term};
use raftwerk_wal::{
    AppendMode, Directory, Disk, Lane, LaneOptions, LogError, Lsn, OsDisk, OsDiskOptions, OsFiles,
};

const DISK_BYTES: u64 = 64 << 20;

/// A small file system, for as long as it lives.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn mount() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, point) = (dir.path().join("image"), dir.path().join("point"));
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(DISK_BYTES).map_err(|error| error.to_string())?;
        std::fs::create_dir(&point).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Self { dir })
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("point/log")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(self.dir.path().join("point")));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

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
        let small = match Small::mount() {
            Ok(small) => small,
            Err(why) => {
                eprintln!("SKIPPED, no small disk can be had: {why}");
                return;
            }
        };
        fills_and_heals(&small.log(), mode);
    }
}

fn fills_and_heals(path: &Path, mode: AppendMode) {
    let mut lane = open(path, mode);
    assert_eq!(lane.stats().mode, mode);
    let slot = lane.attach(GroupId(1));
    let voters = Configuration::of_voters((1..=3).map(NodeId));
    lane.snapshot(slot, id(0, 0), &voters, false);
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
        // Once it is known that there is no space, callers see no room. What a turn had begun is refused a little later.
        while lane.room() == 0 && !lane.poll().unwrap().storage_full {
            std::thread::yield_now();
        }
    };
    assert!(matches!(refused, LogError::StorageFull), "{mode:?}: {refused}");

    // The reserve: what elections, changes of membership and compaction need.
    lane.hard_state(slot, HardState { term: Term(2), vote: Some(NodeId(1)) }).unwrap();
    lane.append_noop(slot, id(last + 1, 2)).unwrap();
    lane.append_membership(slot, id(last + 2, 2), &Configuration::of_voters([NodeId(1)])).unwrap();
    settle(&mut lane);
    lane.compact(slot, id(last + 2, 2));
    settle(&mut lane);
    while lane.room() == 0 {
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
