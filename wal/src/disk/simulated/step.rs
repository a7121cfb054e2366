//! A disk that runs its jobs one at a time, on request.

use std::collections::VecDeque;

use crate::background::run::run_snapshot_job;
use crate::directory::Directory;
use crate::disk::execute::{Unsynced, run_appends, run_segment_job};
use crate::disk::files::{AppendMode, Durability, Files};
use crate::disk::{Completion, Disk, Job};

/// A [`Disk`] without threads: jobs wait until [`StepDisk::run_appends`] and the like run them.
#[derive(Debug)]
pub struct StepDisk<F: Files> {
    directory: Directory<F>,
    /// Whether [`Disk::poll`] runs waiting jobs, so that a lane can be used without driving its disk.
    pub runs_by_itself: bool,
    is_dead: bool,
    appends: VecDeque<crate::disk::AppendJob<F::File>>,
    unsynced: Unsynced<F::File>,
    others: VecDeque<Job<F::File>>,
    done: VecDeque<Completion<F::File>>,
}

impl<F: Files> StepDisk<F> {
    /// A disk on the directory, with `runs_by_itself` set.
    #[must_use]
    pub fn new(directory: Directory<F>) -> Self {
        let (appends, others, done) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self {
            directory,
            runs_by_itself: true,
            is_dead: false,
            appends,
            unsynced: Unsynced::default(),
            others,
            done,
        }
    }

    /// Runs every queued append, as one group commit. Returns whether there was any.
    pub fn run_appends(&mut self) -> bool {
        if self.is_dead || self.appends.is_empty() {
            return false;
        }
        let done = &mut self.done;
        let files = self.directory.files();
        let (appends, unsynced) = (&mut self.appends, &mut self.unsynced);
        let durability = Durability::Synced;
        let is_alive = run_appends(files, appends, unsynced, durability, |ended| done.push_back(ended));
        assert!(self.appends.is_empty(), "every queued batch is written, or dropped after a failure");
        self.is_dead = !is_alive;
        true
    }

    /// Runs the next job on segments or snapshot files. Returns whether there was one.
    pub fn run_background(&mut self) -> bool {
        let Some(job) = self.others.pop_front() else { return false };
        let files = self.directory.files();
        self.done.push_back(match job {
            Job::Segment(job) => run_segment_job(files, job),
            Job::Snapshot(job) => Completion::Snapshot(run_snapshot_job(files, job)),
            Job::Append(_) => return true, // appends have a queue of their own
        });
        true
    }
}

impl<F: Files> Disk for StepDisk<F> {
    type Files = F;

    fn directory(&self) -> &Directory<F> {
        &self.directory
    }

    fn submit(&mut self, job: Job<F::File>) {
        match job {
            Job::Append(job) => {
                assert!(
                    self.appends.back().is_none_or(|before| before.lsn <= job.lsn),
                    "batches are submitted in order"
                );
                self.appends.push_back(job);
            }
            other => self.others.push_back(other),
        }
    }

    fn poll(&mut self) -> Option<Completion<F::File>> {
        if self.runs_by_itself && self.done.is_empty() && !self.run_background() {
            self.run_appends();
        }
        self.done.pop_front()
    }

    fn mode(&self) -> AppendMode {
        AppendMode::Buffered
    }

    fn is_synced(&self) -> bool {
        true
    }
}
