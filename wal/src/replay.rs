//! Replay: the frames of accepted batches, in order, make the groups' index again by the rules of `index`.
//!
//! What is not here: which batches are accepted (`recovery`).

use raftwerk_frame::{EntryId, GroupId, Term};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::index::{Frame, GroupLog, Memberships, Place};
use crate::lane::{GroupSlot, Groups};
use crate::retention::Pins;
use crate::survey::{Extra, Says, SurveyedFrame};

/// The groups as far as they are replayed.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) groups: Groups,
    pub(crate) pins: Pins,
    pub(crate) frames: u64,
    /// The group that was asked for last: nearly always the next one too.
    latest: Option<(GroupId, GroupSlot)>,
    /// The highest term of any of them.
    pub(crate) terms: Term,
    /// Groups that have lost something, and not said so in the log since. Whether what follows for them can be put after
    /// what they have.
    hit: FxHashMap<GroupId, IsBroken>,
    /// Any group may have lost something, one not met yet too.
    is_any_hit: bool,
    /// Groups whose first record of a base is still to come.
    expected: FxHashSet<GroupId>,
    /// All losses met so far.
    losses: Vec<Loss>,
}

type IsBroken = bool;

/// What tells a loss from others: the first batch that is not whole, the next one that is found, and a hash of the groups
/// that were hit.
pub(crate) type Loss = [u64; 3];

/// Whom a fence is about that names losses: all groups that they hit have been fenced before it.
pub(crate) const EVERY_GROUP: GroupId = GroupId(u64::MAX);

/// Whose frames were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nobody can tell.
    Any,
    /// Of these.
    Of(Vec<GroupId>),
}

