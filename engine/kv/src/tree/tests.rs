//! The map against a model: every operation, its clones, and the invariants of its parts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::node::{BRANCH_LEAVES_MAX, LEAF_ITEMS_MAX};
use super::*;

type Held = (Vec<u8>, u64);
type Model = BTreeMap<Vec<u8>, Held>;

impl Tree {
    /// Asserts the invariants of the heads of its files.
    fn assert_rules(&self) {
        self.slots.assert_rules();
        self.table.assert_rules(&self.slots);
        self.order.assert_rules(&self.slots);
        for number in 0..self.len() as u32 {
            let key = self.slots.slot(number).key.as_slice();
            assert_eq!(self.order.find(&self.slots, key).map(|(_, found)| found).ok(), Some(number));
            assert_eq!(self.get(key), Some(TreeItem::of(self.slots.slot(number))));
        }
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
    /// Many at once; keys repeat.
    InsertAll(Vec<(u16, u8)>),
    Clone,
    /// Continues with an older copy, and keeps this one.
    Swap(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4000u16, 0..60u8).prop_map(|(n, bytes)| Step::Insert(n, bytes)),
        6 => (0..4000u16).prop_map(Step::Remove),
        2 => (0..4000u16, 0..1500u16).prop_map(|(n, run)| Step::RemoveRun(n, run)),
        2 => (0..4000u16, 0..1500u16).prop_map(|(n, run)| Step::InsertRun(n, run)),
        8 => prop::collection::vec((0..4000u16, 0..60u8), 0..50).prop_map(Step::InsertAll),
        4 => (0..4000u16, prop::collection::vec((0..20u16, 0..60u8), 0..50)).prop_map(|(first, near)| {
            Step::InsertAll(near.into_iter().map(|(n, bytes)| (first + n, bytes)).collect())
        }),
        2 => Just(Step::Clone),
        1 => any::<prop::sample::Index>().prop_map(Step::Swap),
    ]
}

fn insert(tree: &mut Tree, model: &mut Model, n: u16, bytes: u8, version: u64) {
    let value = vec![version as u8; usize::from(bytes)];
    let new = tree.insert(&key(n), &value, Index(version));
    assert_eq!(new, model.insert(key(n), (value, version)).is_none());
}

fn insert_all(tree: &mut Tree, model: &mut Model, puts: &[(u16, u8)], version: u64) {
    let puts: Vec<(Vec<u8>, Held)> = (version..)
        .zip(puts)
        .map(|(version, (n, bytes))| (key(*n), (vec![version as u8; usize::from(*bytes)], version)))
        .collect();
    let items: Vec<TreeItem<'_>> = puts
        .iter()
        .map(|(key, (value, version))| TreeItem { key, value, version: Index(*version) })
        .collect();
    tree.insert_all(&items);
    model.extend(puts);
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
            let version = version as u64 * 1000;
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
                Step::InsertAll(puts) => insert_all(&mut tree, &mut model, &puts, version),
                Step::Clone => clones.push((tree.clone(), model.clone())),
                Step::Swap(_) if clones.is_empty() => {}
                Step::Swap(which) => {
                    let at = which.index(clones.len());
                    let clone = &mut clones[at];
                    std::mem::swap(&mut tree, &mut clone.0);
                    std::mem::swap(&mut model, &mut clone.1);
                }
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
        assert!(tree.order.branches().len() >= 3);
        let whole = tree.clone();
        for n in 0..count {
            assert!(tree.remove(&scattered_or(n, count, order)));
            if n % 8192 == 0 {
                tree.assert_rules();
            }
        }
        tree.assert_rules();
        assert!(tree.is_empty() && tree.order.branches().is_empty());
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
    assert_eq!(tree.order.branches().len(), 2);
}

#[test]
fn an_absent_key_is_removed_from_a_shared_tree_without_a_copy() {
    let mut tree = Tree::new();
    tree.insert(b"a", b"1", Index(1));
    let clone = tree.clone();
    assert!(!tree.remove(b"b"));
    assert!(tree.order.branches()[0].is_shared() && tree.slots.is_shared(0));
    assert!(tree.remove(b"a"));
    assert_eq!((tree.len(), clone.len()), (0, 1));
}

