//! The cells, over a lane of ours. IMPURE: clock, threads.
//!
//! One thread owns the lane, as a worker does, and keeps `writers` writes under way: when one is over, the next begins, for
//! another group. So what is measured is the log with its group commit, and no inbox in front of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use raftwerk_frame::frame::EntryKind;
use raftwerk_frame::{EntryId, GroupId, Term};
use raftwerk_wal::{
    AppendMode, Directory, GroupSlot, Lane, LaneOptions, Lsn, OsDisk, OsDiskOptions, OsFiles,
};

use super::{Cell, LogOptions, Mode, Run, Seen, raw};
use crate::usage::own_cpu_nanos;

/// When the log holds so much, what was written is let go of.
const KEPT_BYTES: u64 = 192 << 20;
/// Longer batches are worth a hand-over, since the next is framed meanwhile: of 8 writes of 32 records of 1 KiB under way, 264 KiB,
/// 1.23 million records/s were written here and 0.91 million by a thread; of 4 writes of 128 records, 1.31 and 2.22 million.
const INLINE_BYTES_MAX: usize = 320 << 10;
/// Segments that are kept ready.
const READY: usize = 3;
/// Written before a cell is measured, so that segments are used again in it as they are in the long run.
const WARM_UP: Duration = Duration::from_millis(100);

/// Wakes the one thread.
struct Bell {
    thread: Thread,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

/// A lane, and where it lies.
pub(super) struct Rig {
    lane: Lane<OsDisk>,
    bell: Arc<Bell>,
    dir: PathBuf,
    next_group: u64,
    written: Written,
}

/// As a node's default.
const RELAXED_SYNC_INTERVAL: Duration = Duration::from_millis(10);

/// What the log has written, and what the device has.
#[derive(Clone, Copy, Default)]
pub(super) struct Written {
    log_bytes: u64,
    device_bytes: Option<u64>,
}

impl Written {
    pub(super) fn add(&mut self, more: Self) {
        self.log_bytes += more.log_bytes;
        let device = more.device_bytes.map(|bytes| bytes + self.device_bytes.unwrap_or(0));
        self.device_bytes = device.or(self.device_bytes);
    }

