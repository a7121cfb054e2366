//! A process at its limit of open files: a state, which is reported and counted, and ends by itself. A
//! program of its own, since the limit is process-wide.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::path::Path;
use std::task::Waker;
use std::time::Duration;

use raftwerk_frame::frame::EntryKind;
use raftwerk_frame::{EntryId, GroupId, Index, Term};
use raftwerk_wal::{
    AppendMode, Directory, Lane, LaneOptions, LogError, Lsn, OsDisk, OsDiskOptions, OsFiles, Shortage,
    raise_open_files_limit,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn open(path: &Path, mode: AppendMode) -> Lane<OsDisk> {
    let directory = Directory::open(OsFiles::new(path, mode).unwrap(), 1, 7).unwrap();
    let options = OsDiskOptions { retry_pause: Duration::from_millis(1), ..OsDiskOptions::default() };
    let disk = OsDisk::open(&directory, &options, Waker::noop().clone()).unwrap();
    let options = LaneOptions {
        segment_bytes: 64 << 10,
        frame_bytes_max: 8 << 10,
        queue_bytes_max: 1 << 20,
        log_bytes_max: u64::MAX,
        recent_bytes: 0,
        ..LaneOptions::default()
    };
    Lane::open(disk, options).unwrap().0
}

fn append(lane: &mut Lane<OsDisk>, index: u64) -> Lsn {
    let slot = lane.attach(GroupId(1));
    loop {
        match lane.begin_frame(slot, EntryId::new(Term(1), Index(index)), 4004) {
            Ok(mut frame) => {
                assert!(frame.push(EntryKind::Payload, &[index as u8; 4000]) && frame.finish().is_some());
                return lane.submit().unwrap().unwrap();
            }
            Err(LogError::Busy) => drop(lane.poll().unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
}

fn settle(lane: &mut Lane<OsDisk>, last: Lsn) {
    while lane.poll().unwrap().durable < last {
        std::thread::yield_now();
    }
}

/// Open descriptors of files below a folder.
fn open_below(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    links.filter_map(|link| std::fs::read_link(link.path()).ok()).filter(|to| to.starts_with(path)).count()
}

fn limit(soft: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum }).unwrap();
}

#[test]
fn out_of_descriptors_is_told_and_counted_and_heals_by_itself() {
    for mode in AppendMode::ALL {
        limit(100);
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut lane = open(dir.path(), mode);
        let mut index = 0;
        // The segments of a log with only live data: one descriptor each, and a few for the next ones.
        while lane.stats().segments < 12 {
            index += 1;
            let last = append(&mut lane, index);
            settle(&mut lane, last);
        }
        let (below, segments) = (open_below(dir.path()), lane.stats().segments);
        assert!(below <= segments + 10, "{}: {below} descriptors, {segments} segments", mode.name());

        // The next file opened gets a descriptor over the limit.
        limit(3);
        let mut last = Lsn(0);
        while lane.poll().unwrap().shortage.is_none() {
            if lane.turn_budget() > 0 {
                index += 1;
                last = append(&mut lane, index);
            }
            std::thread::yield_now();
        }
        let progress = lane.poll().unwrap();
        assert_eq!(
            (progress.shortage, progress.storage_full),
            (Some(Shortage::OpenFiles), false),
            "{}",
            mode.name()
        );
        assert!(lane.stats().preparations.no_open_files > 0);
        for _ in 0..40 {
            index += 1;
            last = append(&mut lane, index);
        }
        assert!(lane.poll().unwrap().durable < last, "there is nowhere to write it to");

        // The same limit, raised as the engine does at opening.
        let raised = raise_open_files_limit();
        assert!(raised.before == Some(3) && raised.now.is_none_or(|now| now > 100), "{raised:?}");
        settle(&mut lane, last);
        assert_eq!(lane.poll().unwrap().shortage, None);
        let spares_before = lane.stats().recycled;
        drop(lane);
        let mut lane = open(dir.path(), mode);
        let slot = lane.attach(GroupId(1));
        assert_eq!((lane.last(slot), spares_before), (Index(index), 0), "{}", mode.name());
    }
}
