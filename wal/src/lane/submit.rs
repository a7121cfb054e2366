//! The end of a turn: appended frames are sealed and submitted to the disk, to be synced now or with a later
//! batch. The first part of a large turn is submitted early, so that device and worker work in parallel.
//!
//! Not here: how a disk writes a batch (`execute`), completions (`lane`, at [`Lane::poll`]).

use crate::disk::{AppendJob, Disk, Job};
use crate::error::LogError;
use crate::format::batch::{ALIGN_BYTES, BatchInProgress, NextBatch};
use crate::format::lsn::Lsn;
use crate::format::segment::PAGE_BYTES;
use crate::lane::Lane;
use crate::lane::state::queue::Sealed;
use crate::lane::state::watermarks::Demand;

impl<D: Disk> Lane<D> {
    /// Ends the turn: seals what was appended and submits it to the disk. Returns the LSN whose durability
    /// covers the whole turn; `None` if nothing was appended.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn submit(&mut self) -> Result<Option<Lsn>, LogError> {
        self.counters.wants_sync = true;
        self.submit_relaxed()
    }

    /// As [`Lane::submit`]; but a turn in which every frame is relaxed ([`FrameInProgress::relax`]) is only
    /// written, and becomes durable with the next batch that is synced: see [`Lane::has_unsynced`]. Until
    /// then it is covered by [`Progress::written`](crate::Progress::written). To bound that delay, call
    /// [`Lane::sync`] in time; unsynced batches beyond a quarter of the queue are synced at once.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    ///
    /// [`FrameInProgress::relax`]: crate::FrameInProgress::relax
    pub fn submit_relaxed(&mut self) -> Result<Option<Lsn>, LogError> {
        self.check()?;
        self.relocate_oldest();
        let is_relaxed = self.may_stay_unsynced();
        // Without syncs every batch may share its last page.
        let shares_page = is_relaxed || !self.disk.is_synced();
        self.seal(if shares_page { NextBatch::InSamePage } else { NextBatch::OnNextPage });
        assert!(self.building.as_ref().is_none_or(|batch| batch.count() == 0), "a turn is sealed as a whole");
        self.mark_dead();
        self.submit_sealed(if is_relaxed { Demand::Write } else { Demand::Sync })
    }

    /// Whether this turn need not be synced: all its frames are relaxed, and at most a quarter of the queue
    /// is in use.
    fn may_stay_unsynced(&self) -> bool {
        let building = self.building.as_ref().map_or(0, BatchInProgress::used);
        let is_much = self.queue.bytes() + building as u64 > self.options.queue_bytes_max as u64 / 4;
        !self.counters.wants_sync && !is_much && self.disk.is_synced()
    }

    /// Whether submitted batches exist that no sync in flight covers.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        self.marks.has_unsynced()
    }

    /// Syncs everything submitted, by a batch without frames. Returns its LSN; `None` if there is nothing to
    /// sync. Not to be called between a turn's first frame and its end.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn sync(&mut self) -> Result<Option<Lsn>, LogError> {
        self.check()?;
        if !self.has_unsynced() {
            return Ok(None);
        }
        self.reserve(0);
        self.counters.wants_sync = true;
        self.seal_even_empty(NextBatch::OnNextPage);
        self.submit_sealed(Demand::Sync)
    }

    /// Submits the sealed batches to the disk.
    fn submit_sealed(&mut self, demand: Demand) -> Result<Option<Lsn>, LogError> {
        self.counters.wants_sync = false;
        if self.turn.bytes() == 0 {
            assert!(!self.queue.has_sealed(), "a turn with batches has bytes");
            return Ok(None);
        }
        self.queue_sealed(demand);
        self.turn.end();
        self.forget_recent();
        assert!(self.marks.submitted() == self.last_appended(), "the number returned covers the whole turn");
        Ok(Some(self.marks.submitted()))
    }

    /// Called before a frame of entries is begun: submits what the turn has appended so far, if that frame
    /// would exceed `stream_bytes`. Not called between frames that belong in one batch. Only for turns that
    /// are synced: the rest of such a turn is synced too, so that the LSN from [`Lane::submit`] also covers
    /// the part submitted early. A relaxed turn costs the device nothing yet, so there is nothing to gain.
    pub(crate) fn submit_early(&mut self, frame_bytes: usize) {
        let used = self.building.as_ref().map_or(0, BatchInProgress::used);
        if self.counters.wants_sync && used + frame_bytes > self.options.stream_bytes {
            self.seal(if self.disk.is_synced() { NextBatch::OnNextPage } else { NextBatch::InSamePage });
            self.queue_sealed(Demand::Sync);
        }
    }

    /// The LSN of the batch that holds the last appended frame: the frame is durable when that batch is.
    #[must_use]
    pub fn last_appended(&self) -> Lsn {
        let is_building = self.building.as_ref().is_some_and(|batch| batch.count() > 0);
        if is_building { self.marks.sealed().next() } else { self.marks.sealed() }
    }

    fn queue_sealed(&mut self, demand: Demand) {
        let ends_page = self.write_offset.is_multiple_of(PAGE_BYTES as u64);
        assert!(
            demand == Demand::Write || !self.disk.is_synced() || ends_page,
            "nothing is written to a page that holds durable data"
        );
        let batches = self.queue.submit(demand);
        assert!(!self.queue.has_sealed(), "all that is sealed is submitted");
        self.counters.relaxed_batches += if demand == Demand::Write { batches } else { 0 };
        self.marks.on_submitted(demand);
        self.submit_waiting();
        self.prepare_ahead();
    }

    /// Submits the waiting batches in order, as far as their segments are READY.
    pub(crate) fn submit_waiting(&mut self) {
        while let Some(front) = self.queue.next_waiting() {
            let segment =
                self.segments.find(front.segment).expect("a segment with waiting batches is in use");
            let Some(file) = segment.append.clone() else { break };
            let Some(sealed) = self.queue.take_waiting() else { break };
            assert!(
                self.marks.durable() < sealed.lsn && sealed.lsn <= self.marks.submitted(),
                "a batch that is written is submitted, and not durable yet"
            );
            let Sealed { lsn, segment, offset, bytes: batch, is_relaxed, .. } = sealed;
            assert!(offset.is_multiple_of(ALIGN_BYTES as u64), "a batch begins at a multiple of 64");
            assert!(offset >= PAGE_BYTES as u64, "a batch lies behind its segment's first page");
            assert!(
                offset + batch.len() as u64 <= self.options.segment_bytes,
                "a batch and its padding lie within its segment"
            );
            self.disk.submit(Job::Append(AppendJob { file, segment, offset, batch, lsn, is_relaxed }));
        }
    }
}
