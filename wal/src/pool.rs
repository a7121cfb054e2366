//! Page-aligned buffers in a few sizes, taken by the lane and returned when the last slice is dropped.
//!
//! Returning is lock-free, since it may happen on any thread. Large buffers are parts of slabs (`map`): of
//! large pages, and the first free one is reused first. Not here: the layout of a batch (`batch`).

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use memmap2::MmapMut;

use crate::disk::linux::map::{LARGE_PAGE_BYTES, Part, Slab};

/// Sizes kept for reuse. Longer buffers are allocated to size and not kept.
const SMALL_BYTES: [usize; 2] = [16 << 10, 64 << 10];
const LARGE_BYTES: [usize; 4] = [256 << 10, 512 << 10, 1 << 20, 4 << 20];
const PAGE_BYTES: usize = 4096;

const _: () = assert!(PAGE_BYTES == crate::format::segment::PAGE_BYTES, "a buffer begins where a page may");
const _: () = assert!(SMALL_BYTES[0] < SMALL_BYTES[1] && SMALL_BYTES[1] < LARGE_BYTES[0], "sizes ascend");
const _: () = assert!(
    LARGE_BYTES[0] < LARGE_BYTES[1] && LARGE_BYTES[1] < LARGE_BYTES[2] && LARGE_BYTES[2] < LARGE_BYTES[3],
    "sizes ascend"
);
const _: () = assert!(LARGE_PAGE_BYTES.div_ceil(LARGE_BYTES[0]) <= 32, "a slab has a bit for each part");

/// The pool of unused buffers.
#[derive(Debug)]
pub(crate) struct BufferPool {
    shared: Arc<Shared>,
    slabs: [Vec<Arc<Slab>>; LARGE_BYTES.len()],
    /// Whether slabs consist of large pages: not where one slab would be a large share of what may be kept.
    has_large_pages: bool,
}

/// The part of the pool that a buffer needs to return to it.
#[derive(Debug)]
struct Shared {
    small: [ArrayQueue<MmapMut>; SMALL_BYTES.len()],
    kept_bytes_max: usize,
    kept_bytes: AtomicUsize,
    taken_bytes: AtomicUsize,
}

impl Shared {
    /// Kept memory is taken, or freed.
    fn unkeep(&self, bytes: usize) {
        let kept = self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(kept >= bytes, "memory that is taken or freed was kept");
    }
}

impl BufferPool {
    /// A pool that keeps at most `bytes_max`, or 4 MiB if that is more.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let small = SMALL_BYTES.map(|bytes| ArrayQueue::new((bytes_max / bytes).max(2)));
        let shared = Shared {
            small,
            kept_bytes_max: bytes_max.max(4 << 20),
            kept_bytes: AtomicUsize::new(0),
            taken_bytes: AtomicUsize::new(0),
        };
        let has_large_pages = bytes_max >= 4 * LARGE_PAGE_BYTES;
        Self { shared: Arc::new(shared), slabs: Default::default(), has_large_pages }
    }

    /// A buffer of at least `bytes`; its content is undefined.
    ///
    /// # Panics
    /// If the system has no memory for it, like every allocation.
    pub(crate) fn take(&mut self, bytes: usize) -> PooledBuffer {
        let memory = self.memory(bytes).expect("out of memory for a batch buffer");
        assert!(memory.len() >= bytes, "a buffer is as long as requested");
        assert!(memory.len().is_multiple_of(PAGE_BYTES), "a buffer is whole pages");
        assert!(memory.as_ptr().addr().is_multiple_of(PAGE_BYTES), "a buffer begins at a page");
        self.shared.taken_bytes.fetch_add(memory.len(), Ordering::Relaxed);
        PooledBuffer { memory: Some(memory), shared: Arc::clone(&self.shared) }
    }

    /// Bytes of buffers that are in use.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.shared.taken_bytes.load(Ordering::Relaxed) as u64
    }

    /// Bytes of buffers kept for reuse.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.shared.kept_bytes.load(Ordering::Relaxed) as u64
    }

    /// Frees slabs without a part in use, if more is kept than allowed. Small buffers are freed as they
    /// return.
    pub(crate) fn trim(&mut self) {
        let Self { shared, slabs, .. } = self;
        for slabs in slabs.iter_mut().rev() {
            while shared.kept_bytes.load(Ordering::Relaxed) > shared.kept_bytes_max {
                let Some(idle) = slabs.iter().rposition(|slab| slab.is_idle()) else { break };
                let bytes = slabs.remove(idle).bytes();
                shared.unkeep(bytes);
            }
        }
    }

    fn memory(&mut self, bytes: usize) -> io::Result<Memory> {
        let shared = &*self.shared;
        if let Some(class) = SMALL_BYTES.iter().position(|small| *small >= bytes) {
            let Some(memory) = shared.small[class].pop() else {
                return Ok(Memory::Small(MmapMut::map_anon(SMALL_BYTES[class])?, class));
            };
            shared.unkeep(memory.len());
            return Ok(Memory::Small(memory, class));
        }
        let Some(class) = LARGE_BYTES.iter().position(|large| *large >= bytes) else {
            return Ok(Memory::Measured(MmapMut::map_anon(bytes.next_multiple_of(PAGE_BYTES))?));
        };
        let part_bytes = LARGE_BYTES[class];
        let slabs = &mut self.slabs[class];
        let part = loop {
            if let Some(part) = slabs.iter().find_map(Slab::take) {
                break part;
            }
            let parts = if self.has_large_pages { LARGE_PAGE_BYTES.div_ceil(part_bytes) } else { 1 };
            let slab = Slab::new(part_bytes, parts as u32)?;
            shared.kept_bytes.fetch_add(slab.bytes(), Ordering::Relaxed);
            slabs.push(slab);
        };
        shared.unkeep(part_bytes);
        assert!(part.len() == part_bytes, "a slab's parts have its size");
        Ok(Memory::Part(part))
    }
}

