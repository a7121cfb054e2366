//! The index of a group's log: one record per frame, not per entry, and the group's latest metadata.
//!
//! The running lane and recovery build the index by the same calls, so that replay cannot differ from the
//! original run. Rules, by kind of frame:
//! 1. entries replace everything from their first index on; at or below the base they are ignored;
//! 2. a snapshot drops all entries and sets the base; a compact record drops those up to its id and sets the
//!    base;
//! 3. the later of two hard states is in force;
//! 4. a fence stays until the log holds an entry, or a base, of a later term than the fence's;
//! 5. a remove record drops everything but the hard state, the fence, and the floor: the furthest entry that
//!    any log of the group has reached here. A join record sets the floor of the log that follows, and
//!    whether it is a witness's. All are kept for good: an entry that was acknowledged and is gone may be
//!    committed;
//! 6. an accepted loss replaces all of that; it stays until the group is here again, or something else is
//!    lost.
//!
//! Not here: bytes, and I/O. Next: `pins` for the purpose of pins.

pub(crate) mod frame;
pub(crate) mod groups;
pub(crate) mod pins;

use std::collections::VecDeque;

use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, Term};

use crate::index::frame::{Frame, FrameRef, Frames, Memberships};
use crate::index::pins::{Pin, Pins};

/// How many of the last frames are searched linearly before the whole log is searched.
const NEAR_FRAMES: usize = 8;

/// What a replica keeps of its entries, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Entries with their payloads.
    Full,
    /// The ids of entries, and configurations: the log of a witness.
    Witness,
}

/// The in-memory index of one group's log.
#[derive(Debug)]
pub(crate) struct GroupLog {
    pub(crate) group: GroupId,
    pub(crate) hard_state: HardState,
    pub(crate) hard_state_segment: Option<u64>,
    /// The log begins after this entry.
    pub(crate) base: EntryId,
    pub(crate) base_configuration: Configuration,
    pub(crate) base_segment: Option<u64>,
    pub(crate) last: Index,
    /// The furthest entry that earlier replicas' logs have reached, where one was removed or this one joined.
    pub(crate) floor: Option<EntryId>,
    pub(crate) floor_segment: Option<u64>,
    /// The replica was removed; its hard state, floor and fence are kept.
    pub(crate) is_removed: bool,
    /// An operator accepted that damage may have taken the whole group. Cleared when the group is here again.
    pub(crate) is_loss_accepted: bool,
    pub(crate) kind: LogKind,
    pub(crate) live_bytes: u64,
    /// How many of its entries are included in the lane's sum.
    counted: u64,
    frames: VecDeque<Frame>,
    memberships: Vec<(Index, Configuration)>,
    fence: Option<Box<Fence>>,
}

/// Approximate memory of a group besides its frames: its log, its slot, its map entry, and a small
/// configuration.
pub(crate) const GROUP_BYTES: u64 = size_of::<Option<GroupLog>>() as u64 + 96;
const _: () = assert!(GROUP_BYTES <= 448, "about 400 bytes a group, as `architecture.md` promises");
const _: () = assert!(FRAME_BYTES <= 80, "about 60 bytes a frame, as `architecture.md` promises");
/// Memory of a frame; the queue's capacity may exceed its length by half.
pub(crate) const FRAME_BYTES: u64 = 3 * size_of::<Frame>() as u64 / 2;

/// Something of the log was lost, in terms up to this one.
#[derive(Clone, Copy, Debug)]
struct Fence {
    term: Term,
    segment: u64,
}

impl GroupLog {
    pub(crate) fn new(group: GroupId) -> Self {
        Self {
            group,
            hard_state: HardState::default(),
            hard_state_segment: None,
            base: EntryId::default(),
            base_configuration: Configuration::default(),
            base_segment: None,
            last: Index(0),
            floor: None,
            floor_segment: None,
            is_removed: false,
            is_loss_accepted: false,
            kind: LogKind::Full,
            live_bytes: 0,
            counted: 0,
            frames: VecDeque::new(),
            memberships: Vec::new(),
            fence: None,
        }
    }

