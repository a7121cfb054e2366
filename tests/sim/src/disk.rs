//! A node's disk: the real log's jobs over files in memory, run when the world schedules them, failing as the world decides.
//!
//! A lane has three queues, as the real disk has three threads: appends, segments, snapshot files. Within a job the
//! calls are the real ones (`raftwerk_wal::run_appends` and its like), so a crash can come between any two of them.
//! What is not here: when, and what fails (`world`).

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raftwerk_wal::simulated::{Call, Fate, MemoryFile, MemoryFiles, Outcome};
use raftwerk_wal::{
    AppendJob, AppendMode, Completion, Directory, Disk, Durability, Job, Lsn, SegmentJob, SnapshotJob,
    Unsynced, run_appends, run_segment_job, run_snapshot_job,
};

/// A batch on its way to a disk.
pub(crate) type Batch = AppendJob<MemoryFile>;

/// One of a lane's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Appends,
    Segments,
    Snapshots,
}

impl Queue {
    pub(crate) const ALL: [Self; 3] = [Self::Appends, Self::Segments, Self::Snapshots];
}

/// The disk of one lane. Clones share it.
#[derive(Clone)]
pub(crate) struct SimDisk {
    directory: Directory<MemoryFiles>,
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Default)]
struct Jobs {
    appends: VecDeque<Batch>,
    /// Written and not synced: the files …
    unsynced: Unsynced<MemoryFile>,
    /// … and the batches.
    relaxed: Vec<Batch>,
    segments: VecDeque<SegmentJob>,
    snapshots: VecDeque<SnapshotJob>,
    /// What may overtake a job that saves a snapshot does so.
    is_overtaking: bool,
    done: VecDeque<Completion<MemoryFile>>,
    /// A write has failed: nothing is appended any more.
    is_dead: bool,
    /// The batch that it failed with, and those that waited behind it.
    failed: Vec<Batch>,
}

impl Jobs {
    /// The next job on snapshot files.
    fn next_snapshot(&mut self) -> Option<SnapshotJob> {
        let jobs = &mut self.snapshots;
        let may = |at: &usize| jobs[*at].may_overtake(jobs.range(..*at));
        let is_save = jobs.front().is_some_and(SnapshotJob::is_save);
        let at = (1..jobs.len()).find(may).filter(|_| self.is_overtaking && is_save);
        jobs.remove(at.unwrap_or(0))
    }
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// The disk of a life with this number: in every second life other jobs overtake saves.
    pub(crate) fn new(directory: Directory<MemoryFiles>, life: u64) -> Self {
        let jobs = Jobs { is_overtaking: life.is_multiple_of(2), ..Jobs::default() };
        Self { directory, jobs: Arc::new(Mutex::new(jobs)) }
    }

    /// Whether anything waits in a queue.
    pub(crate) fn has(&self, queue: Queue) -> bool {
        let jobs = held(&self.jobs);
        match queue {
            Queue::Appends => !jobs.appends.is_empty() && !jobs.is_dead,
            Queue::Segments => !jobs.segments.is_empty(),
            Queue::Snapshots => !jobs.snapshots.is_empty(),
        }
    }

    /// How many appends wait.
    pub(crate) fn appends(&self) -> usize {
        held(&self.jobs).appends.len()
    }

    /// Whether the next segment is to be made of a file that has been one before.
    pub(crate) fn reuses_next(&self) -> bool {
        matches!(held(&self.jobs).segments.front(), Some(SegmentJob::Prepare { spare: Some(_), .. }))
    }

    /// Whether the next job on segments is to free one.
    pub(crate) fn retires_next(&self) -> bool {
        matches!(held(&self.jobs).segments.front(), Some(SegmentJob::Retire { .. }))
    }

    /// Whether the next job on snapshot files is to give one its name.
    pub(crate) fn names_next(&self) -> bool {
        held(&self.jobs).snapshots.front().is_some_and(SnapshotJob::names)
    }

    /// Runs the first of the appends that wait, so many at the most, as one group commit; gives those that are durable
    /// now, and reports those that were written to `is_written`.
    pub(crate) fn run_appends(&self, most: usize, mut is_written: impl FnMut(&Batch)) -> Vec<Batch> {
        let mut jobs = held(&self.jobs);
        if jobs.is_dead {
            return Vec::new();
        }
        let most = most.min(jobs.appends.len());
        let later = jobs.appends.split_off(most);
        let (mut queued, mut durable) = (std::mem::replace(&mut jobs.appends, later), Lsn(0));
        let mut last_written = Lsn(0);
        let mut written = std::mem::take(&mut jobs.relaxed);
        let before = written.len();
        written.extend(queued.iter().cloned());
        let mut unsynced = std::mem::take(&mut jobs.unsynced);
        let (files, synced) = (self.directory.files(), Durability::Synced);
        let is_alive = run_appends(files, &mut queued, &mut unsynced, synced, |completion| {
            match &completion {
                Completion::Appended { last, .. } => (durable, last_written) = (*last, *last),
                Completion::Written { last, .. } => last_written = *last,
                _ => {}
            }
            jobs.done.push_back(completion);
        });
        written[before..].iter().filter(|job| job.lsn <= last_written).for_each(&mut is_written);
        jobs.unsynced = unsynced;
        jobs.is_dead = !is_alive;
        let is_durable = |job: &Batch| job.lsn <= durable;
        let waits = written.iter().filter(|job| !is_durable(job)).cloned().collect();
        if is_alive {
            jobs.relaxed = waits;
        } else {
            let behind = std::mem::take(&mut jobs.appends);
            jobs.failed = waits;
            jobs.failed.extend(behind);
        }
        written.retain(is_durable);
        written
    }

