//! Retention: metadata frames that are still in force, and the entries of groups that have few, are relocated
//! to the end of the log; segments without live data are freed, oldest first.
//!
//! A segment without live data is freed only when the batch that was the last one at that time is durable and
//! lies in a later segment: so the log on disk always begins with a durable batch. Next: `index::pins` for
//! the counts.

use bytes::Bytes;
use raftwerk_frame::frame::{self, Entries, FrameKind, FrameWriter, withheld};
use raftwerk_frame::{GroupId, Index, Time};

use crate::disk::{Disk, Job, SegmentJob};
use crate::error::LogError;
use crate::format::batch::BatchInProgress;
use crate::index::frame::Frame;
use crate::index::frame::memberships;
use crate::index::{GroupLog, LogKind};
use crate::lane::Lane;

/// Bytes relocated per turn that appends less, and slots scanned, so that no turn takes long.
const RELOCATED_BYTES_MAX: u64 = 256 << 10;
const SCANNED_SLOTS_MAX: usize = 16 << 10;
const _: () = assert!(RELOCATED_GROUP_BYTES_MAX <= RELOCATED_BYTES_MAX, "a turn relocates a whole group");
/// A group with at most this many bytes in the log has them relocated rather than pin old segments.
const RELOCATED_GROUP_BYTES_MAX: u64 = 64 << 10;

