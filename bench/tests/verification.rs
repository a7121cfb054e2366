//! Loss is noticed by the real thing: real engines, real logs and QUIC, a real ledger, and acknowledgements that are
//! forged. The ledgers' own tests use made-up replicas.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::path::Path;
use std::time::Duration;

use raftwerk::{Completion, EntryId, GroupId, Index, Outcome, ProposeError, Term};
use raftwerk_bench::cluster::control::{NodeControl, NodeSettings};
use raftwerk_bench::cluster::local::LocalNode;
use raftwerk_bench::cluster::verify::{Verification, verify};
use raftwerk_bench::ledger::{MachineKind, Subject, Write};
use raftwerk_bench::port::{LocalPort, NodePort};
use raftwerk_bench::workload::KeyNumber;
use raftwerk_net::PeerId;
use raftwerk_net::identity::write_cluster;

const GROUPS: u32 = 4;
const KEYS: u32 = 40;
/// Guards against hanging; nothing is expected to take so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(folder: &Path, is_hash: bool) -> Vec<LocalNode> {
    let peers: Vec<PeerId> = (1..=3).map(PeerId).collect();
    write_cluster(&folder.join("certificates"), "test", &peers).unwrap();
    let settings = |node: u64| NodeSettings {
        node,
        data_dir: folder.join(format!("n{node}")),
        identity_dir: folder.join("certificates").join(PeerId(node).to_string()),
        socket: folder.join("unused"),
        is_hash,
        sync: true,
        workers: 1,
        lanes: None,
        checkpoint_log_bytes: 64 << 20,
        seed: node,
        in_flight_max: 64,
    };
    let mut nodes: Vec<LocalNode> = (1..=3).map(|node| LocalNode::start(settings(node)).unwrap()).collect();
    let addresses: Vec<_> = nodes.iter().map(LocalNode::address).collect();
    for (at, node) in nodes.iter_mut().enumerate() {
        for (other, address) in addresses.iter().enumerate().filter(|(other, _)| *other != at) {
            node.set_address(other as u64 + 1, *address).unwrap();
        }
        node.create_groups(GROUPS, 3).unwrap();
    }
    nodes
}

fn attempt(ports: &mut [Option<LocalPort>], node: usize, group: GroupId, payload: &[u8]) -> Completion {
    let mut done = Vec::new();
    ports[node].as_mut().unwrap().submit(group, 0, payload).unwrap();
    while done.is_empty() {
        ports[node].as_mut().unwrap().flush();
        LocalPort::wait_any(&mut ports[node..=node], PATIENCE);
        ports[node].as_mut().unwrap().take(&mut done);
    }
    done.remove(0)
}

/// Writes each key once, at whichever node leads; every attempt is a write of its own.
fn write_all(nodes: &mut [LocalNode], subject: &mut Subject) -> Write {
    let mut ports: Vec<_> = nodes.iter_mut().map(|node| Some(node.port().unwrap())).collect();
    let mut write = Write::default();
    for key in (0..KEYS).map(KeyNumber) {
        for node in (0..ports.len()).cycle() {
            write = Write { group: subject.group_of(key), key, counter: write.counter + 1 };
            let payload = subject.payload(&write).to_vec();
            match attempt(&mut ports, node, GroupId(u64::from(write.group) + 1), &payload).outcome {
                Outcome::Proposal(Ok(applied)) => {
                    subject.acknowledged(&write, applied.id);
                    break;
                }
                Outcome::Proposal(Err(ProposeError::Unknown)) => subject.unknown(&write),
                _ => {}
            }
        }
    }
    write
}

fn forged(kind: MachineKind) -> (Verification, Verification) {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = start(folder.path(), kind == MachineKind::Hash);
    let mut subject = Subject::new(kind, GROUPS, KEYS, 16);
    let last = write_all(&mut nodes, &mut subject);
    let honest = verify(&mut nodes, GROUPS, &mut subject, PATIENCE);
    // As if a node had acknowledged what never became an entry.
    let key = KeyNumber(7);
    let never = Write { group: subject.group_of(key), key, counter: last.counter + 1 };
    subject.acknowledged(&never, EntryId::new(Term(99), Index(1_000_000)));
    let deceived = verify(&mut nodes, GROUPS, &mut subject, PATIENCE);
    nodes.into_iter().for_each(LocalNode::stop);
    (honest, deceived)
}

#[test]
fn an_acknowledged_write_that_no_replica_has_is_reported_lost() {
    for kind in [MachineKind::Kv, MachineKind::Hash] {
        let (honest, deceived) = forged(kind);
        assert_eq!(honest, Verification { lost: 0, replicas_agree: true, errors: Vec::new() }, "{kind:?}");
        assert_eq!((deceived.lost, deceived.replicas_agree), (1, true), "{kind:?}");
    }
}

#[test]
fn a_replica_that_was_written_to_behind_raft_disagrees() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = start(folder.path(), false);
    let mut subject = Subject::new(MachineKind::Kv, GROUPS, KEYS, 16);
    write_all(&mut nodes, &mut subject);
    let mut others = start(&folder.path().join("another cluster"), false);
    let mut elsewhere = Subject::new(MachineKind::Kv, GROUPS, KEYS, 24);
    write_all(&mut others, &mut elsewhere);
    // A replica of another cluster in place of one of this.
    let (stranger, own) = (others.remove(0), nodes.remove(2));
    nodes.push(stranger);
    let found = verify(&mut nodes, GROUPS, &mut subject, Duration::from_millis(1));
    assert!(!found.replicas_agree && found.lost > 0, "{found:?}");
    nodes.into_iter().chain(others).chain([own]).for_each(LocalNode::stop);
}
