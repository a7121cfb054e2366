//! The bytes on disk: segments, batches, and the small files of a directory.
//!
//! Not here: frames (`raftwerk_frame`), the calls that read and write these bytes.

pub(crate) mod batch;
pub(crate) mod mirrored_file;
pub(crate) mod peers_file;
pub(crate) mod segment;
