//! Liveness by node (the head of `raft::rest`): fortified leaders, quiescent groups, and leases (thesis,
//! section 6.4.1). The test sets the support between nodes; clocks and the duration of support belong to the
//! engine.

use std::time::Duration;

use raftwerk_frame::{Index, Message, NodeId, Term, Time};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Input, PRIORITY_MAX, Role, Transition};

use crate::cluster::{Cluster, MS, Options, Packet, T};

/// All nodes support each other, 1 leads, and the group is quiescent.
fn resting(voters: u64) -> Cluster {
    let mut cluster = Cluster::new(Options::of(voters));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.propose(1, 1);
    cluster.settle();
    cluster.run(2 * T);
    for node in cluster.nodes() {
        assert!(cluster.group(node).is_quiescent(), "{node}");
        assert_eq!(cluster.group(node).next_deadline(), Time::NEVER);
    }
    cluster
}

/// The lease of `leader`, if every node's support for it ends at 50 on its own clock.
fn lease(cluster: &Cluster, leader: u64) -> Option<(Index, Time)> {
    cluster.group(leader).lease(|_| Time(50)).filter(|(_, until)| *until > Time(0))
}

#[test]
fn a_group_with_nothing_to_say_says_nothing_and_wakes_for_a_proposal() {
    let mut cluster = resting(3);
    let sent = cluster.seen.sent;
    cluster.run(100 * T);
    assert_eq!(cluster.seen.sent, sent, "a hundred timeouts, and not a word");
    assert_eq!(cluster.leader(), Some(1));
    cluster.propose(1, 1);
    cluster.settle();
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last().index);
    cluster.run(2 * T);
    assert!(cluster.group(3).is_quiescent());
    assert_eq!(cluster.group(3).commit(), cluster.group(1).last().index, "the news came before the rest");
}

#[test]
fn a_leader_without_peers_rests_and_wakes_for_a_proposal_and_a_newcomer() {
    let mut cluster = Cluster::new(Options { newcomers: 1, ..Options::of(1) });
    cluster.elect(1);
    cluster.propose(1, 1);
    cluster.settle();
    cluster.run(2 * T);
    assert!(cluster.group(1).is_quiescent());
    assert_eq!(cluster.group(1).next_deadline(), Time::NEVER);
    cluster.propose(1, 1);
    cluster.settle();
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last().index);
    cluster.run(2 * T);
    assert!(cluster.group(1).is_quiescent());
    cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(2))]);
    cluster.run(2 * T);
    assert!(!cluster.group(1).is_quiescent(), "it has a peer that nobody supports");
    assert_eq!(cluster.group(2).commit(), cluster.group(1).last().index);
}

#[test]
fn a_group_without_support_keeps_its_heartbeats() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(3 * T);
    let sent = cluster.seen.sent;
    cluster.run(T);
    assert!(cluster.seen.sent > sent);
    assert!(!cluster.group(1).is_quiescent());
}

#[test]
fn a_dead_node_keeps_nobody_awake_and_is_caught_up_when_it_is_back() {
    let mut cluster = resting(3);
    cluster.isolate(3);
    cluster.befriend(1, 3, false);
    cluster.befriend(2, 3, false);
    cluster.propose(1, 2);
    cluster.run(5 * T);
    assert!(cluster.group(1).is_quiescent() && cluster.group(2).is_quiescent());
    cluster.heal();
    cluster.befriend(1, 3, true);
    cluster.befriend(2, 3, true);
    cluster.run(3 * T);
    assert_eq!(cluster.group(3).commit(), cluster.group(1).last().index);
    assert!(cluster.group(3).is_quiescent() && cluster.group(1).is_quiescent());
}

