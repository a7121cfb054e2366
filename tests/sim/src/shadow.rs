//! What is certainly on a node's disk of one group, followed frame by frame as batches become durable.
//!
//! Read from the batches' own bytes and not from the engine's index, so that the two can be held against each other.

use raftwerk_frame::frame::{FrameHeader, FrameKind};
use raftwerk_frame::{EntryId, GroupId, HardState, Index, NodeId, Term};

use crate::disk::Batch;

/// One group's durable state on one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shadow {
    /// The group is there.
    pub(crate) is_there: bool,
    pub(crate) hard_state: HardState,
    /// How far logs of the group reached here that are gone.
    pub(crate) floor: EntryId,
    /// The log begins after this entry.
    pub(crate) base: EntryId,
    /// Terms of the log with the first index of each, in rising order.
    runs: Vec<(Term, u64)>,
    last: u64,
}

impl Shadow {
    /// The state of a replica that was just opened: what recovery accepts, it has synced.
    pub(crate) fn of(core: &raftwerk_raft::Group) -> Self {
        Self {
            is_there: true,
            hard_state: core.hard_state(),
            floor: core.origin().floor(),
            base: core.compacted(),
            runs: core.runs().iter().map(|run| (run.term, run.first.0)).collect(),
            last: core.last().index.0,
        }
    }

    /// The replica is gone; what it promised is left.
    pub(crate) fn gone(&self, floor: EntryId) -> Self {
        Self { hard_state: self.hard_state, floor: self.floor.max(floor), ..Self::default() }
    }

    pub(crate) const fn last(&self) -> u64 {
        if self.last > self.base.index.0 { self.last } else { self.base.index.0 }
    }

    /// The term of an entry, if it lies in the log or right before it.
    pub(crate) fn term_at(&self, index: u64) -> Option<Term> {
        if index == self.base.index.0 {
            return Some(self.base.term);
        }
        if index < self.base.index.0 || index > self.last() {
            return None;
        }
        self.runs.iter().rfind(|(_, first)| *first <= index).map(|(term, _)| *term)
    }

    /// Whether it holds an entry, in its log or below it.
    pub(crate) fn holds(&self, id: EntryId) -> bool {
        self.is_there && (id.index < self.base.index || self.term_at(id.index.0) == Some(id.term))
    }

    /// A batch has one more frame of the group.
    pub(crate) fn take(&mut self, header: &FrameHeader, body: &[u8]) {
        match header.kind {
            FrameKind::Entries | FrameKind::Withheld => self.entries(header.index, header.count, header.term),
            // Of a replica that is gone it may be written again: that does not bring it back.
            FrameKind::HardState => self.hard_state = hard_state_of(header, body),
            FrameKind::Snapshot => self.begins_after(header.id(), false),
            FrameKind::Compact => self.begins_after(header.id(), true),
            FrameKind::Fence => {}
            FrameKind::Remove => *self = self.gone(header.id()),
            FrameKind::Join => self.floor = header.id(),
        }
    }

    /// Entries replace everything from their first on.
    fn entries(&mut self, first: Index, count: u32, term: Term) {
        self.is_there = true;
        let last = first.0 + u64::from(count) - 1;
        if last <= self.base.index.0 {
            return;
        }
        let first = first.0.max(self.base.index.0 + 1);
        self.runs.retain(|(_, from)| *from < first);
        if self.runs.last().is_none_or(|(of, _)| *of != term) {
            self.runs.push((term, first));
        }
        self.last = last;
    }

    /// The log begins anew after an entry; what follows it stays if the entry is there and `keeps` is set.
    fn begins_after(&mut self, id: EntryId, keeps: bool) {
        self.is_there = true;
        if id.index < self.base.index {
            return;
        }
        if !keeps || self.last() <= id.index.0 {
            (self.runs, self.last) = (Vec::new(), id.index.0);
        } else {
            let at = self.runs.iter().rposition(|(_, first)| *first <= id.index.0 + 1).unwrap_or(0);
            self.runs.drain(..at);
            if let Some(first) = self.runs.first_mut() {
                first.1 = first.1.max(id.index.0 + 1);
            }
        }
        self.base = id;
    }