    pub(super) fn ratio(&self) -> Option<f64> {
        self.device_bytes.map(|device| device as f64 / self.log_bytes.max(1) as f64)
    }
}

struct Writer {
    /// What it waits for, and since when; `None`: it is free.
    waits: Option<(Lsn, Instant)>,
    group: usize,
}

impl Rig {
    pub(super) fn open(dir: &Path, options: &LogOptions, synced: bool) -> Result<Self, String> {
        let mode = match options.mode {
            Mode::Direct if synced => AppendMode::Direct,
            Mode::Direct | Mode::Buffered => AppendMode::Buffered,
            Mode::Mapped => AppendMode::Mapped,
        };
        let bell = Arc::new(Bell { thread: std::thread::current(), rung: AtomicBool::new(false) });
        let open = || -> Result<_, Box<dyn std::error::Error>> {
            let directory = Directory::open(OsFiles::new(dir, mode)?, 1, 0xBE7C)?;
            let inline_bytes_max = if options.own_thread { 0 } else { INLINE_BYTES_MAX };
            let disk_options = OsDiskOptions { sync: synced, inline_bytes_max, ..OsDiskOptions::default() };
            let disk = OsDisk::open(&directory, &disk_options, Waker::from(Arc::clone(&bell)))?;
            let lane_options = LaneOptions {
                segment_bytes: 32 << 20,
                ready_segments: READY,
                spare_segments: 12,
                ..LaneOptions::default()
            };
            Ok(Lane::open(disk, lane_options)?.0)
        };
        let mut lane = open().map_err(|error| error.to_string())?;
        // Segments are made once and used again: what making them costs is not a write's.
        while lane.stats().ready_segments < READY {
            lane.poll().map_err(|error| error.to_string())?;
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(Self { lane, bell, dir: dir.to_owned(), next_group: 1, written: Written::default() })
    }

    /// Writes until segments are made of old ones, as they are in the long run: what a fresh log's are filled with is no write's.
    pub(super) fn age(&mut self, options: &LogOptions) -> Result<(), String> {
        let cell = Cell { groups: 1, record_bytes: 4096, batch: 62, writers: 8, synced: true };
        let slot = self.lane.attach(GroupId(self.next_group));
        self.next_group += 1;
        while self.lane.stats().recycled < READY as u64 {
            self.cycle(&[slot], cell, options, WARM_UP)?;
        }
        self.lane.remove(slot);
        self.settle()
    }

    pub(super) const fn written(&self) -> Written {
        self.written
    }

    pub(super) fn run(&mut self, cell: Cell, options: &LogOptions) -> Result<Seen, String> {
        let first = self.next_group;
        self.next_group += cell.groups;
        let slots: Vec<GroupSlot> =
            (first..self.next_group).map(|group| self.lane.attach(GroupId(group))).collect();
        self.cycle(&slots, cell, options, WARM_UP)?;
        let before = self.lane.stats().bytes_synced;
        let device_before = raw::device_bytes(&self.dir);
        let run = self.cycle(&slots, cell, options, Duration::from_secs_f64(options.seconds))?;
        let log_bytes = self.lane.stats().bytes_synced - before;
        let device_bytes =
            raw::device_bytes(&self.dir).zip(device_before).map(|(after, before)| after - before);
        self.written.add(Written { log_bytes, device_bytes });
        for slot in slots {
            self.lane.remove(slot);
        }
        self.settle()?;
        Ok(Seen::new("raftwerk", self.lane.stats().mode.name(), cell, &run))
    }

    /// Keeps the writers busy for a while, then waits for the last of them.
    fn cycle(
        &mut self,
        slots: &[GroupSlot],
        cell: Cell,
        options: &LogOptions,
        length: Duration,
    ) -> Result<Run, String> {
        let payload = vec![0x6B; cell.record_bytes];
        let mut writers: Vec<Writer> =
            (0..cell.writers).map(|at| Writer { waits: None, group: at % slots.len() }).collect();
        let (mut run, started, cpu_before) = (Run::default(), Instant::now(), own_cpu_nanos());
        let (mut is_over, mut synced_at) = (false, started);
        let is_relaxed = options.relaxed && cell.synced;
        while !is_over || writers.iter().any(|writer| writer.waits.is_some()) {
            is_over = is_over || started.elapsed() >= length;
            self.bell.rung.store(false, Ordering::Release);
            let progress = self.lane.poll().map_err(|error| error.to_string())?;
            let now = Instant::now();
            let reached = if is_relaxed { progress.written } else { progress.durable };
            let mut has_moved = false;
            for writer in &mut writers {
                if let Some((_, since)) = writer.waits.take_if(|(lsn, _)| *lsn <= reached) {
                    run.latencies.record(now.duration_since(since).as_nanos() as u64);
                    run.records += cell.batch as u64;
                    has_moved = true;
                }
            }
            for writer in writers.iter_mut().filter(|writer| writer.waits.is_none() && !is_over) {
                let slot = slots[writer.group];
                if self.lane.turn_budget() == 0 || !self.append(slot, cell.batch, &payload, is_relaxed)? {
                    break;
                }
                writer.group = (writer.group + cell.writers) % slots.len();
                writer.waits = Some((self.lane.last_appended(), now));
                has_moved = true;
            }
            if self.lane.log_bytes() > KEPT_BYTES && has_moved {
                for slot in slots {
                    let last = self.lane.last(*slot);
                    self.lane.compact(*slot, EntryId::new(Term(1), last));
                }
            }
            let is_due = !is_relaxed || now.duration_since(synced_at) >= RELAXED_SYNC_INTERVAL;
            let submitted = if is_due { self.lane.submit() } else { self.lane.submit_relaxed() };
            if is_due {
                synced_at = now;
            }
            submitted.map_err(|error| error.to_string())?;
            if !has_moved {
                self.wait(Duration::from_micros(options.poll_us));
            }
        }
        run.took = started.elapsed();
        run.cpu_nanos = own_cpu_nanos() - cpu_before;
        Ok(run)
    }

    /// `false`, and nothing written, if there is no room at the moment.
    fn append(
        &mut self,
        slot: GroupSlot,
        batch: usize,
        payload: &[u8],
        is_relaxed: bool,
    ) -> Result<bool, String> {
        let id = EntryId::new(Term(1), self.lane.last(slot).next());
        let mut frame = match self.lane.begin_frame(slot, id, batch * (payload.len() + 4)) {
            Ok(frame) => frame,
            Err(raftwerk_wal::LogError::Busy) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        if is_relaxed {
            frame.relax();
        }
        for _ in 0..batch {
            if !frame.push(EntryKind::Payload, payload) {
                return Err("a write does not fit into a frame".to_owned());
            }
        }
        Ok(frame.finish().is_some())
    }

    /// Looks for news for a while, then sleeps until there is some.
    fn wait(&self, polls: Duration) {
        let since = Instant::now();
        while !self.bell.rung.load(Ordering::Acquire) {
            if since.elapsed() < polls {
                std::thread::yield_now();
            } else {
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        let last = self.lane.submit().map_err(|error| error.to_string())?;
        loop {
            let progress = self.lane.poll().map_err(|error| error.to_string())?;
            if last.is_none_or(|last| last <= progress.durable) {
                return Ok(());
            }
            std::thread::yield_now();
        }
    }
}
