//! A large turn is submitted in parts, while it goes on.

use super::*;
use crate::error::LogError;
use crate::format::batch::BatchInProgress;

const PART: usize = 8 << 10;

/// A lane with a disk that runs no jobs by itself, and a group in it.
fn begun(files: &MemoryFiles) -> (MemoryLane, GroupSlot) {
    let options = LaneOptions { stream_bytes: PART, segment_bytes: 256 << 10, ..small() };
    let (mut lane, ..) = open_in(files, options).unwrap();
    let slot = lane.attach(GroupId(1));
    settle(&mut lane);
    lane.disk_mut().runs_by_itself = false;
    (lane, slot)
}

fn run(lane: &mut MemoryLane) -> Lsn {
    while lane.disk_mut().run_appends() {}
    lane.poll().unwrap().durable
}

#[test]
fn what_a_large_turn_began_with_is_with_the_disk_before_its_end_which_its_number_covers() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    let before = run(&mut lane);
    let mut numbers = Vec::new();
    for index in 1..=6 {
        append(&mut lane, slot, id(index, 1), 1, 3000);
        numbers.push(lane.last_appended());
        let queued = lane.disk_mut().run_appends();
        assert_eq!(
            queued,
            index % 2 == 1 && index > 1,
            "two frames make a part, which leaves with the third"
        );
        assert!(lane.poll().unwrap().durable < numbers[index as usize - 1], "the last one is still here");
    }
    assert_eq!(numbers, [1, 1, 2, 2, 3, 3].map(|after| Lsn(before.0 + after)));
    assert_eq!(run(&mut lane), numbers[3]);
    let submitted = lane.submit().unwrap();
    assert_eq!(submitted, Some(numbers[5]));
    assert_eq!((run(&mut lane), lane.submit().unwrap()), (numbers[5], None));
    let told = stories(&lane);
    drop(lane);
    assert_eq!(stories(&open(&files).0), told);
}

#[test]
fn a_turn_whose_end_is_lost_leaves_what_had_gone_ahead() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    lane.hard_state(slot, HardState { term: Term(4), vote: Some(NodeId(2)) }).unwrap();
    append(&mut lane, slot, id(1, 4), 1, 6000);
    append(&mut lane, slot, id(2, 4), 1, 6000);
    run(&mut lane);
    drop(lane);
    let story = &stories(&open(&files).0)[&GroupId(1)];
    assert_eq!(story.entries.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(story.hard_state.term, Term(4), "term and vote are in front of what depends on them");
}

#[test]
fn a_turn_that_went_ahead_is_synced_to_its_end_and_one_that_need_not_be_stays() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    let relaxed = |lane: &mut MemoryLane, index| {
        let mut frame = lane.begin_frame(slot, id(index, 1), 3000).unwrap();
        frame.relax();
        assert!(frame.push(EntryKind::Payload, &payload(index, 1, 2900)) && frame.finish().is_some());
    };
    for index in 1..=4 {
        relaxed(&mut lane, index);
        assert!(!lane.disk_mut().run_appends(), "nothing is gained where nothing is synced");
    }
    lane.submit_relaxed().unwrap();
    run(&mut lane);
    assert!(lane.has_unsynced());
    append(&mut lane, slot, id(5, 1), 1, 6000);
    relaxed(&mut lane, 6);
    let durable = run(&mut lane);
    assert!(durable == lane.marks.submitted(), "the first part's sync is that of all before it");
    let last = lane.submit_relaxed().unwrap().unwrap();
    assert!(!lane.has_unsynced() && last > durable);
    assert_eq!(run(&mut lane), last);
}

#[test]
fn what_belongs_into_one_batch_stays_there_however_full_it_is() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    let joining = lane.attach(GroupId(2));
    let frames = |lane: &MemoryLane| lane.building.as_ref().map_or(0, BatchInProgress::count);
    append(&mut lane, slot, id(1, 1), 1, PART - 300);
    lane.join_fenced(joining, LogKind::Full, Term(3), HardState { term: Term(4), vote: None }).unwrap();
    assert_eq!(frames(&lane), 5);
    append(&mut lane, slot, id(2, 1), 1, 100);
    assert_eq!(frames(&lane), 1, "the next frame begins another");
}

#[test]
fn after_a_failed_write_the_rest_of_a_turn_is_refused() {
    let files = MemoryFiles::new();
    let (mut lane, slot) = begun(&files);
    append(&mut lane, slot, id(1, 1), 1, 6000);
    append(&mut lane, slot, id(2, 1), 1, 6000);
    files.fail_change(1, 0, std::io::ErrorKind::Other);
    lane.disk_mut().run_appends();
    assert!(lane.poll().is_err());
    assert!(matches!(lane.begin_frame(slot, id(3, 1), 100), Err(LogError::Poisoned(_))));
    assert!(matches!(lane.submit(), Err(LogError::Poisoned(_))));
}
