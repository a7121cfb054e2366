//! Leaves and branches: the shared nodes of the [order](super::order), in which their invariants are.

use triomphe::Arc;

use crate::inline_bytes::InlineBytes;
use crate::key_array::{Inside, KeyArray, Keyed, Keys};

/// The maximum of items of a leaf: enough to amortise a leaf's overhead, few enough that a write copies less
/// than 1 KiB of a shared one.
pub(super) const LEAF_ITEMS_MAX: usize = 64;
/// The maximum of leaves of a branch.
pub(super) const BRANCH_LEAVES_MAX: usize = 128;

/// The numbers of a run of items.
pub(super) type Leaf = KeyArray<u32>;
/// A run of leaves.
pub(super) type Branch = KeyArray<Child<Leaf>>;

/// A shared node and the bound that separates it from the one before it.
#[derive(Debug)]
pub(super) struct Child<N> {
    bound: InlineBytes,
    node: Arc<N>,
}

impl<N> Clone for Child<N> {
    fn clone(&self) -> Self {
        Self { bound: self.bound.clone(), node: Arc::clone(&self.node) }
    }
}

impl<N> Keyed for Child<N> {
    #[inline]
    fn key(&self) -> &[u8] {
        self.bound.as_slice()
    }
}

impl<N> Child<N> {
    pub(super) fn new(bound: &[u8], node: N) -> Self {
        Self { bound: InlineBytes::new(bound), node: Arc::new(node) }
    }

    /// The node, for reading.
    #[inline]
    pub(super) fn node(&self) -> &N {
        &self.node
    }

    /// The node, for writing; copied first if it is shared.
    #[inline]
    pub(super) fn node_mut(&mut self) -> &mut N
    where
        N: Clone,
    {
        Arc::make_mut(&mut self.node)
    }

    /// The node, owned.
    fn into_node(self) -> N
    where
        N: Clone,
    {
        Arc::unwrap_or_clone(self.node)
    }

    #[cfg(test)]
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.node) > 1
    }
}

impl<T: Clone> KeyArray<Child<KeyArray<T>>> {
    /// Splits a child into its first `at` items and the others; `bound` computes the bound between them.
    fn split_child(
        &mut self,
        keys: &impl Keys<T>,
        child: usize,
        at: usize,
        bound: impl FnOnce(&[u8], &[u8]) -> InlineBytes,
    ) {
        let below = self.item_mut(child).node_mut();
        let above = below.split_off(keys, at);
        let bound = bound(keys.key(&below.items()[at - 1]), keys.key(&above.items()[0]));
        let lowest = InlineBytes::new(keys.key(&below.items()[0]));
        if child == 0 && self.items()[0].key() >= bound.as_slice() {
            // Keys below the first child's bound are stored there too, so that bound may have to be lowered.
            let node = Arc::clone(&self.items()[0].node);
            self.replace(&Inside, 0, Child { bound: lowest, node });
        }
        self.insert(&Inside, child + 1, Child { bound, node: Arc::new(above) });
    }

    /// Drops a child that is empty, or joins one that has become small with a neighbour if both fit.
    fn mend(
        &mut self,
        child: usize,
        max: usize,
        join: impl FnOnce(&mut KeyArray<T>, InlineBytes, KeyArray<T>),
    ) {
        let len = self.items()[child].node().len();
        if len == 0 {
            self.remove(child);
            return;
        }
        if len >= max / 4 {
            return;
        }
        let fits = |a: usize| {
            let len_of = |a: usize| self.items().get(a).map_or(max, |child| child.node().len());
            len_of(a) + len_of(a + 1) <= max * 3 / 4
        };
        let Some(a) = [Some(child), child.checked_sub(1)].into_iter().flatten().find(|&a| fits(a)) else {
            return;
        };
        let above = self.remove(a + 1);
        let bound = above.bound.clone();
        join(self.item_mut(a).node_mut(), bound, above.into_node());
    }
}

/// Where a full node is divided.
#[derive(Clone, Copy)]
pub(super) enum SplitAt {
    /// In the middle.
    Middle,
    /// Before its last item: the node is the last of its kind, and keys that arrive in order leave full ones.
    LastItem,
}

impl SplitAt {
    /// The first item of the upper part of a node with `len` items.
    const fn of(self, len: usize) -> usize {
        match self {
            Self::Middle => len / 2,
            Self::LastItem => len - 1,
        }
    }
}

impl KeyArray<Child<Leaf>> {
    /// Splits a full leaf in the middle or, where keys appear to arrive in order, before its last item, so
    /// that leaves end full.
    pub(super) fn split_leaf(&mut self, keys: &impl Keys<u32>, l: usize, at: SplitAt) {
        let len = self.items()[l].node().len();
        self.split_child(keys, l, at.of(len), bound_between);
    }

    /// Restores the invariants after a leaf has lost an item.
    pub(super) fn mend_leaf(&mut self, keys: &impl Keys<u32>, l: usize) {
        self.mend(l, LEAF_ITEMS_MAX, |below, _, above| below.append(keys, above));
    }
}

impl KeyArray<Child<Branch>> {
    /// Splits a branch, in the middle or before its last leaf.
    pub(super) fn split_branch(&mut self, b: usize, at: SplitAt) {
        let len = self.items()[b].node().len();
        self.split_child(&Inside, b, at.of(len), |_, above| InlineBytes::new(above));
    }

    /// Restores the invariants after a branch has lost a leaf.
    pub(super) fn mend_branch(&mut self, b: usize) {
        self.mend(b, BRANCH_LEAVES_MAX, |below, bound, mut above| {
            // The first leaf's own bound was not in use until now; that of its branch was.
            let first = Child { bound, node: Arc::clone(&above.items()[0].node) };
            above.replace(&Inside, 0, first);
            below.append(&Inside, above);
        });
    }
}

/// The shortest key above `below` and at or below `above`.
fn bound_between(below: &[u8], above: &[u8]) -> InlineBytes {
    let common = below.iter().zip(above).take_while(|(a, b)| a == b).count();
    InlineBytes::new(&above[..common + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_as_short_as_it_can_be() {
        for (below, above, bound) in [
            (&b""[..], &b"\0"[..], &b"\0"[..]),
            (b"abc", b"abd", b"abd"),
            (b"ab", b"abcdef", b"abc"),
            (b"user:1 has a long key", b"user:2 too", b"user:2"),
        ] {
            assert_eq!(bound_between(below, above).as_slice(), bound);
        }
    }
}
