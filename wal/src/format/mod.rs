//! The bytes on disk: segments, batches, and the small files of a directory.
//!
//! Not here: frames (`raftwerk_frame`), the calls that read and write these bytes.

pub(crate) mod batch;
pub(crate) mod lsn;
pub(crate) mod manifest;
pub(crate) mod mirrored_file;
pub(crate) mod peers_file;
pub(crate) mod segment;
pub(crate) mod snapshot;

/// The format version of everything below the directory.
pub(crate) const FORMAT_VERSION: u32 = 4;
