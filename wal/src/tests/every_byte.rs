//! Every byte of a small log is cut off, flipped, zeroed, and replaced by the byte of the file's earlier
//! incarnation, in memory and on a file system in each append mode, by the same function.
//!
//! A log that opens has exactly the content written; a refusal names the file, and an offset at or before the
//! damage. Only the last batch may be lost: no later record claims it. In memory every byte of every file is
//! damaged; on a file system every byte that is in use, and one in [`Ground::STRIDE`] of the padding, of
//! unused pages and of spares.
//!
//! Not here: more than one wrong byte (`losses`, `crash_images`), and the later course of fenced replicas
//! (`salvage`).

use std::fs;
use std::iter::once;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::*;
use crate::format::batch::{BatchHeader, BatchPosition};
use crate::format::segment::PAGE_BYTES;
use crate::{Files, OnDamage, SegmentHeader};

/// A place for a log whose files the test can tamper with directly.
trait Ground {
    type Files: Files + Clone;
    /// Of the unused bytes, one in this many is damaged.
    const STRIDE: usize;
    fn files(&self) -> Self::Files;
    fn paths(&self) -> Vec<String>;
    fn content(&self, path: &str) -> Vec<u8>;
    /// Restores the file's content; it must not be open.
    fn put(&self, path: &str, bytes: &[u8]);
    fn remove(&self, path: &str);
}

impl Ground for MemoryFiles {
    type Files = Self;
    const STRIDE: usize = 1;

    fn files(&self) -> Self {
        self.clone()
    }

    fn paths(&self) -> Vec<String> {
        Self::paths(self)
    }

    fn content(&self, path: &str) -> Vec<u8> {
        Self::content(self, path).unwrap()
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        Self::put(self, path, bytes.to_vec());
    }

    fn remove(&self, path: &str) {
        Files::remove(self, path).unwrap();
    }
}

/// A folder of a file system.
struct Folder {
    dir: tempfile::TempDir,
    files: OsFiles,
}

impl Folder {
    /// In memory if the system has such a file system that supports the mode, since a hundred thousand
    /// openings each sync something. `None` if no available file system supports it.
    fn that_takes(mode: AppendMode) -> Option<Self> {
        let places = ["/dev/shm".into(), std::env::temp_dir(), env!("CARGO_MANIFEST_DIR").into()];
        places.into_iter().find_map(|place: std::path::PathBuf| {
            let dir = tempfile::tempdir_in(place).ok()?;
            let files = OsFiles::new(dir.path(), mode).ok()?;
            (files.mode() == mode).then_some(Self { dir, files })
        })
    }
}

impl Ground for Folder {
    type Files = OsFiles;
    const STRIDE: usize = 61;

    fn files(&self) -> OsFiles {
        self.files.clone()
    }

    fn paths(&self) -> Vec<String> {
        let in_lane = self.files.list("lane-0").unwrap().into_iter().map(|name| format!("lane-0/{name}"));
        let mut paths: Vec<String> = in_lane.chain(self.files.list("").unwrap()).collect();
        paths.retain(|path| path != "lock");
        paths.sort_unstable();
        paths
    }

    fn content(&self, path: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(path)).unwrap()
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(self.dir.path().join(path)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.dir.path().join(path)).unwrap();
    }
}

fn tiny(on_damage: OnDamage) -> LaneOptions {
    let (segment_bytes, spare_segments) = (16 << 10, 1);
    LaneOptions { segment_bytes, frame_bytes_max: 4 << 10, spare_segments, on_damage, ..small() }
}

fn open_on<G: Ground>(ground: &G, on_damage: OnDamage) -> Result<Opened<StepDisk<G::Files>>, OpenError> {
    let directory = Directory::open(ground.files(), 1, 0x1_0917)?;
    Lane::open(StepDisk::new(directory), tiny(on_damage))
}

type Contents = BTreeMap<String, Vec<u8>>;

fn contents<G: Ground>(ground: &G) -> Contents {
    ground.paths().into_iter().map(|path| (path.clone(), ground.content(&path))).collect()
}

/// A small log in reused files, and its expected content.
struct Sample {
    /// The content of each file.
    good: Contents,
    /// The content of a segment's file in its earlier incarnation.
    before: Contents,
    said: BTreeMap<Lsn, BTreeMap<GroupId, Story>>,
    last: Lsn,
}

