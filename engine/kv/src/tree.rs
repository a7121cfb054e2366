//! An ordered in-memory map that is cheap to copy: holds the items of a [`KvMachine`](super::KvMachine).
//!
//! Three levels: leaves of up to [`LEAF_ITEMS_MAX`] items, branches of up to [`BRANCH_LEAVES_MAX`] leaves,
//! and one list of branches. Leaves and branches are shared: [`Tree::clone`] copies the list (some ten
//! microseconds for a million items), and a later write to either copy copies the one branch and the one leaf
//! it touches, once. That is how a checkpoint is taken between two applies and written concurrently with the
//! following ones.
//!
//! Keys and values up to 22 bytes are stored in the leaf; longer ones are shared. Overwriting a short value
//! by another short one allocates nothing.
//!
//! Invariants:
//! 1. Keys rise within a leaf, and from leaf to leaf. No leaf and no branch is empty; the empty map has no branches.
//! 2. Every child has a bound, and bounds rise within a list. Each but the first is at or below the lowest
//!    key of its child, and above the highest of the child before it. The first child holds all keys below
//!    the second's bound.
//! 3. `len` is the number of items.
//!
//! What is not here: the meaning of versions, the encoding of an image ([`super::image`]), disk.

use raftwerk_frame::Index;

use super::key_array::{KeyArray, Keyed};
use super::node::{BRANCH_LEAVES_MAX, Branch, Child, LEAF_ITEMS_MAX, Leaf, Slot, SplitAt};

/// The map. Cloning shares everything; see the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    branches: KeyArray<Child<Branch>>,
    len: usize,
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
        Self { key: slot.key(), value: slot.value.as_slice(), version: slot.version }
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
        self.len
    }

    /// Whether there are no items.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item of a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<TreeItem<'_>> {
        let branch = self.branches.items().get(self.branches.floor(key))?.node();
        let leaf = branch.items()[branch.floor(key)].node();
        leaf.search(key).ok().map(|at| TreeItem::of(&leaf.items()[at]))
    }

    /// Sets a key; returns whether it is new. Overwriting one short value by another allocates nothing,
    /// unless the leaf is shared with a clone.
    #[inline]
    pub fn insert(&mut self, key: &[u8], value: &[u8], version: Index) -> bool {
        if self.is_empty() {
            self.plant(key, value, version);
            return true;
        }
        let b = self.branches.floor(key);
        let branch = self.branches.item_mut(b).node_mut();
        let l = branch.floor(key);
        let leaf = branch.item_mut(l).node_mut();
        match leaf.search(key) {
            Ok(at) => {
                let slot = leaf.item_mut(at);
                slot.value.set(value);
                slot.version = version;
                return false;
            }
            Err(at) if leaf.len() < LEAF_ITEMS_MAX => leaf.insert(at, Slot::new(key, value, version)),
            Err(_) => {
                // The leaf is split before the insertion, so that a leaf never takes memory for more than its
                // maximum.
                self.split(b, l);
                return self.insert(key, value, version);
            }
        }
        self.len += 1;
        true
    }

    /// Removes a key; returns whether it existed. Removing an absent key copies no shared leaf.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let b = self.branches.floor(key);
        let branch = self.branches.items()[b].node();
        let l = branch.floor(key);
        let Ok(at) = branch.items()[l].node().search(key) else { return false };
        let branch = self.branches.item_mut(b).node_mut();
        branch.item_mut(l).node_mut().remove(at);
        branch.mend_leaf(l);
        self.branches.mend_branch(b);
        self.len -= 1;
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
        let b = self.branches.floor(from);
        let Some(branch) = self.branches.items().get(b) else {
            return Range { branches: &[], leaves: &[], slots: &[], to };
        };
        let branch = branch.node();
        let l = branch.floor(from);
        let leaf = branch.items()[l].node();
        let (Ok(at) | Err(at)) = leaf.search(from);
        Range {
            branches: &self.branches.items()[b + 1..],
            leaves: &branch.items()[l + 1..],
            slots: &leaf.items()[at..],
            to,
        }
    }

    #[cold]
    fn plant(&mut self, key: &[u8], value: &[u8], version: Index) {
        let leaf = Leaf::new(vec![Slot::new(key, value, version)]);
        self.branches = KeyArray::new(vec![Child::new(key, Branch::new(vec![Child::new(key, leaf)]))]);
        self.len = 1;
    }

    /// Splits a full leaf and, if necessary, its branch.
    #[cold]
    fn split(&mut self, b: usize, l: usize) {
        let is_last = b + 1 == self.branches.len();
        let at = |is_last| if is_last { SplitAt::LastItem } else { SplitAt::Middle };
        let branch = self.branches.item_mut(b).node_mut();
        branch.split_leaf(l, at(is_last && l + 1 == branch.len()));
        if branch.len() > BRANCH_LEAVES_MAX {
            self.branches.split_branch(b, at(is_last));
        }
    }
}

