//! IMPURE: [`Disk`] on Linux: one thread that appends and syncs, one that prepares segments, one for snapshot
//! files.
//!
//! The append thread takes all queued batches and writes adjacent ones with one call: group commit. Before it
//! sleeps it spins briefly, since the next batch often follows soon; it is woken by a system call only if it
//! sleeps. The submitting thread may write short batches itself, while the append thread is idle
//! ([`OsDiskOptions::inline_bytes_max`]). Not here: the calls of a job (`execute`, `background::snapshots`).

pub(crate) mod file_system;
pub(crate) mod files;
pub(crate) mod map;
mod snapshots;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use crossbeam_utils::sync::{Parker, Unparker};

use crate::background::SnapshotJob;
use crate::directory::Directory;
use crate::disk::execute::{Unsynced, run_appends, run_segment_job};
use crate::disk::files::{AppendMode, Durability, Files};
use crate::disk::linux::files::OsFiles;
use crate::disk::{AppendCost, AppendJob, Completion, Disk, Job, SegmentJob};
use crate::format::lsn::Lsn;

/// The options of a lane's threads.
#[derive(Clone, Debug)]
pub struct OsDiskOptions {
    /// Which lane; names the threads. Default 0.
    pub lane: u16,
    /// How long the append thread spins for another batch before it sleeps. Default 20 µs; zero is allowed.
    pub spin: Duration,
    /// Whether an append is durable before it completes. Default true. `false` is for benchmarks only: it
    /// loses acknowledged writes when the machine stops.
    pub sync: bool,
    /// Batches of at most this many bytes are written by the submitting thread, which then blocks for the
    /// device, if no other batch is in flight: that saves the hand-over between two threads, but the caller
    /// can do nothing else meanwhile. For callers with one task at a time. Longer batches, and those
    /// submitted while one is in flight, go to the append thread. Default 0: all do.
    pub inline_bytes_max: usize,
    /// The pause after a segment could not be made, before the lane may try again. Default 100 ms.
    pub retry_pause: Duration,
}

impl Default for OsDiskOptions {
    fn default() -> Self {
        let (spin, retry_pause) = (Duration::from_micros(20), Duration::from_millis(100));
        Self { lane: 0, spin, sync: true, inline_bytes_max: 0, retry_pause }
    }
}

type File = <OsFiles as Files>::File;

/// The disk of one lane.
pub struct OsDisk {
    directory: Directory<OsFiles>,
    /// What an append that completed is.
    durability: Durability,
    done: Arc<Done>,
    appends: JobThread<AppendJob<File>>,
    writing: Arc<Mutex<Writing>>,
    inline_bytes_max: usize,
    /// The last batch submitted to the append thread, until its completion is polled.
    given: Option<Lsn>,
    segments: JobThread<SegmentJob>,
    snapshots: JobThread<SnapshotJob>,
}

impl fmt::Debug for OsDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OsDisk").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// The queue of completions to the worker.
struct Done {
    queue: SegQueue<Completion<File>>,
    waker: Waker,
}

impl Done {
    fn push(&self, completion: Completion<File>) {
        self.queue.push(completion);
        self.waker.wake_by_ref();
    }
}

