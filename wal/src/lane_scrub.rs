//! Damage that is found while the lane runs: by looking for it ([`Lane::scrub`]), or by whoever reads.
//!
//! More is known then than when a damaged log is opened: what every group has promised, and where each of its frames lies, is
//! in memory. So nothing is lost but payloads. Facts that lie in a damaged segment are written again, in parts. Entries are
//! written again where something else still has them whole; what cannot be is for the lane's user to mend, by a checkpoint or
//! from peers ([`Lane::lose`]).
//!
//! What is not here: reading and checking (`scrub`), damage found at opening (`salvage`).

use std::collections::{BTreeMap, VecDeque};

use raftwerk_frame::{GroupId, Index};

use crate::disk::Disk;
use crate::error::LogError;
use crate::index::Place;
use crate::lane::{GroupSlot, Lane, OnDamage};
use crate::recovery::{RecoveredGroup, told};
use crate::scrub::{ScrubPiece, Scrubbed};
use crate::segment::segment_path;
use crate::snapshot::SnapshotWork;
use crate::snapshot_check::{CheckAt, SnapshotsChecked};

/// Damaged places that are remembered at most; more in one lane is a disk that is gone.
const PLACES_MAX: usize = 4096;

/// Live entries of a group that lie where the log is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its slot.
    pub slot: GroupSlot,
    /// The group.
    pub group: GroupId,
    /// The first entry that is hit.
    pub first: Index,
    /// The last one.
    pub last: Index,
    /// Bytes of the frames that are hit.
    pub bytes: u64,
}

/// What the lane knows of damage, and how far it has looked for it.
#[derive(Debug, Default)]
pub(crate) struct Scrubbing {
    /// The next segment to look at, and where in it.
    at: (u64, u64),
    /// How far the pass over the snapshot files has come.
    checked: CheckAt,
    /// Bytes looked at since the lane was opened.
    pub(crate) bytes: u64,
    /// Damaged places in segments that are in use: segment and offset, and how long.
    places: BTreeMap<(u64, u64), u64>,
    /// Segments whose facts are to be written again.
    pub(crate) leaving: VecDeque<u64>,
    /// How far that has come with the first of them.
    pub(crate) leave_from: usize,
    /// Places that the lane itself could not read.
    pub(crate) met: Vec<Place>,
}

impl Scrubbing {
    /// Bytes known to be damaged.
    pub(crate) fn damaged_bytes(&self) -> u64 {
        self.places.values().sum()
    }

    /// A segment is out of the log, with all that was wrong with it.
    pub(crate) fn forget(&mut self, segment: u64) {
        self.places.retain(|(of, _), _| *of != segment);
        self.leaving.retain(|of| *of != segment);
    }

    /// Whether this was not known.
    fn note(&mut self, segment: u64, (from, to): (u64, u64)) -> bool {
        if self.places.contains_key(&(segment, from)) || self.places.len() >= PLACES_MAX {
            return false;
        }
        self.places.insert((segment, from), to - from);
        if !self.leaving.contains(&segment) {
            self.leaving.push_back(segment);
        }
        true
    }
}

