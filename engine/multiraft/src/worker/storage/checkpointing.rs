//! One group's checkpoint, and when the next one is due.
//!
//! Not here: making checkpoints ([`super::snapshots`]).

use raftwerk_frame::Index;
use raftwerk_wal::SnapshotMeta;

use crate::worker::settings::Settings;

/// The checkpoint of one group. A group has at most one, which the next one replaces.
#[derive(Debug, Default)]
pub(in crate::worker) struct Checkpointing {
    /// The latest durable one. Its index never falls.
    latest: Option<SnapshotMeta>,
    /// Bytes of log applied since it was begun.
    bytes_since: u64,
    /// Another one is being written.
    is_saving: bool,
}

impl Checkpointing {
    /// For a replica that is restored from a checkpoint.
    pub(in crate::worker) const fn of(latest: Option<SnapshotMeta>) -> Self {
        Self { latest, bytes_since: 0, is_saving: false }
    }

    pub(in crate::worker) const fn latest(&self) -> Option<&SnapshotMeta> {
        self.latest.as_ref()
    }

    /// The last entry that the checkpoint holds.
    pub(in crate::worker) fn index(&self) -> Option<Index> {
        self.latest.as_ref().map(|meta| meta.id.index)
    }

    /// A checkpoint is durable; one that was received may be later than this replica's own.
    pub(super) fn adopt(&mut self, meta: &SnapshotMeta) {
        if self.latest.as_ref().is_none_or(|known| known.id.index <= meta.id.index) {
            self.latest = Some(meta.clone());
        }
    }

    pub(in crate::worker) const fn is_saving(&self) -> bool {
        self.is_saving
    }

    /// The image is on its way to the disk.
    pub(in crate::worker) const fn begin_saving(&mut self) {
        self.is_saving = true;
    }

    /// The image is written, or could not be.
    pub(in crate::worker) const fn end_saving(&mut self) {
        self.is_saving = false;
    }

    /// So many bytes of log were applied.
    pub(in crate::worker) const fn on_applied(&mut self, bytes: u64) {
        self.bytes_since += bytes;
    }

    /// Counts the bytes of log anew.
    pub(in crate::worker) const fn restart_count(&mut self) {
        self.bytes_since = 0;
    }

    /// Whether enough log was applied for another checkpoint, and none is being written.
    pub(super) fn is_due(&self, settings: &Settings) -> bool {
        self.bytes_since >= self.log_bytes_max(settings) && !self.is_saving
    }

    /// Bytes of log after which the group is to be checkpointed. They grow with its state, so that
    /// checkpoints do not write much more than entries do, up to a quarter of the lane's bound, so that no
    /// single group puts the lane over it.
    pub(in crate::worker) fn log_bytes_max(&self, settings: &Settings) -> u64 {
        let state = self.latest.as_ref().map_or(0, |meta| meta.bytes);
        let share = state.saturating_mul(u64::from(settings.checkpoint_state_percent)) / 100;
        settings.checkpoint_log_bytes.max(share.min(settings.lane_bytes_max / 4))
    }
}
