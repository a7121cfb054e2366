//! The wire: messages that have left and not yet arrived, and which links are cut or held.

use raftwerk_frame::{Message, NodeId, Term};

use super::image::{Checkpoint, Entry};

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    /// A message of the protocol, with the entries of an append.
    Message { message: Message, entries: Vec<Entry> },
    /// A snapshot from the leader of `term`.
    Snapshot { term: Term, checkpoint: Checkpoint, progress_epoch: u16 },
}

/// A parcel on its way.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) number: u64,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) parcel: Parcel,
}

/// Which letters are meant: all, unless a side is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
}

impl Filter {
    fn matches(self, letter: &Letter) -> bool {
        self.from.is_none_or(|from| from == letter.from) && self.to.is_none_or(|to| to == letter.to)
    }
}

/// Every letter between every two nodes, in the order in which they left.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    letters: Vec<Letter>,
    sent: u64,
    held: Vec<Filter>,
    sides: Vec<Vec<NodeId>>,
}

impl Wire {
    pub(crate) fn put(&mut self, from: NodeId, to: NodeId, parcel: Parcel) {
        self.sent += 1;
        self.letters.push(Letter { number: self.sent, from, to, parcel });
    }

    /// The numbers of the letters that match and are not held.
    pub(crate) fn select(&self, filter: Filter) -> Vec<u64> {
        let free =
            |letter: &&Letter| filter.matches(letter) && !self.held.iter().any(|held| held.matches(letter));
        self.letters.iter().filter(free).map(|letter| letter.number).collect()
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<Letter> {
        let at = self.letters.iter().position(|letter| letter.number == number)?;
        Some(self.letters.remove(at))
    }

    pub(crate) fn letters(&self) -> &[Letter] {
        &self.letters
    }

    pub(crate) fn hold(&mut self, filter: Filter) {
        self.held.push(filter);
    }

    /// Takes back what was held by just this filter; everything, if it names no side.
    pub(crate) fn release(&mut self, filter: Filter) {
        self.held.retain(|held| filter != Filter::default() && *held != filter);
    }

    /// Cuts the links between sides. A node that is in none keeps all its links.
    pub(crate) fn partition(&mut self, sides: Vec<Vec<NodeId>>) {
        self.sides = sides;
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let side = |node: NodeId| self.sides.iter().position(|side| side.contains(&node));
        matches!((side(from), side(to)), (Some(one), Some(other)) if one != other)
    }
}
