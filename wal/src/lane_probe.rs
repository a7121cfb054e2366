//! A lane that nobody writes to still has to know whether its disk does anything: a page of zeros, written where the next
//! batch will lie.
//!
//! It takes no room, no number and no place in the log: before it and after it, the same batches can be found there. On its
//! way it is an append like any other, so what holds up appends holds it up. What is not here: when to write one.

use crate::disk::{AppendJob, Disk, Job};
use crate::error::Poisoned;
use crate::execute::zero_page;
use crate::lane::Lane;
use crate::segment::PAGE_BYTES;

impl<D: Disk> Lane<D> {
    /// Writes a page of zeros, which is synced as a batch would be. Whether it is on its way then: not while batches are,
    /// which tell as much, and not where no segment has room for it. [`Lane::is_probing`] tells when it is there. To be
    /// called between [`Lane::submit`] and the next append.
    ///
    /// # Errors
    /// [`Poisoned`].
    ///
    /// # Panics
    /// If something was appended and not submitted.
    pub fn probe(&mut self) -> Result<bool, Poisoned> {
        self.check()?;
        assert!(
            self.sealed.is_empty() && self.building.as_ref().is_none_or(|batch| batch.count() == 0),
            "what was appended is submitted first"
        );
        if self.is_probing || !self.in_flight.is_empty() {
            return Ok(false);
        }
        if self.next_page() + PAGE_BYTES as u64 > self.options.segment_bytes {
            // What is written next begins a segment. It is there, unless the disk is full or slow.
            if self.segments.ready.is_empty() {
                return Ok(false);
            }
            self.building = None;
            self.segments.roll(self.write_offset);
            self.write_offset = PAGE_BYTES as u64;
        }
        let current = self.segments.current();
        let Some(file) = current.append.clone() else { return Ok(false) };
        let (segment, offset, batch, lsn) = (current.sequence, self.next_page(), zero_page(), self.submitted);
        self.disk.submit(Job::Append(AppendJob { file, segment, offset, batch, lsn, is_relaxed: false }));
        self.is_probing = true;
        Ok(true)
    }

    /// The first page that nothing was written to yet.
    const fn next_page(&self) -> u64 {
        self.write_offset.next_multiple_of(PAGE_BYTES as u64)
    }

    /// Whether a probe is on its way to the disk.
    #[must_use]
    pub const fn is_probing(&self) -> bool {
        self.is_probing
    }
}
