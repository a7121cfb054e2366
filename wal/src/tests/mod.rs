//! Scenarios of whole lanes: over the simulated disk with power cuts and faults, and over real files in each
//! append mode.

mod crash_images;
mod damage;
mod disk_full;
mod edges;
mod every_byte;
mod failed_sync;
mod gone;
mod hazards;
mod inline;
mod losses;
mod memory;
mod power_cut;
mod probe;
mod read_faults;
mod relane;
mod relaxed;
mod retention;
mod round_trip;
mod salvage;
mod scrub;
mod small_files;
mod snapshots;
mod streaming;
mod witness;

use std::collections::BTreeMap;
use std::task::Waker;

use raftwerk_frame::frame::{self, Entries, EntryKind, FrameWriter};
use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, NodeId, Term};

use crate::disk::simulated::{MemoryFiles, StepDisk};
use crate::{
    AppendMode, Directory, Disk, GroupSlot, Lane, LaneOptions, LogKind, Lsn, OpenError, OsDisk,
    OsDiskOptions, OsFiles, RecoveredGroup, RecoveryReport, Tail,
};

type MemoryLane = Lane<StepDisk<MemoryFiles>>;
type Opened<D> = (Lane<D>, Vec<RecoveredGroup>, RecoveryReport);

fn id(index: u64, term: u64) -> EntryId {
    EntryId::new(Term(term), Index(index))
}

fn small() -> LaneOptions {
    LaneOptions {
        segment_bytes: 32 << 10,
        batch_bytes_max: 16 << 10,
        frame_bytes_max: 8 << 10,
        queue_bytes_max: 64 << 10,
        ready_segments: 1,
        spare_segments: 2,
        recent_bytes: 64 << 10,
        recent_bytes_max: 0,
        log_bytes_max: 96 << 10,
        ..LaneOptions::default()
    }
}

fn open_in(files: &MemoryFiles, options: LaneOptions) -> Result<Opened<StepDisk<MemoryFiles>>, OpenError> {
    let directory = Directory::open(files.clone(), 1, 0x1_0917)?;
    Lane::open(StepDisk::new(directory), options)
}

fn open(files: &MemoryFiles) -> Opened<StepDisk<MemoryFiles>> {
    open_in(files, small()).unwrap()
}

fn open_os(path: &std::path::Path, mode: AppendMode, options: LaneOptions) -> Opened<OsDisk> {
    let files = OsFiles::new(path, mode).unwrap();
    let directory = Directory::open(files, 1, 7).unwrap();
    let disk = OsDisk::open(&directory, &OsDiskOptions::default(), Waker::noop().clone()).unwrap();
    Lane::open(disk, options).unwrap()
}

/// Submits, and polls until everything is durable.
fn settle<D: Disk>(lane: &mut Lane<D>) -> Lsn {
    let submitted = lane.submit().unwrap().unwrap_or(lane.marks.submitted());
    loop {
        let progress = lane.poll().unwrap();
        if progress.durable >= submitted {
            return submitted;
        }
        std::thread::yield_now();
    }
}

fn payload(index: u64, term: u64, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{index}@{term} ").into_bytes();
    payload.resize(bytes.max(payload.len()), b'.');
    payload
}

/// Appends `count` entries as a leader does.
fn append<D: Disk>(lane: &mut Lane<D>, slot: GroupSlot, first: EntryId, count: u64, bytes: usize) {
    let mut frame = lane.begin_frame(slot, first, count as usize * (bytes + 16)).unwrap();
    for index in first.index.0..first.index.0 + count {
        assert!(frame.push(EntryKind::Payload, &payload(index, first.term.0, bytes)));
    }
    assert_eq!(frame.finish().unwrap().last.0, first.index.0 + count - 1);
}

/// One relaxed frame with one entry, in a turn of its own.
fn append_relaxed<D: Disk>(lane: &mut Lane<D>, slot: GroupSlot, first: EntryId, bytes: usize) -> Lsn {
    let mut frame = lane.begin_frame(slot, first, bytes + 16).unwrap();
    frame.relax();
    assert!(frame.push(EntryKind::Payload, &payload(first.index.0, first.term.0, bytes)));
    assert!(frame.finish().is_some());
    lane.submit_relaxed().unwrap().unwrap()
}

/// A frame as received from a leader.
fn frame_of(group: u64, first: EntryId, entries: &[(EntryKind, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0; 64 << 10];
    let mut writer = FrameWriter::new(&mut out, GroupId(group), first).unwrap();
    for (kind, payload) in entries {
        assert!(writer.push(*kind, payload));
    }
    let bytes = writer.finish().unwrap().frame_bytes();
    out.truncate(bytes);
    out
}

fn voters(n: u64) -> Configuration {
    Configuration::of_voters((1..=n).map(NodeId))
}

fn membership(n: u64) -> (EntryKind, Vec<u8>) {
    let mut bytes = Vec::new();
    voters(n).encode(&mut bytes);
    (EntryKind::Membership, bytes)
}

/// A group's log, entry by entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Story {
    hard_state: HardState,
    floor: Option<EntryId>,
    base: EntryId,
    configuration: Configuration,
    entries: BTreeMap<u64, (u64, Vec<u8>)>,
}

/// Reads a whole group back, and checks that frames cover the log without a hole.
fn story<D: Disk>(lane: &Lane<D>, slot: GroupSlot) -> Story {
    let (first, last) = (lane.first(slot), lane.last(slot));
    let mut story = Story {
        hard_state: lane.latest_hard_state(slot),
        floor: lane.groups.log(slot).floor,
        base: lane.compacted(slot),
        configuration: lane.configuration_at(slot, last).clone(),
        entries: BTreeMap::new(),
    };
    let mut next = first;
    while next <= last {
        let frames = lane.read(slot, next, last, 1).unwrap();
        let found = frames[0];
        assert!(found.first <= next && next <= found.last && found.last <= found.frame_last);
        let bytes = lane.bytes(found.place).unwrap();
        let (header, body) = frame::parse(&bytes).unwrap();
        assert_eq!(
            (header.index, header.term, header.last_index()),
            (found.first, found.term, found.frame_last)
        );
        for entry in Entries::new(&header, body) {
            if (next..=found.last).contains(&entry.id.index) {
                story.entries.insert(entry.id.index.0, (entry.id.term.0, entry.payload.to_vec()));
            }
        }
        next = found.last.next();
    }
    assert_eq!(story.entries.len() as u64, last.0 + 1 - first.0);
    story
}

fn stories<D: Disk>(lane: &Lane<D>) -> BTreeMap<GroupId, Story> {
    lane.groups.by_slot().map(|(slot, log)| (log.group, story(lane, slot))).collect()
}
