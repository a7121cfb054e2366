//! What a leader may send in its term: answers about replaced entries, leadership that ends, segments that
//! take long.

use super::*;
use crate::api::status::Received;

const INTERVAL: Duration = Duration::from_millis(100);

/// Leads term 1 with one committed write; the next proposal follows that entry directly.
fn leader(files: &MemoryFiles) -> (Node, Term) {
    let mut node = Node::open(files, u64::MAX);
    let term = node.lead_with_one(1, 8);
    let status = node.status().unwrap();
    assert_eq!((status.role, status.commit), (Role::Leader, status.last.index));
    node.said();
    (node, term)
}

/// The next leader needs no other vote, so its first append already commits its entries: one step both
/// deposes this leader and commits the entries that replaced its own.
#[test]
fn a_proposal_that_is_replaced_in_the_step_that_deposes_its_leader_is_not_acknowledged() {
    let (mut node, _) = leader(&MemoryFiles::new());
    let before = node.status().unwrap().last;
    let mut lost: Vec<_> = (0..2).map(|_| node.propose(b"lost")).collect();
    node.settle();
    assert_eq!(node.status().unwrap().last.index, before.index.plus(2));
    node.hear_append(2, before, 3, 8, before.index.0 + 3);
    node.settle();
    let status = node.status().unwrap();
    assert_eq!((status.role, status.applied), (Role::Follower, before.index.plus(3)));
    for answer in &mut lost {
        assert_eq!(answer.try_recv().unwrap(), Err(ProposeError::Unknown));
    }
}

#[test]
fn a_relaxed_proposal_that_is_replaced_gets_no_receipt() {
    let (mut node, _) = leader(&MemoryFiles::new());
    let before = node.status().unwrap().last;
    let (reply, mut lost): (_, oneshot::Receiver<Result<Received, ProposeError>>) = oneshot::channel();
    let payload = Bytes::from_static(b"lost");
    assert!(node.inbox.request(Request::ProposeRelaxed { group: GROUP, payload, reply }).is_ok());
    node.settle();
    node.hear_append(2, before, 3, 8, before.index.0 + 3);
    node.settle();
    assert_eq!(lost.try_recv().unwrap().err(), Some(ProposeError::Unknown));
}

/// A leader that is deposed by one that kept its entries still answers for them.
#[test]
fn a_proposal_that_the_next_leader_keeps_is_acknowledged() {
    let (mut node, _) = leader(&MemoryFiles::new());
    let mut kept = node.propose(b"kept");
    node.settle();
    let last = node.status().unwrap().last;
    node.hear_append(2, last, 1, 8, last.index.0 + 1);
    node.settle();
    assert_eq!(kept.try_recv().unwrap().map(|applied| applied.id), Ok(last));
}

/// Its followers may be quiescent and fortify this node, which goes on running.
#[test]
fn a_leader_that_is_dropped_renounces_and_questions_about_it_are_answered() {
    let (mut node, term) = leader(&MemoryFiles::new());
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    let renounced = Message::NotLeader { term };
    let renounces = |node: &Node| node.said().iter().filter(|said| **said == renounced).count();
    assert_eq!(renounces(&node), 2, "to each follower");
    for question in [Message::ReadIndex { term, round: 9 }, Message::LeaderQuery { term, follows: true }] {
        node.hear(2, question);
        node.settle();
        assert_eq!(renounces(&node), 1);
    }
    // It may come to lead a later term, if it joins again: that is not denied.
    for question in [
        Message::ReadIndex { term: term.next(), round: 9 },
        Message::LeaderQuery { term: term.next(), follows: true },
    ] {
        node.hear(2, question);
        node.settle();
        assert_eq!(node.said(), []);
    }
    // A replica without a known leader queries all peers; this node has never led the term of the query.
    node.hear(2, Message::LeaderQuery { term: Term(7), follows: false });
    node.settle();
    assert_eq!(node.said(), []);
}

#[test]
fn a_follower_that_is_dropped_renounces_nothing() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    node.hear(2, Message::Heartbeat { term: Term(1), commit: Index(0), round: 0, quiesce: false });
    node.settle();
    node.said();
    let _gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert!(node.said().iter().all(|said| !matches!(said, Message::NotLeader { .. })));
}

