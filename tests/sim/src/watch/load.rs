//! What a worker may hold: the rule `bounds`. Whatever callers, peers and disks do, everything that grows has an end.
//!
//! What is not here: how much it is made to hold (`world/crowds.rs`, and whatever stands still).

use raftwerk::drive::Load;

use super::{Checked, Violation, Watch, ensure};

/// Reads that wait for one worker.
pub(crate) const READS_MAX: usize = 1 << 16;
/// Bytes for each of them besides its query, and for all that are gone.
const READ_BYTES: usize = 256;
const SPARE_BYTES: usize = 64 << 10;
/// Questions of followers, and news that are being told, of one worker.
const QUESTIONS_MAX: usize = 1 << 14;
const NEWS_MAX: usize = 1 << 12;
/// Proposals that are on their way, of one worker.
const PENDING_MAX: usize = 1 << 20;
/// Bytes that wait for the end of a turn, between two turns.
const OUTBOX_BYTES_MAX: usize = 64 << 20;

impl Watch {
    /// Checks what a worker holds.
    pub(crate) fn load(&self, node: usize, load: &Load) -> Checked {
        let bounded = load.lane.queued_bytes <= self.queue_bytes_max
            && load.batches <= 1 << 12
            && load.held_messages <= 1 << 16
            && load.inbox_bytes <= 192 << 20
            && load.reads <= READS_MAX
            && load.read_bytes <= load.reads * (self.query_bytes_max + READ_BYTES) + SPARE_BYTES
            && load.questions <= QUESTIONS_MAX
            && load.news <= NEWS_MAX
            && load.pending <= PENDING_MAX
            && load.outbox_bytes <= OUTBOX_BYTES_MAX;
        ensure!(bounded, "bounds", "n{}: {load:?}", node + 1);
        Ok(())
    }
}
