//! The interfaces between the lane and a disk: [`Disk`] (jobs in, completions out) over [`Files`] (single
//! calls; `files`).
//!
//! The lane never waits for a job. The calls of each job are written once, in `execute`, so that a simulated
//! disk can stop between any two calls. Not here: an implementation. Next: `linux`, and `simulated`
//! for tests and simulation.

pub(crate) mod execute;
pub(crate) mod files;
pub(crate) mod linux;
pub(crate) mod observe;
pub mod simulated;

use std::io;

use bytes::Bytes;
use raftwerk_frame::frame::{FrameHeader, HEADER_BYTES};

use crate::background::{BackgroundDone, SnapshotJob};
use crate::directory::Directory;
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::lsn::Lsn;
use crate::format::segment::SegmentHeader;
pub use files::{Access, AppendMode, Durability, Files};

const _: () = assert!(BATCH_HEADER_BYTES >= 32, "a batch's header holds its claim");

/// The open handles of one segment.
#[derive(Clone, Debug)]
pub struct SegmentFile<File> {
    /// For appends of whole pages, in the append mode. Opened with [`Access::Append`].
    pub append: File,
    /// For appends of any alignment, which are written to the page cache only.
    pub cached: File,
    /// For reads.
    pub read: File,
}

/// Write one batch.
#[derive(Clone, Debug)]
pub struct AppendJob<File> {
    /// The segment to write to.
    pub file: SegmentFile<File>,
    /// The segment's sequence number; adjacent batches of one segment may be written together.
    pub segment: u64,
    /// The offset in the file: at a page of its own, or in a page that the batch before it left partly
    /// unused.
    pub offset: u64,
    /// The padded batch, up to the end of its last page, unless it lies within a page that was written to
    /// before; or a page of zeros: see [`AppendJob::is_probe`].
    pub batch: Bytes,
    /// The batch's number; for a probe, that of the batch before it.
    pub lsn: Lsn,
    /// The batch need not be synced until a later one that must be: until then it is written through the page
    /// cache only.
    pub is_relaxed: bool,
}

impl<File> AppendJob<File> {
    /// Whether this is not a batch but a probe: a page of zeros where the next batch will lie, to check that
    /// the disk responds.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.batch.first().is_none_or(|first| *first == 0)
    }

    /// The `durable` field of the batch header: every batch up to this one was durable when the batch was
    /// sealed.
    #[must_use]
    pub fn claim(&self) -> Lsn {
        let word = self.batch.get(24..32).and_then(|bytes| bytes.try_into().ok());
        Lsn(word.map_or(0, u64::from_le_bytes))
    }

    /// Passes the header and body of every frame in the batch to `see`, in order: for checks from outside.
    /// Nothing is verified, since nothing was read: these are the bytes that the lane built.
    pub fn frames(&self, mut see: impl FnMut(FrameHeader, &[u8])) {
        let length =
            self.batch.get(8..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
        let mut rest = self.batch.get(BATCH_HEADER_BYTES..length as usize).unwrap_or_default();
        while let Ok(header) = FrameHeader::parse(rest) {
            let Some((frame, after)) = rest.split_at_checked(header.frame_bytes()) else { return };
            assert!(frame.len() >= HEADER_BYTES, "a frame begins with its header");
            see(header, &frame[HEADER_BYTES..]);
            rest = after;
        }
    }
}

/// Make or retire a segment file.
#[derive(Clone, Debug)]
pub enum SegmentJob {
    /// Bring a segment to READY, from a spare file if there is one.
    Prepare {
        /// The header to write to its first page.
        header: SegmentHeader,
        /// The path of a spare file of the right length.
        spare: Option<String>,
    },
    /// Take a segment out of the log.
    Retire {
        /// The lane it belongs to.
        lane: u16,
        /// Its sequence number.
        sequence: u64,
        /// Keep the file as a spare, or remove it because there are enough.
        keep: bool,
    },
}

/// A job that a lane submits to its disk.
#[derive(Debug)]
pub enum Job<File> {
    /// In order: appends complete in the order in which they were submitted.
    Append(AppendJob<File>),
    /// In order among themselves; never in front of an append.
    Segment(SegmentJob),
    /// In order among themselves; may take long.
    Snapshot(SnapshotJob),
}

/// The cost of a group commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendCost {
    /// Writes or syncs waited for.
    pub syncs: u64,
    /// Padded bytes written.
    pub bytes: u64,
    /// Time waited; 0 without a clock.
    pub nanos: u64,
}

/// The result of a job.
#[derive(Debug)]
pub enum Completion<File> {
    /// Every batch up to `last` is written, and no batch after the last `Appended` is durable.
    Written {
        /// The highest number written.
        last: Lsn,
        /// Its cost; no sync.
        cost: AppendCost,
    },
    /// Every batch up to `last` is durable, and so is every probe before it.
    Appended {
        /// The highest number written; repeated after a probe.
        last: Lsn,
        /// Its cost.
        cost: AppendCost,
    },
    /// A write or sync failed; no append completes after this.
    AppendFailed {
        /// The system's error.
        error: io::Error,
    },
    /// A segment is READY, or could not be made.
    Prepared {
        /// Its sequence number.
        sequence: u64,
        /// Whether it was made from a spare.
        reused: bool,
        /// Its file.
        result: io::Result<SegmentFile<File>>,
    },
    /// A segment is out of the log.
    Retired {
        /// Its sequence number.
        sequence: u64,
        /// The spare it became, or `None` if it was removed.
        result: io::Result<Option<String>>,
    },
    /// A job on snapshot files ended.
    Snapshot(BackgroundDone),
}

/// Runs the jobs of one lane. Dropping it lets queued appends finish.
pub trait Disk {
    /// The implementation of single calls.
    type Files: Files;

    /// The locked directory the lane lives in. Calls through it block: only at opening, and for rare reads.
    fn directory(&self) -> &Directory<Self::Files>;
    /// Queues a job. Never blocks.
    fn submit(&mut self, job: Job<<Self::Files as Files>::File>);
    /// The next completion, if any. Never blocks.
    fn poll(&mut self) -> Option<Completion<<Self::Files as Files>::File>>;
    /// How appends are written.
    fn mode(&self) -> AppendMode;
    /// Whether "appended" means durable. `false` is for benchmarks: a power cut then loses acknowledged writes.
    fn is_synced(&self) -> bool;
}
