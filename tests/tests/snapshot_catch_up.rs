//! A node that missed more than the others still have in their logs catches up by snapshot (paper, section 7). The
//! transfer's own faults are tested in the engine; here only the outcome counts.

use raftwerk::{GroupId, NodeId};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUP: GroupId = GroupId(1);
/// Writes of 2 KiB each: several times what a group's log may hold before it is compacted.
const WRITES: usize = 400;
const SIZE: usize = 2048;

fn start() -> Nodes {
    let nodes = Nodes::start(3, |config| config.checkpoint_log_bytes = 64 << 10);
    nodes.create(&[GROUP]);
    nodes
}

#[test]
fn a_node_that_missed_a_lot_catches_up_and_keeps_it() {
    let mut nodes = start();
    let mut written = vec![nodes.write(GROUP, SIZE)];
    nodes.assert_equal(GROUP);
    let late = NodeId(3);
    let had = nodes.replica(late, GROUP).status().wait().unwrap().last.index;
    nodes.close(late);
    written.extend((0..WRITES).map(|_| nodes.write(GROUP, SIZE)));
    for node in [NodeId(1), NodeId(2)] {
        let group = nodes.replica(node, GROUP);
        until("a log that no longer has what is missing", || {
            (group.status().wait().ok()?.compacted.index > had).then_some(())
        });
    }

    nodes.open(late);
    nodes.assert_equal(GROUP);
    assert!(nodes.engine(late).stats().installs >= 1, "the log alone could not have done it");
    assert_kept(&nodes.local(late, GROUP), &written);

    // What was installed is its own now: it survives a restart, and the log goes on behind it.
    nodes.close(late);
    nodes.open(late);
    written.extend((0..10).map(|_| nodes.write(GROUP, SIZE)));
    nodes.assert_equal(GROUP);
    assert_kept(&nodes.local(late, GROUP), &written);
}

#[test]
fn a_snapshot_overtaken_by_new_writes_is_followed_by_them() {
    let mut nodes = start();
    let mut written = vec![nodes.write(GROUP, SIZE)];
    nodes.close(NodeId(2));
    written.extend((0..WRITES).map(|_| nodes.write(GROUP, SIZE)));
    nodes.open(NodeId(2));
    // Some of these are taken while the snapshot travels, and compacted before it arrives.
    written.extend((0..WRITES).map(|_| nodes.write(GROUP, SIZE)));
    nodes.assert_equal(GROUP);
    assert_kept(&nodes.local(NodeId(2), GROUP), &written);
}

#[test]
fn a_node_restarts_from_its_own_checkpoint_and_the_log_behind_it() {
    let mut nodes = start();
    let written: Vec<_> = (0..WRITES).map(|_| nodes.write(GROUP, SIZE)).collect();
    for node in [1, 2, 3].map(NodeId) {
        let group = nodes.replica(node, GROUP);
        until("a compacted log", || (group.status().wait().ok()?.compacted.index.0 > 0).then_some(()));
    }
    for node in [1, 2, 3].map(NodeId) {
        nodes.close(node);
    }
    for node in [1, 2, 3].map(NodeId) {
        nodes.open(node);
    }
    assert_kept(&nodes.read(GROUP), &written);
    nodes.assert_equal(GROUP);
}
