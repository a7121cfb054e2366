//! What a write allocates, counted: no entry costs an allocation of its own, on any of three nodes, nor at the client.
//!
//! The count is of the whole process, in rounds of thousands of entries, after rounds that let buffers grow. What batches,
//! messages and packets allocate is in it, and is shared by their entries.

use std::alloc::System;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use raftwerk::identity::{ClusterAuthority, Identity};
use raftwerk::{
    Checkpoint, Committed, Completion, Config, Engine, GroupId, NodeId, PeerId, Replies, Role, StateMachine,
};
use raftwerk_tests::facts::until;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATIONS: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const GROUPS: u64 = 4;
const NODES: u64 = 3;
const ENTRIES: u64 = 4_096;
const ROUNDS: u64 = 12;

/// Counts its entries and their bytes.
#[derive(Default)]
struct Counts {
    entries: u64,
    bytes: u64,
}

impl StateMachine for Counts {
    fn apply(&mut self, entries: Committed<'_>, _replies: &mut Replies) {
        for entry in entries {
            self.entries += 1;
            self.bytes += entry.payload.len() as u64;
        }
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.entries.to_le_bytes())
    }

    fn checkpoint(&self) -> Checkpoint {
        let image = [self.entries, self.bytes].map(u64::to_le_bytes).concat();
        Box::new(move |out| out.write_all(&image))
    }

    fn restore(&mut self, image: &mut dyn std::io::Read) -> std::io::Result<()> {
        let (mut entries, mut bytes) = ([0; 8], [0; 8]);
        image.read_exact(&mut entries)?;
        image.read_exact(&mut bytes)?;
        *self = Self { entries: u64::from_le_bytes(entries), bytes: u64::from_le_bytes(bytes) };
        Ok(())
    }

    fn digest(&self) -> u64 {
        self.entries ^ self.bytes.rotate_left(32)
    }
}

fn open(directory: &Path, node: u64, identity: Identity) -> Engine {
    let mut config = Config::new(NodeId(node), directory.join(format!("n{node}")), identity);
    (config.workers, config.election_timeout) = (1, Duration::from_secs(2));
    // No checkpoint comes into the count.
    config.checkpoint_log_bytes = 1 << 40;
    Engine::open(config, |_group| Counts::default()).wait().expect("the node opens")
}

/// The nodes, each with a replica of each group, all led by the first.
fn cluster(directory: &Path) -> Vec<Engine> {
    let authority = ClusterAuthority::new("allocations").expect("a name of letters will do");
    let issue = |node| authority.issue(PeerId(node)).expect("certificates can be made");
    let nodes: Vec<Engine> = (1..=NODES).map(|node| open(directory, node, issue(node))).collect();
    let members: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
    for one in &nodes {
        for (node, other) in members.iter().zip(&nodes) {
            one.set_address(*node, other.local_addr());
        }
    }
    for one in &nodes {
        for group in 1..=GROUPS {
            one.create_group(GroupId(group), &members).wait().expect("the group is new");
        }
    }
    for group in (1..=GROUPS).map(|group| nodes[0].group(GroupId(group))) {
        until("the first node leads", || {
            let status = group.status().wait().expect("the replica is there");
            if let Some(leader) = status.leader.filter(|leader| *leader != NodeId(1)) {
                // Refused while it has only just begun to lead.
                let _ = nodes[leader.0 as usize - 1].group(group.id()).transfer_leadership(NodeId(1)).wait();
            }
            (status.role == Role::Leader).then_some(())
        });
    }
    nodes
}

/// Proposes the round's entries, and waits until all are applied at the leader.
fn round(pipeline: &mut raftwerk::Pipeline, done: &mut Vec<Completion>, payload: &[u8]) {
    for token in 0..ENTRIES {
        pipeline.propose(GroupId(1 + token % GROUPS), token, payload).expect("there is room in flight");
    }
    pipeline.flush();
    until("the round's completions", || {
        pipeline.wait(Duration::from_millis(100));
        pipeline.take(done);
        (pipeline.in_flight() == 0).then_some(())
    });
    assert!(done.drain(..).all(|one| one.outcome.is_ok()), "nothing is in the way of a write here");
}

#[test]
fn no_entry_costs_an_allocation_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = cluster(directory.path());
    let mut pipeline = nodes[0].pipeline(ENTRIES as usize);
    let mut done = Vec::with_capacity(ENTRIES as usize);
    for bytes in [16, 128, 1024] {
        let payload = vec![7; bytes];
        for _ in 0..ROUNDS {
            round(&mut pipeline, &mut done, &payload);
        }
        let region = Region::new(ALLOCATIONS);
        for _ in 0..ROUNDS {
            round(&mut pipeline, &mut done, &payload);
        }
        let change = region.change();
        let of_an_entry = (change.allocations + change.reallocations) as f64 / (ROUNDS * ENTRIES) as f64;
        println!("{bytes} B: {of_an_entry:.4} allocations an entry, on {NODES} nodes and at the client");
        // One that every entry costs, anywhere, is 1.
        assert!(of_an_entry < 0.5, "{bytes} B: {of_an_entry} allocations an entry: {change:?}");
    }
    for one in nodes {
        one.shutdown().wait().expect("the node ends");
    }
}
