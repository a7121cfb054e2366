//! Replay: the frames of accepted batches, in order, make the groups' index again by the rules of `index`.
//!
//! What is not here: which batches are accepted (`recovery`).

use raftwerk_frame::GroupId;

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
}

impl Replay {
    /// One frame of that segment, already verified; `extras` are those of the frames from this one on. `Err` says why it
    /// cannot follow what came before.
    pub(crate) fn frame(
        &mut self,
        segment: u64,
        frame: &SurveyedFrame,
        extras: &mut impl Iterator<Item = Extra>,
    ) -> Result<(), &'static str> {
        self.frames += 1;
        let place = Place { segment, offset: frame.offset, bytes: frame.bytes };
        match frame.says {
            Says::Entries => self.entries(frame, place, Memberships::new()),
            Says::HardState(vote) => {
                let (log, pins) = self.log(frame.group);
                log.hard_state(frame.hard_state(vote), segment, pins);
                Ok(())
            }
            Says::Remove => {
                self.remove(frame.group);
                Ok(())
            }
            Says::Extra => match extras.next().expect("every such frame has one") {
                Extra::Memberships(found) => self.entries(frame, place, found),
                Extra::Snapshot(configuration) => {
                    let (log, pins) = self.log(frame.group);
                    log.restart(frame.id, configuration, segment, pins);
                    Ok(())
                }
                Extra::Compact(configuration) => {
                    let (log, pins) = self.log(frame.group);
                    log.compact(frame.id, configuration, segment, pins);
                    Ok(())
                }
                Extra::Nonsense(what) => Err(what),
            },
        }
    }

    fn log(&mut self, group: GroupId) -> (&mut GroupLog, &mut Pins) {
        let slot = GroupSlot(self.groups.attach(group));
        (self.groups.log_mut(slot), &mut self.pins)
    }

    fn entries(
        &mut self,
        frame: &SurveyedFrame,
        place: Place,
        found: Memberships,
    ) -> Result<(), &'static str> {
        let (log, pins) = self.log(frame.group);
        let (first, term, count) = (frame.first(), frame.term(), frame.count);
        // Without frames the last index is not known yet: frames before these may have lain in segments freed since,
        // because a record still to come made them unnecessary. If none comes, `holes` tells.
        if log.has_frames() && !log.accepts(first) {
            return Err("entries leave a hole in a group's log");
        }
        log.entries(Frame { first, term, count, place }, found, pins);
        Ok(())
    }

    fn remove(&mut self, group: GroupId) {
        if let Some(slot) = self.groups.by_id.get(&group).copied() {
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
