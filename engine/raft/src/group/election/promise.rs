//! The term and the vote of a replica: what it promises, and what its hard state makes durable (paper, sections 5.1
//! and 5.2).
//!
//! What is not here: when a replica enters a term or votes (`election`), and how both become durable (the driver).

use core::ops::Deref;

use raftwerk_frame::{HardState, NodeId, Term};

/// Term and vote. Invariants: the term never falls; a vote is given once a term. Every change is made here.
#[derive(Clone, Debug)]
pub(crate) struct Promise(HardState);

impl Promise {
    /// As recovery restored it.
    pub(crate) const fn new(hard_state: HardState) -> Self {
        Self(hard_state)
    }

    /// Enters a later term, in which the vote is free.
    pub(crate) fn enter(&mut self, term: Term) {
        assert!(term > self.0.term, "the term never falls");
        self.0 = HardState { term, vote: None };
    }

    /// Votes in this term.
    pub(crate) fn vote_for(&mut self, node: NodeId) {
        assert!(self.0.vote.is_none_or(|vote| vote == node), "a vote is given once a term");
        self.0.vote = Some(node);
    }
}

impl Deref for Promise {
    type Target = HardState;

    fn deref(&self) -> &HardState {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_free_again_in_a_later_term() {
        let mut promise = Promise::new(HardState::default());
        promise.enter(Term(2));
        promise.vote_for(NodeId(7));
        promise.vote_for(NodeId(7));
        assert_eq!(*promise, HardState { term: Term(2), vote: Some(NodeId(7)) });
        promise.enter(Term(3));
        assert_eq!(*promise, HardState { term: Term(3), vote: None });
    }

    #[test]
    #[should_panic(expected = "a vote is given once a term")]
    fn a_term_has_one_vote() {
        let mut promise = Promise::new(HardState::default());
        promise.vote_for(NodeId(7));
        promise.vote_for(NodeId(8));
    }

    #[test]
    #[should_panic(expected = "the term never falls")]
    fn no_earlier_term_is_entered() {
        let mut promise = Promise::new(HardState { term: Term(2), vote: None });
        promise.enter(Term(2));
    }
}
