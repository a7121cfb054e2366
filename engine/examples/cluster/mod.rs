//! Shared by the examples with a cluster: three nodes in this process, with a store whose groups detect
//! repeated writes, and nodes that fail and restart in the middle.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raftwerk::exactly_once::ExactlyOnce;
use raftwerk::identity::ClusterAuthority;
use raftwerk::kv::{KvMachine, ShardMap, Store, StoreError};
use raftwerk::{Config, Engine, GroupId, NodeId, PeerId};
use tempfile::TempDir;

pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// Three nodes, one shard.
pub(crate) struct Cluster {
    open: Mutex<BTreeMap<NodeId, (Engine, Store)>>,
    authority: ClusterAuthority,
    dir: TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let authority = ClusterAuthority::new("example")?;
        let cluster = Self { open: Mutex::default(), authority, dir: tempfile::tempdir()? };
        NODES.into_iter().try_for_each(|node| cluster.open(node))?;
        Ok(cluster)
    }

    /// Opens a node, and exchanges its address and those of the others.
    pub(crate) fn open(&self, node: NodeId) -> Result<(), Box<dyn Error>> {
        let identity = self.authority.issue(PeerId(node.0))?;
        let config = Config::new(node, self.dir.path().join(node.to_string()), identity);
        let engine = Engine::open(config, |_| ExactlyOnce::new(KvMachine::new())).wait()?;
        let mut open = self.held();
        for (other, (theirs, _)) in &*open {
            theirs.set_address(node, engine.local_addr());
            engine.set_address(*other, theirs.local_addr());
        }
        let map = ShardMap::uniform([GroupId(1)])?;
        let store =
            Store::create(&engine, &self.dir.path().join(format!("shards-{node}")), map, &NODES).wait()?;
        open.insert(node, (engine, store));
        Ok(())
    }

    /// Closes the leader's node, with everything in flight there.
    #[allow(dead_code, reason = "not every example loses nodes")]
    pub(crate) fn lose_leader(&self) -> NodeId {
        loop {
            let mut open = self.held();
            let leads = |engine: &Engine| engine.group(GroupId(1)).status().wait().ok()?.leader;
            let leader = open.values().find_map(|(engine, _)| leads(engine));
            if let Some((engine, _)) = leader.and_then(|leader| open.remove(&leader)) {
                drop(open);
                engine.shutdown().wait().expect("no machine or disk hangs");
                return engine.node();
            }
            drop(open);
            std::thread::yield_now();
        }
    }

    /// The stores of the running nodes.
    pub(crate) fn stores(&self) -> Vec<Store> {
        self.held().values().map(|(_, store)| store.clone()).collect()
    }

    /// Tries one node after another until it succeeds. For idempotent calls only.
    pub(crate) fn anywhere<T>(&self, mut attempt: impl FnMut(&Store) -> Result<T, StoreError>) -> T {
        loop {
            if let Some(done) = self.stores().iter().find_map(|store| attempt(store).ok()) {
                return done;
            }
            std::thread::yield_now();
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Engine, Store)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
