//! How much a lane takes: of entries, in this turn and for certain.
//!
//! A disk that is full is a state. It is found out when the next segment is to be made, while there is still room in those that
//! are there; their end is kept for facts, so that votes, changes of members and compaction, which makes room, go on. What is
//! not here: memory (`lane_memory`), and where room comes from (`lane_retention`).

use crate::batch::BatchInProgress;
use crate::disk::Disk;
use crate::lane::Lane;
use crate::segment::PAGE_BYTES;

impl<D: Disk> Lane<D> {
    /// Bytes of entries the worker may still take this turn; 0 once the turn is full, the device is behind, the disk
    /// or the memory is full or the lane is poisoned. Facts may always be appended.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.poisoned.is_some() {
            return 0;
        }
        let building = self.building.as_ref().map_or(0, BatchInProgress::used);
        let of_turn = self.options.batch_bytes_max.saturating_sub(self.turn_bytes + building);
        let queued = self.queued_bytes as usize + building;
        let of_disk = if self.segments.is_storage_full() {
            self.bytes_there().saturating_sub(self.options.segment_bytes / 2 + building as u64)
        } else {
            u64::MAX
        };
        let of_memory = usize::try_from(self.memory_left()).unwrap_or(usize::MAX);
        of_turn.min(self.options.queue_bytes_max.saturating_sub(queued)).min(of_disk as usize).min(of_memory)
    }

    /// Bytes of entries that the segments which are there take for certain; 0 where the next one is still being made. Who keeps
    /// to it never has an entry in the log whose segment turns out not to fit onto the disk, which could be neither
    /// acknowledged nor refused.
    ///
    /// Not counted are the ends of segments that a frame may be too long for, and the last one's end: that is kept for facts
    /// (votes, changes of members and compaction go on where the disk is full), and for a turn that takes a little more.
    #[must_use]
    pub fn space(&self) -> u64 {
        let segment_bytes = self.options.segment_bytes;
        let usable = segment_bytes - PAGE_BYTES as u64;
        let frame = (self.options.frame_bytes_max as u64).min(segment_bytes / 2);
        let kept = (frame + segment_bytes / 4).min(segment_bytes / 2);
        let building = self.building.as_ref().map_or(0, BatchInProgress::used);
        let current = self.bytes_in_current().saturating_sub(building as u64);
        match self.segments.ready.len() as u64 {
            0 => current.saturating_sub(kept),
            ready => current.saturating_sub(frame) + (ready - 1) * (usable - frame) + usable - kept,
        }
    }

    fn bytes_in_current(&self) -> u64 {
        let is_ready = self.segments.current().append.is_some();
        if is_ready { self.options.segment_bytes - self.write_offset } else { 0 }
    }

    /// Bytes that the log can still take without another segment.
    pub(crate) fn bytes_there(&self) -> u64 {
        self.bytes_in_current() + self.segments.ready.len() as u64 * self.options.segment_bytes
    }

    /// Whether entries are taken. The last half segment is not offered to them on a full disk, and half of that refused even where
    /// a turn had begun before.
    pub(crate) fn takes_entries(&self) -> bool {
        !self.segments.is_storage_full() || self.bytes_there() > self.options.segment_bytes / 4
    }

    /// Whether what is alive may be written again, so that old segments go. On a full disk that takes of what is kept for facts,
    /// and leaves half of it to them.
    pub(crate) fn may_write_again(&self) -> bool {
        !self.segments.is_storage_full() || self.bytes_there() > self.options.segment_bytes / 8
    }
}
