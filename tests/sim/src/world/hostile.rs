//! Messages that a peer should never have sent: a term that is far beyond everybody's, as a flipped bit or an ill-willed node makes it.
//!
//! A group must outlive one: a replica that took such a term over could never campaign in a later one, and neither could those that it
//! reached. What is not here: bytes that are no message any more (`wire`, of real transports).

use bytes::Bytes;
use raftwerk_frame::wire::{RECORD_BYTES, UNIT_HEADER_BYTES, UnitKind};

use super::World;
use crate::fault::Strike;

/// Where a record has its term (`engine/frame/src/wire.rs`).
const TERM_AT: usize = 16;
/// Bits of a term that no group reaches by itself in a life.
const HIGH_BITS: u64 = 34;

/// A message that is to be changed on its way.
#[derive(Clone, Copy)]
pub(super) struct Forged {
    from: usize,
    to: usize,
    salt: u64,
}

impl World<'_> {
    /// The next message between two nodes will have a term from far away.
    pub(super) fn forge(&mut self, strike: &Strike) {
        self.asides.forged = Some(Forged { from: strike.node, to: strike.other, salt: strike.salt });
    }

    /// A unit is on its way.
    pub(super) fn forged(&mut self, from: usize, to: usize, unit: Bytes) -> Bytes {
        let Some(Forged { salt, .. }) =
            self.asides.forged.filter(|forged| (forged.from, forged.to) == (from, to))
        else {
            return unit;
        };
        let count = unit.get(12..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
        if unit.get(4) != Some(&(UnitKind::Groups as u8)) || count == 0 || self.is_ending {
            return unit;
        }
        let at = UNIT_HEADER_BYTES + RECORD_BYTES * (salt % u64::from(count)) as usize + TERM_AT;
        let mut bytes = unit.to_vec();
        let Some(place) = bytes.get_mut(at..at + 8) else { return unit };
        let term = place.try_into().map_or(0, u64::from_le_bytes);
        let far = match salt >> 32 & 3 {
            0 => u64::MAX >> 1,
            1 => u64::MAX,
            _ => term ^ 1 << (HIGH_BITS + (salt >> 40) % (64 - HIGH_BITS)),
        };
        place.copy_from_slice(&far.to_le_bytes());
        self.asides.forged = None;
        self.say(|| format!("n{}>n{}  a term of {term} becomes {far}", from + 1, to + 1));
        bytes.into()
    }
}
