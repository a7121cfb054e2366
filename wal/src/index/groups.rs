//! The groups of a lane, by slot.
//!
//! Invariant: a slot holds a group's log or is free, and a group's id leads to the slot that holds its log.
//! The number of slots only grows.

use raftwerk_frame::GroupId;
use rustc_hash::FxHashMap;

use super::GroupLog;

/// A group's handle in its lane, used on the hot path. Valid until the group is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupSlot(pub u32);

/// The groups of a lane, by slot.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Option<GroupLog>>,
    free: Vec<u32>,
    by_id: FxHashMap<GroupId, u32>,
}

impl Groups {
    /// The group's slot; an unknown group gets one, with an empty log.
    pub(crate) fn attach(&mut self, group: GroupId) -> GroupSlot {
        let (slots, free) = (&mut self.slots, &mut self.free);
        let slot = *self.by_id.entry(group).or_insert_with(|| {
            let log = Some(GroupLog::new(group));
            if let Some(slot) = free.pop() {
                assert!(slots[slot as usize].is_none(), "a free slot holds no group's log");
                slots[slot as usize] = log;
                return slot;
            }
            slots.push(log);
            u32::try_from(slots.len() - 1).expect("fewer than 2^32 groups in a lane")
        });
        assert!(self.by_id.len() + self.free.len() == self.slots.len(), "a slot is a group's or free");
        GroupSlot(slot)
    }

    /// Frees the slot of a group that is gone.
    pub(crate) fn detach(&mut self, slot: GroupSlot) {
        let log = self.slots[slot.0 as usize].take().expect("the slot's group was removed");
        assert!(!log.has_frames(), "a group that is gone holds no part of the log");
        assert!(self.by_id.remove(&log.group) == Some(slot.0), "a group's id leads to its slot");
        self.free.push(slot.0);
        assert!(self.by_id.len() + self.free.len() == self.slots.len(), "a slot is a group's or free");
    }

    pub(crate) fn log(&self, slot: GroupSlot) -> &GroupLog {
        self.slots[slot.0 as usize].as_ref().expect("the slot's group was removed")
    }

    pub(crate) fn log_mut(&mut self, slot: GroupSlot) -> &mut GroupLog {
        self.slots[slot.0 as usize].as_mut().expect("the slot's group was removed")
    }

    /// The slot of a group, if it has one.
    pub(crate) fn slot_of(&self, group: GroupId) -> Option<GroupSlot> {
        self.by_id.get(&group).copied().map(GroupSlot)
    }

    /// The number of groups.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The number of slots, free ones included.
    pub(crate) const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The log in a slot, counted from 0; `None` if the slot is free.
    pub(crate) fn get(&self, slot: usize) -> Option<&GroupLog> {
        self.slots[slot].as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut GroupLog> {
        self.slots[slot].as_mut()
    }

    /// Every group's log, in order of slots.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &GroupLog> {
        self.slots.iter().flatten()
    }

    pub(crate) fn logs_mut(&mut self) -> impl Iterator<Item = &mut GroupLog> {
        self.slots.iter_mut().flatten()
    }

    /// Every group's slot and log, in order of slots.
    pub(crate) fn by_slot(&self) -> impl Iterator<Item = (GroupSlot, &GroupLog)> {
        let slots = (0..).map(GroupSlot).zip(&self.slots);
        slots.filter_map(|(slot, log)| Some((slot, log.as_ref()?)))
    }
}