impl<D: Disk> Lane<D> {
    /// Bytes of all segments in use, the current one included.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.segments.in_use.iter().map(|segment| segment.bytes).sum()
    }

    /// Adapts the pace of snapshot saves: shorter pauses as the log fills.
    pub(crate) fn adapt_pace(&self) {
        let pace = self.background.pace();
        if self.segments.is_storage_full() {
            pace.hurry();
        } else {
            pace.adapt(self.log_bytes(), self.options.log_bytes_max);
        }
    }

    /// The groups with live entries that pin the oldest segment: compacting them frees it. Groups with so
    /// little in the log that it is relocated are not among them. None while the log is a single segment.
    /// Cost: a scan of every group.
    pub fn pinning(&self) -> impl Iterator<Item = GroupId> + '_ {
        let current = self.segments.current().sequence;
        let oldest = self.segments.in_use.front().map(|segment| segment.sequence);
        let held = oldest.filter(|oldest| *oldest != current && self.pins.has_frames(*oldest));
        let logs = self.groups.logs();
        let is_full = self.segments.is_storage_full();
        let is_over = self.log_bytes() > self.options.log_bytes_max || self.is_too_old() || is_full;
        let relocated_max = if is_over { self.relocated_group_bytes_max() } else { 0 };
        let holds = move |log: &&GroupLog| {
            log.live_bytes > relocated_max && held.is_some_and(|oldest| log.is_in(oldest))
        };
        logs.filter(holds).map(|log| log.group)
    }

    /// Sets the current time, for [`LaneOptions::age_max`](crate::LaneOptions). Any clock that never goes
    /// back will do.
    pub fn set_time(&mut self, now: Time) {
        self.now = now;
        self.recent.reach.set_time(now);
        if self.options.age_max.is_some() {
            let current = self.segments.current().sequence;
            for segment in self.segments.in_use.iter_mut().filter(|segment| segment.sequence != current) {
                segment.full_since.get_or_insert(now);
            }
        }
    }

    /// When the oldest segment reaches its maximum age; may be in the past.
    fn old_at(&self) -> Option<Time> {
        let oldest = self.segments.in_use.iter().find(|segment| segment.dead_at.is_none())?;
        Some(oldest.full_since? + self.options.age_max?)
    }

    /// Whether the oldest segment that holds anything live has been full for longer than
    /// [`LaneOptions::age_max`](crate::LaneOptions).
    #[must_use]
    pub fn is_too_old(&self) -> bool {
        self.old_at().is_some_and(|at| at <= self.now)
    }

    /// When [`Self::is_too_old`] becomes true next; never, if it is true already: then the completion of what
    /// is in flight starts the next turn.
    #[must_use]
    pub fn next_too_old(&self) -> Time {
        self.old_at().filter(|at| *at > self.now).unwrap_or(Time::NEVER)
    }

    /// Whether relocation is due: the oldest segment is pinned only by data that can be rewritten, and more
    /// of the log is dead than live. Otherwise relocated data would soon be the oldest again, and the whole
    /// log would be rewritten in circles. The device must keep up besides: entries come first. A segment that
    /// is too old is relocated in any case, so live data about once in `age_max`. A log on a full disk counts
    /// as over its bound.
    fn may_relocate(&self, oldest: u64) -> bool {
        let current = self.segments.current().sequence;
        let closed = self.segments.in_use.iter().filter(|segment| segment.sequence != current);
        let (log_bytes, staying) = closed.fold((0, 0), |(all, staying), segment| {
            (all + segment.bytes, staying + if segment.dead_at.is_none() { segment.bytes } else { 0 })
        });
        let (is_old, is_full) = (self.is_too_old(), self.segments.is_storage_full());
        let is_over = log_bytes > self.options.log_bytes_max || is_old || is_full;
        let is_worth_it = is_old || staying > 2 * self.pins.live_bytes();
        let is_behind = self.queue.bytes() >= self.options.queue_bytes_max as u64 / 2;
        // All groups are scanned once for each new segment: a group too large to relocate waits for its
        // compaction.
        let was_scanned =
            self.relocation.is_scanned_at(current) && (!is_old && !is_full || self.relocation.is_for(oldest));
        let is_kept = self.pins.has_frames(oldest) && (!is_over || was_scanned || !self.may_rewrite());
        oldest != current && self.pins.is_pinned(oldest) && is_worth_it && !is_behind && !is_kept
    }

    /// Rewrites into the batch being built what pins the oldest segment: metadata frames, and while the log
    /// is over its bound entries as well. A part per turn. The total rewritten is at most about as much as
    /// dies meanwhile.
    pub(crate) fn relocate_oldest(&mut self) {
        self.leave_damaged();
        let oldest = self.segments.in_use.iter().find(|segment| segment.dead_at.is_none());
        let Some(oldest) = oldest.map(|segment| segment.sequence).filter(|oldest| self.may_relocate(*oldest))
        else {
            self.relocation.rewind();
            return;
        };
        assert!(oldest < self.segments.current().sequence, "only full segments are relocated");
        let has_frames = self.pins.has_frames(oldest);
        let is_pressed = self.is_too_old() || self.segments.is_storage_full();
        if is_pressed {
            self.relocation.scan_for(oldest); // all groups are scanned for each
        }
        // At least as much as the turn appends: otherwise the log would grow faster than it is freed.
        let brought = self.turn.bytes() + self.building.as_ref().map_or(0, BatchInProgress::used);
        let bytes_max = RELOCATED_BYTES_MAX.max(brought as u64).min(self.options.queue_bytes_max as u64 / 4);
        let bytes_before = self.counters.frame_bytes;
        assert!(self.relocation.next_slot() <= self.groups.slots(), "a scan ends at the last slot");
        let end = self.groups.slots().min(self.relocation.next_slot() + SCANNED_SLOTS_MAX);
        while self.relocation.next_slot() < end && self.counters.frame_bytes - bytes_before < bytes_max {
            if has_frames {
                self.relocate_entries(self.relocation.next_slot(), oldest);
            }
            self.relocate_metadata(self.relocation.next_slot(), oldest);
            self.relocation.on_slot_scanned();
        }
        if self.relocation.next_slot() >= self.groups.slots() {
            if has_frames {
                self.relocation.on_all_scanned(self.segments.current().sequence);
            }
            self.relocation.rewind(); // a group attached to a passed slot has no metadata in old segments
        }
    }

    /// Rewrites the metadata frames that lie in a damaged segment, a part per turn: their content is in
    /// memory.
    fn leave_damaged(&mut self) {
        let current = self.segments.current().sequence;
        let is_behind = self.queue.bytes() >= self.options.queue_bytes_max as u64 / 2;
        let leaving = &mut self.scrubbing.leaving;
        let Some(segment) = leaving.front().copied().filter(|segment| *segment != current && !is_behind)
        else {
            leaving.rotate_left(usize::from(leaving.len() > 1)); // later, once it is sealed
            self.scrubbing.leave_from = 0;
            return;
        };
        let bytes_before = self.counters.frame_bytes;
        let mut at = self.scrubbing.leave_from;
        assert!(at <= self.groups.slots(), "a scan ends at the last slot");
        let end = self.groups.slots().min(at + SCANNED_SLOTS_MAX);
        while at < end && self.counters.frame_bytes - bytes_before < RELOCATED_BYTES_MAX {
            self.relocate_metadata(at, segment);
            at += 1;
        }
        self.scrubbing.leave_from = at;
        if at >= self.groups.slots() {
            self.scrubbing.leaving.pop_front();
            self.scrubbing.leave_from = 0;
        }
    }

    fn relocated_group_bytes_max(&self) -> u64 {
        RELOCATED_GROUP_BYTES_MAX.min(self.options.segment_bytes / 4)
    }

    /// Rewrites all of a group's entries, if some lie in the oldest segment and there are few. All in one
    /// batch: a frame replaces everything from its first entry on, so those that follow must not be lost
    /// without it.
    fn relocate_entries(&mut self, slot: usize, oldest: u64) {
        let Some(log) = self.groups.get(slot) else { return };
        if log.is_in(oldest) {
            self.rewrite_entries(slot);
        }
    }

    /// Rewrites all of a group's entries in one batch, unless they are many or one cannot be read. Returns
    /// whether it did. Each frame cuts the one before it; nothing cuts the last one, so that it is rewritten
    /// without the entries behind the log's end, which others had replaced that are lost.
    pub(crate) fn rewrite_entries(&mut self, slot: usize) -> bool {
        let Some(log) = self.groups.get(slot) else { return false };
        if log.live_bytes > self.relocated_group_bytes_max() {
            return false;
        }
        let mut frames = Vec::new();
        for frame in log.frames(log.base.index.next(), Index(u64::MAX), u64::MAX) {
            match self.bytes(frame.place) {
                Ok(bytes) => frames.push(bytes),
                Err(error) => {
                    // The frame stays where it is.
                    if let LogError::Damaged { place, .. } = error {
                        self.scrubbing.unreadable.push(place);
                    }
                    return false;
                }
            }
        }
        if let Some(back) = frames.last_mut() {
            let Some(in_force) = up_to(back, log.last) else { return false };
            *back = in_force;
        }
        let total = frames.iter().map(Bytes::len).sum();
        assert!(total as u64 <= log.live_bytes, "a group's frames are counted in its live bytes");
        self.reserve(total);
        let sealed = self.marks.sealed();
        for bytes in frames {
            let Ok((header, body)) = frame::parse(&bytes) else { return false };
            let Some(found) = memberships(&header, body) else { return false };
            let place = self.write(bytes.len(), |out| out.copy_from_slice(&bytes));
            let is_withheld = header.kind == FrameKind::Withheld;
            let moved =
                Frame { first: header.index, term: header.term, count: header.count, is_withheld, place };
            if let Some(log) = self.groups.get_mut(slot) {
                log.entries(moved, found, &mut self.pins);
            }
        }
        assert!(self.marks.sealed() == sealed, "all of a group's entries are rewritten in one batch");
        true
    }

    fn relocate_metadata(&mut self, slot: usize, oldest: u64) {
        let Some(log) = self.groups.get(slot) else { return };
        let (group, hard_state, base) = (log.group, log.hard_state, log.base);
        let has_base_there = log.base_segment == Some(oldest);
        if log.floor_segment == Some(oldest) {
            let (floor, is_removed, kind) = (log.floor, log.is_removed, log.kind);
            let is_loss_accepted = log.is_loss_accepted;
            let place = match floor {
                _ if is_loss_accepted => Some(self.write_loss_accepted(group)),
                _ if is_removed => Some(self.write_remove(group, floor.unwrap_or_default())),
                _ if kind == LogKind::Witness || floor.is_some() => Some(self.write_join(group, floor, kind)),
                _ => None, // the replica was removed, had nothing, and was created anew
            };
            if let Some(log) = self.groups.get_mut(slot) {
                log.keep_floor(place.map(|place| place.segment), &mut self.pins);
            }
        }
        let Some(log) = self.groups.get(slot) else { return };
        if log.hard_state_segment == Some(oldest) {
            let place = self.write_hard_state(group, hard_state);
            if let Some(log) = self.groups.get_mut(slot) {
                log.hard_state(hard_state, place.segment, &mut self.pins);
            }
        }
        if let Some(term) = self.groups.get(slot).and_then(|log| log.fence_in(oldest)) {
            let place = self.write_fence(group, term);
            if let Some(log) = self.groups.get_mut(slot) {
                log.fence(term, place.segment, &mut self.pins);
            }
        }
        if has_base_there && let Some(log) = self.groups.get(slot) {
            let configuration = log.base_configuration.clone();
            let place = self.write_base(FrameKind::Compact, group, base, &configuration);
            if let Some(log) = self.groups.get_mut(slot) {
                log.compact(base, configuration, place.segment, &mut self.pins);
            }
        }
        let is_left = self.groups.get(slot).is_some_and(|log| log.has_metadata_in(oldest));
        assert!(!is_left, "no metadata of a relocated group is left behind");
    }

    /// Records, for each of the oldest segments without live data, the batch that must be durable before it
    /// is freed.
    pub(crate) fn mark_dead(&mut self) {
        let Some(last_segment) = self.marks.sealed_segment() else { return };
        assert!(last_segment <= self.segments.current().sequence, "no batch lies behind the current segment");
        for segment in &mut self.segments.in_use {
            if segment.sequence >= last_segment || self.pins.is_pinned(segment.sequence) {
                break;
            }
            segment.dead_at.get_or_insert(self.marks.sealed());
        }
    }

    /// Closes the append handles of segments that are full: a segment in use then takes one descriptor, for
    /// reading.
    pub(crate) fn close_sealed(&mut self) {
        let older = self.segments.in_use.iter().rev().skip(1);
        let open = older.take_while(|segment| segment.append.is_some()).count();
        for back in 0..open {
            let at = self.segments.in_use.len() - 2 - back;
            let sequence = self.segments.in_use[at].sequence;
            // Batches waiting for it, or in flight to it, are among the latest batches until they are
            // durable.
            if self.is_all_durable(sequence) {
                assert!(self.segments.in_use[at].end.is_some(), "only full segments get no more batches");
                self.segments.in_use[at].append = None;
            }
        }
    }

    pub(crate) fn free_dead(&mut self) {
        while self.segments.in_use.front().is_some_and(|oldest| {
            oldest.dead_at.is_some_and(|at| at <= self.marks.durable()) && self.segments.in_use.len() > 1
        }) {
            let Some(freed) = self.segments.in_use.pop_front() else { return };
            assert!(!self.pins.is_pinned(freed.sequence), "a segment that is freed holds nothing live");
            assert!(
                self.marks.sealed_segment().is_some_and(|segment| freed.sequence < segment),
                "what replaces a freed segment's content lies in a later one"
            );
            assert!(
                self.segments.retiring.back().is_none_or(|(before, _)| *before < freed.sequence),
                "segments are freed oldest first"
            );
            self.scrubbing.forget(freed.sequence);
            let is_wanted =
                self.segments.spares.len() + self.segments.retiring.len() < self.options.spare_segments;
            let keep = is_wanted && freed.bytes == self.options.segment_bytes;
            self.segments.retiring.push_back((freed.sequence, keep));
            self.retire_next();
        }
    }

    /// Takes the oldest freed segment out of the log. One at a time: were a younger one removed while the
    /// older one cannot be, the log on disk would have a hole. A failed removal is retried when the next
    /// segment is freed.
    fn retire_next(&mut self) {
        if let Some((sequence, keep)) = self.segments.retiring.front().copied()
            && !std::mem::replace(&mut self.segments.is_retiring, true)
        {
            let in_use = self.segments.in_use.front().map(|oldest| oldest.sequence);
            assert!(
                in_use.is_some_and(|oldest| sequence < oldest),
                "a segment that is retired is out of use"
            );
            let lane = self.options.lane;
            self.disk.submit(Job::Segment(SegmentJob::Retire { lane, sequence, keep }));
        }
    }

    /// Completion of a retire job: the freed segment is out of the log, or the job failed.
    pub(crate) fn on_retired(&mut self, sequence: u64, result: std::io::Result<Option<String>>) {
        assert!(self.segments.is_retiring, "a segment is retired on request");
        assert!(
            self.segments.retiring.front().is_some_and(|(oldest, _)| *oldest == sequence),
            "freed segments are retired oldest first"
        );
        self.segments.is_retiring = false;
        self.adapt_pace();
        if let Ok(spare) = result {
            self.segments.retiring.pop_front();
            self.segments.spares.extend(spare);
            self.retire_next();
        }
    }
}

/// A frame of entries without those after `last`; `None` if it cannot be read, or has no other.
fn up_to(bytes: &Bytes, last: Index) -> Option<Bytes> {
    let (header, body) = frame::parse(bytes).ok()?;
    if header.last_index() <= last {
        return Some(bytes.clone());
    }
    let count = u32::try_from((last.0 + 1).checked_sub(header.index.0)?).ok()?;
    assert!(count < header.count, "the cut frame has fewer entries");
    if header.kind == FrameKind::Withheld {
        return withheld(header.group, header.id(), count).map(|bytes| bytes.to_vec().into());
    }
    let mut out = vec![0; bytes.len()];
    let mut writer = FrameWriter::new(&mut out, header.group, header.id())?;
    if header.is_relaxed {
        writer.relax();
    }
    let mut kept = Entries::new(&header, body).take(count as usize);
    if !kept.all(|entry| writer.push(entry.kind, entry.payload)) {
        return None;
    }
    let cut = writer.finish()?;
    assert!(cut.last_index() == last, "the frame ends where the log does");
    out.truncate(cut.frame_bytes());
    Some(out.into())
}
