//! What a worker may hold: the rule `bounds`. Whatever callers, peers and disks do, everything that grows has an end.
//!
//! What is not here: how much it is made to hold (`world/crowds.rs`, and whatever stands still).

use raftwerk::drive::Load;

use super::{Checked, Violation, Watch, ensure};

/// Bytes of queries that are over, besides as many as wait.
const SPARE_BYTES: usize = 64 << 10;
/// The most leader queries and removal notices that are open in one worker.
const QUESTIONS_MAX: usize = 1 << 14;
const NEWS_MAX: usize = 1 << 12;
/// The most proposals under way in one worker.
const PENDING_MAX: usize = 1 << 20;
/// The most bytes that wait for the end of a turn, between two turns.
const OUTBOX_BYTES_MAX: usize = 64 << 20;

/// The bounds of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// Bytes that may be queued for a lane's disk.
    pub(crate) queue_bytes: u64,
    /// Bytes of a query.
    pub(crate) query_bytes: usize,
    /// Reads that may wait for a worker, and bytes of their queries.
    pub(crate) reads: usize,
    pub(crate) read_bytes: usize,
}

impl Watch {
    /// Checks what a worker holds.
    pub(crate) fn load(&self, node: usize, load: &Load) -> Checked {
        let bounded = load.lane.queued_bytes <= self.bounds.queue_bytes
            && load.batches <= 1 << 12
            && load.held_messages <= 1 << 16
            && load.inbox_bytes <= 192 << 20
            && load.reads <= self.bounds.reads
            && load.read_bytes <= 2 * self.bounds.read_bytes
            && load.read_bytes <= 2 * load.reads * self.bounds.query_bytes + SPARE_BYTES
            && load.pending_read_index <= QUESTIONS_MAX
            && load.support_events <= NEWS_MAX
            && load.pending <= PENDING_MAX
            && load.outbox_bytes <= OUTBOX_BYTES_MAX;
        ensure!(bounded, "bounds", "n{}: {load:?}", node + 1);
        Ok(())
    }
}