impl OsDisk {
    /// Starts the lane's threads. `waker` is woken whenever a completion can be polled; on any thread, so it
    /// must be cheap and must not block.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn open(directory: &Directory<OsFiles>, options: &OsDiskOptions, waker: Waker) -> io::Result<Self> {
        let done = Arc::new(Done { queue: SegQueue::new(), waker });
        let (lane, spin, pause) = (options.lane, options.spin, options.retry_pause);
        let durability = if options.sync { Durability::Synced } else { Durability::Buffered };
        let writing = Arc::new(Mutex::new(Writing::default()));
        let (files, to, of_thread) = (directory.clone(), Arc::clone(&done), Arc::clone(&writing));
        let appends = JobThread::start(format!("wal-sync-{lane}"), move |jobs| {
            append(files.files(), jobs, &of_thread, &to, durability, spin)
        })?;
        let (files, to) = (directory.clone(), Arc::clone(&done));
        let segments = JobThread::start(format!("wal-files-{lane}"), move |jobs| {
            while let Some(job) = jobs.next(Duration::ZERO) {
                let completion = run_segment_job(files.files(), job);
                if matches!(&completion, Completion::Prepared { result: Err(_), .. }) {
                    jobs.pause(pause);
                }
                to.push(completion);
            }
        })?;
        let (files, to) = (directory.clone(), Arc::clone(&done));
        let snapshots = JobThread::start(format!("wal-snap-{lane}"), move |jobs| {
            snapshots::run(files.files(), jobs, |done| to.push(Completion::Snapshot(done)));
        })?;
        let is_copy = !options.sync && directory.files().mode() != AppendMode::Direct;
        Ok(Self {
            directory: directory.clone(),
            durability,
            done,
            appends,
            writing,
            given: None,
            // Without syncs, a write is only a copy.
            inline_bytes_max: if is_copy { usize::MAX } else { options.inline_bytes_max },
            segments,
            snapshots,
        })
    }
}

/// Batches being written.
#[derive(Default)]
struct Writing {
    queued: VecDeque<AppendJob<File>>,
    unsynced: Unsynced<File>,
    has_failed: bool,
}

impl Writing {
    fn put(&mut self, job: AppendJob<File>) {
        assert!(
            self.queued.back().is_none_or(|before| before.lsn <= job.lsn),
            "batches arrive in the order in which they were submitted"
        );
        self.queued.push_back(job);
    }

    /// Writes everything queued; after a failure, nothing ever again: batches queued then are never
    /// acknowledged.
    fn run(&mut self, files: &OsFiles, to: &Done, durability: Durability) {
        if self.has_failed {
            return;
        }
        let mut before = Instant::now();
        let is_alive = run_appends(files, &mut self.queued, &mut self.unsynced, durability, |completion| {
            let now = Instant::now();
            let nanos = now.duration_since(before).as_nanos();
            assert!(nanos <= u128::from(u64::MAX), "a write takes less than 584 years");
            let nanos = nanos as u64;
            before = now;
            to.push(match completion {
                Completion::Appended { last, cost } => {
                    Completion::Appended { last, cost: AppendCost { nanos, ..cost } }
                }
                Completion::Written { last, cost } => {
                    Completion::Written { last, cost: AppendCost { nanos, ..cost } }
                }
                other => other,
            });
        });
        assert!(self.queued.is_empty(), "every queued batch is written, or dropped after a failure");
        self.has_failed = !is_alive;
    }
}

/// The append thread's loop. It holds the lock while it has work: see `OsDisk::write_inline`.
fn append(
    files: &OsFiles,
    jobs: &JobQueue<AppendJob<File>>,
    writing: &Mutex<Writing>,
    to: &Done,
    durability: Durability,
    spin: Duration,
) {
    while let Some(job) = jobs.next(spin) {
        let mut writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.put(job);
        while let Some(job) = jobs.shared.queue.pop() {
            writing.put(job);
        }
        writing.run(files, to, durability);
        if writing.has_failed {
            return;
        }
    }
}

impl OsDisk {
    /// Writes the batch on the calling thread, unless it is long or the append thread is busy: then returns
    /// it.
    fn write_inline(&mut self, job: AppendJob<File>) -> Option<AppendJob<File>> {
        if job.batch.len() > self.inline_bytes_max || self.given.is_some() {
            return Some(job);
        }
        // The thread's completions were all polled, so it is not writing; at most it is about to release the
        // lock.
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(writing.has_failed || writing.queued.is_empty(), "the append thread is idle");
        writing.put(job);
        writing.run(self.directory.files(), &self.done, self.durability);
        None
    }
}

impl Disk for OsDisk {
    type Files = OsFiles;

    fn directory(&self) -> &Directory<OsFiles> {
        &self.directory
    }

    fn submit(&mut self, job: Job<File>) {
        match job {
            Job::Append(job) => {
                if let Some(job) = self.write_inline(job) {
                    assert!(
                        self.given.is_none_or(|given| given <= job.lsn),
                        "batches are submitted in order"
                    );
                    self.given = Some(job.lsn);
                    self.appends.push(job);
                }
            }
            Job::Segment(job) => self.segments.push(job),
            Job::Snapshot(job) => self.snapshots.push(job),
        }
    }

