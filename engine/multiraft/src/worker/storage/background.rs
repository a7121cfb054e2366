//! The jobs of a worker that the disk's background thread does, and what each is for.

use std::time::Duration;

use raftwerk_frame::{GroupId, NodeId};
use raftwerk_wal::{GroupSlot, PeerNote};
use tokio::sync::oneshot;

use crate::api::error::{ReplaceError, ReviveError};
use crate::node::request::Removed;

/// The purpose of a background job.
pub(in crate::worker) enum Work {
    Save { slot: GroupSlot, group: GroupId },
    ReadChunk { group: GroupId, to: NodeId, epoch: u64, bytes: u64 },
    WriteChunk { group: GroupId, serial: u64, end: u64, bytes: u64 },
    Finish { group: GroupId, serial: u64 },
    Restore { group: GroupId, serial: u64 },
    DropIncoming,
    Drop { group: GroupId, reply: Removed },
    Revive { slot: GroupSlot, group: GroupId, reply: Revived },
    Note(Note),
    Scrub,
}

/// The new content of a record on its way to the disk, and the clients that wait for it.
pub(in crate::worker) struct Note {
    pub(in crate::worker) new_notes: Vec<PeerNote>,
    pub(in crate::worker) support: Duration,
    pub(in crate::worker) replaced: Vec<oneshot::Sender<Result<(), ReplaceError>>>,
}

/// The caller that waits for a replica to be revived.
pub(in crate::worker) type Revived = oneshot::Sender<Result<(), ReviveError>>;