    /// Rule 1. The frame must touch or overlap the log: see [`Self::accepts`].
    pub(crate) fn entries(&mut self, frame: Frame, memberships: Memberships, pins: &mut Pins) {
        if frame.last() <= self.base.index {
            return;
        }
        (self.is_removed, self.is_loss_accepted) = (false, false);
        // Without frames the first entries of the log may still be unknown: see `begins_with_hole`.
        assert!(!self.has_frames() || self.accepts(frame.first), "entries follow the log without a gap");
        self.replace_from(frame.first, pins);
        assert!(self.frames.back().is_none_or(|back| frame.is_behind(back)), "later entries lie further on");
        pins.pin(frame.place.segment, Pin::Frame { bytes: frame.place.bytes });
        self.live_bytes += u64::from(frame.place.bytes);
        self.last = frame.last();
        self.frames.push_back(frame);
        self.lift_fence(frame.term, pins);
        let base = self.base.index;
        assert!(
            self.memberships.last().is_none_or(|(index, _)| *index < frame.first),
            "replaced entries' configurations are gone"
        );
        assert!(
            memberships.first().is_none_or(|(index, _)| *index >= frame.first)
                && memberships.last().is_none_or(|(index, _)| *index <= frame.last()),
            "a configuration is that of one of the frame's entries"
        );
        self.memberships.extend(memberships.into_iter().filter(|(index, _)| *index > base));
        // Only a frame that reaches back to the base can have covered those before it; skipping the check
        // otherwise keeps an append to a cold log from cache misses.
        if frame.first <= base.next() {
            self.drop_covered(pins);
        }
        assert!(
            self.last == frame.last() && self.frames.back().is_some_and(|back| back.place == frame.place),
            "a log ends with the frame that was added last"
        );
        self.count_entries(pins);
    }

    /// Whether entries from `first` on would leave no gap.
    pub(crate) fn accepts(&self, first: Index) -> bool {
        first <= self.last.next()
    }

    /// Whether entries right after the base are missing. Only during recovery, before replay has reached the
    /// record (written after the missing entries became unnecessary) that moves the base.
    pub(crate) fn begins_with_hole(&self) -> bool {
        self.frames.front().is_some_and(|front| front.first > self.base.index.next())
    }

    /// Only during recovery: the record that sets this base is still to be replayed.
    pub(crate) fn expect_base(&mut self, id: EntryId) {
        assert!(
            self.last == Index(0) && !self.has_frames(),
            "a base is expected before anything is replayed"
        );
        (self.base, self.last) = (id, id.index);
    }

    /// Whether the entries after `base` can follow it. In a log with an expected base, entries may remain
    /// that were replaced before that record by others: replay skipped those others.
    pub(crate) fn follows(&self, base: EntryId) -> bool {
        let follows = |frame: &Frame| match frame.first > base.index {
            true => frame.term >= base.term,
            false => frame.term == base.term,
        };
        let at = self.frames.partition_point(|frame| frame.last() <= base.index);
        self.frames.get(at).filter(|_| self.last > base.index).is_none_or(follows)
    }

    pub(crate) fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Drops all entries.
    fn clear(&mut self, pins: &mut Pins) {
        self.replace_from(Index(0), pins);
        assert!(!self.has_frames() && self.memberships.is_empty(), "a cleared log holds no entry");
        assert!(self.last == self.base.index, "a cleared log ends at its base");
    }

    fn replace_from(&mut self, first: Index, pins: &mut Pins) {
        if first > self.last {
            return;
        }
        while let Some(back) = self.frames.back().copied().filter(|back| back.first >= first) {
            self.frames.pop_back();
            self.forget(back, pins);
        }
        self.last = self.last.min(first.prev()).max(self.base.index);
        while self.memberships.pop_if(|(index, _)| *index >= first).is_some() {}
    }

