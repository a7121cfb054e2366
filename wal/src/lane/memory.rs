//! The memory budget of a lane, and what happens when it is exceeded
//! ([`LaneOptions::memory_bytes`](crate::LaneOptions)).
//!
//! Counted are batch buffers, whichever component holds them; buffers kept in the pool; the index; and bytes
//! read back from files that readers still hold. When memory gets short, in this order: the latest batches
//! are dropped, and read from the files again; readers must wait; entries get no space
//! ([`Lane::turn_budget`]). Metadata frames are always accepted.
//!
//! Not here: memory held by the lane's user, state machines above all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raftwerk_frame::GroupId;

use crate::disk::Disk;
use crate::format::batch::BatchInProgress;
use crate::index::{FRAME_BYTES, GROUP_BYTES};
use crate::lane::Lane;

/// Bytes that were read from a file, counted for as long as they are held.
struct Pinned {
    bytes: Bytes,
    sum: Arc<AtomicU64>,
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let sum = self.sum.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
        assert!(sum >= self.bytes.len() as u64, "bytes that are released were counted");
    }
}

/// Counts bytes into `sum` until the last clone of them is dropped. One allocation.
pub(crate) fn pinned(bytes: Bytes, sum: &Arc<AtomicU64>) -> Bytes {
    sum.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Bytes::from_owner(Pinned { bytes, sum: Arc::clone(sum) })
}

impl<D: Disk> Lane<D> {
    /// Bytes of the index: of every group, and of every frame that counts; about.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.groups.slots() as u64 * GROUP_BYTES + self.pins.frames() * FRAME_BYTES
    }

    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Bytes of buffers that are neither among the latest batches nor being filled: readers still hold them.
    fn lent_bytes(&self) -> u64 {
        let building = self.building.as_ref().map_or(0, BatchInProgress::buffer_bytes);
        let (taken, ours) = (self.pool.taken_bytes(), (self.recent.bytes() + building) as u64);
        assert!(ours <= taken, "the latest batches lie in buffers that are in use");
        taken - ours
    }

    /// All counted memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.pool.taken_bytes() + self.pool.kept_bytes() + self.index_bytes() + self.pinned_bytes()
    }

    /// The limit on the latest batches.
    pub(crate) fn recent_bytes_max(&self) -> usize {
        let (all, recent) = (self.memory_bytes(), self.recent.bytes() as u64);
        assert!(recent <= all, "the latest batches are part of the memory that is counted");
        let others = all - recent;
        let left = self.options.memory_bytes.saturating_sub(others);
        let options = &self.options;
        let most = (options.recent_bytes_max as u64).min(options.memory_bytes / 8);
        // A batch has a buffer of up to twice its size, and the farthest read of all is yet to come.
        let wanted = (2 * self.recent.reach.bytes()).min(most).max(options.recent_bytes as u64);
        assert!(wanted >= options.recent_bytes as u64, "reads do not make it less");
        usize::try_from(wanted.min(left)).unwrap_or(usize::MAX)
    }

    /// Bytes left for entries, once everything that can be dropped is.
    #[must_use]
    pub fn memory_left(&self) -> u64 {
        let on_their_way = self.recent.after(self.marks.durable());
        let on_their_way: usize = on_their_way.map(|batch| batch.buffer_bytes).sum();
        assert!(on_their_way <= self.recent.bytes(), "what is not durable is among the latest batches");
        let building = self.building.as_ref().map_or(0, BatchInProgress::buffer_bytes);
        let held =
            self.index_bytes() + self.pinned_bytes() + self.lent_bytes() + (on_their_way + building) as u64;
        self.options.memory_bytes.saturating_sub(held)
    }

    /// Whether readers hold a quarter of the memory: further reads of the log must wait until they release
    /// some.
    #[must_use]
    pub fn must_readers_wait(&self) -> bool {
        self.pinned_bytes() + self.lent_bytes() >= self.options.memory_bytes / 4
    }

    /// The groups with at least their share of the index, once the index takes up half of the memory:
    /// compacting them makes it smaller. Cost: a scan of every group then, and nothing otherwise.
    pub fn heavy(&self) -> impl Iterator<Item = GroupId> + '_ {
        let is_much = self.index_bytes() > self.options.memory_bytes / 2;
        let logs = is_much.then(|| self.groups.logs()).into_iter().flatten();
        let share = (self.pins.frames() / self.groups.len().max(1) as u64).max(1);
        logs.filter(move |log| log.frames_len() as u64 >= share).map(|log| log.group)
    }
}
