//! Three engines over loopback: writes, linearizable reads, refusals that tell where to go, and nodes that leave and come
//! back. What is not here: nodes that die (`kill9`), nodes that miss too much (`snapshot_catch_up`).

use raftwerk::{GroupId, NodeId, ProposeError, ReadError};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUPS: [GroupId; 5] = [GroupId(1), GroupId(2), GroupId(3), GroupId(4), GroupId(5)];

#[test]
fn writes_are_read_back_at_once_and_reach_every_replica() {
    let nodes = Nodes::start(3, |_| ());
    nodes.create(&GROUPS);
    for group in GROUPS {
        let mut written = Vec::new();
        for _ in 0..20 {
            written.push(nodes.write(group, 0));
            // Linearizable: the read that follows an acknowledgement sees what was acknowledged.
            assert_kept(&nodes.read(group), &written);
        }
        let rising = written.windows(2).all(|pair| pair[0].1.id < pair[1].1.id);
        assert!(rising, "acknowledged in order, and so applied in order");
        nodes.assert_equal(group);
        for node in nodes.ids() {
            assert_kept(&nodes.local(*node, group), &written);
        }
    }
}

#[test]
fn followers_name_the_leader_and_refuse_linearizable_reads() {
    let nodes = Nodes::start(3, |_| ());
    nodes.create(&GROUPS[..1]);
    nodes.write(GROUPS[0], 0);
    let leader = nodes.leader(GROUPS[0]);
    for node in nodes.ids().iter().filter(|node| **node != leader) {
        let group = nodes.replica(*node, GROUPS[0]);
        until("the follower knows its leader", || group.status().wait().ok()?.leader);
        assert_eq!(group.propose("x").wait(), Err(ProposeError::NotLeader { hint: Some(leader) }));
        // The core refuses reads by token; that it names the leader too is the engine's affair.
        assert!(matches!(group.read("").wait(), Err(ReadError::NotLeader { .. })));
    }
    assert_eq!(nodes.read(GROUPS[0]).len(), 1, "nothing of the refused proposals is left");
}

#[test]
fn leader_that_leaves_is_replaced_and_returns_with_its_groups() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.create(&GROUPS);
    let mut written: Vec<Vec<_>> = GROUPS.iter().map(|group| vec![nodes.write(*group, 0)]).collect();
    let gone = nodes.leader(GROUPS[0]);
    nodes.close(gone);
    for (group, written) in GROUPS.iter().zip(&mut written) {
        written.extend((0..10).map(|_| nodes.write(*group, 0)));
    }
    nodes.open(gone);
    assert_eq!(nodes.engine(gone).groups().wait().unwrap(), GROUPS);
    for (group, written) in GROUPS.iter().zip(&mut written) {
        written.push(nodes.write(*group, 0));
        nodes.assert_equal(*group);
        assert_kept(&nodes.local(gone, *group), written);
    }
}

#[test]
fn cluster_reopens_with_everything_it_acknowledged() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.create(&GROUPS);
    let mut written = Vec::new();
    for round in 0..3 {
        written.extend((0..10).map(|_| nodes.write(GROUPS[0], 0)));
        assert_eq!(written.len(), 10 * (round + 1));
        for node in [1, 2, 3].map(NodeId) {
            nodes.close(node);
        }
        for node in [1, 2, 3].map(NodeId) {
            nodes.open(node);
        }
        assert_kept(&nodes.read(GROUPS[0]), &written);
        nodes.assert_equal(GROUPS[0]);
    }
}

#[test]
fn creating_a_group_again_changes_nothing_and_other_voters_are_refused() {
    let nodes = Nodes::start(3, |_| ());
    nodes.create(&GROUPS[..1]);
    let written = [nodes.write(GROUPS[0], 0)];
    nodes.create(&GROUPS[..1]);
    assert_kept(&nodes.read(GROUPS[0]), &written);
    let engine = nodes.engine(NodeId(1));
    let other = engine.create_group(GROUPS[0], &[NodeId(1), NodeId(2)]).wait();
    assert_eq!(other.err(), Some(raftwerk::CreateError::Exists(GROUPS[0])));
    assert!(
        engine.create_group(GROUPS[1], &[NodeId(2), NodeId(3)]).wait().is_err(),
        "this node must be a voter"
    );
    assert!(engine.create_group(GROUPS[1], &[]).wait().is_err());
}
