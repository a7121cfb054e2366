//! Leaders that vanish and replicas that come back (thesis, sections 4.2.3, 6.2 and 9.6): no needless
//! elections, and no replica is shut out for good.

use raftwerk_frame::{EntryId, Index, Message, NodeId, Term};
use raftwerk_raft::{Rejected, Role};

use crate::cluster::{Cluster, Options, T};

/// Thesis, section 9.6: a replica that cannot win does not raise its term.
#[test]
fn a_pre_vote_keeps_a_cut_off_replica_from_disturbing_when_it_returns() {
    let mut cluster = Cluster::new(Options::of(3));
    let leader = cluster.run_to_leader();
    let lost = leader % 3 + 1;
    cluster.isolate(lost);
    cluster.run(10 * T);
    let term = cluster.group(leader).term();
    assert_eq!((cluster.group(lost).role(), cluster.group(lost).term()), (Role::PreCandidate, term));
    cluster.propose(leader, 2);
    cluster.heal();
    cluster.run(3 * T);
    assert_eq!((cluster.leader(), cluster.group(leader).term()), (Some(leader), term));
    assert_eq!(cluster.group(lost).commit(), cluster.group(leader).commit());
}

/// Thesis, section 9.6: pre-votes are refused to logs that are not fresh, as votes are.
#[test]
fn a_pre_vote_is_refused_to_a_stale_log() {
    let mut cluster = Cluster::with_logs(Options::of(3), &[&[1], &[1, 1], &[1, 1]], &[1, 1, 1]);
    for _ in 0..5 {
        cluster.campaign(1);
        cluster.settle();
    }
    assert!(cluster.nodes().all(|node| cluster.group(node).term() == Term(1)));
    assert_eq!(cluster.group(1).role(), Role::Follower, "certain to lose, it waits again");
    cluster.elect(2);
}

/// A grant belongs to the term of its request.
#[test]
fn a_pre_vote_granted_for_another_term_does_not_count() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.campaign(1);
    cluster.drop_where(|_| true);
    let late = Message::PreVoteReply { term: Term(1), granted: true };
    let straggler = Message::Vote { term: Term(1), last: EntryId::default(), transfer: false };
    cluster.say(3, 1, straggler, &[]);
    cluster.campaign(1);
    assert_eq!((cluster.group(1).role(), cluster.group(1).term()), (Role::PreCandidate, Term(1)));
    cluster.say(2, 1, late, &[]);
    assert_eq!(
        cluster.group(1).role(),
        Role::PreCandidate,
        "it was asked about term 1, and this is about term 2"
    );
    cluster.say(2, 1, Message::PreVoteReply { term: Term(2), granted: true }, &[]);
    assert_eq!((cluster.group(1).role(), cluster.group(1).term()), (Role::Candidate, Term(2)));
}

/// Thesis, section 4.2.3: a replica with a live leader ignores candidates; leadership transfer is the
/// exception.
#[test]
fn a_replica_that_hears_its_leader_ignores_candidates() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(T);
    let term = cluster.group(1).term();
    let last = EntryId::new(Term(50), Index(50));
    for node in [1, 2] {
        cluster.say(3, node, Message::Vote { term: Term(50), last, transfer: false }, &[]);
        assert_eq!((cluster.group(node).term(), cluster.network.len()), (term, 0), "not even an answer");
        cluster.say(3, node, Message::PreVote { term: Term(50), last }, &[]);
        assert_eq!((cluster.group(node).term(), cluster.network.len()), (term, 0), "nor to a question");
    }
    cluster.isolate(1);
    cluster.advance(T + 1);
    cluster.drop_where(|_| true);
    cluster.say(3, 2, Message::PreVote { term: Term(50), last }, &[]);
    let answer = cluster.network.pop_back().unwrap().message();
    assert_eq!(answer, Some(Message::PreVoteReply { term: Term(50), granted: true }));
}

/// With check-quorum and no pre-vote an isolated replica raises its term alone. When it returns, candidates
/// are ignored and its own term is too high for the leader: the leader has to learn the term, or the replica
/// is shut out for good.
#[test]
fn a_replica_that_returns_with_a_higher_term_gets_in_again() {
    for pre_vote in [false, true] {
        for seed in 0..10 {
            let mut cluster = Cluster::new(Options { seed, pre_vote, ..Options::of(3) });
            let leader = cluster.run_to_leader();
            let lost = leader % 3 + 1;
            cluster.isolate(lost);
            // Even with pre-votes: it may have won one just before the cut.
            for _ in 0..5 {
                cluster.campaign(lost);
                let term = cluster.group(lost).term().next();
                let other = (1..=3).find(|node| ![leader, lost].contains(node)).unwrap();
                cluster.give(other, lost, Message::PreVoteReply { term, granted: true });
            }
            assert!(cluster.group(lost).term() >= Term(6));
            cluster.run(2 * T);
            cluster.heal();
            cluster.run(10 * T);
            let leader = cluster.run_to_leader();
            assert!(cluster.group(leader).term() >= Term(6));
            assert!(cluster.nodes().all(|node| cluster.group(node).leader() == Some(NodeId(leader))));
            let term = cluster.group(leader).term();
            cluster.run(20 * T);
            assert_eq!(cluster.group(leader).term(), term, "and then there is peace");
        }
    }
}

