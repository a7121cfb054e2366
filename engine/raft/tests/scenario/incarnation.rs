//! Nodes that come back without their disk, and replicas that are removed and join again: neither leaders and
//! candidates nor the nodes themselves take them for the earlier replicas. The rules are those of `identity`.

use raftwerk_frame::{EntryId, Index, LogId, Message, NodeId, Term};
use raftwerk_raft::reconfig::{Change, ChangeError};
use raftwerk_raft::{Admission, Reconfigure, Reconfigured, Refusal, Role, Transition};

use crate::cluster::{Cluster, Options, Packet, T};

fn add(node: u64) -> Change {
    Change::Voter(NodeId(node))
}

fn remove(node: u64) -> Change {
    Change::Remove(NodeId(node))
}

fn change(cluster: &mut Cluster, change: Change) {
    cluster.change(1, Transition::Auto, &[change]);
    cluster.settle();
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last().index);
}

/// Nodes 1, 2 and 3 bootstrap the group; with `is_grown`, node 1 alone does, and adds the others. Then node 3
/// is isolated: it knows neither of node 4, which is added, nor of the removal of node 2. With 2 it is a
/// majority of its own configuration.
fn left_behind(is_grown: bool) -> Cluster {
    let voters = if is_grown { 1 } else { 3 };
    let mut cluster =
        Cluster::new(Options { newcomers: 4 - voters, names_logs: true, ..Options::of(voters) });
    cluster.elect(1);
    if is_grown {
        change(&mut cluster, add(2));
        change(&mut cluster, add(3));
    }
    cluster.propose(1, 2);
    cluster.settle();
    cluster.isolate(3);
    change(&mut cluster, add(4));
    cluster.propose(1, 5);
    cluster.settle();
    change(&mut cluster, remove(2));
    cluster.propose(1, 1);
    cluster.settle();
    cluster.run(3 * T);
    assert!(cluster.group(2).is_removed() && cluster.group(3).configuration().contains(NodeId(2)));
    assert!(!cluster.group(3).configuration().contains(NodeId(4)));
    cluster
}

/// Only the straggler and node 2 can exchange messages; the straggler campaigns again and again.
fn straggler_tries(cluster: &mut Cluster) {
    cluster.network.clear();
    cluster.heal();
    for (one, other) in [(1, 2), (1, 3), (2, 4), (3, 4)] {
        cluster.cut_one_way(one, other);
        cluster.cut_one_way(other, one);
    }
    for _ in 0..4 {
        cluster.campaign(3);
        cluster.run(2 * T);
    }
    assert_ne!(cluster.group(3).role(), Role::Leader, "with whose vote?");
}

/// The network is healed: the node is added, and serves.
fn comes_back(cluster: &mut Cluster) {
    cluster.heal();
    let leader = cluster.run_to_leader();
    cluster.change(leader, Transition::Auto, &[add(2)]);
    cluster.run(5 * T);
    let leader = cluster.run_to_leader();
    cluster.propose(leader, 3);
    cluster.run(T);
    let (last, commit) = (cluster.group(leader).last(), cluster.group(leader).commit());
    assert_eq!((cluster.group(2).last(), cluster.group(2).commit()), (last, commit));
    assert_eq!(cluster.group(leader).configuration().log_of(NodeId(2)), Some(cluster.replica(2).log));
    cluster.crash(if leader == 1 { 4 } else { 1 });
    cluster.propose(leader, 1);
    cluster.run(3 * T);
    assert_eq!(cluster.leader().map(|now| cluster.group(now).commit()), Some(commit.next()), "it counts");
}

#[test]
fn a_straggler_does_not_win_the_empty_log_of_a_first_voter_that_lost_its_disk() {
    let mut cluster = left_behind(false);
    cluster.lose_disk(2);
    straggler_tries(&mut cluster);
    assert_eq!((cluster.group(2).last(), cluster.group(2).term()), (EntryId::default(), Term(0)));
    comes_back(&mut cluster);
}

#[test]
fn a_straggler_does_not_win_a_first_voter_that_has_joined_again() {
    let mut cluster = left_behind(false);
    cluster.leave_and_join(2);
    straggler_tries(&mut cluster);
    comes_back(&mut cluster);
}

#[test]
fn a_straggler_that_names_a_lost_log_does_not_win_the_new_one() {
    let mut cluster = left_behind(true);
    cluster.lose_disk(2);
    straggler_tries(&mut cluster);
    assert_eq!(cluster.group(2).term(), Term(0), "it was not meant");
    comes_back(&mut cluster);
}

