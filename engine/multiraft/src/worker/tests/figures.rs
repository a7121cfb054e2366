//! A worker's statistics, and when it has nothing more to do.

use raftwerk_frame::NodeHeartbeat;

use super::*;
use crate::EngineStats;
use crate::node::placement::PeerLane;
use crate::node::request::{ReceivedHeartbeat, ReceivedUnit};
use crate::worker::groups::replica::Damage;
use crate::worker::storage::chunk::CHUNK_BYTES;

fn figures(node: &Node) -> EngineStats {
    node.worker.env.metrics.read()
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
    assert_eq!((gone.try_recv(), figures(&node).groups), (Ok(Ok(())), 0));
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
    assert!(node.inbox.arrive(Arrival::Unit(ReceivedUnit { from: NodeId(2), is_first: true, unit })));
    node.settle();
    assert_eq!(figures(&node).bad_units, before + 1);
}

/// A heartbeat of node 2 with that number. It supports this node for a second, and has just received a
/// heartbeat from it.
fn supports(node: &Node, sent: u64) -> ReceivedHeartbeat {
    let heartbeat = NodeHeartbeat {
        incarnation: 5,
        your_incarnation: 1,
        sent,
        your_sent: node.now.0,
        supported_at: node.now.0,
        support_us: 1_000_000,
        support_epoch: 1,
        is_healthy: true,
    };
    ReceivedHeartbeat { from: PeerLane::of(NodeId(2), GROUP, 1), log: LogId(2), heartbeat }
}

#[test]
fn a_node_that_ends_its_support_is_counted() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    node.inbox.push_heartbeat(supports(&node, 1));
    // A heartbeat that is received in one turn takes effect in the next.
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
    node.hear(9, Message::LeaderQuery { term: Term(1), follows: false });
    let mut told = node.order(|reply| Order::Status { group: GROUP, reply });
    node.turn(Duration::ZERO);
    assert!(told.try_recv().is_ok());
    assert!(!node.worker.turn(node.now).is_busy, "all of it was taken in");
}

#[test]
fn news_of_a_node_reach_so_many_groups_a_turn_as_the_limit_says() {
    let mut node =
        Node::open_with(&MemoryFiles::new(), u64::MAX, |settings, _| settings.limits.notifications = 1);
    node.create(&[1, 2, 3]);
    let initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut made = node.order(|reply| Order::Bootstrap { group: GroupId(2), initial_members, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    assert_eq!(node.worker.load().support_events, 0);
    node.inbox.push_heartbeat(supports(&node, 1));
    for _ in 0..2 {
        node.turn(Duration::from_millis(1));
    }
    assert!(node.worker.load().support_events > 0, "one of two groups was told");
    node.settle();
    assert_eq!(node.worker.load().support_events, 0);
}

/// Entries are applied up to the damage, unless it lies beyond the commit index or before the applied one; a
/// witness reads no entries.
#[test]
fn entries_are_applied_up_to_the_first_that_is_damaged() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    node.hear_append(4, EntryId::default(), 10, 8, 10);
    node.settle();
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let replica = node.worker.groups.get_mut(slot).unwrap();
    replica.applied = Index(3);
    let mut to = |first: u64, last: u64| {
        replica.damage = Some(Box::new(Damage { first: Index(first), last: Index(last), bytes: 1 }));
        replica.may_apply_to().0
    };
    let ends = [(8, 9), (10, 12), (13, 14), (2, 3), (3, 5), (4, 4)].map(|(first, last)| to(first, last));
    assert_eq!(ends, [7, 9, 10, 10, 3, 3]);
    replica.machine = None;
    replica.damage = Some(Box::new(Damage { first: Index(8), last: Index(9), bytes: 1 }));
    assert_eq!(replica.may_apply_to(), Index(10));
}

#[test]
fn a_piece_of_a_file_is_of_a_bounded_length() {
    let mut unit = BytesMut::new();
    Head { kind: CHUNK, group: GROUP, total: 1 << 40, ..Head::default() }.encode(&mut unit);
    unit.resize(unit.len() + CHUNK_BYTES as usize, 0);
    assert!(Head::parse(&unit).is_some());
    unit.resize(unit.len() + 1, 0);
    assert!(Head::parse(&unit).is_none());
}

#[test]
fn what_is_shipped_to_a_peer_in_a_turn_travels_as_one_unit() {
    let mut node = Node::open_with(&MemoryFiles::new(), u64::MAX, |settings, _| {
        settings.append_bytes_max = 4096;
    });
    node.lead_with_one(1, 8);
    node.said();
    node.wire.2.lock().unwrap().clear();
    let _answers: Vec<_> = (0..8).map(|_| node.propose(&[1; 4000])).collect();
    node.turn(Duration::from_millis(1));
    let is_append = |(to, record): &(PeerId, Record)| *to == PeerId(2) && record.body_bytes > 0;
    let appends = node.wire.0.lock().unwrap().iter().filter(|said| is_append(said)).count();
    assert!(appends > 1, "{appends}");
    let units = node.wire.2.lock().unwrap().iter().filter(|(to, _)| *to == PeerId(2)).count();
    assert_eq!(units, 1);
}

/// A follower was unreachable when its group became quiescent, and is reached again: its leader sends to it.
#[test]
fn a_leader_that_rests_without_a_follower_wakes_when_that_is_reached() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let term = node.lead_with_one(1, 8);
    let rests = |node: &Node| {
        node.worker.groups.find(GROUP).is_some_and(|replica| replica.core.is_quiescent_without_peer())
    };
    // The leader learns the follower's log.
    node.receive(2, 2, 7, None);
    node.settle();
    for sent in 1..200 {
        node.inbox.push_heartbeat(supports(&node, sent));
        let said: Vec<_> = node.wire.0.lock().unwrap().drain(..).collect();
        for (to, record) in said {
            if let (PeerId(2), Message::Heartbeat { round, quiesce, .. }) = (to, record.message) {
                node.hear(2, Message::HeartbeatAck { term, round, fortifies: true, quiesce });
            }
        }
        node.turn(TIMEOUT / 5);
        node.settle();
        if rests(&node) {
            break;
        }
    }
    assert!(rests(&node));
    node.turn(Duration::from_millis(1));
    assert!(rests(&node));
    assert!(node.inbox.arrive(Arrival::Connected(NodeId(3))));
    node.settle();
    assert!(!rests(&node), "it is to hear from its leader");
}

