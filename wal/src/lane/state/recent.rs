//! The latest batches, kept in memory for reads.
//!
//! Invariant: every batch that is not durable is among them. Not here: how many (`lane::memory`).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::format::lsn::Lsn;
use crate::index::frame::Place;
use crate::lane::state::queue::Sealed;
use crate::lane::state::reach::Reach;

/// The latest batches, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    batches: VecDeque<Sealed>,
    /// Bytes of their buffers.
    bytes: usize,
    /// How far back reads of the log go.
    pub(crate) reach: Reach,
}

impl Recent {
    /// Bytes of the batches' buffers.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn push(&mut self, sealed: Sealed) {
        assert!(sealed.bytes.len() <= sealed.buffer_bytes, "a batch lies in its buffer");
        assert!(
            self.batches.back().is_none_or(|before| {
                before.lsn < sealed.lsn && (before.segment, before.offset) < (sealed.segment, sealed.offset)
            }),
            "batches are kept in the order of their places"
        );
        self.bytes += sealed.buffer_bytes;
        self.batches.push_back(sealed);
    }

    /// Drops the oldest batch if it is among those up to `durable`. Returns whether it did.
    pub(crate) fn drop_oldest(&mut self, durable: Lsn) -> bool {
        let dropped = self.batches.pop_front_if(|oldest| oldest.lsn <= durable);
        let bytes = dropped.as_ref().map_or(0, |oldest| oldest.buffer_bytes);
        assert!(self.bytes >= bytes, "the bytes are the sum of the batches' buffers");
        self.bytes -= bytes;
        assert!(!self.batches.is_empty() || self.bytes == 0, "without batches there are no buffers");
        dropped.is_some()
    }

    /// The batches after `durable`, newest first.
    pub(crate) fn after(&self, durable: Lsn) -> impl Iterator<Item = &Sealed> {
        self.batches.iter().rev().take_while(move |batch| batch.lsn > durable)
    }

    /// The bytes at a place, if it lies in one of these batches.
    pub(crate) fn find(&self, place: Place) -> Option<Bytes> {
        let key = (place.segment, u64::from(place.offset));
        let after = self.batches.partition_point(|batch| (batch.segment, batch.offset) <= key);
        let batch = self.batches.get(after.checked_sub(1)?)?;
        let from = u64::from(place.offset).checked_sub(batch.offset)? as usize;
        let range = from..from + place.bytes as usize;
        (batch.segment == place.segment && range.end <= batch.bytes.len()).then(|| batch.bytes.slice(range))
    }
}
