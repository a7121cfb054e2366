//! Old segments are freed when they hold nothing live; metadata is relocated; bytes held by a reader remain
//! valid.

use super::*;
use crate::format::segment::PAGE_BYTES;

/// Appends turns to group 1 and compacts behind them, until the lane has freed `freed` segments.
fn churn<D: Disk>(lane: &mut Lane<D>, freed: u64) {
    let slot = lane.attach(GroupId(1));
    let oldest = |lane: &Lane<D>| lane.segments.in_use.front().unwrap().sequence;
    let until = oldest(lane) + freed;
    while oldest(lane) < until {
        let last = lane.last(slot);
        append(lane, slot, id(last.0 + 1, 1), 5, 1000);
        settle(lane);
        lane.compact(slot, id(last.0, 1));
    }
    settle(lane);
}

#[test]
fn facts_survive_the_segment_they_were_written_in() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let cold = lane.attach(GroupId(2));
    let vote = HardState { term: Term(5), vote: Some(NodeId(2)) };
    lane.hard_state(cold, vote).unwrap();
    lane.snapshot(cold, id(90, 4), &voters(3), Tail::Drop);
    churn(&mut lane, 12);
    assert!(lane.log_bytes() <= 5 * lane.options.segment_bytes);
    let before = stories(&lane);
    drop(lane);
    let (lane, groups, _) = open(&files);
    assert_eq!(stories(&lane), before);
    let cold = groups.iter().find(|group| group.group == GroupId(2)).unwrap();
    assert_eq!((cold.hard_state, cold.compacted, &cold.configuration), (vote, id(90, 4), &voters(3)));
}

#[test]
fn the_groups_that_hold_the_log_back_are_named() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, LaneOptions { log_bytes_max: u64::MAX, ..small() }).unwrap();
    let (cold, hot) = (lane.attach(GroupId(2)), lane.attach(GroupId(1)));
    append(&mut lane, cold, id(1, 1), 1, 16);
    for at in 0..20 {
        append(&mut lane, hot, id(at * 5 + 1, 1), 5, 1000);
        settle(&mut lane);
        lane.compact(hot, id(at * 5 + 5, 1));
    }
    let before = lane.log_bytes();
    assert_eq!(lane.pinning().collect::<Vec<_>>(), [GroupId(2)]);
    lane.compact(cold, id(1, 1));
    settle(&mut lane);
    settle(&mut lane);
    lane.compact(hot, id(101, 1));
    settle(&mut lane);
    lane.poll().unwrap();
    assert!(lane.log_bytes() < before / 2);
    assert_eq!(lane.pinning().count(), 0);
}

#[test]
fn freed_segments_are_used_again_and_their_old_batches_never_count() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    churn(&mut lane, 20);
    let stats = lane.stats();
    assert!(stats.recycled > 10 && stats.preparations.created < 10, "{stats:?}");
    let before = stories(&lane);
    drop(lane);
    let (lane, _, report) = open(&files);
    assert_eq!((stories(&lane), report.torn), (before, None));
}

#[test]
fn a_segment_is_freed_only_when_what_replaced_it_is_durable() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    for at in 0..8 {
        append(&mut lane, slot, id(at * 5 + 1, 1), 5, 1000);
        settle(&mut lane);
    }
    lane.poll().unwrap();
    lane.disk_mut().runs_by_itself = false;
    let held = lane.stats().segments;
    lane.compact(slot, id(40, 1));
    lane.submit().unwrap();
    lane.poll().unwrap();
    assert_eq!(lane.stats().segments, held);
    lane.disk_mut().run_appends();
    lane.poll().unwrap();
    assert!(lane.stats().segments < held);
}

#[test]
fn what_a_reader_holds_stays_while_its_file_is_written_again() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    // With space for one spare, the first file freed is the next one written.
    let options = LaneOptions { recent_bytes: 0, spare_segments: 1, ..small() };
    let (mut lane, ..) = open_os(dir.path(), AppendMode::Direct, options);
    let slot = lane.attach(GroupId(1));
    for at in 0..8 {
        append(&mut lane, slot, id(at * 5 + 1, 1), 5, 1000);
        settle(&mut lane);
    }
    lane.poll().unwrap();
    let place = lane.read(slot, Index(3), Index(3), 1).unwrap()[0].place;
    let held = lane.bytes(place).unwrap();
    let copy = held.to_vec();
    // Files are freed by a thread of their own: repeat until one is reused.
    let is_recycled = (0..500).any(|_| {
        churn(&mut lane, 20);
        lane.stats().recycled > 0
    });
    assert!(is_recycled);
    assert_eq!(held, copy);
    assert_eq!(frame::parse(&held).unwrap().0.index, Index(1));
}

