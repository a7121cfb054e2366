//! Replay: applies the frames of accepted batches, in order, to rebuild the groups' index by the rules of
//! `index`.
//!
//! Not here: which batches are accepted (`recovery`).

use raftwerk_frame::{EntryId, GroupId, Term};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::index::frame::{Frame, Memberships, Place};
use crate::index::groups::{GroupSlot, Groups};
use crate::index::pins::Pins;
use crate::index::{GroupLog, LogKind};
use crate::recovery::loss::{EVERY_GROUP, ListedLosses, Loss, LossVictims};
use crate::recovery::survey::{Extra, FrameContent, SurveyedFrame};

/// The groups as replayed so far.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) groups: Groups,
    pub(crate) pins: Pins,
    pub(super) frames: u64,
    /// The group looked up last: nearly always the next one too.
    latest: Option<(GroupId, GroupSlot)>,
    /// The segment of the last frame. Only rises.
    segment: u64,
    /// The highest term of any frame.
    pub(super) terms: Term,
    /// Groups that have lost something, and are not fenced in the log since. The value: whether their log is
    /// broken, so that later entries cannot be appended to it.
    hit: FxHashMap<GroupId, IsBroken>,
    /// Any group may have lost something, including one not seen yet.
    is_any_hit: bool,
    /// Groups with their first base record still to be replayed.
    expected: FxHashSet<GroupId>,
    /// All losses met so far.
    losses: Vec<Loss>,
    /// The list of losses that was read last, as far as it is whole.
    listed: ListedLosses,
}

type IsBroken = bool;

