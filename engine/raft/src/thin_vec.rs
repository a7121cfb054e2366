//! A list that is nearly always empty, and then takes one word: there are many groups.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// A growable list behind a pointer. Empty, it holds no memory.
#[derive(Clone, Debug)]
#[expect(clippy::box_collection, reason = "a word instead of three, in every idle group")]
pub(crate) struct ThinVec<T>(Option<Box<Vec<T>>>);

impl<T> ThinVec<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// An empty list that has room for `capacity` items.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Some(Box::new(Vec::with_capacity(capacity))))
    }

    pub(crate) fn push(&mut self, one: T) {
        self.0.get_or_insert_default().push(one);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let one = self.0.as_mut().and_then(|list| list.pop());
        self.shrink();
        one
    }

    /// Removes the item at `at`, which must exist.
    pub(crate) fn remove(&mut self, at: usize) -> T {
        let list = self.0.as_mut().expect("what is removed is there");
        let one = list.remove(at);
        self.shrink();
        one
    }

    /// Inserts it before all others.
    pub(crate) fn push_front(&mut self, one: T) {
        self.0.get_or_insert_default().insert(0, one);
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        if let Some(list) = &mut self.0 {
            list.retain(keep);
        }
        self.shrink();
    }

    /// Drops the first `count`.
    pub(crate) fn drop_front(&mut self, count: usize) {
        if let Some(list) = &mut self.0 {
            assert!(count <= list.len(), "only what is there is dropped");
            list.drain(..count);
        }
        self.shrink();
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    fn shrink(&mut self) {
        if self.is_empty() {
            self.0 = None;
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |list| size_of::<Vec<T>>() + list.capacity() * size_of::<T>())
    }
}

impl<T> Deref for ThinVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |list| list)
    }
}

impl<T> DerefMut for ThinVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.as_mut().map_or(&mut [], |list| list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_empty_again_weighs_a_word() {
        let mut list = ThinVec::new();
        assert_eq!((list.len(), list.bytes(), size_of_val(&list)), (0, 0, size_of::<usize>()));
        list.push(2u64);
        list.push_front(1);
        list.push(3);
        assert_eq!(&list[..], [1, 2, 3]);
        list.retain(|one| *one != 2);
        list.drop_front(1);
        assert_eq!(&list[..], [3]);
        list.push(4);
        list[1] += 1;
        assert_eq!((list.remove(1), list.pop(), list.pop(), list.bytes()), (5, Some(3), None, 0));
    }
}
