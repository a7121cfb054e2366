//! Edges of a group's log: the entry that it is compacted to, and its last.

use super::*;

#[test]
fn a_configuration_that_a_log_is_compacted_to_is_told_once() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 2, 10);
    lane.append_membership(slot, id(3, 1), &voters(3)).unwrap();
    append(&mut lane, slot, id(4, 1), 1, 10);
    lane.compact(slot, id(3, 1));
    settle(&mut lane);
    drop(lane);
    let (_, groups, _) = open(&files);
    assert_eq!(groups[0].configurations, [(Index(3), voters(3))]);
}

#[test]
fn the_last_entry_alone_can_be_lost() {
    let (mut lane, ..) = open(&MemoryFiles::new());
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 3, 10);
    settle(&mut lane);
    assert!(lane.lose(slot, Index(4)).is_none(), "there is none");
    assert_eq!(lane.lose(slot, Index(3)).unwrap().last, Index(2));
}
