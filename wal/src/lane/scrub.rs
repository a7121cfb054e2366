//! Damage that is found while the lane runs: by scrubbing ([`Lane::scrub`]), or by reads.
//!
//! More is in memory then than when a damaged log is opened: every group's metadata, and the place of each of
//! its frames. So only payloads can be lost. Metadata frames in a damaged segment are rewritten, in parts.
//! Entries are rewritten where memory or the page cache still holds them whole; the lane's user repairs the
//! others, by a checkpoint or from peers ([`Lane::lose`]).
//!
//! Not here: reading and checking (`background::scrub`), damage found at opening (`salvage`).

use std::collections::{BTreeMap, VecDeque};

use raftwerk_frame::{GroupId, Index};

use crate::background::SnapshotWork;
use crate::background::check::{CheckAt, SnapshotsChecked};
use crate::background::scrub::{ScrubChunk, Scrubbed};
use crate::disk::Disk;
use crate::error::LogError;
use crate::format::segment::segment_path;
use crate::index::frame::Place;
use crate::index::groups::GroupSlot;
use crate::lane::Lane;
use crate::lane::options::OnDamage;
use crate::recovery::report::RecoveredGroup;

/// The most damaged places recorded; more in one lane means a failed disk.
const PLACES_MAX: usize = 4096;

/// Live entries of a group that lie in a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedEntries {
    /// Its slot.
    pub slot: GroupSlot,
    /// The group.
    pub group: GroupId,
    /// The first affected entry.
    pub first: Index,
    /// The last one.
    pub last: Index,
    /// Bytes of the affected frames.
    pub bytes: u64,
}

/// Known damage, and the progress of scrubbing.
#[derive(Debug, Default)]
pub(crate) struct Scrubbing {
    /// The next segment to check, and the offset in it.
    at: (u64, u64),
    /// The progress of the pass over the snapshot files.
    checked: CheckAt,
    /// Bytes checked since the lane was opened.
    pub(crate) bytes: u64,
    /// Damaged places in segments in use: segment and offset, and length.
    places: BTreeMap<(u64, u64), u64>,
    /// Segments with metadata frames to be rewritten.
    pub(crate) leaving: VecDeque<u64>,
    /// The next slot to scan for the first of them.
    pub(crate) leave_from: usize,
    /// Places that the lane itself could not read, not yet taken by [`Lane::take_unreadable`].
    pub(crate) unreadable: Vec<Place>,
}

impl Scrubbing {
    /// Bytes known to be damaged.
    pub(crate) fn damaged_bytes(&self) -> u64 {
        self.places.values().sum()
    }

    /// Forgets all damage of a segment that is out of the log.
    pub(crate) fn forget(&mut self, segment: u64) {
        self.places.retain(|(of, _), _| *of != segment);
        self.leaving.retain(|of| *of != segment);
    }

    /// Records a damaged range. Returns whether it is new.
    fn note(&mut self, segment: u64, (from, to): (u64, u64)) -> bool {
        if self.places.contains_key(&(segment, from)) || self.places.len() >= PLACES_MAX {
            return false;
        }
        assert!(from <= to, "a damaged range ends behind its start");
        self.places.insert((segment, from), to - from);
        assert!(self.places.len() <= PLACES_MAX, "the damaged places that are kept are bounded");
        if !self.leaving.contains(&segment) {
            self.leaving.push_back(segment);
        }
        true
    }
}

impl<D: Disk> Lane<D> {
    /// Scrubs the next part of the sealed segments, about `bytes` bytes, in the background. Completes as
    /// [`Scrubbed`](crate::BackgroundOutput::Scrubbed). Returns `false`, and does nothing, after the last
    /// part: the next call starts a new pass. One at a time.
    ///
    /// Cost: one job of the snapshot thread, which reads that much; no time of the caller's.
    pub fn scrub(&mut self, token: u64, bytes: u64) -> bool {
        let (current, (sequence, offset)) = (self.segments.current().sequence, self.scrubbing.at);
        let is_sealed = |sequence: u64| sequence != current && self.is_all_durable(sequence);
        let mut later = self.segments.in_use.iter().filter(|segment| segment.sequence >= sequence);
        let next = later.find_map(|segment| {
            let from = if segment.sequence == sequence { offset } else { 0 };
            let end = segment.end.filter(|end| from < *end && segment.read.is_some())?;
            (is_sealed(segment.sequence)).then_some((segment.sequence, from, end))
        });
        let Some((sequence, from, end)) = next else {
            self.scrubbing.at = (0, 0);
            return false;
        };
        assert!(sequence < current, "only full segments are scrubbed");
        assert!(from < end, "a part that is scrubbed has bytes");
        let incarnation = self.segments.incarnation(sequence);
        let chunk = ScrubChunk { sequence, incarnation, from, end, bytes: bytes.max(64 << 10) };
        self.submit_snapshot(token, GroupId(0), SnapshotWork::Scrub { chunk });
        true
    }

    /// Scrubs the next of the groups' snapshot files, about `bytes` bytes of them, in the background: whether
    /// the device still returns the bytes written. Completes as
    /// [`Checked`](crate::BackgroundOutput::Checked). One at a time. After the last file the pass starts
    /// again at the first.
    ///
    /// Cost: as of [`Lane::scrub`].
    pub fn scrub_snapshots(&mut self, token: u64, bytes: u64) {
        self.submit_snapshot(token, GroupId(0), SnapshotWork::Check { at: self.scrubbing.checked, bytes });
    }

