//! Building a turn's batch: frames of entries, and metadata frames (`write_fact`: hard state, base, remove,
//! join, fence). In memory only; nothing is written before `Lane::submit`.
//!
//! Next: `batch` for the layout, `index` for the effect of each frame on a group's log.

use raftwerk_frame::frame::{ENTRY_OVERHEAD_BYTES, Entries, EntryKind, FrameHeader, FrameKind, FrameWriter};
use raftwerk_frame::frame::{HEADER_BYTES, write_fact};
use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, Term};

use crate::disk::Disk;
use crate::error::LogError;
use crate::format::batch::BatchEnd;
use crate::index::frame::memberships;
use crate::index::frame::{Frame, FrameRef, Memberships, Place};
use crate::index::groups::GroupSlot;
use crate::index::pins::Pins;
use crate::index::{GroupLog, LogKind};
use crate::lane::{Counters, FRAME_BYTES_MIN, Lane};
use crate::recovery::loss::{EVERY_GROUP, Loss};
use crate::recovery::report::RecoveredGroup;

/// A frame of entries being written in place: the leader's only copy of a payload. Dropping it unfinished
/// discards it.
#[derive(Debug)]
pub struct FrameInProgress<'a> {
    writer: FrameWriter<'a>,
    first: EntryId,
    memberships: Memberships,
    log: &'a mut GroupLog,
    pins: &'a mut Pins,
    counters: &'a mut Counters,
    place: Place,
    end: &'a mut BatchEnd,
    is_relaxed: bool,
}

impl FrameInProgress<'_> {
    /// Marks the frame as relaxed: the proposers of its entries request no sync. The frame carries that mark
    /// in the log and on the wire, and a turn of such frames alone need not be synced
    /// ([`Lane::submit_relaxed`]).
    pub const fn relax(&mut self) {
        self.is_relaxed = true;
        self.writer.relax();
    }

    /// Appends an entry. Returns `false`, and writes nothing, if the frame is full: finish it, and begin
    /// another.
    ///
    /// # Panics
    /// If a membership entry's payload is not a configuration.
    #[inline]
    #[must_use]
    pub fn push(&mut self, kind: EntryKind, payload: &[u8]) -> bool {
        let index = self.first.index.plus(u64::from(self.writer.count()));
        let fits = self.writer.push(kind, payload);
        if fits && kind == EntryKind::Membership {
            let configuration =
                Configuration::decode(payload).expect("a membership entry is a configuration");
            self.memberships.push((index, configuration));
        }
        fits
    }

    /// The number of entries pushed.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.writer.count()
    }

    /// Ends the frame and adds it to the index, replacing everything from its first entry on. `None` if it
    /// has no entry: then nothing changes.
    #[must_use]
    pub fn finish(self) -> Option<FrameRef> {
        let header = self.writer.finish()?;
        self.counters.wants_sync |= !self.is_relaxed;
        let bytes = header.frame_bytes();
        assert!(
            header.index == self.first.index && header.term == self.first.term,
            "a frame is of its entries"
        );
        self.end.record(bytes);
        self.counters.frames += 1;
        self.counters.frame_bytes += bytes as u64;
        self.counters.terms = self.counters.terms.max(header.term);
        let bytes = u32::try_from(bytes).expect("a frame fits into a segment of at most 1 GiB");
        let place = Place { bytes, ..self.place };
        let (first, term, last) = (header.index, header.term, header.last_index());
        let frame = Frame { first, term, count: header.count, is_withheld: false, place };
        self.log.entries(frame, self.memberships, self.pins);
        assert!(self.log.last == last, "a log ends with the frame that was appended last");
        Some(FrameRef { first, last, frame_last: last, term, place })
    }
}

/// The fate of the entries after a snapshot that becomes the base of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// They follow the snapshot.
    Keep,
    /// They do not follow it, or there is nothing to keep.
    Drop,
}

impl<D: Disk> Lane<D> {
    fn check_entries(&self, slot: GroupSlot, first: Index) -> Result<(), LogError> {
        self.check()?;
        let log = self.groups.log(slot);
        if !log.accepts(first) {
            return Err(LogError::Gap { last: log.last, first });
        }
        if !self.admits_entries() {
            return Err(LogError::StorageFull);
        }
        // The worker stops at `room`'s bound; what it had accepted by then still fits below twice the bound.
        if self.queue.bytes() > 2 * self.options.queue_bytes_max as u64 {
            return Err(LogError::Busy);
        }
        Ok(())
    }

