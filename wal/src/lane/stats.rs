//! A lane's counters since opening, and its current sizes.
//!
//! Not here: the use of the figures, which is the engine's.

use crate::disk::Disk;
use crate::disk::files::AppendMode;
use crate::lane::Lane;
use crate::lane::state::segments::Preparations;

/// A lane's counters since opening, and its current sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneStats {
    /// Completed writes or syncs.
    pub syncs: u64,
    /// Bytes written, padding included.
    pub bytes_synced: u64,
    /// Time spent writing and syncing, in nanoseconds.
    pub sync_nanos: u64,
    /// Batches sealed.
    pub batches: u64,
    /// Probes written ([`Lane::probe`]).
    pub probes: u64,
    /// Batches written without a sync of their own: [`Lane::submit_relaxed`].
    pub relaxed_batches: u64,
    /// Frames appended, metadata frames included.
    pub frames: u64,
    /// Bytes of those frames, without batch headers and padding.
    pub frame_bytes: u64,
    /// Segments in use, the current one included.
    pub segments: usize,
    /// Segments prepared for use.
    pub ready_segments: usize,
    /// Segments created from spare files.
    pub recycled: u64,
    /// Segments created and recycled, and failed preparations by cause.
    pub preparations: Preparations,
    /// Bytes sealed and not yet durable.
    pub queued_bytes: u64,
    /// Bytes of batch buffers, in use or kept for reuse.
    pub buffer_bytes: u64,
    /// Approximate bytes of the index.
    pub index_bytes: u64,
    /// Entries in the index.
    pub index_entries: u64,
    /// Bytes read back from files that readers still hold, in ranges of 1 KiB and more.
    pub pinned_bytes: u64,
    /// Bytes scrubbed ([`Lane::scrub`]).
    pub scrubbed_bytes: u64,
    /// Bytes found damaged while the lane was open, in segments that are still in use.
    pub damaged_bytes: u64,
    /// How appends are written.
    pub mode: AppendMode,
}

impl<D: Disk> Lane<D> {
    /// The lane's counters and sizes.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        LaneStats {
            syncs: self.counters.cost.syncs,
            bytes_synced: self.counters.cost.bytes,
            sync_nanos: self.counters.cost.nanos,
            batches: self.counters.batches,
            probes: self.counters.probes,
            relaxed_batches: self.counters.relaxed_batches,
            frames: self.counters.frames,
            frame_bytes: self.counters.frame_bytes,
            segments: self.segments.in_use.len(),
            ready_segments: self.segments.ready.len(),
            recycled: self.segments.preparations.recycled,
            preparations: self.segments.preparations,
            queued_bytes: self.queue.bytes(),
            buffer_bytes: self.pool.taken_bytes() + self.pool.kept_bytes(),
            index_bytes: self.index_bytes(),
            index_entries: self.pins.entries(),
            pinned_bytes: self.pinned_bytes(),
            scrubbed_bytes: self.scrubbing.bytes,
            damaged_bytes: self.scrubbing.damaged_bytes(),
            mode: self.disk.mode(),
        }
    }
}
