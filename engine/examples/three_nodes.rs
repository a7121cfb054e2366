//! Three nodes in one process, a key-value store on eight shards, and a leader that fails in the middle.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;

use raftwerk::identity::ClusterAuthority;
use raftwerk::kv::{KvMachine, ShardMap, Store};
use raftwerk::{Config, Engine, GroupId, NodeId, PeerId};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let authority = ClusterAuthority::new("example")?;
    let open = |node: NodeId| -> Result<Engine, Box<dyn Error>> {
        let identity = authority.issue(PeerId(node.0))?;
        Ok(Engine::open(Config::new(node, dir.path().join(node.to_string()), identity), |_| KvMachine::new())
            .wait()?)
    };
    let mut engines: Vec<Engine> = NODES.into_iter().map(open).collect::<Result<_, _>>()?;
    introduce(&engines);

    let map = ShardMap::uniform((1..=8).map(GroupId))?;
    let mut stores = Vec::new();
    for engine in &engines {
        let path = dir.path().join(format!("shards-{}", engine.node()));
        stores.push(Store::create(engine, &path, map.clone(), &NODES).wait()?);
    }
    for number in 0..100u32 {
        put(&stores, &number.to_be_bytes(), b"before");
    }
    println!("100 keys are on three nodes");

    let gone = leader_of(&engines[0], GroupId(1));
    let at = NODES.iter().position(|node| *node == gone).ok_or("a leader is one of the three")?;
    engines.remove(at).shutdown().wait()?;
    stores.remove(at);
    println!("{gone} led the first shard; it is gone");

    for number in 0..100u32 {
        put(&stores, &number.to_be_bytes(), b"after");
    }
    println!("the other two have taken 100 more writes");

    let back = open(gone)?;
    stores.push(Store::open(&back, Path::new(&dir.path().join(format!("shards-{gone}")))).wait()?);
    engines.push(back);
    introduce(&engines);
    for number in 0..100u32 {
        assert_eq!(get(&stores, &number.to_be_bytes()).as_deref(), Some(&b"after"[..]));
    }
    println!("{gone} is back, and every key reads as it was last written");
    Ok(())
}

/// Gives every node the addresses of the others.
fn introduce(engines: &[Engine]) {
    for one in engines {
        for other in engines.iter().filter(|other| other.node() != one.node()) {
            one.set_address(other.node(), other.local_addr());
        }
    }
}

fn leader_of(engine: &Engine, group: GroupId) -> NodeId {
    loop {
        if let Some(leader) = engine.group(group).status().wait().ok().and_then(|status| status.leader) {
            return leader;
        }
        std::thread::yield_now();
    }
}

/// Tries one node after another until the leader of the key's shard has acknowledged the write. A put may be
/// repeated even after an unknown outcome: it ends in the same state.
fn put(stores: &[Store], key: &[u8], value: &[u8]) {
    while !stores.iter().any(|store| store.put(key, value).wait().is_ok()) {
        std::thread::yield_now();
    }
}

fn get(stores: &[Store], key: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(found) = stores.iter().find_map(|store| store.get(key).wait().ok()) {
            return found.map(|found| found.value.to_vec());
        }
        std::thread::yield_now();
    }
}