#[derive(Debug)]
enum Memory {
    Small(MmapMut, usize),
    Part(Part),
    Measured(MmapMut),
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(memory, _) | Self::Measured(memory) => memory,
            Self::Part(part) => part,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(memory, _) | Self::Measured(memory) => memory,
            Self::Part(part) => part,
        }
    }
}

/// A page-aligned buffer that returns to its pool when dropped.
#[derive(Debug)]
pub(crate) struct PooledBuffer {
    memory: Option<Memory>,
    shared: Arc<Shared>,
}

const HELD: &str = "the memory is there until the buffer is dropped";

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_deref().expect(HELD)
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().expect(HELD)
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let (shared, bytes) = (&self.shared, memory.len());
        let taken = shared.taken_bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(taken >= bytes, "a buffer that returns was taken");
        // Added before the buffer is available to others: so the count is never below what is kept.
        match memory {
            Memory::Small(memory, class) => {
                let kept = shared.kept_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if kept > shared.kept_bytes_max || shared.small[class].push(memory).is_err() {
                    shared.unkeep(bytes); // it is freed here
                }
            }
            Memory::Part(part) => {
                shared.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
                drop(part);
            }
            Memory::Measured(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_comes_back_when_its_last_slice_is_dropped() {
        for (asked, bytes) in [(20_000, 64 << 10), (300_000, 512 << 10)] {
            let mut pool = BufferPool::new(16 << 20);
            let mut buffer = pool.take(asked);
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % PAGE_BYTES), (bytes, 0));
            buffer[7] = 9;
            let place = buffer.as_ptr();
            let shared = bytes::Bytes::from_owner(buffer);
            let slice = shared.slice(7..8);
            drop(shared);
            let kept = pool.kept_bytes();
            assert_eq!((slice[0], pool.taken_bytes()), (9, bytes as u64));
            drop(slice);
            assert_eq!((pool.taken_bytes(), pool.kept_bytes()), (0, kept + bytes as u64));
            assert_eq!(pool.take(bytes).as_ptr(), place);
        }
        assert_eq!(BufferPool::new(0).take(5 << 20).len(), 5 << 20);
    }

    #[test]
    fn what_is_kept_beyond_the_bound_is_freed_when_nobody_has_a_part_of_it() {
        for bytes_max in [0, 8 << 20] {
            let mut pool = BufferPool::new(bytes_max);
            let mut held: Vec<PooledBuffer> = (0..48).map(|_| pool.take(1 << 20)).collect();
            assert_eq!((pool.taken_bytes(), pool.kept_bytes()), (48 << 20, 0));
            let last = held.pop();
            drop(held);
            pool.trim();
            let kept_max = (bytes_max as u64).max(4 << 20);
            assert!(pool.kept_bytes() <= kept_max && pool.kept_bytes() > kept_max - (2 << 20));
            drop(last);
            pool.trim();
            assert_eq!((pool.taken_bytes(), pool.kept_bytes()), (0, kept_max));
        }
    }
}
