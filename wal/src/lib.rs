//! The log of Raftwerk: lanes, segments, group commit, recovery, retention, and the files of snapshots.
//!
//! A [`Lane`] is a worker's ordered log: the frames of all its groups, made durable by one sync (group
//! commit). It builds batches in memory, submits them to a [`Disk`] and reports what became durable from
//! [`Lane::poll`]; it never blocks, and holds no thread, clock or file of its own.
//!
//! ```
//! use raftwerk_frame::frame::{Entries, EntryKind, parse};
//! use raftwerk_frame::{EntryId, GroupId, Index, Term};
//! use raftwerk_wal::simulated::{MemoryFiles, StepDisk};
//! use raftwerk_wal::{Directory, Lane, LaneOptions};
//!
//! let files = MemoryFiles::new(); // on Linux: `OsFiles`, and `OsDisk` for the disk
//! let open = || {
//!     let directory = Directory::open(files.clone(), 1, 7)?; // one lane; the id of a new log
//!     Lane::open(StepDisk::new(directory), LaneOptions::default())
//! };
//!
//! let (mut lane, _, _) = open()?;
//! let slot = lane.attach(GroupId(1));
//! let mut frame = lane.begin_frame(slot, EntryId::new(Term(1), Index(1)), 100)?;
//! assert!(frame.push(EntryKind::Payload, b"an entry"));
//! assert!(frame.finish().is_some());
//! let lsn = lane.submit()?.expect("a frame was appended");
//! while lane.poll()?.durable < lsn {} // a worker does other things meanwhile
//! drop(lane);
//!
//! let (mut lane, groups, _) = open()?;
//! assert_eq!((groups[0].group, groups[0].last), (GroupId(1), Index(1)));
//! let slot = lane.attach(GroupId(1));
//! let frames = lane.read(slot, Index(1), Index(1), u64::MAX)?;
//! let bytes = lane.bytes(frames[0].place)?;
//! let (header, body) = parse(&bytes)?;
//! assert_eq!(Entries::new(&header, body).next().map(|entry| entry.payload), Some(&b"an entry"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The modules, in order of a write's path: `lane` (append, submit, poll), `index` (what each group's log
//! holds), `format` (the bytes), `disk` (a disk's jobs, call by call; Linux, and a simulation), `recovery`;
//! beside them `background` (files of snapshots, scrubbing), `directory`, and `inspect`.
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

mod background;
mod directory;
mod disk;
mod error;
mod format;
mod index;
pub mod inspect;
mod lane;
pub mod platter;
mod pool;
mod recovery;
#[cfg(test)]
mod tests;

pub use background::check::{DamagedSnapshot, SnapshotsChecked};
pub use background::run::run_snapshot_job;
pub use background::scrub::Scrubbed;
pub use background::{BackgroundDone, BackgroundOutput, SnapshotJob, SnapshotReader, SnapshotSource};
pub use directory::Directory;
pub use disk::execute::{Unsynced, run_appends, run_segment_job};
pub use disk::linux::file_system::FileSystemKind;
pub use disk::linux::files::{OpenFilesLimit, OsFiles, raise_open_files_limit};
pub use disk::linux::{OsDisk, OsDiskOptions};
pub use disk::observe::{FileCall, FileObserver};
pub use disk::simulated;
pub use disk::{
    Access, AppendCost, AppendJob, AppendMode, Completion, Disk, Durability, Files, Job, SegmentFile,
    SegmentJob,
};
pub use error::{LogError, OpenError, Poisoned, SnapshotError};
pub use format::lsn::Lsn;
pub use format::peers_file::{PeerNote, PeerNotes};
pub use format::segment::SegmentHeader;
pub use format::snapshot::SnapshotMeta;
pub use index::LogKind;
pub use index::frame::{FrameRef, Frames, Place};
pub use index::groups::GroupSlot;
pub use lane::append::{FrameInProgress, Tail};
pub use lane::options::{LaneOptions, OnDamage};
pub use lane::scrub::DamagedEntries;
pub use lane::snapshot::LoadedSnapshot;
pub use lane::state::segments::{Preparations, Shortage};
pub use lane::stats::LaneStats;
pub use lane::{Lane, Progress};
pub use recovery::relane::{LaneOf, RelaneError, Relaned};
pub use recovery::report::{Damage, RecoveredGroup, RecoveryReport, TornTail};
