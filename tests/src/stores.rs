//! A key-value store on a cluster of engines in one process, whose machines remember their clients.

use std::collections::BTreeMap;
use std::time::Duration;

use raftwerk::exactly_once::ExactlyOnce;
use raftwerk::identity::ClusterAuthority;
use raftwerk::kv::{KvMachine, ShardMap, Store, StoreError};
use raftwerk::{Config, Engine, GroupId, NodeId, PeerId};
use tempfile::TempDir;

use crate::facts::until;
use crate::nodes::leader_among;

/// Nodes 1, 2, …, each with a replica of every shard.
pub struct Stores {
    open: BTreeMap<NodeId, (Engine, Store)>,
    ids: Vec<NodeId>,
    map: ShardMap,
    authority: ClusterAuthority,
    dir: TempDir,
}

impl Stores {
    /// Opens so many nodes with so many shards, and waits until every shard has a leader.
    ///
    /// # Panics
    /// If that does not work.
    #[must_use]
    pub fn start(nodes: u64, shards: u64) -> Self {
        let mut stores = Self {
            open: BTreeMap::new(),
            ids: (1..=nodes).map(NodeId).collect(),
            map: ShardMap::uniform((1..=shards).map(GroupId)).expect("there are shards"),
            authority: ClusterAuthority::new("tests").expect("a name of letters will do"),
            dir: tempfile::tempdir().expect("there is room for temporary files"),
        };
        for node in stores.ids.clone() {
            stores.open(node);
        }
        for group in (1..=shards).map(GroupId) {
            let _leader = stores.leader(group);
        }
        stores
    }

    /// Opens a node, again if it was open before, and introduces it to the others.
    ///
    /// # Panics
    /// If it does not open.
    pub fn open(&mut self, node: NodeId) {
        let identity = self.authority.issue(PeerId(node.0)).expect("certificates can be made");
        let mut config = Config::new(node, self.dir.path().join(node.to_string()), identity);
        config.workers = 2;
        config.segment_bytes = 1 << 20;
        config.payload_bytes_max = 64 << 10;
        let engine = match Engine::open(config, |_| ExactlyOnce::new(KvMachine::new())).wait() {
            Ok(engine) => engine,
            Err(error) => panic!("{node} does not open: {error}"),
        };
        for (other, (theirs, _)) in &self.open {
            theirs.set_address(node, engine.local_addr());
            engine.set_address(*other, theirs.local_addr());
        }
        let path = self.dir.path().join(format!("shards-{node}"));
        let store =
            Store::create(&engine, &path, self.map.clone(), &self.ids).wait().expect("the store can be made");
        self.open.insert(node, (engine, store));
    }

    /// Shuts a node down.
    ///
    /// # Panics
    /// If it is not open.
    pub fn close(&mut self, node: NodeId) {
        self.open
            .remove(&node)
            .expect("only an open node can be closed")
            .0
            .shutdown()
            .wait()
            .expect("it ends");
    }

    /// The store, at an open node.
    ///
    /// # Panics
    /// If it is not open.
    #[must_use]
    pub fn at(&self, node: NodeId) -> &Store {
        &self.open.get(&node).expect("the node is open").1
    }

    /// The stores of all open nodes.
    pub fn all(&self) -> impl Iterator<Item = &Store> {
        self.open.values().map(|(_, store)| store)
    }

    /// A node that leads a shard and has committed something in its term.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> NodeId {
        leader_among(&self.open, |(engine, _)| engine, group)
    }

    /// The open nodes that do not lead a shard.
    #[must_use]
    pub fn followers(&self, group: GroupId) -> Vec<NodeId> {
        let leader = self.leader(group);
        self.open.keys().copied().filter(|node| *node != leader).collect()
    }

    /// Tries at one open node after the other until it works.
    ///
    /// # Panics
    /// If it never does.
    pub fn until_done<T>(&self, what: &str, mut attempt: impl FnMut(&Store) -> Result<T, StoreError>) -> T {
        until(what, || self.all().find_map(|store| attempt(store).ok()))
    }
}

/// Longer than anything should take.
pub const LONG: Duration = Duration::from_secs(20);
