//! Floor 0 of Raftwerk: the types and byte formats that all crates share.
//!
//! Ids and positions ([`NodeId`], [`GroupId`], [`EntryId`] …), the entry [`frame`](mod@frame) that is the same bytes
//! in the leader's log, on the wire and in a follower's log, the [`Message`]s of the protocol as fixed-size
//! [`wire`] records, the [`Configuration`] of a group, and the [`codec`] of everything without a fixed layout.
//!
//! # Example
//! An entry is framed once, and every node reads the same bytes back.
//! ```
//! use raftwerk_frame::frame::{Entries, EntryKind, FrameWriter, parse};
//! use raftwerk_frame::{EntryId, GroupId, Index, Term};
//!
//! let (mut bytes, first) = ([0; 256], EntryId::new(Term(3), Index(7)));
//! let mut writer = FrameWriter::new(&mut bytes, GroupId(1), first).expect("a header fits");
//! assert!(writer.push(EntryKind::Payload, b"hello"));
//! let written = writer.finish().expect("the frame has an entry");
//!
//! let (header, body) = parse(&bytes).expect("both checksums match");
//! assert_eq!(header, written);
//! let entry = Entries::new(&header, body).next().expect("the frame has an entry");
//! assert_eq!((entry.id, entry.payload), (first, &b"hello"[..]));
//! ```
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