#[test]
fn nothing_of_the_log_is_freed_before_the_first_new_batch_is_durable() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 3, 16);
    settle(&mut lane);
    lane.remove(slot);
    settle(&mut lane);
    for _ in 0..3 {
        drop(lane);
        let (reopened, groups, _) = open(&files);
        assert!(groups.is_empty());
        lane = reopened;
        lane.submit().unwrap();
        lane.poll().unwrap();
        while lane.disk_mut().run_background() {} // if a segment had been freed, its file would be gone now
    }
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 16);
    settle(&mut lane);
    lane.poll().unwrap();
    assert_eq!(lane.stats().segments, 1);
}

#[test]
fn a_log_whose_beginning_was_freed_is_replayed_across_the_hole() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 16, 20);
    settle(&mut lane);
    let first = lane.segments.current().sequence;
    let filler = lane.attach(GroupId(2));
    while lane.segments.current().sequence == first {
        let last = lane.last(filler).0;
        append(&mut lane, filler, id(last + 1, 1), 5, 1000);
        settle(&mut lane);
    }
    // In the second segment: a base with its next entries in the first one, entries after those, and only
    // then the entries that make the first segment's unnecessary.
    lane.compact(slot, id(10, 1));
    settle(&mut lane);
    append(&mut lane, slot, id(17, 1), 4, 20);
    settle(&mut lane);
    append(&mut lane, slot, id(11, 2), 2, 20);
    let last = lane.last(filler);
    lane.compact(filler, id(last.0, 1));
    while lane.segments.in_use.front().unwrap().sequence == first {
        let last = lane.last(filler).0;
        append(&mut lane, filler, id(last + 1, 1), 5, 1000);
        settle(&mut lane);
        lane.poll().unwrap();
    }
    let before = stories(&lane);
    assert_eq!(before[&GroupId(1)].entries.keys().copied().collect::<Vec<_>>(), [11, 12]);
    drop(lane);
    assert_eq!(stories(&open(&files).0), before);
}

/// The simulator's seed 27: one segment could not be taken out of the log, the next one could, and the log had a hole.
#[test]
fn a_segment_that_could_not_be_retired_holds_the_younger_ones() {
    for failing in 1..12 {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open(&files);
        lane.disk_mut().runs_by_itself = false;
        let slot = lane.attach(GroupId(1));
        let turn = |lane: &mut MemoryLane| {
            let last = lane.last(slot).0;
            append(lane, slot, id(last + 1, 1), 5, 1000);
            lane.submit().unwrap();
            while lane.disk_mut().run_background() {}
            lane.poll().unwrap();
            lane.disk_mut().run_appends();
            lane.poll().unwrap();
        };
        while lane.stats().segments < 5 {
            turn(&mut lane);
        }
        lane.compact(slot, id(lane.last(slot).0, 1));
        turn(&mut lane);
        // Several segments are dead now; calls of the first retirements fail.
        files.fail_change(failing, 1, std::io::ErrorKind::Other);
        while lane.disk_mut().run_background() {
            // One job at a time, as the lane submits them.
            lane.poll().unwrap();
        }
        files.heal();
        let before = stories(&lane);
        drop(lane);
        let (lane, ..) = open(&files);
        assert_eq!(stories(&lane), before, "call {failing}");
    }
}

/// The hazard of a few cold groups that pin gigabytes, in small: many groups with one entry each, and a busy
/// one.
#[test]
fn cold_groups_are_moved_forward_and_the_log_keeps_its_bound() {
    let files = MemoryFiles::new();
    let options = LaneOptions { log_bytes_max: 256 << 10, ..small() };
    let (mut lane, ..) = open_in(&files, options.clone()).unwrap();
    for group in 2..300 {
        let slot = lane.attach(GroupId(group));
        lane.snapshot(slot, id(4, 1), &voters(3), Tail::Drop);
        append(&mut lane, slot, id(5, 2), 1, 40);
        if group % 3 == 0 {
            append(&mut lane, slot, id(6, 2), 2, 20);
            append(&mut lane, slot, id(7, 3), 3, 20); // replaces the second of them
        }
        settle(&mut lane);
    }
    let before = stories(&lane);
    let busy = lane.attach(GroupId(1));
    for turn in 0..2000u64 {
        append(&mut lane, busy, id(turn * 4 + 1, 3), 4, 900);
        if turn > 8 {
            lane.compact(busy, id(turn * 4 - 31, 3));
        }
        settle(&mut lane);
        lane.poll().unwrap();
        assert!(turn < 500 || lane.log_bytes() <= 2 * options.log_bytes_max, "{} B", lane.log_bytes());
    }
    let mut after = stories(&lane);
    after.remove(&GroupId(1));
    assert_eq!(after, before);
    let all = stories(&lane);
    drop(lane);
    let (lane, ..) = open_in(&files, options).unwrap();
    assert_eq!(stories(&lane), all);
}

