//! An ordered in-memory map that is cheap to copy: holds the items of a [`KvMachine`](super::KvMachine).
//!
//! Three parts. The [slots] have the items, one cache line each, in no order; an item's number is where it lies.
//! The [table] leads from a key's hash to its number, so a write of a known key loads one line of the table and
//! the slot, and [`Tree::insert_all`] loads those of many keys at a time. The [order] has the numbers sorted by
//! key; only new keys, removals, ranges and keys that the table does not have touch it.
//!
//! Slots and order are shared in pieces of at most 4 KiB: [`Tree::clone`] copies two short lists (some tens of
//! microseconds for a million items), and a later write to either copy copies the pieces it touches, once. That
//! is how a checkpoint is taken between two applies and written concurrently with the following ones. A copy
//! begins without a table.
//!
//! Keys and values up to 22 bytes are stored in the slot; longer ones are shared. Overwriting a short value
//! by another short one, or a long one by one as long that is not shared, allocates nothing.
//!
//! Invariant: slots and order have the same items; the table has some of them. Each part's own invariants are
//! at the head of its file.
//!
//! What is not here: the meaning of versions, the encoding of an image ([`super::image`]), disk.

mod node;
mod order;
mod slots;
mod table;

use raftwerk_frame::Index;

use self::order::{Numbers, Order};
use self::slots::{Slot, Slots};
use self::table::{Table, Tag};
use super::inline_bytes::InlineBytes;

/// How many items [`Tree::insert_all`] looks up before it writes the first of them.
const OVERLAP: usize = 64;

/// The map. Cloning shares everything; see the head of this file.
#[derive(Debug, Default)]
pub struct Tree {
    slots: Slots,
    table: Table,
    order: Order,
}

// A node may have 100,000 groups, most of them empty.
const _: () = assert!(size_of::<Tree>() <= 64);

impl Clone for Tree {
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone(), table: Table::default(), order: self.order.clone() }
    }
}

/// One item, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeItem<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The index of the entry that wrote it.
    pub version: Index,
}

impl<'a> TreeItem<'a> {
    #[inline]
    fn of(slot: &'a Slot) -> Self {
        Self { key: slot.key.as_slice(), value: slot.value.as_slice(), version: slot.version }
    }
}