    /// Whether a replica that was opened anew still knows all of this, or else of what the first so many of these batches, which
    /// are there by luck, made of it. `Err`: what it has forgotten.
    pub(crate) fn is_kept_with(
        &self,
        group: GroupId,
        undecided: &[Batch],
        opened: &Self,
    ) -> Result<(), String> {
        let kept = self.is_kept_by(opened);
        let mut lucky = self.clone();
        let is_lucky = |batch: &Batch| {
            batch.frames(|header, body| {
                if header.group == group {
                    lucky.take(&header, body);
                }
            });
            lucky.is_kept_by(opened).is_ok()
        };
        if kept.is_err() && undecided.iter().any(is_lucky) { Ok(()) } else { kept }
    }

    /// Whether a replica that was opened anew still knows all of this. `Err`: what it has forgotten.
    fn is_kept_by(&self, opened: &Self) -> Result<(), String> {
        let (was, is) = (self.hard_state, opened.hard_state);
        let keeps_vote =
            is.term > was.term || is.term == was.term && (was.vote.is_none() || is.vote == was.vote);
        if !keeps_vote {
            return Err(format!("term and vote were {was:?}, and are {is:?}"));
        }
        if opened.floor < self.floor {
            return Err(format!("its floor was {}, and is {}", self.floor, opened.floor));
        }
        let base = opened.base;
        if base.index > self.base.index && self.term_at(base.index.0).is_some_and(|was| was != base.term) {
            // A snapshot was whole on the disk, and its log did not say so yet: what contradicts it is gone with reason.
            return Ok(());
        }
        let from = self.base.index.0.max(base.index.0) + 1;
        for index in from..=self.last() {
            let (was, is) = (self.term_at(index), opened.term_at(index));
            if was != is {
                return Err(format!("entry {index} was of term {was:?}, and is of {is:?}"));
            }
        }
        Ok(())
    }
}

/// The term and the vote that a frame holds.
pub(crate) fn hard_state_of(header: &FrameHeader, body: &[u8]) -> HardState {
    let vote = <[u8; 8]>::try_from(body).map_or(0, u64::from_le_bytes);
    HardState { term: header.term, vote: Some(NodeId(vote)).filter(|node| node.0 != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64, term: u64) -> EntryId {
        EntryId::new(Term(term), Index(index))
    }

    #[test]
    fn a_snapshot_takes_what_contradicts_it_and_nothing_else() {
        let restored = |base: EntryId| Shadow { base, last: base.index.0, ..Shadow::default() };
        let mut shadow = Shadow::default();
        shadow.entries(Index(1), 6, Term(1));
        assert!(shadow.is_kept_by(&restored(id(5, 2))).is_ok(), "it had another entry 5");
        assert!(shadow.is_kept_by(&restored(id(5, 1))).is_err(), "entry 6 follows the snapshot, and is gone");
        assert!(shadow.is_kept_by(&restored(id(6, 1))).is_ok());
    }

    #[test]
    fn entries_replace_a_tail_and_compaction_keeps_what_follows() {
        let mut shadow = Shadow::default();
        shadow.entries(Index(1), 5, Term(1));
        shadow.entries(Index(4), 3, Term(2));
        assert_eq!((shadow.last(), shadow.term_at(3), shadow.term_at(4)), (6, Some(Term(1)), Some(Term(2))));
        shadow.begins_after(id(5, 2), true);
        assert!(shadow.holds(id(6, 2)) && shadow.holds(id(5, 2)) && !shadow.holds(id(6, 1)));
        assert!(shadow.holds(id(2, 1)), "compacted is held");
        shadow.begins_after(id(9, 3), false);
        assert_eq!((shadow.last(), shadow.term_at(6)), (9, None));
        shadow.entries(Index(8), 3, Term(3));
        assert_eq!((shadow.last(), shadow.term_at(10)), (10, Some(Term(3))));
    }
}
