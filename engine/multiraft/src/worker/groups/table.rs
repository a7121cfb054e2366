//! The replicas of a worker, by slot and by group: their timers, and the lists of those that a later step of
//! the turn visits.
//!
//! A replica has a flag for each list that it may be on. Flags and lists change together, in this file only.

use raftwerk_frame::{EntryId, GroupId, Time};
use raftwerk_wal::{GroupSlot, Lsn};
use rustc_hash::FxHashMap;

use crate::worker::groups::conditions::LaneConditions;
use crate::worker::groups::loss::Unknown;
use crate::worker::groups::quarantine::Quarantined;
use crate::worker::groups::replica::{HardStateDurability, Replica};
use crate::worker::groups::timers::Timers;

/// The groups of a worker.
#[derive(Default)]
pub(in crate::worker) struct Groups {
    replicas: Vec<Option<Box<Replica>>>,
    slots: FxHashMap<GroupId, GroupSlot>,
    timers: Timers,
    /// Groups to flush, and to send appends for, at the end of the turn.
    dirty: Vec<GroupSlot>,
    /// Groups with entries in the batch being filled.
    appended: Vec<GroupSlot>,
    /// Groups whose hard state is in that batch and not durable yet.
    hard_states_in_batch: Vec<GroupSlot>,
    /// Groups with committed entries to apply, or with reads that can be answered.
    to_apply: Vec<GroupSlot>,
    /// Groups seen quiescent without one of their peers; some of them may have unquiesced since.
    quiescent_without_peer: Vec<GroupSlot>,
    pub(super) quarantined: Quarantined,
    pub(super) unknown: Unknown,
    pub(super) conditions: LaneConditions,
}

/// A timer that has expired.
pub(in crate::worker) enum Timer {
    /// The group's deadline has come.
    Due(GroupSlot),
    /// The group is gone, or its deadline is later by now.
    Stale,
}

impl Groups {
    /// The replica of a slot; `None` if it was removed.
    pub(in crate::worker) fn get(&self, slot: GroupSlot) -> Option<&Replica> {
        self.replicas.get(slot.0 as usize)?.as_deref()
    }

    pub(in crate::worker) fn get_mut(&mut self, slot: GroupSlot) -> Option<&mut Replica> {
        self.replicas.get_mut(slot.0 as usize)?.as_deref_mut()
    }

    pub(in crate::worker) fn slot_of(&self, group: GroupId) -> Option<GroupSlot> {
        self.slots.get(&group).copied()
    }

    /// The replica of a group, if there is one here.
    pub(in crate::worker) fn find(&self, group: GroupId) -> Option<&Replica> {
        self.get(self.slot_of(group)?)
    }

    pub(in crate::worker) fn find_mut(&mut self, group: GroupId) -> Option<&mut Replica> {
        self.get_mut(self.slot_of(group)?)
    }

    /// Whether the slot still belongs to the group: after a removal another group may have it.
    pub(in crate::worker) fn holds(&self, slot: GroupSlot, group: GroupId) -> bool {
        self.get(slot).is_some_and(|replica| replica.id == group)
    }

    /// The replicas in order of their slots.
    pub(in crate::worker) fn iter(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().flatten().map(|replica| &**replica)
    }

    pub(in crate::worker) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Replica> {
        self.replicas.iter_mut().flatten().map(|replica| &mut **replica)
    }

    /// The groups, in no particular order.
    pub(in crate::worker) fn ids(&self) -> impl Iterator<Item = GroupId> {
        self.slots.keys().copied()
    }

    pub(in crate::worker) fn len(&self) -> usize {
        self.slots.len()
    }

    /// One more than the last slot that was ever in use.
    pub(in crate::worker) fn slots_end(&self) -> u32 {
        self.replicas.len() as u32
    }

    /// Adds a replica, and arms its timer.
    pub(in crate::worker) fn insert(&mut self, replica: Replica) {
        let (group, slot) = (replica.id, replica.slot);
        if self.replicas.len() <= slot.0 as usize {
            self.replicas.resize_with(slot.0 as usize + 1, || None);
        }
        self.replicas[slot.0 as usize] = Some(Box::new(replica));
        self.arm(slot);
        self.slots.insert(group, slot);
    }