    /// Updates the lane's sum of entries.
    fn count_entries(&mut self, pins: &mut Pins) {
        assert!(self.base.index <= self.last, "a log ends at its base or behind it");
        assert!(
            self.frames.back().is_none_or(|back| back.first <= self.last),
            "a log ends in its last frame"
        );
        assert!(self.has_frames() || self.live_bytes == 0, "live bytes are those of the frames");
        let entries = self.last.0 - self.base.index.0;
        pins.count_entries(self.counted, entries);
        self.counted = entries;
    }

    pub(crate) fn frames_len(&self) -> usize {
        self.frames.len()
    }

    fn forget(&mut self, frame: Frame, pins: &mut Pins) {
        pins.unpin(frame.place.segment, Pin::Frame { bytes: frame.place.bytes });
        assert!(self.live_bytes >= u64::from(frame.place.bytes), "a frame's bytes are counted once");
        self.live_bytes -= u64::from(frame.place.bytes);
    }

    /// Drops frames that hold no entry above the base.
    fn drop_covered(&mut self, pins: &mut Pins) {
        while let Some(front) = self.frames.front().copied() {
            let last = self.frames.get(1).map_or(self.last, |next| next.first.prev()).min(front.last());
            if last > self.base.index {
                break;
            }
            self.frames.pop_front();
            self.forget(front, pins);
        }
    }

    /// Rule 2, compact. `segment` holds the record.
    pub(crate) fn compact(&mut self, to: EntryId, at: Configuration, segment: u64, pins: &mut Pins) {
        (self.is_removed, self.is_loss_accepted) = (false, false);
        self.set_base(to, at, segment, pins);
        self.last = self.last.max(to.index);
        self.memberships.retain(|(index, _)| *index > to.index);
        self.drop_covered(pins);
        self.count_entries(pins);
    }

    /// Drops all entries from `from` on: they are lost.
    pub(crate) fn lose_from(&mut self, from: Index, pins: &mut Pins) {
        self.replace_from(from, pins);
        self.drop_covered(pins); // the frame that the log begins in, if all after the base is lost
        assert!(self.last < from.max(self.base.index.next()), "lost entries are not in the log");
        self.count_entries(pins);
    }

    /// Only during recovery: drops entries that do not follow the base.
    pub(crate) fn drop_entries(&mut self, pins: &mut Pins) {
        self.clear(pins);
        self.count_entries(pins);
    }

    /// Rule 2, snapshot. Also the first record of a new replica.
    pub(crate) fn restart(&mut self, id: EntryId, at: Configuration, segment: u64, pins: &mut Pins) {
        (self.is_removed, self.is_loss_accepted) = (false, false);
        self.clear(pins);
        self.set_base(id, at, segment, pins);
        self.last = id.index;
        self.count_entries(pins);
    }

    fn set_base(&mut self, id: EntryId, at: Configuration, segment: u64, pins: &mut Pins) {
        pins.pin(segment, Pin::Fact);
        if let Some(old) = self.base_segment.replace(segment) {
            pins.unpin(old, Pin::Fact);
        }
        self.base = id;
        self.base_configuration = at;
        self.lift_fence(id.term, pins);
    }

    /// Rule 4. `segment` holds the record. Of two fences the later term is in force.
    pub(crate) fn fence(&mut self, term: Term, segment: u64, pins: &mut Pins) {
        pins.pin(segment, Pin::Fact);
        let term = term.max(self.fence_term().unwrap_or_default());
        if let Some(old) = self.fence.replace(Box::new(Fence { term, segment })) {
            pins.unpin(old.segment, Pin::Fact);
        }
    }

    fn lift_fence(&mut self, term: Term, pins: &mut Pins) {
        if let Some(fence) = self.fence.take_if(|fence| fence.term < term) {
            pins.unpin(fence.segment, Pin::Fact);
        }
    }

