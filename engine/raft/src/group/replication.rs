//! Replication of the log: the leader's half, the follower's half, and snapshots for peers that are too far behind.

pub(super) mod follower;
pub(super) mod leader;
pub(super) mod log;
pub(super) mod progress;
pub(super) mod snapshot;
pub(super) mod uncommitted;
