//! Quarantine: the status of a replica whose state machine has panicked, and its recovery.

use raftwerk_frame::Index;

/// A replica without a state: its machine panicked while it applied an entry, or while it was made. The
/// replica still votes and keeps its log; it leads only until another voter can, and it answers neither reads
/// nor proposals. Other groups of its node are not affected.
///
/// It recovers with a new state: by a snapshot of its leader, which is sent when its log has grown to four
/// times [`Config::checkpoint_log_bytes`](crate::Config), by [`Engine::revive`](crate::Engine::revive), or by
/// another opening of the node. The latter two apply the same entries again, so they help where the entry was
/// not the cause, or where the machine's code has changed since. An entry that makes every machine panic
/// stops its group on every node, until the code is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// The last entry that the machine had applied.
    pub applied: Index,
    /// The panic message.
    pub what: String,
    /// It is recovering: the entries applied before are being applied to a new machine.
    pub is_replaying: bool,
}

/// Why a replica could not be revived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReviveError {
    /// Its machine has not panicked, or it is already recovering.
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
