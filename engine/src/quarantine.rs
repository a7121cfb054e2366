//! A replica whose state machine has panicked: what is told of it, and the way back.

use raftwerk_frame::Index;

/// A replica without a state: its machine panicked while it applied an entry, or while it was made. The replica goes on voting and
/// keeping its log; it leads only until somebody else can, and it answers neither reads nor proposals. Everything else on its node
/// goes on as before.
///
/// The way back is a state: a snapshot of its leader, which it is sent when its log has grown to four times
/// [`Config::checkpoint_log_bytes`](crate::Config), or [`Engine::revive`](crate::Engine::revive), or another opening of the node.
/// The latter two apply the same entries again, so they help where the reason was not the entry, or where the machine's code
/// is another since. An entry that every machine panics at stops its group on every node, until the code is another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// The last entry that the machine had seen.
    pub applied: Index,
    /// What the panic said.
    pub what: String,
    /// It is on the way back: what was applied before is being applied to a new machine.
    pub is_replaying: bool,
}

/// Why a replica could not be revived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReviveError {
    /// Its machine has not panicked, or it is on the way back already.
    #[error("the replica is not in quarantine")]
    None,
    /// The new machine panicked, or could not take its checkpoint; the replica stays in quarantine.
    #[error("no new machine could be made: {0}")]
    Machine(String),
    /// This node has no such group.
    #[error("there is no such group on this node")]
    NoSuchGroup,
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}
