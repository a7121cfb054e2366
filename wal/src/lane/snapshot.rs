//! Snapshot files through the lane, which owns the disk: each call queues a job, and
//! [`Lane::poll_background`] returns its result. Jobs of one lane run one after another, beside appends;
//! those of other groups may overtake a save. Next: `background::snapshots` for the jobs.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use raftwerk_frame::frame::HEADER_BYTES;
use raftwerk_frame::{Configuration, EntryId, GroupId};

use crate::background::{
    BackgroundDone, BackgroundOutput, SnapshotJob, SnapshotReader, SnapshotSource, SnapshotWork,
};
use crate::background::{run, snapshots};
use crate::disk::{Disk, Job};
use crate::error::{LogError, SnapshotError};
use crate::format::peers_file::PeerNotes;
use crate::format::snapshot::SnapshotMeta;
use crate::index::LogKind;
use crate::index::groups::GroupSlot;
use crate::lane::Lane;
use crate::recovery::report::RecoveredGroup;

/// A snapshot, and the value that its reader returned.
pub type LoadedSnapshot = (SnapshotMeta, Box<dyn Any + Send>);

impl<D: Disk> Lane<D> {
    /// Writes a snapshot of the group as of `id`: complete and durable, or absent. Older ones are removed
    /// afterwards. Completes as [`Saved`](crate::BackgroundOutput::Saved).
    pub fn save_snapshot(
        &mut self,
        token: u64,
        group: GroupId,
        id: EntryId,
        configuration: Configuration,
        source: SnapshotSource,
    ) {
        self.submit_snapshot(token, group, SnapshotWork::Save { id, configuration, source });
    }

    /// Reads a chunk of the snapshot file, header included, for a transfer. Completes as
    /// [`Chunk`](crate::BackgroundOutput::Chunk).
    pub fn read_snapshot_chunk(
        &mut self,
        token: u64,
        group: GroupId,
        id: EntryId,
        offset: u64,
        bytes: usize,
    ) {
        self.submit_snapshot(token, group, SnapshotWork::ReadChunk { id, offset, bytes });
    }

    /// Writes a chunk of an incoming snapshot file. Offset 0 starts anew, and removes an unfinished earlier
    /// transfer to this group; any other must be where the last chunk ended, else [`SnapshotError::Offset`]
    /// contains the offset to go on at. Completes as [`Written`](crate::BackgroundOutput::Written).
    pub fn write_snapshot_chunk(
        &mut self,
        token: u64,
        group: GroupId,
        id: EntryId,
        offset: u64,
        chunk: Bytes,
    ) {
        self.submit_snapshot(token, group, SnapshotWork::WriteChunk { id, offset, chunk });
    }

    /// Verifies an incoming snapshot of `bytes` bytes, header included, and makes it durable. Older ones are
    /// removed afterwards. Completes as [`Finished`](crate::BackgroundOutput::Finished).
    pub fn finish_snapshot(&mut self, token: u64, group: GroupId, id: EntryId, bytes: u64) {
        self.submit_snapshot(token, group, SnapshotWork::Finish { id, bytes });
    }

    /// Verifies the newest snapshot of the group, then passes its body to `with`. Completes as
    /// [`Loaded`](crate::BackgroundOutput::Loaded).
    pub fn load_snapshot(&mut self, token: u64, group: GroupId, with: SnapshotReader) {
        self.submit_snapshot(token, group, SnapshotWork::Load { with });
    }

    /// Removes the received part of a snapshot of the group that will not be finished. Completes as
    /// [`Dropped`](crate::BackgroundOutput::Dropped).
    pub fn drop_incoming_snapshot(&mut self, token: u64, group: GroupId) {
        self.submit_snapshot(token, group, SnapshotWork::DropIncoming);
    }

    /// Removes every snapshot file of the group. Completes as [`Dropped`](crate::BackgroundOutput::Dropped).
    pub fn drop_snapshots(&mut self, token: u64, group: GroupId) {
        self.submit_snapshot(token, group, SnapshotWork::Drop);
    }

    /// Replaces the notes that the next opening of the directory reads. To be called on one lane only.
    /// Completes as [`Noted`](crate::BackgroundOutput::Noted).
    pub fn note(&mut self, token: u64, notes: PeerNotes) {
        self.submit_snapshot(token, GroupId(0), SnapshotWork::Note { notes });
    }

