//! Memory for long messages that arrive, used again: a new allocation of hundreds of kilobytes costs its pages
//! to be cleared by the kernel, which takes longer than the copy into it.
//!
//! What is not here: short messages, which the allocator serves well.
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Messages of at least this length have slabs; also what a slab's length is a multiple of.
pub(crate) const LONG_BYTES: usize = 64 << 10;
/// The maximum of bytes in slabs that are kept for reuse.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The unused slabs of a transport.
#[derive(Debug, Default)]
pub(crate) struct Slabs {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Empty ones; the last that was used is last, and taken first.
    slabs: Vec<Vec<u8>>,
    /// Their capacities. Invariant: at most [`KEPT_BYTES_MAX`].
    bytes: usize,
}

impl Slabs {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing under the lock panics half way.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty slab for a message of `length` bytes: less than twice as long, or new.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Slab {
        let fits = |slab: &Vec<u8>| (length..=2 * length).contains(&slab.capacity());
        let mut kept = self.kept();
        let found = kept.slabs.iter().rposition(fits).map(|at| kept.slabs.remove(at));
        kept.bytes -= found.as_ref().map_or(0, Vec::capacity);
        drop(kept);
        let bytes = found.unwrap_or_else(|| Vec::with_capacity(length.next_multiple_of(LONG_BYTES)));
        Slab { bytes, home: Arc::clone(self) }
    }

    fn put(&self, mut slab: Vec<u8>) {
        slab.clear();
        let mut kept = self.kept();
        let bytes = kept.bytes + slab.capacity();
        if bytes <= KEPT_BYTES_MAX {
            kept.bytes = bytes;
            kept.slabs.push(slab);
        }
    }
}

/// The memory of one message, which returns to its transport when the last part of the message is dropped.
#[derive(Debug)]
pub(crate) struct Slab {
    bytes: Vec<u8>,
    home: Arc<Slabs>,
}

impl Slab {
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.home.put(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(slabs: &Arc<Slabs>, length: usize) -> Bytes {
        let mut slab = slabs.take(length);
        slab.extend(&vec![7; length]);
        slab.freeze()
    }

    #[test]
    fn a_slab_is_used_again_once_no_part_of_its_message_is_left() {
        let slabs = Arc::new(Slabs::default());
        let first = message(&slabs, 100_000);
        let place = first.as_ptr();
        let part = first.slice(99_000..);
        drop(first);
        let second = message(&slabs, 100_000);
        assert!(second.as_ptr() != place && part == [7; 1000][..], "a part of the first is left");
        drop((second, part));
        assert_eq!(message(&slabs, 80_000).as_ptr(), place, "the one that came back last");
        let long = message(&slabs, 300_000);
        assert!(slabs.kept().slabs.iter().all(|slab| slab.capacity() < 300_000), "it is new: {long:?}");
        drop(long);
        let short = slabs.take(LONG_BYTES);
        assert!(short.bytes.capacity() <= 2 * LONG_BYTES, "a long one does not serve a short message");
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let slabs = Arc::new(Slabs::default());
        let all: Vec<Bytes> = (0..40).map(|_| message(&slabs, 1 << 20)).collect();
        assert_eq!(slabs.kept().bytes, 0);
        drop(all);
        assert_eq!(slabs.kept().bytes, KEPT_BYTES_MAX);
        assert_eq!(slabs.kept().slabs.len(), 16);
        drop(message(&slabs, KEPT_BYTES_MAX + 1));
        assert_eq!(slabs.kept().bytes, KEPT_BYTES_MAX);
    }
}