    /// Records the progress of the snapshot scrub.
    pub fn on_snapshots_scrubbed(&mut self, seen: &SnapshotsChecked) {
        self.scrubbing.checked = seen.next;
        self.scrubbing.bytes += seen.bytes;
    }

    /// Records a scrub's result. Returns the damaged places that are new; [`Lane::damaged_entries`] returns the
    /// groups they affect.
    pub fn on_scrubbed(&mut self, seen: &Scrubbed) -> Vec<Place> {
        self.scrubbing.at = (seen.sequence, seen.next);
        self.scrubbing.bytes += seen.bytes;
        if self.segments.find(seen.sequence).is_none() {
            return Vec::new(); // freed meanwhile, and perhaps reused
        }
        let place = |range: &(u64, u64)| {
            self.scrubbing.note(seen.sequence, *range).then(|| Place {
                segment: seen.sequence,
                offset: u32::try_from(range.0).expect("a segment is at most 1 GiB"),
                bytes: u32::try_from(range.1 - range.0).expect("a segment is at most 1 GiB"),
            })
        };
        seen.damage.iter().filter_map(place).collect()
    }

    /// Records a place that could not be read ([`LogError::Damaged`]). Returns
    /// whether it is new.
    pub fn damaged(&mut self, place: Place) -> bool {
        self.scrubbing.note(place.segment, (u64::from(place.offset), place.end()))
    }

    /// Places that the lane could not read while it relocated entries, since the last call.
    pub fn take_unreadable(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.scrubbing.unreadable)
    }

    /// The groups with live entries at a place. Cost: a scan of every frame of the lane.
    #[must_use]
    pub fn damaged_entries(&self, place: Place) -> Vec<DamagedEntries> {
        self.entries_at(place, |_| true)
    }

    /// As [`Lane::damaged_entries`], but counts only frames that cannot be read, not their neighbours. Cost: a
    /// scan of every frame of the lane, and a read of each frame at the place.
    #[must_use]
    pub fn unreadable_entries(&self, place: Place) -> Vec<DamagedEntries> {
        self.entries_at(place, |at| self.bytes(at).is_err())
    }

    fn entries_at(&self, place: Place, counts: impl Fn(Place) -> bool) -> Vec<DamagedEntries> {
        let mut hits = Vec::new();
        for (slot, log) in self.groups.by_slot().filter(|(_, log)| log.is_in(place.segment)) {
            let mut hit: Option<DamagedEntries> = None;
            for frame in log.frames(log.base.index.next(), Index(u64::MAX), u64::MAX) {
                let at = frame.place;
                let is_there = at.segment == place.segment
                    && u64::from(at.offset) < place.end()
                    && u64::from(place.offset) < at.end();
                if !is_there || !counts(at) {
                    continue;
                }
                let first = frame.first.max(log.base.index.next());
                assert!(first <= frame.last, "a live frame holds an entry above the base");
                let group = log.group;
                let hit =
                    hit.get_or_insert(DamagedEntries { slot, group, first, last: frame.last, bytes: 0 });
                hit.last = frame.last;
                hit.bytes += u64::from(at.bytes);
            }
            hits.extend(hit);
        }
        hits
    }

    /// Rewrites all of a group's entries, if they are few and can all be read: from memory, or from a copy in
    /// the page cache. Returns whether it did. Durable with this turn's batch.
    pub fn rewrite(&mut self, slot: GroupSlot) -> bool {
        let is_possible = self.poisoned.is_none() && !self.segments.is_storage_full();
        is_possible && self.rewrite_entries(slot.0 as usize)
    }

    /// Drops the entries from `from` on as lost and fences the group in the log, in all terms up to now.
    /// Returns the group as opening would recover it; `None` if there is no such entry, or the lane is
    /// poisoned. Durable with this turn's batch.
    pub fn lose(&mut self, slot: GroupSlot, from: Index) -> Option<RecoveredGroup> {
        let (terms, log) = (self.counters.terms, self.groups.log(slot));
        if self.poisoned.is_some() || from > log.last || from <= log.base.index {
            return None;
        }
        let place = self.write_fence(log.group, terms);
        let log = self.groups.log_mut(slot);
        log.lose_from(from, &mut self.pins);
        assert!(log.last == from.prev(), "a log ends right before what it has lost");
        log.fence(terms, place.segment, &mut self.pins);
        Some(RecoveredGroup { is_hit: true, ..RecoveredGroup::of(self.groups.log(slot)) })
    }

    /// Whether a place is known to be damaged.
    #[must_use]
    pub fn is_known_damage(&self, place: Place) -> bool {
        self.scrubbing.places.contains_key(&(place.segment, u64::from(place.offset)))
    }

    /// The error for reads of a damaged place.
    #[must_use]
    pub fn damage_at(&self, place: Place) -> LogError {
        let file = segment_path(self.options.lane, place.segment);
        LogError::Damaged { file, offset: u64::from(place.offset), place }
    }

    /// Whether the lane goes on with what is left after damage, or stops.
    #[must_use]
    pub fn tolerates_damage(&self) -> bool {
        self.options.on_damage == OnDamage::Fence
    }
}
