//! Known failures of other logs, one test each, by name. The whole list, with the tests elsewhere, is in
//! `engine/docs/log_proof.md`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::disk::simulated::{Call, Fate, MemoryFile, Outcome, SectorFate};
use crate::disk::{Completion, Job};
use crate::format::batch::{BatchHeader, BatchPosition};
use crate::{LogError, SegmentHeader};

type Calls = Arc<Mutex<Vec<String>>>;

/// Records every call.
struct PeerNotes {
    calls: Calls,
    largest_read: Arc<Mutex<usize>>,
}

impl Fate for PeerNotes {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        let line = match call {
            Call::Write { path, offset, .. } => format!("write {path} {offset}"),
            Call::Rename(_, to) => format!("rename {to}"),
            Call::Link(_, to) => format!("link {to}"),
            Call::SyncDir(dir) => format!("sync {dir}"),
            Call::Read { bytes, .. } => {
                let mut largest = self.largest_read.lock().unwrap();
                *largest = bytes.max(*largest);
                return Outcome::Done;
            }
            _ => return Outcome::Done,
        };
        self.calls.lock().unwrap().push(line);
        Outcome::Done
    }
}

fn noted(files: &MemoryFiles) -> (Calls, Arc<Mutex<usize>>) {
    let (calls, largest_read) = (Calls::default(), Arc::<Mutex<usize>>::default());
    let notes = PeerNotes { calls: Arc::clone(&calls), largest_read: Arc::clone(&largest_read) };
    files.decided_by(Some(Box::new(notes)));
    (calls, largest_read)
}

#[test]
fn a_vote_is_not_lost_by_a_restart_nor_by_a_power_cut() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    let vote = HardState { term: Term(4), vote: Some(NodeId(3)) };
    lane.hard_state(slot, vote).unwrap();
    settle(&mut lane);
    drop(lane);
    for left in [files.copy(), files.after_power_cut(|_, _| SectorFate::Old)] {
        let (.., groups, _) = open(&left);
        assert_eq!(groups[0].hard_state, vote);
    }
}

#[test]
fn nothing_is_acknowledged_from_memory_before_the_disk_has_it() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    lane.poll().unwrap();
    lane.disk_mut().runs_by_itself = false;
    append(&mut lane, slot, id(1, 1), 1, 30);
    let submitted = lane.submit().unwrap().unwrap();
    assert_eq!(story(&lane, slot).entries.len(), 1, "it can be read from memory");
    for _ in 0..9 {
        assert_eq!(lane.poll().unwrap().durable, Lsn(0), "and is not durable for that");
    }
    assert!(lane.disk_mut().run_appends());
    assert_eq!(lane.poll().unwrap().durable, submitted);
    let left = files.after_power_cut(|_, _| SectorFate::Old);
    assert_eq!(story(&open(&left).0, slot).entries.len(), 1);
}

/// The log keeps no commit index; a hard state is a term and a vote. A hard state of a later term must not be
/// there without the entries that were appended before it, whatever sectors a power cut takes.
#[test]
fn a_hard_state_is_never_ahead_of_the_entries_before_it() {
    for cut in 0..512 {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open(&files);
        let slot = lane.attach(GroupId(1));
        lane.poll().unwrap();
        for index in 1..=3 {
            let mut frame = lane.begin_frame(slot, id(index, 1), 1000).unwrap();
            frame.relax();
            assert!(frame.push(EntryKind::Payload, &payload(index, 1, 900)) && frame.finish().is_some());
            lane.submit_relaxed().unwrap();
            lane.poll().unwrap();
        }
        lane.hard_state(slot, HardState { term: Term(2), vote: Some(NodeId(1)) }).unwrap();
        files.fail_change(1, u64::MAX - 9, std::io::ErrorKind::Other); // the write is there, and unsynced
        lane.submit().unwrap();
        assert!((0..9).any(|_| lane.poll().is_err()));
        drop(lane);
        let mut asked = 0;
        let left = files.after_power_cut(|_, _| {
            asked += 1;
            if cut >> (asked % 9) & 1 == 0 { SectorFate::Old } else { SectorFate::New }
        });
        let (lane, groups, _) = open(&left);
        let Some(group) = groups.first() else { continue };
        if group.hard_state.term == Term(2) {
            assert_eq!(story(&lane, GroupSlot(0)).entries.len(), 3, "cut {cut}");
        }
    }
}

#[test]
fn replay_does_not_resurrect_replaced_entries() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    for first in [1, 6, 11, 16, 21, 26, 31, 36] {
        append(&mut lane, slot, id(first, 1), 5, 900); // over some segments
        settle(&mut lane);
    }
    assert!(lane.segments.in_use.len() > 1);
    append(&mut lane, slot, id(5, 2), 1, 10);
    settle(&mut lane);
    for _ in 0..3 {
        let now = story(&lane, slot);
        assert_eq!((now.entries.len(), now.entries[&5].0), (5, 2));
        drop(lane);
        lane = open(&files).0;
        lane.attach(GroupId(1));
    }
    append(&mut lane, slot, id(6, 2), 1, 10);
    settle(&mut lane);
    drop(lane);
    let (.., groups, _) = open(&files);
    assert_eq!(
        (groups[0].last, &groups[0].runs[..]),
        (Index(6), &[(Term(1), Index(1)), (Term(2), Index(5))][..])
    );
}

