//! Reads that wait: their bounds, what an answered one leaves behind, and which entry or deadline ends them.

use super::reads::{Answer, follower};
use super::*;
use crate::api::consistency::{Demand, Wanted};
use crate::api::error::ReadError;
use crate::worker::calls::reads::READ_INDEX_MAX;
use crate::worker::calls::waiting::Waiting;

const MS: Duration = Duration::from_millis(1);
const OTHER: GroupId = GroupId(2);

impl Node {
    fn ask(&self, group: GroupId, wanted: Wanted, patience: Duration, bytes: usize) -> Answer {
        let (reply, answer) = oneshot::channel();
        let demand = Demand { wanted, patience: Some(patience) };
        let query = vec![7; bytes].into();
        assert!(self.inbox.request(Request::Read { group, query, demand, reply }).is_ok());
        answer
    }

    /// Requests a read, and lets the worker take it; returns whether it waits.
    fn waits(&mut self, group: GroupId, wanted: Wanted, patience: Duration, bytes: usize) -> bool {
        let mut answer = self.ask(group, wanted, patience, bytes);
        self.turn(Duration::ZERO);
        match answer.try_recv() {
            Err(_) => true,
            Ok(told) => {
                assert_eq!(told, Err(ReadError::Busy), "at once, and as such");
                false
            }
        }
    }

    /// Reads that wait and bytes held for them: by the running counts, and counted anew.
    fn held(&self) -> (usize, usize) {
        let load = self.worker.load();
        assert_eq!(load.reads, self.worker.calls.waiting().reads);
        assert!(load.read_bytes <= 2 * self.worker.calls.waiting().bytes);
        (load.reads, load.read_bytes)
    }

    fn next_index(&mut self) -> Index {
        self.status().unwrap().last.index.next()
    }
}

/// Two groups of three replicas without leaders, on a node that lets 8 reads of 4,096 bytes wait.
fn leaderless() -> Node {
    let mut node = Node::open_with(&MemoryFiles::new(), 1 << 20, |settings, _| {
        (settings.reads_max, settings.read_bytes_max) = (8, 4096);
    });
    node.create(&[1, 2, 3]);
    let initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut made = node.order(|reply| Order::Bootstrap { group: OTHER, initial_members, reply });
    node.settle();
    made.try_recv().unwrap().unwrap();
    node
}

#[test]
fn an_answered_read_leaves_nothing_behind_while_another_waits() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let mut patient = node.ask(GROUP, Wanted::AtLeast(Index(1 << 40)), 3_600_000 * MS, 64);
    for _ in 0..50 {
        let next = node.next_index();
        let mut answer = node.ask(GROUP, Wanted::AtLeast(next), 1000 * MS, 1024);
        node.turn(MS);
        assert!(answer.try_recv().is_err());
        assert_eq!(node.held(), (2, 64 + 1024));
        node.write(b"x").unwrap();
        assert!(answer.try_recv().unwrap().is_ok());
        assert_eq!(node.held(), (1, 64));
    }
    assert!(patient.try_recv().is_err());
}

#[test]
fn reads_that_wait_for_a_leader_are_bounded_and_a_group_leaves_room_for_others() {
    let mut node = leaderless();
    let (strong, far) = (Wanted::Latest, Wanted::AtLeast(Index(9)));
    let taken = [strong, far, Wanted::Within(MS), strong, far, strong]
        .map(|wanted| node.waits(GROUP, wanted, 50 * MS, 16));
    assert_eq!(taken, [true, true, true, true, false, false], "half of what there is");
    assert_eq!([1, 2, 3].map(|_| node.waits(OTHER, far, 20 * MS, 16)), [true, true, false]);
    assert_eq!(node.held(), (6, 6 * 16));
    let (reply, mut frozen) = oneshot::channel();
    let demand = Demand { wanted: strong, patience: Some(MS) };
    assert!(node.inbox.request(Request::Freeze { group: OTHER, demand, reply }).is_ok());
    node.turn(MS);
    assert!(matches!(frozen.try_recv(), Ok(Err(ReadError::Busy))));
    node.turn(20 * MS);
    assert_eq!(node.held(), (4, 4 * 16), "those of the other group have ended, and there is room again");
    assert_eq!([1, 2, 3].map(|_| node.waits(OTHER, strong, 20 * MS, 0)), [true, true, false]);
    node.turn(50 * MS);
    assert_eq!(node.held(), (0, 0));
    assert_eq!(node.worker.calls.waiting(), Waiting::default());
}

#[test]
fn bytes_of_queries_that_wait_are_bounded() {
    let mut node = leaderless();
    let far = Wanted::AtLeast(Index(9));
    assert!(!node.waits(GROUP, far, MS, 4097));
    assert!(node.waits(GROUP, far, 10 * MS, 1500));
    assert!(!node.waits(GROUP, far, 10 * MS, 1500), "as much as it leaves free");
    assert!(node.waits(OTHER, far, 10 * MS, 1500));
    assert!(!node.waits(OTHER, far, 10 * MS, 1500));
    assert_eq!(node.held(), (2, 3000));
    node.turn(10 * MS);
    assert_eq!(node.held(), (0, 0));
    // Removing a group ends its reads.
    assert!(node.waits(GROUP, far, 1000 * MS, 1500));
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!((gone.try_recv(), node.held()), (Ok(Ok(())), (0, 0)));
    assert_eq!(node.worker.calls.waiting(), Waiting::default());
}

