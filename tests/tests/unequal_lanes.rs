//! Nodes whose logs have different numbers of lanes lose nothing by it: their groups rest, and their leaders have leases.

use raftwerk::GroupId;
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::Nodes;

/// Promises are between lanes that have groups in common, however many each node has.
#[test]
fn nodes_with_other_numbers_of_lanes_support_each_other() {
    let nodes = Nodes::start(3, |config| {
        let lanes = config.node.0 as usize; // one, two and three
        (config.workers, config.lanes) = (lanes, Some(lanes));
        config.memory_bytes = 1 << 30;
    });
    let groups: Vec<GroupId> = (1..=12).map(GroupId).collect();
    nodes.create(&groups);
    for group in &groups {
        nodes.write(*group, 10);
    }
    for group in groups {
        let engine = nodes.engine(nodes.leader(group));
        let before = engine.stats().leased_reads;
        until("a read by lease", || {
            assert!(!nodes.read(group).is_empty());
            (engine.stats().leased_reads > before).then_some(())
        });
    }
}