/// Writes until the log lies in reused files, with every batch acknowledged.
fn sample<G: Ground>(ground: &G) -> Sample {
    let (mut lane, ..) = open_on(ground, OnDamage::Refuse).unwrap();
    let slots = [1, 2].map(|group| lane.attach(GroupId(group)));
    let (mut said, mut lives, mut last) = (BTreeMap::new(), Vec::new(), Lsn(0));
    for turn in 0..15 {
        for (at, slot) in slots.into_iter().enumerate() {
            if turn == 10 {
                // Batches that share a page, up to the one that is synced.
                for index in [turn * 2 + 1, turn * 2 + 2] {
                    let lsn = append_relaxed(&mut lane, slot, id(index, 1), 20 + 40 * at);
                    said.insert(lsn, stories(&lane));
                }
            } else {
                append(&mut lane, slot, id(turn * 2 + 1, 1), 2, 20 + 40 * at);
            }
        }
        if turn == 10 {
            let synced = lane.sync().unwrap().unwrap();
            while lane.poll().unwrap().durable < synced {
                std::thread::yield_now();
            }
            said.insert(synced, stories(&lane));
        }
        if turn == 8 {
            lane.hard_state(slots[0], HardState { term: Term(2), vote: Some(NodeId(3)) }).unwrap();
        }
        if turn == 3 || turn == 9 {
            let to = turn * 2;
            slots.iter().for_each(|slot| lane.compact(*slot, id(to, 1)));
        }
        last = settle(&mut lane);
        said.insert(last, stories(&lane));
        lives.push(contents(ground));
    }
    assert!(lane.stats().recycled >= 2, "{:?}", lane.stats());
    drop(lane);
    let good = contents(ground);
    // A reused file's old bytes are those of the last freed segment in the same file: its unused pages still
    // show which one. Where they show nothing, any freed segment will do.
    let gone: Contents = lives.into_iter().flatten().filter(|(path, _)| !good.contains_key(path)).collect();
    let is_before = |old: &[u8], new: &[u8]| {
        let pages = old.chunks(PAGE_BYTES).zip(new.chunks(PAGE_BYTES));
        pages.filter(|(old, new)| old == new && old.iter().any(|byte| *byte != 0)).count() > 0
    };
    let before_of = |new: &[u8]| {
        let gone = gone.iter().filter(|(path, _)| path.contains("/seg-")).map(|(_, old)| old);
        gone.clone().rfind(|old| is_before(old, new)).or_else(|| gone.clone().next_back()).unwrap().clone()
    };
    let segments = good.iter().filter(|(path, _)| path.contains("/seg-"));
    let before = segments.map(|(path, new)| (path.clone(), before_of(new))).collect();
    Sample { good, before, said, last }
}

impl Sample {
    /// The bytes of a segment that are in use, and those of the log's last batch if it lies there.
    fn meaning(&self, path: &str) -> (Vec<Range<usize>>, Option<Range<usize>>) {
        let bytes = &self.good[path];
        let header = SegmentHeader::parse(bytes).unwrap();
        let (mut live, mut last, mut at) = (once(0..80).collect::<Vec<_>>(), None, PAGE_BYTES);
        while at < bytes.len() {
            let position = BatchPosition { incarnation: header.incarnation(), offset: at as u32 };
            let Some(batch) = BatchHeader::parse(&bytes[at..], position) else { break };
            let range = at..at + batch.bytes as usize;
            if batch.lsn == self.last {
                last = Some(range.clone());
            }
            live.push(range);
            at += batch.padded_bytes() as usize;
        }
        (live, last)
    }

    fn restore<G: Ground>(&self, ground: &G, touched: &str) {
        let now = ground.paths();
        for path in now.iter().filter(|path| !self.good.contains_key(*path)) {
            ground.remove(path);
        }
        for (path, bytes) in &self.good {
            if path == touched || !now.contains(path) {
                ground.put(path, bytes);
            }
        }
    }
}

/// One damage, and its permitted consequences.
struct Damage<'a> {
    path: &'a str,
    at: usize,
    what: &'a str,
    bad: Vec<u8>,
    /// It changed a byte in use.
    is_live: bool,
    /// It changed a byte of the last batch.
    in_last: bool,
}

fn is_segment(path: &str) -> bool {
    path.contains("/seg-")
}

/// How often a damaged log was refused, opened whole, and opened without its last batch.
#[derive(Debug, Default)]
struct Seen {
    refused: u64,
    whole: u64,
    shorter: u64,
    fenced: u64,
}

