//! Checkpoints, and their transfer to followers that are too far behind.

pub(crate) mod background;
pub(crate) mod checkpointing;
pub(crate) mod chunk;
pub(crate) mod receiving;
pub(crate) mod sending;
pub(crate) mod snapshots;