impl<D: Disk> Lane<D> {
    /// Has the next piece of the sealed segments looked at, of about `bytes` bytes, in the background. Gives
    /// [`Scrubbed`](crate::BackgroundOutput::Scrubbed). `false`, and nothing is done, after the last: the next call begins anew.
    /// One at a time.
    ///
    /// Cost: one job of the thread for snapshot files, which reads that much; nothing of the caller's time.
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
        let incarnation = self.segments.incarnation(sequence);
        let piece = ScrubPiece { sequence, incarnation, from, end, bytes: bytes.max(64 << 10) };
        self.submit_snapshot(token, GroupId(0), SnapshotWork::Scrub { piece });
        true
    }

    /// Has the next of the groups' snapshot files looked at, about `bytes` bytes of them, in the background: whether the device
    /// still gives what was written. Gives [`Checked`](crate::BackgroundOutput::Checked). One at a time. After the last file the
    /// first follows.
    ///
    /// Cost: as of [`Lane::scrub`].
    pub fn scrub_snapshots(&mut self, token: u64, bytes: u64) {
        self.submit_snapshot(token, GroupId(0), SnapshotWork::Check { at: self.scrubbing.checked, bytes });
    }

    /// Takes note of how far that has come.
    pub fn snapshots_scrubbed(&mut self, seen: &SnapshotsChecked) {
        self.scrubbing.checked = seen.next;
        self.scrubbing.bytes += seen.bytes;
    }

    /// Takes note of what was seen. Gives the damaged places that were not known yet: whom they hit, [`Lane::hit_by`] tells.
    pub fn scrubbed(&mut self, seen: &Scrubbed) -> Vec<Place> {
        self.scrubbing.at = (seen.sequence, seen.next);
        self.scrubbing.bytes += seen.bytes;
        if self.segments.find(seen.sequence).is_none() {
            return Vec::new(); // freed meanwhile, and perhaps written anew
        }
        let place = |range: &(u64, u64)| {
            self.scrubbing.note(seen.sequence, *range).then(|| Place {
                segment: seen.sequence,
                offset: range.0 as u32,
                bytes: (range.1 - range.0) as u32,
            })
        };
        seen.damage.iter().filter_map(place).collect()
    }

    /// Takes note of a place that could not be read ([`LogError::Damaged`](crate::LogError::Damaged)). Whether it was not known.
    pub fn damaged(&mut self, place: Place) -> bool {
        self.scrubbing.note(place.segment, (u64::from(place.offset), place.end()))
    }

    /// Places that the lane could not read while it moved entries, since this was last asked.
    pub fn damage_met(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.scrubbing.met)
    }

    /// The groups with live entries at a place. `only_unreadable`: of frames that cannot be read, and not of those beside them.
    /// Cost: a look at every frame of the lane; reads each of those at the place, if asked to.
    #[must_use]
    pub fn hit_by(&self, place: Place, only_unreadable: bool) -> Vec<Hit> {
        let mut hits = Vec::new();
        for (slot, log) in self.groups.slots.iter().enumerate() {
            let Some(log) = log.as_ref().filter(|log| log.is_in(place.segment)) else { continue };
            let mut hit: Option<Hit> = None;
            for frame in log.frames(log.base.index.next(), Index(u64::MAX), u64::MAX) {
                let at = frame.place;
                let is_there = at.segment == place.segment
                    && u64::from(at.offset) < place.end()
                    && u64::from(place.offset) < at.end();
                if !is_there || only_unreadable && self.bytes(at).is_ok() {
                    continue;
                }
                let first = frame.first.max(log.base.index.next());
                let (slot, group) = (GroupSlot(slot as u32), log.group);
                let hit = hit.get_or_insert(Hit { slot, group, first, last: frame.last, bytes: 0 });
                hit.last = frame.last;
                hit.bytes += u64::from(at.bytes);
            }
            hits.extend(hit);
        }
        hits
    }

    /// Writes all of a group's entries again, if they are few and can all be read: from memory, or from a copy in the system's
    /// cache. Whether it was done. With this turn's batch.
    pub fn write_again(&mut self, slot: GroupSlot) -> bool {
        let is_possible = self.poisoned.is_none() && !self.segments.is_storage_full();
        is_possible && self.rewrite_entries(slot.0 as usize)
    }

    /// The entries from `from` on are lost, and the group says so, in the log too: it is fenced, in all terms up to now. Gives
    /// what its log is then, as opening would; `None` if there is no such entry, or the lane is poisoned. With this turn's batch.
    pub fn lose(&mut self, slot: GroupSlot, from: Index) -> Option<RecoveredGroup> {
        let (terms, log) = (self.counters.terms, self.groups.log(slot));
        if self.poisoned.is_some() || from > log.last || from <= log.base.index {
            return None;
        }
        let place = self.write_fence(log.group, terms);
        let log = self.groups.log_mut(slot);
        log.lose_from(from, &mut self.pins);
        log.fence(terms, place.segment, &mut self.pins);
        Some(told(self.groups.log(slot), true))
    }

    /// Whether a place is known to be damaged.
    #[must_use]
    pub fn is_known_damage(&self, place: Place) -> bool {
        self.scrubbing.places.contains_key(&(place.segment, u64::from(place.offset)))
    }

    /// What whoever reads a damaged place is told.
    #[must_use]
    pub fn damage_at(&self, place: Place) -> LogError {
        let file = segment_path(self.options.lane, place.segment);
        LogError::Damaged { file, offset: u64::from(place.offset), place }
    }

    /// Whether the lane goes on with what is left where something is damaged, or stops.
    #[must_use]
    pub fn lives_with_damage(&self) -> bool {
        self.options.on_damage == OnDamage::Fence
    }
}
