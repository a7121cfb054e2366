//! The operations under way: a fixed number of slots, named by tokens that are never mistaken for each other.

use crate::ledger::Write;

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No operation.
    Free,
    /// Waiting for another attempt.
    Waiting,
    /// At a node.
    Sent,
}

/// What an operation is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Write,
    Read,
    /// The read of a read-modify-write.
    ReadFirst,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) write: Write,
    /// When it began, or should have begun.
    pub(super) started: u64,
    /// For reads: what the answer must at least reflect.
    pub(super) floor: u64,
    /// Counts attempts, so that an answer to an earlier one is known as such.
    attempt: u32,
    /// How often it was refused so far.
    pub(super) refusals: u32,
    pub(super) node: u8,
    pub(super) stage: Stage,
    pub(super) step: Step,
}

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn new(count: u32) -> Self {
        let slot = Slot {
            write: Write::default(),
            started: 0,
            floor: 0,
            attempt: 0,
            refusals: 0,
            node: 0,
            stage: Stage::Free,
            step: Step::Write,
        };
        Self { slots: vec![slot; count as usize], free: (0..count).rev().collect() }
    }

    /// Takes a free slot for an operation, which is `Waiting`.
    #[inline]
    pub(super) fn take(&mut self, step: Step, write: Write, started: u64, floor: u64) -> Option<u32> {
        let at = self.free.pop()?;
        let slot = &mut self.slots[at as usize];
        *slot = Slot { write, started, floor, step, stage: Stage::Waiting, refusals: 0, ..*slot };
        Some(at)
    }

    #[inline]
    pub(super) fn release(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        assert!(slot.stage != Stage::Free, "an operation ends once");
        slot.stage = Stage::Free;
        self.free.push(at);
    }

    #[inline]
    pub(super) fn slot(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at as usize]
    }

    /// The token under which the slot's next attempt travels.
    #[inline]
    pub(super) fn new_token(&mut self, at: u32) -> u64 {
        let slot = &mut self.slots[at as usize];
        slot.attempt = slot.attempt.wrapping_add(1);
        u64::from(slot.attempt) << 32 | u64::from(at)
    }

    /// The slot with a present attempt of this `token`.
    #[inline]
    pub(super) fn sent_as(&self, token: u64) -> Option<u32> {
        let at = token as u32;
        let slot = self.slots.get(at as usize)?;
        (slot.stage == Stage::Sent && slot.attempt == (token >> 32) as u32).then_some(at)
    }

    pub(super) const fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) const fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slots for which `matches` holds. Cost: a pass over all.
    pub(super) fn matching(&self, matches: impl Fn(&Slot) -> bool) -> Vec<u32> {
        let numbered = self.slots.iter().enumerate();
        numbered.filter(|(_, slot)| matches(slot)).map(|(at, _)| at as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_an_earlier_attempt_finds_nothing() {
        let mut slots = Slots::new(1);
        let at = slots.take(Step::Write, Write::default(), 0, 0).unwrap();
        assert_eq!(slots.take(Step::Write, Write::default(), 0, 0), None);
        let first = slots.new_token(at);
        slots.slot(at).stage = Stage::Sent;
        assert_eq!(slots.sent_as(first), Some(at));
        let second = slots.new_token(at);
        assert_eq!((slots.sent_as(first), slots.sent_as(second)), (None, Some(at)));
        slots.release(at);
        assert_eq!((slots.sent_as(second), slots.taken()), (None, 0));
        assert_eq!(slots.sent_as(99), None);
    }
}
