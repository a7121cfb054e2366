//! The background thread's jobs, each with the caller's token, and their results: on snapshot files and peer
//! notes, and scrubs.
//!
//! Not here: running a job (`run`), the calls on snapshot files (`snapshots`), their layout
//! (`format::snapshot`).

pub(crate) mod catalog;
pub(crate) mod check;
pub(crate) mod pace;
pub(crate) mod run;
pub(crate) mod scrub;
pub(crate) mod snapshots;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raftwerk_frame::{Configuration, EntryId, GroupId};

use crate::background::catalog::SnapshotCatalog;
use crate::background::check::{CheckAt, SnapshotsChecked};
use crate::background::pace::Pace;
use crate::background::scrub::{ScrubChunk, Scrubbed};
use crate::error::SnapshotError;
use crate::format::peers_file::PeerNotes;
use crate::format::snapshot::SnapshotMeta;

/// Writes a state machine's checkpoint. Runs on the snapshot thread.
pub type SnapshotSource = Box<dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send>;
/// Reads a verified snapshot's body and returns the value built from it.
pub type SnapshotReader =
    Box<dyn FnOnce(&mut dyn io::Read, &SnapshotMeta) -> io::Result<Box<dyn Any + Send>> + Send>;

/// A job of the snapshot thread: on the snapshot files of one group, on the peer notes, or a scrub.
#[derive(Debug)]
pub struct SnapshotJob {
    lane: u16,
    token: u64,
    group: GroupId,
    catalog: Arc<SnapshotCatalog>,
    pace: Arc<Pace>,
    work: SnapshotWork,
}

pub(crate) enum SnapshotWork {
    Save { id: EntryId, configuration: Configuration, source: SnapshotSource },
    ReadChunk { id: EntryId, offset: u64, bytes: usize },
    WriteChunk { id: EntryId, offset: u64, chunk: Bytes },
    Finish { id: EntryId, bytes: u64 },
    Load { with: SnapshotReader },
    DropIncoming,
    Drop,
    Note { notes: PeerNotes },
    Scrub { chunk: ScrubChunk },
    Check { at: CheckAt, bytes: u64 },
}

impl SnapshotJob {
    /// A job of a lane, with the lane's catalog and pace. `token` comes back with the result.
    pub(crate) const fn new(
        lane: u16,
        (token, group): (u64, GroupId),
        catalog: Arc<SnapshotCatalog>,
        pace: Arc<Pace>,
        work: SnapshotWork,
    ) -> Self {
        Self { lane, token, group, catalog, pace, work }
    }

    /// Whether it renames a snapshot file to the name of a complete one.
    #[must_use]
    pub const fn names(&self) -> bool {
        matches!(self.work, SnapshotWork::Save { .. } | SnapshotWork::Finish { .. })
    }

    /// Whether it is a save, which others may overtake.
    #[must_use]
    pub const fn is_save(&self) -> bool {
        matches!(self.work, SnapshotWork::Save { .. })
    }

    /// The group that its files belong to.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        self.group
    }

    pub(crate) fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    /// Whether it may run while `earlier` jobs of the lane wait, or while the first of them, a save, pauses
    /// between two steps. A save or a scrub never overtakes; jobs of one group never overtake each other. So
    /// a transfer goes on while the checkpoint of another group is written.
    pub fn may_overtake<'a>(&self, earlier: impl IntoIterator<Item = &'a Self>) -> bool {
        let is_bulk = matches!(
            self.work,
            SnapshotWork::Save { .. } | SnapshotWork::Scrub { .. } | SnapshotWork::Check { .. }
        );
        !is_bulk && earlier.into_iter().all(|earlier| earlier.group != self.group)
    }
}

impl fmt::Debug for SnapshotWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Save { id, .. } => write!(f, "Save({id})"),
            Self::ReadChunk { id, offset, bytes } => write!(f, "ReadChunk({id}, {offset}, {bytes})"),
            Self::WriteChunk { id, offset, chunk } => {
                write!(f, "WriteChunk({id}, {offset}, {})", chunk.len())
            }
            Self::Finish { id, .. } => write!(f, "Finish({id})"),
            Self::Load { .. } => f.write_str("Load"),
            Self::DropIncoming => f.write_str("DropIncoming"),
            Self::Drop => f.write_str("Drop"),
            Self::Scrub { chunk } => write!(f, "Scrub({chunk:?})"),
            Self::Check { at, bytes } => write!(f, "Check({at:?}, {bytes})"),
            Self::Note { notes } => write!(f, "Note({} peers, {:?})", notes.peers.len(), notes.support),
        }
    }
}

/// A completed job on snapshot files.
#[derive(Debug)]
pub struct BackgroundDone {
    /// The caller's token.
    pub token: u64,
    /// The group that the files belong to.
    pub group: GroupId,
    /// Its result.
    pub result: Result<BackgroundOutput, SnapshotError>,
}

/// The output of a job on snapshot files.
pub enum BackgroundOutput {
    /// The snapshot is complete and durable; older ones of the group are gone.
    Saved(SnapshotMeta),
    /// Bytes of a snapshot file; fewer than requested only at its end.
    Chunk(Bytes),
    /// The chunk is written (not yet durable); the next one begins here.
    Written {
        /// Bytes received so far.
        next_offset: u64,
    },
    /// The transferred snapshot is verified and durable; older ones of the group are gone.
    Finished(SnapshotMeta),
    /// The newest snapshot was read.
    Loaded {
        /// The snapshot that was read.
        meta: SnapshotMeta,
        /// The reader's result.
        value: Box<dyn Any + Send>,
    },
    /// The group has no snapshot files any more, or (dropping an incoming one) no unfinished ones.
    Dropped,
    /// The peer notes are durable.
    Noted,
    /// Part of a segment was scrubbed; `None` if the segment was freed meanwhile.
    Scrubbed(Option<Scrubbed>),
    /// Some of the snapshot files were scrubbed.
    Checked(SnapshotsChecked),
}

impl fmt::Debug for BackgroundOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Saved(meta) => f.debug_tuple("Saved").field(meta).finish(),
            Self::Chunk(bytes) => write!(f, "Chunk({} bytes)", bytes.len()),
            Self::Written { next_offset } => write!(f, "Written({next_offset})"),
            Self::Finished(meta) => f.debug_tuple("Finished").field(meta).finish(),
            Self::Loaded { meta, .. } => f.debug_tuple("Loaded").field(meta).finish_non_exhaustive(),
            Self::Dropped => f.write_str("Dropped"),
            Self::Noted => f.write_str("Noted"),
            Self::Scrubbed(seen) => f.debug_tuple("Scrubbed").field(seen).finish(),
            Self::Checked(seen) => f.debug_tuple("Checked").field(seen).finish(),
        }
    }
}