/// A disk that reports its appends in the wrong order.
struct Backwards {
    disk: StepDisk<MemoryFiles>,
    held: VecDeque<Completion<MemoryFile>>,
}

impl Disk for Backwards {
    type Files = MemoryFiles;

    fn directory(&self) -> &Directory<MemoryFiles> {
        self.disk.directory()
    }

    fn submit(&mut self, job: Job<MemoryFile>) {
        self.disk.submit(job);
        self.disk.run_appends();
    }

    fn poll(&mut self) -> Option<Completion<MemoryFile>> {
        while let Some(done) = self.disk.poll() {
            if !matches!(done, Completion::Appended { .. }) {
                return Some(done);
            }
            self.held.push_front(done);
        }
        if self.held.len() < 2 { None } else { self.held.pop_front() }
    }

    fn mode(&self) -> AppendMode {
        AppendMode::Buffered
    }

    fn is_synced(&self) -> bool {
        true
    }
}

#[test]
#[should_panic(expected = "appends complete in order")]
fn sync_completions_that_come_out_of_order_end_the_process_and_acknowledge_nothing() {
    let directory = Directory::open(MemoryFiles::new(), 1, 1).unwrap();
    let disk = Backwards { disk: StepDisk::new(directory), held: VecDeque::new() };
    let (mut lane, ..) = Lane::open(disk, small()).unwrap();
    let slot = lane.attach(GroupId(1));
    while lane.stats().ready_segments == 0 {
        lane.poll().unwrap();
    }
    for index in 1..=3 {
        append(&mut lane, slot, id(index, 1), 1, 10);
        lane.submit().unwrap();
    }
    for _ in 0..3 {
        lane.poll().unwrap();
    }
}

#[test]
fn an_entry_larger_than_a_segment_is_refused_and_nothing_else_is() {
    let too_long = LaneOptions { frame_bytes_max: 32 << 10, ..small() };
    assert!(matches!(open_in(&MemoryFiles::new(), too_long), Err(OpenError::Options(_))));
    let files = MemoryFiles::new();
    let longest = LaneOptions { frame_bytes_max: (32 << 10) - 4096 - 64, ..small() };
    let (mut lane, ..) = open_in(&files, longest.clone()).unwrap();
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 10);
    settle(&mut lane);
    let bytes_max = lane.payload_bytes_max();
    let mut frame = lane.begin_frame(slot, id(2, 1), usize::MAX).unwrap();
    assert!(!frame.push(EntryKind::Payload, &vec![7; bytes_max + 1]));
    assert!(frame.finish().is_none());
    append(&mut lane, slot, id(2, 1), 1, bytes_max);
    settle(&mut lane);
    drop(lane);
    let (lane, ..) = open_in(&files, longest).unwrap();
    assert_eq!(story(&lane, slot).entries[&2].1.len(), bytes_max);
}

#[test]
fn after_a_first_sync_error_there_is_no_success() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    for _ in 0..9 {
        lane.poll().unwrap();
    }
    append(&mut lane, slot, id(1, 1), 1, 10);
    lane.submit().unwrap();
    files.fail_change(1, 0, std::io::ErrorKind::Other);
    assert!((0..9).any(|_| lane.poll().is_err()));
    files.heal(); // the next sync would succeed, as Linux's does
    for _ in 0..9 {
        assert!(lane.poll().is_err() && matches!(lane.submit(), Err(LogError::Poisoned(_))));
    }
    assert_eq!((lane.marks.durable(), lane.marks.written()), (Lsn(0), Lsn(0)));
}

#[test]
fn no_segment_is_written_to_between_its_rename_and_its_directorys_sync() {
    let files = MemoryFiles::new();
    let (calls, _) = noted(&files);
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    for index in 1..=60 {
        append(&mut lane, slot, id(index, 1), 1, 2000);
        settle(&mut lane);
        lane.compact(slot, id(index, 1));
    }
    assert!(lane.stats().recycled > 2);
    let calls = calls.lock().unwrap();
    let mut renames = 0;
    for (at, call) in calls.iter().enumerate() {
        // A segment is prepared under another name, so every write to a segment follows a rename.
        if call.strip_prefix("rename ").is_some_and(|path| path.contains("/seg-") || path == "manifest") {
            assert!(calls[at + 1].starts_with("sync "), "{call}, then {}", calls[at + 1]);
            renames += 1;
        }
    }
    assert!(renames > 5);
}

