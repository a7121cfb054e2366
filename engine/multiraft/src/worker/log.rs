//! A worker's use of its lane: group commit, unsynced writes, memory, and damage.

pub(crate) mod group_commit;
pub(crate) mod memory;
pub(crate) mod relaxed;
pub(crate) mod scrub;

use raftwerk_frame::Time;

use self::memory::Shortage;
use self::scrub::Scrubbing;

/// Upkeep of a lane: the search for damage, and shortages of memory and of disk space.
pub(in crate::worker) struct LaneUpkeep {
    scrubbing: Scrubbing,
    shortage: Shortage,
    /// The disk has no room, as of the last poll of the lane.
    is_full: bool,
    /// Why no segment can be made, as last reported.
    segment_shortage: Option<raftwerk_wal::Shortage>,
}

impl LaneUpkeep {
    pub(in crate::worker) const fn begin_at(now: Time) -> Self {
        Self {
            scrubbing: Scrubbing::begin_at(now),
            shortage: Shortage::none(),
            is_full: false,
            segment_shortage: None,
        }
    }

    pub(in crate::worker) const fn is_full(&self) -> bool {
        self.is_full
    }
}
