//! Admission: how many bytes of entries a lane accepts in this turn, and for how many its reserved space
//! suffices.
//!
//! A full disk is a state. It is detected when the next segment is to be made, while the existing ones still
//! have space; their end is reserved for metadata frames, so that votes, membership changes and compaction,
//! which frees space, go on. Not here: memory (`lane::memory`), and what frees space (`lane::retention`).

use crate::disk::Disk;
use crate::format::batch::BatchInProgress;
use crate::format::segment::PAGE_BYTES;
use crate::lane::Lane;

impl<D: Disk> Lane<D> {
    /// Bytes of entries the worker may still append this turn; 0 once the turn is full, the device is behind,
    /// the disk or the memory is full or the lane is poisoned. Metadata frames may always be appended.
    #[must_use]
    pub fn turn_budget(&self) -> usize {
        if self.poisoned.is_some() {
            return 0;
        }
        let building = self.building.as_ref().map_or(0, BatchInProgress::used);
        let of_turn = self.options.batch_bytes_max.saturating_sub(self.turn.bytes() + building);
        let queued = self.queue.bytes() as usize + building;
        let of_disk = if self.segments.is_storage_full() {
            self.allocated_bytes_left().saturating_sub(self.options.segment_bytes / 2 + building as u64)
        } else {
            u64::MAX
        };
        let of_memory = usize::try_from(self.memory_left()).unwrap_or(usize::MAX);
        of_turn.min(self.options.queue_bytes_max.saturating_sub(queued)).min(of_disk as usize).min(of_memory)
    }

    /// Bytes of entries that certainly fit into the existing segments; 0 where the next one is still being
    /// made. A worker that keeps to this never has an entry in the log whose segment turns out not to fit
    /// onto the disk: such an entry could be neither acknowledged nor refused.
    ///
    /// Not counted are the ends of segments that a frame may be too long for, and the last segment's end:
    /// that is reserved for metadata frames (votes, membership changes and compaction go on where the disk is
    /// full), and for a turn that appends slightly more.
    #[must_use]
    pub fn reserved_space(&self) -> u64 {
        let segment_bytes = self.options.segment_bytes;
        let usable = segment_bytes - PAGE_BYTES as u64;
        let frame = (self.options.frame_bytes_max as u64).min(segment_bytes / 2);
        let kept = (frame + segment_bytes / 4).min(segment_bytes / 2);
        assert!(frame <= usable && kept <= usable, "a frame, and the reserve, fit into a segment");
        let building = self.building.as_ref().map_or(0, BatchInProgress::used);
        let current = self.bytes_in_current().saturating_sub(building as u64);
        let space = match self.segments.ready.len() as u64 {
            0 => current.saturating_sub(kept),
            ready => current.saturating_sub(frame) + (ready - 1) * (usable - frame) + usable - kept,
        };
        assert!(space <= self.allocated_bytes_left(), "no more is offered than the segments have");
        space
    }

    fn bytes_in_current(&self) -> u64 {
        assert!(self.write_offset <= self.options.segment_bytes, "the next batch begins within its segment");
        let is_ready = self.segments.current().append.is_some();
        if is_ready { self.options.segment_bytes - self.write_offset } else { 0 }
    }

    /// Bytes that the log can still accept without another segment.
    pub(crate) fn allocated_bytes_left(&self) -> u64 {
        self.bytes_in_current() + self.segments.ready.len() as u64 * self.options.segment_bytes
    }

    /// Whether entries are accepted. On a full disk [`Self::turn_budget`] does not offer the last half segment
    /// to them, and half of that is refused even to a turn that had begun before.
    pub(crate) fn admits_entries(&self) -> bool {
        !self.segments.is_storage_full() || self.allocated_bytes_left() > self.options.segment_bytes / 4
    }

    /// Whether live data may be rewritten, so that old segments are freed. On a full disk that uses the
    /// reserve for metadata frames, and leaves half of it to them.
    pub(crate) fn may_rewrite(&self) -> bool {
        !self.segments.is_storage_full() || self.allocated_bytes_left() > self.options.segment_bytes / 8
    }
}
