//! Raftwerk: an embeddable, sharded storage engine. Many Raft groups on one log and one wire.
//!
//! Every shard of the data is a Raft group. All groups of a node share one write-ahead log, synced once for
//! all of them, and one QUIC connection per peer. The embedder supplies a [`StateMachine`], or uses the
//! key-value one of [`kv`]; the engine makes proposals durable on a quorum and applies them in the same order
//! on every node.
//!
//! # Quick start
//! One node, one shard. For three nodes, give each the addresses of the others ([`Engine::set_address`], and
//! see `examples/three_nodes.rs`).
//! ```
//! use raftwerk::identity::ClusterAuthority;
//! use raftwerk::kv::{KvMachine, ShardMap, Store};
//! use raftwerk::{Config, Engine, GroupId, NodeId, PeerId, ProposeError};
//! use raftwerk::kv::StoreError;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let identity = ClusterAuthority::new("quick-start")?.issue(PeerId(1))?;
//! let engine = Engine::open(Config::new(NodeId(1), dir, identity), |_group| KvMachine::new()).wait()?;
//! let map = ShardMap::uniform([GroupId(1)])?;
//! let store = Store::create(&engine, &dir.join("shards"), map, &[NodeId(1)]).wait()?;
//!
//! // A group that was just made elects its leader within the blink of an eye.
//! while let Err(StoreError::Propose(ProposeError::NotLeader { .. })) = store.put(b"key", b"value").wait() {}
//! let found = store.get(b"key").wait()?.expect("it was just put there");
//! assert_eq!(&found.value[..], b"value");
//! engine.shutdown().wait()?;
//! # Ok(()) }
//! ```
//!
//! # What a proposal's outcome means
//! `Ok`: durable on a quorum, applied on this node. [`ProposeError::Unknown`]: it may yet be applied; never
//! retry it blindly. Every other error: it certainly was not and will not be applied. For a relaxed proposal
//! `Ok` means less: [`Received`].
//!
//! # Interfaces
//! - [`Group::propose`] and [`Group::read`]: futures that can also be waited for; one allocation each.
//! - [`Pipeline`]: thousands in flight from one thread, submitted and completed in bulk, no allocation per entry.
//! - [`kv::Store`]: keys routed to shards.
//!
//! Consistency levels of reads other than linearizable: [`Consistency`]. Retries that are applied once:
//! [`exactly_once`].
//!
//! Next: `engine/docs/architecture.md` for the crates of the project, `engine/docs/write_path.md` for the
//! path of one write; in the source, `worker` is the central module.

pub use raftwerk_kv as kv;
pub use raftwerk_multiraft::*;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
