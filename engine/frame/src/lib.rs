//! Floor 0 of Raftwerk: the types and byte formats that all crates share.
//!
//! Ids and positions ([`NodeId`], [`GroupId`], [`EntryId`] …), the entry [`frame`](mod@frame) that is the same bytes
//! in the leader's log, on the wire and in a follower's log, the [`Message`]s of the protocol as fixed-size
//! [`wire`] records, the [`Configuration`] of a group, and the [`codec`] of everything without a fixed layout.
//!
//! What is not here: I/O, time sources, allocation on a hot path, unsafe code. Next: `raftwerk-raft` for the
//! protocol, `raftwerk-wal` for the log, `raftwerk-net` for the wire.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod codec;
mod configuration;
pub mod frame;
mod id;
mod message;
mod node_heartbeat;
mod time;
pub mod wire;

pub use configuration::{Configuration, ConfigurationError, Logs, Membership, Witnesses};
pub use id::{EntryId, GroupId, Index, LogId, NodeId, Term};
pub use message::{HardState, Message, Run};
pub use node_heartbeat::{NODE_HEARTBEAT_BYTES, NodeHeartbeat};
pub use time::Time;
