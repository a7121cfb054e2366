//! Leadership transfer (thesis, section 3.10), and the priorities of replicas in elections.

use raftwerk_frame::{Message, NodeId, Term};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Rejected, Role, Transfer, TransferRefusal, Transition};

use crate::cluster::{Cluster, ENTRY_BYTES, Options, Packet, T};

fn led(voters: u64) -> Cluster {
    let mut cluster = Cluster::new(Options { learners: 1, ..Options::of(voters) });
    cluster.elect(1);
    cluster.run(T);
    cluster
}

/// The target is requested to campaign as soon as it has everything, without a timeout.
#[test]
fn the_target_takes_over_at_once_though_the_others_hear_their_leader() {
    let mut cluster = led(3);
    let now = cluster.now;
    cluster.transfer(1, 2);
    cluster.settle();
    assert_eq!((cluster.leader(), cluster.now), (Some(2), now));
    assert_eq!(cluster.group(2).term(), Term(2));
    assert!(cluster.replica(1).transfers.is_empty());
}

/// Thesis, section 3.10, step 2: the target's log is brought up to date first; meanwhile no proposals are taken.
#[test]
fn a_target_that_is_behind_is_waited_for_and_proposals_are_refused_meanwhile() {
    let mut cluster = led(3);
    cluster.propose(1, 3);
    cluster.transfer(1, 2);
    let asks = |cluster: &Cluster| {
        cluster.count_where(|packet| matches!(packet.message(), Some(Message::TimeoutNow { .. })))
    };
    assert_eq!(asks(&cluster), 0, "it has not acknowledged everything");
    assert_eq!(cluster.group(1).transfer_target(), Some(NodeId(2)));
    cluster.propose(1, 1);
    assert_eq!(cluster.replica(1).rejected, Some(Rejected::Busy));
    cluster.deliver_where(|packet| packet.is_append());
    cluster.deliver_where(|packet| packet.is_ack());
    assert_eq!(asks(&cluster), 1);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.group(2).commit(), cluster.group(2).last().index);
}

/// A transfer to a dead target is given up after an election timeout, and proposals are taken again.
#[test]
fn a_transfer_to_a_dead_target_is_given_up_and_writes_resume() {
    let mut cluster = led(3);
    cluster.crash(2);
    cluster.transfer(1, 2);
    cluster.run(T - 1);
    cluster.propose(1, 1);
    assert_eq!(cluster.replica_mut(1).rejected.take(), Some(Rejected::Busy));
    cluster.run(2);
    assert_eq!(cluster.replica(1).transfers, [Transfer::Abandoned(NodeId(2))]);
    let before = cluster.committed();
    cluster.propose(1, 1);
    cluster.run(T);
    assert_eq!((cluster.leader(), cluster.committed()), (Some(1), before + 1));
}

/// The message that requests the campaign may be lost: it is repeated with the next heartbeat.
#[test]
fn a_lost_word_to_the_target_is_said_again() {
    let mut cluster = led(3);
    cluster.transfer(1, 2);
    cluster.drop_where(|packet| matches!(packet.message(), Some(Message::TimeoutNow { .. })));
    cluster.run(T / 2);
    assert_eq!(cluster.leader(), Some(2));
}

#[test]
fn unfit_targets_are_refused() {
    let mut cluster = led(3);
    let unfit = |cluster: &mut Cluster, at: u64, to: u64| {
        cluster.transfer(at, to);
        match cluster.replica_mut(at).transfers.pop() {
            Some(Transfer::Refused(unfit)) => unfit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(unfit(&mut cluster, 2, 3), TransferRefusal::NotLeader { leader: Some(NodeId(1)) });
    assert_eq!(unfit(&mut cluster, 1, 1), TransferRefusal::LeadsAlready);
    assert_eq!(unfit(&mut cluster, 1, 4), TransferRefusal::NotAVoter, "a learner");
    assert_eq!(unfit(&mut cluster, 1, 9), TransferRefusal::NotAVoter, "nobody");
    cluster.crash(3);
    cluster.run(3 * T);
    assert_eq!(unfit(&mut cluster, 1, 3), TransferRefusal::Inactive);
    cluster.propose(1, 3);
    cluster.transfer(1, 2);
    assert_eq!(unfit(&mut cluster, 1, 2), TransferRefusal::InProgress(NodeId(2)));
}

/// A replica that waits for a snapshot cannot have the log in time.
#[test]
fn a_target_that_waits_for_a_snapshot_is_too_far_behind() {
    let mut cluster = led(3);
    cluster.crash(3);
    cluster.propose(1, 5);
    cluster.run(T / 2);
    cluster.checkpoint(1, true);
    cluster.restart(3);
    for _ in 0..T {
        cluster.advance(1);
        cluster.deliver_where(|packet| !packet.is_snapshot());
    }
    cluster.transfer(1, 3);
    assert_eq!(cluster.replica(1).transfers, [Transfer::Refused(TransferRefusal::TooFarBehind)]);
}

/// A read that waits during a transfer is not answered by a leader that was deposed meanwhile.
#[test]
fn a_read_during_a_transfer_is_answered_by_a_quorum_or_not_at_all() {
    let mut cluster = led(3);
    cluster.transfer(1, 2);
    let read = cluster.read(1, 1);
    // The target wins before the read's round is answered; the new leader commits something more.
    cluster.deliver_where(|packet| !packet.is_heartbeat());
    assert_eq!(cluster.leader(), Some(2));
    cluster.propose(2, 1);
    cluster.deliver_where(|packet| !packet.is_heartbeat());
    cluster.settle();
    assert!(cluster.replica(1).reads_rejected.contains(&read));
}

/// A follower campaigns only on the request of its own leader.
#[test]
fn only_the_leaders_own_word_makes_a_follower_campaign() {
    let mut cluster = led(3);
    let term = cluster.group(1).term();
    cluster.give(3, 2, Message::TimeoutNow { term });
    assert_eq!(cluster.group(2).role(), Role::Follower);
    cluster.give(1, 4, Message::TimeoutNow { term });
    assert_eq!(cluster.group(4).role(), Role::Follower, "a learner does not");
}

/// A replica with a lower priority waits longer, and one with priority 0 never campaigns by itself, yet leads
/// after a transfer.
#[test]
fn the_most_willing_leads() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(Options { seed, ..Options::of(3) });
        for (node, priority) in [(1, 0), (2, 2), (3, 3)] {
            cluster.replica_mut(node).group.as_mut().unwrap().set_priority(priority);
        }
        assert_eq!(cluster.run_to_leader(), 3, "seed {seed}");
        cluster.crash(3);
        assert_eq!(cluster.run_to_leader(), 2, "seed {seed}");
        cluster.transfer(2, 1);
        cluster.settle();
        assert_eq!(cluster.leader(), Some(1));
    }
}

