//! The lane: a worker's ordered log. This file holds its types, opening and polling.
//!
//! Pure: no thread, clock or file of its own; a [`Disk`] does the I/O. A turn of the worker appends frames
//! (`lane::append`), calls [`Lane::submit`] once (`lane::submit`), and takes what became durable from
//! [`Lane::poll`]. Reading is in `lane::read`, freeing old segments in `lane::retention`, snapshot files in
//! `lane::snapshot`.

pub(crate) mod admission;
pub(crate) mod append;
pub(crate) mod memory;
pub(crate) mod options;
pub(crate) mod probe;
pub(crate) mod read;
pub(crate) mod retention;
pub(crate) mod scrub;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod submit;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use raftwerk_frame::frame::HEADER_BYTES;
use raftwerk_frame::{GroupId, Term, Time};

use crate::background::BackgroundDone;
use crate::background::catalog::SnapshotCatalog;
use crate::background::pace::Pace;
use crate::disk::files::Files;
use crate::disk::{AppendCost, Completion, Disk, Job};
use crate::error::{OpenError, Poisoned};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchInProgress, BatchPosition};
use crate::format::lsn::Lsn;
use crate::format::segment::{PAGE_BYTES, SegmentHeader};
use crate::index::groups::{GroupSlot, Groups};
use crate::index::pins::Pins;
use crate::lane::options::LaneOptions;
use crate::lane::scrub::Scrubbing;
use crate::lane::state::segments::{Segments, Shortage};
use crate::pool::BufferPool;
use crate::recovery::report::{RecoveredGroup, RecoveryReport};
use crate::recovery::{self};

/// The progress of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Every batch up to this one is durable.
    pub durable: Lsn,
    /// Every batch up to this one is written to the page cache, and so survives a process crash; at least
    /// `durable`.
    pub written: Lsn,
    /// The latest batch submitted.
    pub submitted: Lsn,
    /// No new segment can be made because the disk is full: entries will soon be, or are, refused.
    pub storage_full: bool,
    /// Why no new segment can be made, if none can. Where space is not the cause, entries wait in memory for
    /// the next segment, up to `queue_bytes_max`. The lane retries, and recovers by itself.
    pub shortage: Option<Shortage>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) cost: AppendCost,
    pub(crate) batches: u64,
    pub(crate) relaxed_batches: u64,
    pub(crate) frames: u64,
    pub(crate) frame_bytes: u64,
    pub(crate) probes: u64,
    /// The highest term of any frame. Only grows.
    pub(crate) terms: Term,
    /// This turn has a frame that must be synced.
    pub(crate) wants_sync: bool,
}

/// A sealed batch: its bytes are final.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) lsn: Lsn,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    /// The bytes of memory of its buffer.
    pub(crate) buffer_bytes: usize,
    /// It need not be synced until a later batch that must be.
    pub(crate) is_relaxed: bool,
}

