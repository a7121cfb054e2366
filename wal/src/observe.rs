//! IMPURE: it names the system's files. The seam below [`OsFiles`](crate::OsFiles): each system call that changes files is shown to a
//! [`FileObserver`], if there is one.
//!
//! It lies below everything that could forget a sync, so that a model of the device sees what the kernel was asked to make durable,
//! and not what the caller believes. What is not here: a model of the device (`platter`).

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;

/// One system call that changes files, or makes a change durable. Paths are those of the call.
#[derive(Debug)]
pub enum FileCall<'a> {
    /// A directory comes into being, unless it is there; so may those above it.
    CreateDir(&'a Path),
    /// An empty file has come into being.
    Create {
        /// Its name, which no file had.
        path: &'a Path,
        /// The file.
        file: &'a File,
    },
    /// Blocks are allocated, and the file has this length.
    Allocate {
        /// The file.
        file: &'a File,
        /// Its length.
        bytes: u64,
    },
    /// Bytes are written, by a call or through a map. What is done counts, which may be less than all.
    Write {
        /// The file.
        file: &'a File,
        /// From where on.
        offset: u64,
        /// The bytes, one part after another.
        parts: &'a [IoSlice<'a>],
        /// They are on the device when the call returns (`RWF_DSYNC`).
        durable: bool,
    },
    /// What was written to the file before becomes durable.
    Sync(&'a File),
    /// What was stored to a part of the file through a map becomes durable (`msync`); whole pages of it.
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
    /// A file gets another name, in place of a file of that name.
    Rename {
        /// Its name.
        from: &'a Path,
        /// Its new name.
        to: &'a Path,
    },
    /// A name goes.
    Remove(&'a Path),
}

/// Is shown each [`FileCall`], before and after, on the thread that makes it. For models of the device below.
pub trait FileObserver: fmt::Debug + Send + Sync {
    /// Before the call is made. Gives the number by which [`FileObserver::end`] knows it.
    ///
    /// # Errors
    /// The call is not made, and ends with this.
    fn begin(&self, call: &FileCall<'_>) -> io::Result<u64>;

    /// After it was made, and before the caller learns of it. `done`: the bytes written, 0 of what is no write; `None` if it failed.
    ///
    /// # Errors
    /// The caller gets this instead of the call's own result.
    fn end(&self, number: u64, call: &FileCall<'_>, done: Option<u64>) -> io::Result<()>;
}
