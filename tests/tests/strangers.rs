//! A node with a certificate of another authority gets nowhere, and disturbs nobody. How the handshake refuses it is
//! tested in `net`; here, that a cluster is none the worse for it.

use raftwerk::identity::ClusterAuthority;
use raftwerk::{Engine, GroupId, NodeId, PeerId};
use raftwerk_tests::facts::until;
use raftwerk_tests::journal::Journal;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUP: GroupId = GroupId(1);

#[test]
fn cluster_refuses_a_foreign_certificate() {
    let mut nodes = Nodes::start(3, |_| ());
    nodes.create(&[GROUP]);
    let mut written = vec![nodes.write(GROUP, 0)];
    nodes.close(NodeId(3));

    // The same cluster name and the same node id, but not the same authority. Everybody is told that node 3 lives there.
    let foreign = ClusterAuthority::new("tests").unwrap().issue(PeerId(3)).unwrap();
    let stranger = Engine::open(nodes.config_as(NodeId(3), foreign), |_| Journal::default()).wait().unwrap();
    let group = stranger.create_group(GROUP, nodes.ids()).wait().unwrap();
    for node in [NodeId(1), NodeId(2)] {
        stranger.set_address(node, nodes.engine(node).local_addr());
        nodes.engine(node).set_address(NodeId(3), stranger.local_addr());
    }
    until("both sides have tried", || {
        let refused = [NodeId(1), NodeId(2)].map(|node| {
            let stats = nodes.engine(node).net_stats();
            stats.strangers_refused + stats.dials_failed
        });
        let tried = stranger.net_stats();
        let tried = tried.dials_failed + tried.strangers_refused;
        (refused.iter().sum::<u64>() > 0 && tried > 0).then_some(())
    });

    written.extend((0..20).map(|_| nodes.write(GROUP, 0)));
    let stats = stranger.net_stats();
    assert_eq!((stats.connections, stats.messages_received), (0, 0), "it was told nothing");
    let status = group.status().wait().unwrap();
    assert_eq!((status.last.index.0, status.applied.0, status.leader), (0, 0, None), "it has nothing");
    stranger.shutdown().wait().unwrap();

    nodes.open(NodeId(3));
    nodes.assert_equal(GROUP);
    assert_kept(&nodes.local(NodeId(3), GROUP), &written);
}
