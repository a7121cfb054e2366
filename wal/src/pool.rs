//! Page-aligned buffers in a few sizes, handed out by the lane and returned by whoever drops the last slice.
//!
//! Returning is lock-free, since it may happen on any thread. What is not here: what a batch looks like (`batch`).

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use memmap2::MmapMut;

/// Sizes kept for reuse: 16 KiB × 4 per step up to 4 MiB. Longer buffers are made to measure and not kept.
const CLASS_BYTES: [usize; 5] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const PAGE_BYTES: usize = 4096;

/// The reserve of unused buffers.
#[derive(Debug)]
pub(crate) struct BufferPool {
    classes: [ArrayQueue<MmapMut>; CLASS_BYTES.len()],
    kept_bytes_max: usize,
    kept_bytes: AtomicUsize,
    taken_bytes: AtomicUsize,
}

impl BufferPool {
    /// A pool that keeps at most `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        let classes = CLASS_BYTES.map(|bytes| ArrayQueue::new((bytes_max / bytes).max(2)));
        Arc::new(Self {
            classes,
            kept_bytes_max: bytes_max.max(CLASS_BYTES[4]),
            kept_bytes: AtomicUsize::new(0),
            taken_bytes: AtomicUsize::new(0),
        })
    }

    /// A buffer of at least `bytes`; its content is whatever was there.
    ///
    /// # Panics
    /// If the system has no memory for it, like every allocation.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> PooledBuffer {
        self.try_take(bytes).expect("out of memory for a batch buffer")
    }

    /// Bytes of buffers that are in use.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed) as u64
    }

    /// Bytes of buffers that wait to be used again.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Relaxed) as u64
    }

    fn try_take(self: &Arc<Self>, bytes: usize) -> io::Result<PooledBuffer> {
        let class = CLASS_BYTES.iter().position(|&class| class >= bytes);
        let reused = class.and_then(|class| self.classes[class].pop());
        if let Some(reused) = &reused {
            self.kept_bytes.fetch_sub(reused.len(), Ordering::Relaxed);
        }
        let memory = match (reused, class) {
            (Some(memory), _) => memory,
            (None, Some(class)) => MmapMut::map_anon(CLASS_BYTES[class])?,
            (None, None) => MmapMut::map_anon(bytes.next_multiple_of(PAGE_BYTES))?,
        };
        self.taken_bytes.fetch_add(memory.len(), Ordering::Relaxed);
        Ok(PooledBuffer { memory: Some(memory), class, pool: Arc::clone(self) })
    }
}

/// A page-aligned buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub(crate) struct PooledBuffer {
    memory: Option<MmapMut>,
    class: Option<usize>,
    pool: Arc<BufferPool>,
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
        let (pool, bytes) = (&self.pool, memory.len());
        pool.taken_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let Some(class) = self.class else { return };
        // Counted first: so it is never below what is there.
        let kept = pool.kept_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if kept > pool.kept_bytes_max || pool.classes[class].push(memory).is_err() {
            pool.kept_bytes.fetch_sub(bytes, Ordering::Relaxed); // it is freed here
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_comes_back_when_its_last_slice_is_dropped() {
        let pool = BufferPool::new(1 << 20);
        let mut buffer = pool.take(20_000);
        assert_eq!((buffer.len(), buffer.as_ptr() as usize % PAGE_BYTES), (64 << 10, 0));
        buffer[7] = 9;
        let place = buffer.as_ptr();
        let bytes = bytes::Bytes::from_owner(buffer);
        let slice = bytes.slice(7..8);
        drop(bytes);
        assert_eq!((slice[0], pool.classes[1].len()), (9, 0));
        drop(slice);
        assert_eq!(pool.take(64 << 10).as_ptr(), place);
        assert_eq!(pool.take(5 << 20).len(), 5 << 20);
    }
}