    /// Removes a group's replica.
    pub(in crate::worker) fn remove(&mut self, group: GroupId) -> Option<Box<Replica>> {
        let replica = self.take(self.slot_of(group)?)?;
        self.slots.remove(&group);
        Some(replica)
    }

    /// Takes a replica out that is about to be rebuilt in the same slot.
    pub(in crate::worker) fn take(&mut self, slot: GroupSlot) -> Option<Box<Replica>> {
        self.replicas.get_mut(slot.0 as usize)?.take()
    }

    /// When the first timer expires.
    pub(in crate::worker) fn next_deadline(&self) -> Time {
        self.timers.next()
    }

    /// When leaders in quarantine, or groups without a leader, need the worker's attention.
    pub(in crate::worker) fn attention_at(&self) -> Time {
        self.quarantined.next_deadline().min(self.conditions.next_deadline())
    }

    /// Takes a timer that has expired. A group whose deadline has moved meanwhile gets another one.
    pub(in crate::worker) fn take_timer(&mut self, now: Time) -> Option<Timer> {
        let (at, slot) = self.timers.due(now)?;
        let Some(replica) = self.get_mut(slot).filter(|replica| replica.timer_at == at) else {
            return Some(Timer::Stale);
        };
        replica.timer_at = Time::NEVER;
        if replica.core.next_deadline() <= now {
            return Some(Timer::Due(slot));
        }
        self.arm(slot);
        Some(Timer::Stale)
    }

    /// Keeps the group's entry in the timers no later than its deadline.
    pub(in crate::worker) fn arm(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        let deadline = replica.core.next_deadline();
        if deadline < replica.timer_at {
            replica.timer_at = deadline;
            self.timers.add(deadline, slot);
        }
    }

    /// Gives the group a new entry in the timers, whatever it had.
    pub(in crate::worker) fn rearm(&mut self, slot: GroupSlot) {
        if let Some(replica) = self.get_mut(slot) {
            replica.timer_at = Time::NEVER;
        }
        self.arm(slot);
    }

    /// Adds a group to the list of those to flush, and to send appends for.
    pub(in crate::worker) fn touch(&mut self, slot: GroupSlot) {
        if let Some(replica) = self.get_mut(slot)
            && !std::mem::replace(&mut replica.listed.is_dirty, true)
        {
            self.dirty.push(slot);
        }
    }

    pub(in crate::worker) fn are_any_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The group at a place of the list of those to flush.
    pub(in crate::worker) fn dirty_at(&self, at: usize) -> Option<GroupSlot> {
        self.dirty.get(at).copied()
    }

    /// Takes the list of groups to send appends for. Each is to be taken off by [`Groups::undirty`], and the
    /// memory is to be returned by [`Groups::recycle_dirty`].
    pub(in crate::worker) fn take_dirty(&mut self) -> Vec<GroupSlot> {
        std::mem::take(&mut self.dirty)
    }

    pub(in crate::worker) fn undirty(&mut self, slot: GroupSlot) -> Option<&mut Replica> {
        let replica = self.get_mut(slot)?;
        replica.listed.is_dirty = false;
        Some(replica)
    }

    pub(in crate::worker) fn recycle_dirty(&mut self, list: Vec<GroupSlot>) {
        self.dirty = list;
    }

    /// Forgets which groups are to be flushed: the log has failed.
    pub(in crate::worker) fn clear_dirty(&mut self) {
        self.dirty.clear();
    }

    /// Entries of the group are in the batch being filled.
    pub(in crate::worker) fn note_appended(&mut self, slot: GroupSlot) {
        if let Some(replica) = self.get_mut(slot)
            && !std::mem::replace(&mut replica.listed.has_appended, true)
        {
            self.appended.push(slot);
        }
    }

