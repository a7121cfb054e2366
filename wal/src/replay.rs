//! Replay: the frames of accepted batches, in order, make the groups' index again by the rules of `index`.
//!
//! What is not here: which batches are accepted (`recovery`).

use raftwerk_frame::frame::{FrameHeader, FrameKind};
use raftwerk_frame::{Configuration, GroupId, HardState, NodeId};

use crate::index::{Frame, Place};
use crate::lane::{GroupSlot, Groups};
use crate::lane_append::memberships;
use crate::retention::Pins;

/// The groups as far as they are replayed.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) groups: Groups,
    pub(crate) pins: Pins,
    pub(crate) frames: u64,
}

impl Replay {
    /// One frame, already verified. `Err` says why it cannot follow what came before.
    pub(crate) fn frame(
        &mut self,
        header: &FrameHeader,
        body: &[u8],
        place: Place,
    ) -> Result<(), &'static str> {
        self.frames += 1;
        if header.kind == FrameKind::Remove {
            self.remove(header.group);
            return Ok(());
        }
        let slot = GroupSlot(self.groups.attach(header.group));
        let (log, pins) = (self.groups.log_mut(slot), &mut self.pins);
        match header.kind {
            FrameKind::Entries => {
                let found = memberships(header, body).ok_or("a membership entry holds no configuration")?;
                // Without frames the last index is not known yet: frames before these may have lain in segments freed
                // since, because a record still to come made them unnecessary. If none comes, `holes` tells.
                if log.has_frames() && !log.accepts(header.index) {
                    return Err("entries leave a hole in a group's log");
                }
                let (first, term, count) = (header.index, header.term, header.count);
                log.entries(Frame { first, term, count, place }, found, pins);
            }
            FrameKind::HardState => {
                let vote = <[u8; 8]>::try_from(body).map_err(|_| "a hard state has the wrong length")?;
                let vote = Some(NodeId(u64::from_le_bytes(vote))).filter(|node| node.0 != 0);
                log.hard_state(HardState { term: header.term, vote }, place.segment, pins);
            }
            FrameKind::Snapshot => log.restart(header.id(), configuration(body)?, place.segment, pins),
            FrameKind::Compact => log.compact(header.id(), configuration(body)?, place.segment, pins),
            FrameKind::Remove => {}
        }
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

fn configuration(body: &[u8]) -> Result<Configuration, &'static str> {
    if body.is_empty() {
        return Ok(Configuration::default());
    }
    Configuration::decode(body).map_err(|_| "a record's configuration cannot be read")
}