/// A worker's ordered log, shared and synced once by all its groups.
///
/// Methods that take a [`GroupSlot`] panic if its group was removed.
#[derive(Debug)]
pub struct Lane<D: Disk> {
    pub(crate) disk: D,
    pub(crate) options: LaneOptions,
    pub(crate) groups: Groups,
    pub(crate) pins: Pins,
    pub(crate) segments: Segments<<D::Files as Files>::File>,
    pub(crate) pool: BufferPool,
    /// Bytes read from files that readers still hold.
    pub(crate) pinned: Arc<AtomicU64>,
    pub(crate) building: Option<BatchInProgress>,
    /// Where the next batch, or the one being built, begins in the current segment.
    pub(crate) write_offset: u64,
    /// Bytes sealed in this turn, submitted or not.
    pub(crate) turn_bytes: usize,
    /// The usual bytes of recent turns, to size a turn's first buffer.
    pub(crate) usual_bytes: usize,
    /// Sealed in this turn, not submitted.
    pub(crate) sealed: Vec<Sealed>,
    /// Submitted, but waiting until its segment is READY.
    pub(crate) waiting: VecDeque<Sealed>,
    /// Submitted and not durable: LSN and padded bytes.
    pub(crate) in_flight: VecDeque<(Lsn, u64)>,
    pub(crate) queued_bytes: u64,
    /// The latest batches, kept in memory for reads.
    pub(crate) recent: VecDeque<Sealed>,
    pub(crate) recent_bytes: usize,
    pub(crate) last_sealed: Lsn,
    /// The segment of `last_sealed`, if it was sealed since opening.
    pub(crate) last_sealed_segment: Option<u64>,
    pub(crate) submitted: Lsn,
    pub(crate) durable: Lsn,
    /// Invariant: at least `durable`.
    pub(crate) written: Lsn,
    /// The latest batch submitted with a sync, which makes everything before it durable.
    pub(crate) synced: Lsn,
    /// The last batch that was durable when the lane was opened.
    pub(crate) recovered: Lsn,
    pub(crate) poisoned: Option<Poisoned>,
    pub(crate) background: VecDeque<BackgroundDone>,
    pub(crate) relocate_from: usize,
    /// The newest segment when every group was last checked for relocation …
    pub(crate) scanned_at: u64,
    /// … and the oldest.
    pub(crate) scanned_for: u64,
    /// The current time, as last passed in.
    pub(crate) now: Time,
    pub(crate) counters: Counters,
    /// A probe is in flight.
    pub(crate) is_probing: bool,
    pub(crate) scrubbing: Scrubbing,
    /// The catalog of its snapshot files; shared with the snapshot jobs.
    pub(crate) catalog: Arc<SnapshotCatalog>,
    /// The pace at which snapshot files are written; shared with the snapshot jobs.
    pub(crate) pace: Arc<Pace>,
}

impl<D: Disk> Lane<D> {
    /// Opens the lane: scans its segments, checks every byte that counts, builds the index, makes the
    /// accepted log durable. Blocks; about a second per GiB of log.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Corrupt`] if durable data is damaged.
    pub fn open(
        mut disk: D,
        mut options: LaneOptions,
    ) -> Result<(Self, Vec<RecoveredGroup>, RecoveryReport), OpenError> {
        options.check()?;
        let directory = disk.directory().clone();
        if options.lane >= directory.lanes() {
            return Err(OpenError::Options("there is no such lane"));
        }
        options.lane += directory.lane_numbers().start; // from here on, its number on the disk
        let mut found = recovery::recover(&directory, &options)?;
        let template = SegmentHeader {
            lane: options.lane,
            sequence: found.next_sequence,
            log_id: directory.log_id(),
            bytes: options.segment_bytes,
            floor: Lsn(0),
            terms: found.terms,
            previous: found.segments.back().map_or(0, |segment| segment.sequence),
        };
        let mut segments = Segments::new(found.segments, found.spares, template);
        if let Some(job) = segments.prepare(options.ready_segments, found.last, found.terms) {
            disk.submit(Job::Segment(job));
        }
        let mut lane = Self {
            disk,
            pool: BufferPool::new(options.recent_bytes.min((options.memory_bytes / 8) as usize)),
            pinned: Arc::default(),
            options,
            groups: found.groups,
            pins: found.pins,
            segments,
            building: None,
            write_offset: PAGE_BYTES as u64,
            turn_bytes: 0,
            usual_bytes: 0,
            sealed: Vec::new(),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            queued_bytes: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            last_sealed: found.last,
            last_sealed_segment: None,
            submitted: found.last,
            durable: found.last,
            written: found.last,
            synced: found.last,
            recovered: found.last,
            poisoned: None,
            background: VecDeque::new(),
            relocate_from: 0,
            scanned_at: 0,
            scanned_for: 0,
            now: Time(0),
            counters: Counters { terms: found.terms, ..Counters::default() },
            is_probing: false,
            scrubbing: Scrubbing::default(),
            catalog: Arc::default(),
            pace: Arc::default(),
        };
        for group in &mut found.recovered {
            lane.fence_if_hit(group, found.terms);
        }
        for group in found.hit_and_gone {
            let slot = lane.attach(group);
            lane.set_fence(slot, found.terms);
        }
        if let Some(losses) = found.unlisted_losses {
            lane.list_losses(&losses, found.terms);
        }
        Ok((lane, found.recovered, found.report))
    }

