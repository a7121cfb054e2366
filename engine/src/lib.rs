//! Raftwerk: an embeddable, sharded storage engine. Many Raft groups on one log and one wire.
//!
//! Being built.

mod config;
mod data_dir;
mod dispatch;
mod engine;
mod error;
mod group;
mod inbox;
mod metric;
mod pipeline;
mod runtime;
mod state_machine;
mod worker;

pub mod kv;

pub use config::Config;
pub use engine::Engine;
pub use error::{CreateError, OpenError, ProposeError, ReadError};
pub use group::{Applied, Group, GroupStatus, Proposal, Read};
pub use metric::EngineStats;
pub use pipeline::{Completion, Pipeline};
pub use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Term};
pub use raftwerk_net::{NetStats, PeerId, identity};
pub use raftwerk_raft::Role;
pub use state_machine::{Checkpoint, Committed, CommittedEntry, Replies, StateMachine, StateMachines};