/// A node without support was silent for so long that it counts as down. Its reply comes when the others have
/// just agreed to quiesce; its replica may never ask for anything by itself.
#[test]
fn who_was_taken_to_be_down_and_answers_wakes_the_group() {
    let mut cluster = resting(3);
    cluster.isolate(3);
    cluster.befriend(1, 3, false);
    cluster.propose(1, 2);
    cluster.run(5 * T);
    assert!(cluster.group(1).is_quiescent());
    let term = cluster.group(1).term();
    cluster.give(3, 1, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
    assert!(!cluster.group(1).is_quiescent());
    cluster.heal();
    cluster.run(3 * T);
    assert_eq!(cluster.group(3).commit(), cluster.group(1).last().index);
}

/// A learner in the same case, without a reply on its way: only the driver can report that it is reachable
/// again.
#[test]
fn a_learner_that_was_out_of_reach_while_its_group_went_to_rest_is_caught_up_when_it_is_back() {
    let mut cluster = Cluster::new(Options { learners: 1, ..Options::of(3) });
    cluster.elect(1);
    // The learner's node neither supports others nor is supported.
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        cluster.befriend(one, other, true);
    }
    cluster.propose(1, 1);
    cluster.settle();
    cluster.isolate(4);
    cluster.propose(1, 2);
    cluster.run(5 * T);
    assert!(cluster.group(1).is_quiescent_without_peer());
    assert!(!cluster.group(2).is_quiescent_without_peer(), "who follows sends nothing, and owes nothing");
    cluster.heal();
    // The learner's own queries are lost.
    for voter in 1..=3 {
        cluster.cut_one_way(4, voter);
    }
    cluster.run(10 * T);
    assert!(cluster.group(1).is_quiescent(), "the voters do not know");
    for other in [2, 3, 9] {
        cluster.input(1, Input::Reachable { node: NodeId(other) });
        cluster.finish(1);
        assert!(cluster.group(1).is_quiescent(), "{other} has missed nothing");
    }
    cluster.input(2, Input::Reachable { node: NodeId(4) });
    cluster.finish(2);
    cluster.input(1, Input::Reachable { node: NodeId(4) });
    cluster.finish(1);
    assert!(!cluster.group(1).is_quiescent(), "before anybody asks");
    cluster.heal();
    cluster.run(3 * T);
    assert_eq!(cluster.group(4).commit(), cluster.group(1).last().index);
    assert!(!cluster.group(1).is_quiescent(), "who lives and is not supported is told that its leader does");
}

#[test]
fn when_the_leaders_node_is_supported_no_longer_another_leads_within_a_timeout() {
    let mut cluster = resting(3);
    cluster.isolate(1);
    cluster.supports(2, 1, false);
    cluster.supports(3, 1, false);
    cluster.run(T);
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

/// Without pre-votes each campaign makes the others rearm their timeouts: a hasty replica with a log that is
/// too short to win must not keep those that could win from campaigning.
#[test]
fn haste_without_pre_votes_does_not_keep_a_better_log_from_campaigning() {
    for seed in 1..20 {
        let mut cluster = Cluster::new(Options { pre_vote: false, seed, ..Options::of(5) });
        cluster.elect(1);
        cluster.befriend(1, 2, true);
        cluster.isolate(2);
        cluster.propose(1, 1);
        cluster.settle();
        cluster.crash(1);
        cluster.heal();
        cluster.supports(2, 1, false);
        cluster.run(30 * T);
        let leader = cluster.leader();
        assert!(leader > Some(2), "seed {seed}: {leader:?} in {}", cluster.group(2).term());
    }
}

#[test]
fn a_resting_leader_without_a_supported_quorum_wakes_and_steps_down() {
    let mut cluster = resting(3);
    cluster.isolate(1);
    cluster.supported_by(1, 2, false);
    assert!(cluster.group(1).is_quiescent(), "two are enough");
    cluster.supported_by(1, 3, false);
    assert!(!cluster.group(1).is_quiescent());
    cluster.run(3 * T);
    assert_ne!(cluster.group(1).role(), Role::Leader);
}

/// Fortification outlasts silence: only the leader's own reply, or the end of support, frees a follower.
#[test]
fn a_bound_follower_neither_votes_nor_campaigns_and_asks_its_leader() {
    let mut cluster = resting(5);
    cluster.supports(3, 1, false);
    cluster.isolate(1);
    cluster.run(10 * T);
    for node in [2, 4, 5] {
        assert_eq!((cluster.group(node).term(), cluster.group(node).leader()), (Term(1), Some(NodeId(1))));
    }
    assert_ne!(cluster.leader(), Some(3), "three has campaigned for ten timeouts, in vain");
    let question = Message::PreVote { term: Term(2), last: cluster.group(3).last() };
    cluster.give(3, 2, question);
    assert_eq!(
        cluster.count_where(|packet| matches!(packet.message(), Some(Message::LeaderQuery { .. }))),
        1
    );
    cluster.heal();
    cluster.run(2 * T);
    assert_eq!((cluster.leader(), cluster.group(3).leader()), (Some(1), Some(NodeId(1))));
}

/// The leader has stepped down, and its followers do not know: its node is alive, so they fortify it. They
/// send queries, and it answers that it does not lead.
#[test]
fn who_does_not_lead_any_longer_says_so_and_sets_its_followers_free() {
    let mut cluster = resting(3);
    cluster.supported_by(1, 2, false);
    cluster.supported_by(1, 3, false);
    cluster.isolate(1);
    cluster.run(2 * T);
    assert_eq!(cluster.group(1).role(), Role::Follower);
    let before = cluster.group(2).term();
    // It never campaigns again.
    cluster.replica_mut(1).group.as_mut().expect("it is up").set_priority(0);
    cluster.heal();
    cluster.give(3, 2, Message::PreVote { term: before.next(), last: cluster.group(3).last() });
    cluster.run(4 * T);
    assert!(cluster.leader().is_some_and(|leader| leader != 1), "{:?}", cluster.leader());
}

#[test]
fn a_lease_needs_a_quorum_that_answered_after_support_began() {
    let mut cluster = Cluster::new(Options::of(5));
    cluster.elect(1);
    cluster.run(T);
    assert_eq!(lease(&cluster, 1), None, "nobody has promised anything");
    // The leader learns of the support of two and of three: no reply yet.
    for node in [2, 3] {
        cluster.supports(node, 1, true);
        cluster.supported_by(1, node, true);
    }
    assert_eq!(lease(&cluster, 1), None);
    cluster.run(T / 2);
    assert_eq!(lease(&cluster, 1), Some((cluster.group(1).commit(), Time(50))));
    // Support that ended and began anew is another support.
    cluster.supported_by(1, 3, false);
    cluster.supported_by(1, 3, true);
    assert_eq!(lease(&cluster, 1), None);
}

/// A reply that left before the new support does not confirm it.
#[test]
fn an_answer_from_before_a_gap_in_support_binds_nobody() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.advance(T / 5);
    cluster.deliver_where(|packet| packet.from == 1);
    let acks: Vec<Packet> = cluster.network.drain(..).collect();
    assert!(acks.iter().any(Packet::is_heartbeat));
    for node in [2, 3] {
        cluster.supported_by(1, node, false);
        cluster.supported_by(1, node, true);
    }
    cluster.network.extend(acks);
    cluster.deliver_where(|packet| packet.to == 1);
    assert_eq!(lease(&cluster, 1), None);
}

