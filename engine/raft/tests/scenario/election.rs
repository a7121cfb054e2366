//! Elections: terms, votes, and logs that are fresh enough (paper, sections 5.2 and 5.4.1).

use raftwerk_frame::{EntryId, HardState, Index, Message, NodeId, Term};
use raftwerk_raft::Role;

use crate::cluster::{Cluster, Options, T};

fn without_pre_vote(voters: u64) -> Options {
    Options { pre_vote: false, ..Options::of(voters) }
}

/// Paper, section 5.2; section 8 for the no-op.
#[test]
fn a_quorum_elects_a_leader_and_its_no_op_commits() {
    let mut cluster = Cluster::new(Options::of(3));
    let leader = cluster.run_to_leader();
    assert_eq!((cluster.group(leader).term(), cluster.committed()), (Term(1), 1));
    cluster.run(T);
    for node in cluster.nodes() {
        assert_eq!(cluster.group(node).leader(), Some(NodeId(leader)));
        assert_eq!(cluster.group(node).commit(), Index(1));
    }
}

/// Paper, section 5.2: "each candidate restarts its randomized election timeout".
#[test]
fn votes_that_spread_elect_nobody_and_random_timeouts_settle_it() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(Options { seed, ..without_pre_vote(3) });
        for node in cluster.nodes() {
            cluster.campaign(node);
        }
        cluster.deliver_where(|packet| packet.is_vote());
        assert_eq!(cluster.leader(), None);
        let leader = cluster.run_to_leader();
        assert!(cluster.group(leader).term() > Term(1));
    }
}

/// Paper, section 5.2: one vote a term, first come, first served.
#[test]
fn a_vote_is_given_once_a_term_and_again_only_to_the_same_candidate() {
    let mut cluster = Cluster::new(without_pre_vote(3));
    let ask = Message::Vote { term: Term(1), last: EntryId::default(), transfer: false };
    for (from, granted) in [(1, true), (2, false), (1, true)] {
        cluster.say(from, 3, ask, &[]);
        let answer = cluster.network.pop_back().unwrap();
        assert_eq!(
            (answer.to, answer.message()),
            (from, Some(Message::VoteReply { term: Term(1), granted }))
        );
    }
}

/// Paper, Figure 2: "votedFor" is persistent state.
#[test]
fn a_vote_survives_a_restart() {
    let mut cluster = Cluster::new(without_pre_vote(3));
    let ask = Message::Vote { term: Term(1), last: EntryId::default(), transfer: false };
    cluster.say(1, 3, ask, &[]);
    cluster.crash(3);
    cluster.restart(3);
    assert_eq!(cluster.group(3).hard_state(), HardState { term: Term(1), vote: Some(NodeId(1)) });
    cluster.say(2, 3, ask, &[]);
    let answer = cluster.network.back().unwrap().message();
    assert_eq!(answer, Some(Message::VoteReply { term: Term(1), granted: false }));
}

/// Paper, Figure 2: durable "before responding to RPCs".
#[test]
fn a_vote_leaves_only_when_it_is_durable_and_a_lost_one_may_be_given_anew() {
    let mut cluster = Cluster::new(Options { syncs_at_once: false, ..without_pre_vote(3) });
    let ask = Message::Vote { term: Term(1), last: EntryId::default(), transfer: false };
    cluster.say(1, 3, ask, &[]);
    assert!(cluster.network.is_empty());
    cluster.crash(3);
    cluster.restart(3);
    cluster.say(2, 3, ask, &[]);
    cluster.sync(3);
    let answer = cluster.network.back().unwrap().message();
    assert_eq!(answer, Some(Message::VoteReply { term: Term(1), granted: true }));
}

/// A candidate requests votes only when its own vote is durable.
#[test]
fn a_campaign_is_heard_only_when_the_new_term_is_durable() {
    let mut cluster = Cluster::new(Options { syncs_at_once: false, ..without_pre_vote(3) });
    cluster.campaign(1);
    assert!(cluster.network.is_empty());
    cluster.sync(1);
    assert_eq!(cluster.count_where(|packet| packet.is_vote()), 2);
}

