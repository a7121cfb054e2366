//! Replicas that have lost something of their disks: what is still asked of them, and what no longer.
//!
//! Such a replica is *fenced*: it takes part in no vote until a later leader has brought it everything. What it had
//! acknowledged may be counted by a leader that does not know of the loss yet, as for any disk that fails right after an
//! acknowledgement; but no replica without it may be elected, which `leader completeness` and `committed is final` check.

use raftwerk_raft::Group;

use super::{Checked, EntryId, GroupId, Index, ReplicaWatch, Shadow, Term, Violation, Watch, ensure};

/// What a disk has lost.
pub(super) struct Loss {
    /// Up to this term.
    fence: Term,
    /// What it held before.
    before: Shadow,
    /// What it had acknowledged, and in which term.
    acknowledged: (Term, u64),
    /// It was found out while the node ran, so opening may find the same once more.
    is_new: bool,
}

impl ReplicaWatch {
    /// Whether a replica that was just opened reports the loss of something that was there when it was opened before.
    /// `is_anew`: the disk was damaged in between.
    ///
    /// A second loss has the fence of the first if nothing of a later term was durable yet. That answers for both as long as nothing
    /// was promised in between: what is promised after a loss is of later terms than its fence.
    pub(super) fn has_lost(&self, fence: Option<Term>, is_anew: bool) -> bool {
        let (Some(fence), Some(loss)) = (fence, &self.loss) else { return fence.is_some() };
        let since = (self.shadow.hard_state.term, self.acknowledged);
        let is_silent = since == (loss.acknowledged.0, (loss.acknowledged.0, 0));
        fence != loss.fence || loss.is_new || is_anew && is_silent
    }

    /// It begins anew, in a term in which it has promised nothing.
    pub(super) fn lose(&mut self, core: &Group, fence: Term) {
        let term = core.term();
        let acknowledged = (term, self.acknowledged_in(term));
        let is_same = |loss: &Loss| loss.fence == fence && !loss.is_new;
        // Of two losses in a row, the first one's log is the one that counted.
        let before = match self.loss.take().filter(is_same) {
            Some(loss) => loss.before,
            None => std::mem::take(&mut self.shadow),
        };
        self.loss = Some(Loss { fence, before, acknowledged, is_new: false });
        self.acknowledged = (term, 0);
    }

    /// Up to where it has acknowledged its leader's log in a term, or had before its disk lost some of it.
    pub(super) fn acknowledged_in(&self, term: Term) -> u64 {
        let lost = self.loss.as_ref().map(|loss| loss.acknowledged);
        let both = [Some(self.acknowledged), lost];
        both.into_iter().flatten().filter(|(of, _)| *of == term).map(|(_, to)| to).max().unwrap_or(0)
    }

    /// A running replica may find the loss by itself: then it goes on with what is left, and keeps its term and vote until the
    /// next are durable.
    pub(super) fn may_lose(&mut self, core: &Group, fence: Option<Term>) {
        let is_known = fence.is_none() || fence == self.loss.as_ref().map(|loss| loss.fence);
        if is_known || self.facts.is_none() {
            return;
        }
        let hard_state = self.shadow.hard_state;
        self.lose(core, fence.unwrap_or_default());
        self.shadow = Shadow::of(core);
        self.shadow.hard_state = hard_state;
        self.facts = None;
        if let Some(loss) = &mut self.loss {
            loss.is_new = true;
        }
    }

    /// Up to where an acknowledgement may reach that leaves after the loss and is of before it. A loss that is found while entries are
    /// applied may find one of the same turn on its way; the fence answers for that as for all before it.
    pub(super) fn held_in(&self, term: Term) -> u64 {
        let loss = self.loss.as_ref().filter(|loss| loss.is_new && term <= loss.fence);
        loss.map_or(0, |loss| loss.before.last())
    }

    /// Whether it holds an entry, or held it, or votes for no candidate without it.
    pub(super) fn keeps(&self, id: EntryId) -> bool {
        self.holds_or_held(id) || self.shadow.floor >= id
    }

    /// Whether an entry is on the disk, or was before the disk lost it.
    pub(super) fn holds_or_held(&self, id: EntryId) -> bool {
        self.shadow.holds(id) || self.loss.as_ref().is_some_and(|loss| loss.before.holds(id))
    }
}

impl Watch {
    /// An operator has accepted that a group goes on with what its best log has, and that the rest of what was committed is lost.
    /// Gives the last index that is not. Of a log that has lost what once replaced others' entries, those are there again: what
    /// was committed in their place is among the lost.
    pub(crate) fn accept_loss(&mut self, group: GroupId, best: &Group) -> Index {
        let committed = &mut self.groups.entry(group.0).or_default().committed;
        let (first, last) = (best.compacted().index.0 + 1, best.last().index.0);
        let differs = |index: &u64| best.term_at(Index(*index)) != Some(committed[*index as usize - 1]);
        let other = (first..=last.min(committed.len() as u64)).find(differs);
        let kept = other.map_or(last, |other| other - 1);
        committed.truncate(kept as usize);
        Index(kept)
    }
}

/// A fenced replica neither asks for votes nor leads.
pub(super) fn check_fenced(core: &Group, whose: &str) -> Checked {
    use raftwerk_raft::Role;
    ensure!(
        !core.is_fenced() || core.role() == Role::Follower,
        "fenced",
        "{whose}: is {:?} in {}, and has lost something",
        core.role(),
        core.term()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::HardState;

    use super::*;

    /// The simulator's hostile seed 221462797760: a segment vanished, and 27 ms after opening, before anything was sent, another.
    #[test]
    fn a_second_loss_may_have_the_fence_of_the_first_if_nothing_was_promised_in_between() {
        let (fence, next, later) = (Some(Term(2)), Term(3), Term(4));
        let replica = |term: Term, acknowledged: (Term, u64)| {
            let mut shadow = Shadow::default();
            shadow.hard_state = HardState { term, vote: None };
            let before = Shadow::default();
            let loss = Loss { fence: Term(2), before, acknowledged: (next, 7), is_new: false };
            ReplicaWatch { shadow, acknowledged, loss: Some(loss), ..ReplicaWatch::default() }
        };
        let silent = replica(next, (next, 0));
        assert!(silent.has_lost(fence, true));
        assert!(!silent.has_lost(fence, false), "nothing was taken since");
        assert!(silent.has_lost(Some(next), false) && !silent.has_lost(None, true));
        assert!(!replica(next, (next, 1)).has_lost(fence, true), "it has acknowledged something since");
        assert!(!replica(later, (next, 0)).has_lost(fence, true), "it has gone on to a later term");
        assert!(
            !ReplicaWatch::default().has_lost(None, true) && ReplicaWatch::default().has_lost(fence, true)
        );
    }
}