impl Replay {
    /// Replays one verified frame of `segment`; `extras` are those of its survey. `Err` states why it cannot
    /// follow the frames before it.
    pub(crate) fn frame(
        &mut self,
        segment: u64,
        frame: &SurveyedFrame,
        extras: &mut [Option<Extra>],
    ) -> Result<(), &'static str> {
        assert!(segment >= self.segment, "segments are replayed in their order");
        assert!(frame.bytes > 0, "a frame has a place");
        self.segment = segment;
        self.frames += 1;
        self.terms = self.terms.max(frame.term());
        if frame.group != EVERY_GROUP {
            self.on_first_frame(frame.group);
        }
        let place = Place { segment, offset: frame.offset, bytes: frame.bytes };
        match frame.content {
            FrameContent::Entries | FrameContent::Withheld => self.entries(frame, place, Memberships::new()),
            FrameContent::HardState(vote) => {
                let (log, pins) = self.log(frame.group);
                log.hard_state(frame.hard_state(vote), segment, pins);
                Ok(())
            }
            FrameContent::Remove => {
                self.remove(frame.group, frame.id, segment);
                Ok(())
            }
            FrameContent::Join { as_witness } => {
                let (log, pins) = self.log(frame.group);
                log.join(frame.id, segment, pins);
                log.kind = if as_witness { LogKind::Witness } else { LogKind::Full };
                Ok(())
            }
            FrameContent::BootstrapAsWitness => {
                let (log, pins) = self.log(frame.group);
                log.keep_floor(Some(segment), pins);
                log.kind = LogKind::Witness;
                Ok(())
            }
            FrameContent::LossAccepted => {
                self.hit.remove(&frame.group); // earlier losses are accepted too
                let (log, pins) = self.log(frame.group);
                log.accept_loss(segment, pins);
                Ok(())
            }
            FrameContent::Fence => {
                let (log, pins) = self.log(frame.group);
                log.fence(frame.term(), segment, pins);
                Ok(())
            }
            FrameContent::Extra(at) => match extras[at as usize].take().expect("each is of one frame") {
                Extra::Memberships(found) => self.entries(frame, place, found),
                Extra::Snapshot(configuration) => {
                    self.mark_consistent(frame.group);
                    let (log, pins) = self.log(frame.group);
                    log.restart(frame.id, configuration, segment, pins);
                    Ok(())
                }
                Extra::Compact(configuration) => {
                    let is_broken = self.is_broken(frame.group);
                    let is_expected = self.expected.remove(&frame.group);
                    let (log, pins) = self.log(frame.group);
                    if is_broken && log.base == frame.id && log.follows(frame.id) {
                        // The record only repeats the base: entries after it are as valid as before.
                        log.compact(frame.id, configuration, segment, pins);
                        return Ok(());
                    }
                    self.mark_consistent(frame.group);
                    let (log, pins) = self.log(frame.group);
                    if is_broken || is_expected && !log.follows(frame.id) {
                        // It is unknown whether the entries left after the base belong there.
                        log.restart(frame.id, configuration, segment, pins);
                    } else {
                        log.compact(frame.id, configuration, segment, pins);
                    }
                    Ok(())
                }
                Extra::Losses(listed) => {
                    assert!(frame.group == EVERY_GROUP, "a list of losses is of no single group");
                    self.listed.add(frame.id.index.0, listed);
                    // A loss found later, of older data, is not on the list: then all groups must be fenced
                    // again.
                    if self.listed.holds(&self.losses) {
                        self.hit.clear();
                        self.is_any_hit = false;
                    }
                    Ok(())
                }
                Extra::Malformed(what) => Err(what),
            },
        }
    }

    fn log(&mut self, group: GroupId) -> (&mut GroupLog, &mut Pins) {
        let slot = match self.latest {
            Some((latest, slot)) if latest == group => slot,
            _ => self.groups.attach(group),
        };
        self.latest = Some((group, slot));
        let log = self.groups.log_mut(slot);
        assert!(log.group == group, "a group's slot holds its log");
        (log, &mut self.pins)
    }

    fn entries(
        &mut self,
        frame: &SurveyedFrame,
        place: Place,
        found: Memberships,
    ) -> Result<(), &'static str> {
        if let Some(is_broken) = self.hit.get(&frame.group).copied() {
            let (log, _) = self.log(frame.group);
            let begins = frame.first() <= log.base.index.next();
            // The frame replaces everything there, or follows what is whole.
            let counts = begins || !is_broken && log.accepts(frame.first());
            self.hit.insert(frame.group, !counts);
            if !counts {
                return Ok(());
            }
        }
        let (log, pins) = self.log(frame.group);
        let (first, term, count) = (frame.first(), frame.term(), frame.count);
        // Without frames the last index is not known yet: frames before these may have been in segments freed
        // since, because a record still to be replayed made them unnecessary. If there is none, `holes`
        // reports it.
        if log.has_frames() && !log.accepts(first) {
            return Err("entries leave a hole in a group's log");
        }
        let is_withheld = frame.content == FrameContent::Withheld;
        assert!(count > 0, "a frame of entries has some");
        assert!(!is_withheld || found.is_empty(), "withheld entries hold no configurations");
        log.entries(Frame { first, term, count, is_withheld, place }, found, pins);
        Ok(())
    }

    /// Sets the base that the group's first base record will set: the record that set it earlier is gone,
    /// replaced by that one. Entries after a loss are then accepted as they were while the earlier record
    /// existed.
    pub(crate) fn expect_base(&mut self, group: GroupId, id: EntryId) {
        assert!(self.frames == 0, "bases are expected before anything is replayed");
        self.expected.insert(group);
        self.log(group).0.expect_base(id);
    }

    /// Records a loss of frames. Later frames of these groups are valid only where they do not depend on the
    /// lost ones.
    pub(crate) fn lose(&mut self, loss: Loss, lost: &LossVictims) {
        self.losses.push(loss);
        match lost {
            LossVictims::Of(groups) => {
                // A damaged list of losses belongs to no group: the losses it answered for hit their groups
                // again.
                for group in groups.iter().filter(|group| **group != EVERY_GROUP) {
                    self.log(*group).0.is_loss_accepted = false; // another loss, or it was here again
                    self.hit.insert(*group, true);
                }
            }
            LossVictims::Any => {
                self.is_any_hit = true;
                for log in self.groups.logs_mut() {
                    self.hit.insert(log.group, true);
                    log.is_loss_accepted = false; // it was another
                }
            }
        }
    }

    /// First frame of a group after a loss with unknown victims: the group may have lost earlier frames.
    fn on_first_frame(&mut self, group: GroupId) {
        if self.is_any_hit && self.groups.slot_of(group).is_none() {
            self.hit.insert(group, true);
        }
    }

    fn is_broken(&self, group: GroupId) -> bool {
        self.hit.get(&group).is_some_and(|is_broken| *is_broken)
    }

    /// The group's log is consistent again, though part of it may be missing.
    fn mark_consistent(&mut self, group: GroupId) {
        if let Some(is_broken) = self.hit.get_mut(&group) {
            *is_broken = false;
        }
    }

    /// Whether the group may have lost something and has no fence for it in the log yet.
    pub(crate) fn is_hit(&self, group: GroupId) -> bool {
        self.hit.contains_key(&group)
    }

    /// Whether frames of unidentified groups were lost, and no list in the log answers for that yet.
    pub(crate) const fn is_any_hit(&self) -> bool {
        self.is_any_hit
    }

    /// All losses, if the log does not answer for some of them yet.
    pub(crate) fn unlisted_losses(&self) -> Option<Vec<Loss>> {
        assert!(!self.is_any_hit || !self.losses.is_empty(), "groups are hit by a loss");
        (self.is_any_hit || !self.hit.is_empty()).then(|| self.losses.clone())
    }

    /// Drops all entries of a group if its log does not follow its base; the group continues from the base.
    pub(crate) fn fill_holes(&mut self) -> Vec<GroupId> {
        let holes = self.holes();
        for group in &holes {
            let (log, pins) = self.log(*group);
            log.drop_entries(pins);
            assert!(log.last == log.base.index, "the group continues from its base");
            self.hit.insert(*group, false);
        }
        holes
    }

    /// Replays a removal. The group's hard state, floor and fence are kept; so is a hit: this record contains
    /// neither term nor vote, nor what an earlier loss took from the log.
    fn remove(&mut self, group: GroupId, floor: EntryId, segment: u64) {
        self.mark_consistent(group);
        let (log, pins) = self.log(group);
        // Whether anything is to be kept is known only at the end: its hard state may have been relocated
        // behind this record.
        log.remove(floor, segment, pins);
        assert!(log.is_removed && !log.has_frames(), "a removed group has no entries");
    }

    /// Removed groups that lost part of their metadata.
    pub(crate) fn hit_and_gone(&self) -> Vec<GroupId> {
        let logs = self.groups.logs().filter(|log| log.is_removed && self.is_hit(log.group));
        logs.map(|log| log.group).collect()
    }

    /// Drops removed groups without any metadata to keep.
    pub(crate) fn forget_blank(&mut self) {
        self.latest = None;
        let is_kept = |log: &GroupLog| log.is_loss_accepted || self.is_hit(log.group);
        let is_blank = |log: &GroupLog| log.is_removed && log.is_blank() && !is_kept(log);
        let blank = self.groups.by_slot().filter(|(_, log)| is_blank(log)).map(|(slot, _)| slot);
        for slot in blank.collect::<Vec<GroupSlot>>() {
            self.groups.log_mut(slot).release(&mut self.pins);
            self.groups.detach(slot);
        }
    }

    /// Groups whose log does not follow its base.
    pub(crate) fn holes(&self) -> Vec<GroupId> {
        let logs = self.groups.logs();
        logs.filter(|log| log.begins_with_hole()).map(|log| log.group).collect()
    }
}