    /// The batches that are not known to be durable, in order: one after another may be on the device all the same.
    pub(crate) fn undecided(&self) -> Vec<Batch> {
        let jobs = held(&self.jobs);
        let batches = jobs.relaxed.iter().chain(&jobs.appends).chain(&jobs.failed);
        batches.filter(|batch| !batch.is_probe()).cloned().collect()
    }

    /// Runs the next job of another queue.
    pub(crate) fn run_background(&self, queue: Queue) {
        let mut jobs = held(&self.jobs);
        let files = self.directory.files();
        let done = match queue {
            Queue::Appends => None,
            Queue::Segments => jobs.segments.pop_front().map(|job| run_segment_job(files, job)),
            Queue::Snapshots => {
                jobs.next_snapshot().map(|job| Completion::Snapshot(run_snapshot_job(files, job)))
            }
        };
        jobs.done.extend(done);
    }
}

impl Disk for SimDisk {
    type Files = MemoryFiles;

    fn directory(&self) -> &Directory<MemoryFiles> {
        &self.directory
    }

    fn submit(&mut self, job: Job<MemoryFile>) {
        let mut jobs = held(&self.jobs);
        match job {
            Job::Append(job) => jobs.appends.push_back(job),
            Job::Segment(job) => jobs.segments.push_back(job),
            Job::Snapshot(job) => jobs.snapshots.push_back(job),
        }
    }

    fn poll(&mut self) -> Option<Completion<MemoryFile>> {
        held(&self.jobs).done.pop_front()
    }

    fn mode(&self) -> AppendMode {
        AppendMode::Direct
    }

    fn is_synced(&self) -> bool {
        true
    }
}

/// The errors of a node's next calls. Shared by the world, which sets them, and the files, which return them.
#[derive(Debug, Default)]
pub(crate) struct Mishaps {
    /// After so many more changing calls the node dies: this call and all after it fail.
    pub(crate) crash_after: Option<u64>,
    /// The node has died at such a call.
    pub(crate) has_crashed: bool,
    /// So many changing calls fail …
    pub(crate) failing_writes: u32,
    /// … and what they wrote stays in the cache: reads return it, and the device does not have it.
    pub(crate) stays_cached: bool,
    /// Such a call has failed: whatever was written without a sync before may be lost with it, as in a power cut.
    pub(crate) has_forgotten: bool,
    /// The next sync of a directory in which a file was just renamed fails.
    pub(crate) refuses_names: Option<Renamed>,
    /// So many reads fail.
    pub(crate) failing_reads: u32,
    /// The next read of a file has this bit flipped.
    pub(crate) flip: Option<u64>,
    /// Calls that failed, and reads that returned other bytes, since the last look.
    pub(crate) struck: u64,
}

/// Whether a file was renamed since names were to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renamed {
    NotYet,
    Done,
}

impl Mishaps {
    /// Whether this is the sync of names that is to be refused.
    fn refuses(&mut self, call: Call<'_>) -> bool {
        match (self.refuses_names, call) {
            (Some(Renamed::NotYet), Call::Rename(..)) => self.refuses_names = Some(Renamed::Done),
            (Some(Renamed::Done), Call::SyncDir(_)) => {
                self.refuses_names = None;
                return true;
            }
            _ => {}
        }
        false
    }
}

/// The [`Fate`] that applies them.
pub(crate) struct Obedient(pub(crate) Arc<Mutex<Mishaps>>);

impl Fate for Obedient {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        let mut mishaps = held(&self.0);
        if let Call::Read { .. } = call {
            if mishaps.has_crashed {
                return Outcome::Fail(io::ErrorKind::Other);
            }
            if let Some(bit) = mishaps.flip.take() {
                mishaps.struck += 1;
                return Outcome::Flipped(bit);
            }
            if mishaps.failing_reads > 0 {
                mishaps.failing_reads -= 1;
                mishaps.struck += 1;
                return Outcome::Fail(io::ErrorKind::Other);
            }
            return Outcome::Done;
        }
        if let Some(left) = &mut mishaps.crash_after {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => mishaps.has_crashed = true,
            }
        }
        if mishaps.has_crashed {
            return Outcome::Fail(io::ErrorKind::Other);
        }
        if mishaps.refuses(call) {
            mishaps.struck += 1;
            return Outcome::Fail(io::ErrorKind::Other);
        }
        if mishaps.failing_writes > 0 {
            mishaps.failing_writes -= 1;
            mishaps.struck += 1;
            let kind = io::ErrorKind::Other;
            mishaps.has_forgotten |= mishaps.stays_cached;
            return if mishaps.stays_cached { Outcome::FailStale(kind) } else { Outcome::Fail(kind) };
        }
        Outcome::Done
    }
}
