//! Liveness of nodes: support between workers, the disk's health, and the handshake of logs.

pub(crate) mod abstention;
pub(crate) mod disk_health;
pub(crate) mod handshakes;
pub(crate) mod nodes;
pub(crate) mod support;