#[test]
fn reads_that_were_asked_for_are_bounded_and_make_room_when_they_end() {
    let mut node = follower(|settings| settings.reads_max = 64);
    let taken: Vec<bool> =
        (0..40).map(|ms| node.waits(GROUP, Wanted::Latest, (1000 - ms) * MS, 100)).collect();
    assert_eq!(taken.iter().filter(|is_taken| **is_taken).count(), 32);
    assert_eq!(node.held(), (32, 3200));
    let questions = node.questions();
    node.answer_question(questions[15]);
    node.turn(MS);
    assert_eq!(node.held(), (16, 1600));
    node.turn(998 * MS);
    assert_eq!(node.held(), (0, 0), "those asked later have given up");
    assert_eq!(node.worker.calls.waiting(), Waiting::default());
}

#[test]
fn an_entry_answers_the_reads_that_wait_for_it_and_a_deadline_refuses_those_that_are_due() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let next = node.next_index();
    let wanted = |at: u64| Wanted::AtLeast(Index(next.0 + at));
    let mut reads: Vec<Answer> = [2, 0, 1, 0].map(|at| node.ask(GROUP, wanted(at), 1000 * MS, 8)).into();
    let mut due: Vec<Answer> = [9, 8].map(|at| node.ask(GROUP, wanted(at), 500 * MS, 8)).into();
    node.turn(MS);
    let mut left = 6;
    for answered in [&[1, 3][..], &[2], &[0]] {
        assert_eq!(node.held().0, left);
        node.write(b"x").unwrap();
        left -= answered.len();
        for at in answered {
            assert!(reads[*at].try_recv().unwrap().is_ok(), "{at}");
        }
    }
    assert_eq!(node.held().0, 2);
    node.turn(500 * MS);
    let refused = due.iter_mut().map(|answer| answer.try_recv().unwrap());
    assert!(refused.into_iter().all(|told| matches!(told, Err(ReadError::Behind { .. }))));
    assert_eq!(node.held(), (0, 0));
}

#[test]
fn reads_of_long_patience_that_are_answered_soon_leave_no_timers_behind() {
    let mut node = follower(|_| ());
    for _ in 0..200 {
        let mut answer = node.ask(GROUP, Wanted::Latest, 3_600_000 * MS, 0);
        node.turn(MS);
        let questions = node.questions();
        node.answer_question(questions[questions.len() - 1]);
        node.turn(MS);
        assert!(answer.try_recv().unwrap().is_ok());
        node.hear(2, Message::Heartbeat { term: Term(1), commit: Index(0), round: 0, quiesce: false });
        node.turn(150 * MS);
        node.settle();
    }
    assert!(node.worker.calls.timers() <= 10, "{} timers", node.worker.calls.timers());
}

#[test]
fn questions_of_followers_are_bounded() {
    let mut node = follower(|_| ());
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    for round in 0..READ_INDEX_MAX as u64 + 10 {
        let question = Message::ReadIndex { term: Term(1), round };
        node.worker.on_read_index(slot, GROUP, NodeId(3), question);
    }
    assert_eq!(node.worker.load().pending_read_index, READ_INDEX_MAX);
    node.turn(MS);
    assert_eq!(node.worker.load().pending_read_index, 0);
}

#[test]
fn bounded_reads_that_an_earlier_answer_serves_leave_no_queries_behind() {
    let mut node = follower(|_| ());
    let mut first = node.ask(GROUP, Wanted::Latest, 1000 * MS, 10);
    node.turn(MS);
    let questions = node.questions();
    let mut strong = node.ask(GROUP, Wanted::Latest, 1000 * MS, 10);
    let within = Wanted::Within(100 * MS);
    let mut bounded: Vec<Answer> = (0..8).map(|_| node.ask(GROUP, within, 1000 * MS, 100)).collect();
    node.turn(MS);
    assert_eq!(node.held(), (10, 820));
    node.answer_question(questions[0]);
    node.turn(MS);
    assert!(first.try_recv().unwrap().is_ok());
    assert!(bounded.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
    assert!(strong.try_recv().is_err());
    assert_eq!(node.held(), (1, 10));
}

#[test]
fn a_group_that_is_read_again_and_again_is_watched_once() {
    let mut node = follower(|_| ());
    let within = Wanted::Within(100 * MS);
    let mut first = node.ask(GROUP, within, 1000 * MS, 0);
    node.turn(MS);
    let questions = node.questions();
    node.answer_question(questions[0]);
    node.turn(MS);
    assert!(first.try_recv().unwrap().is_ok());
    for _ in 0..5 {
        let mut answer = node.ask(GROUP, within, 1000 * MS, 0);
        node.turn(MS);
        assert!(answer.try_recv().unwrap().is_ok());
    }
    assert_eq!(node.worker.calls.watched(), 1);
}
