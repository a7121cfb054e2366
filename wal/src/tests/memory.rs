//! One budget for buffers, index and readers: it is kept, its exhaustion is handled as specified, and the
//! lane recovers.

use super::*;

const BUDGET: u64 = 2 << 20;

fn bounded(memory_bytes: u64) -> LaneOptions {
    let options = LaneOptions { memory_bytes, recent_bytes: 8 << 20, log_bytes_max: u64::MAX, ..small() };
    LaneOptions { segment_bytes: 256 << 10, queue_bytes_max: 1 << 20, batch_bytes_max: 256 << 10, ..options }
}

/// Appends while there is room for `bytes` bytes. Returns the number of entries.
fn fill(lane: &mut MemoryLane, groups: u64, bytes: usize, most: u64) -> u64 {
    let mut appended = 0;
    while appended < most && lane.turn_budget() > bytes {
        let slot = lane.attach(GroupId(1 + appended % groups));
        let next = lane.last(slot).0 + 1;
        append(lane, slot, id(next, 1), 1, bytes);
        settle(lane);
        assert!(lane.memory_bytes() <= lane.options.memory_bytes + (512 << 10), "{:?}", lane.stats());
        appended += 1;
    }
    appended
}

#[test]
fn the_latest_batches_make_room_for_the_index_and_are_read_from_the_files() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, bounded(BUDGET)).unwrap();
    fill(&mut lane, 1, 3000, 100);
    let early = lane.recent.bytes();
    assert!(early > 1 << 20, "{early}");
    // Small entries: each takes more of the index than of any other memory.
    let appended = fill(&mut lane, 3, 10, 12_000);
    assert_eq!(appended, 12_000);
    assert!(lane.recent.bytes() < early && lane.index_bytes() > BUDGET / 4);
    let slot = lane.attach(GroupId(1));
    assert_eq!(story(&lane, slot).entries.len() as u64, lane.last(slot).0, "all of it is readable");
}

#[test]
fn at_the_end_of_the_budget_entries_find_no_room_facts_do_and_compaction_heals_it() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, bounded(BUDGET)).unwrap();
    let appended = fill(&mut lane, 2, 10, 1_000_000);
    assert!(appended < 200_000 && lane.turn_budget() <= 10);
    assert_eq!(lane.stats().index_entries, appended);
    let per_entry = lane.stats().index_bytes / appended;
    assert!((16..=128).contains(&per_entry), "{per_entry} bytes");
    let mut heavy: Vec<GroupId> = lane.heavy().collect();
    heavy.sort_unstable();
    assert_eq!(heavy, [GroupId(1), GroupId(2)], "each has its share");
    let slot = lane.attach(GroupId(1));
    lane.hard_state(slot, HardState { term: Term(2), vote: None }).unwrap();
    let last = lane.last(slot);
    lane.append_noop(slot, id(last.0 + 1, 2)).unwrap();
    lane.compact(slot, id(last.0, 1));
    settle(&mut lane);
    assert!(lane.turn_budget() > 100 << 10, "{:?}", lane.stats());
    assert!(fill(&mut lane, 2, 10, 1000) == 1000);
}

#[test]
fn the_groups_with_more_than_their_share_of_the_index_are_named() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, bounded(BUDGET)).unwrap();
    for group in 2..100 {
        let slot = lane.attach(GroupId(group));
        append(&mut lane, slot, id(1, 1), 1, 10);
    }
    settle(&mut lane);
    fill(&mut lane, 1, 10, 4000);
    assert_eq!(lane.heavy().count(), 0, "there is enough");
    fill(&mut lane, 1, 10, 1_000_000);
    assert_eq!(lane.heavy().collect::<Vec<_>>(), [GroupId(1)]);
}

#[test]
fn what_readers_hold_is_counted_until_they_let_go() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, LaneOptions { recent_bytes: 0, ..bounded(BUDGET) }).unwrap();
    fill(&mut lane, 1, 6000, 300);
    let slot = lane.attach(GroupId(1));
    let mut held = Vec::new();
    let left = lane.memory_left();
    for index in 1..=200 {
        if lane.must_readers_wait() {
            break;
        }
        let place = lane.read(slot, Index(index), Index(index), 1).unwrap()[0].place;
        held.push(lane.bytes(place).unwrap());
    }
    let sum: u64 = held.iter().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(lane.stats().pinned_bytes, sum);
    assert!(lane.must_readers_wait() && sum < BUDGET / 2 && lane.memory_left() + sum == left);
    let clone = held[0].clone();
    held.clear();
    assert_eq!(lane.stats().pinned_bytes, clone.len() as u64, "a clone holds it, too");
    drop(clone);
    assert!(lane.stats().pinned_bytes == 0 && !lane.must_readers_wait());
}

#[test]
fn a_batch_that_a_reader_holds_counts_after_it_was_forgotten() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, LaneOptions { recent_bytes: 64 << 10, ..bounded(BUDGET) }).unwrap();
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 6000);
    settle(&mut lane);
    let place = lane.read(slot, Index(1), Index(1), 1).unwrap()[0].place;
    let (held, left) = (lane.bytes(place).unwrap(), lane.memory_left());
    fill(&mut lane, 1, 6000, 50);
    assert!(lane.memory_left() + (16 << 10) <= left, "the buffer is still there");
    drop(held);
    assert!(lane.memory_left() + (16 << 10) > left);
}

#[test]
fn a_hundred_thousand_groups_keep_to_the_budget() {
    let files = MemoryFiles::new();
    let budget = 96 << 20;
    let options = LaneOptions { memory_bytes: budget, log_bytes_max: u64::MAX, ..LaneOptions::default() };
    let (mut lane, ..) = open_in(&files, options).unwrap();
    let groups = 100_000;
    for group in 1..=groups {
        lane.attach(GroupId(group));
    }
    let fixed = lane.index_bytes();
    assert!(fixed / groups <= 512, "{} bytes a group", fixed / groups);
    let (mut entries, mut most) = (0, 0);
    'full: for round in 1.. {
        for group in 1..=groups {
            if lane.turn_budget() < 64 << 10 {
                settle(&mut lane);
                if lane.turn_budget() < 64 << 10 {
                    break 'full;
                }
            }
            let slot = lane.attach(GroupId(group));
            append(&mut lane, slot, id(round, 1), 1, 16);
            entries += 1;
        }
        settle(&mut lane);
        most = most.max(lane.memory_bytes());
    }
    assert!(entries > groups && most <= budget + (8 << 20), "{entries} entries, {most} B");
    let before = lane.index_bytes();
    for group in 1..=groups {
        let slot = lane.attach(GroupId(group));
        let last = lane.last(slot);
        lane.compact(slot, id(last.0, 1));
    }
    settle(&mut lane);
    assert!(lane.turn_budget() > 0 && lane.index_bytes() < before);
}
