//! A replica that has lost votes and entries with its disk: it neither votes nor campaigns until a later
//! leader has brought it everything.

use raftwerk_frame::{Message, NodeId, Term};
use raftwerk_raft::Role;

use crate::cluster::{Cluster, Options, T};

/// Three voters; 1 leads, and what it has committed is on 1 and 2 alone. Then 2 loses it.
fn lost() -> Cluster {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(T);
    cluster.isolate(3);
    cluster.propose(1, 4);
    cluster.settle();
    assert!(cluster.group(2).commit() > cluster.group(3).commit());
    cluster.damage(2, 1);
    assert!(cluster.group(2).is_fenced());
    cluster
}

/// With the vote of 2, 3 would lead without the committed entries.
#[test]
fn without_those_who_remember_nobody_is_elected() {
    let mut cluster = lost();
    cluster.heal();
    cluster.isolate(1);
    cluster.run(20 * T);
    let last = cluster.group(3).last();
    assert_ne!(cluster.group(3).role(), Role::Leader);
    assert_eq!((cluster.group(2).role(), cluster.group(2).is_fenced()), (Role::Follower, true));
    assert_eq!(cluster.group(3).last(), last);
}

/// No operator is needed: its term deposes the leader, the next leader repairs it, and it counts again.
#[test]
fn a_later_leader_brings_back_what_was_lost_and_then_it_votes_again() {
    let mut cluster = lost();
    let committed = cluster.committed();
    let before = cluster.group(1).term();
    cluster.heal();
    cluster.run(4 * T);
    let leader = cluster.run_to_leader();
    cluster.run(2 * T);
    assert_eq!(leader, 1, "3 lacks what is committed, and 2 may not");
    assert!(cluster.group(1).term() > before);
    assert!(!cluster.group(2).is_fenced());
    assert_eq!(cluster.log(2), cluster.log(1));
    cluster.isolate(1);
    cluster.run(10 * T);
    let next = cluster.run_to_leader();
    assert!(next != 1 && cluster.committed() > committed, "2 and 3 elect one of them, who has everything");
}

/// The vote request is of a term in which it may have voted already.
#[test]
fn a_fenced_replica_answers_no_question_and_is_not_pushed_into_a_campaign() {
    let mut cluster = lost();
    let term = cluster.group(2).term();
    let last = cluster.group(1).last();
    cluster.drop_where(|_| true);
    let answers = |cluster: &Cluster| {
        cluster.count_where(|packet| {
            let message = packet.message();
            matches!(message, Some(Message::VoteReply { .. } | Message::PreVoteReply { .. }))
        })
    };
    for later in [0, 1, 5] {
        let term = Term(term.0 + later);
        cluster.give(1, 2, Message::PreVote { term, last });
        cluster.give(1, 2, Message::Vote { term, last, transfer: later == 5 });
    }
    cluster.sync(2);
    assert_eq!(answers(&cluster), 0);
    assert_ne!(cluster.group(2).hard_state().vote, Some(NodeId(1)));
    let term = cluster.group(2).term();
    cluster.give(
        1,
        2,
        Message::Heartbeat { term, commit: raftwerk_frame::Index(0), round: 0, quiesce: false },
    );
    cluster.give(1, 2, Message::TimeoutNow { term });
    assert_eq!(cluster.group(2).role(), Role::Follower);
}
