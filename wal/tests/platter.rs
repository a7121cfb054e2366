//! The log through the real calls of each append mode, on a model of the device that has only what was
//! synced: whenever the power is cut, everything acknowledged is there; and a device that reports false
//! syncs, or a log that does not sync, is detected.
//!
//! Needs no privileges. The same on a file system of our own: `forgetful_disk`.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;

use raftwerk_frame::frame::{self, Entries, EntryKind};
use raftwerk_frame::{EntryId, GroupId, Index, Term};
use raftwerk_wal::platter::{Platter, PowerLoss};
use raftwerk_wal::simulated::{MemoryFiles, SectorFate};
use raftwerk_wal::{
    Access, AppendMode, Directory, Durability, FileObserver, Files, Lane, LaneOptions, Lsn, OsDisk,
    OsDiskOptions, OsFiles,
};

const ENTRIES: u64 = 120;
const UNDER_WAY_MAX: usize = 4;

fn options() -> LaneOptions {
    LaneOptions {
        segment_bytes: 32 << 10,
        frame_bytes_max: 8 << 10,
        recent_bytes: 0,
        ..LaneOptions::default()
    }
}

/// A small generator; the same numbers in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn files(root: &Path, mode: AppendMode, platter: Option<&Arc<Platter>>) -> OsFiles {
    let observer = platter.map(|platter| Arc::clone(platter) as Arc<dyn FileObserver>);
    OsFiles::durable(root, mode, observer).unwrap()
}

fn open(files: OsFiles, sync: bool) -> Lane<OsDisk> {
    let directory = Directory::open(files, 1, 7).unwrap();
    let of_disk = OsDiskOptions { sync, ..OsDiskOptions::default() };
    Lane::open(OsDisk::open(&directory, &of_disk, Waker::noop().clone()).unwrap(), options()).unwrap().0
}

fn payload(index: u64) -> Vec<u8> {
    format!("entry {index} ").repeat(30 + index as usize % 50).into_bytes()
}

/// The last index of the log; checks that every entry in it is as written.
fn reach(lane: &mut Lane<OsDisk>) -> u64 {
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

/// The variations of a run besides synced appends.
#[derive(Clone, Copy, Default)]
struct Life {
    /// The log does not sync.
    unsynced: bool,
    /// The device reports false syncs once this many entries are acknowledged.
    lies_after: Option<u64>,
    /// Every other batch is relaxed.
    relaxed: bool,
}

/// Appends from `index` on until `until` is acknowledged, and returns that with batches in flight. Calls
/// `told` for each acknowledgement.
fn append(lane: &mut Lane<OsDisk>, mut index: u64, until: u64, life: Life, mut told: impl FnMut(u64)) -> u64 {
    let slot = lane.attach(GroupId(1));
    let (mut under_way, mut acknowledged) = (Vec::<(Lsn, u64)>::new(), index);
    while acknowledged < until {
        while index < ENTRIES && under_way.len() < UNDER_WAY_MAX {
            index += 1;
            let bytes = payload(index);
            let mut frame =
                lane.begin_frame(slot, EntryId::new(Term(1), Index(index)), bytes.len() + 4).unwrap();
            if life.relaxed && index % 2 == 1 {
                frame.relax();
                assert!(frame.push(EntryKind::Payload, &bytes) && frame.finish().is_some());
                lane.submit_relaxed().unwrap();
            } else {
                assert!(frame.push(EntryKind::Payload, &bytes) && frame.finish().is_some());
                under_way.push((lane.submit().unwrap().unwrap(), index));
            }
            if index.is_multiple_of(40) {
                lane.compact(slot, EntryId::new(Term(1), Index(index - 20)));
            }
        }
        let durable = lane.poll().unwrap().durable;
        under_way.retain(|(lsn, index)| {
            let is_durable = *lsn <= durable;
            acknowledged = if is_durable { *index } else { acknowledged };
            !is_durable
        });
        told(acknowledged);
        std::thread::yield_now();
    }
    acknowledged
}

/// One run up to a power cut after `until` acknowledgements, and the next one on what is left, which appends
/// the rest. Returns the acknowledged entries, those found, and the losses.
fn cut_after(mode: AppendMode, until: u64, life: Life, seed: Option<u64>) -> (u64, u64, PowerLoss) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let platter = Arc::new(Platter::new(at("live"), at("store")).unwrap());
    let mut lane = open(files(&at("live"), mode, Some(&platter)), !life.unsynced);
    let acknowledged = append(&mut lane, 0, until, life, |acknowledged| {
        if life.lies_after.is_some_and(|after| after <= acknowledged) {
            platter.lie();
        }
    });
    Platter::cut([&*platter]);
    drop(lane);
    let mut chance = seed.map(Chance);
    let loss =
        platter.leave(&at("left"), |_| chance.as_mut().is_some_and(|chance| chance.below(2) == 1)).unwrap();
    let mut lane = open(files(&at("left"), mode, None), true);
    let reached = reach(&mut lane);
    append(&mut lane, reached, ENTRIES, Life::default(), |_| {});
    drop(lane);
    assert_eq!(reach(&mut open(files(&at("left"), mode, None), true)), ENTRIES);
    (acknowledged, reached, loss)
}