    fn poll(&mut self) -> Option<Completion<File>> {
        let completion = self.done.queue.pop();
        if let Some(Completion::Appended { last, .. } | Completion::Written { last, .. }) = &completion {
            assert!(self.given.is_none_or(|given| given >= *last), "only a submitted batch completes");
            self.given = self.given.filter(|given| given > last);
        }
        completion
    }

    fn mode(&self) -> AppendMode {
        self.directory.files().mode()
    }

    fn is_synced(&self) -> bool {
        self.durability == Durability::Synced
    }
}

/// A thread and its job queue.
struct JobThread<T> {
    shared: Arc<Shared<T>>,
    unparker: Unparker,
    thread: Option<JoinHandle<()>>,
}

struct Shared<T> {
    queue: SegQueue<T>,
    sleeps: AtomicBool,
    ends: AtomicBool,
}

/// The thread's end of its queue.
pub(crate) struct JobQueue<T> {
    shared: Arc<Shared<T>>,
    parker: Parker,
}

impl<T: Send + 'static> JobThread<T> {
    fn start(name: String, work: impl FnOnce(&JobQueue<T>) + Send + 'static) -> io::Result<Self> {
        let parker = Parker::new();
        let unparker = parker.unparker().clone();
        let (queue, sleeps, ends) = (SegQueue::new(), AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { queue, sleeps, ends });
        let jobs = JobQueue { shared: Arc::clone(&shared), parker };
        let thread = thread::Builder::new().name(name).spawn(move || work(&jobs))?;
        Ok(Self { shared, unparker, thread: Some(thread) })
    }

    fn push(&self, job: T) {
        self.shared.queue.push(job);
        fence(Ordering::SeqCst); // pairs with the one in `JobQueue::next`: one of the two sees the other
        if self.shared.sleeps.load(Ordering::Relaxed) {
            self.unparker.unpark();
        }
    }
}

impl<T> Drop for JobThread<T> {
    /// Waits until the thread has finished its queue.
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.unparker.unpark();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has been printed; there is no caller left to report it to
        }
    }
}

impl<T> JobQueue<T> {
    /// The next job; `None` once the queue is empty for good.
    pub(crate) fn next(&self, spin: Duration) -> Option<T> {
        let since = (!spin.is_zero()).then(Instant::now);
        loop {
            if let Some(job) = self.shared.queue.pop() {
                return Some(job);
            }
            if since.is_some_and(|since| since.elapsed() < spin) {
                thread::yield_now(); // yields the core to threads that have work
                continue;
            }
            if let Some(job) = self.pop_or(Parker::park) {
                return Some(job);
            }
            if self.shared.ends.load(Ordering::SeqCst) {
                return self.shared.queue.pop(); // a job queued before the end, if any
            }
        }
    }

    /// The next job that arrives before `deadline`; `None` at once when the disk is being dropped and the
    /// queue is empty.
    pub(crate) fn next_before(&self, deadline: Instant) -> Option<T> {
        loop {
            if let Some(job) = self.shared.queue.pop() {
                return Some(job);
            }
            if self.shared.ends.load(Ordering::SeqCst) || Instant::now() >= deadline {
                return None;
            }
            if let Some(job) = self.pop_or(|parker| parker.park_deadline(deadline)) {
                return Some(job);
            }
        }
    }

    /// Sleeps by `park`, unless there is a job or the disk is being dropped.
    fn pop_or(&self, park: impl FnOnce(&Parker)) -> Option<T> {
        self.shared.sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let job = self.shared.queue.pop();
        if job.is_none() && !self.shared.ends.load(Ordering::SeqCst) {
            park(&self.parker);
        }
        self.shared.sleeps.store(false, Ordering::Relaxed);
        job
    }

    /// Sleeps for `pause`, or until the disk is being dropped.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.shared.ends.load(Ordering::SeqCst) && Instant::now() < until {
            self.parker.park_deadline(until);
        }
    }
}