/// A vote belongs to its term: stepping down within the term does not give it back.
#[test]
fn a_candidate_that_finds_a_leader_of_its_term_keeps_its_vote() {
    let mut cluster = Cluster::new(without_pre_vote(3));
    cluster.campaign(1);
    cluster.drop_where(|_| true);
    cluster.campaign(2);
    cluster.deliver_where(|packet| packet.is_vote());
    assert_eq!((cluster.leader(), cluster.group(1).role()), (Some(2), Role::Candidate));
    cluster.settle();
    assert_eq!((cluster.group(1).role(), cluster.group(1).term()), (Role::Follower, Term(1)));
    assert_eq!(cluster.group(1).hard_state().vote, Some(NodeId(1)));
    let last = EntryId::new(Term(9), Index(9));
    cluster.say(3, 1, Message::Vote { term: Term(1), last, transfer: true }, &[]);
    let answer = cluster.network.back().unwrap().message();
    assert_eq!(answer, Some(Message::VoteReply { term: Term(1), granted: false }));
}

/// Paper, section 5.4.1: the later last term is fresher; with the same, the longer log.
#[test]
fn a_log_that_is_less_fresh_gets_no_vote() {
    let cases: [(&[u64], &[u64], bool); 5] = [
        (&[1, 1, 1], &[1, 2], false),
        (&[1, 2], &[1, 1, 1], true),
        (&[1, 1], &[1, 1, 1], false),
        (&[1, 1, 1], &[1, 1], true),
        (&[1, 1], &[1, 1], true),
    ];
    for (mine, theirs, wins) in cases {
        for pre_vote in [false, true] {
            let options = Options { pre_vote, ..Options::of(3) };
            let mut cluster = Cluster::with_logs(options, &[mine, theirs, theirs], &[2, 2, 2]);
            cluster.campaign(1);
            cluster.deliver_where(|packet| packet.is_vote() || packet.is_pre_vote());
            assert_eq!(cluster.group(1).is_leader(), wins, "{mine:?} asks {theirs:?}");
        }
    }
}

/// Paper, section 5.1: a message of an old term is answered with the term, and changes nothing.
#[test]
fn whoever_fell_behind_learns_the_term_and_a_deposed_leader_steps_down() {
    let mut cluster = Cluster::new(without_pre_vote(3));
    cluster.elect(1);
    cluster.isolate(1);
    cluster.crash(2);
    cluster.restart(2);
    cluster.elect_among(2);
    cluster.heal();
    assert!(cluster.group(1).is_leader(), "it does not know yet");
    cluster.propose(1, 1);
    cluster.settle();
    assert!(!cluster.group(1).is_leader());
    cluster.run(T);
    assert_eq!(cluster.group(1).leader(), Some(NodeId(2)));
    assert_eq!(cluster.log(1), cluster.log(2));
}

/// Thesis, section 3.10: the leader requests the election itself, so followers do not protect it.
#[test]
fn a_transfer_makes_the_chosen_follower_campaign_at_once() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.settle();
    let term = cluster.group(1).term();
    cluster.say(3, 2, Message::TimeoutNow { term }, &[]);
    assert_eq!(cluster.group(2).role(), Role::Follower, "only the leader may ask");
    cluster.say(1, 2, Message::TimeoutNow { term }, &[]);
    cluster.settle();
    assert_eq!((cluster.leader(), cluster.group(2).term()), (Some(2), term.next()));
    assert_eq!(cluster.group(1).role(), Role::Follower);
}

/// A learner holds data, and neither campaigns nor counts.
#[test]
fn a_learner_never_campaigns_and_is_never_waited_for() {
    let mut cluster = Cluster::new(Options { learners: 1, ..Options::of(2) });
    cluster.isolate(3);
    cluster.run(10 * T);
    assert_eq!((cluster.group(3).role(), cluster.group(3).term()), (Role::Follower, Term(0)));
    let leader = cluster.run_to_leader();
    cluster.heal();
    cluster.propose(leader, 5);
    cluster.run(2 * T);
    assert_eq!(cluster.group(3).commit(), cluster.group(leader).commit());
    let other = 3 - leader;
    cluster.isolate(other);
    let committed = cluster.committed();
    cluster.propose(leader, 1);
    cluster.settle();
    assert_eq!(cluster.committed(), committed, "a learner's acknowledgement is no vote");
}

/// A pre-candidate waits for no leader any longer: a read that it accepted for one would wait in vain.
#[test]
fn a_candidate_knows_no_leader() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    assert_eq!(cluster.group(2).leader(), Some(NodeId(1)));
    cluster.campaign(2);
    assert_eq!((cluster.group(2).role(), cluster.group(2).leader()), (Role::PreCandidate, None));
    let token = cluster.on_follower_read(2, 1);
    assert_eq!(cluster.replica(2).reads_rejected, [token]);
}
