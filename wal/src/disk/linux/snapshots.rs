//! IMPURE: the loop of the snapshot thread. One job after another; but a save is paced (`pace`), and other
//! groups' jobs run between its steps. Not here: the calls of a job (`background::snapshots`), which jobs may
//! overtake which (`background`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::background::run::{run_in_steps, run_snapshot_job};
use crate::background::{BackgroundDone, SnapshotJob};
use crate::disk::files::Files;
use crate::disk::linux::JobQueue;

/// The most jobs taken up between two steps of a save: continuous transfers must not keep it from going on.
const BETWEEN_STEPS_MAX: usize = 32;

/// Works the queue off until the disk is dropped; `done` receives the result of each job.
pub(crate) fn run<F: Files>(files: &F, jobs: &JobQueue<SnapshotJob>, done: impl Fn(BackgroundDone)) {
    let mut waiting = VecDeque::new();
    while let Some(job) = waiting.pop_front().or_else(|| jobs.next(Duration::ZERO)) {
        let (group, pace) = (job.group(), job.pace());
        let mut step_began = Instant::now();
        let mut pause = || {
            let until = Instant::now() + pace.pause_after(step_began.elapsed());
            for _ in 0..BETWEEN_STEPS_MAX {
                let Some(later) = jobs.next_before(until) else { break };
                if later.group() != group && later.may_overtake(&waiting) {
                    done(run_snapshot_job(files, later));
                } else {
                    waiting.push_back(later);
                }
            }
            step_began = Instant::now();
        };
        let ended = run_in_steps(files, job, &mut pause);
        assert_eq!(ended.group, group, "the result is of the job that was taken");
        done(ended);
    }
}
