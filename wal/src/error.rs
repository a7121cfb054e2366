//! The errors, by what the caller may do next. Next: `lane` for where each arises.

use std::io;
use std::sync::Arc;

use raftwerk_frame::{GroupId, Index};

use crate::index::frame::Place;

/// Why a log did not open. The disk is unchanged unless stated otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another engine holds the directory's lock.
    #[error("the log directory is in use by another engine")]
    InUse,
    /// The format version is unknown to this build; it may be a newer one.
    #[error("{file}: format version {found}, but this build knows version {known}")]
    Version {
        /// The file that contains the version.
        file: String,
        /// Its version.
        found: u32,
        /// The version of this build.
        known: u32,
    },
    /// The log was made with another number of lanes. Open it with `on_disk`.
    #[error("the log has {on_disk} lanes, not {wanted}")]
    LaneCount {
        /// The number it was made with.
        on_disk: u16,
        /// The number asked for.
        wanted: u16,
    },
    /// Bytes that were once durable are damaged or gone. Nothing was cut off; the log must be repaired from
    /// its peers.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The damaged file, relative to the log directory.
        file: String,
        /// Where the damage was noticed: the start of the batch, or the first missing byte.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
        /// Groups with frames still identifiable in the damaged place. Empty: unknown, so any group of the
        /// lane.
        groups: Vec<GroupId>,
    },
    /// The system refused a call.
    #[error("{file}: {source}")]
    Io {
        /// The file or directory, relative to the log directory.
        file: String,
        /// The system's error.
        source: io::Error,
    },
    /// The options contradict each other or the limits of the format.
    #[error("bad lane options: {0}")]
    Options(&'static str),
}

impl OpenError {
    pub(crate) fn io(file: &str) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { file: file.to_owned(), source }
    }

    pub(crate) fn corrupt(file: &str, offset: u64, what: &'static str) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, what, groups: Vec::new() }
    }
}

/// A write or sync failed once. What the device holds is unknown, so the lane reports nothing as durable ever
/// again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the lane is poisoned since a write failed: {reason}")]
pub struct Poisoned {
    /// The system's error of the first failed call.
    pub reason: Arc<str>,
}

/// Why the log did not accept an append, or did not return an entry.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// Too much is queued. Nothing changed: poll, then try again.
    #[error("the lane's queue is full")]
    Busy,
    /// The disk is full. Nothing changed; appends are accepted again once there is free space.
    #[error("the disk is full")]
    StorageFull,
    /// The frame is longer than the lane allows.
    #[error("a frame of {bytes} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// The frame's length in bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The entries would leave a hole after the log's last one.
    #[error("entries from {first} do not follow the last, {last}")]
    Gap {
        /// The last index of the log.
        last: Index,
        /// The first index that was to be appended.
        first: Index,
    },
    /// The entries are no longer in the log.
    #[error("entries up to {compacted} are compacted")]
    Compacted {
        /// The last compacted index.
        compacted: Index,
    },
    /// The frame holds no entries, or belongs to another group; or it holds payloads and this is a witness's
    /// log, or the reverse.
    #[error("the frame does not belong here")]
    Frame,
    /// A witness's log holds no payloads.
    #[error("the payloads from {first} on are withheld here")]
    Withheld {
        /// The first entry that was requested.
        first: Index,
    },
    /// The place is not in the log (any more).
    #[error("the place is not in the log")]
    Gone,
    /// The file's bytes there are not the ones written, however often they are read; or the device refuses to
    /// read them. The lane is not poisoned: only that place is damaged, and the lane goes on.
    #[error("{file} is damaged at byte {offset}")]
    Damaged {
        /// The file, relative to the log directory.
        file: String,
        /// Where the damaged bytes begin.
        offset: u64,
        /// The place that was to be read.
        place: Place,
    },
    /// See [`Poisoned`].
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why a job on snapshot files failed. Existing snapshots are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no complete snapshot of the group, or none of that id.
    #[error("there is no such snapshot")]
    Missing,
    /// The file's bytes are not what was written.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file, relative to the log directory.
        file: String,
        /// Where the damage was noticed.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A chunk does not begin where the last one ended. Go on from `expected`.
    #[error("the next chunk must begin at byte {expected}")]
    Offset {
        /// How many bytes the file holds.
        expected: u64,
    },
    /// The transferred file is a good snapshot, but not the announced one.
    #[error("the snapshot is not the announced one")]
    Unexpected,
    /// The closure that writes or reads the snapshot panicked.
    #[error("the state machine panicked")]
    Panicked,
    /// The system, or the closure, returned an error.
    #[error(transparent)]
    Io(#[from] io::Error),
}