    pub(crate) fn submit_snapshot(&mut self, token: u64, group: GroupId, work: SnapshotWork) {
        let job = self.snapshot_job(token, group, work);
        self.disk.submit(Job::Snapshot(job));
    }

    fn snapshot_job(&self, token: u64, group: GroupId, work: SnapshotWork) -> SnapshotJob {
        let (catalog, pace) = (Arc::clone(self.background.catalog()), Arc::clone(self.background.pace()));
        SnapshotJob::new(self.options.lane, (token, group), catalog, pace, work)
    }

    /// The next completed snapshot job, if any. Works on a poisoned lane too.
    pub fn poll_background(&mut self) -> Option<BackgroundDone> {
        self.on_completions();
        self.background.take_done()
    }

    /// Verifies the newest snapshot of the group and passes its body to `with`; `None` if there is none.
    /// Blocks: for opening only. Cost: proportional to the file's length; the directory is listed once per
    /// lane.
    ///
    /// # Errors
    /// [`SnapshotError::Corrupt`] if it is damaged, or the device refuses to read it: only this group is
    /// affected, see [`Lane::recreate_empty`]. [`SnapshotError::Io`], also from `with`.
    pub fn load_latest(
        &self,
        group: GroupId,
        with: SnapshotReader,
    ) -> Result<Option<LoadedSnapshot>, SnapshotError> {
        let job = self.snapshot_job(0, group, SnapshotWork::Load { with });
        match run::run_snapshot_job(self.disk.directory().files(), job).result {
            Ok(BackgroundOutput::Loaded { meta, value }) => {
                assert!(meta.group == group, "a snapshot that is loaded is the group's");
                Ok(Some((meta, value)))
            }
            Ok(_) | Err(SnapshotError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes obsolete files: snapshots of groups that are not in this lane, and unfinished ones; and makes
    /// the names of all others durable, before anything relies on them. Blocks: for opening only.
    ///
    /// # Errors
    /// The file system's error.
    pub fn drop_stray_snapshots(&self) -> Result<(), SnapshotError> {
        let is_there = |slot: GroupSlot| !self.groups.log(slot).is_removed;
        let is_known = |group| self.groups.slot_of(group).is_some_and(is_there);
        snapshots::drop_strays(
            self.disk.directory().files(),
            self.options.lane,
            self.background.catalog(),
            is_known,
        )
    }

    /// Recreates a replica whose newest snapshot (the base of its log) is damaged or gone: it starts empty,
    /// as one that joins, with its earlier log's end as floor; and it is fenced in all terms up to now, so
    /// that only a leader elected without it restores it. A damaged file is set aside, under another name,
    /// until there is another snapshot. Returns the group as opening would recover it. Durable with this
    /// turn's batch, all in one. Blocks: for opening only.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn recreate_empty(&mut self, slot: GroupSlot) -> Result<RecoveredGroup, LogError> {
        self.check()?;
        let (group, terms) = (self.groups.log(slot).group, self.counters.terms);
        // If the file cannot be set aside, the next opening finds the damage again, with the same result.
        let _ = snapshots::set_aside(
            self.disk.directory().files(),
            self.options.lane,
            self.background.catalog(),
            group,
        );
        // The removal, the join record, the base, the fence; and the hard state, which the caller appends.
        self.reserve(5 * (HEADER_BYTES + 2 * size_of::<u64>()));
        let sealed = self.marks.sealed();
        let floor = self.groups.log(slot).has_reached();
        let place = self.write_remove(group, floor);
        self.groups.log_mut(slot).remove(floor, place.segment, &mut self.pins);
        self.join(slot, LogKind::Full);
        self.set_fence(slot, terms);
        assert!(self.marks.sealed() == sealed, "a replica is recreated by one batch");
        Ok(RecoveredGroup { is_hit: true, ..RecoveredGroup::of(self.groups.log(slot)) })
    }

    /// The header of the group's newest complete snapshot; the body is not read. Blocks: for opening only.
    ///
    /// # Errors
    /// [`SnapshotError::Corrupt`] if its header is damaged, [`SnapshotError::Io`].
    pub fn latest_snapshot(&self, group: GroupId) -> Result<Option<SnapshotMeta>, SnapshotError> {
        let (files, catalog) = (self.disk.directory().files(), self.background.catalog());
        let found = snapshots::latest(files, self.options.lane, catalog, group)?;
        assert!(found.as_ref().is_none_or(|meta| meta.group == group), "a snapshot found is the group's");
        Ok(found)
    }
}