    /// The fence's term, until the lost part is replaced by entries of a later term.
    pub(crate) fn fence_term(&self) -> Option<Term> {
        self.fence.as_ref().map(|fence| fence.term)
    }

    /// As [`Self::fence_term`], but only if the record lies in `segment`.
    pub(crate) fn fence_in(&self, segment: u64) -> Option<Term> {
        self.fence.as_ref().filter(|fence| fence.segment == segment).map(|fence| fence.term)
    }

    /// Whether a record that counts lies in `segment`.
    pub(crate) fn has_metadata_in(&self, segment: u64) -> bool {
        [self.base_segment, self.hard_state_segment, self.floor_segment].contains(&Some(segment))
            || self.fence_in(segment).is_some()
    }

    /// Rule 3.
    pub(crate) fn hard_state(&mut self, hard_state: HardState, segment: u64, pins: &mut Pins) {
        pins.pin(segment, Pin::Fact);
        if let Some(old) = self.hard_state_segment.replace(segment) {
            pins.unpin(old, Pin::Fact);
        }
        self.hard_state = hard_state;
    }

    /// Rule 5, join.
    pub(crate) fn join(&mut self, floor: EntryId, segment: u64, pins: &mut Pins) {
        self.keep_floor(Some(segment), pins);
        self.floor = self.floor.max(Some(floor)); // also sets it where there was no earlier replica
    }

    /// From now on `segment` holds the record of the floor; `None` where there is none.
    pub(crate) fn keep_floor(&mut self, segment: Option<u64>, pins: &mut Pins) {
        assert!(segment.is_some() || self.floor.is_none(), "a floor has a record in the log");
        if let Some(segment) = segment {
            pins.pin(segment, Pin::Fact);
        }
        if let Some(old) = std::mem::replace(&mut self.floor_segment, segment) {
            pins.unpin(old, Pin::Fact);
        }
    }

    /// Rule 5, remove. `segment` holds the record.
    pub(crate) fn remove(&mut self, floor: EntryId, segment: u64, pins: &mut Pins) {
        self.keep_floor(Some(segment), pins);
        // A join record may have set the floor to the default, too, and may be gone when this is replayed.
        self.floor = self.floor.max(Some(floor)).filter(|floor| *floor != EntryId::default());
        self.clear(pins);
        if let Some(segment) = self.base_segment.take() {
            pins.unpin(segment, Pin::Fact);
        }
        (self.base, self.base_configuration) = (EntryId::default(), Configuration::default());
        (self.last, self.is_removed, self.kind) = (Index(0), true, LogKind::Full);
        self.is_loss_accepted = false;
        self.count_entries(pins);
    }

    /// Rule 6. For a group that is not here: drops its hard state, floor and fence. `segment` holds the
    /// record.
    pub(crate) fn accept_loss(&mut self, segment: u64, pins: &mut Pins) {
        self.keep_floor(Some(segment), pins);
        let fence = self.fence.take().map(|fence| fence.segment);
        for segment in self.hard_state_segment.take().into_iter().chain(fence) {
            pins.unpin(segment, Pin::Fact);
        }
        (self.hard_state, self.floor) = (HardState::default(), None);
        (self.is_removed, self.is_loss_accepted) = (true, true);
        assert!(self.is_blank(), "a loss that is accepted binds no later replica");
    }

    /// Whether there is no hard state, no floor and no fence: then nothing of the group needs to be kept.
    pub(crate) fn is_blank(&self) -> bool {
        let has_reached = self.floor.unwrap_or_default() != EntryId::default();
        self.hard_state == HardState::default() && !has_reached && self.fence.is_none()
    }

    /// The furthest entry that this log, or an earlier one of the group, has reached here.
    pub(crate) fn has_reached(&self) -> EntryId {
        let term = self.frames.back().map_or(self.base.term, |frame| frame.term);
        self.floor.unwrap_or_default().max(EntryId::new(term, self.last))
    }

