//! A log on a file system that loses what was not synced, through the real calls of each append mode.
//! Whenever the power is cut, everything reported as durable is there.
//!
//! Needs `/dev/fuse` and permission to mount; where these are missing, it prints so and is skipped. Run it
//! alone with `cargo test -p raftwerk-wal --test forgetful_disk -- --nocapture`. Every crash on the simulated
//! disk: `wal/src/tests`.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use raftwerk_frame::frame::{self, Entries, EntryKind};
use raftwerk_frame::{EntryId, GroupId, Index, Term};
use raftwerk_wal::simulated::{Call, Fate, MemoryFiles, Outcome, SectorFate, StepDisk};
use raftwerk_wal::{
    AppendMode, Directory, Disk, Durability, Lane, LaneOptions, Lsn, OsDisk, OsDiskOptions, OsFiles,
};

mod forgetful;

use self::forgetful::Mounted;

const ENTRIES: u64 = 120;
const UNDER_WAY_MAX: usize = 4;

fn mounted(files: MemoryFiles) -> Option<Mounted> {
    let mounted = Mounted::new(files);
    if let Err(why) = &mounted {
        eprintln!("SKIPPED, no file system of our own can be mounted: {why}");
    }
    mounted.ok()
}

fn options() -> LaneOptions {
    LaneOptions {
        segment_bytes: 32 << 10,
        frame_bytes_max: 8 << 10,
        recent_bytes: 0,
        ..LaneOptions::default()
    }
}

/// Opens the log again, in place, as a restarted process; the machine keeps running.
fn open_again(mounted: &Mounted, mode: AppendMode) -> Lane<OsDisk> {
    open(mounted, mode, true)
}

fn open(mounted: &Mounted, mode: AppendMode, sync: bool) -> Lane<OsDisk> {
    let directory = Directory::open(OsFiles::new(mounted.path(), mode).unwrap(), 1, 7).unwrap();
    let options_of_disk = OsDiskOptions { sync, ..OsDiskOptions::default() };
    let disk = OsDisk::open(&directory, &options_of_disk, Waker::noop().clone()).unwrap();
    Lane::open(disk, options()).unwrap().0
}

fn payload(index: u64) -> Vec<u8> {
    format!("entry {index} ").repeat(30 + index as usize % 50).into_bytes()
}

/// The last index of the log; checks that every entry in it is as written.
fn reach<D: Disk>(lane: &mut Lane<D>) -> u64 {
    let slot = lane.attach(GroupId(1));
    let (mut next, last) = (lane.first(slot), lane.last(slot));
    while next <= last {
        let found = lane.read(slot, next, last, 1).unwrap()[0];
        let bytes = lane.bytes(found.place).unwrap();
        let (header, body) = frame::parse(&bytes).unwrap();
        for entry in Entries::new(&header, body) {
            assert_eq!(entry.payload, payload(entry.id.index.0));
        }
        next = found.last.next();
    }
    last.0
}

/// A small generator; the same fates in every run.
struct Chance(u64);

impl Chance {
    fn fate(&mut self) -> SectorFate {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (self.0 >> 33) % 3 {
            0 => SectorFate::Old,
            1 => SectorFate::New,
            _ => SectorFate::Garbage((self.0 >> 40) as u8),
        }
    }
}

/// Appends, with a simulated power cut after each acknowledgement. Returns how many acknowledged entries the
/// worst cut took, and how often unacknowledged entries were left.
fn live(mounted: &Mounted, mode: AppendMode, sync: bool) -> (u64, u32) {
    let mut lane = open(mounted, mode, sync);
    assert_eq!(lane.stats().mode, mode, "the file system takes every mode");
    let slot = lane.attach(GroupId(1));
    let (mut under_way, mut acknowledged, mut index) = (Vec::<(Lsn, u64)>::new(), 0, 0);
    let (mut chance, mut worst, mut longer) = (Chance(mode as u64 + 1), 0, 0);
    while acknowledged < ENTRIES {
        while index < ENTRIES && under_way.len() < UNDER_WAY_MAX {
            index += 1;
            let bytes = payload(index);
            let mut frame =
                lane.begin_frame(slot, EntryId::new(Term(1), Index(index)), bytes.len() + 4).unwrap();
            assert!(frame.push(EntryKind::Payload, &bytes) && frame.finish().is_some());
            under_way.push((lane.submit().unwrap().unwrap(), index));
            if index % 40 == 0 {
                lane.compact(slot, EntryId::new(Term(1), Index(index - 20)));
            }
        }
        let durable = lane.poll().unwrap().durable;
        let before = acknowledged;
        under_way.retain(|(lsn, index)| {
            let is_durable = *lsn <= durable;
            acknowledged = if is_durable { *index } else { acknowledged };
            !is_durable
        });
        if acknowledged == before {
            std::thread::yield_now();
            continue;
        }
        for is_all_lost in [true, false] {
            let fate = |_: &str, _| if is_all_lost { SectorFate::Old } else { chance.fate() };
            let left = mounted.power_cut(fate);
            let directory = Directory::open(left, 1, 7).unwrap();
            let reached = match Lane::open(StepDisk::new(directory), options()) {
                Ok((mut lane, ..)) => reach(&mut lane),
                Err(error) => {
                    assert!(!sync, "{}: an honest crash looks like damage: {error}", mode.name());
                    0
                }
            };
            worst = worst.max(acknowledged.saturating_sub(reached));
            longer += u32::from(reached > acknowledged);
        }
    }
    (worst, longer)
}

