//! A sorted list of items with distinct keys, laid out for searching.
//!
//! The common prefix of all keys is stored once, and the four bytes of each key after it are stored
//! separately as numbers, contiguously: a search compares those, many at a time, and compares whole keys only
//! where they are equal. So it touches few cache lines, whatever the common prefix. Every level of the
//! [`tree`](super::tree) and the [`ShardMap`](super::ShardMap) are such lists. Keys need not be in the items:
//! the items of a leaf are numbers of slots.

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::inline_bytes::InlineBytes;

/// Up to this many heads are stored in the list itself.
const INLINE_HEADS: usize = 64;
/// Up to this many heads are searched linearly; more are searched by bisection.
const LINEAR_HEADS_MAX: usize = 128;

/// An item with a key in it.
pub(crate) trait Keyed {
    /// The sort key; must not change while the item is in a list.
    fn key(&self) -> &[u8];
}

/// Where the keys of a list's items are.
pub(crate) trait Keys<T> {
    /// The sort key of an item; must not change while the item is in a list.
    fn key<'a>(&'a self, item: &'a T) -> &'a [u8];
}

/// In the items.
pub(crate) struct Inside;

impl<T: Keyed> Keys<T> for Inside {
    #[inline]
    fn key<'a>(&'a self, item: &'a T) -> &'a [u8] {
        item.key()
    }
}

/// The list.
#[derive(Debug)]
pub(crate) struct KeyArray<T> {
    /// A common prefix of all keys; not always the longest.
    prefix: InlineBytes,
    /// [`head_of`] each key.
    heads: SmallVec<[i32; INLINE_HEADS]>,
    items: Vec<T>,
}

/// The first four bytes after the prefix, short keys padded with zeros, as a number with the same order. It
/// is signed because the vector units of every x86-64 machine compare signed numbers.
#[inline]
fn head_of(rest: &[u8]) -> i32 {
    let head = match rest.first_chunk::<4>() {
        Some(head) => u32::from_be_bytes(*head),
        None => rest.iter().zip([24, 16, 8]).fold(0, |head, (&byte, shift)| head | u32::from(byte) << shift),
    };
    (head ^ (1 << 31)) as i32
}

fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<T> KeyArray<T> {
    /// A list of items that are in order.
    pub(crate) fn new(keys: &impl Keys<T>, items: Vec<T>) -> Self {
        let mut sorted = Self { items, ..Self::default() };
        sorted.index(keys);
        sorted
    }

    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.items.len()
    }

    #[inline]
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    /// The item there, for changes that keep its key.
    #[inline]
    pub(crate) fn item_mut(&mut self, at: usize) -> &mut T {
        &mut self.items[at]
    }

    /// `Ok` with the position of the key, `Err` with the position where it would be inserted.
    #[inline]
    pub(crate) fn search(&self, keys: &impl Keys<T>, key: &[u8]) -> Result<usize, usize> {
        let Some(rest) = key.strip_prefix(self.prefix.as_slice()) else {
            return Err(if key < self.prefix.as_slice() { 0 } else { self.len() });
        };
        let head = head_of(rest);
        let at = if self.heads.len() <= LINEAR_HEADS_MAX {
            self.heads.iter().map(|&other| i32::from(other < head)).sum::<i32>() as usize
        } else {
            self.heads.partition_point(|&other| other < head)
        };
        if self.heads.get(at) != Some(&head) {
            return Err(at);
        }
        match keys.key(&self.items[at]).cmp(key) {
            Ordering::Equal => Ok(at),
            Ordering::Greater => Err(at),
            Ordering::Less => self.search_ties(keys, at + 1, head, key),
        }
    }

    fn search_ties(&self, keys: &impl Keys<T>, from: usize, head: i32, key: &[u8]) -> Result<usize, usize> {
        let ties = self.heads[from..].partition_point(|&other| other == head);
        match self.items[from..from + ties].binary_search_by(|item| keys.key(item).cmp(key)) {
            Ok(at) => Ok(from + at),
            Err(at) => Err(from + at),
        }
    }

    /// The position of the last item at or below `key`; 0 if there is none.
    #[inline]
    pub(crate) fn floor(&self, keys: &impl Keys<T>, key: &[u8]) -> usize {
        match self.search(keys, key) {
            Ok(at) => at,
            Err(at) => at.saturating_sub(1),
        }
    }

    /// Inserts at the position that [`KeyArray::search`] returned.
    pub(crate) fn insert(&mut self, keys: &impl Keys<T>, at: usize, item: T) {
        let key = keys.key(&item);
        let common = common_bytes(self.prefix.as_slice(), key);
        if common == self.prefix.as_slice().len() {
            self.heads.insert(at, head_of(&key[common..]));
            self.items.insert(at, item);
        } else {
            self.items.insert(at, item);
            self.index(keys);
        }
    }

    /// Removes the item there.
    pub(crate) fn remove(&mut self, at: usize) -> T {
        self.heads.remove(at);
        self.items.remove(at)
    }

    /// Replaces the item there by another one that keeps the order.
    pub(crate) fn replace(&mut self, keys: &impl Keys<T>, at: usize, item: T) {
        self.items[at] = item;
        self.index(keys);
    }

    /// Keeps the first `at` items and returns the others.
    pub(crate) fn split_off(&mut self, keys: &impl Keys<T>, at: usize) -> Self {
        let above = Self::new(keys, self.items.split_off(at));
        self.index(keys);
        above
    }

    /// Appends items that are all above those here.
    pub(crate) fn append(&mut self, keys: &impl Keys<T>, mut above: Self) {
        self.items.append(&mut above.items);
        self.index(keys);
    }

    /// Recomputes prefix and heads.
    fn index(&mut self, keys: &impl Keys<T>) {
        self.heads.clear();
        let (Some(first), Some(last)) = (self.items.first(), self.items.last()) else {
            self.prefix = InlineBytes::new(&[]);
            return;
        };
        // All keys between the first and the last share their common prefix.
        let first = keys.key(first);
        let common = common_bytes(first, keys.key(last));
        self.prefix = InlineBytes::new(&first[..common]);
        self.heads.extend(self.items.iter().map(|item| head_of(&keys.key(item)[common..])));
    }
}

