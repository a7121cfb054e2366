//! Running a job of the background thread, over any [`Files`].
//!
//! Not here: the order of jobs (`background`), and the thread (`disk::linux`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::background::catalog::Kind;
use crate::background::check;
use crate::background::scrub;
use crate::background::snapshots::{GroupSnapshots, Outcome};
use crate::background::{BackgroundDone, BackgroundOutput, SnapshotJob, SnapshotWork};
use crate::disk::files::Files;
use crate::error::SnapshotError;
use crate::format::peers_file;

/// Runs a job to its end, without pauses.
pub fn run_snapshot_job<F: Files>(files: &F, job: SnapshotJob) -> BackgroundDone {
    run_in_steps(files, job, &mut || ())
}

/// Runs a job to its end. Between two steps of a save, with all earlier steps synced, `pause` is called.
pub(crate) fn run_in_steps<F: Files>(files: &F, job: SnapshotJob, pause: &mut dyn FnMut()) -> BackgroundDone {
    let SnapshotJob { lane, token, group, catalog, work, .. } = job;
    let snapshots = GroupSnapshots::of(files, lane, &catalog, group);
    // A panic in the state machine's code must not end the thread: the caller waits for the job's result.
    let result = catch_unwind(AssertUnwindSafe(|| snapshots.run(work, pause)));
    BackgroundDone { token, group, result: result.unwrap_or(Err(SnapshotError::Panicked)) }
}

impl<F: Files> GroupSnapshots<'_, F> {
    fn run(&self, work: SnapshotWork, pause: &mut dyn FnMut()) -> Outcome {
        match work {
            SnapshotWork::Save { id, configuration, source } => self.save(id, configuration, source, pause),
            SnapshotWork::ReadChunk { id, offset, bytes } => self.read_chunk(id, offset, bytes),
            SnapshotWork::WriteChunk { id, offset, chunk } => self.write_chunk(id, offset, &chunk),
            SnapshotWork::Finish { id, bytes } => self.finish(id, bytes),
            SnapshotWork::Load { with } => self.load(with),
            SnapshotWork::DropIncoming => self.drop_where(|kind| kind == Kind::Incoming),
            SnapshotWork::Drop => self.drop_where(|_| true),
            SnapshotWork::Check { at, bytes } => {
                Ok(BackgroundOutput::Checked(check::check(self.files, self.lane, self.catalog, at, bytes)?))
            }
            SnapshotWork::Scrub { chunk } => {
                Ok(BackgroundOutput::Scrubbed(scrub::scrub(self.files, self.lane, &chunk)?))
            }
            SnapshotWork::Note { notes } => {
                Ok(peers_file::write(self.files, &notes).map(|()| BackgroundOutput::Noted)?)
            }
        }
    }
}
