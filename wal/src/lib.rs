//! The log of Raftwerk: lanes, segments, group commit, recovery, retention, and the files of snapshots.
//!
//! A [`Lane`] is a worker's ordered log: the frames of all its groups, written by one sync. It builds batches in
//! memory, hands them to a [`Disk`] and learns from [`Lane::poll`] what is durable; it never waits, and holds no
//! thread, clock or file of its own. The way in, in order of a write's life: `lane` (append, submit, poll), `batch`
//! and `segment` (the bytes), `execute` (what a disk does, call by call), `os_disk` (threads and Linux), `recovery`,
//! `retention`; beside it `snapshot` and `snapshot_file`.
//!
//! What must always hold, and the tests check:
//! 1. What [`Lane::poll`] called durable is in the log after any crash, or opening fails and names file and offset.
//! 2. Batches count up without a hole; a batch that was never durable may be lost, with everything after it.
//! 3. No byte of an earlier life of a file is ever taken for a batch.
//! 4. A segment is freed only when nothing live is in it and what replaced its content is durable; oldest first.
//! 5. After the first failed write nothing is called durable any more.
//! 6. Nothing that the device refuses ends the process: what is read is copied by calls that can fail, and no map is read.
//! 7. What was lost is fenced in the log itself before anything else is said of the group.
//! 8. Nothing is written to a page that holds something durable.
//! 9. Lanes count only together with all others of their set, and a set only once all of it is durable.
//!
//! The bytes, and what opening does with them: `engine/docs/log_format.md`.
//!
//! What is not here: what entries mean, who leads, the network, when to compact.

mod batch;
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
mod shelf;
mod snapshot;
mod snapshot_check;
mod snapshot_file;
mod survey;
#[cfg(test)]
mod tests;
mod twin;

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
pub use lane_scrub::Hit;
pub use lane_snapshot::LoadedSnapshot;
pub use lane_stats::LaneStats;
pub use observe::{FileCall, FileObserver};
pub use os_disk::{OsDisk, OsDiskOptions};
pub use os_files::{OpenFilesLimit, OsFiles, raise_open_files_limit};
pub use peers_file::{Notes, PeerNote};
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
