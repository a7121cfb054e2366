//! What a worker counts, and when it has nothing more to do.

use super::*;
use crate::EngineStats;
use crate::liveness::{Heard, PeerLane};
use crate::worker::piece::PIECE_BYTES;
use crate::worker::replica::Damage;
use raftwerk_frame::Beat;

fn figures(node: &Node) -> EngineStats {
    node.worker.metrics.read()
}

#[test]
fn a_worker_counts_its_groups_and_the_entries_that_they_apply() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let before = figures(&node);
    assert_eq!(before.groups, 1);
    for _ in 0..3 {
        node.write(b"x").unwrap();
    }
    assert_eq!(figures(&node).applied, before.applied + 3);
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!((gone.try_recv(), figures(&node).groups), (Ok(true), 0));
}

#[test]
fn a_unit_that_the_transport_takes_is_not_counted_as_dropped() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.lead_with_one(1, 8);
    let stats = figures(&node);
    assert!(stats.units_sent > 0);
    assert_eq!(stats.units_dropped, 0);
}

#[test]
fn a_unit_without_a_head_is_counted_as_bad() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let before = figures(&node).bad_units;
    let unit = Bytes::from_static(b"no unit");
    assert!(node.inbox.arrive(Arrival::Unit { from: NodeId(2), is_first: true, unit }));
    node.settle();
    assert_eq!(figures(&node).bad_units, before + 1);
}

/// A beat of node 2, which supports this one for a second.
fn supports(node: &Node) -> Heard {
    let beat = Beat {
        life: 5,
        your_life: 1,
        sent: 1,
        heard: 0,
        promised_at: node.now.0,
        promise_us: 1_000_000,
        promise: 1,
        is_well: true,
    };
    Heard { from: PeerLane::of(NodeId(2), GROUP, 1), log: LogId(2), beat }
}

#[test]
fn a_node_that_ends_its_support_is_counted() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    node.inbox.beat(supports(&node));
    // A beat that comes in one turn is heard in the next.
    node.turn(Duration::from_millis(1));
    node.turn(Duration::from_millis(1));
    assert_eq!(figures(&node).supports_ended, 0);
    node.turn(Duration::from_secs(2));
    assert_eq!(figures(&node).supports_ended, 1);
}

#[test]
fn a_worker_without_work_is_not_busy() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let end = node.worker.turn(node.now);
    assert!(!end.is_busy && !end.is_closed);
    node.hear(9, Message::Doubt { term: Term(1), follows: false });
    let mut told = node.order(|reply| Order::Status { group: GROUP, reply });
    node.turn(Duration::ZERO);
    assert!(told.try_recv().is_ok());
    assert!(!node.worker.turn(node.now).is_busy, "all of it was taken in");
}

#[test]
fn news_of_a_node_reach_so_many_groups_a_turn_as_the_limit_says() {
    let mut node = Node::open_with(&MemoryFiles::new(), u64::MAX, |settings, _| settings.limits.told = 1);
    node.create(&[1, 2, 3]);
    let founders = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut made = node.order(|reply| Order::Found { group: GroupId(2), founders, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    assert_eq!(node.worker.load().news, 0);
    node.inbox.beat(supports(&node));
    for _ in 0..2 {
        node.turn(Duration::from_millis(1));
    }
    assert_eq!(node.worker.load().news, 1, "one of two groups was told");
    node.settle();
    assert_eq!(node.worker.load().news, 0);
}

/// Damage ends what is applied, unless it lies beyond what may be, or behind what was; a witness reads nothing.
#[test]
fn entries_are_applied_up_to_the_first_that_is_damaged() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    node.hear_append(4, EntryId::default(), 10, 8, 10);
    node.settle();
    let slot = node.worker.slot_of(GROUP).unwrap();
    let replica = node.worker.replicas[slot.0 as usize].as_mut().unwrap();
    replica.applied = Index(3);
    let mut to = |first: u64, last: u64| {
        replica.damage = Some(Damage { first: Index(first), last: Index(last), bytes: 1 });
        replica.may_apply_to().0
    };
    let ends = [(8, 9), (10, 12), (13, 14), (2, 3), (3, 5), (4, 4)].map(|(first, last)| to(first, last));
    assert_eq!(ends, [7, 9, 10, 10, 3, 3]);
    replica.machine = None;
    replica.damage = Some(Damage { first: Index(8), last: Index(9), bytes: 1 });
    assert_eq!(replica.may_apply_to(), Index(10));
}

#[test]
fn a_piece_of_a_file_is_of_a_bounded_length() {
    let mut unit = BytesMut::new();
    Head { kind: PIECE, group: GROUP, total: 1 << 40, ..Head::default() }.encode(&mut unit);
    unit.resize(unit.len() + PIECE_BYTES as usize, 0);
    assert!(Head::parse(&unit).is_some());
    unit.resize(unit.len() + 1, 0);
    assert!(Head::parse(&unit).is_none());
}