/// A low priority is no veto: such replicas still vote, and do not campaign even when no others are left.
#[test]
fn unwilling_replicas_vote() {
    let mut cluster = Cluster::new(Options::of(3));
    for node in [1, 2] {
        cluster.replica_mut(node).group.as_mut().unwrap().set_priority(0);
    }
    assert_eq!(cluster.run_to_leader(), 3);
    cluster.crash(3);
    cluster.run(20 * T);
    assert_eq!(cluster.leader(), None);
    cluster.restart(3);
    assert_eq!(cluster.run_to_leader(), 3);
}

/// The chosen voter lacks entries; another that lacks none is requested to campaign at once, not with the
/// next heartbeat.
#[test]
fn a_leader_without_a_vote_asks_the_first_that_holds_everything_at_once() {
    let mut cluster = Cluster::new(Options::of(4));
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.change(1, Transition::Auto, &[Change::Remove(NodeId(1))]);
    cluster.isolate(4);
    cluster.transfer(1, 4);
    let is_hurry = |packet: &Packet| matches!(packet.message(), Some(Message::TimeoutNow { .. }));
    cluster.deliver_where(|packet| !is_hurry(packet));
    assert!(cluster.group(1).is_retiring());
    let asked: Vec<u64> =
        cluster.network.iter().filter(|packet| is_hurry(packet)).map(|packet| packet.to).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!([2, 3].contains(&asked[0]), "{asked:?}");
}

/// A witness that holds all entries could not lead.
#[test]
fn a_leader_without_a_vote_asks_no_witness() {
    let mut cluster = Cluster::new(Options { witnesses: 1, ..Options::of(4) });
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.change(1, Transition::Auto, &[Change::Remove(NodeId(1))]);
    // 3 was chosen, and is gone; the witness is the last that the commit waits for.
    cluster.isolate(3);
    cluster.transfer(1, 3);
    cluster.unreachable(1, 3);
    let is_hurry = |packet: &Packet| matches!(packet.message(), Some(Message::TimeoutNow { .. }));
    cluster.deliver_where(|packet| !is_hurry(packet));
    assert!(cluster.group(1).is_retiring());
    assert_eq!(cluster.progress(1, 4).matched, cluster.group(1).last().index);
    assert_eq!(cluster.count_where(|packet| packet.to == 4 && is_hurry(packet)), 0);
    assert_eq!(cluster.group(1).transfer_target(), Some(NodeId(3)), "it was chosen, and may come back");
}

/// Proposals from before it was deposed do not count among those that wait now.
#[test]
fn a_leader_that_leads_again_counts_what_it_proposes_now() {
    let mut cluster = Cluster::new(Options { uncommitted_bytes_max: 5 * ENTRY_BYTES, ..Options::of(3) });
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.isolate(1);
    cluster.propose(1, 5);
    cluster.elect_among(2);
    cluster.heal();
    cluster.propose(2, 5);
    cluster.run(T);
    assert_eq!(cluster.group(1).leading_bytes(), 0, "who follows keeps nothing of it");
    cluster.elect_among(1);
    for _ in 0..3 {
        let last = cluster.group(1).last().index;
        cluster.propose(1, 5);
        assert_eq!(cluster.group(1).last().index, last.plus(5));
        cluster.settle();
        assert_eq!(cluster.group(1).commit(), last.plus(5));
    }
}
