//! The groups of a lane, by slot.

use raftwerk_frame::GroupId;
use rustc_hash::FxHashMap;

use super::GroupLog;

/// A group's handle in its lane, used on the hot path. Valid until the group is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupSlot(pub u32);

/// The groups of a lane, by slot.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) slots: Vec<Option<GroupLog>>,
    pub(crate) free: Vec<u32>,
    pub(crate) by_id: FxHashMap<GroupId, u32>,
}

impl Groups {
    pub(crate) fn attach(&mut self, group: GroupId) -> u32 {
        *self.by_id.entry(group).or_insert_with(|| {
            let log = Some(GroupLog::new(group));
            if let Some(slot) = self.free.pop() {
                self.slots[slot as usize] = log;
                return slot;
            }
            self.slots.push(log);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 groups in a lane")
        })
    }

    pub(crate) fn detach(&mut self, slot: u32) {
        if let Some(log) = self.slots[slot as usize].take() {
            self.by_id.remove(&log.group);
            self.free.push(slot);
        }
    }

    pub(crate) fn log(&self, slot: GroupSlot) -> &GroupLog {
        self.slots[slot.0 as usize].as_ref().expect("the slot's group was removed")
    }

    pub(crate) fn log_mut(&mut self, slot: GroupSlot) -> &mut GroupLog {
        self.slots[slot.0 as usize].as_mut().expect("the slot's group was removed")
    }
}