/// Wrong lengths under matching checksums: of a batch, and of a frame in it.
#[test]
fn a_length_that_lies_takes_no_memory() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    for index in 1..=3 {
        append(&mut lane, slot, id(index, 1), 1, 900);
        settle(&mut lane);
    }
    drop(lane);
    let path = "lane-0/seg-0000000000000001.log";
    let good = files.content(path).unwrap();
    let incarnation = SegmentHeader::parse(&good).unwrap().incarnation();
    let page = 2 * 4096;
    for lie in [0, 63, 65, 1 << 16, 1 << 31, u32::MAX] {
        let mut of_batch = good.clone();
        of_batch[page + 8..page + 12].copy_from_slice(&lie.to_le_bytes());
        let mut sum = crc32fast::Hasher::new_with_initial(
            incarnation as u32 ^ (incarnation >> 32) as u32 ^ page as u32,
        );
        sum.update(&of_batch[page + 8..page + 64]);
        of_batch[page + 4..page + 8].copy_from_slice(&sum.finalize().to_le_bytes());
        let position = BatchPosition { incarnation, offset: page as u32 };
        assert_eq!(
            BatchHeader::parse(&of_batch[page..], position).is_some(),
            lie >= 64,
            "the lie is well summed"
        );
        let mut of_frame = good.clone();
        let frame = page + 64;
        of_frame[frame + 8..frame + 12].copy_from_slice(&lie.to_le_bytes());
        let sum = crc32fast::hash(&of_frame[frame + 4..frame + 48]);
        of_frame[frame..frame + 4].copy_from_slice(&sum.to_le_bytes());
        for bad in [of_batch, of_frame] {
            let files = files.copy();
            files.put(path, bad);
            let (_, largest_read) = noted(&files);
            assert!(matches!(open_in(&files, small()), Err(OpenError::Corrupt { .. })), "{lie}");
            let largest = *largest_read.lock().unwrap();
            assert!(largest > 0 && largest <= good.len(), "{lie}: asked for {largest} bytes");
        }
    }
}

#[test]
fn a_stale_snapshot_takes_nothing_back() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 9, 10);
    lane.snapshot(slot, id(6, 1), &voters(5), Tail::Keep);
    settle(&mut lane);
    let before = story(&lane, slot);
    lane.snapshot(slot, id(4, 1), &voters(3), Tail::Drop);
    lane.compact(slot, id(3, 1));
    settle(&mut lane);
    assert_eq!(story(&lane, slot), before);
    drop(lane);
    assert_eq!(story(&open(&files).0, slot), before);
}

/// An apply holds a slice of the log while that part of the log is freed.
#[test]
fn a_purge_does_not_change_what_an_apply_still_reads() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, LaneOptions { recent_bytes: 0, ..small() }).unwrap();
    let slot = lane.attach(GroupId(1));
    let (mut held, mut last) = (Vec::new(), 0);
    for _ in 0..40 {
        append(&mut lane, slot, id(last + 1, 1), 2, 2000);
        last += 2;
        settle(&mut lane);
        let place = lane.read(slot, Index(last), Index(last), 1).unwrap()[0].place;
        held.push((last, lane.bytes(place).unwrap()));
        lane.compact(slot, id(last, 1));
    }
    settle(&mut lane);
    let oldest = lane.segments.in_use.front().unwrap().sequence;
    assert!(oldest > 8, "the first segments are gone: {oldest}");
    for (index, bytes) in held {
        let (header, body) = frame::parse(&bytes).unwrap();
        let entry = Entries::new(&header, body).last().unwrap();
        assert_eq!((entry.id.index, entry.payload), (Index(index), &payload(index, 1, 2000)[..]));
    }
}

#[test]
fn one_hung_disk_stalls_no_other_lane_and_no_caller() {
    let directory = Directory::open(MemoryFiles::new(), 2, 1).unwrap();
    let mut lanes: Vec<MemoryLane> = (0..2)
        .map(|lane| Lane::open(StepDisk::new(directory.clone()), LaneOptions { lane, ..small() }).unwrap().0)
        .collect();
    lanes[0].disk_mut().runs_by_itself = false; // it completes nothing any more
    for index in 1..=50 {
        for lane in &mut lanes {
            let slot = lane.attach(GroupId(1));
            // Every call returns: a full queue is an error, not a wait.
            if lane.turn_budget() > 0 {
                append(lane, slot, id(lane.last(slot).0 + 1, 1), 1, 2000);
            }
            lane.submit().unwrap();
            lane.poll().unwrap();
        }
        assert_eq!(lanes[1].last(GroupSlot(0)), Index(index));
        settle(&mut lanes[1]);
    }
    assert_eq!((lanes[0].poll().unwrap().durable, lanes[0].turn_budget()), (Lsn(0), 0));
    assert!(lanes[1].poll().unwrap().durable >= Lsn(50));
    let bound = lanes[0].options.queue_bytes_max as u64;
    assert!(lanes[0].stats().queued_bytes <= 2 * bound);
}
