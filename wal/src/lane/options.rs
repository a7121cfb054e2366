//! The limits of a lane, and its reaction to damage.

use std::time::Duration;

use raftwerk_frame::Configuration;
use raftwerk_frame::frame::{ENTRY_OVERHEAD_BYTES, HEADER_BYTES};

use crate::error::OpenError;
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::segment::PAGE_BYTES;

/// The limits of a lane. All sizes in bytes.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// Which lane of the directory, counted from 0 whatever the lane numbers on disk. Default 0.
    pub lane: u16,
    /// The length of a new segment file: a multiple of 4 KiB from 16 KiB to 1 GiB. Default 64 MiB.
    pub segment_bytes: u64,
    /// Soft limit on the bytes of one turn; see [`Lane::turn_budget`](crate::Lane::turn_budget). Default 4
    /// MiB.
    pub batch_bytes_max: usize,
    /// A turn that has appended this much is submitted in parts while it goes on. Default 512 KiB.
    pub stream_bytes: usize,
    /// The longest frame, header included. It must fit into a segment, and the largest configuration into it:
    /// at least 2,107 bytes. Default 1 MiB.
    pub frame_bytes_max: usize,
    /// The bytes that may wait for the device before [`Lane::turn_budget`](crate::Lane::turn_budget) returns
    /// 0. Default 16 MiB.
    pub queue_bytes_max: usize,
    /// How many segments to keep READY. Default 2.
    pub ready_segments: usize,
    /// How many freed segments to keep for reuse. Default 4.
    pub spare_segments: usize,
    /// Memory for the latest batches, from which entries are applied and sent. Default 16 MiB.
    pub recent_bytes: usize,
    /// As much memory as this is used for them while reads go further back than that: what is not in memory
    /// is read from the file, which blocks. Default 128 MiB, and at most an eighth of `memory_bytes`.
    pub recent_bytes_max: usize,
    /// Memory for buffers, index and bytes held by readers: see the head of `lane::memory`. The latest
    /// batches, and everything else, are part of this budget. Default: unlimited; at least 1 MiB.
    pub memory_bytes: u64,
    /// When the files hold more than this, the live part of groups with little in the log is relocated to its
    /// end, so that they do not pin old segments; those with more are named
    /// ([`Lane::pinning`](crate::Lane::pinning)). Default 1 GiB.
    pub log_bytes_max: u64,
    /// The age, counted from when a segment was full, at which it is to be freed, however little the log
    /// holds: groups with little in it are relocated, those with more are named
    /// ([`Lane::pinning`](crate::Lane::pinning)). For existing segments, counted from opening. Default:
    /// never. Live data is rewritten about once in this time, so values far below minutes are costly.
    pub age_max: Option<Duration>,
    /// The reaction to damage of durable data. Default: refuse.
    pub on_damage: OnDamage,
}

/// The reaction at opening to bytes that were once durable and are damaged or gone. In no case is anything
/// cut off silently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// The lane does not open: [`OpenError::Corrupt`].
    #[default]
    Refuse,
    /// The lane opens with the rest and reports the damage
    /// ([`RecoveryReport::damage`](crate::RecoveryReport::damage)). Every group that may have lost something
    /// is fenced ([`RecoveredGroup::fence`](crate::RecoveredGroup::fence)): its replica must neither vote nor
    /// campaign until its log holds an entry of a later term, replicated by a leader that was elected without
    /// it.
    Fence,
}

const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The frame of the largest configuration: a leader appends it whatever its length, and its followers must
/// not refuse it.
const FRAME_BYTES_MAX_MIN: usize = HEADER_BYTES + ENTRY_OVERHEAD_BYTES + Configuration::BYTES_MAX;
const _: () = assert!(SEGMENT_BYTES_MAX <= u32::MAX as u64, "an offset in a segment fits a place");
const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(PAGE_BYTES as u64), "a segment is whole pages");
const _: () = assert!(
    SEGMENT_BYTES_MIN as usize / 4 >= BATCH_HEADER_BYTES + FRAME_BYTES_MAX_MIN,
    "the reserve of the smallest segment holds a frame"
);

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            lane: 0,
            segment_bytes: 64 << 20,
            batch_bytes_max: 4 << 20,
            stream_bytes: 512 << 10,
            frame_bytes_max: 1 << 20,
            queue_bytes_max: 16 << 20,
            ready_segments: 2,
            spare_segments: 4,
            recent_bytes: 16 << 20,
            recent_bytes_max: 128 << 20,
            memory_bytes: u64::MAX,
            log_bytes_max: 1 << 30,
            age_max: None,
            on_damage: OnDamage::Refuse,
        }
    }
}

impl LaneOptions {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let bad = |what| Err(OpenError::Options(what));
        if !self.segment_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return bad("segment_bytes must be a multiple of 4 KiB");
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return bad("segment_bytes must be from 16 KiB to 1 GiB");
        }
        let bytes_left = self.segment_bytes as usize - PAGE_BYTES - BATCH_HEADER_BYTES;
        if !(FRAME_BYTES_MAX_MIN..=bytes_left).contains(&self.frame_bytes_max) {
            return bad("frame_bytes_max must hold any configuration (2,107 bytes), and fit into a segment");
        }
        if self.memory_bytes < 1 << 20 {
            return bad("memory_bytes must be at least 1 MiB");
        }
        if self.age_max.is_some_and(|age| age.is_zero()) {
            return bad("age_max must not be zero");
        }
        if self.ready_segments == 0 || self.batch_bytes_max == 0 || self.queue_bytes_max == 0 {
            return bad("ready_segments, batch_bytes_max and queue_bytes_max must not be 0");
        }
        Ok(())
    }
}