    /// The group's slot; an unknown group gets an empty log, of which nothing is on disk yet.
    pub fn attach(&mut self, group: GroupId) -> GroupSlot {
        GroupSlot(self.groups.attach(group))
    }

    /// Ensures space for a frame of `frame_bytes` in the batch being built, or begins another batch.
    pub(crate) fn reserve(&mut self, frame_bytes: usize) -> &mut BatchInProgress {
        if self.building.as_ref().is_none_or(|batch| batch.bytes_left() < frame_bytes) {
            self.seal(false);
            self.building = None;
            let need = BATCH_HEADER_BYTES + frame_bytes;
            if self.write_offset + need as u64 > self.options.segment_bytes {
                self.segments.roll(self.write_offset);
                self.write_offset = PAGE_BYTES as u64;
            }
            let bytes_left = self.options.segment_bytes - self.write_offset;
            let most = self.options.batch_bytes_max.min(self.options.stream_bytes);
            let likely = self.usual_bytes.max(2 * self.turn_bytes).min(most);
            let in_page = self.write_offset as usize % PAGE_BYTES;
            let buffer = self.pool.take(likely.min(bytes_left as usize).max(need) + in_page);
            self.building = Some(BatchInProgress::new(buffer, bytes_left, self.write_offset));
        }
        self.building.as_mut().expect("it was just made")
    }

    /// Seals the batch being built, unless it is empty.
    pub(crate) fn seal(&mut self, shares_page: bool) {
        if self.building.as_ref().is_some_and(|batch| batch.count() > 0) {
            self.seal_even_empty(shares_page);
        }
    }

    /// `shares_page`: the next batch may begin in the page that this one ends in. Not where this one is
    /// synced: nothing is written to a page that holds durable data.
    pub(crate) fn seal_even_empty(&mut self, shares_page: bool) {
        let Some(batch) = self.building.take() else { return };
        let lsn = self.last_sealed.next();
        let claim = if self.disk.is_synced() { self.durable } else { self.recovered };
        let (segment, offset) = (self.segments.current().sequence, self.write_offset);
        let buffer_bytes = batch.buffer_bytes();
        let position =
            BatchPosition { incarnation: self.segments.incarnation(segment), offset: offset as u32 };
        let (bytes, takes) = batch.seal(lsn, claim, self.counters.terms, position, shares_page);
        self.counters.batches += 1;
        self.write_offset += takes;
        self.turn_bytes += bytes.len();
        self.queued_bytes += bytes.len() as u64;
        self.recent_bytes += buffer_bytes;
        self.last_sealed = lsn;
        self.last_sealed_segment = Some(segment);
        let sealed = Sealed { lsn, segment, offset, bytes, buffer_bytes, is_relaxed: false };
        self.recent.push_back(sealed.clone());
        self.sealed.push(sealed);
    }

    pub(crate) fn prepare_ahead(&mut self) {
        let floor = if self.disk.is_synced() { self.durable } else { self.recovered };
        if let Some(job) = self.segments.prepare(self.options.ready_segments, floor, self.counters.terms) {
            self.disk.submit(Job::Segment(job));
        }
    }