#[test]
fn what_was_acknowledged_outlives_a_file_system_that_forgets() {
    for mode in AppendMode::ALL {
        let Some(mounted) = mounted(MemoryFiles::new()) else { return };
        let (lost, longer) = live(&mounted, mode, true);
        eprintln!("{}: {longer} cuts left more than was acknowledged", mode.name());
        assert_eq!(lost, 0, "{}", mode.name());
        // The next run, through the same calls.
        let left = mounted.power_cut(|_, _| SectorFate::Old);
        drop(mounted);
        let Some(again) = self::mounted(left) else { return };
        assert_eq!(reach(&mut open(&again, mode, true)), ENTRIES, "{}", mode.name());
    }
}

/// Proves that the file system loses unsynced data: a log that does not sync loses acknowledged entries.
#[test]
fn a_log_that_does_not_sync_is_forgotten() {
    for mode in AppendMode::ALL {
        let Some(mounted) = mounted(MemoryFiles::new()) else { return };
        let (lost, _) = live(&mounted, mode, false);
        assert!(lost > 0, "{}", mode.name());
    }
}

#[test]
fn only_what_is_synced_is_there_after_a_power_cut() {
    let Some(mounted) = mounted(MemoryFiles::new()) else { return };
    let file = File::create(mounted.path().join("file")).unwrap();
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_all().unwrap();
    let left = || mounted.power_cut(|_, _| SectorFate::Old);
    assert_eq!(left().paths(), [""; 0], "its name is not durable");
    File::open(mounted.path()).unwrap().sync_all().unwrap();
    file.write_all_at(b"unsynced, and longer", 0).unwrap();
    assert_eq!(std::fs::read(mounted.path().join("file")).unwrap(), b"unsynced, and longer");
    assert_eq!(left().content("file").unwrap(), b"synced");
}

/// The next sync, or durable write, fails, and no other call.
struct FailsNext(Arc<AtomicBool>);

impl Fate for FailsNext {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        let is_it = matches!(call, Call::Sync(_) | Call::Write { durability: Durability::Synced, .. });
        let fails = is_it && self.0.swap(false, Ordering::SeqCst);
        if fails { Outcome::FailStale(std::io::ErrorKind::Other) } else { Outcome::Done }
    }
}

fn append(lane: &mut Lane<OsDisk>, index: u64, is_relaxed: bool) -> Result<(), String> {
    let slot = lane.attach(GroupId(1));
    let bytes = payload(index);
    let mut frame = lane.begin_frame(slot, EntryId::new(Term(1), Index(index)), bytes.len() + 4).unwrap();
    if is_relaxed {
        frame.relax();
    }
    assert!(frame.push(EntryKind::Payload, &bytes) && frame.finish().is_some());
    let sentence = |error: &dyn std::fmt::Display| error.to_string();
    if is_relaxed {
        lane.submit_relaxed().map_err(|error| sentence(&error))?;
        lane.sync().map_err(|error| sentence(&error))?;
    }
    let last = lane.submit().map_err(|error| sentence(&error))?.unwrap_or(lane.last_appended());
    while lane.poll().map_err(|error| sentence(&error))?.durable < last {
        std::thread::yield_now();
    }
    Ok(())
}

/// A page with a failed sync is marked clean, and cached: reads find it there, and another sync succeeds.
#[test]
fn what_is_called_durable_after_a_failed_sync_is_on_the_device() {
    for (mode, is_relaxed) in AppendMode::ALL.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        let context = format!("{} {}", mode.name(), if is_relaxed { "relaxed" } else { "synced" });
        let Some(mounted) = mounted(MemoryFiles::new()) else { return };
        let mut lane = open(&mounted, mode, true);
        for index in 1..=3 {
            append(&mut lane, index, is_relaxed).unwrap();
        }
        // Segments are prepared in parallel to appends, and must not receive the failure meant for an append.
        while lane.stats().ready_segments < options().ready_segments {
            lane.poll().unwrap();
            std::thread::yield_now();
        }
        let fails = Arc::new(AtomicBool::new(true));
        mounted.files().decided_by(Some(Box::new(FailsNext(Arc::clone(&fails)))));
        assert!(append(&mut lane, 4, is_relaxed).is_err(), "{context}");
        assert!(!fails.load(Ordering::SeqCst), "{context}");
        drop(lane);
        let mut lane = open_again(&mounted, mode);
        let reached = reach(&mut lane);
        let left = |files: MemoryFiles| {
            let directory = Directory::open(files, 1, 7).unwrap();
            reach(&mut Lane::open(StepDisk::new(directory), options()).unwrap().0)
        };
        assert_eq!(
            left(mounted.power_cut(|_, _| SectorFate::Old)),
            reached,
            "{context}: it is not on the device"
        );
        append(&mut lane, reached + 1, is_relaxed).unwrap();
        assert_eq!(left(mounted.power_cut(|_, _| SectorFate::Old)), reached + 1, "{context}");
    }
}
