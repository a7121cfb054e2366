//! Majorities, and pairs of them: every decision of a group uses this module (paper, section 6; thesis, 4.3).

use alloc::vec::Vec;

use raftwerk_frame::{Configuration, NodeId};

/// The result of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Neither is certain yet.
    Pending,
    /// A quorum has agreed.
    Won,
    /// A quorum can no longer agree.
    Lost,
}

/// The result of a vote in `configuration`: while it is joint, both halves must agree.
///
/// `vote` returns a voter's answer. An empty half agrees with everything.
#[must_use]
pub fn vote_result(configuration: &Configuration, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
    let halves = [majority_vote(&configuration.voters, &vote), majority_vote(&configuration.outgoing, &vote)];
    if halves.contains(&VoteResult::Lost) {
        VoteResult::Lost
    } else if halves.contains(&VoteResult::Pending) {
        VoteResult::Pending
    } else {
        VoteResult::Won
    }
}

fn majority_vote(voters: &[NodeId], vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
    if voters.is_empty() {
        return VoteResult::Won;
    }
    let (mut yes, mut open) = (0, 0);
    for &voter in voters {
        match vote(voter) {
            Some(true) => yes += 1,
            Some(false) => {}
            None => open += 1,
        }
    }
    let needed = voters.len() / 2 + 1;
    assert!(yes + open <= voters.len(), "every voter has one vote");
    assert!(2 * needed > voters.len(), "two majorities have a voter in common");
    if yes >= needed {
        VoteResult::Won
    } else if yes + open >= needed {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

/// The highest number that a quorum has reached, in both halves of a joint configuration. `None` if there is
/// no voter: then there is no bound.
///
/// `reached` returns a voter's number: an index that it has acknowledged, a round that it has answered.
#[must_use]
pub fn reached(configuration: &Configuration, reached: impl Fn(NodeId) -> u64) -> Option<u64> {
    let halves = [&configuration.voters, &configuration.outgoing];
    halves.into_iter().filter_map(|voters| majority_reached(voters, &reached)).min()
}

fn majority_reached(voters: &[NodeId], reached: impl Fn(NodeId) -> u64) -> Option<u64> {
    if voters.is_empty() {
        return None;
    }
    // Three and five voters are the rule; more than seven are beyond the fixed array and cost an allocation.
    let (mut few, mut many) = ([0; 7], Vec::new());
    let numbers = if let Some(numbers) = few.get_mut(..voters.len()) {
        numbers
    } else {
        many.resize(voters.len(), 0);
        &mut many[..]
    };
    for (number, &voter) in numbers.iter_mut().zip(voters) {
        *number = reached(voter);
    }
    numbers.sort_unstable();
    let needed = voters.len() / 2 + 1;
    assert!(2 * needed > voters.len(), "two majorities have a voter in common");
    numbers.len().checked_sub(needed).map(|at| numbers[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> alloc::vec::Vec<NodeId> {
        ids.iter().map(|&id| NodeId(id)).collect()
    }

    #[test]
    fn a_majority_commits_what_most_have_reached() {
        let three = Configuration::of_voters(nodes(&[1, 2, 3]));
        assert_eq!(reached(&three, |node| [0, 9, 5, 2][node.0 as usize]), Some(5));
        let four = Configuration::of_voters(nodes(&[1, 2, 3, 4]));
        assert_eq!(reached(&four, |node| [0, 9, 8, 2, 1][node.0 as usize]), Some(2));
        assert_eq!(reached(&Configuration::default(), |_| 0), None);
    }

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        let mut joint = Configuration::of_voters(nodes(&[1, 2, 3]));
        joint.outgoing = nodes(&[3, 4, 5]);
        assert_eq!(reached(&joint, |node| if node.0 <= 3 { 9 } else { 1 }), Some(1));
        let vote = |yes: &'static [u64]| move |node: NodeId| yes.contains(&node.0).then_some(true);
        assert_eq!(vote_result(&joint, vote(&[1, 2])), VoteResult::Pending);
        assert_eq!(vote_result(&joint, vote(&[1, 2, 4, 5])), VoteResult::Won);
        let refusing = |node: NodeId| Some(node.0 <= 3);
        assert_eq!(vote_result(&joint, refusing), VoteResult::Lost);
    }
}
