//! A node whose disk was lost comes back under its old id, and knows nothing of what it promised: nobody takes its new log for
//! the old one, and it is let in again only as a newcomer. A replica that is removed from a disk that is kept, and joins again,
//! keeps its promises.

use raftwerk::{
    Change, Configuration, CreateError, GroupId, Index, NodeId, Reconfiguration, ReconfigureError,
    ReplaceError,
};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUP: GroupId = GroupId(1);
const LATER: GroupId = GroupId(2);
const LOST: NodeId = NodeId(3);

fn reconfigure(nodes: &Nodes, change: Change) -> Configuration {
    nodes.reconfigure(GROUP, &Reconfiguration::of([change])).configuration
}

fn lose_disk(nodes: &mut Nodes, node: NodeId) {
    nodes.close(node);
    std::fs::remove_dir_all(nodes.config(node).data_dir).expect("the data of a node that is down can go");
    nodes.open(node);
}

fn is_refused(nodes: &Nodes, by: &[NodeId]) {
    until("it speaks, and is refused", || {
        by.iter().any(|node| nodes.engine(*node).stats().refused_units > 0).then_some(())
    });
}

#[test]
fn node_with_a_lost_disk_is_ignored_until_it_rejoins() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.create(&[GROUP]);
    let others: Vec<NodeId> = nodes.ids().iter().copied().filter(|node| *node != LOST).collect();
    let mut written: Vec<_> = (0..20).map(|_| nodes.write(GROUP, 100)).collect();
    until("everybody to have heard it", || {
        nodes.replica(LOST, GROUP).status().wait().ok().filter(|s| s.commit.0 >= 20)
    });

    lose_disk(&mut nodes, LOST);
    // What an embedder does at every start, and is right to do on a disk that is still there.
    nodes.engine(LOST).create_group(GROUP, nodes.ids()).wait().unwrap();
    is_refused(&nodes, &others);
    written.extend((0..20).map(|_| nodes.write(GROUP, 100)));
    let leader = until("a leader", || Some(nodes.leader(GROUP)).filter(|leader| *leader != LOST));
    let early = nodes.replica(leader, GROUP).reconfigure(Reconfiguration::of([Change::Voter(LOST)]));
    assert_eq!(early.wait(), Err(ReconfigureError::OtherLog(LOST)), "its old log is in the way");
    assert_eq!(nodes.replica(LOST, GROUP).status().wait().unwrap().last.index, Index(0));

    // The way back: it is taken out, joins, and is added again.
    let without = reconfigure(&nodes, Change::Remove(LOST));
    assert!(!without.contains(LOST));
    nodes.engine(LOST).remove_group(GROUP).wait().unwrap();
    nodes.engine(LOST).join_group(GROUP).wait().unwrap();
    let now = reconfigure(&nodes, Change::Voter(LOST));
    assert_eq!(now.log_of(LOST), Some(nodes.engine(LOST).log_id()));
    assert_eq!(now.voters, nodes.ids());
    written.push(nodes.write(GROUP, 100));
    nodes.assert_equal(GROUP);
    for node in nodes.ids() {
        assert_kept(&nodes.local(*node, GROUP), &written);
    }
}

/// It is added with a name; then its new log is known by it, and no peer has to be told.
#[test]
fn added_node_may_lose_its_disk_and_rejoin_repeatedly() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.engine(NodeId(1)).create_group(GROUP, &[NodeId(1)]).wait().unwrap();
    for node in [2, 3] {
        nodes.engine(NodeId(node)).join_group(GROUP).wait().unwrap();
        reconfigure(&nodes, Change::Voter(NodeId(node)));
    }
    let mut written: Vec<_> = (0..5).map(|_| nodes.write(GROUP, 100)).collect();
    let mut logs = vec![nodes.engine(LOST).log_id()];
    for _ in 0..3 {
        lose_disk(&mut nodes, LOST);
        nodes.engine(LOST).join_group(GROUP).wait().unwrap();
        written.push(nodes.write(GROUP, 100));
        reconfigure(&nodes, Change::Remove(LOST));
        let now = reconfigure(&nodes, Change::Voter(LOST));
        logs.push(nodes.engine(LOST).log_id());
        assert_eq!((now.log_of(LOST), now.voters.len()), (logs.last().copied(), 3));
        written.push(nodes.write(GROUP, 100));
        nodes.assert_equal(GROUP);
    }
    logs.sort_unstable();
    logs.dedup();
    assert_eq!(logs.len(), 4);
    assert_kept(&nodes.local(LOST, GROUP), &written);
}

/// A node that has kept its disk is bound by what an earlier replica there has promised.
#[test]
fn replica_that_rejoins_keeps_its_term_across_restarts() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.create(&[GROUP]);
    let mut written: Vec<_> = (0..20).map(|_| nodes.write(GROUP, 100)).collect();
    reconfigure(&nodes, Change::Remove(LOST));
    until("a replica that knows that it is removed", || {
        nodes.replica(LOST, GROUP).status().wait().ok().filter(|status| status.is_removed)
    });
    let term = nodes.replica(LOST, GROUP).status().wait().unwrap().term;
    nodes.engine(LOST).remove_group(GROUP).wait().unwrap();
    let again = nodes.engine(LOST).create_group(GROUP, nodes.ids()).wait();
    assert_eq!(again.err(), Some(CreateError::Removed(GROUP)));
    nodes.close(LOST);
    nodes.open(LOST);
    nodes.engine(LOST).join_group(GROUP).wait().unwrap();
    let status = nodes.replica(LOST, GROUP).status().wait().unwrap();
    assert!(status.term >= term && status.last.index == Index(0), "{status:?}");
    reconfigure(&nodes, Change::Voter(LOST));
    written.push(nodes.write(GROUP, 100));
    nodes.assert_equal(GROUP);
    assert_kept(&nodes.local(LOST, GROUP), &written);
}

/// The configuration of a group's beginning names no logs: the others go by which they heard first, and are told of another
/// only for the sake of groups that are founded later.
#[test]
fn new_log_founds_groups_once_the_others_accept_it() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.create(&[GROUP]);
    let others = [NodeId(1), NodeId(2)];
    let _written = nodes.write(GROUP, 100);
    until("everybody to have heard it", || {
        nodes.replica(LOST, GROUP).status().wait().ok().filter(|s| s.commit.0 >= 1)
    });
    lose_disk(&mut nodes, LOST);
    let log = nodes.engine(LOST).log_id();
    for node in others {
        assert_eq!(nodes.engine(node).replace_peer(LOST, log).wait(), Err(ReplaceError::Member(GROUP)));
    }
    reconfigure(&nodes, Change::Remove(LOST));
    for node in others {
        until("the word of its removal everywhere", || {
            nodes.engine(node).replace_peer(LOST, log).wait().ok()
        });
    }
    nodes.create(&[LATER]);
    let _written = nodes.write(LATER, 100);
    nodes.assert_equal(LATER);
}
