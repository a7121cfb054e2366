//! The interfaces between the lane and a disk: [`Disk`] (jobs in, completions out) over [`Files`] (single
//! calls).
//!
//! The lane never waits for a job. The calls of each job are written once, in `execute`, so that a simulated
//! disk can stop between any two calls. Not here: an implementation. Next: `disk::linux` for Linux, `simulated` for
//! tests and simulation.

pub(crate) mod execute;
pub(crate) mod linux;
pub(crate) mod observe;
pub mod simulated;

use std::fmt;
use std::io::{self, IoSlice};

use bytes::Bytes;
use raftwerk_frame::frame::{FrameHeader, HEADER_BYTES};

use crate::background::{BackgroundDone, SnapshotJob};
use crate::directory::Directory;
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::segment::SegmentHeader;

/// The number of a batch in its lane; consecutive, never reused once durable. 0 is "before the first batch".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The number of the next batch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn {}", self.0)
    }
}

/// How batches reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendMode {
    /// `O_DIRECT` with `RWF_DSYNC`: from the batch buffer to the device, without a copy in the kernel.
    Direct,
    /// `pwritev2` through the page cache, then `fdatasync`. Used where `O_DIRECT` is refused.
    Buffered,
    /// Stores through a map of the file, then `msync` of the stored range. Cheapest where little is synced,
    /// since a store is no system call; most expensive where everything is, since each sync write-protects
    /// each page again.
    Mapped,
}

impl AppendMode {
    /// Every mode; all give the same guarantees.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Buffered, Self::Mapped];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Buffered => "buffered",
            Self::Mapped => "mapped",
        }
    }
}

/// How an opened file will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Aligned appends in the append mode.
    Append,
    /// Reads, and writes of any alignment, through the page cache.
    Plain,
    /// Large reads, past the page cache where the system allows it. Aligned like appends.
    Scan,
    /// Large writes before all others, likewise past the page cache: filling a file in large chunks must
    /// leave no large folios in the cache, or every small write that follows would make the device write a
    /// large one.
    Fill,
}

/// Single calls on files below one directory. Paths are relative to it, with `/` between parts.
///
/// No call is atomic or durable unless stated. Each may fail with any [`io::Error`].
#[allow(
    clippy::len_without_is_empty,
    reason = "`len` is the length of one file, not of the trait's implementor"
)]
#[allow(clippy::missing_errors_doc, reason = "said once above")]
pub trait Files: Send + Sync + 'static {
    /// An open file. Clones share it.
    type File: Clone + fmt::Debug + Send + Sync + 'static;

    /// Creates an empty file for [`Access::Plain`], in place of one of that name, with `bytes` of space
    /// allocated to it (its length is then `bytes`). Never truncates an existing file: that one only loses
    /// its name.
    fn create(&self, path: &str, bytes: u64) -> io::Result<Self::File>;
    /// Opens an existing file.
    fn open(&self, path: &str, access: Access) -> io::Result<Self::File>;
    /// Writes all of `parts`, one after another, from `offset` on. `durable`: they are on the device when it returns.
    /// For a file opened with [`Access::Append`], every part is aligned to 4 KiB in memory, length and offset.
    fn write_at(
        &self,
        file: &Self::File,
        offset: u64,
        parts: &[IoSlice<'_>],
        durable: bool,
    ) -> io::Result<()>;
    /// Whether a file opened with [`Access::Append`] accepts parts of any alignment, through the page cache.
    fn appends_through_cache(&self) -> bool {
        false
    }
    /// Drops the cached pages of a file that is to be written anew, if appends bypass the cache. Best effort.
    fn forget_cached(&self, _file: &Self::File) {}
    /// Drops the file's clean pages from the page cache, so that the next read comes from the device. Dirty
    /// pages are kept. Best effort.
    fn drop_cached(&self, _file: &Self::File) {}
    /// Makes all writes to the file durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Creates the directory unless it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Renames the file, replacing a file of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name; its bytes remain as long as it is open or mapped.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Gives the file a second name, which must be unused, perhaps in another directory. Fails with
    /// [`io::ErrorKind::Unsupported`] or another error where the file system supports no hard links.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;
    /// Reads from `offset` on; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// The file's length in bytes.
    fn len(&self, file: &Self::File) -> io::Result<u64>;
    /// The names of the files in `dir`, in any order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// The names of the directories in `dir`, in any order; `""` is the root of all paths.
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>>;
    /// As [`Files::read_at`], but only from the page cache: as many bytes, from `offset` on, as need no
    /// device. May always return none.
    fn read_cached(&self, _file: &Self::File, _offset: u64, _into: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
    /// Runs `task` with every number below `count`: started in that order, perhaps in parallel.
    fn spread(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
    /// Takes the lock file, creating it if need be; held until the last clone is dropped. Fails with
    /// [`io::ErrorKind::WouldBlock`] if it is already held.
    fn lock(&self, path: &str) -> io::Result<Self::File>;
}

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