fn check<G: Ground>(ground: &G, sample: &Sample, damage: &Damage<'_>, seen: &mut Seen) {
    let Damage { path, at, what, is_live, in_last, .. } = damage;
    let context = format!("{path}, {what} at {at}");
    ground.put(path, &damage.bad);
    match open_on(ground, OnDamage::Refuse) {
        Ok((mut lane, _, report)) if report.last == sample.last => {
            assert!(!is_live, "{context}: nobody noticed");
            assert_eq!(stories(&lane), sample.said[&sample.last], "{context}");
            lane.disk_mut().runs_by_itself = false;
            seen.whole += 1;
        }
        Ok((mut lane, _, report)) => {
            assert!(in_last, "{context}: only {} of {} is left", report.last, sample.last);
            assert_eq!(report.last.next(), sample.last, "{context}");
            let mut expected = sample.said[&report.last].clone();
            assert_eq!(stories(&lane), expected, "{context}");
            if seen.shorter.is_multiple_of(64) {
                // The log continues from there, and the torn batch stays out of it.
                let slot = lane.attach(GroupId(1));
                let next = lane.last(slot).next();
                append(&mut lane, slot, EntryId::new(Term(7), next), 1, 10);
                settle(&mut lane);
                expected.insert(GroupId(1), story(&lane, slot));
                drop(lane);
                assert_eq!(stories(&open_on(ground, OnDamage::Refuse).unwrap().0), expected, "{context}");
                sample.good.keys().for_each(|path| ground.put(path, &sample.good[path]));
            }
            seen.shorter += 1;
        }
        Err(OpenError::Corrupt { file, offset, .. }) => {
            assert!(is_live, "{context}: refused for nothing, at {offset} of {file}");
            assert_eq!(file, *path, "{context}");
            assert!(offset as usize <= *at, "{context}: noticed at {offset}");
            seen.refused += 1;
            if is_segment(path) && (*what != "cut" || at.is_multiple_of(64)) {
                check_fenced(ground, sample, &context, seen);
            }
        }
        Err(other) => panic!("{context}: {other}"),
    }
    sample.restore(ground, path);
}

/// With `OnDamage::Fence`: every group with a loss is fenced, and no group has anything that was not written.
fn check_fenced<G: Ground>(ground: &G, sample: &Sample, context: &str, seen: &mut Seen) {
    let (lane, groups, report) = match open_on(ground, OnDamage::Fence) {
        Ok(opened) => opened,
        Err(OpenError::Corrupt { .. }) => return,
        Err(other) => panic!("{context}: {other}"),
    };
    assert!(!report.damage.is_empty(), "{context}: opened, and no word of what is lost");
    let now = stories(&lane);
    for (group, truth) in &sample.said[&sample.last] {
        let is_fenced = groups.iter().any(|told| told.group == *group && told.fence.is_some());
        assert!(is_fenced || now.get(group) == Some(truth), "{context}: {group} is not fenced");
        let entries = now.get(group).map(|story| story.entries.clone()).unwrap_or_default();
        let was_written = |(index, entry): (&u64, &(u64, Vec<u8>))| {
            sample
                .said
                .values()
                .any(|all| all.get(group).is_some_and(|told| told.entries.get(index) == Some(entry)))
        };
        assert!(entries.iter().all(was_written), "{context}: {group} has what nobody wrote");
    }
    seen.fenced += 1;
}

/// The shared function: all damages, at every byte of every file of the log.
fn every_byte<G: Ground>(ground: &G) {
    let (sample, mut seen) = (sample(ground), Seen::default());
    for (path, good) in &sample.good {
        let (live, last) = match path.as_str() {
            path if is_segment(path) => sample.meaning(path),
            // Spares have no valid content; the manifest is kept twice (damage to both: `small_files`).
            _ => (Vec::new(), None),
        };
        for at in 0..good.len() {
            let is_live = live.iter().any(|range| range.contains(&at));
            let in_last = last.as_ref().is_some_and(|range| range.contains(&at));
            if !is_live && !at.is_multiple_of(G::STRIDE) {
                continue;
            }
            let put = |byte: u8| {
                let mut bad = good.clone();
                bad[at] = byte;
                (bad[at] != good[at]).then_some(bad)
            };
            let stale = sample.before.get(path).and_then(|before| put(before[at]));
            let cut = (!live.is_empty()).then(|| good[..at].to_vec());
            let damages = [("flip", put(good[at] ^ 0x20)), ("zero", put(0)), ("stale", stale), ("cut", cut)];
            for (what, bad) in damages {
                let Some(bad) = bad else { continue };
                let (is_live, in_last) = if what == "cut" { (true, false) } else { (is_live, in_last) };
                check(ground, &sample, &Damage { path, at, what, bad, is_live, in_last }, &mut seen);
            }
        }
    }
    let (lane, _, report) = open_on(ground, OnDamage::Refuse).unwrap();
    assert_eq!((report.last, stories(&lane)), (sample.last, sample.said[&sample.last].clone()));
    eprintln!("{seen:?}");
    assert!(
        seen.refused > 5_000 && seen.whole > 500 && seen.shorter > 500 && seen.fenced > 3_000,
        "{seen:?}"
    );
}

fn in_mode(mode: AppendMode) {
    match Folder::that_takes(mode) {
        Some(folder) => every_byte(&folder),
        None => eprintln!("SKIPPED: no file system at hand takes {mode:?}; in memory the same is tested"),
    }
}

#[test]
fn every_byte_of_a_log_in_memory() {
    every_byte(&MemoryFiles::new());
}

#[test]
fn every_byte_of_a_log_written_directly() {
    in_mode(AppendMode::Direct);
}

#[test]
fn every_byte_of_a_log_written_through_the_page_cache() {
    in_mode(AppendMode::Buffered);
}

#[test]
fn every_byte_of_a_log_written_through_a_map() {
    in_mode(AppendMode::Mapped);
}
