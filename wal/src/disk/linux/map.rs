//! IMPURE: stores to files through maps, and the splitting of memory into buffers: the only unsafe code of
//! the log.
//!
//! A [`WritableMap`] is the file map that appends are stored through in that mode. It lends no slice, so that
//! a store never changes memory behind a shared reference. Nothing is read through a map: see `lane::read`.
//! Touching a page that the device refuses ends the process by SIGBUS, so a store touches only pages that are
//! locked in memory; where the system does not lock them, `store` returns `false`, and the caller writes by a
//! call. A [`Slab`] is anonymous memory. Next: `disk::linux::files` for the use of maps, `pool` for the use of slabs.
#![allow(unsafe_code)] // memory mapping has no safe form

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Advice, MmapMut, MmapRaw};

/// How many bytes from the start of a store are locked in memory at once: two system calls for all stores to
/// them.
const WINDOW_BYTES: usize = 1 << 20;
/// An upper bound on the system's page length on any supported machine; a window is a multiple of it.
const PAGE_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(WINDOW_BYTES.is_multiple_of(PAGE_BYTES_MAX), "a window is of whole pages");
const _: () = assert!(LARGE_PAGE_BYTES.is_multiple_of(PAGE_BYTES_MAX), "a large page is of whole pages");

/// A file map for stores.
#[derive(Debug)]
pub(crate) struct WritableMap {
    map: MmapRaw,
    /// Locked during a store: one thread at a time.
    window: Mutex<Window>,
}

/// The part of a map last requested to be locked in memory.
#[derive(Debug, Default)]
struct Window {
    range: Range<usize>,
    /// It is locked: none of its pages has to be read again. `false`: the system refused.
    is_locked: bool,
}

impl WritableMap {
    /// Maps the whole file. All its blocks must be allocated, or a store may end the process where the disk
    /// is full.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let map = MmapRaw::map_raw(file)?;
        // No readahead: it would cache large folios, and each small store would then write back a large one.
        map.advise(Advice::Random)?;
        Ok(Self { map, window: Mutex::default() })
    }

    /// The mapped length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Copies `bytes` to `at`. Returns `false`, and does nothing, where the pages there cannot be locked in
    /// memory: the device refuses to read them, or the process may not lock as much (RLIMIT_MEMLOCK). Two
    /// threads must not store to one place of the file at a time.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] beyond the end.
    pub(crate) fn store(&self, at: usize, bytes: &[u8]) -> io::Result<bool> {
        let end = at.checked_add(bytes.len()).filter(|end| *end <= self.len());
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if at < window.range.start || window.range.end < end {
            self.move_to(&mut window, at, end);
        }
        assert!(window.range.start <= at && end <= window.range.end, "the window holds what is stored");
        if !window.is_locked {
            return Ok(false);
        }
        // SAFETY: the range lies in the map, as was just checked; the map is shared and writable for as long as `self` lives;
        // `bytes` is memory of this process that the map, which lends no slice, does not overlap. No Rust reference to the
        // mapped range exists: there is no other map of this file.
        // No page of it is read from the device, which could end the process: they were all read, and are locked in memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(at), bytes.len()) };
        Ok(true)
    }

    /// Locks the pages from `at` to `end`, and some after them; unlocks the previous window.
    fn move_to(&self, window: &mut Window, at: usize, end: usize) {
        let from = at / PAGE_BYTES_MAX * PAGE_BYTES_MAX;
        let to = end.max(from + WINDOW_BYTES).next_multiple_of(PAGE_BYTES_MAX).min(self.len());
        assert!(from <= at && end <= to, "the window holds what is stored");
        assert!(to <= self.len(), "the window lies in the map");
        let place = |range: &Range<usize>| self.map.as_mut_ptr().wrapping_add(range.start).cast();
        let old = std::mem::replace(window, Window { range: from..to, is_locked: false });
        if old.is_locked {
            // SAFETY: the range lies in the map, which lives as long as `self`. No memory is given back by it.
            let _ = unsafe { rustix::mm::munlock(place(&old.range), old.range.len()) }; // at worst it stays locked
        }
        // SAFETY: likewise. The system reads the pages; an error of the device is an error of this call.
        window.is_locked = unsafe { rustix::mm::mlock(place(&window.range), window.range.len()) }.is_ok();
    }

    /// Makes a range durable.
    ///
    /// # Errors
    /// If the system cannot write it.
    pub(crate) fn sync(&self, at: usize, bytes: usize) -> io::Result<()> {
        assert!(at + bytes <= self.len(), "what is synced lies in the map");
        self.map.flush_range(at, bytes)
    }
}

