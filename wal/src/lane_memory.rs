//! What a lane holds in memory, and what it does when that is too much ([`LaneOptions::memory_bytes`](crate::LaneOptions)).
//!
//! Counted are batch buffers, whoever holds them; those that the pool keeps; the index; and what readers hold
//! of what was read from the files again. When it gets short, in this order: the
//! latest batches are let go, and read from the files again; readers are asked to wait; entries find no room
//! ([`Lane::room`]). Facts always do.
//!
//! What is not here: what the lane's user holds, state machines above all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raftwerk_frame::GroupId;

use crate::batch::BatchInProgress;
use crate::disk::Disk;
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
        self.sum.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
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
        self.groups.slots.len() as u64 * GROUP_BYTES + self.pins.frames() * FRAME_BYTES
    }

    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Bytes of buffers that are not among the latest batches, nor being filled: somebody reads them still.
    fn lent_bytes(&self) -> u64 {
        let building = self.building.as_ref().map_or(0, BatchInProgress::buffer_bytes);
        self.pool.taken_bytes().saturating_sub((self.recent_bytes + building) as u64)
    }

    /// All of it.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.pool.taken_bytes() + self.pool.kept_bytes() + self.index_bytes() + self.pinned_bytes()
    }

    /// What the latest batches may take up.
    pub(crate) fn recent_bytes_max(&self) -> usize {
        let others = self.memory_bytes().saturating_sub(self.recent_bytes as u64);
        let left = self.options.memory_bytes.saturating_sub(others);
        self.options.recent_bytes.min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Bytes that are left for entries, once everything was let go that can be.
    #[must_use]
    pub fn memory_left(&self) -> u64 {
        let on_their_way = self.recent.iter().rev().take_while(|batch| batch.lsn > self.durable);
        let on_their_way: usize = on_their_way.map(|batch| batch.buffer_bytes).sum();
        let building = self.building.as_ref().map_or(0, BatchInProgress::buffer_bytes);
        let held =
            self.index_bytes() + self.pinned_bytes() + self.lent_bytes() + (on_their_way + building) as u64;
        self.options.memory_bytes.saturating_sub(held)
    }

    /// Whether readers hold a quarter of the memory: more of the log is to be read only when they have let go of some.
    #[must_use]
    pub fn must_readers_wait(&self) -> bool {
        self.pinned_bytes() + self.lent_bytes() >= self.options.memory_bytes / 4
    }

    /// The groups with no less than their share of the index, once that takes up half of the memory: compacting them makes it
    /// smaller. Cost: a look at every group then, and nothing otherwise.
    pub fn heavy(&self) -> impl Iterator<Item = GroupId> + '_ {
        let is_much = self.index_bytes() > self.options.memory_bytes / 2;
        let logs = if is_much { &self.groups.slots[..] } else { &[] };
        let share = (self.pins.frames() / self.groups.by_id.len().max(1) as u64).max(1);
        logs.iter().flatten().filter(move |log| log.frames_len() as u64 >= share).map(|log| log.group)
    }
}
