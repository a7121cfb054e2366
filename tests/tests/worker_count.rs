//! A directory is opened with any number of workers: its lanes, and the groups in them, stay what they are; how many threads
//! they share is not written anywhere.

use std::cell::Cell;
use std::rc::Rc;

use raftwerk::{GroupId, NodeId};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const NODE: NodeId = NodeId(7);

/// The threads of a node's workers.
fn threads(node: NodeId) -> usize {
    let own = format!("raftwerk-{node}-");
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads can be listed");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    // A name is kept to 15 bytes.
    tasks.filter_map(name).filter(|name| own.starts_with(name.trim_end()) || name.starts_with(&own)).count()
}

#[test]
fn groups_keep_their_lanes_when_the_worker_count_changes() {
    let workers = Rc::new(Cell::new(3));
    let asked = Rc::clone(&workers);
    let mut nodes = Nodes::start(3, move |config| {
        (config.workers, config.lanes) = (asked.get(), Some(4));
        config.memory_bytes = 1 << 30;
    });
    let groups: Vec<GroupId> = (1..=24).map(GroupId).collect();
    nodes.create(&groups);
    let mut written = vec![Vec::new(); groups.len()];
    let log = nodes.engine(NodeId(1)).log_id();
    for (round, count) in [3, 1, 8, 2].into_iter().enumerate() {
        if round > 0 {
            workers.set(count);
            for node in nodes.ids().to_vec() {
                nodes.close(node);
                nodes.open(node);
            }
        }
        for node in nodes.ids() {
            assert_eq!(nodes.engine(*node).groups().wait().unwrap(), groups, "{count} workers");
            assert_eq!(threads(*node), count.min(4), "{count} workers share four lanes");
        }
        for (group, written) in groups.iter().zip(&mut written) {
            written.push(nodes.write(*group, 100));
        }
    }
    assert_eq!(nodes.engine(NodeId(1)).log_id(), log);
    for (group, written) in groups.iter().zip(&written) {
        nodes.assert_equal(*group);
        assert_kept(&nodes.local(NodeId(1), *group), written);
    }
    assert_eq!(threads(NODE), 0);
    // Whoever shares a thread closes with it.
    for node in nodes.ids().to_vec() {
        nodes.close(node);
        until("its threads to end", || (threads(node) == 0).then_some(()));
    }
}
