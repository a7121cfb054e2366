//! The disk probe of an idle lane: a page of zeros, written where the next batch will lie, to see whether the
//! disk responds.
//!
//! It takes no space, no LSN and no place in the log: recovery finds the same batches before it and after it.
//! It is submitted as an append, so that whatever delays appends delays it too. Not here: when to write one.

use crate::disk::execute::zero_page;
use crate::disk::{AppendJob, Disk, Job};
use crate::error::Poisoned;
use crate::format::segment::PAGE_BYTES;
use crate::lane::Lane;

impl<D: Disk> Lane<D> {
    /// Writes a page of zeros, synced like a batch. Returns whether it was submitted: not while batches are
    /// in flight (their completions show as much), and not where no segment has space for it.
    /// [`Lane::is_probing`] returns `false` once it is complete. To be called between [`Lane::submit`] and
    /// the next append.
    ///
    /// # Errors
    /// [`Poisoned`].
    ///
    /// # Panics
    /// If something was appended and not submitted.
    pub fn probe(&mut self) -> Result<bool, Poisoned> {
        self.check()?;
        assert!(
            !self.queue.has_sealed() && self.building.as_ref().is_none_or(|batch| batch.count() == 0),
            "what was appended is submitted first"
        );
        if self.is_probing || !self.queue.is_idle() {
            return Ok(false);
        }
        if self.next_page() + PAGE_BYTES as u64 > self.options.segment_bytes {
            // The next write begins a new segment. It is READY, unless the disk is full or slow.
            if self.segments.ready.is_empty() {
                return Ok(false);
            }
            self.building = None;
            self.segments.roll(self.write_offset);
            self.write_offset = PAGE_BYTES as u64;
        }
        let current = self.segments.current();
        let Some(file) = current.append.clone() else { return Ok(false) };
        let (segment, offset, batch, lsn) =
            (current.sequence, self.next_page(), zero_page(), self.marks.submitted());
        assert!(self.marks.durable() == lsn, "no batch is in flight before a probe");
        assert!(self.write_offset <= offset, "a probe lies behind every batch");
        assert!(offset.is_multiple_of(PAGE_BYTES as u64), "a probe shares no page with a batch");
        assert!(offset + PAGE_BYTES as u64 <= self.options.segment_bytes, "a probe lies within its segment");
        self.disk.submit(Job::Append(AppendJob { file, segment, offset, batch, lsn, is_relaxed: false }));
        self.is_probing = true;
        Ok(true)
    }

    /// The first page not yet written to.
    const fn next_page(&self) -> u64 {
        self.write_offset.next_multiple_of(PAGE_BYTES as u64)
    }

    /// Whether a probe is in flight.
    #[must_use]
    pub const fn is_probing(&self) -> bool {
        self.is_probing
    }
}