/// The length of one of the system's large pages.
pub(crate) const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Memory split into parts of one length, each of which has one owner at a time.
#[derive(Debug)]
pub(crate) struct Slab {
    memory: MmapRaw,
    /// The offset of the first part.
    start: usize,
    part_bytes: usize,
    /// A bit for each part without an owner.
    free: AtomicU32,
    parts: u32,
}

impl Slab {
    /// Creates `parts` parts, at most 32, of `part_bytes` each, a multiple of 4 KiB. Uses whole large pages
    /// where the parts fill them and the system has some: a direct write has to look up and pin each page of
    /// its buffer.
    ///
    /// # Errors
    /// If the system has no memory.
    pub(crate) fn new(part_bytes: usize, parts: u32) -> io::Result<Arc<Self>> {
        assert!((1..=32).contains(&parts) && part_bytes.is_multiple_of(4096), "bits and pages are whole");
        let bytes = part_bytes * parts as usize;
        let is_large = bytes.is_multiple_of(LARGE_PAGE_BYTES);
        // Memory before and after the large pages is never touched, so it takes address space only.
        let memory = MmapMut::map_anon(if is_large { bytes + LARGE_PAGE_BYTES } else { bytes })?;
        let start = if is_large { memory.as_ptr().align_offset(LARGE_PAGE_BYTES) } else { 0 };
        assert!(start + bytes <= memory.len(), "all parts lie in the map");
        if is_large {
            let _ = memory.advise_range(Advice::HugePage, start, bytes); // best effort
        }
        let free = AtomicU32::new(u32::MAX >> (32 - parts));
        Ok(Arc::new(Self { memory: memory.into(), start, part_bytes, free, parts }))
    }

    /// Takes a free part, its content undefined; always the first one, which is most likely to be in the CPU
    /// cache.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Part> {
        let claim = |free: u32| (free != 0).then(|| free & (free - 1));
        let free = self.free.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim).ok()?;
        let number = free.trailing_zeros();
        assert!(number < self.parts, "only the slab's parts are free");
        Some(Part { slab: Arc::clone(self), number })
    }

    /// The total bytes of its parts.
    pub(crate) const fn bytes(&self) -> usize {
        self.part_bytes * self.parts as usize
    }

    /// Whether all parts are free.
    pub(crate) fn is_idle(&self) -> bool {
        let free = self.free.load(Ordering::Acquire).count_ones();
        assert!(free <= self.parts, "no more parts are free than there are");
        free == self.parts
    }
}

/// A part of a [`Slab`]; freed when dropped.
#[derive(Debug)]
pub(crate) struct Part {
    slab: Arc<Slab>,
    number: u32,
}

impl Part {
    fn at(&self) -> usize {
        self.slab.start + self.number as usize * self.slab.part_bytes
    }
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the part lies in the map, as `Slab::new` has asserted; the map is anonymous memory, which
        // begins as zeros, and lives as long as `slab`. This part has no other owner: its bit was taken by an
        // atomic exchange and is given back when `self` is dropped, and parts do not overlap. So only other
        // shared borrows of `self` can coexist with this one.
        unsafe { std::slice::from_raw_parts(self.slab.memory.as_ptr().add(self.at()), self.slab.part_bytes) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed mutably, so no other borrow exists, and no other part
        // covers this memory.
        unsafe {
            std::slice::from_raw_parts_mut(self.slab.memory.as_mut_ptr().add(self.at()), self.slab.part_bytes)
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let free = self.slab.free.fetch_or(1 << self.number, Ordering::Release);
        assert!(free & 1 << self.number == 0, "a part with an owner is not free");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_slab_are_apart_and_the_first_free_one_is_taken() {
        for part_bytes in [4096, LARGE_PAGE_BYTES / 4] {
            let slab = Slab::new(part_bytes, 4).unwrap();
            let mut parts: Vec<Part> = std::iter::from_fn(|| slab.take()).collect();
            assert_eq!((parts.len(), slab.bytes(), slab.is_idle()), (4, 4 * part_bytes, false));
            for (number, part) in parts.iter_mut().enumerate() {
                part.fill(number as u8);
            }
            for (number, part) in parts.iter().enumerate() {
                assert!(part.len() == part_bytes && part.iter().all(|byte| *byte == number as u8));
                assert_eq!((part.as_ptr() as usize) % 4096, 0);
            }
            let second = parts.remove(1);
            let place = second.as_ptr();
            drop((parts.pop(), second));
            assert_eq!(slab.take().unwrap().as_ptr(), place);
            drop(parts);
            assert!(slab.is_idle());
        }
    }
}
