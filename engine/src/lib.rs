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

mod api;
mod codec;
pub mod exactly_once;
pub mod kv;
mod node;
mod worker;

pub use self::node::manual as drive;
pub use api::call::Call;
pub use api::config::Config;
pub use api::config::machine::Machine;
pub use api::consistency::{Consistency, ReadOptions};
pub use api::engine::{Engine, EngineBuilder, NodeHandle};
pub use api::error::{
    AcceptLossError, CreateError, OpenError, ProposeError, ReadError, ReconfigureError, ReplaceError,
    ReplicaError, ReviveError, ShutdownError, TransferError,
};
pub use api::group::Group;
pub use api::membership::initial_members::InitialMembers;
pub use api::membership::reconfiguration::Reconfiguration;
pub use api::pipeline::Pipeline;
pub use api::session::{Session, SessionError};
pub use api::state_machine::{
    Checkpoint, Committed, CommittedEntry, Frozen, Replies, StateMachine, StateMachines,
};
pub use api::stats::EngineStats;
pub use api::status::{Applied, FrozenState, GroupStatus, Loss, Quarantine, ReadAnswer, Received};
pub use codec::DecodeError;
pub use node::events::{Condition, Event, OnEvent, SLOW_SYNC};
pub use node::submission::{Completion, Outcome};
pub use raftwerk_frame::{Configuration, EntryId, GroupId, Index, Membership, NodeId, Term};
pub use raftwerk_net::{NetError, NetStats, PeerError, PeerId, WireVersion, identity};
pub use raftwerk_raft::reconfig::{Change, ChangeError};
pub use raftwerk_raft::{
    Admission, NewcomerStatus, PRIORITY_MAX, PeerState, PeerStatus, Refusal, Role, Transition, Unfit,
};
pub use raftwerk_wal::{AppendMode, Shortage};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
