//! The record of a group's bootstrap is lost: the replica requests it, receives it, and records it again.

use raftwerk_wal::OnDamage;

use super::*;
use crate::api::consistency::Wanted;
use crate::api::error::ReadError;
use crate::worker::storage::chunk::BOOTSTRAP;

/// The files of an initial member, one of three, that has lost the first batch of its log, which recorded its
/// bootstrap, and fenced it.
fn damaged(as_witness: bool) -> MemoryFiles {
    let files = MemoryFiles::new();
    let mut node = Node::open(&files, u64::MAX);
    let mut initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    initial_members.witnesses = as_witness.then_some(NodeId(1)).into_iter().collect();
    let mut made = node.order(|reply| Order::Bootstrap { group: GROUP, initial_members, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    for term in 5..8 {
        let message = Message::Vote { term: Term(term), last: EntryId::default(), transfer: true };
        let record = Record { to_witness: as_witness, ..record_of(message) };
        node.hear_unit(2, UnitKind::Groups, 1, &record.encode());
        node.settle();
    }
    assert_eq!(node.status().unwrap().term, Term(7));
    drop(node);
    let damaged = files.after_power_cut(|_, _| SectorFate::Old);
    assert!(damaged.rot("lane-0/seg-0000000000000001.log", 4096 + 9, 1));
    damaged
}

fn opened(files: &MemoryFiles) -> Node {
    let mut node = Node::open_with(files, 4096, |_, options| options.on_damage = OnDamage::Fence);
    node.settle();
    node
}

impl Node {
    /// Receives a leader's heartbeat; returns whether the reply states that a configuration is lacking, or
    /// `None` without a reply.
    fn beaten(&mut self, to_witness: bool) -> Option<bool> {
        let message = Message::Heartbeat { term: Term(20), commit: Index(0), round: 0, quiesce: false };
        let record = Record { to_witness, ..record_of(message) };
        self.hear_unit(2, UnitKind::Groups, 1, &record.encode());
        self.settle();
        let said: Vec<Record> = self.wire.0.lock().unwrap().drain(..).map(|(_, record)| record).collect();
        let is_answer = |said: &&Record| matches!(said.message, Message::HeartbeatAck { .. });
        said.iter().find(is_answer).map(|said| said.lacks_configuration)
    }

    fn on_all_notified(&mut self, configuration: &Configuration) -> Configuration {
        let mut body = Vec::new();
        configuration.encode(&mut body);
        let to_witness = configuration.is_witness(NodeId(1));
        let total = body.len() as u64;
        let mut unit = BytesMut::new();
        Head { kind: BOOTSTRAP, group: GROUP, term: Term(20), total, to_witness, ..Head::default() }
            .encode(&mut unit);
        unit.extend_from_slice(&body);
        self.hear_unit(2, UnitKind::Snapshot, 0, &unit);
        self.settle();
        self.status().unwrap().configuration
    }
}

#[test]
fn a_founder_that_lost_the_record_of_its_founding_says_so_until_it_is_told_and_writes_it_again() {
    let files = damaged(false);
    let mut node = opened(&files);
    let status = node.status().unwrap();
    assert_eq!((status.configuration.is_empty(), status.term, status.is_witness), (true, Term(8), false));
    assert_eq!(node.beaten(false), Some(true));
    let initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    assert!(node.on_all_notified(&Configuration::of_voters([2, 3, 4].map(NodeId))).is_empty());
    node.hear_unit(2, UnitKind::Snapshot, 0, &[BOOTSTRAP; 60]);
    assert!(node.on_all_notified(&Configuration::default()).is_empty());
    assert_eq!(node.beaten(false), Some(true));
    assert_eq!(node.on_all_notified(&initial_members), initial_members);
    assert_eq!(node.beaten(false), Some(false), "once is enough");

    // The damaged batch is there still, and what was recorded again follows it.
    for _opening in 0..2 {
        let files = node.files.after_power_cut(|_, _| SectorFate::Old);
        node = opened(&files);
        let status = node.status().unwrap();
        assert_eq!((status.configuration, status.compacted), (initial_members.clone(), EntryId::default()));
        assert_eq!(node.beaten(false), Some(false));
    }
}

/// That it was a witness is lost, too, so it accepts no messages; but all that it receives are addressed to a
/// witness.
#[test]
fn a_witness_of_which_nothing_is_left_becomes_one_again() {
    let files = damaged(true);
    let mut node = opened(&files);
    assert!(!node.status().unwrap().is_witness);
    let mut waits = node.read(Wanted::Latest, Some(Duration::from_secs(60)));
    node.turn(Duration::ZERO);
    assert!(waits.try_recv().is_err());
    assert_eq!(node.beaten(true), None, "not this time");
    assert!(matches!(waits.try_recv().unwrap(), Err(ReadError::Witness { .. })), "it will have no state");
    assert_eq!(node.beaten(true), Some(true));
    assert_eq!(node.beaten(false), None, "a witness, from now on");
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files);
    let status = node.status().unwrap();
    assert!(status.is_witness && status.configuration.is_empty());
    let mut initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    assert!(node.on_all_notified(&initial_members).is_empty(), "not as a witness");
    initial_members.witnesses = [NodeId(1)].into_iter().collect();
    assert_eq!(node.on_all_notified(&initial_members), initial_members);
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let status = opened(&files).status().unwrap();
    assert_eq!((status.is_witness, status.configuration), (true, initial_members));
}

#[test]
fn who_answers_and_lacks_it_is_told_once_for_each_answer() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let term = node.lead_with_one(1, 16);
    let initial_members = node.status().unwrap().configuration;
    let answers = |node: &mut Node, message: Message, lacks_configuration: bool| {
        node.wire.1.lock().unwrap().clear();
        let record = Record { lacks_configuration, ..record_of(message) };
        node.hear_unit(3, UnitKind::Groups, 1, &record.encode());
        node.settle();
        node.wire.1.lock().unwrap().iter().filter(|head| head.kind == BOOTSTRAP).count()
    };
    let beaten = Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false };
    let refused = Message::VoteReply { term, granted: false };
    assert_eq!(answers(&mut node, beaten, false), 0);
    assert_eq!(answers(&mut node, beaten, true), 1);
    assert_eq!(answers(&mut node, beaten, true), 1, "it may have been lost");
    assert_eq!(answers(&mut node, refused, true), 1, "whoever tells need not lead");
    assert_eq!(
        answers(&mut node, Message::AppendAck { term, matched: Index(0), progress_epoch: 0 }, true),
        0
    );
    assert!(!initial_members.is_empty());
}