    /// Drops recent batches beyond the budget: they are read from the file from now on. Batches not yet
    /// durable stay.
    pub(crate) fn forget_recent(&mut self) {
        while self.recent_bytes > self.recent_bytes_max()
            && let Some(front) = self.recent.pop_front_if_durable(self.durable)
        {
            self.recent_bytes -= front.buffer_bytes;
        }
        self.pool.trim();
    }

    /// Processes the disk's completions: batches durable, segments prepared and retired.
    ///
    /// # Errors
    /// [`Poisoned`], permanently from the first failed write on.
    pub fn poll(&mut self) -> Result<Progress, Poisoned> {
        self.on_completions();
        self.check()?;
        self.free_dead();
        self.close_sealed();
        self.prepare_ahead();
        self.forget_recent();
        Ok(Progress {
            durable: self.durable,
            written: self.written,
            submitted: self.submitted,
            storage_full: self.segments.is_storage_full(),
            shortage: self.segments.shortage,
        })
    }

    pub(crate) fn on_completions(&mut self) {
        while let Some(completion) = self.disk.poll() {
            match completion {
                Completion::Written { last, cost } => self.on_written(last, cost),
                Completion::Appended { last, cost } => self.on_appended(last, cost),
                Completion::AppendFailed { error } => self.poison(&error),
                Completion::Prepared { sequence, reused, result } => {
                    if self.segments.on_prepared(sequence, reused, result) && self.poisoned.is_none() {
                        self.submit_waiting();
                    }
                    self.adapt_pace();
                }
                Completion::Retired { result, .. } => self.on_retired(result),
                Completion::Snapshot(done) => self.background.push_back(done),
            }
        }
    }

    fn on_appended(&mut self, last: Lsn, cost: AppendCost) {
        if self.poisoned.is_some() {
            return;
        }
        let is_probe = self.is_probing && last == self.durable;
        if is_probe {
            self.is_probing = false;
            self.counters.probes += 1;
        }
        assert!(is_probe || self.durable < last && last <= self.submitted, "appends complete in order");
        self.durable = last;
        self.written = last;
        while let Some((_, bytes)) = self.in_flight.pop_front_if_durable(last) {
            self.queued_bytes -= bytes;
        }
        self.spent(cost);
    }

    fn on_written(&mut self, last: Lsn, cost: AppendCost) {
        if self.poisoned.is_none() {
            assert!(self.written < last && last <= self.submitted, "writes complete in order");
            self.written = last;
            self.spent(cost);
        }
    }

    const fn spent(&mut self, cost: AppendCost) {
        self.counters.cost.syncs += cost.syncs;
        self.counters.cost.bytes += cost.bytes;
        self.counters.cost.nanos += cost.nanos;
    }

    fn poison(&mut self, error: &std::io::Error) {
        self.waiting.clear();
        self.poisoned.get_or_insert_with(|| Poisoned { reason: error.to_string().into() });
    }

    pub(crate) fn check(&self) -> Result<(), Poisoned> {
        self.poisoned.clone().map_or(Ok(()), Err)
    }

    /// The disk, for its own switches and figures.
    #[must_use]
    pub const fn disk(&self) -> &D {
        &self.disk
    }

    /// The disk, for tests and simulations that drive it step by step.
    pub const fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }
}

/// Bytes for the longest frame header and a little more; the smallest frame that can be requested.
pub(crate) const FRAME_BYTES_MIN: usize = HEADER_BYTES + 64;

trait Numbered {
    fn lsn(&self) -> Lsn;
}

impl Numbered for Sealed {
    fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl Numbered for (Lsn, u64) {
    fn lsn(&self) -> Lsn {
        self.0
    }
}

trait PopIfDurable<T> {
    fn pop_front_if_durable(&mut self, durable: Lsn) -> Option<T>;
}

impl<T: Numbered> PopIfDurable<T> for VecDeque<T> {
    fn pop_front_if_durable(&mut self, durable: Lsn) -> Option<T> {
        if self.front()?.lsn() > durable {
            return None;
        }
        self.pop_front()
    }
}
