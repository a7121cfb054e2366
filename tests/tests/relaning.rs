//! Nodes that come back with other numbers of workers, one after the other, while clients write: their logs are moved into as many
//! lanes, nothing that was acknowledged is lost, and leaders have leases again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use raftwerk::{Applied, Engine, GroupId, NodeId, ProposeError};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUPS: u64 = 12;
/// Workers of the node that comes back, round by round; each node has its turn.
const WORKERS: [usize; 6] = [1, 4, 2, 3, 1, 2];

/// The nodes that can be written to, as clients know them.
type Known = Arc<Mutex<BTreeMap<NodeId, Engine>>>;

fn engines(known: &Known) -> Vec<Engine> {
    known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
}

/// Writes to all groups in turns until it is to end; what was acknowledged, by group.
fn write(client: usize, known: &Known, ends: &AtomicBool) -> BTreeMap<GroupId, Vec<(Bytes, Applied)>> {
    let (mut kept, mut at): (BTreeMap<_, Vec<_>>, usize) = (BTreeMap::new(), client);
    let mut group = GroupId(1);
    for number in 0_u64.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let payload: Bytes = format!("client {client} write {number} {}", "x".repeat(150)).into();
        let engines = engines(known);
        match engines[at % engines.len()].group(group).propose(payload.clone()).wait() {
            Ok(applied) => {
                kept.entry(group).or_default().push((payload, applied));
                group = GroupId(1 + group.0 % GROUPS);
            }
            Err(ProposeError::NotLeader { hint }) => {
                let hinted = hint.and_then(|hint| engines.iter().position(|engine| engine.node() == hint));
                at = hinted.unwrap_or(at + 1);
            }
            Err(_) => at += 1,
        }
    }
    kept
}

#[test]
fn logs_move_into_other_lanes_while_clients_write() {
    let workers = Rc::new(Cell::new(2));
    let asked = Rc::clone(&workers);
    let mut nodes = Nodes::start(3, move |config| {
        config.workers = asked.get();
        config.memory_bytes = 1 << 30;
        config.checkpoint_log_bytes = 64 << 10;
    });
    let groups: Vec<GroupId> = (1..=GROUPS).map(GroupId).collect();
    nodes.create(&groups);
    let log = nodes.engine(NodeId(1)).log_id();
    let all = nodes.ids().iter().map(|node| (*node, nodes.engine(*node).clone())).collect();
    let known: Known = Arc::new(Mutex::new(all));
    let ends = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|client| {
            let (known, ends) = (Arc::clone(&known), Arc::clone(&ends));
            thread::spawn(move || write(client, &known, &ends))
        })
        .collect();
    let applied = |nodes: &Nodes| -> u64 {
        nodes.open_ids().map(|node| nodes.engine(node).stats().applied).max().unwrap_or(0)
    };
    for (round, count) in WORKERS.into_iter().enumerate() {
        // With something new in the log each time.
        let before = applied(&nodes);
        until("writes", || (applied(&nodes) > before + 400).then_some(()));
        let node = nodes.ids()[round % 3];
        known.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        nodes.close(node);
        workers.set(count);
        nodes.open(node);
        let engine = nodes.engine(node);
        assert_eq!(engine.groups().wait().unwrap(), groups, "all groups are there");
        assert_eq!((engine.stats().lanes_kept, engine.lanes()), (0, count), "{node} has other lanes");
        known.lock().unwrap_or_else(PoisonError::into_inner).insert(node, engine.clone());
    }
    let before = applied(&nodes);
    until("writes", || (applied(&nodes) > before + 400).then_some(()));
    ends.store(true, Ordering::Relaxed);
    let kept: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client ends")).collect();
    assert_eq!(nodes.engine(NodeId(1)).log_id(), log, "it is the same log");
    for group in &groups {
        nodes.write(*group, 100);
        nodes.assert_equal(*group);
        for of_client in &kept {
            let kept = of_client.get(group).map_or(&[][..], Vec::as_slice);
            assert!(!kept.is_empty(), "{group} was written to");
            nodes.ids().iter().for_each(|node| assert_kept(&nodes.local(*node, *group), kept));
        }
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

/// To keep the number that a directory has is to name it.
#[test]
fn configured_lane_count_stays() {
    let workers = Rc::new(Cell::new(1));
    let asked = Rc::clone(&workers);
    let mut nodes = Nodes::start(1, move |config| (config.workers, config.lanes) = (asked.get(), Some(3)));
    nodes.create(&[GroupId(1)]);
    let written = nodes.write(GroupId(1), 100);
    for count in [4, 2] {
        workers.set(count);
        nodes.close(NodeId(1));
        nodes.open(NodeId(1));
        assert_eq!(nodes.engine(NodeId(1)).lanes(), 3);
        assert!(!nodes.read(GroupId(1)).is_empty());
        assert_kept(&nodes.local(NodeId(1), GroupId(1)), std::slice::from_ref(&written));
    }
}

/// Damage is judged by the usual opening, in the lanes that it is in: the node opens with them, and tells that it has not moved them.
#[test]
fn a_damaged_log_stays_in_its_lanes_and_opens() {
    let workers = Rc::new(Cell::new(1));
    let asked = Rc::clone(&workers);
    let mut nodes = Nodes::start(1, move |config| config.workers = asked.get());
    nodes.create(&[GroupId(1)]);
    for _ in 0..20 {
        nodes.write(GroupId(1), 100);
    }
    let lane = nodes.config(NodeId(1)).data_dir.join("log/lane-0");
    nodes.close(NodeId(1));
    let files =
        std::fs::read_dir(lane).expect("the lane is there").map(|entry| entry.expect("a file").path());
    let first = files.filter(|path| path.extension().is_some_and(|kind| kind == "log")).min();
    let first = first.expect("there is a segment");
    let mut bytes = std::fs::read(&first).expect("it can be read");
    bytes[2 * 4096 + 70] ^= 1;
    std::fs::write(&first, bytes).expect("it can be written");
    workers.set(3);
    nodes.open(NodeId(1));
    let engine = nodes.engine(NodeId(1));
    assert_eq!((engine.lanes(), engine.groups().wait().unwrap()), (1, vec![GroupId(1)]));
    until("the counter", || (engine.stats().lanes_kept == 1).then_some(()));
}
