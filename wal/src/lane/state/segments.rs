//! The lane's segment files: which are in use, which are READY, and which may be made from spares.
//!
//! Batches are assigned a segment's sequence number before its file exists: a batch whose segment is not
//! READY waits in memory. Not here: pins (`index::pins`), the calls that make a file (`execute`).

use std::collections::VecDeque;
use std::io;

use raftwerk_frame::{Term, Time};

use crate::disk::{SegmentFile, SegmentJob};
use crate::format::lsn::Lsn;
use crate::format::segment::{PAGE_BYTES, SegmentHeader};

/// Why the next segment cannot be made. A state: the lane retries, and recovers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shortage {
    /// The disk, or the quota, is full.
    Storage,
    /// The process, or the system, is at its limit of open files (RLIMIT_NOFILE).
    OpenFiles,
    /// The system has no memory, or no more maps, for it.
    Memory,
    /// Any other error.
    Other,
}

impl Shortage {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
        const TOO_MANY_FILES: [i32; 2] =
            [rustix::io::Errno::MFILE.raw_os_error(), rustix::io::Errno::NFILE.raw_os_error()];
        match error.kind() {
            StorageFull | QuotaExceeded => Self::Storage,
            OutOfMemory => Self::Memory,
            _ if error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code)) => Self::OpenFiles,
            _ => Self::Other,
        }
    }
}

/// How often a segment was prepared, or could not be, since the lane was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preparations {
    /// Made from new files.
    pub created: u64,
    /// Made from spares.
    pub recycled: u64,
    /// Not made, for [`Shortage::Storage`].
    pub no_storage: u64,
    /// Not made, for [`Shortage::OpenFiles`].
    pub no_open_files: u64,
    /// Not made, for [`Shortage::Memory`].
    pub no_memory: u64,
    /// Not made, for [`Shortage::Other`].
    pub refused: u64,
}

/// A segment that holds, or will hold, batches.
#[derive(Debug)]
pub(crate) struct InUse<File> {
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    /// For appends; only for READY segments made since opening, until everything in them is durable and they
    /// are full.
    pub(crate) append: Option<SegmentFile<File>>,
    pub(crate) read: Option<File>,
    /// Where its batches end, once final. `None` if it was damaged when the lane was opened.
    pub(crate) end: Option<u64>,
    /// Since when it has been full; set at the first check after it was.
    pub(crate) full_since: Option<Time>,
    /// Once it holds nothing live: the batch that must be durable before it may be freed.
    pub(crate) dead_at: Option<Lsn>,
}

impl<File> InUse<File> {
    pub(crate) fn recovered(sequence: u64, bytes: u64, read: File, end: Option<u64>) -> Self {
        let (append, full_since, dead_at) = (None, None, None);
        Self { sequence, bytes, append, read: Some(read), end, full_since, dead_at }
    }
}

/// A lane's segment files.
#[derive(Debug)]
pub(crate) struct Segments<File> {
    pub(crate) in_use: VecDeque<InUse<File>>,
    pub(crate) ready: VecDeque<(u64, SegmentFile<File>)>,
    pub(crate) spares: Vec<String>,
    /// Segments to be taken out of the log, oldest first, and whether to keep their files as spares.
    pub(crate) retiring: VecDeque<(u64, bool)>,
    /// The retire job of the first of them is in progress.
    pub(crate) is_retiring: bool,
    /// Why the next segment could not be made, until one is.
    pub(crate) shortage: Option<Shortage>,
    pub(crate) preparations: Preparations,
    template: SegmentHeader,
    is_preparing: bool,
    /// The spare from which the segment in preparation is made.
    spare_in_use: Option<String>,
    next_to_prepare: u64,
}

impl<File: Clone> Segments<File> {
    /// `template` contains lane, log id and length, and sequence number and predecessor of the first new
    /// segment.
    pub(crate) fn new(in_use: VecDeque<InUse<File>>, spares: Vec<String>, template: SegmentHeader) -> Self {
        assert!(template.previous < template.sequence, "a new segment comes after all there were");
        assert!(
            in_use.back().is_none_or(|newest| newest.sequence == template.previous),
            "a new segment names the one before it"
        );
        let mut segments = Self {
            in_use,
            ready: VecDeque::new(),
            spares,
            retiring: VecDeque::new(),
            is_retiring: false,
            shortage: None,
            preparations: Preparations::default(),
            template,
            is_preparing: false,
            spare_in_use: None,
            next_to_prepare: template.sequence,
        };
        segments.push(template.sequence);
        segments
    }

    fn push(&mut self, sequence: u64) {
        assert!(
            self.in_use.back().is_none_or(|before| before.sequence < sequence),
            "segments are used in order"
        );
        let append = self.ready.pop_front_if_is(sequence);
        let read = append.as_ref().map(|file| file.read.clone());
        let bytes = self.template.bytes;
        let (end, full_since, dead_at) = (None, None, None);
        self.in_use.push_back(InUse { sequence, bytes, append, read, end, full_since, dead_at });
    }

