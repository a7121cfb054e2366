//! A device that refuses to read a page, below the real calls of each append mode: the page counts as
//! damaged, and the process goes on. A map of the file would end it by a signal.
//!
//! Needs `/dev/fuse` and permission to mount; where these are missing, it prints so and is skipped. Every
//! read call and every page, on the simulated disk: `wal/src/tests/read_faults.rs`.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use raftwerk_frame::frame::{self, EntryKind};
use raftwerk_frame::{EntryId, GroupId, Index, Term};
use raftwerk_wal::simulated::{Call, Fate, MemoryFiles, Outcome};
use raftwerk_wal::{
    AppendMode, BackgroundOutput, Directory, Lane, LaneOptions, LogError, OnDamage, OsDisk, OsDiskOptions,
    OsFiles, Place, RecoveredGroup, RecoveryReport,
};

mod forgetful;

use self::forgetful::Mounted;

const ENTRIES: u64 = 60;
const ENTRY_BYTES: usize = 2000;

fn open(mounted: &Mounted, mode: AppendMode) -> (Lane<OsDisk>, Vec<RecoveredGroup>, RecoveryReport) {
    let directory = Directory::open(OsFiles::new(mounted.path(), mode).unwrap(), 1, 7).unwrap();
    let disk = OsDisk::open(&directory, &OsDiskOptions::default(), Waker::noop().clone()).unwrap();
    let (segment_bytes, frame_bytes_max) = (64 << 10, 8 << 10);
    let (recent_bytes, recent_bytes_max) = (0, 0);
    let on_damage = OnDamage::Fence;
    let options = LaneOptions {
        segment_bytes,
        frame_bytes_max,
        recent_bytes,
        recent_bytes_max,
        on_damage,
        ..LaneOptions::default()
    };
    Lane::open(disk, options).unwrap()
}

/// Entries of two groups, each durable by itself; the second group has one, early in the log.
fn fill(lane: &mut Lane<OsDisk>) -> Vec<Place> {
    let mut places = Vec::new();
    for index in 1..=ENTRIES {
        for group in 1..=if index == 3 { 2 } else { 1 } {
            let slot = lane.attach(GroupId(group));
            let id = EntryId::new(Term(1), Index(if group == 2 { 1 } else { index }));
            let mut frame = lane.begin_frame(slot, id, ENTRY_BYTES + 4).unwrap();
            assert!(frame.push(EntryKind::Payload, &[index as u8; ENTRY_BYTES]));
            places.push(frame.finish().unwrap().place);
        }
        let last = lane.submit().unwrap().unwrap();
        while lane.poll().unwrap().durable < last {
            std::thread::yield_now();
        }
    }
    places
}

/// Refuses every read that overlaps this place of a segment.
struct Refuses(Place);

impl Fate for Refuses {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        let Call::Read { offset, bytes, .. } = call else { return Outcome::Done };
        let is_there = offset < self.0.end() && u64::from(self.0.offset) < offset + bytes as u64;
        // The call contains a file's first name, not the segment's, so reads of all files that are long
        // enough match.
        if is_there { Outcome::Fail(std::io::ErrorKind::Other) } else { Outcome::Done }
    }
}

fn look(lane: &mut Lane<OsDisk>) -> Vec<Place> {
    let mut found = Vec::new();
    while lane.scrub(1, 1 << 20) {
        let done = loop {
            match lane.poll_background() {
                Some(done) => break done,
                None => std::thread::yield_now(),
            }
        };
        let Ok(BackgroundOutput::Scrubbed(Some(seen))) = done.result else { panic!("not looked at") };
        found.extend(lane.on_scrubbed(&seen));
    }
    found
}

/// A lane with entries in it. `None` if no file system can be mounted here; it prints so, and the test is
/// skipped.
fn filled(mode: AppendMode) -> Option<(Mounted, Lane<OsDisk>, Vec<Place>)> {
    let mounted = Mounted::new(MemoryFiles::new());
    if let Err(why) = &mounted {
        eprintln!("SKIPPED, no file system of our own can be mounted: {why}");
    }
    let mounted = mounted.ok()?;
    let (mut lane, ..) = open(&mounted, mode);
    let places = fill(&mut lane);
    Some((mounted, lane, places))
}

