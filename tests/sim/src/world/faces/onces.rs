//! A client that is known to its groups, with several open numbers: each of its writes is sent to one node after another, or to
//! two at once, and has one effect and one answer, in whatever order they end.

use raftwerk::exactly_once::{self, CLIENTS_MAX, OnceError};
use raftwerk::kv::codec::Swap;
use raftwerk::kv::{Once, StoreError};
use raftwerk::{GroupId, Index};

use super::calls::{Asked, Ended, Told, ended};
use super::{MARK, User, World, group_id, width_before};
use crate::chance::Chance;
use crate::disk::held;
use crate::ledger::hash_of;
use crate::watch::{Checked, Violation};

/// Writes that one client has open at most.
const SLOTS: usize = 5;
/// Attempts at one write that are under way at most.
const ATTEMPTS_MAX: usize = 3;

/// A key of the client's own, and its latest write.
#[derive(Default)]
pub(super) struct Slot {
    group: usize,
    key: Vec<u8>,
    /// What the key holds, and under which name the next value goes.
    count: u64,
    open: Option<Open>,
    /// Which write it is: answers of earlier ones may still come.
    serial: u64,
    pub(super) attempts: usize,
}

enum Open {
    Put(Once<Index>, Option<Index>),
    Swap(Once<Swap>),
}

/// An attempt at a slot's write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) slot: usize,
    serial: u64,
}

/// The slots of a user, in one group or another.
pub(super) fn slots(user: usize, groups: usize, chance: &mut Chance) -> Vec<Slot> {
    let mut slot = |at: usize| {
        let group = chance.below(groups as u64) as usize;
        let key = vec![MARK, width_before(group, groups), b'o', user as u8, at as u8];
        Slot { group, key, ..Slot::default() }
    };
    (0..SLOTS).map(&mut slot).collect()
}