#[test]
fn log_has_what_it_acknowledged_whenever_power_is_cut() {
    for mode in AppendMode::ALL {
        let mut in_doubt = PowerLoss::default();
        for until in [1, 7, 40, 63, 96] {
            for seed in [None, Some(until)] {
                let life = Life { relaxed: until % 3 == 0, ..Life::default() };
                let (acknowledged, reached, loss) = cut_after(mode, until, life, seed);
                let context = format!("{}, {until}, {seed:?}, {loss:?}", mode.name());
                assert!(reached >= acknowledged, "{context}: {reached} of {acknowledged}");
                assert!(seed.is_some() || loss.sectors_kept + loss.names_kept == 0, "{context}");
                in_doubt.unsynced_bytes += loss.unsynced_bytes;
                in_doubt.sectors_lost += loss.sectors_lost;
            }
        }
        assert!(
            in_doubt.unsynced_bytes > 0 && in_doubt.sectors_lost > 0,
            "power was cut with nothing under way"
        );
    }
}

#[test]
fn missing_syncs_are_seen() {
    for mode in AppendMode::ALL {
        let unsynced = Life { unsynced: true, ..Life::default() };
        let (acknowledged, reached, _) = cut_after(mode, ENTRIES, unsynced, None);
        assert!(reached < acknowledged, "{}: a log that does not sync", mode.name());
        let lied_to = Life { lies_after: Some(50), ..Life::default() };
        let (acknowledged, reached, _) = cut_after(mode, ENTRIES, lied_to, None);
        assert!((50..acknowledged).contains(&reached), "{}: {reached} of {acknowledged}", mode.name());
    }
}

#[test]
fn calls_fail_once_power_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let platter = Arc::new(Platter::new(folder.path().join("live"), folder.path().join("store")).unwrap());
    let files = files(&folder.path().join("live"), AppendMode::Buffered, Some(&platter));
    let file = files.create("file", 0).unwrap();
    files.write_at(&file, 0, &[IoSlice::new(b"bytes")], Durability::Synced).unwrap();
    assert!(platter.leave(&folder.path().join("left"), |_| true).is_err(), "the power is on");
    Platter::cut([&*platter]);
    assert!(files.sync_dir("").is_err() && files.sync(&file).is_err() && files.remove("file").is_err());
    assert!(files.write_at(&file, 0, &[IoSlice::new(b"other")], Durability::Buffered).is_err());
    assert!(Platter::new(folder.path().join("live"), folder.path().join("store 2")).is_err(), "not empty");
}

/// Names and bytes of all files.
type Image = BTreeMap<String, Vec<u8>>;