#[test]
fn a_group_with_much_in_the_log_is_named_and_not_moved() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let (large, busy) = (lane.attach(GroupId(1)), lane.attach(GroupId(2)));
    append(&mut lane, large, id(1, 1), 8, 900);
    append(&mut lane, large, id(9, 1), 4, 900);
    for turn in 0..200 {
        append(&mut lane, busy, id(turn * 4 + 1, 1), 4, 900);
        lane.compact(busy, id(turn * 4 + 4, 1));
        settle(&mut lane);
        lane.poll().unwrap();
    }
    assert!(lane.log_bytes() > 4 * small().log_bytes_max);
    assert_eq!(lane.pinning().collect::<Vec<_>>(), [GroupId(1)]);
    lane.compact(large, id(12, 1));
    for _ in 0..4 {
        let next = lane.last(busy).next();
        append(&mut lane, busy, EntryId::new(Term(1), next), 1, 10);
        settle(&mut lane);
        lane.poll().unwrap();
    }
    assert!(lane.log_bytes() <= small().log_bytes_max);
}

/// Many groups with one entry each, in `lane`; more than `log_bytes_max` altogether.
fn many_cold_groups(lane: &mut MemoryLane) {
    for group in 1..=1500 {
        let slot = lane.attach(GroupId(group));
        lane.snapshot(slot, id(4, 1), &voters(3), Tail::Drop);
        append(lane, slot, id(5, 2), 1, 100);
        if group % 50 == 0 {
            settle(lane);
        }
    }
    assert!(lane.pins.live_bytes() > 2 * small().log_bytes_max);
}

/// Relocated data is at the end of the log, and would soon be the oldest again.
#[test]
fn what_is_alive_is_not_carried_around_in_circles() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    many_cold_groups(&mut lane);
    let turns = |lane: &mut MemoryLane, count| {
        let before = lane.stats().frame_bytes;
        for _ in 0..count {
            settle(lane);
        }
        lane.stats().frame_bytes - before
    };
    let live = lane.pins.live_bytes();
    assert!(turns(&mut lane, 1000) <= 2 * live);
    assert_eq!(turns(&mut lane, 1000), 0, "a log that nobody writes to comes to rest");
    let busy = lane.attach(GroupId(1));
    let before = lane.stats().frame_bytes;
    for turn in 0..2000u64 {
        append(&mut lane, busy, id(turn * 4 + 6, 3), 4, 900);
        lane.compact(busy, id(turn * 4 + 8, 3));
        settle(&mut lane);
    }
    let (written, appended) = (lane.stats().frame_bytes - before, 2000 * 4 * 900);
    assert!(written <= 5 * appended / 2, "{written} B for {appended}");
    assert!(lane.log_bytes() <= 3 * lane.pins.live_bytes(), "{} B", lane.log_bytes());
}

/// Seed 784047759013 of the churn profile: each turn added to the queue of the disk.
#[test]
fn nothing_is_carried_while_the_device_is_behind() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, LaneOptions { log_bytes_max: u64::MAX, ..small() }).unwrap();
    many_cold_groups(&mut lane);
    // Most of the log is dead, and the live rest is spread over it.
    for (group, term) in (3..9).flat_map(|term| (1..=1500).map(move |group| (group, term))) {
        let slot = lane.attach(GroupId(group));
        if group % 3 != 0 {
            append(&mut lane, slot, id(5, term), 1, 100);
        }
        if group % 50 == 0 {
            settle(&mut lane);
        }
    }
    lane.options.log_bytes_max = small().log_bytes_max;
    lane.disk_mut().runs_by_itself = false;
    let (before, turns) = (lane.stats().frame_bytes, 300);
    for term in 1..=turns {
        let slot = lane.attach(GroupId(1));
        lane.hard_state(slot, HardState { term: Term(9 + term), vote: None }).unwrap();
        lane.submit().unwrap();
    }
    assert!(lane.stats().frame_bytes - before > 2 * turns * 56, "something is carried");
    let bound = turns * PAGE_BYTES as u64 + lane.options.queue_bytes_max as u64;
    assert!(lane.stats().queued_bytes <= bound, "{} B of {bound}", lane.stats().queued_bytes);
    let all = stories(&lane);
    lane.disk_mut().runs_by_itself = true;
    settle(&mut lane);
    assert_eq!(stories(&lane), all);
}

fn aging() -> LaneOptions {
    LaneOptions { log_bytes_max: u64::MAX, age_max: Some(std::time::Duration::from_secs(60)), ..small() }
}

fn seconds(at: u64) -> raftwerk_frame::Time {
    raftwerk_frame::Time(at * 1_000_000_000)
}

