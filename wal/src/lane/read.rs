//! Reading a lane: which frames cover a range, and their bytes, without a copy where possible.
//!
//! Bytes come from the latest batches' own memory or, once those are dropped, from a positioned read into the
//! reader's memory. Not from a map of the file: a page that the device refuses would end the process by a
//! signal, at the first access or, since the system may drop a clean page at any time, at any later one. A
//! read returns an error instead. Bytes from a file are checked again: a device may lose at any time what it
//! returned correctly at opening.

use bytes::Bytes;
use raftwerk_frame::frame;
use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, Term};

use crate::disk::Disk;
use crate::disk::files::Files;
use crate::error::LogError;
use crate::index::GroupLog;
use crate::index::frame::{Frames, Place};
use crate::index::groups::GroupSlot;
use crate::lane::Lane;
use crate::lane::memory::pinned;

/// Shorter ranges are not counted while a reader holds them: counting takes an allocation of its own.
const COUNTED_BYTES_MIN: u32 = 1024;
/// How often a place is read before it counts as damaged: a transient error does not repeat.
const READS_MAX: usize = 2;
const _: () = assert!(READS_MAX > 1, "one refused read is no damage");

impl<D: Disk> Lane<D> {
    /// The frames that cover `from..=to`, in order: as many as `bytes_max` holds, but at least one if there is any.
    /// The first may begin before `from`, the last end after `to`.
    ///
    /// # Errors
    /// [`LogError::Compacted`] if `from` is compacted, [`LogError::Withheld`] if this is a witness's log,
    /// [`LogError::Poisoned`].
    pub fn read(&self, slot: GroupSlot, from: Index, to: Index, bytes_max: u64) -> Result<Frames, LogError> {
        self.check()?;
        let log = self.groups.log(slot);
        if from <= log.base.index {
            return Err(LogError::Compacted { compacted: log.base.index });
        }
        if from > to || from > log.last {
            return Ok(Frames::new());
        }
        if log.is_witness() {
            return Err(LogError::Withheld { first: from });
        }
        let frames = log.frames(from, to, bytes_max);
        assert!(
            frames.first().is_some_and(|frame| frame.first <= from && from <= frame.last),
            "the first frame holds the first entry that is read"
        );
        assert!(frames.last().is_some_and(|frame| frame.first <= to), "no frame lies behind what is read");
        Ok(frames)
    }

    /// The bytes at `place`: of one frame, or of adjacent ones joined by [`Place::join`]. They stay readable
    /// and unchanged as long as they are held, even if the file is removed or reused.
    ///
    /// Cost: a slice of memory for a place among the latest batches ([`Lane::is_recent`]); otherwise an
    /// allocation, a positioned read of `place.bytes`, which blocks for the device where the page cache does
    /// not hold them, and their checksums.
    ///
    /// # Errors
    /// [`LogError::Gone`] if the log holds no such place (any more), [`LogError::Damaged`] if the file's
    /// bytes are not those written, or the device refuses to read them, [`LogError::Poisoned`].
    pub fn bytes(&self, place: Place) -> Result<Bytes, LogError> {
        self.check()?;
        let current = self.segments.current().sequence;
        // Checked first: the padding of the last batch in memory may overlap this place.
        if place.segment == current && u64::from(place.offset) >= self.write_offset {
            return self.unsealed_bytes(place).ok_or(LogError::Gone);
        }
        let segments = current.saturating_sub(place.segment) * self.options.segment_bytes;
        self.recent.reach.note((segments + self.write_offset).saturating_sub(u64::from(place.offset)));
        if let Some(bytes) = self.recent.find(place) {
            return Ok(bytes);
        }
        let segment = self.segments.find(place.segment).ok_or(LogError::Gone)?;
        if place.end() > segment.bytes {
            return Err(LogError::Gone);
        }
        let file = segment.read.as_ref().ok_or(LogError::Gone)?;
        let files = self.disk.directory().files();
        let mut bytes = vec![0; place.bytes as usize];
        for _ in 0..READS_MAX {
            // Whatever the cause of a failed or short read, these bytes are unavailable.
            let read = files.read_at(file, u64::from(place.offset), &mut bytes);
            if read.is_ok_and(|read| read == bytes.len()) && is_whole(&bytes) {
                let is_counted = place.bytes >= COUNTED_BYTES_MIN;
                return Ok(if is_counted { pinned(bytes.into(), &self.pinned) } else { bytes.into() });
            }
        }
        Err(self.damage_at(place))
    }

