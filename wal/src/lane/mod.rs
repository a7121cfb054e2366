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

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use raftwerk_frame::frame::{ENTRY_OVERHEAD_BYTES, HEADER_BYTES};
use raftwerk_frame::{GroupId, Term, Time};

use crate::disk::files::Files;
use crate::disk::{AppendCost, Completion, Disk, Job};
use crate::error::{OpenError, Poisoned};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchInProgress, BatchPosition, NextBatch};
use crate::format::lsn::Lsn;
use crate::format::segment::{PAGE_BYTES, SegmentHeader};
use crate::index::groups::{GroupSlot, Groups};
use crate::index::pins::Pins;
use crate::lane::options::LaneOptions;
use crate::lane::scrub::Scrubbing;
use crate::lane::state::background::Background;
use crate::lane::state::queue::{Queue, Sealed};
use crate::lane::state::recent::Recent;
use crate::lane::state::relocation::Relocation;
use crate::lane::state::segments::{Segments, Shortage};
use crate::lane::state::turn::Turn;
use crate::lane::state::watermarks::Watermarks;
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

/// A worker's ordered log, shared and synced once by all its groups.
///
/// Methods that take a [`GroupSlot`] panic if its group was removed.
#[derive(Debug)]
pub struct Lane<D: Disk> {
    disk: D,
    pub(crate) options: LaneOptions,
    pub(crate) groups: Groups,
    pub(crate) pins: Pins,
    pub(crate) segments: Segments<<D::Files as Files>::File>,
    pool: BufferPool,
    /// Bytes read from files that readers still hold.
    pinned: Arc<AtomicU64>,
    pub(crate) building: Option<BatchInProgress>,
    /// Where the next batch, or the one being built, begins in the current segment.
    pub(crate) write_offset: u64,
    turn: Turn,
    pub(crate) queue: Queue,
    /// The latest batches, kept in memory for reads.
    pub(crate) recent: Recent,
    pub(crate) marks: Watermarks,
    pub(crate) poisoned: Option<Poisoned>,
    background: Background,
    relocation: Relocation,
    /// The current time, as last passed in.
    now: Time,
    counters: Counters,
    /// A probe is in flight.
    is_probing: bool,
    pub(crate) scrubbing: Scrubbing,
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
        assert!(found.report.last <= found.last, "a number that was claimed is not used again");
        assert!(found.report.segments == found.segments.len(), "a segment with batches is in use");
        let template = SegmentHeader {
            lane: options.lane,
            sequence: found.next_sequence,
            log_id: directory.log_id(),
            bytes: options.segment_bytes,
            floor: Lsn(0),
            terms: found.terms,
            previous: found.segments.back().map_or(0, |segment| segment.sequence),
        };
        assert!(template.lane < directory.lane_numbers().end, "the lane is one of the directory's");
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
            turn: Turn::default(),
            queue: Queue::default(),
            recent: Recent::default(),
            marks: Watermarks::opened(found.last),
            poisoned: None,
            background: Background::default(),
            relocation: Relocation::default(),
            now: Time(0),
            counters: Counters { terms: found.terms, ..Counters::default() },
            is_probing: false,
            scrubbing: Scrubbing::default(),
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
        let slot = self.groups.attach(group);
        assert!(self.groups.log(slot).group == group, "a slot leads to its group's log");
        slot
    }

    /// Ensures space for a frame of `frame_bytes` in the batch being built, or begins another batch.
    pub(crate) fn reserve(&mut self, frame_bytes: usize) -> &mut BatchInProgress {
        if self.building.as_ref().is_none_or(|batch| batch.bytes_left() < frame_bytes) {
            self.seal(NextBatch::OnNextPage);
            self.building = None;
            let need = BATCH_HEADER_BYTES + frame_bytes;
            if self.write_offset + need as u64 > self.options.segment_bytes {
                self.segments.roll(self.write_offset);
                self.write_offset = PAGE_BYTES as u64;
            }
            assert!(
                self.write_offset + need as u64 <= self.options.segment_bytes,
                "a batch fits into an empty segment"
            );
            let bytes_left = self.options.segment_bytes - self.write_offset;
            let most = self.options.batch_bytes_max.min(self.options.stream_bytes);
            let likely = self.turn.likely_bytes().min(most);
            let in_page = self.write_offset as usize % PAGE_BYTES;
            let buffer = self.pool.take(likely.min(bytes_left as usize).max(need) + in_page);
            self.building = Some(BatchInProgress::new(buffer, bytes_left, self.write_offset));
        }
        let batch = self.building.as_mut().expect("it was just made");
        assert!(batch.bytes_left() >= frame_bytes, "a batch has the space that is reserved in it");
        batch
    }

    /// Seals the batch being built, unless it is empty.
    pub(crate) fn seal(&mut self, next: NextBatch) {
        if self.building.as_ref().is_some_and(|batch| batch.count() > 0) {
            self.seal_even_empty(next);
        }
    }

    /// Seals the batch being built, even if it holds no frame.
    pub(crate) fn seal_even_empty(&mut self, next: NextBatch) {
        let Some(batch) = self.building.take() else { return };
        let lsn = self.marks.sealed().next();
        let claim = if self.disk.is_synced() { self.marks.durable() } else { self.marks.recovered() };
        assert!(claim <= self.marks.durable(), "a batch claims only what is durable");
        let (segment, offset) = (self.segments.current().sequence, self.write_offset);
        let buffer_bytes = batch.buffer_bytes();
        let position = BatchPosition {
            incarnation: self.segments.incarnation(segment),
            offset: u32::try_from(offset).expect("a segment is at most 1 GiB"),
        };
        let (bytes, takes) = batch.seal(lsn, claim, self.counters.terms, position, next);
        self.counters.batches += 1;
        self.write_offset += takes;
        assert!(self.write_offset <= self.options.segment_bytes, "a batch lies within its segment");
        assert!(
            next == NextBatch::InSamePage || self.write_offset.is_multiple_of(PAGE_BYTES as u64),
            "nothing follows a batch in its page that may be synced"
        );
        self.turn.on_sealed(bytes.len());
        self.marks.on_sealed(lsn, segment);
        let sealed = Sealed { lsn, segment, offset, bytes, buffer_bytes, is_relaxed: false };
        self.recent.push(sealed.clone());
        self.queue.push(sealed);
    }

    pub(crate) fn prepare_ahead(&mut self) {
        let floor = if self.disk.is_synced() { self.marks.durable() } else { self.marks.recovered() };
        assert!(floor <= self.marks.durable(), "a segment's first page claims only what is durable");
        if let Some(job) = self.segments.prepare(self.options.ready_segments, floor, self.counters.terms) {
            self.disk.submit(Job::Segment(job));
        }
    }

    /// Drops recent batches beyond the budget: they are read from the file from now on. Batches not yet
    /// durable stay.
    pub(crate) fn forget_recent(&mut self) {
        while self.recent.bytes() > self.recent_bytes_max() && self.recent.drop_oldest(self.marks.durable()) {
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
        assert!(
            self.marks.durable() <= self.marks.written() && self.marks.written() <= self.marks.submitted(),
            "what is durable is written, and what is written was submitted"
        );
        Ok(Progress {
            durable: self.marks.durable(),
            written: self.marks.written(),
            submitted: self.marks.submitted(),
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
                Completion::Prepared { sequence, result, .. } => {
                    if self.segments.on_prepared(sequence, result) && self.poisoned.is_none() {
                        self.submit_waiting();
                    }
                    self.adapt_pace();
                }
                Completion::Retired { sequence, result } => self.on_retired(sequence, result),
                Completion::Snapshot(done) => self.background.on_done(done),
            }
        }
    }

    fn on_appended(&mut self, last: Lsn, cost: AppendCost) {
        if self.poisoned.is_some() {
            return;
        }
        if self.is_probing && last == self.marks.durable() {
            self.is_probing = false;
            self.counters.probes += 1;
            self.marks.on_probed();
        } else {
            self.marks.on_durable(last);
        }
        self.queue.on_durable(last);
        assert!(
            self.queue.is_idle() == (self.marks.durable() == self.marks.submitted()),
            "a batch is in flight until it is durable"
        );
        self.spent(cost);
    }

    fn on_written(&mut self, last: Lsn, cost: AppendCost) {
        if self.poisoned.is_none() {
            self.marks.on_written(last);
            self.spent(cost);
        }
    }

    const fn spent(&mut self, cost: AppendCost) {
        self.counters.cost.syncs += cost.syncs;
        self.counters.cost.bytes += cost.bytes;
        self.counters.cost.nanos += cost.nanos;
    }

    fn poison(&mut self, error: &std::io::Error) {
        self.queue.clear_waiting();
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
const _: () =
    assert!(FRAME_BYTES_MIN > HEADER_BYTES + ENTRY_OVERHEAD_BYTES, "the smallest frame has an entry");
