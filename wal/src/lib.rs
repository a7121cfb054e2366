//! The log of Raftwerk: lanes, segments, group commit, recovery, retention, and the files of snapshots.
//!
//! A [`Lane`] is a worker's ordered log: the frames of all its groups, made durable by one sync (group
//! commit). It builds batches in memory, submits them to a [`Disk`] and takes what became durable from
//! [`Lane::poll`]; it never blocks, and holds no thread, clock or file of its own. The modules, in order of a
//! write's path: `lane` (append, submit, poll), `batch` and `segment` (the bytes), `execute` (a disk's jobs,
//! call by call), `os_disk` (threads and Linux), `recovery`, `retention`; beside them `snapshot` and
//! `snapshot_file`.
//!
//! Invariants, which the tests check:
//! 1. What [`Lane::poll`] reported as durable is in the log after any crash, or opening fails and names file
//!    and offset.
//! 2. Batch numbers (LSNs) are consecutive; a batch that was never durable may be lost, with everything after
//!    it.
//! 3. No byte of an earlier incarnation of a file is ever taken for a batch.
//! 4. A segment is freed only when it holds nothing live and what replaced its content is durable; oldest
//!    first.
//! 5. After the first failed write nothing is reported as durable any more.
//! 6. No refused read ends the process: reads are calls that can fail and copy, and no map is read.
//! 7. A loss is recorded in the log itself by a fence frame before recovery reports anything else of the
//!    group.
//! 8. Nothing is written to a page that holds durable data.
//! 9. A set of lanes is valid only as a whole, and only once all of it is durable.
//!
//! The bytes, and what opening does with them: `engine/docs/log_format.md`.
//!
//! Not here: the meaning of entries, leadership, the network, when to compact.

mod batch;
mod catalog;
mod directory;
mod disk;
mod error;
mod execute;
mod file_system;
mod index;
pub mod inspect;
mod lane;
mod lane_append;
mod lane_memory;
mod lane_probe;
mod lane_read;
mod lane_retention;
mod lane_room;
mod lane_scrub;
mod lane_snapshot;
mod lane_stats;
mod lane_submit;
mod map;
pub mod memory;
mod mirrored_file;
mod observe;
mod os_disk;
mod os_files;
mod os_snapshots;
mod pace;
mod peers_file;
pub mod platter;
mod pool;
mod recovery;
mod relane;
mod relane_writer;
mod replay;
mod retention;
mod salvage;
mod scan;
mod scrub;
mod segment;
mod segments;
mod snapshot;
mod snapshot_check;
mod snapshot_file;
mod survey;
#[cfg(test)]
mod tests;

pub use directory::Directory;
pub use disk::{
    Access, AppendCost, AppendJob, AppendMode, Completion, Disk, Files, Job, Lsn, SegmentFile, SegmentJob,
};
pub use error::{LogError, OpenError, Poisoned, SnapshotError};
pub use execute::{Unsynced, run_appends, run_segment_job};
pub use file_system::FileSystemKind;
pub use index::{FrameRef, Frames, Place};
pub use lane::{GroupSlot, Lane, LaneOptions, OnDamage, Progress};
pub use lane_append::FrameInProgress;
pub use lane_scrub::DamagedEntries;
pub use lane_snapshot::LoadedSnapshot;
pub use lane_stats::LaneStats;
pub use observe::{FileCall, FileObserver};
pub use os_disk::{OsDisk, OsDiskOptions};
pub use os_files::{OpenFilesLimit, OsFiles, raise_open_files_limit};
pub use peers_file::{PeerNote, PeerNotes};
pub use recovery::{Damage, RecoveredGroup, RecoveryReport, TornTail};
pub use relane::{LaneOf, RelaneError, Relaned};
pub use scrub::Scrubbed;
pub use segment::SegmentHeader;
pub use segments::{Preparations, Shortage};
pub use snapshot::{
    BackgroundDone, BackgroundOutput, SnapshotJob, SnapshotMeta, SnapshotReader, SnapshotSource,
};
pub use snapshot_check::{DamagedSnapshot, SnapshotsChecked};
pub use snapshot_file::run_snapshot_job;
