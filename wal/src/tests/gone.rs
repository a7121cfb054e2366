//! Damage to the metadata of removed groups.

use super::*;
use crate::OnDamage;

const GONE: GroupId = GroupId(0x5EED_1234_5678_9ABC);
const VOTE: HardState = HardState { term: Term(3), vote: Some(NodeId(2)) };

fn fencing() -> LaneOptions {
    LaneOptions { on_damage: OnDamage::Fence, ..small() }
}

fn reopen(files: &MemoryFiles) -> MemoryLane {
    open_in(files, fencing()).unwrap().0
}

/// Appends batches of another group, which claim earlier ones as durable.
fn go_on(lane: &mut MemoryLane, batches: u64) {
    let slot = lane.attach(GroupId(1));
    for _ in 0..batches {
        let last = lane.last(slot).next();
        append(lane, slot, EntryId::new(Term(1), last), 1, 900);
        lane.compact(slot, EntryId::new(Term(1), last));
        settle(lane);
    }
}

/// Damages the body of the group's last frame of that kind, or of the one before; the header still shows the
/// group.
fn rot(files: &MemoryFiles, kind: u8, before_last: usize) {
    let mut found = Vec::new();
    for path in files.paths().into_iter().filter(|path| path.contains("/seg-")) {
        let content = files.content(&path).unwrap();
        let is_it =
            |at: &usize| content[*at + 12] == kind && content[*at + 16..*at + 24] == GONE.0.to_le_bytes();
        found.extend((4096..content.len() - 48).filter(is_it).map(|at| (path.clone(), at as u64)));
    }
    let (path, at) = &found[found.len() - 1 - before_last];
    assert!(files.rot(path, at + 48, 1));
}

const ENTRIES: u8 = 1;
const HARD_STATE: u8 = 2;

/// A replica that has voted, and holds `entries` entries, is removed; its vote is lost.
fn with_a_lost_vote(entries: u64) -> MemoryFiles {
    let files = MemoryFiles::new();
    let mut lane = reopen(&files);
    let slot = lane.attach(GONE);
    lane.snapshot(slot, id(0, 0), &voters(3), Tail::Drop);
    lane.hard_state(slot, VOTE).unwrap();
    if entries > 0 {
        append(&mut lane, slot, id(1, 2), entries, 40);
    }
    settle(&mut lane);
    lane.remove(slot);
    go_on(&mut lane, 1);
    drop(lane);
    rot(&files, HARD_STATE, 0);
    files
}

fn check_gone(lane: &MemoryLane, fence: u64) {
    assert_eq!((lane.past_fence(GONE), lane.has_past(GONE)), (Some(Term(fence)), true));
}

#[test]
fn that_a_vote_of_a_removed_replica_was_lost_is_said_in_the_log() {
    for entries in [0, 2] {
        let files = with_a_lost_vote(entries);
        for _ in 0..3 {
            let (mut lane, groups, report) = open_in(&files, fencing()).unwrap();
            assert!(groups.iter().all(|group| group.group != GONE && !group.is_hit), "{groups:?}");
            assert_eq!((report.damage.len(), report.lost_unknown), (1, None));
            check_gone(&lane, 3);
            settle(&mut lane);
        }
        // The fence survives the segments that first recorded it.
        let first = files.paths().into_iter().find(|path| path.contains("/seg-")).unwrap();
        let mut lane = reopen(&files);
        go_on(&mut lane, 40);
        assert!(files.content(&first).is_none());
        drop(lane);
        let (lane, _, report) = open_in(&files, fencing()).unwrap();
        assert_eq!(report.damage, []);
        check_gone(&lane, 3);
        let slot = lane.groups.slot_of(GONE).unwrap();
        let reached = lane.past(slot).unwrap().1;
        assert_eq!(reached, if entries == 0 { EntryId::default() } else { id(2, 2) });
    }
}