impl<'a> IntoIterator for &'a Tree {
    type Item = TreeItem<'a>;
    type IntoIter = Range<'a>;

    fn into_iter(self) -> Range<'a> {
        self.iter()
    }
}

/// Items in key order. Costs a few nanoseconds per item.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    branches: &'a [Child<Branch>],
    leaves: &'a [Child<Leaf>],
    slots: &'a [Slot],
    to: Option<&'a [u8]>,
}

impl<'a> Iterator for Range<'a> {
    type Item = TreeItem<'a>;

    #[inline]
    fn next(&mut self) -> Option<TreeItem<'a>> {
        loop {
            if let Some((slot, slots)) = self.slots.split_first() {
                if self.to.is_some_and(|to| slot.key() >= to) {
                    *self = Self { branches: &[], leaves: &[], slots: &[], to: None };
                    return None;
                }
                self.slots = slots;
                return Some(TreeItem::of(slot));
            }
            if let Some((leaf, leaves)) = self.leaves.split_first() {
                (self.leaves, self.slots) = (leaves, leaf.node().items());
                continue;
            }
            let (branch, branches) = self.branches.split_first()?;
            (self.branches, self.leaves) = (branches, branch.node().items());
        }
    }
}

impl std::iter::FusedIterator for Range<'_> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Held = (Vec<u8>, u64);
    type Model = BTreeMap<Vec<u8>, Held>;

    impl Tree {
        /// Asserts the numbered invariants of the file's head.
        fn assert_rules(&self) {
            let mut leaves = Vec::new();
            for branch in self.branches.items() {
                assert!((1..=BRANCH_LEAVES_MAX).contains(&branch.node().len()));
                for (l, leaf) in branch.node().items().iter().enumerate() {
                    leaves.push((if l > 0 { leaf.key() } else { branch.key() }, leaf.node()));
                }
                assert!(branch.node().items().is_sorted_by(|a, b| a.key() < b.key()));
            }
            assert!(self.branches.items().is_sorted_by(|a, b| a.key() < b.key()));
            let mut before: Option<&[u8]> = None;
            for (nth, (bound, leaf)) in leaves.iter().enumerate() {
                assert!((1..=LEAF_ITEMS_MAX).contains(&leaf.len()));
                assert!(nth == 0 || before < Some(*bound), "bound {nth} is above what is before it");
                assert!(nth == 0 || *bound <= leaf.items()[0].key(), "bound {nth} is not above its leaf");
                for slot in leaf.items() {
                    assert!(before < Some(slot.key()));
                    before = Some(slot.key());
                }
            }
            assert_eq!(self.len, leaves.iter().map(|(_, leaf)| leaf.len()).sum::<usize>());
        }
    }

    fn items(tree: &Tree) -> Vec<(Vec<u8>, Held)> {
        tree.iter().map(|item| (item.key.to_vec(), (item.value.to_vec(), item.version.0))).collect()
    }

    fn assert_equal(tree: &Tree, model: &Model) {
        tree.assert_rules();
        assert_eq!(items(tree), model.clone().into_iter().collect::<Vec<_>>());
        assert_eq!((tree.len(), tree.is_empty()), (model.len(), model.is_empty()));
    }

    /// Keys from a small set, so that they repeat, with lengths about 8 and 22 where representations change.
    fn key(n: u16) -> Vec<u8> {
        let mut key = format!("{:05}", n / 8).into_bytes();
        key.resize(5 + usize::from(n % 8) * 3, b'.');
        key
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u8),
        Remove(u16),
        RemoveRun(u16, u16),
        InsertRun(u16, u16),
        Clone,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..4000u16, 0..60u8).prop_map(|(n, bytes)| Step::Insert(n, bytes)),
            6 => (0..4000u16).prop_map(Step::Remove),
            2 => (0..4000u16, 0..1500u16).prop_map(|(n, run)| Step::RemoveRun(n, run)),
            2 => (0..4000u16, 0..1500u16).prop_map(|(n, run)| Step::InsertRun(n, run)),
            1 => Just(Step::Clone),
        ]
    }

    fn insert(tree: &mut Tree, model: &mut Model, n: u16, bytes: u8, version: u64) {
        let value = vec![version as u8; usize::from(bytes)];
        let new = tree.insert(&key(n), &value, Index(version));
        assert_eq!(new, model.insert(key(n), (value, version)).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_a_map_and_its_clones_never_change(
            steps in prop::collection::vec(step(), 1..60), from in 0..4000u16, to in 0..4000u16,
        ) {
            let (mut tree, mut model) = (Tree::new(), Model::new());
            let mut clones: Vec<(Tree, Model)> = Vec::new();
            for (version, step) in steps.into_iter().enumerate() {
                let version = version as u64;
                match step {
                    Step::Insert(n, bytes) => insert(&mut tree, &mut model, n, bytes, version),
                    Step::Remove(n) => prop_assert_eq!(tree.remove(&key(n)), model.remove(&key(n)).is_some()),
                    Step::InsertRun(n, run) => {
                        for n in n..n + run {
                            insert(&mut tree, &mut model, n, 6, version);
                        }
                    }
                    Step::RemoveRun(n, run) => {
                        for n in n..n + run {
                            prop_assert_eq!(tree.remove(&key(n)), model.remove(&key(n)).is_some());
                        }
                    }
                    Step::Clone => clones.push((tree.clone(), model.clone())),
                }
            }
            assert_equal(&tree, &model);
            for (tree, model) in &clones {
                assert_equal(tree, model);
            }
            let got = tree.get(&key(from)).map(|item| (item.value.to_vec(), item.version.0));
            prop_assert_eq!(got.as_ref(), model.get(&key(from)));
            let (from, to) = (key(from.min(to)), key(from.max(to)));
            prop_assume!(from <= to);
            let in_range: Vec<&[u8]> = tree.range(&from, Some(&to)).map(|item| item.key).collect();
            let expected: Vec<&[u8]> = model.range(from.clone()..to.clone()).map(|(key, _)| &key[..]).collect();
            prop_assert_eq!(in_range, expected);
        }
    }

    #[test]
    fn many_branches_grow_and_shrink_to_nothing_in_any_order() {
        let count = (LEAF_ITEMS_MAX * BRANCH_LEAVES_MAX * 3) as u32;
        let scattered = |n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes();
        let orders: [&dyn Fn(u32) -> [u8; 4]; 3] =
            [&|n| n.to_be_bytes(), &|n| (count - n).to_be_bytes(), &scattered];
        for order in orders {
            let mut tree = Tree::new();
            for n in 0..count {
                assert!(tree.insert(&order(n), b"v", Index(1)));
            }
            tree.assert_rules();
            assert!(tree.branches.len() >= 3);
            let whole = tree.clone();
            for n in 0..count {
                assert!(tree.remove(&scattered_or(n, count, order)));
                if n % 4096 == 0 {
                    tree.assert_rules();
                }
            }
            tree.assert_rules();
            assert!(tree.is_empty() && tree.branches.len() == 0);
            assert_eq!((whole.len(), whole.iter().count()), (count as usize, count as usize));
        }
    }

    /// Removes in an order unlike that of insertion: evens up, then odds down.
    fn scattered_or(n: u32, count: u32, order: &dyn Fn(u32) -> [u8; 4]) -> [u8; 4] {
        order(if n < count.div_ceil(2) { 2 * n } else { count - 1 - 2 * (n - count.div_ceil(2)) - count % 2 })
    }

    #[test]
    fn keys_in_rising_order_fill_their_leaves() {
        let mut tree = Tree::new();
        let count = (LEAF_ITEMS_MAX - 1) * BRANCH_LEAVES_MAX * 2;
        for n in 0..count as u32 {
            tree.insert(&n.to_be_bytes(), b"", Index(1));
        }
        assert_eq!(tree.branches.len(), 2);
    }

    #[test]
    fn an_absent_key_is_removed_from_a_shared_tree_without_a_copy() {
        let mut tree = Tree::new();
        tree.insert(b"a", b"1", Index(1));
        let clone = tree.clone();
        assert!(!tree.remove(b"b"));
        assert!(tree.branches.items()[0].is_shared());
        assert!(tree.remove(b"a"));
        assert_eq!((tree.len(), clone.len()), (0, 1));
    }
}
