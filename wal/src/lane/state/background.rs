//! What a lane shares with its background jobs, and their results.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::background::BackgroundDone;
use crate::background::catalog::SnapshotCatalog;
use crate::background::pace::Pace;

/// The lane's end of the background jobs.
#[derive(Debug, Default)]
pub(crate) struct Background {
    /// Completed jobs, in order.
    done: VecDeque<BackgroundDone>,
    /// The catalog of its snapshot files; shared with the jobs.
    catalog: Arc<SnapshotCatalog>,
    /// The pace at which snapshot files are written; shared with the jobs.
    pace: Arc<Pace>,
}

impl Background {
    pub(crate) const fn catalog(&self) -> &Arc<SnapshotCatalog> {
        &self.catalog
    }

    pub(crate) const fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    pub(crate) fn on_done(&mut self, done: BackgroundDone) {
        self.done.push_back(done);
    }

    pub(crate) fn take_done(&mut self) -> Option<BackgroundDone> {
        self.done.pop_front()
    }
}