/// Thesis, section 4.2.3 and 6.4.1: a replica that was requested to campaign does so in spite of any support.
#[test]
fn no_lease_is_left_once_another_was_told_to_take_over() {
    let mut cluster = resting(3);
    assert!(lease(&cluster, 1).is_some());
    cluster.transfer(1, 2);
    assert_eq!(lease(&cluster, 1), None);
    for _ in 0..3 * T {
        cluster.drop_where(|packet| matches!(packet.message(), Some(Message::TimeoutNow { .. })));
        cluster.settle();
        cluster.advance(1);
    }
    assert_eq!((cluster.leader(), lease(&cluster, 1)), (Some(1), None), "the word may still arrive");
}

/// A restarted replica's node may have given support before it stopped.
#[test]
fn a_replica_that_abstains_votes_for_nobody_within_a_timeout() {
    let mut cluster = Cluster::new(Options { abstains: true, ..Options::of(3) });
    let leader = cluster.run_to_leader();
    let (back, rival) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.crash(back);
    cluster.restart(back);
    cluster.isolate(leader);
    cluster.campaign(rival);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(leader), "nobody answers");
    cluster.campaign(back);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(leader), "nor does it vote for itself");
    cluster.advance(T);
    cluster.campaign(rival);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(rival));
}

#[test]
fn groups_that_lose_their_leader_together_do_not_campaign_together() {
    let soon = |seed: u64| {
        let mut cluster = Cluster::new(Options { seed, ..Options::of(3) });
        cluster.elect(1);
        cluster.befriend_all();
        cluster.run(3 * T);
        let now = cluster.now;
        cluster.supports(2, 1, false);
        cluster.group(2).next_deadline().since(now)
    };
    let all: Vec<Duration> = (1..=64).map(soon).collect();
    let half = Duration::from_nanos(T * MS / 2);
    assert!(all.iter().all(|deadline| *deadline < half));
    let early = all.iter().filter(|deadline| **deadline < half / 2).count();
    assert!((16..=48).contains(&early), "{early} of 64 in the first half");
}

/// A follower fortifies members of its own configuration only. Its replies under an earlier one give no lease
/// to a leader that has removed itself, nor to any other leader before the follower has the configuration.
#[test]
fn a_lease_counts_only_answers_given_under_the_configuration_in_force() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.run(T);
    assert!(lease(&cluster, 1).is_some());
    // A round and the change leave in one turn; the followers answer the round before they have the change.
    cluster.read(1, 1);
    cluster.change(1, Transition::Auto, &[Change::Remove(NodeId(1))]);
    // The driver reports the support of the nodes again.
    for node in [2, 3] {
        cluster.supported_by(1, node, true);
    }
    cluster.read(1, 1);
    cluster.deliver_where(|packet| packet.from == 1 && packet.is_heartbeat());
    cluster.deliver_where(|packet| packet.to == 1);
    assert_eq!(lease(&cluster, 1), None, "a leader that is no member");
}