#[test]
fn nearly_every_key_is_in_the_table_at_every_size() {
    let mut tree = Tree::new();
    for n in 0..100_000u32 {
        tree.insert(&n.to_be_bytes(), b"v", Index(1));
        if n % 500 == 499 {
            let unknown = tree.len() - tree.table.entries();
            assert!(unknown * 20 <= tree.len(), "{unknown} of {} keys are not in the table", tree.len());
        }
    }
    tree.assert_rules();
}

#[test]
fn keys_of_one_tag_crowd_each_other_out_of_the_table_and_stay_in_the_map() {
    let mut by_tag = std::collections::HashMap::<usize, Vec<u32>>::new();
    // Keys of one line of any table with at most 16 pages.
    for n in 0..200_000u32 {
        by_tag.entry(Tag::of(&n.to_be_bytes()).low_bits()).or_default().push(n);
    }
    let crowd = by_tag.into_values().max_by_key(Vec::len).unwrap();
    assert!(crowd.len() > 100);
    let mut tree = Tree::new();
    for version in 0..3 {
        for n in &crowd {
            assert_eq!(tree.insert(&n.to_be_bytes(), b"v", Index(version)), version == 0);
        }
    }
    tree.assert_rules();
    assert!(tree.iter().all(|item| item.version == Index(2)));
    for n in &crowd {
        assert!(tree.remove(&n.to_be_bytes()));
    }
    tree.assert_rules();
    assert!(tree.is_empty() && tree.table.entries() == 0);
}

#[test]
fn a_copy_knows_by_hash_what_was_written_to_it() {
    let mut tree = Tree::new();
    for n in 0..100u32 {
        tree.insert(&n.to_be_bytes(), b"1", Index(1));
    }
    let mut copy = tree.clone();
    assert_eq!(copy.table.entries(), 0);
    assert!(!copy.insert(&[0; 4], b"2", Index(2)));
    assert_eq!(copy.table.entries(), 1);
    assert_eq!(tree.get(&[0; 4]).map(|item| item.value), Some(&b"1"[..]));
    copy.assert_rules();
    tree.assert_rules();
}

#[test]
fn a_table_that_is_far_too_large_is_dropped_and_fills_again() {
    let mut tree = Tree::new();
    for n in 0..20_000u32 {
        tree.insert(&n.to_be_bytes(), b"v", Index(1));
    }
    assert!(tree.table.pages() > 32);
    for n in 100..20_000u32 {
        assert!(tree.remove(&n.to_be_bytes()));
    }
    assert!(tree.table.pages() <= 1);
    for n in 0..100u32 {
        assert!(!tree.insert(&n.to_be_bytes(), b"w", Index(2)));
    }
    assert!(tree.table.entries() > 95);
    tree.assert_rules();
}

#[test]
fn two_keys_of_one_tag_are_told_apart() {
    let mut by_tag = std::collections::HashMap::new();
    let mut keys = (0..).map(|n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    let (one, other) = keys
        .find_map(|key| {
            let of_key = Tag::of(&key);
            by_tag.insert(of_key, key).map(|before| (before, key))
        })
        .unwrap();
    let mut tree = Tree::new();
    // A small map has no table.
    let others: Vec<Vec<u8>> = (0..table::ITEMS_MIN).map(|n| vec![n as u8]).collect();
    for key in &others {
        tree.insert(key, b"v", Index(9));
    }
    for version in [1, 2, 3] {
        let item = |key| TreeItem { key, value: b"v", version: Index(version) };
        tree.insert_all(&[item(&one), item(&other)]);
        assert_eq!(tree.len(), 2 + others.len());
        tree.assert_rules();
        for key in [&one, &other] {
            assert_eq!(tree.get(key).map(|item| item.version), Some(Index(version)));
        }
    }
    assert!(tree.remove(&one));
    tree.assert_rules();
    assert_eq!((tree.get(&one), tree.get(&other).is_some()), (None, true));
}
