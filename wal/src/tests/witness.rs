//! Logs of witnesses: they record that entries exist, and none of their payloads.

use raftwerk_frame::frame::{EntryKind, FrameHeader, withheld};
use raftwerk_frame::{GroupId, HardState, Index, NodeId, Term};

use super::*;
use crate::LogError;

fn take(lane: &mut MemoryLane, slot: GroupSlot, frame: &[u8]) -> Result<(), LogError> {
    lane.append_frame(slot, frame, &FrameHeader::parse(frame).unwrap())
}

fn hollow(first: EntryId, count: u32) -> [u8; frame::HEADER_BYTES] {
    withheld(GroupId(1), first, count).unwrap()
}

#[test]
fn a_witness_keeps_headers_and_configurations_and_has_no_payload_to_give() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    lane.join(slot, LogKind::Witness);
    assert!(lane.is_witness(slot));
    take(&mut lane, slot, &hollow(id(1, 1), 100)).unwrap();
    take(&mut lane, slot, &frame_of(1, id(101, 1), &[membership(3)])).unwrap();
    take(&mut lane, slot, &hollow(id(102, 1), 5)).unwrap();
    let loud = frame_of(1, id(107, 1), &[(EntryKind::Payload, b"loud".to_vec())]);
    assert!(matches!(take(&mut lane, slot, &loud), Err(LogError::Frame)));
    let mixed = frame_of(1, id(107, 1), &[membership(2), (EntryKind::Noop, Vec::new())]);
    assert!(matches!(take(&mut lane, slot, &mixed), Err(LogError::Frame)));
    assert!(matches!(take(&mut lane, slot, &hollow(id(109, 1), 1)), Err(LogError::Gap { .. })));
    let wanted = lane.read(slot, Index(7), Index(9), u64::MAX);
    assert!(matches!(wanted, Err(LogError::Withheld { first: Index(7) })));
    // Another leader's entries replace the tail, and the configuration in it.
    take(&mut lane, slot, &hollow(id(90, 2), 4)).unwrap();
    settle(&mut lane);
    drop(lane);
    let (lane, groups, report) = open(&files);
    assert!(report.torn.is_none());
    let group = &groups[0];
    assert!(group.is_witness);
    assert_eq!((group.last, &group.runs[..]), (Index(93), &[(Term(1), Index(1)), (Term(2), Index(90))][..]));
    assert_eq!(group.configuration, Configuration::default());
    assert!(lane.is_witness(slot));
}

#[test]
fn who_keeps_payloads_takes_nothing_that_is_withheld() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    lane.join(slot, LogKind::Full);
    append(&mut lane, slot, id(1, 1), 2, 10);
    assert!(matches!(take(&mut lane, slot, &hollow(id(3, 1), 1)), Err(LogError::Frame)));
    assert_eq!((lane.last(slot), lane.is_witness(slot)), (Index(2), false));
}

/// That a replica is a witness, and its hard state, survive the segments that recorded them; but not the
/// replica.
#[test]
fn a_witness_is_carried_forward_and_forgotten_with_its_replica() {
    let floor = Some(EntryId::default());
    carried_and_forgotten(floor, |lane, slot| lane.join(slot, LogKind::Witness));
}

#[test]
fn a_witness_that_founded_its_group_is_carried_forward_as_a_founder() {
    let founders = Configuration::of_voters([1, 2, 3].map(NodeId));
    carried_and_forgotten(None, |lane, slot| lane.bootstrap(slot, &founders, LogKind::Witness));
}

fn carried_and_forgotten(floor: Option<EntryId>, begin: impl Fn(&mut MemoryLane, GroupSlot)) {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    begin(&mut lane, slot);
    let voted = HardState { term: Term(7), vote: Some(NodeId(3)) };
    lane.hard_state(slot, voted).unwrap();
    take(&mut lane, slot, &hollow(id(1, 6), 40)).unwrap();
    for _ in 0..2 {
        let (before, busy) = (lane.segments.current().sequence, lane.attach(GroupId(2)));
        for at in 0..80 {
            let last = lane.last(busy).0;
            append(&mut lane, busy, id(last + 1, 1), 5, 1000);
            lane.compact(busy, id(lane.last(busy).0, 1));
            settle(&mut lane);
            lane.poll().unwrap();
            assert!(at < 79 || lane.segments.in_use.front().unwrap().sequence > before);
        }
        drop(lane);
        let (reopened, groups, _) = open(&files);
        lane = reopened;
        let group = groups.iter().find(|group| group.group == GroupId(1)).unwrap();
        assert!(group.is_witness && group.hard_state == voted);
        assert_eq!(group.last, Index(40), "its entries were moved");
        assert_eq!((group.floor, group.configuration.is_empty()), (floor, floor.is_some()));
    }
    let slot = lane.attach(GroupId(1));
    lane.compact(slot, id(30, 6));
    assert_eq!((lane.compacted(slot), lane.last(slot)), (id(30, 6), Index(40)));
    lane.remove(slot);
    assert_eq!(lane.past(slot), Some((voted, id(40, 6))));
    lane.join(slot, LogKind::Full);
    append(&mut lane, slot, id(1, 6), 2, 10);
    settle(&mut lane);
    drop(lane);
    let (_, groups, _) = open(&files);
    let group = groups.iter().find(|group| group.group == GroupId(1)).unwrap();
    assert_eq!((group.is_witness, group.floor, group.last), (false, Some(id(40, 6)), Index(2)));
}
