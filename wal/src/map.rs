//! IMPURE: memory-mapping sealed files, and knowing when nobody looks any more; and cutting memory into buffers: the only
//! unsafe code of the log.
//!
//! Of maps there are two kinds: [`Mapped`], read-only, of sealed files, which nobody writes, cuts or extends while a
//! slice of the map lives; and
//! [`WritableMap`], through which appends are stored where that is the mode. It lends no slice, so that a store never changes
//! memory that somebody looks at as if it could not change. A [`Slab`] is memory without a file. Next: `segments` for who holds a
//! map, `pool` for who holds a slab.
#![allow(unsafe_code)] // memory mapping has no safe form

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapMut, MmapRaw};

/// A whole file as shared bytes. Slices are cheap clones; [`Mapped::release`] tells whether any is still alive.
#[derive(Debug)]
pub struct Mapped {
    bytes: Bytes,
    alive: Arc<()>,
}

struct Owner<T> {
    content: T,
    _alive: Arc<()>, // dropped after `content`, so that a sole `alive` proves the content gone
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Owner<T> {
    fn as_ref(&self) -> &[u8] {
        self.content.as_ref()
    }
}

impl Mapped {
    /// Shares the bytes of `content`, which lives until the last slice is dropped.
    pub fn new<T: AsRef<[u8]> + Send + 'static>(content: T) -> Self {
        let alive = Arc::new(());
        let bytes = Bytes::from_owner(Owner { content, _alive: Arc::clone(&alive) });
        Self { bytes, alive }
    }

    /// The whole file.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Lets go of the file; `true` if no slice of it is alive anywhere, so that its bytes may change.
    #[must_use]
    pub fn release(self) -> bool {
        drop(self.bytes);
        Arc::into_inner(self.alive).is_some()
    }
}

/// Maps a whole file read-only.
///
/// # Errors
/// If the system refuses, for instance for want of address space.
pub(crate) fn map_file(file: &File) -> io::Result<Mapped> {
    // SAFETY: the file lies in a directory that a lock file reserves for this engine, and the lane asks for a map
    // only of sealed segments: no write to them is queued or in flight. A sealed segment is overwritten only after
    // `Mapped::release` has proven that no slice is left; if one is left its name is removed, which keeps the mapped
    // file as it is. Log files are fully allocated before use and never cut, so no page is missing behind the map.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Mapped::new(map))
}

/// A file that is stored to through memory.
#[derive(Debug)]
pub(crate) struct WritableMap(MmapRaw);

impl WritableMap {
    /// Maps the whole file. All of it must be allocated, or a store may end the process where the disk is full.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let map = MmapRaw::map_raw(file)?;
        // What is near is not read ahead: in large pieces it would be written back in large pieces.
        map.advise(Advice::Random)?;
        Ok(Self(map))
    }

    /// How many bytes are mapped.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Copies `bytes` to `at`. Not for two threads at one place of the file at a time.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] beyond the end.
    pub(crate) fn store(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the range lies in the map, as was just checked; the map is shared and writable for as long as `self` lives;
        // `bytes` is memory of this process that the map, which lends no slice, does not overlap. No Rust reference to the
        // mapped range exists: other maps of this file are made only when nothing is written to it any more (`map_file`).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_mut_ptr().add(at), bytes.len()) };
        Ok(())
    }

    /// Makes a range durable.
    ///
    /// # Errors
    /// If the system could not write it.
    pub(crate) fn sync(&self, at: usize, bytes: usize) -> io::Result<()> {
        self.0.flush_range(at, bytes)
    }
}

/// A large page of the system's.
pub(crate) const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Memory cut into parts of one length, each of which has one owner at a time.
#[derive(Debug)]
pub(crate) struct Slab {
    memory: MmapRaw,
    /// Where the first part begins.
    start: usize,
    part_bytes: usize,
    /// A bit for each part that nobody has.
    free: AtomicU32,
    parts: u32,
}

impl Slab {
    /// So many parts, at most 32, of so many bytes, a multiple of 4 KiB. Whole large pages are taken where the parts fill them and
    /// the system has some: a write past the page cache has to look up and pin each page that it comes from.
    ///
    /// # Errors
    /// If the system has no memory.
    pub(crate) fn new(part_bytes: usize, parts: u32) -> io::Result<Arc<Self>> {
        assert!((1..=32).contains(&parts) && part_bytes.is_multiple_of(4096), "bits and pages are whole");
        let bytes = part_bytes * parts as usize;
        let is_large = bytes.is_multiple_of(LARGE_PAGE_BYTES);
        // What lies before and behind the large pages is never touched, so it takes address space only.
        let memory = MmapMut::map_anon(if is_large { bytes + LARGE_PAGE_BYTES } else { bytes })?;
        let start = if is_large { memory.as_ptr().align_offset(LARGE_PAGE_BYTES) } else { 0 };
        assert!(start + bytes <= memory.len(), "all parts lie in the map");
        if is_large {
            let _ = memory.advise_range(Advice::HugePage, start, bytes); // a wish
        }
        let free = AtomicU32::new(u32::MAX >> (32 - parts));
        Ok(Arc::new(Self { memory: memory.into(), start, part_bytes, free, parts }))
    }

    /// A part that nobody has, with whatever was in it; always the first one, which is the likeliest to be in the processor's
    /// cache.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Part> {
        let claim = |free: u32| (free != 0).then(|| free & (free - 1));
        let free = self.free.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim).ok()?;
        Some(Part { slab: Arc::clone(self), number: free.trailing_zeros() })
    }

    /// Bytes of all its parts.
    pub(crate) const fn bytes(&self) -> usize {
        self.part_bytes * self.parts as usize
    }

    /// Whether nobody has a part of it.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.load(Ordering::Acquire).count_ones() == self.parts
    }
}

/// A part of a [`Slab`]; it is free again when this is dropped.
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
        // SAFETY: the part lies in the map, as `Slab::new` has asserted; the map is anonymous memory, which begins as zeros, and
        // lives as long as `slab`. Nobody else has this part: its bit was taken by an atomic exchange and is given back when
        // `self` is dropped, and parts do not overlap. So whoever borrows `self` is alone with those who borrow it likewise.
        unsafe { std::slice::from_raw_parts(self.slab.memory.as_ptr().add(self.at()), self.slab.part_bytes) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed by nobody else now, and no other part covers this memory.
        unsafe {
            std::slice::from_raw_parts_mut(self.slab.memory.as_mut_ptr().add(self.at()), self.slab.part_bytes)
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.slab.free.fetch_or(1 << self.number, Ordering::Release);
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

    #[test]
    fn a_map_is_released_only_when_no_slice_is_alive() {
        let held = Mapped::new(vec![1, 2, 3]);
        let slice = held.bytes().slice(1..);
        assert!(!held.release());
        assert_eq!(slice, [2, 3][..]);
        assert!(Mapped::new(vec![1]).release());
    }
}