impl Tree {
    /// An empty map; takes no memory beyond itself.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no items.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item of a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<TreeItem<'_>> {
        let number = match self.known(Tag::of(key), key) {
            Some(number) => number,
            None => self.order.find(&self.slots, key).ok()?.1,
        };
        Some(TreeItem::of(self.slots.slot(number)))
    }

    /// Sets a key; returns whether it is new. Overwriting one short value by another allocates nothing,
    /// unless the slot's page is shared with a clone.
    #[inline]
    pub fn insert(&mut self, key: &[u8], value: &[u8], version: Index) -> bool {
        self.set(Tag::of(key), &TreeItem { key, value, version })
    }

    /// Sets the keys of these items, one after the other. Costs less than as many calls of [`Tree::insert`]:
    /// the loads of several items overlap.
    pub fn insert_all(&mut self, items: &[TreeItem<'_>]) {
        for items in items.chunks(OVERLAP) {
            let mut places = [(Tag::default(), None); OVERLAP];
            let places = &mut places[..items.len()];
            self.look_up(items, places);
            // No insertion changes the number of another item, so what was found stays true. What was not found
            // may be there now, by an item before.
            for (item, (tag, number)) in items.iter().zip(places) {
                match number {
                    Some(number) => self.overwrite(*number, item),
                    None => _ = self.set(*tag, item),
                }
            }
        }
    }

    /// Finds the numbers of the keys that the table has. In steps, each for all items, and each with the loads
    /// of the next: a processor overlaps the loads of a short loop, and not those of a long one.
    #[inline]
    fn look_up(&self, items: &[TreeItem<'_>], places: &mut [(Tag, Option<u32>)]) {
        let mut touched = 0;
        for (item, (tag, _)) in items.iter().zip(&mut *places) {
            *tag = Tag::of(item.key);
            touched ^= self.table.touch(*tag);
        }
        for (tag, number) in &mut *places {
            *number = self.table.numbers(*tag).next();
        }
        for number in places.iter().filter_map(|(_, number)| *number) {
            touched ^= self.slots.touch(number);
        }
        for (item, (_, number)) in items.iter().zip(places) {
            *number = number.filter(|number| self.has(*number, item.key));
            touched ^= number.map_or(0, |number| self.slots.slot(number).value.touch());
        }
        std::hint::black_box(touched);
    }

    /// Removes a key; returns whether it existed. Removing an absent key copies nothing that is shared.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Ok((place, number)) = self.order.find(&self.slots, key) else { return false };
        self.order.remove(&self.slots, place);
        self.table.remove(Tag::of(key), number);
        let last = (self.len() - 1) as u32;
        if number != last {
            // The last slot moves to where the removed one was.
            let key = self.slots.slot(last).key.as_slice();
            if let Ok((place, _)) = self.order.find(&self.slots, key) {
                self.order.renumber(place, number);
            }
            self.table.renumber(Tag::of(key), last, number);
        }
        self.slots.swap_remove(number);
        self.table.shrink(self.slots.len());
        true
    }

    /// All items in key order.
    #[must_use]
    pub fn iter(&self) -> Range<'_> {
        self.range(&[], None)
    }

    /// The items with keys from `from` on, and below `to` if there is one, in key order.
    #[must_use]
    pub fn range<'a>(&'a self, from: &[u8], to: Option<&'a [u8]>) -> Range<'a> {
        Range { slots: &self.slots, numbers: self.order.from(&self.slots, from), to }
    }

    #[inline]
    fn has(&self, number: u32, key: &[u8]) -> bool {
        self.slots.slot(number).key.as_slice() == key
    }

    /// The number of a key, if the table has it.
    #[inline]
    fn known(&self, tag: Tag, key: &[u8]) -> Option<u32> {
        self.table.numbers(tag).find(|number| self.has(*number, key))
    }

    #[inline]
    fn set(&mut self, tag: Tag, item: &TreeItem<'_>) -> bool {
        match self.known(tag, item.key) {
            Some(number) => {
                self.overwrite(number, item);
                false
            }
            None => self.set_unknown(tag, item),
        }
    }

    #[inline]
    fn overwrite(&mut self, number: u32, item: &TreeItem<'_>) {
        let slot = self.slots.slot_mut(number);
        slot.value.set(item.value);
        slot.version = item.version;
    }

    /// Sets a key that the table does not have.
    #[inline(never)]
    fn set_unknown(&mut self, tag: Tag, item: &TreeItem<'_>) -> bool {
        let found = self.order.find(&self.slots, item.key);
        let number = match found {
            Ok((_, number)) => {
                self.overwrite(number, item);
                number
            }
            Err(place) => {
                let (key, value) = (InlineBytes::new(item.key), InlineBytes::new(item.value));
                let number = self.slots.push(Slot { key, value, version: item.version });
                self.order.insert(&self.slots, place, number);
                number
            }
        };
        self.table.add(tag, number, self.slots.len());
        found.is_err()
    }
}

impl<'a> IntoIterator for &'a Tree {
    type Item = TreeItem<'a>;
    type IntoIter = Range<'a>;

    fn into_iter(self) -> Range<'a> {
        self.iter()
    }
}

/// Items in key order. Costs some ten nanoseconds per item where they are not in the caches.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    slots: &'a Slots,
    numbers: Numbers<'a>,
    to: Option<&'a [u8]>,
}

impl<'a> Iterator for Range<'a> {
    type Item = TreeItem<'a>;

    #[inline]
    fn next(&mut self) -> Option<TreeItem<'a>> {
        let slot = self.slots.slot(self.numbers.next()?);
        if self.to.is_some_and(|to| slot.key.as_slice() >= to) {
            self.numbers = Numbers::default();
            return None;
        }
        Some(TreeItem::of(slot))
    }
}

impl std::iter::FusedIterator for Range<'_> {}

#[cfg(test)]
mod tests;