impl World<'_> {
    /// An open write is sent once more, or a new one for the first time.
    pub(super) fn use_once(&mut self, user: &mut User, group: usize, node: usize) -> Checked {
        let at_first = self.faces.chance.below(SLOTS as u64) as usize;
        let mut slots = (0..SLOTS).map(|at| (at_first + at) % SLOTS);
        let Some(slot) = slots.find(|at| user.slots[*at].group == group) else { return Ok(()) };
        let Some(store) = user.doors[node].as_ref().and_then(|door| door.store.clone()) else {
            return Ok(());
        };
        if !user.client.is_registered(&store, &user.slots[slot].key) {
            let id = group_id(group);
            if !user.registering.contains(&id) {
                user.registering.push(id);
                // One that is not answered takes a place, too; and all look the same.
                held(&self.ledger).may_repeat(id, hash_of(&exactly_once::register()));
                self.registered += 1;
                let registering = user.client.register(&store, &user.slots[slot].key);
                self.call_face(user, node, Asked::Register(id), async { Told::Known(registering.await) });
            }
            return Ok(());
        }
        if user.slots[slot].open.is_none() && !self.begin_once(user, slot, node)? {
            return Ok(());
        }
        self.send_once(user, slot, node);
        if self.faces.chance.below(3) == 0 {
            let elsewhere = self.faces.chance.below(self.plan.nodes as u64) as usize;
            self.send_once(user, slot, elsewhere);
            self.answer_bells(elsewhere);
        }
        Ok(())
    }

    /// Whether a slot has a new write.
    fn begin_once(&mut self, user: &mut User, at: usize, node: usize) -> Result<bool, Violation> {
        let Some(store) = user.doors[node].as_ref().and_then(|door| door.store.as_ref()) else {
            return Ok(false);
        };
        let slot = &mut user.slots[at];
        let (before, after) = (slot.count.to_le_bytes(), (slot.count + 1).to_le_bytes());
        let open = if at.is_multiple_of(2) {
            let expected = (slot.count > 0).then_some(&before[..]);
            user.client.compare_and_set(store, &slot.key, expected, Some(&after)).map(Open::Swap)
        } else {
            user.client.put(store, &slot.key, &after).map(|once| Open::Put(once, None))
        };
        match open {
            Ok(open) => {
                (slot.open, slot.serial) = (Some(open), slot.serial + 1);
                Ok(true)
            }
            // One that is open keeps the numbers since: it has to end first.
            Err(StoreError::TooManyOpen(_)) => Ok(false),
            Err(error) => Err(Violation::new("a client is remembered", format!("slot {at}: {error}"))),
        }
    }

    fn send_once(&mut self, user: &mut User, at: usize, node: usize) {
        let Some(store) = user.doors[node].as_ref().and_then(|door| door.store.clone()) else { return };
        let slot = &mut user.slots[at];
        if slot.attempts == ATTEMPTS_MAX {
            return;
        }
        slot.attempts += 1;
        let turn = Asked::Once(Turn { slot: at, serial: slot.serial });
        match &slot.open {
            Some(Open::Put(once, _)) => {
                let attempt = once.send(&store);
                self.call_face(user, node, turn, async { Told::Version(attempt.await) });
            }
            Some(Open::Swap(once)) => {
                let attempt = once.send(&store);
                self.call_face(user, node, turn, async { Told::Swapped(attempt.await) });
            }
            None => slot.attempts -= 1,
        }
    }

    pub(super) fn take_registered(
        &mut self,
        user: &mut User,
        group: GroupId,
        told: Result<(), StoreError>,
    ) -> Checked {
        user.registering.retain(|other| *other != group);
        match told {
            Ok(()) => {
                self.answered += 1;
                Ok(())
            }
            Err(error) => self.take_error(user, group.0 as usize - 1, None, &error),
        }
    }

    pub(super) fn take_once(&mut self, user: &mut User, turn: Turn, told: Told) -> Checked {
        let slot = &mut user.slots[turn.slot];
        slot.attempts -= 1;
        let group = slot.group;
        let is_over = slot.open.is_none() || slot.serial != turn.serial;
        let wrong = |rule, what: String| Err(Violation::new(rule, format!("{turn:?}: {what}")));
        let error = match told {
            Told::Swapped(Ok(Swap::Applied)) => None,
            Told::Swapped(Ok(refused)) => {
                return wrong("repeated, and applied once", format!("from {} on: {refused:?}", slot.count));
            }
            Told::Version(Ok(version)) => {
                if let Some(Open::Put(_, before)) = &mut slot.open
                    && !is_over
                    && *before.get_or_insert(version) != version
                {
                    return wrong("repeated, and applied once", format!("at {before:?}, then at {version}"));
                }
                None
            }
            Told::Swapped(Err(error)) | Told::Version(Err(error)) => Some(error),
            _ => unreachable!("such a write has other answers"),
        };
        match error {
            None => {
                self.answered += 1;
                // Sometimes it is sent once more, although there is an answer.
                if !is_over && self.faces.chance.below(3) > 0 {
                    (slot.open, slot.count) = (None, slot.count + 1);
                }
                Ok(())
            }
            Some(StoreError::Once(OnceError::Acknowledged)) if is_over => Ok(()),
            Some(StoreError::Once(OnceError::Expired)) if self.registered >= CLIENTS_MAX as u64 => {
                user.slots.iter_mut().for_each(Slot::forget);
                user.client = raftwerk::kv::Client::new();
                Ok(())
            }
            Some(StoreError::Once(error)) => wrong("a client is remembered", error.to_string()),
            Some(error) => match ended(&error) {
                Ended::Unknown => {
                    self.unknown += 1;
                    Ok(())
                }
                _ => self.take_error(user, group, None, &error),
            },
        }
    }
}

impl Slot {
    /// The group has forgotten its client: what its key holds is not known any more, so it takes another.
    fn forget(&mut self) {
        self.key.push(b'+');
        (self.open, self.count, self.serial) = (None, 0, self.serial + 1);
    }
}