impl<T> Default for KeyArray<T> {
    fn default() -> Self {
        Self { prefix: InlineBytes::new(&[]), heads: SmallVec::new(), items: Vec::new() }
    }
}

impl<T: Clone> Clone for KeyArray<T> {
    fn clone(&self) -> Self {
        let heads = SmallVec::from_slice(&self.heads);
        Self { prefix: self.prefix.clone(), heads, items: self.items.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Keyed for Vec<u8> {
        fn key(&self) -> &[u8] {
            self
        }
    }

    fn assert_finds(sorted: &KeyArray<Vec<u8>>, wanted: &[u8]) {
        let found = sorted.items.binary_search_by(|key| key[..].cmp(wanted));
        assert_eq!(sorted.search(&Inside, wanted), found);
        assert_eq!(sorted.floor(&Inside, wanted), found.unwrap_or_else(|at| at.saturating_sub(1)));
    }

    proptest! {
        #[test]
        fn a_search_finds_what_a_plain_binary_search_finds_through_every_change(
            prefix in prop::collection::vec(0..2u8, 0..30),
            tails in prop::collection::vec(prop::collection::vec(prop_oneof![0..3u8, 126..130u8], 0..7), 1..200),
            outsiders in prop::collection::vec(prop::collection::vec(0..2u8, 0..4), 0..3),
            at in any::<prop::sample::Index>(),
        ) {
            let keys: Vec<Vec<u8>> =
                tails.iter().map(|tail| [&prefix[..], tail].concat()).chain(outsiders.clone()).collect();
            let mut sorted = KeyArray::default();
            for key in &keys {
                if let Err(at) = sorted.search(&Inside, key) {
                    sorted.insert(&Inside, at, key.clone());
                }
                assert_finds(&sorted, key);
            }
            prop_assert!(sorted.items.is_sorted());
            let at = at.index(sorted.len());
            let mut above = sorted.split_off(&Inside, at);
            for key in &keys {
                assert_finds(&sorted, key);
                assert_finds(&above, key);
            }
            above.remove(0);
            sorted.append(&Inside, above.clone());
            for key in &keys {
                assert_finds(&sorted, key);
                assert_finds(&above, key);
            }
        }
    }

    #[test]
    fn keys_that_differ_only_in_trailing_zeros_are_told_apart() {
        let keys: Vec<Vec<u8>> = (0..12).map(|zeros| vec![0; zeros]).collect();
        let sorted = KeyArray::new(&Inside, keys.clone());
        for (zeros, key) in keys.iter().enumerate() {
            assert_eq!(sorted.search(&Inside, key), Ok(zeros));
        }
    }
}
