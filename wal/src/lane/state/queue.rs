//! The way of a sealed batch to the device: sealed, waiting for its segment, in flight.
//!
//! Not here: the numbers (`watermarks`), the copies kept for reads (`recent`).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::format::lsn::Lsn;
use crate::lane::state::watermarks::Demand;

/// A sealed batch: its bytes are final.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) lsn: Lsn,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    /// The bytes of memory of its buffer.
    pub(crate) buffer_bytes: usize,
    /// It need not be synced until a later batch that must be.
    pub(crate) is_relaxed: bool,
}

/// The batches that are sealed and not durable.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Sealed in this turn, not submitted.
    sealed: Vec<Sealed>,
    /// Submitted, but waiting until its segment is READY.
    waiting: VecDeque<Sealed>,
    /// Submitted and not durable: LSN and padded bytes. Invariant: in order of LSN.
    in_flight: VecDeque<(Lsn, u64)>,
    /// Padded bytes of all of them.
    bytes: u64,
}

impl Queue {
    /// Padded bytes sealed and not yet durable.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether batches are sealed and not submitted.
    pub(crate) const fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Whether no submitted batch is still to become durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(crate) fn push(&mut self, sealed: Sealed) {
        assert!(!sealed.bytes.is_empty(), "a batch has a header at least");
        assert!(
            self.sealed.last().is_none_or(|before| before.lsn.next() == sealed.lsn),
            "a turn's batches are numbered consecutively"
        );
        assert!(
            self.in_flight.back().is_none_or(|(submitted, _)| *submitted < sealed.lsn),
            "a batch that is sealed comes after all that were submitted"
        );
        self.bytes += sealed.bytes.len() as u64;
        self.sealed.push(sealed);
    }

    /// Submits what is sealed: it now waits for its segments. Returns the number of batches.
    pub(crate) fn submit(&mut self, demand: Demand) -> u64 {
        let batches = self.sealed.len() as u64;
        for mut batch in self.sealed.drain(..) {
            let follows = self.in_flight.back().is_none_or(|(before, _)| before.next() == batch.lsn);
            assert!(follows, "batches are submitted in order, and none is left out");
            // The sync of a turn's last batch covers all its batches.
            batch.is_relaxed = demand == Demand::Write;
            self.in_flight.push_back((batch.lsn, batch.bytes.len() as u64));
            self.waiting.push_back(batch);
        }
        batches
    }

    /// The next batch that waits for its segment.
    pub(crate) fn next_waiting(&self) -> Option<&Sealed> {
        self.waiting.front()
    }

    pub(crate) fn take_waiting(&mut self) -> Option<Sealed> {
        let taken = self.waiting.pop_front()?;
        assert!(
            self.in_flight.front().is_some_and(|(oldest, _)| *oldest <= taken.lsn),
            "a batch that waits for its segment is not durable"
        );
        Some(taken)
    }

    /// The lane is poisoned: what waits is never written.
    pub(crate) fn clear_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Every batch up to `last` is durable.
    pub(crate) fn on_durable(&mut self, last: Lsn) {
        let mut latest = None;
        while let Some((lsn, bytes)) = self.in_flight.pop_front_if(|(lsn, _)| *lsn <= last) {
            assert!(self.bytes >= bytes, "the queue's bytes are those of its batches");
            self.bytes -= bytes;
            latest = Some(lsn);
        }
        assert!(latest.is_none_or(|latest| latest == last), "a batch that completes was submitted");
        let is_empty = self.in_flight.is_empty() && self.sealed.is_empty();
        assert!(!is_empty || self.bytes == 0, "a queue without batches has no bytes");
    }
}