    /// Begins a frame; `first` is its first entry. `bytes_hint`: payloads plus 4 per entry; that much is
    /// guaranteed to fit, up to `frame_bytes_max`.
    ///
    /// # Errors
    /// [`LogError::Gap`], [`LogError::Compacted`] if `first` is not above the compacted index,
    /// [`LogError::StorageFull`], [`LogError::Busy`], [`LogError::Poisoned`].
    pub fn begin_frame(
        &mut self,
        slot: GroupSlot,
        first: EntryId,
        bytes_hint: usize,
    ) -> Result<FrameInProgress<'_>, LogError> {
        self.check_entries(slot, first.index)?;
        let compacted = self.groups.log(slot).base.index;
        if first.index <= compacted {
            return Err(LogError::Compacted { compacted });
        }
        let bytes_max = self.options.frame_bytes_max;
        let frame_bytes = bytes_hint.saturating_add(HEADER_BYTES).clamp(FRAME_BYTES_MIN, bytes_max);
        self.submit_early(frame_bytes);
        self.reserve(frame_bytes);
        let (segment, begin) = (self.segments.current().sequence, self.write_offset);
        let batch = self.building.as_mut().expect("reserved just now");
        let log = self.groups.log_mut(slot);
        let place = Place { segment, offset: offset_of(begin, batch.used()), bytes: 0 };
        let (out, end) = batch.spare();
        let out_bytes = out.len().min(bytes_max);
        assert!(out_bytes >= frame_bytes, "a frame has the space that was requested for it");
        let writer = FrameWriter::new(&mut out[..out_bytes], log.group, first).expect("reserved just now");
        let memberships = Memberships::new();
        let (pins, counters) = (&mut self.pins, &mut self.counters);
        let is_relaxed = false;
        Ok(FrameInProgress { writer, first, memberships, log, pins, counters, place, end, is_relaxed })
    }

    /// The longest payload that fits into a frame of its own.
    #[must_use]
    pub const fn payload_bytes_max(&self) -> usize {
        assert!(self.options.frame_bytes_max >= FRAME_BYTES_MIN, "a frame has space for an entry");
        self.options.frame_bytes_max - HEADER_BYTES - ENTRY_OVERHEAD_BYTES
    }

    /// Appends a copy of a whole frame, which [`raftwerk_frame::frame::parse`] has verified, replacing
    /// everything from its first entry on. Entries at or below the compacted index are ignored; a frame that
    /// lies wholly there is not even written.
    ///
    /// A witness's log accepts withheld entries, and configurations; any other log accepts whole entries.
    ///
    /// Cost: one copy, and a walk over the entries' lengths in search of configurations.
    ///
    /// # Errors
    /// [`LogError::Frame`] if it is not a frame of this group's entries, in the form that this log accepts,
    /// or holds a malformed configuration, [`LogError::TooLarge`], [`LogError::Gap`],
    /// [`LogError::StorageFull`], [`LogError::Busy`], [`LogError::Poisoned`].
    pub fn append_frame(
        &mut self,
        slot: GroupSlot,
        frame: &[u8],
        header: &FrameHeader,
    ) -> Result<(), LogError> {
        let (bytes, bytes_max) = (frame.len(), self.options.frame_bytes_max);
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let log = self.groups.log(slot);
        let is_withheld = header.kind == FrameKind::Withheld;
        let is_kept_so = if log.is_witness() {
            is_withheld || holds_configurations_only(header, &frame[HEADER_BYTES.min(bytes)..])
        } else {
            !is_withheld
        };
        let is_of_entries = header.kind.is_of_entries() && header.count > 0;
        let is_ours = is_of_entries && header.group == log.group && is_kept_so;
        if !is_ours || bytes != header.frame_bytes() {
            return Err(LogError::Frame);
        }
        if header.last_index() <= log.base.index {
            self.check()?;
            return Ok(());
        }
        self.check_entries(slot, header.index)?;
        let memberships = memberships(header, &frame[HEADER_BYTES..]).ok_or(LogError::Frame)?;
        self.counters.terms = self.counters.terms.max(header.term);
        self.submit_early(bytes);
        let wants_sync = self.counters.wants_sync || !header.is_relaxed;
        let place = self.write(bytes, |out| out.copy_from_slice(frame));
        self.counters.wants_sync = wants_sync;
        let frame = Frame { first: header.index, term: header.term, count: header.count, is_withheld, place };
        let log = self.groups.log_mut(slot);
        log.entries(frame, memberships, &mut self.pins);
        assert!(log.last == header.last_index(), "a log ends with the frame that was appended last");
        Ok(())
    }

    /// Appends the empty entry that opens a leader's term, replacing everything from its index on. Like
    /// metadata, it is accepted even when the disk is full.
    ///
    /// # Errors
    /// [`LogError::Gap`], [`LogError::Poisoned`].
    pub fn append_noop(&mut self, slot: GroupSlot, id: EntryId) -> Result<(), LogError> {
        self.append_alone(slot, id, EntryKind::Noop, &[], Memberships::new())
    }

    /// Appends a configuration as a frame of its own. As with [`Lane::append_noop`], reserved space on a full
    /// disk admits it: a membership change that was begun must be able to end.
    ///
    /// # Errors
    /// As [`Lane::append_noop`].
    pub fn append_membership(
        &mut self,
        slot: GroupSlot,
        id: EntryId,
        configuration: &Configuration,
    ) -> Result<(), LogError> {
        let mut payload = Vec::new();
        configuration.encode(&mut payload);
        let found = vec![(id.index, configuration.clone())];
        self.append_alone(slot, id, EntryKind::Membership, &payload, found)
    }

    fn append_alone(
        &mut self,
        slot: GroupSlot,
        id: EntryId,
        kind: EntryKind,
        payload: &[u8],
        found: Memberships,
    ) -> Result<(), LogError> {
        self.check()?;
        let log = self.groups.log(slot);
        if !log.accepts(id.index) {
            return Err(LogError::Gap { last: log.last, first: id.index });
        }
        let group = log.group;
        self.counters.terms = self.counters.terms.max(id.term);
        let place = self.write(HEADER_BYTES + ENTRY_OVERHEAD_BYTES + payload.len(), |out| {
            let writer = FrameWriter::new(out, group, id);
            let header = writer.and_then(|mut writer| {
                let fits = writer.push(kind, payload);
                writer.finish().filter(|_| fits)
            });
            assert!(header.is_some(), "an entry fills the room made for it");
        });
        let frame = Frame { first: id.index, term: id.term, count: 1, is_withheld: false, place };
        let log = self.groups.log_mut(slot);
        log.entries(frame, found, &mut self.pins);
        assert!(id.index <= log.last, "an entry that was appended is within its log");
        Ok(())
    }

    /// Appends the hard state (term and vote). It is durable when this turn's batch is, and before any entry
    /// appended later.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn hard_state(&mut self, slot: GroupSlot, hard_state: HardState) -> Result<(), LogError> {
        self.check()?;
        let group = self.groups.log(slot).group;
        let place = self.write_hard_state(group, hard_state);
        self.groups.log_mut(slot).hard_state(hard_state, place.segment, &mut self.pins);
        Ok(())
    }

    pub(crate) fn write_hard_state(&mut self, group: GroupId, hard_state: HardState) -> Place {
        let vote = hard_state.vote.map_or(0, |node| node.0).to_le_bytes();
        self.write_fact(FrameKind::HardState, group, EntryId::new(hard_state.term, Index(0)), &vote)
    }

    /// Sets the base of the log to the snapshot `id` with `configuration`; `tail` is the fate of the entries
    /// after it. Does nothing if the log already begins later, or the lane is poisoned.
    pub fn snapshot(&mut self, slot: GroupSlot, id: EntryId, configuration: &Configuration, tail: Tail) {
        let log = self.groups.log(slot);
        if id.index < log.base.index || self.poisoned.is_some() {
            return;
        }
        let kind = match tail {
            Tail::Keep => FrameKind::Compact,
            Tail::Drop => FrameKind::Snapshot,
        };
        let place = self.write_base(kind, log.group, id, &configuration.clone());
        let log = self.groups.log_mut(slot);
        match tail {
            Tail::Keep => log.compact(id, configuration.clone(), place.segment, &mut self.pins),
            Tail::Drop => log.restart(id, configuration.clone(), place.segment, &mut self.pins),
        }
        assert!(log.base == id, "a log begins behind its latest base record");
        assert!(tail == Tail::Keep || log.last == id.index, "without its tail a log ends at its base");
    }

    /// Compacts the log: entries up to `to` are no longer needed. The configuration in force there is kept.
    /// Does nothing if they are gone already, or the lane is poisoned.
    pub fn compact(&mut self, slot: GroupSlot, to: EntryId) {
        let log = self.groups.log(slot);
        if to.index <= log.base.index {
            return;
        }
        let configuration = log.configuration_at(to.index).clone();
        self.snapshot(slot, to, &configuration, Tail::Keep);
        if self.segments.is_storage_full() {
            self.relocation.forget_scan(); // what is left of the group may be small enough to relocate
        }
    }

    pub(crate) fn write_base(
        &mut self,
        kind: FrameKind,
        group: GroupId,
        id: EntryId,
        configuration: &Configuration,
    ) -> Place {
        let mut body = Vec::new();
        if *configuration != Configuration::default() {
            configuration.encode(&mut body);
        }
        self.write_fact(kind, group, id, &body)
    }

    /// Records the removal of the replica and drops its log. Snapshot files stay: see
    /// [`Lane::drop_snapshots`].
    ///
    /// Hard state and floor (the furthest entry its log reached) are kept for good ([`Lane::past`]), unless
    /// it never had any; so is a fence, if part of them was lost ([`Lane::past_fence`]). That costs two
    /// frames, 104 bytes, or three and 152, which are rewritten each time they alone pin the oldest segment,
    /// and about 300 bytes of memory for each group ever removed here. The slot remains the group's then;
    /// otherwise it is freed.
    pub fn remove(&mut self, slot: GroupSlot) {
        if self.poisoned.is_some() {
            return;
        }
        let log = self.groups.log(slot);
        let (group, floor) = (log.group, log.has_reached());
        let place = self.write_remove(group, floor);
        let log = self.groups.log_mut(slot);
        log.remove(floor, place.segment, &mut self.pins);
        if log.is_blank() {
            log.release(&mut self.pins);
            self.groups.detach(slot);
        }
    }

    /// The hard state of a removed replica, and the furthest entry that any replica of the group has reached
    /// here. `None` if there was none, if the replica is present, or if its loss was accepted.
    #[must_use]
    pub fn past(&self, slot: GroupSlot) -> Option<(HardState, EntryId)> {
        let log = self.groups.log(slot);
        (log.is_removed && !log.is_loss_accepted).then(|| (log.hard_state, log.floor.unwrap_or_default()))
    }

    /// Records that a new, empty replica joins its group here, subject to the votes and acknowledgements of
    /// an earlier one. Does nothing if the lane is poisoned.
    pub fn join(&mut self, slot: GroupSlot, kind: LogKind) {
        if self.poisoned.is_some() {
            return;
        }
        let log = self.groups.log(slot);
        let (group, floor) = (log.group, log.floor.unwrap_or_default());
        let place = self.write_join(group, Some(floor), kind);
        let log = self.groups.log_mut(slot);
        log.join(floor, place.segment, &mut self.pins);
        log.kind = kind;
        self.snapshot(slot, EntryId::default(), &Configuration::default(), Tail::Drop);
    }

    /// As [`Lane::join`], where damage may have taken an earlier replica of the group, or some of its votes
    /// and acknowledgements, in terms up to `fence`: so the new replica is fenced from the start, and in a
    /// later term. All frames are in one batch, so that none of them is ever there without the rest.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn join_fenced(
        &mut self,
        slot: GroupSlot,
        kind: LogKind,
        fence: Term,
        hard_state: HardState,
    ) -> Result<(), LogError> {
        self.check()?;
        self.reserve(4 * (HEADER_BYTES + size_of::<u64>()));
        let sealed = self.marks.sealed();
        self.join(slot, kind);
        self.set_fence(slot, fence);
        self.hard_state(slot, hard_state)?;
        assert!(self.marks.sealed() == sealed, "a fenced replica begins with one batch");
        Ok(())
    }

    /// Records that an operator accepts whatever this lane may have lost of a group that is not here. The
    /// hard state, floor and fence that are left of it are dropped. The record stays until the group is here
    /// again, or more is lost of it or of unidentified groups.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn accept_loss(&mut self, slot: GroupSlot) -> Result<(), LogError> {
        self.check()?;
        let place = self.write_loss_accepted(self.groups.log(slot).group);
        self.groups.log_mut(slot).accept_loss(place.segment, &mut self.pins);
        Ok(())
    }

    pub(crate) fn write_loss_accepted(&mut self, group: GroupId) -> Place {
        self.write_fact(FrameKind::Join, group, EntryId::default(), &[3])
    }

    /// Records that a replica begins here as one of its group's initial members: its log begins in this
    /// configuration. Does nothing if the lane is poisoned.
    pub fn bootstrap(&mut self, slot: GroupSlot, configuration: &Configuration, kind: LogKind) {
        if self.poisoned.is_some() {
            return;
        }
        if kind == LogKind::Witness {
            self.begin_as_witness(slot);
        }
        self.snapshot(slot, EntryId::default(), configuration, Tail::Drop);
    }

    /// Records that the replica, whose log holds no payloads, is a witness for as long as it exists. Part of
    /// its creation; or repeated because that record was lost. Does nothing if the lane is poisoned.
    pub fn begin_as_witness(&mut self, slot: GroupSlot) {
        if self.poisoned.is_some() {
            return;
        }
        let group = self.groups.log(slot).group;
        let place = self.write_join(group, None, LogKind::Witness);
        let log = self.groups.log_mut(slot);
        log.keep_floor(Some(place.segment), &mut self.pins);
        log.kind = LogKind::Witness;
    }

    /// Without a floor the record is an initial member's.
    pub(crate) fn write_join(&mut self, group: GroupId, floor: Option<EntryId>, kind: LogKind) -> Place {
        assert!(floor.is_some() || kind == LogKind::Witness, "a full initial member has no join record");
        let body: &[u8] = match (floor, kind) {
            (None, _) => &[2],
            (Some(_), LogKind::Witness) => &[1],
            (Some(_), LogKind::Full) => &[],
        };
        self.write_fact(FrameKind::Join, group, floor.unwrap_or_default(), body)
    }

    pub(crate) fn write_remove(&mut self, group: GroupId, floor: EntryId) -> Place {
        self.write_fact(FrameKind::Remove, group, floor, &[])
    }

    /// Fences the group in the log, if it may have lost something, and reports its fence. Its log continues
    /// from what is left.
    pub(crate) fn fence_if_hit(&mut self, recovered: &mut RecoveredGroup, terms: Term) {
        let slot = self.groups.attach(recovered.group);
        if recovered.is_hit {
            self.set_fence(slot, terms);
        }
        let log = self.groups.log(slot);
        assert!(!log.begins_with_hole(), "a recovered log begins right behind its base");
        recovered.fence = log.fence_term();
        assert!(!recovered.is_hit || recovered.fence.is_some(), "a group that has lost something is fenced");
    }

    /// Writes a fence frame for the group, whether it is present or removed.
    pub(crate) fn set_fence(&mut self, slot: GroupSlot, terms: Term) {
        let place = self.write_fence(self.groups.log(slot).group, terms);
        let log = self.groups.log_mut(slot);
        log.fence(terms, place.segment, &mut self.pins);
        assert!(log.fence_term() >= Some(terms), "a fence covers all terms that may have lost something");
    }

    /// Lists the losses whose groups have all been fenced: in one frame, or in as many as are needed.
    pub(crate) fn list_losses(&mut self, losses: &[Loss], terms: Term) {
        let most = (self.options.frame_bytes_max - HEADER_BYTES) / size_of::<Loss>();
        for (part, losses) in losses.chunks(most).enumerate() {
            let body: Vec<u8> = losses.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
            let id = EntryId::new(terms, Index(part as u64));
            self.write_fact(FrameKind::Fence, EVERY_GROUP, id, &body);
        }
    }

    pub(crate) fn write_fence(&mut self, group: GroupId, term: Term) -> Place {
        self.write_fact(FrameKind::Fence, group, EntryId::new(term, Index(0)), &[])
    }

    fn write_fact(&mut self, kind: FrameKind, group: GroupId, id: EntryId, body: &[u8]) -> Place {
        self.counters.terms = self.counters.terms.max(id.term);
        self.write(HEADER_BYTES + body.len(), |out| {
            let written = write_fact(out, kind, group, id, body);
            assert!(written == Some(out.len()), "a fact fills the room made for it");
        })
    }

    pub(crate) fn write(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Place {
        let batch = self.reserve(bytes);
        let at = batch.used();
        let (out, end) = batch.spare();
        fill(&mut out[..bytes]);
        end.record(bytes);
        self.counters.frames += 1;
        self.counters.frame_bytes += bytes as u64;
        self.counters.wants_sync = true;
        let segment = self.segments.current().sequence;
        let bytes = u32::try_from(bytes).expect("a frame fits into a segment of at most 1 GiB");
        let place = Place { segment, offset: offset_of(self.write_offset, at), bytes };
        assert!(place.end() <= self.options.segment_bytes, "a frame lies within its segment");
        place
    }
}

/// The offset in the segment of what lies `at` bytes behind the start of the batch that begins at `begin`.
fn offset_of(begin: u64, at: usize) -> u32 {
    u32::try_from(begin + at as u64).expect("a segment is at most 1 GiB")
}

/// Whether a frame of entries holds no client payload.
fn holds_configurations_only(header: &FrameHeader, body: &[u8]) -> bool {
    Entries::new(header, body).all(|entry| entry.kind == EntryKind::Membership)
}