/// Cold groups, and a busy one that is compacted: little is live, in every segment.
fn some_cold_groups(lane: &mut MemoryLane) {
    let busy = lane.attach(GroupId(1));
    for group in 2..40 {
        let slot = lane.attach(GroupId(group));
        lane.snapshot(slot, id(4, 1), &voters(3), Tail::Drop);
        append(lane, slot, id(5, 2), 2, 40);
        let last = lane.last(busy).0;
        append(lane, busy, id(last + 1, 1), 4, 900);
        lane.compact(busy, id(last + 4, 1));
        settle(lane);
    }
}

#[test]
fn a_segment_that_is_too_old_goes_and_one_that_is_not_stays() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, aging()).unwrap();
    some_cold_groups(&mut lane);
    let (before, segments) = (stories(&lane), lane.stats().segments);
    assert!(segments > 4);
    lane.set_time(seconds(5));
    assert_eq!(lane.next_too_old(), seconds(65));
    for at in 5..65 {
        lane.set_time(seconds(at));
        settle(&mut lane);
    }
    assert_eq!(lane.stats().segments, segments, "none is old enough");
    let written = lane.stats().frame_bytes;
    lane.set_time(seconds(65));
    for _ in 0..20 {
        settle(&mut lane);
    }
    assert!(lane.stats().segments <= 2, "{}", lane.stats().segments);
    assert!(lane.stats().frame_bytes - written <= 2 * lane.pins.live_bytes());
    assert_eq!(stories(&lane), before);

    // No writes: the log is quiescent, and stays so.
    let written = lane.stats().frame_bytes;
    for at in 65..1000 {
        lane.set_time(seconds(at));
        settle(&mut lane);
    }
    assert!(lane.stats().frame_bytes - written <= 2 * lane.pins.live_bytes());
    drop(lane);
    assert_eq!(stories(&open_in(&files, aging()).unwrap().0), before);
}

#[test]
fn what_is_alive_is_written_again_about_once_in_the_time_that_it_may_stay() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, aging()).unwrap();
    many_cold_groups(&mut lane);
    let (live, before) = (lane.pins.live_bytes(), lane.stats().frame_bytes);
    let times = 10;
    for at in 0..=60 * times {
        lane.set_time(seconds(at));
        for _ in 0..3 {
            settle(&mut lane);
        }
    }
    let written = lane.stats().frame_bytes - before;
    assert!(written >= live && written <= 2 * times * live, "{written} B for {live}");
}

#[test]
fn a_group_with_much_in_a_segment_that_is_too_old_is_named() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, aging()).unwrap();
    let large = lane.attach(GroupId(77));
    append(&mut lane, large, id(1, 1), 8, 900);
    append(&mut lane, large, id(9, 1), 4, 900);
    some_cold_groups(&mut lane);
    lane.set_time(seconds(1));
    lane.set_time(seconds(70));
    for _ in 0..20 {
        settle(&mut lane);
    }
    assert_eq!(lane.pinning().collect::<Vec<_>>(), [GroupId(77)]);
    lane.compact(large, id(12, 1));
    for _ in 0..20 {
        settle(&mut lane);
    }
    assert!(lane.stats().segments <= 2);
    drop(lane);
    // Segments that existed before count as old as the opening.
    let (mut lane, ..) = open_in(&files, aging()).unwrap();
    lane.set_time(seconds(500));
    assert!(!lane.is_too_old());
}

/// The same hazard at its real size.
#[test]
fn a_hundred_thousand_cold_groups_and_a_hot_one_keep_the_log_within_twice_its_bound() {
    let files = MemoryFiles::new();
    let bound = 64 << 20;
    let options = LaneOptions { log_bytes_max: bound, ..LaneOptions::default() };
    let options = LaneOptions { segment_bytes: 4 << 20, recent_bytes: 4 << 20, ..options };
    let (mut lane, ..) = open_in(&files, options).unwrap();
    for group in 2..=100_001 {
        let slot = lane.attach(GroupId(group));
        lane.snapshot(slot, id(4, 1), &voters(3), Tail::Drop);
        append(&mut lane, slot, id(5, 2), 1, 16);
        if group % 1000 == 0 {
            settle(&mut lane);
        }
    }
    let hot = lane.attach(GroupId(1));
    let mut most = 0;
    for turn in 0..400u64 {
        append(&mut lane, hot, id(turn * 64 + 1, 3), 64, 15 << 10);
        if turn > 0 {
            lane.compact(hot, id(turn * 64, 3));
        }
        settle(&mut lane);
        lane.poll().unwrap();
        most = most.max(lane.log_bytes());
    }
    assert!(most <= 2 * bound, "{most} B");
    let cold = lane.attach(GroupId(50_000));
    assert_eq!(story(&lane, cold).entries.len(), 1);
}