/// A checkpoint without a configuration would be of no use to any replica.
#[test]
fn no_checkpoint_is_taken_while_nobody_knows_who_takes_part() {
    let mut node = opened(&damaged(false));
    let append = |node: &mut Node, first: u64| {
        let prev = EntryId::new(Term(if first == 1 { 0 } else { 20 }), Index(first - 1));
        node.hear_append(20, prev, 1, 6000, first);
        node.settle();
        let status = node.status().unwrap();
        (status.applied, status.compacted.index)
    };
    assert_eq!(append(&mut node, 1), (Index(1), Index(0)));
    assert_eq!(append(&mut node, 2), (Index(2), Index(0)), "the log goes on, and is kept");
    assert!(!node.files.paths().iter().any(|path| path.ends_with(".snap")));
    node.on_all_notified(&Configuration::of_voters([1, 2, 3].map(NodeId)));
    assert_eq!(append(&mut node, 3).1, Index(3), "and now it is cut");
}

/// From this number operators see which groups are left with one copy when a node with payloads fails.
#[test]
fn a_group_that_is_led_with_a_witness_counts_until_it_is_removed() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let mut initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    initial_members.witnesses = [NodeId(3)].into_iter().collect();
    let mut made = node.order(|reply| Order::Bootstrap { group: GROUP, initial_members, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    node.turn(2 * TIMEOUT);
    let (term, granted) = (Term(1), true);
    for answer in [Message::PreVoteReply { term, granted }, Message::VoteReply { term, granted }] {
        node.hear(2, answer);
        node.settle();
    }
    assert_eq!(node.worker.env.metrics.read().led_with_witness, 1);
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    assert_eq!(node.worker.env.metrics.read().led_with_witness, 0);
}
