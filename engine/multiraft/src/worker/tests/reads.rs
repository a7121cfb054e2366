//! Reads at a follower: what it answers locally, its read-index requests and their number, and when it
//! refuses.

use super::*;
use crate::api::consistency::{Demand, Wanted};
use crate::api::error::ReadError;
use crate::api::status::ReadAnswer;

pub(super) type Answer = oneshot::Receiver<Result<ReadAnswer, ReadError>>;

const MS: Duration = Duration::from_millis(1);
const INTERVAL: Duration = Duration::from_millis(100);

/// One of three replicas, which follows node 2.
pub(super) fn follower(change: impl FnOnce(&mut Settings)) -> Node {
    let mut node = Node::open_with(&MemoryFiles::new(), 1 << 20, |settings, _| change(settings));
    node.create(&[1, 2, 3]);
    node.hear(2, Message::Heartbeat { term: Term(1), commit: Index(0), round: 0, quiesce: false });
    node.settle();
    node.wire.0.lock().unwrap().clear();
    node
}

impl Node {
    pub(super) fn read(&self, wanted: Wanted, patience: Option<Duration>) -> Answer {
        let (reply, answer) = oneshot::channel();
        let demand = Demand { wanted, patience };
        let request = Request::Read { group: GROUP, query: Bytes::new(), demand, reply };
        assert!(self.inbox.request(request).is_ok());
        answer
    }

    /// The read-index requests sent to node 2 since the last call.
    pub(super) fn questions(&self) -> Vec<u64> {
        let asked = |(to, record): (PeerId, Record)| match record.message {
            Message::ReadIndex { round, .. } if to == PeerId(2) => Some(round),
            _ => None,
        };
        self.wire.0.lock().unwrap().drain(..).filter_map(asked).collect()
    }

    pub(super) fn answer_question(&self, round: u64) {
        self.hear(2, Message::ReadIndexReply { term: Term(1), round, index: Index(0) });
    }
}

#[test]
fn many_reads_of_bounded_staleness_share_a_question_and_later_ones_need_none() {
    let mut node = follower(|_| ());
    let within = Wanted::Within(100 * MS);
    let mut first: Vec<Answer> = (0..32).map(|_| node.read(within, Some(1000 * MS))).collect();
    node.turn(MS);
    let questions = node.questions();
    assert_eq!(questions.len(), 1, "one for all");
    node.answer_question(questions[0]);
    node.turn(10 * MS);
    for answer in &mut first {
        let answer = answer.try_recv().unwrap().unwrap();
        assert_eq!(answer.staleness, Some(10 * MS), "counted from the moment of asking");
    }
    for _ in 0..32 {
        let mut answer = node.read(within, None);
        node.turn(MS);
        assert!(answer.try_recv().unwrap().unwrap().staleness <= Some(50 * MS));
    }
    assert_eq!(node.questions(), [], "a state of half the bound needs no renewal");
    // Past the half: still answered at once, and one read-index request renews the state's time for later
    // reads.
    node.turn(10 * MS);
    let mut answers: Vec<Answer> = (0..32).map(|_| node.read(within, None)).collect();
    node.turn(MS);
    assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
    let renewal = node.questions();
    assert_eq!(renewal.len(), 1);
    // Without a reply the state gets too old, and reads are refused for that.
    node.turn(50 * MS);
    let mut refused = node.read(within, None);
    let mut waits = node.read(within, Some(1000 * MS));
    node.turn(MS);
    let staleness = Some(104 * MS);
    assert_eq!(refused.try_recv().unwrap(), Err(ReadError::Stale { staleness }));
    assert!(waits.try_recv().is_err(), "it waits");
    node.answer_question(renewal[0]);
    node.turn(MS);
    assert!(waits.try_recv().unwrap().unwrap().staleness <= Some(100 * MS));
}

#[test]
fn a_question_that_is_lost_is_asked_again() {
    let mut node = follower(|_| ());
    let mut answer = node.read(Wanted::Latest, Some(10_000 * MS));
    node.turn(MS);
    assert_eq!(node.questions().len(), 1);
    node.turn(INTERVAL);
    let again = node.questions();
    assert_eq!(again.len(), 1, "without another read, and without a word from the leader");
    node.answer_question(again[0]);
    node.turn(MS);
    assert!(answer.try_recv().unwrap().is_ok());
    node.turn(2 * INTERVAL);
    node.turn(2 * INTERVAL);
    assert_eq!(node.questions(), [], "nobody waits any more");
}