/// Here the straggler's configuration names the very log that the node still has: its request is accepted,
/// and the log's floor refuses it.
#[test]
fn a_replica_that_joined_again_votes_for_nobody_who_lacks_what_it_held() {
    let mut cluster = left_behind(true);
    let held = cluster.group(2).last();
    cluster.leave_and_join(2);
    assert_eq!(cluster.group(2).origin().floor(), held);
    cluster.heal();
    cluster.isolate(1);
    cluster.isolate(4);
    cluster.campaign(3);
    let refused = |packet: &Packet| packet.from == 2 && packet.is_pre_vote();
    cluster.deliver_where(|packet| packet.to == 2);
    assert_eq!(cluster.count_where(refused), 1, "it answers who means it");
    straggler_tries(&mut cluster);
    comes_back(&mut cluster);
}

/// It would not vote for itself either: with a log that ends before the floor it does not campaign, and a
/// restart does not change that.
#[test]
fn a_replica_that_joined_again_leads_only_with_all_that_it_held() {
    let mut cluster = left_behind(true);
    cluster.leave_and_join(2);
    cluster.heal();
    cluster.isolate(3);
    cluster.change(1, Transition::Auto, &[add(2)]);
    // Only the first entries reach node 2.
    cluster.deliver_where(|packet| packet.to == 4 || packet.from == 4);
    while cluster.group(2).last().index < Index(3) {
        let next = cluster.network.iter().position(|packet| packet.to == 2 || packet.from == 2).unwrap();
        cluster.deliver(next);
    }
    assert!(cluster.group(2).last() < cluster.group(2).origin().floor());
    for _ in 0..2 {
        cluster.campaign(2);
        assert_eq!(cluster.group(2).role(), Role::Follower);
        cluster.crash(2);
        cluster.restart(2);
    }
    cluster.run(4 * T);
    assert_eq!(cluster.group(2).last(), cluster.group(1).last());
    cluster.transfer(1, 2);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(2));
}

/// Its vote elected a leader; it has lost that vote, and could lead itself, in the same term.
#[test]
fn a_first_voter_that_lost_its_disk_and_makes_its_group_again_is_not_heard() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.campaign(3);
    cluster.deliver_where(|packet| packet.to == 2 && packet.is_pre_vote());
    cluster.network.clear();
    cluster.isolate(2);
    cluster.campaign(1);
    cluster.deliver_where(|packet| packet.is_pre_vote() || packet.is_vote());
    assert_eq!((cluster.group(1).role(), cluster.group(1).term()), (Role::Leader, Term(1)));
    cluster.network.clear();
    cluster.lose_disk_and_make_anew(3);
    cluster.heal();
    cluster.isolate(1);
    cluster.campaign(3);
    cluster.deliver_where(|packet| packet.to == 2);
    assert_eq!(cluster.count_where(|packet| packet.from == 2), 0, "it is not even answered");
    assert_eq!((cluster.group(3).role(), cluster.group(2).term()), (Role::PreCandidate, Term(0)));
    cluster.heal();
    cluster.run(3 * T);
    let leader = cluster.run_to_leader();
    assert!(leader != 3 && cluster.group(3).last() == EntryId::default(), "and gets nothing either");
}

/// A straggler knows the node by its lost log, and has yet to learn that it leads with another.
#[test]
fn a_leader_with_a_new_log_is_followed_by_those_who_know_the_old_one() {
    for is_grown in [false, true] {
        let mut cluster = left_behind(is_grown);
        cluster.lose_disk(2);
        cluster.heal();
        cluster.isolate(3);
        change(&mut cluster, add(2));
        cluster.run(T);
        cluster.transfer(1, 2);
        cluster.settle();
        assert_eq!(cluster.leader(), Some(2));
        cluster.heal();
        cluster.run(4 * T);
        let leader = cluster.run_to_leader();
        assert_eq!(cluster.group(3).last(), cluster.group(leader).last(), "grown: {is_grown}");
    }
}

/// A leader that has removed and added a peer does not count acknowledgements of the earlier replica for the
/// new one.
#[test]
fn an_acknowledgement_of_before_a_removal_does_not_count_after_it() {
    let mut cluster = Cluster::new(Options { names_logs: true, ..Options::of(3) });
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.deliver_where(|packet| packet.to == 2);
    cluster.deliver_where(|packet| packet.from == 2);
    cluster.propose(1, 4);
    cluster.deliver_where(|packet| packet.to == 3);
    let acknowledged = cluster.group(3).last();
    assert_eq!(acknowledged, cluster.group(1).last(), "it is served on, and its answers are under way");
    let told = |packet: &Packet| packet.from == 3 && packet.is_ack();
    assert!(cluster.count_where(told) > 0);

    cluster.leave_and_join(3);
    cluster.change(1, Transition::Auto, &[add(3)]);
    cluster.deliver_where(told);
    assert_eq!(cluster.progress(1, 3).matched, Index(0), "of those entries it has none");
    cluster.settle();
    cluster.run(T);
    assert_eq!(cluster.group(3).commit(), cluster.group(1).last().index);
}