#[test]
fn a_follower_that_lacks_the_configuration_in_force_is_not_counted_as_bound() {
    let mut cluster = Cluster::new(Options { newcomers: 1, ..Options::of(3) });
    cluster.elect(1);
    cluster.befriend_all();
    cluster.run(T);
    cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(4))]);
    for node in [2, 3, 4] {
        cluster.supported_by(1, node, true);
    }
    cluster.read(1, 1);
    cluster.deliver_where(|packet| packet.from == 1 && packet.is_heartbeat());
    cluster.deliver_where(|packet| packet.to == 1);
    assert_eq!(lease(&cluster, 1), None, "they answered without it");
    // They answer once more without it, and that reply arrives after their acknowledgement of it.
    cluster.read(1, 2);
    cluster.deliver_where(|packet| packet.from == 1 && packet.is_heartbeat());
    let is_early = |packet: &Packet| packet.is_heartbeat();
    cluster.deliver_where(|packet| packet.from == 1);
    cluster.deliver_where(|packet| packet.to == 1 && !is_early(packet));
    cluster.deliver_where(|packet| packet.to == 1);
    assert_eq!(lease(&cluster, 1), None, "that was said before");
    // Now they have it; the support of their nodes is reported to them again, too.
    cluster.deliver_where(|packet| packet.from == 1);
    for node in [2, 3] {
        cluster.supports(node, 1, true);
    }
    cluster.deliver_where(|packet| packet.to == 1);
    assert_eq!(lease(&cluster, 1), None, "and have not said so since");
    cluster.run(T / 2);
    assert!(lease(&cluster, 1).is_some());
}

#[test]
fn a_follower_that_says_it_is_free_is_bound_no_longer() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.run(T);
    assert!(lease(&cluster, 1).is_some());
    let term = cluster.group(1).term();
    for node in [2, 3] {
        cluster.give(node, 1, Message::HeartbeatAck { term, round: 1_000, fortifies: false, quiesce: false });
    }
    assert_eq!(lease(&cluster, 1), None);
}

/// The replica that led is dropped, while its node is alive and supported; its not-leader replies are lost.
#[test]
fn followers_at_rest_whose_leader_is_gone_find_out_when_something_is_wanted() {
    let mut cluster = resting(3);
    let term = cluster.group(1).term();
    cluster.crash(1);
    cluster.run(20 * T);
    assert!(cluster.group(2).is_quiescent(), "nothing is wanted of them");
    cluster.propose(2, 1);
    assert!(!cluster.group(2).is_quiescent());
    let doubt = Message::LeaderQuery { term, follows: true };
    assert_eq!(cluster.count_where(|packet| packet.to == 1 && packet.message() == Some(doubt)), 1);
    cluster.network.clear();
    cluster.run(2 * T);
    assert_eq!(cluster.leader(), None, "they are bound, and the question was lost");
    // The driver answers for a group that does not exist.
    for node in [2, 3] {
        cluster.give(1, node, Message::NotLeader { term });
    }
    cluster.run(2 * T);
    assert!(cluster.leader().is_some());
}

#[test]
fn a_read_question_to_a_replica_that_does_not_lead_is_answered() {
    let mut cluster = resting(3);
    let term = cluster.group(1).term();
    for (asked, asked_in) in [(2, term), (1, Term(term.0 - 1))] {
        cluster.give(3, asked, Message::ReadIndex { term: asked_in, round: 7 });
        let renounced = Message::NotLeader { term: asked_in };
        assert_eq!(cluster.count_where(|packet| packet.to == 3 && packet.message() == Some(renounced)), 1);
        cluster.network.clear();
    }
}

