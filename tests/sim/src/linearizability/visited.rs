//! The positions that a search has been in: compared as a whole and not by hash alone, since a false "seen before" would be a
//! false violation. All are in two vectors that are reused, so that a position allocates nothing of its own.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// A set of word strings, all of one length.
#[derive(Debug, Default)]
pub(super) struct Visited {
    /// How many words one has.
    words: usize,
    /// One after the other.
    members: Vec<u64>,
    /// Numbers of members, plus one, by hash; 0 is free. A power of two, at least half free.
    slots: Vec<u32>,
    len: u32,
}

impl Visited {
    const SLOTS_MIN: usize = 64;

    /// Forgets everything; from now on members have `words` words.
    pub(super) fn reset(&mut self, words: usize) {
        (self.words, self.len) = (words, 0);
        self.members.clear();
        // A table that one hard key made large would cost every easy one after it a long wipe.
        self.slots.truncate(Self::SLOTS_MIN);
        self.slots.fill(0);
        self.slots.resize(Self::SLOTS_MIN, 0);
    }

    /// Adds a member; `false` if it was there.
    pub(super) fn insert(&mut self, member: &[u64]) -> bool {
        debug_assert_eq!(member.len(), self.words);
        if (self.len as usize + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let mut slot = self.slot_of(member);
        loop {
            match self.slots[slot] {
                0 => break,
                number if self.member(number) == member => return false,
                _ => slot = (slot + 1) & (self.slots.len() - 1),
            }
        }
        self.members.extend_from_slice(member);
        self.len = self.len.checked_add(1).expect("a budget ends long before 2^32 positions");
        self.slots[slot] = self.len;
        true
    }

    fn member(&self, number: u32) -> &[u64] {
        let at = (number as usize - 1) * self.words;
        &self.members[at..at + self.words]
    }

    fn slot_of(&self, member: &[u64]) -> usize {
        let mut hasher = FxHasher::default();
        for word in member {
            hasher.write_u64(*word);
        }
        hasher.finish() as usize & (self.slots.len() - 1)
    }

    fn grow(&mut self) {
        let size = self.slots.len() * 2;
        self.slots.clear();
        self.slots.resize(size, 0);
        for number in 1..=self.len {
            let mut slot = self.slot_of(self.member(number));
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            self.slots[slot] = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_a_set_of_the_standard_library_says(
            members in prop::collection::vec([0..6u64, 0..6u64, 0..6u64], 0..300),
        ) {
            let (mut visited, mut set) = (Visited::default(), HashSet::new());
            visited.reset(3);
            for member in &members {
                prop_assert_eq!(visited.insert(member), set.insert(*member));
            }
            visited.reset(2);
            prop_assert!(visited.insert(&[0, 0]));
        }
    }
}
