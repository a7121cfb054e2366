//! A leader's proposals that are not committed: their bytes are bounded.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use raftwerk_frame::Index;

/// The last index of each proposal, and its bytes. The queue is one word if empty.
#[derive(Clone, Debug, Default)]
#[expect(clippy::box_collection, reason = "a word instead of four, in every idle leader")]
pub(crate) struct Uncommitted {
    queue: Option<Box<VecDeque<(Index, u64)>>>,
    /// Invariant: the sum of the bytes in the queue.
    bytes: u64,
}

impl Uncommitted {
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn push(&mut self, last: Index, bytes: u64) {
        let queue = self.queue.get_or_insert_default();
        assert!(queue.back().is_none_or(|before| before.0 < last), "proposals are appended in rising order");
        assert!(bytes > 0, "an empty proposal counts, too");
        queue.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// The log is committed up to `index`.
    pub(crate) fn commit_to(&mut self, index: Index) {
        if let Some(queue) = &mut self.queue {
            while let Some((_, bytes)) = queue.pop_front_if(|(last, _)| *last <= index) {
                assert!(bytes <= self.bytes, "what is committed was counted");
                self.bytes -= bytes;
            }
            assert!(!queue.is_empty() || self.bytes == 0, "the bytes are those of the queue");
        }
    }

    pub(crate) fn shrink(&mut self) {
        self.queue.take_if(|queue| queue.is_empty());
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        let of = |queue: &VecDeque<(Index, u64)>| {
            size_of_val(queue) + queue.capacity() * size_of::<(Index, u64)>()
        };
        self.queue.as_deref().map_or(0, of)
    }
}
