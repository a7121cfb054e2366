//! Losses of durable frames, and the frame that lists them.

use raftwerk_frame::GroupId;
use rustc_hash::FxHashSet;

/// The identity of a loss: the first batch that is not whole, the next one that is found, and a hash of the
/// groups that were hit.
pub(crate) type Loss = [u64; 3];

/// The group id of a fence frame that lists losses: all groups that they hit have been fenced before it.
///
/// A list that is too long for a frame goes on in others. Their index counts them, from 0: a part counts only
/// behind all earlier ones of the same list, so what is left of a list answers for no more than it names.
pub(crate) const EVERY_GROUP: GroupId = GroupId(u64::MAX);

/// The list of losses that is being read, part by part.
#[derive(Debug, Default)]
pub(crate) struct ListedLosses {
    parts: u64,
    listed: FxHashSet<Loss>,
}

impl ListedLosses {
    /// Adds a part. A part 0 begins another list; one that is out of order is ignored.
    pub(crate) fn add(&mut self, part: u64, losses: Vec<Loss>) {
        if part == 0 {
            (self.parts, self.listed) = (0, FxHashSet::default());
        }
        if part == self.parts {
            self.parts += 1;
            self.listed.extend(losses);
        }
    }

    /// Whether all of these losses are on it.
    pub(crate) fn holds(&self, losses: &[Loss]) -> bool {
        losses.iter().all(|loss| self.listed.contains(loss))
    }
}

/// The groups that lost frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LossVictims {
    /// Unknown.
    Any,
    /// These.
    Of(Vec<GroupId>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_different_lists_do_not_make_one() {
        let loss = |n: u64| [n, n + 1, 0];
        let mut list = ListedLosses::default();
        list.add(1, vec![loss(2)]);
        assert!(list.holds(&[]) && !list.holds(&[loss(2)]), "its first part is missing");
        list.add(0, vec![loss(1)]);
        list.add(2, vec![loss(3)]);
        assert!(list.holds(&[loss(1)]) && !list.holds(&[loss(3)]), "the one before it is missing");
        list.add(1, vec![loss(2)]);
        list.add(2, vec![loss(3)]);
        assert!(list.holds(&[loss(3), loss(1), loss(2)]));
        list.add(0, vec![loss(4)]);
        assert!(list.holds(&[loss(4)]) && !list.holds(&[loss(1)]), "another list");
    }
}