#[test]
fn a_read_waits_as_long_as_it_was_told_and_says_why_in_vain() {
    let mut node = follower(|_| ());
    let mut strong = node.read(Wanted::Latest, Some(30 * MS));
    let mut behind = node.read(Wanted::AtLeast(Index(9)), Some(40 * MS));
    let mut stale = node.read(Wanted::Within(MS), Some(50 * MS));
    let mut refused = node.read(Wanted::Latest, None);
    let mut refused_behind = node.read(Wanted::AtLeast(Index(9)), None);
    node.turn(MS);
    assert!(matches!(refused.try_recv().unwrap(), Err(ReadError::NotLeader { .. })));
    let told = ReadError::Behind { applied: Index(0), wanted: Index(9) };
    assert_eq!(refused_behind.try_recv().unwrap(), Err(told.clone()));
    node.turn(29 * MS);
    assert!(strong.try_recv().is_err());
    let end = node.worker.turn(node.now);
    assert_eq!(end.next_deadline, node.now + MS, "the driver is told when to come back");
    node.turn(MS);
    assert_eq!(strong.try_recv().unwrap(), Err(ReadError::NotLeader { hint: Some(NodeId(2)) }));
    assert!(behind.try_recv().is_err());
    node.turn(10 * MS);
    assert_eq!(behind.try_recv().unwrap(), Err(told));
    node.turn(10 * MS);
    assert_eq!(stale.try_recv().unwrap(), Err(ReadError::Stale { staleness: None }));
    assert_eq!(node.worker.load().reads, 0);
}

#[test]
fn a_read_that_may_wait_outlasts_a_time_without_a_leader() {
    let mut node = Node::open(&MemoryFiles::new(), 1 << 20);
    node.create(&[1, 2, 3]);
    let mut patient = node.read(Wanted::Latest, Some(10_000 * MS));
    node.turn(MS);
    assert!(patient.try_recv().is_err());
    assert_eq!(node.questions(), [], "there is nobody to ask");
    node.hear(2, Message::Heartbeat { term: Term(1), commit: Index(0), round: 0, quiesce: false });
    // Term 1 must be durable first.
    node.settle();
    let questions = node.questions();
    assert!(!questions.is_empty());
    node.answer_question(questions[questions.len() - 1]);
    node.turn(MS);
    assert!(patient.try_recv().unwrap().is_ok());
}

#[test]
fn a_turn_takes_in_only_what_was_called_before_its_time_was_read() {
    let mut node = follower(|_| ());
    node.worker.count_requests();
    let mut late = node.read(Wanted::Any, None);
    let end = node.worker.turn(node.now);
    assert!(late.try_recv().is_err() && end.is_busy, "the next turn's");
    node.turn(Duration::ZERO);
    assert!(late.try_recv().unwrap().is_ok());
}

#[test]
fn groups_of_one_leader_that_are_read_are_renewed_together() {
    const OTHER: GroupId = GroupId(2);
    let mut node = follower(|_| ());
    let initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut made = node.order(|reply| Order::Bootstrap { group: OTHER, initial_members, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    let told = |group, message| Record { group, ..record_of(message) }.encode();
    let heartbeat = Message::Heartbeat { term: Term(1), commit: Index(0), round: 0, quiesce: false };
    node.hear_unit(2, UnitKind::Groups, 1, &told(OTHER, heartbeat));
    node.settle();
    let read = |node: &Node, group| {
        let (reply, answer) = oneshot::channel();
        let demand = Demand { wanted: Wanted::Within(100 * MS), patience: Some(1000 * MS) };
        let query = Bytes::new();
        assert!(node.inbox.request(Request::Read { group, query, demand, reply }).is_ok());
        let answer: Answer = answer;
        answer
    };
    let asked = |node: &Node| -> Vec<(GroupId, u64)> {
        let asked = |(_, record): (PeerId, Record)| match record.message {
            Message::ReadIndex { round, .. } => Some((record.group, round)),
            _ => None,
        };
        node.wire.0.lock().unwrap().drain(..).filter_map(asked).collect()
    };
    // The second group is read 20 ms after the first, so it would be renewed as much later.
    for group in [GROUP, OTHER] {
        let mut first = read(&node, group);
        node.turn(MS);
        let questions = asked(&node);
        assert_eq!(questions.len(), 1, "{questions:?}");
        let answer = Message::ReadIndexReply { term: Term(1), round: questions[0].1, index: Index(0) };
        node.hear_unit(2, UnitKind::Groups, 1, &told(group, answer));
        node.turn(MS);
        assert!(first.try_recv().unwrap().is_ok());
        let mut again = read(&node, group);
        node.turn(18 * MS);
        assert!(again.try_recv().unwrap().is_ok());
    }
    assert_eq!(asked(&node), []);
    let mut late = read(&node, GROUP);
    node.turn(12 * MS);
    assert!(late.try_recv().unwrap().is_ok());
    let mut groups: Vec<GroupId> = asked(&node).into_iter().map(|(group, _)| group).collect();
    groups.sort_unstable();
    assert_eq!(groups, [GROUP, OTHER]);
}