    /// Whether a place is in memory, among the latest batches: reading it then takes no additional memory.
    #[must_use]
    pub fn is_recent(&self, place: Place) -> bool {
        self.recent.find(place).is_some()
    }

    /// A copy, since the batch is still being written.
    fn unsealed_bytes(&self, place: Place) -> Option<Bytes> {
        let written = self.building.as_ref()?.written();
        assert!(u64::from(place.offset) >= self.write_offset, "the place lies in the batch that is built");
        let from = (u64::from(place.offset) - self.write_offset) as usize;
        written.get(from..from + place.bytes as usize).map(Bytes::copy_from_slice)
    }

    /// Whether no batch for that segment is queued or in flight: its bytes then stay unchanged while it is in
    /// use.
    pub(crate) fn is_all_durable(&self, segment: u64) -> bool {
        self.recent.after(self.marks.durable()).all(|batch| batch.segment != segment)
    }

    fn log_of(&self, group: GroupId) -> Option<&GroupLog> {
        self.groups.slot_of(group).map(|slot| self.groups.log(slot))
    }

    /// The group of a slot.
    #[must_use]
    pub fn group(&self, slot: GroupSlot) -> GroupId {
        self.groups.log(slot).group
    }

    /// The first entry still in the log; one above the last if there is none.
    #[must_use]
    pub fn first(&self, slot: GroupSlot) -> Index {
        self.groups.log(slot).base.index.next()
    }

    /// The last entry of the log, durable or not; the compacted one if there is none.
    #[must_use]
    pub fn last(&self, slot: GroupSlot) -> Index {
        self.groups.log(slot).last
    }

    /// The entry after which the log begins.
    #[must_use]
    pub fn compacted(&self, slot: GroupSlot) -> EntryId {
        self.groups.log(slot).base
    }

    /// Entries or metadata of the group were lost, in terms up to this one, and no entry of a later term has
    /// been appended since.
    #[must_use]
    pub fn fence(&self, slot: GroupSlot) -> Option<Term> {
        self.groups.log(slot).fence_term()
    }

    /// Whether it is a witness's log.
    #[must_use]
    pub fn is_witness(&self, slot: GroupSlot) -> bool {
        self.groups.log(slot).is_witness()
    }

    /// Whether a replica of the group was removed here and its hard state is known ([`Lane::past`]).
    #[must_use]
    pub fn has_past(&self, group: GroupId) -> bool {
        self.past_term(group).is_some()
    }

    /// The latest term of a replica that was removed here, if its hard state is known ([`Lane::past`]).
    #[must_use]
    pub fn past_term(&self, group: GroupId) -> Option<Term> {
        self.past(self.groups.slot_of(group)?).map(|(hard_state, _)| hard_state.term)
    }

    /// The fence of a removed replica: part of its votes or acknowledgements, in terms up to this one, was
    /// lost.
    #[must_use]
    pub fn past_fence(&self, group: GroupId) -> Option<Term> {
        self.log_of(group).filter(|log| log.is_removed)?.fence_term()
    }

    /// Whether an operator accepted what may have been lost of a group that is not here
    /// ([`Lane::accept_loss`]).
    #[must_use]
    pub fn is_loss_accepted(&self, group: GroupId) -> bool {
        self.log_of(group).is_some_and(|log| log.is_loss_accepted)
    }

    /// The latest term and vote, durable or not.
    #[must_use]
    pub fn latest_hard_state(&self, slot: GroupSlot) -> HardState {
        self.groups.log(slot).hard_state
    }

    /// The configuration in force at `index`, as far as the log records it.
    #[must_use]
    pub fn configuration_at(&self, slot: GroupSlot, index: Index) -> &Configuration {
        self.groups.log(slot).configuration_at(index)
    }

    /// Bytes of the group's frames that are still in the log.
    #[must_use]
    pub fn live_bytes(&self, slot: GroupSlot) -> u64 {
        self.groups.log(slot).live_bytes
    }
}

/// Whether these are whole frames, back to back, each valid by its checksums.
fn is_whole(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok((header, _)) = frame::parse(bytes) else { return false };
        bytes = &bytes[header.frame_bytes()..];
    }
    true
}