    /// Releases all pins.
    pub(crate) fn release(&mut self, pins: &mut Pins) {
        self.clear(pins);
        pins.count_entries(std::mem::take(&mut self.counted), 0);
        assert!(self.live_bytes == 0, "a group that is released has no live bytes");
        let fence = self.fence.take().map(|fence| fence.segment);
        let facts = [&mut self.base_segment, &mut self.hard_state_segment, &mut self.floor_segment];
        for segment in facts.into_iter().filter_map(Option::take).chain(fence) {
            pins.unpin(segment, Pin::Fact);
        }
    }

    /// The configuration in force at `index`, as far as the log records it.
    pub(crate) fn configuration_at(&self, index: Index) -> &Configuration {
        let later = self.memberships.partition_point(|(at, _)| *at <= index);
        later.checked_sub(1).map_or(&self.base_configuration, |at| &self.memberships[at].1)
    }

    /// Membership entries in the log, in order.
    pub(crate) fn memberships(&self) -> &[(Index, Configuration)] {
        &self.memberships
    }

    /// Runs of adjacent frames of one term: the term and its first index.
    pub(crate) fn runs(&self) -> Vec<(Term, Index)> {
        let mut runs: Vec<(Term, Index)> = Vec::new();
        for frame in &self.frames {
            if runs.last().is_none_or(|(term, _)| *term != frame.term) {
                runs.push((frame.term, frame.first.max(self.base.index.next())));
            }
        }
        runs
    }

    /// The frames that cover `from..=to`: as many as `bytes_max` holds, at least one.
    pub(crate) fn frames(&self, from: Index, to: Index, bytes_max: u64) -> Frames {
        let mut found = Frames::new();
        let mut bytes = 0;
        // Requests nearly always concern the last few frames: the rest of a long log stays out of the CPU
        // cache.
        let near = self.frames.len().saturating_sub(NEAR_FRAMES);
        let begin = match self.frames.get(near) {
            Some(frame) if frame.first <= from => {
                near + self.frames.range(near..).take_while(|frame| frame.first <= from).count()
            }
            _ => self.frames.partition_point(|frame| frame.first <= from),
        };
        let begin = begin.saturating_sub(1);
        for at in begin..self.frames.len() {
            let frame = self.frames[at];
            bytes += u64::from(frame.place.bytes);
            if frame.first > to || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            let last = self.frames.get(at + 1).map_or(self.last, |next| next.first.prev()).min(frame.last());
            let (first, term, place) = (frame.first, frame.term, frame.place);
            found.push(FrameRef { first, last, frame_last: frame.last(), term, place });
        }
        found
    }

    /// The frames that its entries lie in, in order; the first and the last may hold entries that are no
    /// longer valid.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Whether the replica is a witness.
    pub(crate) fn is_witness(&self) -> bool {
        self.kind == LogKind::Witness
    }

    /// Whether any payload is withheld.
    pub(crate) fn has_withheld(&self) -> bool {
        self.frames.iter().any(|frame| frame.is_withheld)
    }

    /// Whether a frame of this group lies in `segment`. Frames are in segment order.
    pub(crate) fn is_in(&self, segment: u64) -> bool {
        let at = self.frames.partition_point(|frame| frame.place.segment < segment);
        self.frames.get(at).is_some_and(|frame| frame.place.segment == segment)
    }
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::NodeId;

    use super::*;
    use crate::index::frame::Place;

    fn frame(first: u64, count: u32, term: u64, segment: u64) -> Frame {
        let place = Place { segment, offset: 128 * first as u32, bytes: 100 };
        Frame { first: Index(first), term: Term(term), count, is_withheld: false, place }
    }

    fn log(frames: &[Frame]) -> (GroupLog, Pins) {
        let (mut log, mut pins) = (GroupLog::new(GroupId(1)), Pins::default());
        for frame in frames {
            assert!(log.accepts(frame.first));
            log.entries(*frame, Memberships::new(), &mut pins);
        }
        (log, pins)
    }