/// The replica with the highest term cannot win, and it answers those that could with its term instead of
/// ignoring them.
#[test]
fn replicas_of_an_old_term_win_over_one_of_a_newer_term_and_an_older_log() {
    for pre_vote in [false, true] {
        let options = Options { pre_vote, ..Options::of(3) };
        let mut cluster = Cluster::with_logs(options, &[&[1], &[1, 2, 2], &[1]], &[9, 3, 3]);
        cluster.crash(3);
        let leader = cluster.run_to_leader();
        assert_eq!((leader, cluster.log(1)), (2, cluster.log(2)));
        assert!(cluster.group(2).term() > Term(9));
    }
}

/// A replica that was down for many terms follows again.
#[test]
fn a_restarted_replica_of_an_old_term_gets_in() {
    let mut cluster = Cluster::new(Options::of(3));
    let first = cluster.run_to_leader();
    let down = first % 3 + 1;
    cluster.crash(down);
    for _ in 0..5 {
        let leader = cluster.run_to_leader();
        cluster.propose(leader, 1);
        cluster.run(T);
        cluster.crash(leader);
        cluster.restart(leader);
        cluster.run(5 * T);
    }
    cluster.restart(down);
    cluster.run(5 * T);
    let leader = cluster.run_to_leader();
    assert_eq!(cluster.group(down).leader(), Some(NodeId(leader)));
    assert_eq!(cluster.log(down), cluster.log(leader));
}

/// Thesis, section 6.2: cut off, a leader steps down within two timeouts; the others choose another.
#[test]
fn an_isolated_leader_steps_down_and_another_takes_over() {
    let mut cluster = Cluster::new(Options::of(5));
    let old = cluster.run_to_leader();
    cluster.isolate(old);
    cluster.propose(old, 3);
    cluster.run(2 * T);
    assert_eq!(cluster.group(old).role(), Role::Follower);
    cluster.propose(old, 1);
    assert_eq!(cluster.replica(old).rejected, Some(Rejected::NotLeader { leader: None }));
    cluster.run(3 * T);
    let new = cluster.leader().unwrap();
    assert_ne!(new, old);
    cluster.propose(new, 1);
    cluster.settle();
    let committed = cluster.committed();
    cluster.heal();
    cluster.run(2 * T);
    assert_eq!((cluster.leader(), cluster.group(old).commit()), (Some(new), Index(committed)));
    assert_eq!(cluster.log(old), cluster.log(new), "what it took in alone is gone");
}

/// A leader with an outgoing link only keeps others from campaigning: it has to step down by itself.
#[test]
fn a_leader_that_hears_nobody_steps_down_though_it_is_heard() {
    let mut cluster = Cluster::new(Options::of(3));
    let old = cluster.run_to_leader();
    for node in cluster.nodes().filter(|&node| node != old) {
        cluster.cut_one_way(node, old);
    }
    cluster.run(5 * T);
    let new = cluster.leader().unwrap();
    assert_ne!(new, old);
    assert!(!cluster.group(old).is_leader());
}

/// Without check-quorum a lone leader stays one, and commits nothing.
#[test]
fn without_check_quorum_a_lone_leader_stays_and_commits_nothing() {
    let mut cluster = Cluster::new(Options { check_quorum: false, pre_vote: false, ..Options::of(3) });
    cluster.elect(1);
    cluster.isolate(1);
    let committed = cluster.group(1).commit();
    cluster.propose(1, 3);
    cluster.run(10 * T);
    assert!(cluster.group(1).is_leader());
    assert_eq!(cluster.group(1).commit(), committed);
    cluster.heal();
    cluster.run(2 * T);
    assert!(!cluster.group(1).is_leader());
}

/// A group of one needs no other node: it leads at once, and commits what is durable.
#[test]
fn a_group_of_one_leads_and_commits_by_itself() {
    let mut cluster = Cluster::new(Options { syncs_at_once: false, ..Options::of(1) });
    cluster.campaign(1);
    assert!(cluster.group(1).is_leader());
    cluster.propose(1, 2);
    assert_eq!(cluster.committed(), 0, "nothing is durable yet");
    cluster.sync(1);
    assert_eq!(cluster.committed(), 3);
    cluster.run(10 * T);
    assert!(cluster.group(1).is_leader(), "it hears its quorum: itself");
    cluster.crash(1);
    cluster.restart(1);
    cluster.campaign(1);
    cluster.sync(1);
    assert_eq!((cluster.committed(), cluster.group(1).term()), (4, Term(2)));
}
