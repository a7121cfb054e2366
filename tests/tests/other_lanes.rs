//! Nodes whose logs have different numbers of lanes, in one group.

use raftwerk::{Change, GroupId, NodeId, Reconfiguration, Role};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

/// Nodes with different numbers of lanes do not support each other. So a learner on such a node, which has no vote and asks nobody
/// anything, hears from nobody that it has missed something, unless its leader learns that it can be reached again.
#[test]
fn learner_that_was_away_while_its_group_rested_catches_up() {
    let (voters, learner, group) = ([NodeId(1), NodeId(2), NodeId(3)], NodeId(4), GroupId(1));
    let mut nodes = Nodes::start(4, move |config| {
        let lanes = if config.node == learner { 3 } else { 2 };
        (config.workers, config.lanes) = (2, Some(lanes));
    });
    for node in voters {
        nodes.engine(node).create_group(group, &voters).wait().expect("a group can be made");
    }
    nodes.engine(learner).join_group(group).wait().expect("a replica can be made");
    nodes.reconfigure(group, &Reconfiguration::of([Change::Learner(learner)]));
    let mut written = vec![nodes.write(group, 100)];
    let applied_by =
        |nodes: &Nodes, node| nodes.replica(node, group).status().wait().ok().map(|now| now.applied);
    let last = |written: &[(_, raftwerk::Applied)]| written.last().map(|(_, applied)| applied.id.index);
    until("the learner to have it", || (applied_by(&nodes, learner) >= last(&written)).then_some(()));
    for _ in 0..3 {
        nodes.close(learner);
        written.extend((0..5).map(|_| nodes.write(group, 100)));
        until("the group to rest", || {
            let statuses = voters.map(|node| nodes.replica(node, group).status().wait().ok());
            let rests = statuses.iter().flatten().all(|now| now.is_quiescent);
            let leads = statuses.iter().flatten().any(|now| now.role == Role::Leader);
            (rests && leads).then_some(())
        });
        nodes.open(learner);
        until("the learner to have what it missed", || {
            (applied_by(&nodes, learner) >= last(&written)).then_some(())
        });
    }
    assert_kept(&nodes.local(learner, group), &written);
}
