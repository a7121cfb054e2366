//! The memory of an idle replica: there may be a hundred thousand on a node.

use raftwerk_frame::NodeId;
use raftwerk_raft::{Group, TermRun};

use crate::cluster::{Cluster, Options, Packet, T};

/// A kibibyte.
const BOUND: usize = 1024;

/// The group itself, and an estimate from above of what it owns on the heap.
fn weight(group: &Group) -> usize {
    let configuration = group.configuration();
    let nodes = configuration.voters.len() + configuration.learners.len();
    let runs = group.runs().len().next_power_of_two().max(4);
    size_of::<Group>() + nodes * size_of::<NodeId>() + runs * size_of::<TermRun>() + group.leading_bytes()
}

#[test]
fn an_idle_replica_of_three_or_five_weighs_at_most_a_kibibyte() {
    for voters in [3, 5] {
        let mut cluster = Cluster::new(Options::of(voters));
        let leader = cluster.run_to_leader();
        cluster.run(T);
        for node in cluster.nodes() {
            let weight = weight(cluster.group(node));
            assert!(weight <= BOUND, "{weight} bytes, leading: {}", node == leader);
        }
    }
}

/// Memory that was taken under load is given back when the load is over.
#[test]
fn a_leader_that_was_busy_weighs_no_more_when_it_is_idle_again() {
    let options = Options { window_messages: 256, window_bytes: 1 << 20, ..Options::of(3) };
    let mut cluster = Cluster::new(options);
    cluster.elect(1);
    for _ in 0..250 {
        cluster.propose(1, 1);
    }
    assert!(cluster.count_where(Packet::is_append) >= 200);
    assert!(weight(cluster.group(1)) > 4 * BOUND, "it is busy");
    cluster.run(3 * T);
    assert_eq!(cluster.committed(), 251);
    let weight = weight(cluster.group(1));
    assert!(weight <= BOUND, "{weight} bytes");
}

/// A quiescent leader has no next period in which it could give memory back.
#[test]
fn a_leader_that_goes_to_rest_gives_back_what_a_busy_time_took() {
    let options = Options { window_messages: 256, window_bytes: 1 << 20, ..Options::of(3) };
    let mut cluster = Cluster::new(options);
    cluster.elect(1);
    cluster.befriend_all();
    for _ in 0..250 {
        cluster.propose(1, 1);
    }
    cluster.run(T / 2);
    assert_eq!((cluster.committed(), cluster.group(1).is_quiescent()), (251, true));
    let weight = weight(cluster.group(1));
    assert!(weight <= BOUND, "{weight} bytes");
}