#[test]
fn a_refused_page_is_damage_and_does_not_end_the_process() {
    for mode in AppendMode::ALL {
        let Some((mounted, lane, places)) = filled(mode) else { return };
        // A restart with an empty kernel cache.
        let (first, last) = (places[3], *places.last().unwrap());
        assert!(last.segment > first.segment);
        drop(lane);
        let files = mounted.files().copy();
        drop(mounted);
        let mounted = Mounted::new(files).unwrap();
        let (mut lane, groups, report) = open(&mounted, mode);
        assert!(report.damage.is_empty() && groups.iter().all(|group| group.fence.is_none()));
        forget(&mounted);

        mounted.files().decided_by(Some(Box::new(Refuses(first))));
        match lane.bytes(first) {
            Err(LogError::Damaged { place, .. }) => assert_eq!(place, first),
            other => panic!("{}: {other:?}", mode.name()),
        }
        let found = look(&mut lane);
        let is_hit = |place: &Place| place.segment == first.segment && place.end() > u64::from(first.offset);
        assert!(found.iter().any(is_hit), "{}: {found:?}", mode.name());
        // The engine's next step.
        for hit in found.iter().flat_map(|place| lane.unreadable_entries(*place)).collect::<Vec<_>>() {
            assert!(!lane.rewrite(hit.slot), "{}: nothing has it whole", mode.name());
        }
        assert!(lane.poll().is_ok() && lane.turn_budget() > 0, "the lane is not poisoned");
        drop(lane);
        forget(&mounted);

        // And at opening: what is lost is fenced, everything else is there.
        let (lane, groups, report) = open(&mounted, mode);
        assert!(!report.damage.is_empty() && report.refused_pages > 0, "{}: {report:?}", mode.name());
        assert!(groups.iter().any(|group| group.fence.is_some()));
        mounted.files().decided_by(None);
        let bytes = lane.bytes(places[0]).unwrap();
        assert!(frame::parse(&bytes).is_ok());
    }
}

/// Drops the kernel's cached pages of the files.
fn forget(mounted: &Mounted) {
    for entry in std::fs::read_dir(mounted.path().join("lane-0")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let file = match std::fs::File::open(path) {
                // A file in preparation was renamed or removed meanwhile: it has no content yet.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.unwrap(),
            };
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
}

/// The read of this number, counted from 0, fails once.
struct RefusesOne(u64, Arc<AtomicU64>);

impl Fate for RefusesOne {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        let Call::Read { .. } = call else { return Outcome::Done };
        let is_it = self.1.fetch_add(1, Ordering::Relaxed) == self.0;
        if is_it { Outcome::Fail(std::io::ErrorKind::Other) } else { Outcome::Done }
    }
}

#[test]
fn opening_and_reading_bear_every_read_that_is_refused_once() {
    for mode in AppendMode::ALL {
        let Some((mounted, lane, places)) = filled(mode) else { return };
        drop(lane);
        let files = mounted.files().copy();
        drop(mounted);
        for n in 0.. {
            // An empty kernel cache.
            let mounted = Mounted::new(files.copy()).unwrap();
            let reads = Arc::new(AtomicU64::new(0));
            mounted.files().decided_by(Some(Box::new(RefusesOne(n, Arc::clone(&reads)))));
            let (lane, groups, report) = open(&mounted, mode);
            let context = format!("{}, read {n}", mode.name());
            assert!(report.damage.is_empty() && report.refused_pages == 0, "{context}: {report:?}");
            assert!(groups.iter().all(|group| group.fence.is_none()), "{context}");
            forget(&mounted);
            for place in &places {
                assert!(frame::parse(&lane.bytes(*place).unwrap()).is_ok(), "{context}");
            }
            if reads.load(Ordering::Relaxed) <= n {
                break;
            }
        }
    }
}
