//! The end of a turn: appended frames are sealed and submitted to the disk, to be synced now or with a later
//! batch. The first part of a large turn is submitted early, so that device and worker work in parallel.
//!
//! Not here: how a disk writes a batch (`execute`), completions (`lane`, at [`Lane::poll`]).

use crate::disk::{AppendJob, Disk, Job};
use crate::error::LogError;
use crate::format::batch::BatchInProgress;
use crate::format::lsn::Lsn;
use crate::lane::{Lane, Sealed};

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
        self.seal(is_relaxed || !self.disk.is_synced());
        self.mark_dead();
        self.submit_sealed(is_relaxed)
    }

    /// Whether this turn need not be synced: all its frames are relaxed, and at most a quarter of the queue
    /// is in use.
    fn may_stay_unsynced(&self) -> bool {
        let building = self.building.as_ref().map_or(0, BatchInProgress::used);
        let is_much = self.queued_bytes + building as u64 > self.options.queue_bytes_max as u64 / 4;
        !self.counters.wants_sync && !is_much && self.disk.is_synced()
    }

    /// Whether submitted batches exist that no sync in flight covers.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        self.synced < self.submitted
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
        self.seal_even_empty(false);
        self.submit_sealed(false)
    }

    /// Submits the sealed batches to the disk.
    fn submit_sealed(&mut self, is_relaxed: bool) -> Result<Option<Lsn>, LogError> {
        self.counters.wants_sync = false;
        if self.turn_bytes == 0 {
            return Ok(None);
        }
        self.queue_sealed(is_relaxed);
        self.usual_bytes = self.turn_bytes.max(self.usual_bytes - self.usual_bytes / 8);
        self.turn_bytes = 0;
        self.forget_recent();
        Ok(Some(self.submitted))
    }

    /// Called before a frame of entries is begun: submits what the turn has appended so far, if that frame
    /// would exceed `stream_bytes`. Not called between frames that belong in one batch. Only for turns that
    /// are synced: the rest of such a turn is synced too, so that the LSN from [`Lane::submit`] also covers
    /// the part submitted early. A relaxed turn costs the device nothing yet, so there is nothing to gain.
    pub(crate) fn submit_early(&mut self, frame_bytes: usize) {
        let used = self.building.as_ref().map_or(0, BatchInProgress::used);
        if self.counters.wants_sync && used + frame_bytes > self.options.stream_bytes {
            self.seal(!self.disk.is_synced());
            self.queue_sealed(false);
        }
    }

    /// The LSN of the batch that holds the last appended frame: the frame is durable when that batch is.
    #[must_use]
    pub fn last_appended(&self) -> Lsn {
        let is_building = self.building.as_ref().is_some_and(|batch| batch.count() > 0);
        if is_building { self.last_sealed.next() } else { self.last_sealed }
    }

    fn queue_sealed(&mut self, is_relaxed: bool) {
        let mut sealed = std::mem::take(&mut self.sealed);
        for mut batch in sealed.drain(..) {
            // The sync of a turn's last batch covers all its batches.
            batch.is_relaxed = is_relaxed;
            self.counters.relaxed_batches += u64::from(is_relaxed);
            self.in_flight.push_back((batch.lsn, batch.bytes.len() as u64));
            self.waiting.push_back(batch);
        }
        self.sealed = sealed; // keeps its memory
        self.submitted = self.last_sealed;
        self.synced = if is_relaxed { self.synced } else { self.last_sealed };
        self.submit_waiting();
        self.prepare_ahead();
    }

    /// Submits the waiting batches in order, as far as their segments are READY.
    pub(crate) fn submit_waiting(&mut self) {
        while let Some(front) = self.waiting.front() {
            let segment =
                self.segments.find(front.segment).expect("a segment with waiting batches is in use");
            let Some(file) = segment.append.clone() else { break };
            let Some(sealed) = self.waiting.pop_front() else { break };
            let Sealed { lsn, segment, offset, bytes: batch, is_relaxed, .. } = sealed;
            self.disk.submit(Job::Append(AppendJob { file, segment, offset, batch, lsn, is_relaxed }));
        }
    }
}