#[test]
fn a_log_takes_the_place_of_another_only_when_that_has_left() {
    let mut cluster = Cluster::new(Options { newcomers: 1, names_logs: true, ..Options::of(2) });
    cluster.elect(1);
    change(&mut cluster, add(3));
    let other = [(NodeId(3), LogId(7))];
    let wish = Reconfigure {
        changes: &[remove(3), add(3)],
        logs: &other,
        expected_index: None,
        transition: Transition::Joint,
        admission: Admission::Unchecked,
        dry_run: false,
    };
    let refused = Reconfigured::Refused(Refusal::Change(ChangeError::OtherLog(NodeId(3))));
    assert_eq!(cluster.reconfigure(1, wish), Some(refused.clone()));
    let founder = Reconfigure { changes: &[add(2)], logs: &[(NodeId(2), LogId(7))], ..wish };
    let outcome = cluster.reconfigure(1, founder);
    assert_eq!(outcome, Some(Reconfigured::Refused(Refusal::Change(ChangeError::OtherLog(NodeId(2))))));
    change(&mut cluster, remove(3));
    cluster.reconfigure(1, Reconfigure { changes: &[add(3)], ..wish });
    assert_eq!(cluster.group(1).configuration().log_of(NodeId(3)), Some(LogId(7)));
}

/// Node 4 was a member, was removed, has joined again with an empty log, and is being added again, by the
/// entry at the returned index.
fn added_again() -> (Cluster, Index) {
    let options = Options { newcomers: 1, names_logs: true, append_bytes_max: 1, ..Options::of(3) };
    let mut cluster = Cluster::new(options);
    cluster.elect(1);
    change(&mut cluster, add(4));
    cluster.propose(1, 2);
    cluster.settle();
    change(&mut cluster, remove(4));
    cluster.run(2 * T);
    assert!(cluster.group(4).is_removed());
    cluster.leave_and_join(4);
    let at = cluster.change(1, Transition::Auto, &[add(4)]);
    (cluster, at)
}

/// The same log joins a second time, and catches up through the configurations of its first membership, one
/// entry at a time. It is a member all the time: a driver that dropped it now would drop a voter.
#[test]
fn a_member_that_catches_up_through_its_earlier_removal_is_not_removed() {
    let (mut cluster, at) = added_again();
    let (term, configuration) = (cluster.group(1).term(), EntryId::new(Term(1), Index(5)));
    for step in 0..200 {
        if cluster.network.is_empty() {
            cluster.advance(T / 10);
        } else {
            cluster.deliver(0);
        }
        assert!(!cluster.group(4).is_removed(), "at {}", cluster.group(4).last());
        if step % 8 == 7 {
            // A late notice of the first removal.
            cluster.give(2, 4, Message::Removed { term, configuration });
        }
    }
    assert!(cluster.group(4).commit() >= at);
    change(&mut cluster, remove(4));
    cluster.run(2 * T);
    assert!(cluster.group(4).is_removed(), "and now it is");
}

/// The same, and the entry of another removal, which may be replaced, is not committed: only a committed one
/// ends a membership.
#[test]
fn a_member_that_is_about_to_be_removed_is_not_removed_by_its_earlier_removal() {
    let (mut cluster, at) = added_again();
    while cluster.group(1).commit() < at {
        cluster.deliver_where(|packet| packet.from != 4 && packet.to != 4);
    }
    let again = cluster.change(1, Transition::Auto, &[remove(4)]);
    let mut passed = 0;
    while cluster.group(4).last().index < at {
        assert!(cluster.group(1).is_leaving(NodeId(4)) && !cluster.group(1).has_left(NodeId(4)));
        match cluster.network.iter().position(|packet| packet.from == 4 || packet.to == 4) {
            Some(at) => cluster.deliver(at),
            None => {
                cluster.advance(T / 20);
                passed += T / 20;
                assert!(passed < T, "it has {}", cluster.group(4).last());
            }
        }
        assert!(!cluster.group(4).is_removed(), "at {}", cluster.group(4).last());
    }
    assert!(cluster.group(1).commit() < again);
    cluster.run(2 * T);
    assert!(cluster.group(1).commit() >= again && cluster.group(4).is_removed(), "and now it is");
}
