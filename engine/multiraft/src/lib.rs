//! Many Raft groups on one node: the handles that callers hold, the node that is made of workers, and the
//! worker, which owns one lane of the log and its groups.
//!
//! [`Engine`] is a node with threads, files and connections; [`drive::Node`] is the same node in an
//! environment of its owner. What they have in common is [`NodeHandle`]. The crate `raftwerk` re-exports all
//! of this, beside the key-value machine; embedders depend on that one.
//! ```
//! # use raftwerk_multiraft as raftwerk;
//! use raftwerk::identity::ClusterAuthority;
//! use raftwerk::{Checkpoint, Committed, Engine, GroupId, NodeId, PeerId, Replies, StateMachine};
//!
//! /// Counts entries.
//! struct Count(u64);
//!
//! impl StateMachine for Count {
//!     fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
//!         for entry in entries {
//!             self.0 += 1;
//!             replies.push(entry.index, self.0.to_le_bytes().to_vec());
//!         }
//!     }
//!     fn query(&self, _query: &[u8]) -> bytes::Bytes {
//!         self.0.to_le_bytes().to_vec().into()
//!     }
//!     fn checkpoint(&self) -> Checkpoint {
//!         let count = self.0.to_le_bytes();
//!         Box::new(move |out| out.write_all(&count))
//!     }
//!     fn restore(&mut self, image: &mut dyn std::io::Read) -> std::io::Result<()> {
//!         let mut count = [0; 8];
//!         image.read_exact(&mut count)?;
//!         self.0 = u64::from_le_bytes(count);
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let identity = ClusterAuthority::new("count")?.issue(PeerId(1))?;
//! let engine = Engine::builder(NodeId(1), dir).identity(identity).open(|_group| Count(0)).wait()?;
//! let group = engine.create_group(GroupId(1), &[NodeId(1)]).wait()?;
//! let applied = loop {
//!     // A new group has no leader yet.
//!     if let Ok(applied) = group.propose("one").wait() {
//!         break applied;
//!     }
//! };
//! assert_eq!(applied.reply, 1_u64.to_le_bytes()[..]);
//! engine.shutdown().wait()?;
//! # Ok(()) }
//! ```
//!
//! Next: `worker` is the central module.

mod api;
pub mod exactly_once;
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
    Caller, Checkpoint, Committed, CommittedEntry, Frozen, Replies, StateMachine, StateMachines,
};
pub use api::stats::EngineStats;
pub use api::stats::stages::{Durations, WriteStages};
pub use api::status::{Applied, FrozenState, GroupStatus, Loss, Quarantine, ReadAnswer, Received};
pub use node::events::{Condition, Event, OnEvent, SLOW_SYNC};
pub use node::submission::{Completion, Outcome};
pub use raftwerk_frame::codec::DecodeError;
pub use raftwerk_frame::{Configuration, EntryId, GroupId, Index, Membership, NodeId, Term};
pub use raftwerk_net::{NetError, NetStats, PeerError, PeerId, WireVersion, identity};
pub use raftwerk_raft::reconfig::{Change, ChangeError};
pub use raftwerk_raft::{
    Admission, NewMemberStatus, PRIORITY_MAX, PeerState, PeerStatus, Refusal, Role, TransferRefusal,
    Transition,
};
pub use raftwerk_wal::{AppendMode, Shortage};
