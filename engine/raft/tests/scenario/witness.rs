//! Witnesses: replicas that vote by headers and hold no payload. Their main scenarios are in
//! `tests/scripts/witness_*`; those that inspect single messages are here.

use raftwerk_frame::{Index, LogId, Message, NodeId};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{MessageKind, MessageSender, PeerState, Role, Transition};

use crate::cluster::{Cluster, Options, Packet, T};

/// Two voters with payloads, and node 3.
fn two_and_a_witness() -> Options {
    Options { witnesses: 1, ..Options::of(3) }
}

fn entries_to(cluster: &Cluster, node: u64) -> usize {
    cluster.network.iter().filter(|packet| packet.to == node).map(|packet| packet.entries().len()).sum()
}

#[test]
fn a_witness_is_told_of_what_its_leader_and_the_other_voter_hold_durably() {
    let mut cluster = Cluster::new(two_and_a_witness());
    cluster.elect(1);
    cluster.run(T);
    cluster.options.syncs_at_once = false;
    cluster.propose(1, 3);
    assert_eq!((entries_to(&cluster, 2), entries_to(&cluster, 3)), (3, 0), "nobody has it durably");
    cluster.sync(1);
    assert_eq!(entries_to(&cluster, 3), 0, "the leader alone has");
    cluster.deliver_where(|packet| packet.to == 2);
    cluster.sync(2);
    cluster.deliver_where(|packet| packet.to == 1);
    assert_eq!(entries_to(&cluster, 3), 3);
    assert_eq!(cluster.group(1).commit(), Index(4), "it was committed without the witness");
}

/// The other voter is silent: it may come back within an election timeout, and after that the witness takes
/// its place.
#[test]
fn a_witness_stands_in_for_a_voter_that_is_silent_for_an_election_timeout_and_not_sooner() {
    let mut cluster = Cluster::new(two_and_a_witness());
    cluster.elect(1);
    cluster.run(T);
    cluster.isolate(2);
    cluster.propose(1, 1);
    cluster.run(T - T / 5);
    assert_eq!((cluster.group(1).commit(), cluster.progress(1, 2).state), (Index(1), PeerState::Replicate));
    cluster.run(T);
    assert_eq!(cluster.group(1).commit(), Index(2));
    assert!(cluster.group(1).is_leader() && cluster.group(3).last() == cluster.group(1).last());
    // A connection that is known to be broken is not waited for.
    cluster.unreachable(1, 2);
    cluster.propose(1, 1);
    cluster.settle();
    assert_eq!(cluster.group(1).commit(), Index(3));
}

/// A leader that is removed transfers the leadership only to a replica that can lead; also where the witness
/// is the first to hold everything.
#[test]
fn a_removed_leader_tells_no_witness_and_no_learner_to_campaign() {
    let mut cluster = Cluster::new(Options { witnesses: 1, learners: 1, ..Options::of(4) });
    cluster.elect(1);
    cluster.run(T);
    cluster.change(1, Transition::Auto, &[Change::Remove(NodeId(1))]);
    cluster.deliver_where(|packet| packet.to != 1);
    // The learner, the witness, and only then those that may lead.
    for node in [5, 4, 2, 3] {
        cluster.deliver_where(|packet| (packet.from, packet.to) == (node, 1));
    }
    let is_told = |packet: &Packet| matches!(packet.message(), Some(Message::TimeoutNow { .. }));
    let told: Vec<u64> =
        cluster.network.iter().filter(|packet| is_told(packet)).map(|packet| packet.to).collect();
    assert!(!told.is_empty() && told.iter().all(|node| [2, 3].contains(node)), "{told:?}");
    cluster.run(5 * T);
    let leader = cluster.leader().unwrap();
    assert!([2, 3].contains(&leader), "{leader} leads");
}

/// A sender with the wrong kind for the receiver (witness or not) is not accepted; so no log is counted as
/// what it is not.
#[test]
fn requests_are_heard_of_those_only_who_take_the_replica_for_what_it_is() {
    let cluster = Cluster::new(two_and_a_witness());
    let sender = |to_witness| MessageSender {
        from: NodeId(1),
        log: LogId(100),
        is_first: true,
        is_named: true,
        names_itself: true,
        to_witness,
    };
    for (node, is_witness) in [(2, false), (3, true)] {
        for to_witness in [false, true] {
            let heard = cluster.group(node).accepts(sender(to_witness), MessageKind::Request);
            assert_eq!(heard, to_witness == is_witness, "node {node}, as a witness: {to_witness}");
            assert!(
                cluster.group(node).accepts(sender(to_witness), MessageKind::Other),
                "an answer is an answer"
            );
        }
    }
    assert!(cluster.group(1).has_for_witness(NodeId(3)) && !cluster.group(1).has_for_witness(NodeId(2)));
}

/// A new member that is a witness catches up as a learner, from where the leader's log begins.
#[test]
fn a_witness_comes_in_by_the_configuration_where_the_log_begins() {
    let mut cluster =
        Cluster::new(Options { newcomers: 1, witness_newcomers: 1, names_logs: true, ..Options::of(2) });
    cluster.elect(1);
    cluster.propose(1, 6);
    cluster.run(T);
    cluster.checkpoint(1, true);
    cluster.propose(1, 2);
    cluster.settle();
    cluster.change(1, Transition::Auto, &[Change::WitnessLearner(NodeId(3))]);
    cluster.run(2 * T);
    assert_eq!((cluster.seen.installed, cluster.group(3).compacted().index), (1, Index(7)));
    assert_eq!(cluster.group(3).last(), cluster.group(1).last());
    cluster.change(1, Transition::Auto, &[Change::Witness(NodeId(3))]);
    cluster.run(T);
    cluster.crash(2);
    cluster.propose(1, 1);
    cluster.run(3 * T);
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last().index);
    assert_eq!((cluster.group(3).role(), cluster.leader()), (Role::Follower, Some(1)));
}

/// For entries of earlier terms, which may have been replaced and have come back, a durability notice may
/// come too early. A new leader sends them to witnesses when its own first entry, which is written once, is
/// durable after them.
#[test]
fn a_new_leader_shows_a_witness_earlier_entries_when_its_own_is_durable() {
    let mut cluster = Cluster::with_logs(two_and_a_witness(), &[&[1, 1], &[1, 1], &[]], &[1, 1, 1]);
    cluster.options.syncs_at_once = false;
    cluster.campaign(1);
    for _ in 0..4 {
        if cluster.group(1).role() != Role::Leader {
            cluster.sync(1);
        }
        cluster.deliver_where(|packet| packet.to != 1);
        cluster.sync(2);
        cluster.sync(3);
        if cluster.group(1).role() != Role::Leader {
            cluster.deliver_where(|packet| packet.to == 1);
        }
    }
    assert_eq!(cluster.group(1).role(), Role::Leader);
    cluster.deliver_where(|packet| packet.from == 2 && packet.to == 1);
    assert_eq!(cluster.progress(1, 2).matched, Index(3));
    cluster.deliver_where(|packet| packet.from == 3 && packet.to == 1);
    assert_eq!(entries_to(&cluster, 3), 0, "it has not made its own entry durable");
    cluster.sync(1);
    cluster.settle();
    cluster.sync(3);
    cluster.settle();
    cluster.run(T);
    assert!(entries_to(&cluster, 3) > 0 || cluster.group(3).last().index == Index(3));
}
