//! A full disk is a state: entries are refused, metadata frames are accepted, and the lane recovers by
//! itself.

use super::*;
use crate::LogError;
use crate::disk::simulated::{Call, Fate, Outcome};

#[test]
fn entries_are_refused_facts_go_through_and_service_resumes() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 16);
    settle(&mut lane);
    files.limit(Some(100 << 10));
    let mut last = 1;
    let refused = loop {
        match lane.begin_frame(slot, id(last + 1, 1), 4000) {
            Ok(frame) => drop(frame),
            Err(error) => break error,
        }
        append(&mut lane, slot, id(last + 1, 1), 3, 1000);
        last += 3;
        settle(&mut lane);
        lane.poll().unwrap();
    };
    assert!(matches!(refused, LogError::StorageFull), "{refused}");
    assert!(lane.turn_budget() == 0 && lane.poll().unwrap().storage_full);
    let vote = HardState { term: Term(2), vote: None };
    lane.hard_state(slot, vote).unwrap();
    settle(&mut lane);
    lane.compact(slot, id(last, 1));
    settle(&mut lane);
    for _ in 0..9 {
        lane.poll().unwrap();
    }
    assert!(lane.turn_budget() > 0, "compaction gave space back");
    append(&mut lane, slot, id(last + 1, 2), 3, 1000);
    settle(&mut lane);
    let before = stories(&lane);
    drop(lane);
    assert_eq!(stories(&open(&files).0), before);
}

/// Segments are freed oldest first, so a single small entry may pin all the dead ones behind it.
#[test]
fn on_a_full_disk_what_keeps_dead_segments_is_moved_forward() {
    let files = MemoryFiles::new();
    let options = LaneOptions { log_bytes_max: 1 << 30, ..small() };
    let (mut lane, ..) = open_in(&files, options).unwrap();
    let (cold, hot) = (lane.attach(GroupId(1)), lane.attach(GroupId(2)));
    append(&mut lane, cold, id(1, 1), 1, 16);
    settle(&mut lane);
    files.limit(Some(300 << 10));
    let mut last = 0;
    while !lane.poll().unwrap().storage_full || lane.turn_budget() > 0 {
        append(&mut lane, hot, id(last + 1, 1), 3, 1000);
        last += 3;
        settle(&mut lane);
    }
    let before = story(&lane, cold);
    assert!(lane.log_bytes() < lane.options.log_bytes_max);
    assert_eq!(lane.pinning().collect::<Vec<_>>(), [GroupId(2)], "what the other has is moved");
    lane.compact(hot, id(last, 1));
    for _ in 0..9 {
        settle(&mut lane);
        lane.poll().unwrap();
    }
    assert!(!lane.poll().unwrap().storage_full && lane.reserved_space() > 0);
    assert_eq!(story(&lane, cold), before);
    let stories_before = stories(&lane);
    drop(lane);
    assert_eq!(stories(&open(&files).0), stories_before);
}

#[test]
fn a_log_opens_on_a_full_disk_and_goes_on_when_there_is_room() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 16);
    settle(&mut lane);
    drop(lane);
    for path in files.paths() {
        if path.contains("spare-") || path.ends_with("0002.log") {
            crate::Files::remove(&files, &path).unwrap();
        }
    }
    files.limit(Some(40 << 10));
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    assert!(lane.poll().unwrap().storage_full);
    assert!(matches!(lane.begin_frame(slot, id(2, 1), 9).err(), Some(LogError::StorageFull)));
    lane.hard_state(slot, HardState { term: Term(3), vote: None }).unwrap();
    lane.submit().unwrap();
    assert_eq!(lane.poll().unwrap().durable, Lsn(1));
    files.limit(None);
    settle(&mut lane);
    assert!(lane.turn_budget() > 0);
}

#[test]
fn the_queue_is_bounded_while_the_device_is_behind() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    lane.disk_mut().runs_by_itself = false;
    let slot = lane.attach(GroupId(1));
    let (mut last, mut told) = (0, None);
    let refused = loop {
        if lane.turn_budget() == 0 {
            told.get_or_insert(lane.stats().queued_bytes);
        }
        match lane.begin_frame(slot, id(last + 1, 1), 4000) {
            Ok(frame) => drop(frame),
            Err(error) => break error,
        }
        append(&mut lane, slot, id(last + 1, 1), 3, 1000);
        last += 3;
        lane.submit().unwrap();
    };
    assert!(matches!(refused, LogError::Busy));
    let bound = lane.options.queue_bytes_max as u64;
    assert!(told.unwrap() <= bound + (8 << 10) && lane.stats().queued_bytes <= 2 * bound + (8 << 10));
    lane.disk_mut().runs_by_itself = true;
    settle(&mut lane);
    assert_eq!(lane.stats().queued_bytes, 0);
    assert_eq!(story(&lane, slot).entries.len() as u64, last);
}

/// The call of this number from now on fails.
struct FailsCall(u64);

impl Fate for FailsCall {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        if matches!(call, Call::Read { .. }) {
            return Outcome::Done;
        }
        self.0 = self.0.wrapping_sub(1);
        if self.0 == 0 { Outcome::Fail(std::io::ErrorKind::Other) } else { Outcome::Done }
    }
}

#[test]
fn a_spare_is_used_after_a_try_to_use_it_has_failed_anywhere() {
    for n in 1..=6 {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open_in(&files, LaneOptions { spare_segments: 1, ..small() }).unwrap();
        let slot = lane.attach(GroupId(1));
        for index in 1..=40 {
            append(&mut lane, slot, id(index, 1), 1, 3000);
            settle(&mut lane);
        }
        // Several segments are freed at once.
        lane.compact(slot, id(40, 1));
        for _ in 0..9 {
            settle(&mut lane);
            lane.poll().unwrap();
        }
        assert_eq!(lane.segments.spares.len(), 1, "there is no other: {:?}", lane.stats());
        // From here on there is no space for another file, and one call of the next preparation fails.
        files.limit(Some(files.used()));
        let (used, created) = (files.used(), lane.stats().preparations.created);
        drop(lane);
        let (mut lane, ..) =
            open_in(&files, LaneOptions { spare_segments: 1, ready_segments: 1, ..small() }).unwrap();
        lane.disk_mut().runs_by_itself = false;
        files.decided_by(Some(Box::new(FailsCall(n))));
        assert!(lane.disk_mut().run_background());
        lane.on_completions();
        files.decided_by(None);
        let has_failed = lane.segments.shortage.is_some();
        assert!(has_failed == (n <= 5), "call {n}: directory, write, sync, rename, directory");
        assert_eq!(lane.stats().preparations.refused, u64::from(has_failed));
        lane.disk_mut().runs_by_itself = true;
        let slot = lane.attach(GroupId(1));
        let last = lane.last(slot).0;
        append(&mut lane, slot, id(last + 1, 1), 1, 3000);
        settle(&mut lane);
        lane.poll().unwrap();
        assert_eq!(lane.segments.shortage, None, "call {n}");
        assert!(
            lane.stats().recycled > 0 && lane.stats().preparations.created == 0 && created > 0,
            "call {n}"
        );
        assert!(files.used() <= used, "call {n}: no file was made");
    }
}
