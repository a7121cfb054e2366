//! Coalesces queued messages into few, large stream writes.
//!
//! quinn walks its list of unsent slices from the front, so many small slices cost eleven times one copied
//! buffer. A [`Unit`] therefore copies length prefixes and small parts side by side into one buffer, and
//! passes parts of [`OWN_SLICE_MIN`] bytes or more on as they are. What is not here: the queue (`outbox.rs`),
//! the stream (`session.rs`).
use bytes::{BufMut, Bytes, BytesMut};

use crate::message::frames::LENGTH_BYTES;
use crate::transport::Parts;

/// From this size on a part is cheaper to pass on than to copy.
pub(crate) const OWN_SLICE_MIN: usize = 16 << 10;
/// A unit is closed once it holds this many bytes; it exceeds this by at most one message.
pub(crate) const UNIT_BYTES: usize = 64 << 10;

/// One stream write being assembled. Kept and refilled, so that its list of slices is allocated once.
#[derive(Default)]
pub(crate) struct Unit {
    slices: Vec<Bytes>,
    copied: BytesMut,
    bytes: usize,
    messages: usize,
}

impl Unit {
    /// Starts a new unit; `bytes_expected` sizes the buffer for copied parts (capped at [`UNIT_BYTES`]).
    pub(crate) fn start(&mut self, bytes_expected: usize) {
        self.slices.clear();
        self.copied = BytesMut::with_capacity(bytes_expected.min(UNIT_BYTES));
        self.bytes = 0;
        self.messages = 0;
    }

    /// Appends one message of `length` bytes in parts.
    pub(crate) fn push(&mut self, length: usize, parts: Parts) {
        self.copied.put_u32_le(length as u32);
        for part in parts {
            if part.len() < OWN_SLICE_MIN {
                self.copied.extend_from_slice(&part);
            } else {
                self.seal_copied();
                self.slices.push(part);
            }
        }
        self.bytes += LENGTH_BYTES + length;
        self.messages += 1;
    }

    /// Whether the unit is large enough to be written.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= UNIT_BYTES
    }

    /// Closes the unit. The slices are to be consumed in order.
    pub(crate) fn finish(&mut self) -> &mut [Bytes] {
        self.seal_copied();
        &mut self.slices
    }

    /// Bytes on the wire, length prefixes included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages in the unit.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    fn seal_copied(&mut self) {
        if !self.copied.is_empty() {
            self.slices.push(self.copied.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::message::frames::Decoder;
    use proptest::prelude::*;

    fn push(unit: &mut Unit, parts: &[Vec<u8>]) {
        let length = parts.iter().map(Vec::len).sum();
        unit.push(length, parts.iter().cloned().map(Bytes::from).collect());
    }

    #[test]
    fn small_messages_share_one_slice_and_large_parts_keep_their_memory() {
        let mut unit = Unit::default();
        unit.start(1 << 20);
        for _ in 0..256 {
            push(&mut unit, &[vec![1; 100], vec![2; 100]]);
        }
        let large = Bytes::from(vec![3; OWN_SLICE_MIN]);
        let address = large.as_ptr();
        unit.push(large.len(), std::iter::once(large).collect());
        push(&mut unit, &[vec![4; 10]]);
        let slices = unit.finish();
        assert_eq!(slices.len(), 3);
        assert_eq!(slices[1].as_ptr(), address);
    }

    proptest! {
        #[test]
        fn the_slices_of_a_unit_are_the_messages_behind_their_lengths(
            messages in prop::collection::vec(
                prop::collection::vec(prop_oneof![0usize..50, (OWN_SLICE_MIN - 2)..(OWN_SLICE_MIN + 2)], 0..6),
                0..12,
            ),
        ) {
            let mut unit = Unit::default();
            unit.start(0);
            let mut expected = Vec::new();
            for (number, sizes) in messages.iter().enumerate() {
                let parts: Vec<Vec<u8>> = sizes.iter().map(|size| vec![number as u8; *size]).collect();
                push(&mut unit, &parts);
                expected.push(parts.concat());
            }
            let (bytes, count) = (unit.bytes(), unit.messages());
            let stream = unit.finish().concat();
            prop_assert_eq!((stream.len(), count), (bytes, messages.len()));
            let (mut decoder, mut rest) = (Decoder::new(1 << 20, Arc::default()), stream.as_slice());
            for message in expected {
                prop_assert_eq!(decoder.next(&mut rest).unwrap().unwrap(), message);
            }
            prop_assert!(rest.is_empty());
        }
    }
}
