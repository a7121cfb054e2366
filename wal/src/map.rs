//! IMPURE: memory-mapping sealed files, and knowing when nobody looks any more: the only unsafe code of the log.
//!
//! Two kinds: [`Mapped`], read-only, of sealed files, which nobody writes, cuts or extends while a slice of the map lives; and
//! [`WritableMap`], through which appends are stored where that is the mode. It lends no slice, so that a store never changes
//! memory that somebody looks at as if it could not change. Next: `segments` for who holds a map.
#![allow(unsafe_code)] // memory mapping has no safe form

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapRaw};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_released_only_when_no_slice_is_alive() {
        let held = Mapped::new(vec![1, 2, 3]);
        let slice = held.bytes().slice(1..);
        assert!(!held.release());
        assert_eq!(slice, [2, 3][..]);
        assert!(Mapped::new(vec![1]).release());
    }
}
