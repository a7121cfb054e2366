//! The order of a [`Tree`](super::Tree): its slots' numbers, sorted by key.
//!
//! Three levels: leaves of up to [`LEAF_ITEMS_MAX`] numbers, branches of up to [`BRANCH_LEAVES_MAX`] leaves, and
//! one list of branches. Leaves and branches are shared: a copy copies the list, and a later change of either
//! copy copies the one branch and the one leaf it touches, once. Each level has the first bytes of its keys at
//! hand, so a search looks at a slot only where those are equal.
//!
//! Invariants:
//! 1. Keys rise within a leaf, and from leaf to leaf. No leaf and no branch is empty; an empty order has no root.
//! 2. Every child has a bound, and bounds rise within a list. Each but the first is at or below the lowest
//!    key of its child, and above the highest of the child before it. The first child holds all keys below
//!    the second's bound.
//! 3. Every number of a slot in use is in one leaf, once.

use super::node::{BRANCH_LEAVES_MAX, Branch, Child, LEAF_ITEMS_MAX, Leaf, SplitAt};
use super::slots::Slots;
use crate::key_array::{Inside, KeyArray};

/// The order. An empty one takes no memory beyond itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// In a box, since most groups' maps may be empty and this is 320 bytes.
    root: Option<Box<KeyArray<Child<Branch>>>>,
}

/// Where a key is, or would be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    branch: usize,
    leaf: usize,
    at: usize,
}

impl Order {
    /// `Ok` with the place of the key and its slot's number, `Err` with the place where it would be inserted;
    /// `Err(None)` in an empty order.
    pub(super) fn find(&self, slots: &Slots, key: &[u8]) -> Result<(Place, u32), Option<Place>> {
        let Some(root) = &self.root else { return Err(None) };
        let b = root.floor(&Inside, key);
        let branch = root.items()[b].node();
        let l = branch.floor(&Inside, key);
        let leaf = branch.items()[l].node();
        let place = |at| Place { branch: b, leaf: l, at };
        match leaf.search(slots, key) {
            Ok(at) => Ok((place(at), leaf.items()[at])),
            Err(at) => Err(Some(place(at))),
        }
    }

    /// Inserts a new slot at the place that [`Order::find`] returned for its key.
    pub(super) fn insert(&mut self, slots: &Slots, at: Option<Place>, number: u32) {
        let key = slots.slot(number).key.as_slice();
        let (Some(place), Some(root)) = (at, &mut self.root) else {
            let leaf = Child::new(key, Leaf::new(slots, vec![number]));
            let branch = Child::new(key, Branch::new(&Inside, vec![leaf]));
            self.root = Some(Box::new(KeyArray::new(&Inside, vec![branch])));
            return;
        };
        let branch = root.item_mut(place.branch).node_mut();
        let leaf = branch.item_mut(place.leaf).node_mut();
        if leaf.len() < LEAF_ITEMS_MAX {
            leaf.insert(slots, place.at, number);
            return;
        }
        // The leaf is split before the insertion, so that a leaf never takes memory for more than its maximum.
        self.split(slots, place);
        let (Ok((place, _)) | Err(Some(place))) = self.find(slots, key) else { return };
        self.insert(slots, Some(place), number);
    }

    /// Removes the number at a place.
    pub(super) fn remove(&mut self, slots: &Slots, place: Place) {
        let Some(root) = &mut self.root else { return };
        let branch = root.item_mut(place.branch).node_mut();
        branch.item_mut(place.leaf).node_mut().remove(place.at);
        branch.mend_leaf(slots, place.leaf);
        root.mend_branch(place.branch);
        if root.len() == 0 {
            self.root = None;
        }
    }

    /// The slot at a place has got another number.
    pub(super) fn renumber(&mut self, place: Place, number: u32) {
        let Some(root) = &mut self.root else { return };
        let leaf = root.item_mut(place.branch).node_mut().item_mut(place.leaf).node_mut();
        *leaf.item_mut(place.at) = number;
    }

    /// The numbers of the keys from `from` on.
    pub(super) fn from(&self, slots: &Slots, from: &[u8]) -> Numbers<'_> {
        let Some(root) = &self.root else { return Numbers::default() };
        let b = root.floor(&Inside, from);
        let branch = root.items()[b].node();
        let l = branch.floor(&Inside, from);
        let leaf = branch.items()[l].node();
        let (Ok(at) | Err(at)) = leaf.search(slots, from);
        Numbers {
            branches: &root.items()[b + 1..],
            leaves: &branch.items()[l + 1..],
            numbers: &leaf.items()[at..],
        }
    }

    /// Splits a full leaf and, if necessary, its branch.
    #[cold]
    fn split(&mut self, slots: &Slots, place: Place) {
        let Some(root) = &mut self.root else { return };
        let is_last = place.branch + 1 == root.len();
        let at = |is_last| if is_last { SplitAt::LastItem } else { SplitAt::Middle };
        let branch = root.item_mut(place.branch).node_mut();
        branch.split_leaf(slots, place.leaf, at(is_last && place.leaf + 1 == branch.len()));
        if branch.len() > BRANCH_LEAVES_MAX {
            root.split_branch(place.branch, at(is_last));
        }
    }
}

/// Numbers of slots in the order of their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers<'a> {
    branches: &'a [Child<Branch>],
    leaves: &'a [Child<Leaf>],
    numbers: &'a [u32],
}

impl Iterator for Numbers<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        loop {
            if let Some((number, numbers)) = self.numbers.split_first() {
                self.numbers = numbers;
                return Some(*number);
            }
            if let Some((leaf, leaves)) = self.leaves.split_first() {
                (self.leaves, self.numbers) = (leaves, leaf.node().items());
                continue;
            }
            let (branch, branches) = self.branches.split_first()?;
            (self.branches, self.leaves) = (branches, branch.node().items());
        }
    }
}

#[cfg(test)]
impl Order {
    pub(super) fn branches(&self) -> &[Child<Branch>] {
        self.root.as_ref().map_or(&[], |root| root.items())
    }

    /// Asserts the numbered invariants of the file's head.
    pub(super) fn assert_rules(&self, slots: &Slots) {
        use crate::key_array::Keyed;

        let mut leaves = Vec::new();
        for branch in self.branches() {
            assert!((1..=BRANCH_LEAVES_MAX).contains(&branch.node().len()));
            for (l, leaf) in branch.node().items().iter().enumerate() {
                leaves.push((if l > 0 { leaf.key() } else { branch.key() }, leaf.node()));
            }
            assert!(branch.node().items().is_sorted_by(|a, b| a.key() < b.key()));
        }
        assert!(self.branches().is_sorted_by(|a, b| a.key() < b.key()));
        assert_eq!(self.root.is_none(), self.branches().is_empty());
        let mut before: Option<&[u8]> = None;
        let mut seen = vec![false; slots.len()];
        for (nth, (bound, leaf)) in leaves.iter().enumerate() {
            assert!((1..=LEAF_ITEMS_MAX).contains(&leaf.len()));
            assert!(nth == 0 || before < Some(*bound), "bound {nth} is above what is before it");
            let lowest = slots.slot(leaf.items()[0]).key.as_slice();
            assert!(nth == 0 || *bound <= lowest, "bound {nth} is not above its leaf");
            for number in leaf.items() {
                let key = slots.slot(*number).key.as_slice();
                assert!(before < Some(key));
                before = Some(key);
                assert!(
                    !std::mem::replace(&mut seen[*number as usize], true),
                    "slot {number} is there twice"
                );
            }
        }
        assert!(seen.iter().all(|seen| *seen), "a slot is in no leaf");
    }
}
