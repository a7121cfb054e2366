//! A node whose disk was lost comes back under its old id, and knows nothing of what it promised: its peers do not hear it,
//! and let it in again only as a newcomer.

use raftwerk::{
    Change, Configuration, GroupId, NodeId, Reconfiguration, ReconfigureError, Refusal, ReplaceError,
};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUP: GroupId = GroupId(1);
const LOST: NodeId = NodeId(3);

fn reconfigure(nodes: &Nodes, change: Change) -> Configuration {
    until("a change of the configuration", || {
        let leader = nodes.leader(GROUP);
        match nodes.replica(leader, GROUP).reconfigure(Reconfiguration::of([change])).wait() {
            Ok(membership) => Some(membership.configuration),
            Err(
                ReconfigureError::Unknown
                | ReconfigureError::Refused(
                    Refusal::NotReady
                    | Refusal::NotLeader { .. }
                    | Refusal::InProgress(_)
                    | Refusal::QuorumAtRisk,
                ),
            ) => None,
            Err(error) => panic!("{change:?}: {error}"),
        }
    })
}

#[test]
fn a_node_that_lost_its_disk_is_not_heard_until_it_comes_as_a_newcomer() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.create(&[GROUP]);
    let others: Vec<NodeId> = nodes.ids().iter().copied().filter(|node| *node != LOST).collect();
    let mut written: Vec<_> = (0..20).map(|_| nodes.write(GROUP, 100)).collect();
    until("everybody to have heard it", || nodes.replica(LOST, GROUP).status().filter(|s| s.commit.0 >= 20));

    nodes.close(LOST);
    std::fs::remove_dir_all(nodes.config(LOST).data_dir).unwrap();
    nodes.open(LOST);
    // What an embedder does at every start, and is right to do on a disk that is still there.
    nodes.engine(LOST).create_group(GROUP, nodes.ids()).unwrap();
    until("it speaks, and is refused", || {
        others.iter().any(|node| nodes.engine(*node).stats().refused_units > 0).then_some(())
    });
    written.extend((0..20).map(|_| nodes.write(GROUP, 100)));
    let log = nodes.engine(LOST).log_id();
    for node in &others {
        assert_eq!(nodes.engine(*node).replace_peer(LOST, log), Err(ReplaceError::Member(GROUP)));
    }

    reconfigure(&nodes, Change::Remove(LOST));
    nodes.close(LOST);
    std::fs::remove_dir_all(nodes.config(LOST).data_dir).unwrap();
    nodes.open(LOST);
    let log = nodes.engine(LOST).log_id();
    for node in &others {
        until("the word of its removal everywhere", || nodes.engine(*node).replace_peer(LOST, log).ok());
    }
    nodes.engine(LOST).join_group(GROUP).unwrap();
    let now = reconfigure(&nodes, Change::Voter(LOST));
    assert_eq!(now, Configuration::of_voters(nodes.ids().iter().copied()));
    written.push(nodes.write(GROUP, 100));
    nodes.assert_equal(GROUP);
    for node in nodes.ids() {
        assert_kept(&nodes.local(*node, GROUP), &written);
    }
}