/// The leader, which never campaigns by itself, learns of a later term while its group is quiescent, and its
/// followers do not. It knows no leader, and cannot campaign: it sends queries until those that can campaign
/// have noticed.
#[test]
fn a_replica_that_cannot_campaign_asks_around_until_the_group_has_a_leader() {
    let mut cluster = resting(3);
    let later = Term(cluster.group(1).term().0 + 3);
    cluster.isolate(1);
    cluster.replica_mut(1).group.as_mut().expect("it is up").set_priority(0);
    cluster.give(3, 1, Message::HeartbeatAck { term: later, round: 0, fortifies: false, quiesce: false });
    assert_eq!(cluster.group(1).role(), Role::Follower);
    cluster.run(3 * T);
    assert!(cluster.group(2).is_quiescent() && cluster.group(3).is_quiescent());
    cluster.heal();
    cluster.run(9 * T);
    assert!(cluster.leader().is_some_and(|leader| leader != 1), "{:?}", cluster.leader());
    assert!(cluster.group(1).leader().is_some());
}

/// A fenced replica has a later term than a quiescent leader, and no messages are exchanged.
#[test]
fn a_leader_at_rest_learns_a_later_term_from_a_replica_that_cannot_campaign() {
    let mut cluster = resting(3);
    let later = Term(cluster.group(1).term().0 + 1);
    cluster.give(2, 3, Message::Vote { term: later, last: cluster.group(1).last(), transfer: true });
    cluster.network.clear();
    assert_eq!(cluster.group(3).term(), later);
    cluster.replica_mut(3).group.as_mut().expect("it is up").set_priority(0);
    cluster.run(12 * T);
    let leader = cluster.leader().expect("one leads");
    assert!(cluster.group(leader).term() > later && cluster.group(3).leader().is_some());
}

/// A leader that receives a query sends all of its followers a heartbeat at once, not only when the next one
/// is due.
#[test]
fn a_leader_at_rest_that_is_asked_answers_at_once() {
    let mut cluster = resting(3);
    let term = cluster.group(1).term();
    cluster.give(2, 1, Message::LeaderQuery { term, follows: true });
    for node in [2, 3] {
        assert_eq!(cluster.count_where(|packet| packet.to == node && packet.is_heartbeat()), 1, "{node}");
    }
}

/// No replica of a quiescent group has a deadline: if its leader stayed quiescent, the loss would go
/// unnoticed.
#[test]
fn a_proposal_that_is_lost_on_its_way_to_a_group_at_rest_is_sent_again() {
    let mut cluster = resting(3);
    cluster.propose(1, 1);
    cluster.drop_where(|_| true);
    assert!(!cluster.group(1).is_quiescent());
    cluster.run(2 * T);
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last().index);
}

/// All followers have lost their leader at the same moment, and two of them request pre-votes of each other.
#[test]
fn of_two_that_ask_each_other_the_one_with_the_higher_id_goes_on() {
    let mut cluster = resting(3);
    cluster.isolate(1);
    for node in [2, 3] {
        cluster.supports(node, 1, false);
        cluster.campaign(node);
        assert_eq!(cluster.group(node).role(), Role::PreCandidate);
    }
    cluster.deliver_where(|packet| matches!(packet.message(), Some(Message::PreVote { .. })));
    assert_eq!([2, 3].map(|node| cluster.group(node).role()), [Role::Follower, Role::PreCandidate]);
    cluster.settle();
    assert_eq!((cluster.leader(), cluster.group(3).term()), (Some(3), Term(2)));
}

/// A follower without its node's support for the leader's must be able to miss that leader's heartbeats.
#[test]
fn a_follower_that_is_not_bound_does_not_agree_to_rest() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.propose(1, 1);
    cluster.settle();
    cluster.run(T);
    let (term, commit) = (cluster.group(1).term(), cluster.group(2).commit());
    assert_eq!(commit, cluster.group(2).last().index);
    cluster.say(1, 2, Message::Heartbeat { term, commit, round: 1, quiesce: true }, &[]);
    assert!(!cluster.group(2).is_fortifying() && !cluster.group(2).is_quiescent());
}

/// Its longer wait had counted from the last message of the leader, and would have ended before that of a
/// replica with a higher priority, if that one's node supports the leader's a little longer.
#[test]
fn an_unwilling_follower_waits_anew_when_its_leader_is_supported_no_longer() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.replica_mut(2).group.as_mut().expect("it is up").set_priority(PRIORITY_MAX - 2);
    cluster.propose(1, 1);
    cluster.settle();
    assert!(cluster.group(2).is_fortifying() && !cluster.group(2).is_quiescent());
    cluster.isolate(1);
    cluster.advance(3 * T - T / 20);
    assert!(cluster.group(2).is_fortifying() && cluster.group(2).role() == Role::Follower);
    cluster.supports(2, 1, false);
    let (now, deadline) = (cluster.now, cluster.group(2).next_deadline());
    assert!(deadline.0 >= now.0 + 2 * T * MS, "it campaigns in {} ms", (deadline.0 - now.0) / MS);
}