/// Effects left over from one group's step are no part of another's.
#[test]
fn a_file_that_is_old_news_to_a_leader_does_not_make_it_lead_once_more() {
    const OTHER: GroupId = GroupId(2);
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let term = node.lead_with_one(1, 8);
    let initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut made = node.order(|reply| Order::Bootstrap { group: OTHER, initial_members, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    let other = |node: &Node, message| {
        let record = Record { group: OTHER, ..record_of(message) };
        node.hear_unit(2, UnitKind::Groups, 1, &record.encode());
    };
    let granted = true;
    for _ in 0..15 {
        for from in [2, 3] {
            node.hear(from, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        }
        node.turn(TIMEOUT / 5);
        other(&node, Message::PreVoteReply { term: Term(1), granted });
        node.settle();
    }
    let before = figures(&node).leaderships;
    other(&node, Message::VoteReply { term: Term(1), granted });
    let mut unit = BytesMut::new();
    let id = EntryId::new(term, Index(1));
    Head { kind: CHUNK, group: GROUP, term, id, total: 9, ..Head::default() }.encode(&mut unit);
    unit.extend_from_slice(&[7; 9]);
    node.hear_unit(3, UnitKind::Snapshot, 0, &unit);
    node.turn(Duration::from_millis(1));
    assert_eq!(figures(&node).leaderships, before + 1, "the other group's");
}

/// Support is given to one incarnation: another incarnation of its node is not accepted before that support
/// has ended.
#[test]
fn a_node_that_restarts_is_not_heard_while_support_is_promised_to_its_earlier_life() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    let hear = |node: &mut Node, incarnation: u64| {
        let mut heard = supports(node, 1);
        // It requests support, and gives none.
        (heard.heartbeat.incarnation, heard.heartbeat.supported_at, heard.heartbeat.support_us) =
            (incarnation, 0, 0);
        node.inbox.push_heartbeat(heard);
        for _ in 0..2 {
            node.turn(Duration::from_millis(1));
        }
    };
    let knows = |node: &mut Node, intervals: u32| {
        let now = node.now + intervals * TIMEOUT;
        let mut heartbeats = node.worker.liveness.support().due_heartbeats(now);
        heartbeats.find(|(to, _)| to.node == NodeId(2)).map(|(_, heartbeat)| heartbeat.your_incarnation)
    };
    hear(&mut node, 5);
    assert_eq!(knows(&mut node, 1), Some(5));
    hear(&mut node, 6);
    assert_eq!(knows(&mut node, 4), Some(5));
}

#[test]
fn each_record_of_a_unit_has_the_body_that_is_its_own() {
    const OTHER: GroupId = GroupId(2);
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    let initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut made = node.order(|reply| Order::Bootstrap { group: OTHER, initial_members, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    let (mut records, mut bodies) = (Vec::new(), Vec::new());
    for group in [GROUP, OTHER] {
        let mut frames = vec![0; 128];
        let mut writer = FrameWriter::new(&mut frames, group, EntryId::new(Term(1), Index(1))).unwrap();
        assert!(writer.push(EntryKind::Payload, b"its own"));
        let length = writer.finish().unwrap().frame_bytes();
        let message =
            Message::Append { term: Term(1), prev: EntryId::default(), commit: Index(0), progress_epoch: 0 };
        let record = Record { group, body_bytes: length as u32, ..record_of(message) };
        records.extend_from_slice(&record.encode());
        bodies.extend_from_slice(&frames[..length]);
    }
    node.hear_unit(2, UnitKind::Groups, 2, &[records, bodies].concat());
    node.settle();
    for group in [GROUP, OTHER] {
        let slot = node.worker.groups.slot_of(group).unwrap();
        assert_eq!(node.worker.lane.last(slot), Index(1));
    }
}
