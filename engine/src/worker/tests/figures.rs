//! What a worker counts, and when it has nothing more to do.

use super::*;
use crate::EngineStats;
use crate::liveness::{Heard, PeerLane};
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

#[test]
fn a_node_that_ends_its_support_is_counted() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
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
    let from = PeerLane::of(NodeId(2), GROUP, 1);
    node.inbox.beat(Heard { from, log: LogId(2), beat });
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