    /// Takes the groups with entries in the batch, and the last entry of each.
    pub(in crate::worker) fn drain_appended(
        &mut self,
    ) -> impl Iterator<Item = (GroupSlot, GroupId, EntryId)> + '_ {
        let Self { replicas, appended, .. } = self;
        appended.drain(..).filter_map(|slot| {
            let replica = replicas.get_mut(slot.0 as usize)?.as_mut()?;
            replica.listed.has_appended = false;
            Some((slot, replica.id, replica.core.last()))
        })
    }

    /// The group's hard state is in the batch being filled.
    pub(in crate::worker) fn note_hard_state(&mut self, slot: GroupSlot) {
        let Some(replica) = self.get_mut(slot) else { return };
        if replica.hard_state_durability != HardStateDurability::InThisBatch {
            replica.hard_state_durability = HardStateDurability::InThisBatch;
            self.hard_states_in_batch.push(slot);
        }
    }

    /// The batch is on its way to the disk under this number; `None`: it could not be submitted.
    pub(in crate::worker) fn on_hard_states_submitted(&mut self, lsn: Option<Lsn>) {
        let Self { replicas, hard_states_in_batch, .. } = self;
        for slot in hard_states_in_batch.drain(..) {
            let replica = replicas.get_mut(slot.0 as usize).and_then(Option::as_mut);
            if let (Some(replica), Some(lsn)) = (replica, lsn) {
                replica.hard_state_durability = HardStateDurability::InFlight(lsn);
            }
        }
    }

    /// Adds a group to the list of those to apply.
    pub(in crate::worker) fn note_to_apply(&mut self, slot: GroupSlot) {
        if let Some(replica) = self.get_mut(slot)
            && !std::mem::replace(&mut replica.listed.is_to_apply, true)
        {
            self.to_apply.push(slot);
        }
    }

    /// Takes the list of groups to apply. Each is to be taken off by [`Groups::begin_apply`], and the memory
    /// is to be returned by [`Groups::recycle_to_apply`].
    pub(in crate::worker) fn take_to_apply(&mut self) -> Vec<GroupSlot> {
        std::mem::take(&mut self.to_apply)
    }

    pub(in crate::worker) fn begin_apply(&mut self, slot: GroupSlot) -> Option<&mut Replica> {
        let replica = self.get_mut(slot)?;
        replica.listed.is_to_apply = false;
        Some(replica)
    }

    /// Returns the list's memory. Returns whether no group was added since it was taken.
    pub(in crate::worker) fn recycle_to_apply(&mut self, list: Vec<GroupSlot>) -> bool {
        let applied_all = self.to_apply.is_empty();
        if applied_all {
            self.to_apply = list;
        }
        applied_all
    }

    /// After a step of its core: adds a group to the lists where it belongs now, besides that of the groups
    /// to flush.
    pub(in crate::worker) fn enlist(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        if replica.core.is_quiescent_without_peer()
            && !std::mem::replace(&mut replica.listed.is_quiescent_without_peer, true)
        {
            self.quiescent_without_peer.push(slot);
        }
        let wants_apply = replica.may_apply_to() > replica.applied || replica.has_answerable_reads();
        if wants_apply && !std::mem::replace(&mut replica.listed.is_to_apply, true) {
            self.to_apply.push(slot);
        }
    }

    pub(in crate::worker) fn are_any_quiescent_without_peer(&self) -> bool {
        !self.quiescent_without_peer.is_empty()
    }

    /// The group at a place of the list of groups that are quiescent without a peer.
    pub(in crate::worker) fn quiescent_without_peer_at(&self, at: usize) -> Option<GroupSlot> {
        self.quiescent_without_peer.get(at).copied()
    }

    /// Whether the replica is on that list. False for one that was rebuilt since.
    pub(in crate::worker) fn is_listed_quiescent(&self, slot: GroupSlot) -> bool {
        self.get(slot).is_some_and(|replica| replica.listed.is_quiescent_without_peer)
    }

    /// Takes the group at this place off the list unless it is quiescent without a peer still. Returns the
    /// place to be visited next.
    pub(in crate::worker) fn recheck_quiescent(&mut self, at: usize) -> usize {
        let Some(slot) = self.quiescent_without_peer_at(at) else { return at };
        let stays = self.get_mut(slot).is_some_and(|replica| {
            replica.listed.is_quiescent_without_peer &= replica.core.is_quiescent_without_peer();
            replica.listed.is_quiescent_without_peer
        });
        if stays {
            return at + 1;
        }
        self.quiescent_without_peer.swap_remove(at);
        at
    }
}
