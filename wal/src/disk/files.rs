//! Single calls on files, and the ways to write and to open them.
//!
//! Not here: an implementation. Next: `linux::files`, and `simulated` for tests and simulation.

use std::fmt;
use std::io::{self, IoSlice};

/// How batches reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendMode {
    /// `O_DIRECT` with `RWF_DSYNC`: from the batch buffer to the device, without a copy in the kernel.
    Direct,
    /// `pwritev2` through the page cache, then `fdatasync`. Used where `O_DIRECT` is refused.
    Buffered,
    /// Stores through a map of the file, then `msync` of the stored range. Cheapest where little is synced,
    /// since a store is no system call; most expensive where everything is, since each sync write-protects
    /// each page again.
    Mapped,
}

impl AppendMode {
    /// Every mode; all give the same guarantees.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Buffered, Self::Mapped];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Buffered => "buffered",
            Self::Mapped => "mapped",
        }
    }
}

/// Where written bytes are when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Perhaps in the page cache only: the file's next sync makes them durable.
    Buffered,
    /// On the device.
    Synced,
}

/// How an opened file will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Aligned appends in the append mode.
    Append,
    /// Reads, and writes of any alignment, through the page cache.
    Plain,
    /// Large reads, past the page cache where the system allows it. Aligned like appends.
    Scan,
    /// Large writes before all others, likewise past the page cache: filling a file in large chunks must
    /// leave no large folios in the cache, or every small write that follows would make the device write a
    /// large one.
    Fill,
}

/// Single calls on files below one directory. Paths are relative to it, with `/` between parts.
///
/// No call is atomic or durable unless stated. Each may fail with any [`io::Error`].
#[allow(
    clippy::len_without_is_empty,
    reason = "`len` is the length of one file, not of the trait's implementor"
)]
#[allow(clippy::missing_errors_doc, reason = "said once above")]
pub trait Files: Send + Sync + 'static {
    /// An open file. Clones share it.
    type File: Clone + fmt::Debug + Send + Sync + 'static;

    /// Creates an empty file for [`Access::Plain`], in place of one of that name, with `bytes` of space
    /// allocated to it (its length is then `bytes`). Never truncates an existing file: that one only loses
    /// its name.
    fn create(&self, path: &str, bytes: u64) -> io::Result<Self::File>;
    /// Opens an existing file.
    fn open(&self, path: &str, access: Access) -> io::Result<Self::File>;
    /// Writes all of `parts`, one after another, from `offset` on; `durability` is what holds of them when it
    /// returns.
    /// For a file opened with [`Access::Append`], every part is aligned to 4 KiB in memory, length and offset.
    fn write_at(
        &self,
        file: &Self::File,
        offset: u64,
        parts: &[IoSlice<'_>],
        durability: Durability,
    ) -> io::Result<()>;
    /// Whether a file opened with [`Access::Append`] accepts parts of any alignment, through the page cache.
    fn appends_through_cache(&self) -> bool {
        false
    }
    /// Drops the cached pages of a file that is to be written anew, if appends bypass the cache. Best effort.
    fn forget_cached(&self, _file: &Self::File) {}
    /// Drops the file's clean pages from the page cache, so that the next read comes from the device. Dirty
    /// pages are kept. Best effort.
    fn drop_cached(&self, _file: &Self::File) {}
    /// Makes all writes to the file durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Creates the directory unless it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Renames the file, replacing a file of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name; its bytes remain as long as it is open or mapped.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Gives the file a second name, which must be unused, perhaps in another directory. Fails with
    /// [`io::ErrorKind::Unsupported`] or another error where the file system supports no hard links.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;
    /// Reads from `offset` on; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// The file's length in bytes.
    fn len(&self, file: &Self::File) -> io::Result<u64>;
    /// The names of the files in `dir`, in any order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// The names of the directories in `dir`, in any order; `""` is the root of all paths.
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>>;
    /// As [`Files::read_at`], but only from the page cache: as many bytes, from `offset` on, as need no
    /// device. May always return none.
    fn read_cached(&self, _file: &Self::File, _offset: u64, _into: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
    /// Runs `task` with every number below `count`: started in that order, perhaps in parallel.
    fn spread(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
    /// Takes the lock file, creating it if need be; held until the last clone is dropped. Fails with
    /// [`io::ErrorKind::WouldBlock`] if it is already held.
    fn lock(&self, path: &str) -> io::Result<Self::File>;
}
