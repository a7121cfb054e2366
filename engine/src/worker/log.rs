//! A worker's use of its lane: unsynced writes, memory, and damage.

pub(crate) mod memory;
pub(crate) mod relaxed;
pub(crate) mod scrub;
