//! The seams between the lane and a disk: [`Disk`] (jobs in, completions out) over [`Files`] (single calls).
//!
//! The lane never waits for a job. What a job does, call by call, is written once in `execute`, so that a simulated
//! disk can stop between any two calls. What is not here: an implementation. Next: `os_disk` for Linux, `memory`
//! for tests and simulation.

use std::fmt;
use std::io::{self, IoSlice};

use bytes::Bytes;
use raftwerk_frame::frame::{FrameHeader, HEADER_BYTES};

use crate::batch::BATCH_HEADER_BYTES;
use crate::directory::Directory;
use crate::segment::SegmentHeader;
use crate::snapshot::{BackgroundDone, SnapshotJob};

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
    /// `pwritev2` through the page cache, then `fdatasync`. Where `O_DIRECT` is refused.
    Buffered,
    /// Stores through a map of the file, then `msync` of what was stored. Cheapest where little is synced: a store is no
    /// system call; dearest where everything is: each page is write-protected again by each sync.
    Mapped,
}

impl AppendMode {
    /// Every mode; all of them keep the same promises.
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
    /// Large reads, past the page cache if the system lets them. Aligned like appends.
    Scan,
    /// Large writes ahead of all others, likewise: what fills a file in big pieces should leave nothing big in the page cache,
    /// or every small write that comes later would make the device write a big one.
    Fill,
}

/// Single calls on files below one directory. Paths are relative to it, with `/` between parts.
///
/// No call is atomic or durable unless it says so. Each may fail with any [`io::Error`].
#[allow(
    clippy::len_without_is_empty,
    reason = "`len` is the length of one file, not of the trait's implementor"
)]
#[allow(clippy::missing_errors_doc, reason = "said once above")]
pub trait Files: Send + Sync + 'static {
    /// An open file. Clones share it.
    type File: Clone + fmt::Debug + Send + Sync + 'static;

    /// Makes an empty file for [`Access::Plain`], in place of one of that name, with `bytes` of space allocated to it
    /// (its length is then `bytes`). Never cuts an existing file: that one loses its name.
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
    /// Whether a file opened with [`Access::Append`] takes parts of any alignment, through the page cache.
    fn appends_through_cache(&self) -> bool {
        false
    }
    /// Has the system forget what it holds in memory of a file that is to be written anew, if appends go past that. A wish.
    fn forget_cached(&self, _file: &Self::File) {}
    /// Has the system forget what it holds in memory of the file and takes for written, so that it is read from the device again. What
    /// is to be written still is kept. A wish.
    fn drop_cached(&self, _file: &Self::File) {}
    /// Makes all that was written to the file durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes the directory unless it is there.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Gives the file a new name, in place of a file of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file's name away; its bytes live as long as it is open or mapped.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Gives the file a second name, which no file has, perhaps in another directory. Fails with
    /// [`io::ErrorKind::Unsupported`] or another error where the file system has one name for each file.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a directory, which is empty.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;
    /// Reads from `offset` on; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// The file's length in bytes.
    fn len(&self, file: &Self::File) -> io::Result<u64>;
    /// The names of the files in `dir`, in any order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// The names of the directories in `dir`, in any order; `""` is the one that all paths begin in.
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>>;
    /// As [`Files::read_at`] of what is in memory already: as many bytes, from the first on, as need no device. May
    /// always give none.
    fn read_cached(&self, _file: &Self::File, _offset: u64, _into: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
    /// Runs `task` with every number below `count`: begun in that order, perhaps side by side.
    fn spread(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
    /// Takes the lock file, making it if need be; held until the last clone is dropped.
    /// Fails with [`io::ErrorKind::WouldBlock`] if somebody holds it.
    fn lock(&self, path: &str) -> io::Result<Self::File>;
}

/// The ways into one segment.
#[derive(Clone, Debug)]
pub struct SegmentFile<File> {
    /// For appends of whole pages, in the append mode. Opened with [`Access::Append`].
    pub append: File,
    /// For appends of any alignment, which reach the page cache and no further.
    pub cached: File,
    /// For reads.
    pub read: File,
}

/// Write one batch.
#[derive(Clone, Debug)]
pub struct AppendJob<File> {
    /// The segment's.
    pub file: SegmentFile<File>,
    /// The segment's sequence number; neighbours in one segment may be written together.
    pub segment: u64,
    /// Where in the file: at a page of its own, or in one that the batch before it left room in.
    pub offset: u64,
    /// The padded batch, up to the end of its last page, unless it lies within a page that was written to before; or a page of
    /// zeros: see [`AppendJob::is_probe`].
    pub batch: Bytes,
    /// Its number; a probe's is that of the batch before it.
    pub lsn: Lsn,
    /// It need not be synced before a later batch is that does: then it is written through the page cache.
    pub is_relaxed: bool,
}

impl<File> AppendJob<File> {
    /// Whether it is no batch, but a page of zeros where the next one will lie: to see whether the disk does anything.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.batch.first().is_none_or(|first| *first == 0)
    }

    /// Every batch up to this one was durable when this one was sealed, and it says so.
    #[must_use]
    pub fn claim(&self) -> Lsn {
        let word = self.batch.get(24..32).and_then(|bytes| bytes.try_into().ok());
        Lsn(word.map_or(0, u64::from_le_bytes))
    }

    /// Shows the header and the body of every frame in the batch, in order: for checks from outside. Nothing is
    /// verified, since nothing was read: it is what the lane has made.
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
        /// What its first page says.
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

/// What a lane asks of its disk.
#[derive(Debug)]
pub enum Job<File> {
    /// In order: appends complete in the order in which they were submitted.
    Append(AppendJob<File>),
    /// In order among themselves; never in front of an append.
    Segment(SegmentJob),
    /// In order among themselves; may take long.
    Snapshot(SnapshotJob),
}

/// What a group commit took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendCost {
    /// Writes or syncs waited for.
    pub syncs: u64,
    /// Padded bytes written.
    pub bytes: u64,
    /// Time waited; 0 where no clock is at hand.
    pub nanos: u64,
}

/// What became of a job.
#[derive(Debug)]
pub enum Completion<File> {
    /// Every batch up to `last` is written, and nothing of what came after the last `Appended` is durable.
    Written {
        /// The highest number written.
        last: Lsn,
        /// What it took; no sync.
        cost: AppendCost,
    },
    /// Every batch up to `last` is durable, and so is every probe before it.
    Appended {
        /// The highest number written; once more the same after a probe.
        last: Lsn,
        /// What it took.
        cost: AppendCost,
    },
    /// A write or sync failed; no append completes after this.
    AppendFailed {
        /// The system's answer.
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
    /// The calls it is made of.
    type Files: Files;

    /// The locked directory the lane lives in. Calls through it block: only at opening, and for rare reads.
    fn directory(&self) -> &Directory<Self::Files>;
    /// Takes a job. Never blocks.
    fn submit(&mut self, job: Job<<Self::Files as Files>::File>);
    /// What has been done since, if anything. Never blocks.
    fn poll(&mut self) -> Option<Completion<<Self::Files as Files>::File>>;
    /// How appends are written.
    fn mode(&self) -> AppendMode;
    /// Whether "appended" means durable. `false` is for benchmarks: a power cut then loses acknowledged writes.
    fn is_synced(&self) -> bool;
}
