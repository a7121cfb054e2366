//! IMPURE: names the system's files. The interface below [`OsFiles`](crate::OsFiles): each system call that
//! changes files is passed to a [`FileObserver`], if there is one.
//!
//! It lies below all code that could omit a sync, so that a model of the device sees what the kernel was
//! asked to make durable, not what the caller assumes. Not here: a model of the device (`platter`).

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;

use crate::disk::files::Durability;

/// One system call that changes files, or makes a change durable. Paths are those of the call.
#[derive(Debug)]
pub enum FileCall<'a> {
    /// A directory is created, unless it exists; with missing parents.
    CreateDir(&'a Path),
    /// An empty file was created.
    Create {
        /// Its name, which was unused.
        path: &'a Path,
        /// The file.
        file: &'a File,
    },
    /// Blocks are allocated, and the file's length set.
    Allocate {
        /// The file.
        file: &'a File,
        /// Its length.
        bytes: u64,
    },
    /// Bytes are written, by a call or through a map. A write may be partial: only the bytes done count.
    Write {
        /// The file.
        file: &'a File,
        /// The offset of the first byte.
        offset: u64,
        /// The bytes, one part after another.
        parts: &'a [IoSlice<'a>],
        /// Where they are when the call returns: on the device with `RWF_DSYNC`.
        durability: Durability,
    },
    /// All earlier writes to the file become durable.
    Sync(&'a File),
    /// Stores to a range of the file through a map become durable (`msync`); whole pages of it.
    SyncRange {
        /// The file.
        file: &'a File,
        /// The first byte.
        from: u64,
        /// The byte after the last.
        to: u64,
    },
    /// The names in the directory become durable.
    SyncDir(&'a Path),
    /// A file is renamed, replacing a file of the new name.
    Rename {
        /// Its name.
        from: &'a Path,
        /// Its new name.
        to: &'a Path,
    },
    /// A name is removed.
    Remove(&'a Path),
}

/// Receives each [`FileCall`], before and after it, on the thread that makes it. For models of the device
/// below.
pub trait FileObserver: fmt::Debug + Send + Sync {
    /// Called before the call is made. Returns the number that identifies it for [`FileObserver::end`].
    ///
    /// # Errors
    /// The call is not made, and fails with this error.
    fn begin(&self, call: &FileCall<'_>) -> io::Result<u64>;

    /// Called after the call, before its caller gets the result. `done`: the bytes written, 0 for other
    /// calls; `None` if it failed.
    ///
    /// # Errors
    /// The caller gets this error instead of the call's own result.
    fn end(&self, number: u64, call: &FileCall<'_>, done: Option<u64>) -> io::Result<()>;
}
