//! A worker's use of its lane: group commit, unsynced writes, memory, and damage.

pub(crate) mod group_commit;
pub(crate) mod memory;
pub(crate) mod relaxed;
pub(crate) mod scrub;
