//! How far a lane has come: the last batch sealed, submitted, written, durable.
//!
//! Invariant: durable ≤ written ≤ submitted ≤ sealed, and recovered ≤ durable. Not here: the batches (`queue`).

use crate::format::lsn::Lsn;

/// The demand on the device for the batches that are submitted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// They are synced.
    Sync,
    /// They are written, and synced with a later batch.
    Write,
}

/// The last batch in each state.
#[derive(Debug)]
pub(crate) struct Watermarks {
    sealed: Lsn,
    /// The segment of `sealed`, if it was sealed since opening.
    sealed_segment: Option<u64>,
    submitted: Lsn,
    /// The latest batch submitted with a sync, which makes everything before it durable.
    synced: Lsn,
    /// Invariant: at least `durable`.
    written: Lsn,
    durable: Lsn,
    /// The last batch that was durable when the lane was opened.
    recovered: Lsn,
}

impl Watermarks {
    /// Of a lane whose log ends with the durable batch `last`.
    pub(crate) const fn opened(last: Lsn) -> Self {
        let (sealed, submitted, synced, written) = (last, last, last, last);
        Self { sealed, sealed_segment: None, submitted, synced, written, durable: last, recovered: last }
    }

    pub(crate) const fn sealed(&self) -> Lsn {
        self.sealed
    }

    pub(crate) const fn sealed_segment(&self) -> Option<u64> {
        self.sealed_segment
    }

    pub(crate) const fn submitted(&self) -> Lsn {
        self.submitted
    }

    pub(crate) const fn written(&self) -> Lsn {
        self.written
    }

    pub(crate) const fn durable(&self) -> Lsn {
        self.durable
    }

    pub(crate) const fn recovered(&self) -> Lsn {
        self.recovered
    }

    /// Whether submitted batches exist that no sync in flight covers.
    pub(crate) fn has_unsynced(&self) -> bool {
        assert!(self.synced <= self.submitted, "a sync covers submitted batches only");
        self.synced < self.submitted
    }

    /// The next batch is sealed: `lsn`, in `segment`.
    pub(crate) fn on_sealed(&mut self, lsn: Lsn, segment: u64) {
        assert!(lsn == self.sealed.next(), "batches are numbered consecutively");
        assert!(
            self.sealed_segment.is_none_or(|before| before <= segment),
            "a batch lies in the segment of the one before, or in a later one"
        );
        self.sealed = lsn;
        self.sealed_segment = Some(segment);
    }

    /// Everything sealed is submitted.
    pub(crate) fn on_submitted(&mut self, demand: Demand) {
        assert!(self.submitted <= self.sealed, "only sealed batches are submitted");
        self.submitted = self.sealed;
        if demand == Demand::Sync {
            self.synced = self.sealed;
        }
    }

    /// Every batch up to `last` is written.
    pub(crate) fn on_written(&mut self, last: Lsn) {
        assert!(self.written < last && last <= self.submitted, "writes complete in order");
        self.written = last;
    }

    /// Every batch up to `last` is durable.
    pub(crate) fn on_durable(&mut self, last: Lsn) {
        assert!(self.durable < last && last <= self.submitted, "appends complete in order");
        assert!(self.written <= self.submitted, "only submitted batches are written");
        self.durable = last;
        self.written = last;
    }

    /// A probe is complete: no batch was submitted before it that is not durable.
    pub(crate) const fn on_probed(&mut self) {
        assert!(self.written.0 == self.durable.0, "a probe completes before any later batch is written");
        self.written = self.durable;
    }
}