    fn spans(log: &GroupLog) -> Vec<(u64, u64, u64)> {
        let all = log.frames(log.base.index.next(), Index(u64::MAX), u64::MAX);
        all.iter().map(|frame| (frame.first.0, frame.last.0, frame.frame_last.0)).collect()
    }

    #[test]
    fn later_entries_replace_a_tail_and_clip_the_frame_they_cut_into() {
        let (mut log, mut pins) = log(&[frame(1, 10, 1, 1), frame(11, 5, 1, 2), frame(6, 2, 3, 3)]);
        assert_eq!(spans(&log), [(1, 5, 10), (6, 7, 7)]);
        assert_eq!((log.last, log.live_bytes), (Index(7), 200));
        assert_eq!(log.runs(), [(Term(1), Index(1)), (Term(3), Index(6))]);
        assert!(!pins.is_pinned(2) && pins.is_pinned(1));
        assert!(!log.accepts(Index(9)));
        log.compact(EntryId::new(Term(1), Index(5)), Configuration::default(), 3, &mut pins);
        assert_eq!(spans(&log), [(6, 7, 7)]);
        assert!(!pins.is_pinned(1));
    }

    #[test]
    fn entries_at_or_below_the_base_are_ignored_and_straddling_ones_clipped() {
        let (mut log, mut pins) = log(&[frame(1, 10, 1, 1)]);
        log.compact(EntryId::new(Term(1), Index(5)), Configuration::default(), 1, &mut pins);
        log.entries(frame(2, 3, 2, 2), Memberships::new(), &mut pins);
        assert_eq!(log.last, Index(10));
        log.entries(frame(3, 9, 2, 2), Memberships::new(), &mut pins);
        assert_eq!(spans(&log), [(3, 11, 11)]);
        assert_eq!(log.runs(), [(Term(2), Index(6))]);
    }

    #[test]
    fn the_base_takes_the_configuration_in_force_and_replaced_ones_fall_back() {
        let one = Configuration::of_voters([NodeId(1)]);
        let two = Configuration::of_voters([NodeId(1), NodeId(2)]);
        let (mut log, mut pins) = log(&[]);
        log.restart(EntryId::new(Term(1), Index(4)), one.clone(), 1, &mut pins);
        log.entries(frame(5, 4, 2, 1), [(Index(7), two.clone())].into_iter().collect(), &mut pins);
        assert_eq!(log.configuration_at(Index(6)), &one);
        assert_eq!(log.configuration_at(Index(8)), &two);
        log.entries(frame(7, 1, 3, 1), Memberships::new(), &mut pins);
        assert_eq!(log.configuration_at(Index(8)), &one);
        log.release(&mut pins);
        assert!(!pins.is_pinned(1));
    }

    #[test]
    fn entries_of_an_older_term_or_another_at_the_base_do_not_follow_it() {
        let (log, _) = log(&[frame(1, 4, 3, 1), frame(5, 4, 4, 1)]);
        let follows = |index: u64, term: u64| log.follows(EntryId::new(Term(term), Index(index)));
        assert!(follows(2, 3) && follows(4, 3) && follows(6, 4) && follows(8, 9), "the last follows nothing");
        assert!(!follows(2, 2) && !follows(4, 5) && !follows(6, 5));
    }

    #[test]
    fn reading_gives_whole_frames_up_to_the_bound_and_at_least_one() {
        let (log, _) = log(&[frame(1, 3, 1, 1), frame(4, 3, 1, 1), frame(7, 3, 1, 1)]);
        assert_eq!(log.frames(Index(5), Index(9), u64::MAX).len(), 2);
        assert_eq!(log.frames(Index(2), Index(9), 50).len(), 1);
        assert_eq!(log.frames(Index(2), Index(5), 1000).len(), 2);
        assert!(log.is_in(1) && !log.is_in(2));
    }
}