fn image_of(left: &Path) -> Image {
    let mut image = Image::new();
    for dir in ["", "lane-0"] {
        for entry in std::fs::read_dir(left.join(dir)).into_iter().flatten() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let name = format!("{dir}/{}", entry.file_name().into_string().unwrap());
                image.insert(name.trim_start_matches('/').to_owned(), std::fs::read(entry.path()).unwrap());
            }
        }
    }
    image
}

/// The same random calls on the model of the device and on the simulated disk, which are independent
/// implementations.
#[test]
fn platter_and_disk_in_memory_are_left_with_the_same() {
    const NAMES: [&str; 6] = ["a", "b", "c", "lane-0/a", "lane-0/b", "lane-0/c"];
    for seed in 0..60 {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let platter = Arc::new(Platter::new(at("live"), at("store")).unwrap());
        let real = files(&at("live"), AppendMode::Buffered, Some(&platter));
        let memory = MemoryFiles::new();
        // The simulated disk takes for granted that a directory's name is durable.
        for dir in ["", "lane-0"] {
            real.create_dir(dir).and(memory.create_dir(dir)).unwrap();
        }
        real.sync_dir("").unwrap();
        let mut chance = Chance(seed);
        for _ in 0..chance.below(80) {
            step(&real, &memory, &mut chance, &NAMES);
        }
        let is_all_there = seed % 2 == 1;
        Platter::cut([&*platter]);
        let loss = platter.leave(&at("left"), |_| is_all_there).unwrap();
        let left = if is_all_there {
            memory.after_power_cut_with_all_names(|_, _| SectorFate::New)
        } else {
            memory.after_power_cut(|_, _| SectorFate::Old)
        };
        let paths = left.paths().into_iter();
        let wanted: Image = paths.map(|path| (path.clone(), left.content(&path).unwrap())).collect();
        assert_eq!(image_of(&at("left")), wanted, "seed {seed}, {loss:?}");
    }
}

fn step(real: &OsFiles, memory: &MemoryFiles, chance: &mut Chance, names: &[&'static str]) {
    let any = |chance: &mut Chance| names[chance.below(names.len() as u64) as usize];
    let (name, kind) = (any(chance), chance.below(10));
    let opened = || Some((real.open(name, Access::Plain).ok()?, memory.open(name, Access::Plain).ok()?));
    match kind {
        0 => {
            let bytes = chance.below(3) * 700;
            drop((real.create(name, bytes).unwrap(), memory.create(name, bytes).unwrap()));
        }
        1..=4 => {
            let Some((file, twin)) = opened() else { return };
            let (offset, length) = (chance.below(3000), 1 + chance.below(2000) as usize);
            let bytes = vec![1 + chance.below(255) as u8; length];
            let parts = [IoSlice::new(&bytes[..length / 2]), IoSlice::new(&bytes[length / 2..])];
            let durability = if kind == 4 { Durability::Synced } else { Durability::Buffered };
            real.write_at(&file, offset, &parts, durability).unwrap();
            // The simulated disk has no durable write that leaves the rest of the file unsynced.
            memory.write_at(&twin, offset, &parts, Durability::Buffered).unwrap();
            if kind == 4 {
                memory.sync(&twin).unwrap();
            }
        }
        5 | 6 => {
            let Some((file, twin)) = opened() else { return };
            real.sync(&file).and(memory.sync(&twin)).unwrap();
        }
        7 => {
            let dir = if chance.below(2) == 0 { "" } else { "lane-0" };
            real.sync_dir(dir).and(memory.sync_dir(dir)).unwrap();
        }
        8 => {
            // A log never moves a file between directories; the simulated disk does not support it.
            let to = any(chance);
            if to != name && Path::new(to).parent() == Path::new(name).parent() && opened().is_some() {
                real.rename(name, to).and(memory.rename(name, to)).unwrap();
            }
        }
        _ => {
            if opened().is_some() {
                real.remove(name).and(memory.remove(name)).unwrap();
            }
        }
    }
}