impl Replay {
    /// One frame of that segment, already verified; `extras` are those of its survey. `Err` says why it cannot follow what
    /// came before.
    pub(crate) fn frame(
        &mut self,
        segment: u64,
        frame: &SurveyedFrame,
        extras: &mut [Option<Extra>],
    ) -> Result<(), &'static str> {
        self.frames += 1;
        self.terms = self.terms.max(frame.term());
        if frame.group != EVERY_GROUP {
            self.meet(frame.group);
        }
        let place = Place { segment, offset: frame.offset, bytes: frame.bytes };
        match frame.says {
            Says::Entries | Says::Withheld => self.entries(frame, place, Memberships::new()),
            Says::HardState(vote) => {
                let (log, pins) = self.log(frame.group);
                log.hard_state(frame.hard_state(vote), segment, pins);
                Ok(())
            }
            Says::Remove => {
                self.remove(frame.group, frame.id, segment);
                Ok(())
            }
            Says::Join { as_witness } => {
                let (log, pins) = self.log(frame.group);
                log.join(frame.id, segment, pins);
                log.is_witness = as_witness;
                Ok(())
            }
            Says::FoundsAsWitness => {
                let (log, pins) = self.log(frame.group);
                log.keep_floor(Some(segment), pins);
                log.is_witness = true;
                Ok(())
            }
            Says::LossAccepted => {
                self.hit.remove(&frame.group); // whatever was lost before
                let (log, pins) = self.log(frame.group);
                log.accept_loss(segment, pins);
                Ok(())
            }
            Says::Fence => {
                let (log, pins) = self.log(frame.group);
                log.fence(frame.term(), segment, pins);
                Ok(())
            }
            Says::Extra(at) => match extras[at as usize].take().expect("each is of one frame") {
                Extra::Memberships(found) => self.entries(frame, place, found),
                Extra::Snapshot(configuration) => {
                    self.mend(frame.group);
                    let (log, pins) = self.log(frame.group);
                    log.restart(frame.id, configuration, segment, pins);
                    Ok(())
                }
                Extra::Compact(configuration) => {
                    let is_broken = self.is_broken(frame.group);
                    let is_expected = self.expected.remove(&frame.group);
                    let (log, pins) = self.log(frame.group);
                    if is_broken && log.base == frame.id && log.follows(frame.id) {
                        // Where the log begins is only said again: what follows there is as certain as it was.
                        log.compact(frame.id, configuration, segment, pins);
                        return Ok(());
                    }
                    self.mend(frame.group);
                    let (log, pins) = self.log(frame.group);
                    if is_broken || is_expected && !log.follows(frame.id) {
                        // Whether what is left after it belongs there cannot be told.
                        log.restart(frame.id, configuration, segment, pins);
                    } else {
                        log.compact(frame.id, configuration, segment, pins);
                    }
                    Ok(())
                }
                Extra::Losses(answered) => {
                    // A loss of later, of something older, is not among them: then everybody has to answer again.
                    if self.losses.iter().all(|loss| answered.contains(loss)) {
                        self.hit.clear();
                        self.is_any_hit = false;
                    }
                    Ok(())
                }
                Extra::Nonsense(what) => Err(what),
            },
        }
    }

    fn log(&mut self, group: GroupId) -> (&mut GroupLog, &mut Pins) {
        let slot = match self.latest {
            Some((latest, slot)) if latest == group => slot,
            _ => GroupSlot(self.groups.attach(group)),
        };
        self.latest = Some((group, slot));
        (self.groups.log_mut(slot), &mut self.pins)
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
            // It replaces all that is there, or follows what is whole.
            let counts = begins || !is_broken && log.accepts(frame.first());
            self.hit.insert(frame.group, !counts);
            if !counts {
                return Ok(());
            }
        }
        let (log, pins) = self.log(frame.group);
        let (first, term, count) = (frame.first(), frame.term(), frame.count);
        // Without frames the last index is not known yet: frames before these may have lain in segments freed since,
        // because a record still to come made them unnecessary. If none comes, `holes` tells.
        if log.has_frames() && !log.accepts(first) {
            return Err("entries leave a hole in a group's log");
        }
        let is_withheld = frame.says == Says::Withheld;
        log.entries(Frame { first, term, count, is_withheld, place }, found, pins);
        Ok(())
    }

    /// The first record that says where a group's log begins is still to come, and will say this: the one before it is gone, since
    /// that one took its place. What counts after a loss is then judged as it was while that one was there.
    pub(crate) fn expect_base(&mut self, group: GroupId, id: EntryId) {
        self.expected.insert(group);
        self.log(group).0.expect_base(id);
    }

    /// Frames were lost here. What follows for these groups counts only where it does not depend on what was lost.
    pub(crate) fn lose(&mut self, loss: Loss, lost: &Lost) {
        self.losses.push(loss);
        match lost {
            Lost::Of(groups) => {
                // A list of losses that is lost itself is nobody's: what it had answered for is hit as it was before.
                for group in groups.iter().filter(|group| **group != EVERY_GROUP) {
                    self.log(*group).0.is_loss_accepted = false; // it was another, or the group was here again
                    self.hit.insert(*group, true);
                }
            }
            Lost::Any => {
                self.is_any_hit = true;
                for log in self.groups.slots.iter_mut().flatten() {
                    self.hit.insert(log.group, true);
                    log.is_loss_accepted = false; // it was another
                }
            }
        }
    }

    /// A group that comes out of the dark has lost what came before.
    fn meet(&mut self, group: GroupId) {
        if self.is_any_hit && !self.groups.by_id.contains_key(&group) {
            self.hit.insert(group, true);
        }
    }

    fn is_broken(&self, group: GroupId) -> bool {
        self.hit.get(&group).is_some_and(|is_broken| *is_broken)
    }

    /// The group's log is again what was written, though not all of it may be there.
    fn mend(&mut self, group: GroupId) {
        if let Some(is_broken) = self.hit.get_mut(&group) {
            *is_broken = false;
        }
    }

    /// Whether the group may have lost something that its log does not speak of.
    pub(crate) fn is_hit(&self, group: GroupId) -> bool {
        self.hit.contains_key(&group)
    }

    /// Whether something was lost of groups that nobody can name, and has not been answered for yet.
    pub(crate) const fn is_any_hit(&self) -> bool {
        self.is_any_hit
    }

    /// All losses, if some are not answered for yet.
    pub(crate) fn unanswered(&self) -> Option<Vec<Loss>> {
        (self.is_any_hit || !self.hit.is_empty()).then(|| self.losses.clone())
    }

    /// Groups whose log does not follow its base go on from there without entries.
    pub(crate) fn fill_holes(&mut self) -> Vec<GroupId> {
        let holes = self.holes();
        for group in &holes {
            let (log, pins) = self.log(*group);
            log.drop_entries(pins);
            self.hit.insert(*group, false);
        }
        holes
    }

    /// The replica is gone; what it has promised stays. So does it that it has forgotten some: a term and a vote are not in this
    /// record, nor what a loss before it had taken from the log.
    fn remove(&mut self, group: GroupId, floor: EntryId, segment: u64) {
        self.mend(group);
        let (log, pins) = self.log(group);
        // Whether there is anything to keep is known at the end: its hard state may have been carried forward, past this.
        log.remove(floor, segment, pins);
    }

    /// Groups that are gone, and of whose promises some were lost.
    pub(crate) fn hit_and_gone(&self) -> Vec<GroupId> {
        let logs = self.groups.slots.iter().flatten().filter(|log| log.is_removed && self.is_hit(log.group));
        logs.map(|log| log.group).collect()
    }

    /// Forgets the groups that are gone and have promised nothing.
    pub(crate) fn forget_blank(&mut self) {
        self.latest = None;
        let is_kept = |log: &GroupLog| log.is_loss_accepted || self.is_hit(log.group);
        let is_blank = |log: &GroupLog| log.is_removed && log.is_blank() && !is_kept(log);
        let slots = self.groups.slots.iter().enumerate();
        let blank = slots.filter(|(_, log)| log.as_ref().is_some_and(is_blank)).map(|(slot, _)| slot as u32);
        for slot in blank.collect::<Vec<u32>>() {
            self.groups.log_mut(GroupSlot(slot)).release(&mut self.pins);
            self.groups.detach(slot);
        }
    }

    /// Groups whose log does not follow its base.
    pub(crate) fn holes(&self) -> Vec<GroupId> {
        let logs = self.groups.slots.iter().flatten();
        logs.filter(|log| log.begins_with_hole()).map(|log| log.group).collect()
    }
}
