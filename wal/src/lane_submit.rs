//! The end of a turn: what was appended is sealed and handed to the disk, to be synced now or with something later. Of a turn
//! that appends much, what came first goes ahead: device and worker work side by side.
//!
//! What is not here: what a disk does with a batch (`execute`), what it has done (`lane`, at [`Lane::poll`]).

use crate::batch::BatchInProgress;
use crate::disk::{AppendJob, Disk, Job, Lsn};
use crate::error::LogError;
use crate::lane::{Lane, Sealed};

impl<D: Disk> Lane<D> {
    /// Ends the turn: seals what was appended and hands it to the disk. Gives the number whose durability covers the
    /// whole turn; `None` if nothing was appended.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn submit(&mut self) -> Result<Option<Lsn>, LogError> {
        self.counters.wants_sync = true;
        self.submit_relaxed()
    }

    /// As [`Lane::submit`]; but a turn in which every frame asks for no sync ([`FrameInProgress::relax`]) is written, and
    /// becomes durable with the next batch that is synced: see [`Lane::has_unsynced`]. Until then [`Progress::written`](crate::Progress::written) tells
    /// of it. Whoever wants a bound on how long that takes calls [`Lane::sync`] in time; so much unsynced that it would soon
    /// take up the queue is synced at once.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    ///
    /// [`FrameInProgress::relax`]: crate::FrameInProgress::relax
    pub fn submit_relaxed(&mut self) -> Result<Option<Lsn>, LogError> {
        self.check()?;
        self.carry_forward();
        let is_relaxed = self.may_stay_unsynced();
        // What is never synced shares pages, too.
        self.seal(is_relaxed || !self.disk.is_synced());
        self.mark_dead();
        self.hand_over(is_relaxed)
    }

    /// Whether this turn is one that need not be synced. So much unsynced that it would soon take up the queue is.
    fn may_stay_unsynced(&self) -> bool {
        let building = self.building.as_ref().map_or(0, BatchInProgress::used);
        let is_much = self.queued_bytes + building as u64 > self.options.queue_bytes_max as u64 / 4;
        !self.counters.wants_sync && !is_much && self.disk.is_synced()
    }

    /// Whether something was handed over that no sync is on its way for.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        self.synced < self.submitted
    }

    /// Has everything that was handed over synced, by a batch without frames. Gives its number; `None` if there is nothing
    /// to sync. Not between a turn's first frame and its end.
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
        self.hand_over(false)
    }

    /// Hands what was sealed to the disk.
    fn hand_over(&mut self, is_relaxed: bool) -> Result<Option<Lsn>, LogError> {
        self.counters.wants_sync = false;
        if self.turn_bytes == 0 {
            return Ok(None);
        }
        self.send_sealed(is_relaxed);
        self.usual_bytes = self.turn_bytes.max(self.usual_bytes - self.usual_bytes / 8);
        self.turn_bytes = 0;
        self.forget_recent();
        Ok(Some(self.submitted))
    }

    /// Before a frame of entries is begun: sends off what the turn has appended so far, if it is much with that frame. Not between
    /// frames that belong into one batch. Only where it is to be synced: then so is the rest of the turn, and what
    /// [`Lane::submit`] says of it holds for the part that went ahead. What need not be synced costs the device nothing
    /// yet, so there is nothing to gain.
    pub(crate) fn stream_out(&mut self, frame_bytes: usize) {
        let used = self.building.as_ref().map_or(0, BatchInProgress::used);
        if self.counters.wants_sync && used + frame_bytes > self.options.stream_bytes {
            self.seal(!self.disk.is_synced());
            self.send_sealed(false);
        }
    }

    /// The number of the batch that what was appended last is in: it is durable with that one.
    #[must_use]
    pub fn last_appended(&self) -> Lsn {
        let is_building = self.building.as_ref().is_some_and(|batch| batch.count() > 0);
        if is_building { self.last_sealed.next() } else { self.last_sealed }
    }

    fn send_sealed(&mut self, is_relaxed: bool) {
        let mut sealed = std::mem::take(&mut self.sealed);
        for mut batch in sealed.drain(..) {
            // Of a turn's batches the last one's sync is that of all.
            batch.is_relaxed = is_relaxed;
            self.counters.relaxed_batches += u64::from(is_relaxed);
            self.in_flight.push_back((batch.lsn, batch.bytes.len() as u64));
            self.waiting.push_back(batch);
        }
        self.sealed = sealed; // keeps its memory
        self.submitted = self.last_sealed;
        self.synced = if is_relaxed { self.synced } else { self.last_sealed };
        self.send_waiting();
        self.prepare_ahead();
    }

    /// Hands over every waiting batch whose segment is READY, in order.
    pub(crate) fn send_waiting(&mut self) {
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