    /// The segment that batches are written to now.
    pub(crate) fn current(&self) -> &InUse<File> {
        self.in_use.back().expect("there is always a current segment")
    }

    /// Begins the next segment; `end` is where the batches of this one end.
    pub(crate) fn roll(&mut self, end: u64) {
        let sequence = self.current().sequence + 1;
        assert!(end <= self.template.bytes, "a segment's batches end within its file");
        assert!(end >= PAGE_BYTES as u64, "a segment's batches begin behind its first page");
        assert!(self.current().end.is_none(), "a segment's batches end once");
        if let Some(current) = self.in_use.back_mut() {
            current.end = Some(end);
        }
        self.push(sequence);
    }

    pub(crate) const fn incarnation(&self, sequence: u64) -> u64 {
        SegmentHeader { sequence, ..self.template }.incarnation()
    }

    pub(crate) fn find(&self, sequence: u64) -> Option<&InUse<File>> {
        let at = self.in_use.binary_search_by_key(&sequence, |segment| segment.sequence).ok()?;
        self.in_use.get(at)
    }

    /// The job for the next segment, if one is wanted and none is in preparation.
    pub(crate) fn prepare(&mut self, ready_wanted: usize, floor: Lsn, terms: Term) -> Option<SegmentJob> {
        let is_wanted = self.ready.len() < ready_wanted || self.current().append.is_none();
        if self.is_preparing || !is_wanted {
            return None;
        }
        assert!(self.spare_in_use.is_none(), "one segment is prepared at a time");
        self.is_preparing = true;
        let sequence = self.next_to_prepare;
        assert!(
            self.ready.back().is_none_or(|(before, _)| before + 1 == sequence),
            "READY segments are consecutive"
        );
        let previous = if sequence == self.template.sequence { self.template.previous } else { sequence - 1 };
        let header = SegmentHeader { sequence, floor, previous, terms, ..self.template };
        let spare = self.spares.pop();
        self.spare_in_use.clone_from(&spare);
        Some(SegmentJob::Prepare { header, spare })
    }

    /// Whether the last attempt to make a segment failed because the disk is full.
    pub(crate) fn is_storage_full(&self) -> bool {
        self.shortage == Some(Shortage::Storage)
    }

    /// Records a failed preparation. Its spare is kept for the next try, unless the spare is what is missing.
    fn on_not_prepared(&mut self, error: &io::Error, spare: Option<String>) {
        let shortage = Shortage::of(error);
        self.shortage = Some(shortage);
        match shortage {
            Shortage::Storage => self.preparations.no_storage += 1,
            Shortage::OpenFiles => self.preparations.no_open_files += 1,
            Shortage::Memory => self.preparations.no_memory += 1,
            Shortage::Other => self.preparations.refused += 1,
        }
        if error.kind() != io::ErrorKind::NotFound {
            self.spares.extend(spare);
        }
    }

    /// Records a prepared segment; returns `true` if batches may wait for it.
    pub(crate) fn on_prepared(&mut self, sequence: u64, result: std::io::Result<SegmentFile<File>>) -> bool {
        assert!(self.is_preparing, "a segment is prepared on request");
        self.is_preparing = false;
        let spare = self.spare_in_use.take();
        let is_recycled = spare.is_some();
        let file = match result {
            Ok(file) => file,
            Err(error) => {
                self.on_not_prepared(&error, spare);
                return false;
            }
        };
        assert!(sequence == self.next_to_prepare, "segments are prepared in order");
        self.shortage = None;
        self.next_to_prepare += 1;
        self.preparations.created += u64::from(!is_recycled);
        self.preparations.recycled += u64::from(is_recycled);
        match self.in_use.iter_mut().rev().find(|segment| segment.sequence == sequence) {
            Some(waited_for) => {
                assert!(waited_for.append.is_none(), "a segment becomes READY once");
                waited_for.read = Some(file.read.clone());
                waited_for.append = Some(file);
                true
            }
            None => {
                assert!(self.current().sequence < sequence, "a segment READY in advance is still to be used");
                self.ready.push_back((sequence, file));
                false
            }
        }
    }
}

trait PopIfIs<File> {
    fn pop_front_if_is(&mut self, sequence: u64) -> Option<SegmentFile<File>>;
}

impl<File> PopIfIs<File> for VecDeque<(u64, SegmentFile<File>)> {
    fn pop_front_if_is(&mut self, sequence: u64) -> Option<SegmentFile<File>> {
        let ready = self.front()?.0;
        assert!(ready >= sequence, "no READY segment is left out");
        if ready != sequence {
            return None;
        }
        self.pop_front().map(|(_, file)| file)
    }
}