/// Acknowledged entries that were lost are not covered by any floor.
#[test]
fn a_fenced_replica_that_is_removed_and_joins_again_is_fenced_until_a_later_term() {
    let files = MemoryFiles::new();
    let mut lane = reopen(&files);
    let slot = lane.attach(GONE);
    lane.snapshot(slot, id(0, 0), &voters(3), Tail::Drop);
    for index in 1..=3 {
        append(&mut lane, slot, id(index, 2), 1, 40);
        settle(&mut lane);
    }
    go_on(&mut lane, 1);
    drop(lane);
    rot(&files, ENTRIES, 0);
    let mut lane = reopen(&files);
    let slot = lane.attach(GONE);
    assert_eq!((lane.last(slot), lane.fence(slot)), (Index(2), Some(Term(2))));
    for _ in 0..2 {
        let slot = lane.attach(GONE);
        lane.remove(slot);
        settle(&mut lane);
        check_gone(&lane, 2);
        drop(lane);
        lane = reopen(&files);
        check_gone(&lane, 2);
        let slot = lane.attach(GONE);
        lane.join_fenced(slot, LogKind::Full, Term(2), VOTE).unwrap();
        settle(&mut lane);
        assert_eq!((lane.fence(slot), lane.past_fence(GONE)), (Some(Term(2)), None));
        drop(lane);
        lane = reopen(&files);
        let slot = lane.attach(GONE);
        assert_eq!((lane.fence(slot), lane.latest_hard_state(slot)), (Some(Term(2)), VOTE));
    }
    let slot = lane.attach(GONE);
    append(&mut lane, slot, id(1, 3), 1, 40);
    lane.remove(slot);
    settle(&mut lane);
    drop(lane);
    let lane = reopen(&files);
    assert_eq!((lane.past_fence(GONE), lane.has_past(GONE)), (None, true), "it was repaired before it went");
}

#[test]
fn of_two_losses_of_a_removed_replica_the_later_term_counts() {
    let files = with_a_lost_vote(0);
    let mut lane = reopen(&files);
    let slot = lane.attach(GONE);
    lane.join_fenced(slot, LogKind::Full, Term(3), HardState { term: Term(4), vote: None }).unwrap();
    settle(&mut lane);
    lane.hard_state(slot, HardState { term: Term(9), vote: Some(NodeId(2)) }).unwrap();
    settle(&mut lane);
    lane.remove(slot);
    go_on(&mut lane, 1);
    drop(lane);
    rot(&files, HARD_STATE, 0);
    for _ in 0..2 {
        let mut lane = reopen(&files);
        check_gone(&lane, 9);
        settle(&mut lane);
    }
}

/// The remaining metadata is dropped as well.
#[test]
fn an_accepted_loss_of_a_removed_replica_outlives_the_segment_that_says_so() {
    let files = with_a_lost_vote(2);
    let mut lane = reopen(&files);
    let slot = lane.attach(GONE);
    lane.accept_loss(slot).unwrap();
    settle(&mut lane);
    for _ in 0..2 {
        assert!(lane.is_loss_accepted(GONE));
        assert_eq!((lane.past_fence(GONE), lane.has_past(GONE)), (None, false));
        go_on(&mut lane, 20);
        drop(lane);
        lane = reopen(&files);
    }
}

#[test]
fn an_accepted_loss_is_no_word_on_what_is_lost_of_the_group_later() {
    let files = with_a_lost_vote(2);
    let mut lane = reopen(&files);
    let slot = lane.attach(GONE);
    lane.accept_loss(slot).unwrap();
    settle(&mut lane);
    let slot = lane.attach(GONE);
    lane.bootstrap(slot, &voters(3), LogKind::Full);
    settle(&mut lane);
    lane.hard_state(slot, VOTE).unwrap();
    settle(&mut lane);
    go_on(&mut lane, 1);
    drop(lane);
    let (lane, groups, _) = open_in(&files.copy(), fencing()).unwrap();
    let group = groups.iter().find(|group| group.group == GONE).unwrap();
    assert_eq!((group.floor, group.fence, group.hard_state), (None, None, VOTE));
    drop(lane);
    // Every record that the group is here again is lost.
    rot(&files, 3, 0);
    rot(&files, HARD_STATE, 0);
    for _ in 0..2 {
        let mut lane = reopen(&files);
        assert!(!lane.is_loss_accepted(GONE));
        check_gone(&lane, 3);
        settle(&mut lane);
    }
}