/// Appends wait for a place in the log; acknowledgements and heartbeats need none.
#[test]
fn a_leader_that_waits_for_a_segment_hears_its_followers() {
    let (mut node, term) = leader(&MemoryFiles::new());
    assert!(!node.worker.awaits_segment());
    while node.worker.lane.reserved_space() > 0 {
        drop(node.propose(&[1; 4096]));
        node.turn(Duration::from_millis(1));
        while node.disk.inner.lock().unwrap().run_appends() {}
    }
    for step in 0..15 {
        node.hear(2, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        node.turn(INTERVAL);
        while node.disk.inner.lock().unwrap().run_appends() {}
        assert_eq!(node.worker.lane.reserved_space(), 0);
        assert!(node.worker.awaits_segment());
        assert_eq!(node.status().unwrap().role, Role::Leader, "after {step} intervals");
    }
    // A leader that receives nothing from followers steps down; one that does goes on when the segment is
    // there.
    node.settle();
    let matched = node.status().unwrap().last.index;
    node.hear(2, Message::AppendAck { term, matched, progress_epoch: 0 });
    node.settle();
    assert_eq!(node.status().unwrap().commit, matched);
    node.turn(TIMEOUT);
    node.turn(TIMEOUT);
    node.turn(TIMEOUT);
    assert_ne!(node.status().unwrap().role, Role::Leader);
}

/// Whether the replica grants a vote in that term.
fn grants(node: &mut Node, term: u64) -> bool {
    node.said();
    let last = EntryId::new(Term(term), Index(1000));
    node.hear(3, Message::Vote { term: Term(term), last, transfer: false });
    node.settle();
    node.said().iter().any(|said| matches!(said, Message::VoteReply { granted: true, .. }))
}

fn with_timeout(files: &MemoryFiles, timeout: Duration) -> Node {
    Node::open_with(files, u64::MAX, |settings, _| settings.election_timeout = timeout)
}

/// Support was given for the election timeout configured at that time; neither a shorter one nor a restart
/// ends it.
#[test]
fn a_node_that_restarts_abstains_for_the_longest_support_that_it_may_have_promised() {
    let files = MemoryFiles::new();
    let mut long = with_timeout(&files, 8 * TIMEOUT);
    long.create(&[1, 2, 3]);
    drop(long);
    // Twice, since the second incarnation cannot tell how long the first one lasted.
    for term in [10, 20] {
        let mut short = with_timeout(&files, TIMEOUT);
        short.turn(7 * TIMEOUT);
        assert!(!grants(&mut short, term), "what was promised may stand");
        if term == 10 {
            continue;
        }
        short.turn(TIMEOUT);
        assert!(grants(&mut short, term + 1));
        // From now on all support that stands was given by this incarnation.
        short.turn(TIMEOUT);
        short.settle();
    }
    let files = files.after_power_cut(|_, _| SectorFate::Old);
    let mut short = with_timeout(&files, TIMEOUT);
    assert!(!grants(&mut short, 30));
    short.turn(TIMEOUT);
    assert!(grants(&mut short, 31), "its own is enough");
    drop(short);
    // A longer one is recorded before any support is given.
    drop(with_timeout(&files, 4 * TIMEOUT));
    let mut short = with_timeout(&files.after_power_cut(|_, _| SectorFate::Old), TIMEOUT);
    short.turn(3 * TIMEOUT);
    assert!(!grants(&mut short, 40));
}

#[test]
fn support_that_is_outwaited_is_noted_shorter_and_replicas_abstain_for_no_longer() {
    let files = MemoryFiles::new();
    drop(with_timeout(&files, 8 * TIMEOUT));
    let mut node = with_timeout(&files, TIMEOUT);
    assert_eq!(node.worker.liveness.abstention(), 8 * TIMEOUT);
    node.turn(9 * TIMEOUT);
    node.settle();
    assert_eq!(node.worker.liveness.abstention(), TIMEOUT);
    drop(node);
    assert_eq!(with_timeout(&files, TIMEOUT).worker.liveness.abstention(), TIMEOUT);
}
