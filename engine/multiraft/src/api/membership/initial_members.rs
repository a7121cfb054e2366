//! The initial members of a group: its first configuration, and the role of each member in it.
//!
//! The first configuration names no logs of its members, since these are not known yet; each node uses the
//! log with which it first receives from the member (`engine/docs/replica_identity.md`). What is not here: creation of a
//! replica (`worker::groups::orders`), later changes ([`crate::Reconfiguration`]).

use raftwerk_frame::{Configuration, NodeId};
use raftwerk_raft::reconfig::{self, Change};

use crate::api::error::CreateError;

/// The initial members of a group. To be the same on every one of them.
///
/// A list of nodes means voters that hold payloads: `engine.create_group(group, &[one, two, three])`. For
/// others:
/// ```
/// # use raftwerk_multiraft as raftwerk;
/// use raftwerk::{InitialMembers, NodeId};
///
/// let two_and_a_witness = InitialMembers::of_voters([NodeId(1), NodeId(2)]).and_witness(NodeId(3));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialMembers(Vec<Change>);

impl InitialMembers {
    /// The maximum of initial voters.
    pub const VOTERS_MAX: usize = 7;

    /// These nodes vote, and hold payloads.
    #[must_use]
    pub fn of_voters(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self(nodes.into_iter().map(Change::Voter).collect())
    }

    /// Adds a node that votes and holds no payloads.
    #[must_use]
    pub fn and_witness(mut self, node: NodeId) -> Self {
        self.0.push(Change::Witness(node));
        self
    }

    /// Adds a node that holds payloads and does not vote.
    #[must_use]
    pub fn and_learner(mut self, node: NodeId) -> Self {
        self.0.push(Change::Learner(node));
        self
    }

    /// The first configuration. `node` must be one of its members.
    ///
    /// # Errors
    /// [`CreateError::Voters`], [`CreateError::InitialMembers`].
    pub(crate) fn configuration(&self, node: NodeId) -> Result<Configuration, CreateError> {
        let is_named_again = |at: usize| self.0[..at].iter().any(|other| other.node() == self.0[at].node());
        if (0..self.0.len()).any(is_named_again) || self.0.iter().any(|member| member.node() == NodeId(0)) {
            return Err(CreateError::Voters("each must be named once, and 0 is nobody"));
        }
        let configuration = reconfig::bootstrap(&self.0).map_err(CreateError::InitialMembers)?;
        if configuration.voters.len() > Self::VOTERS_MAX {
            return Err(CreateError::Voters("at most 7 may vote"));
        }
        if !configuration.contains(node) {
            return Err(CreateError::Voters("this node is not among them"));
        }
        Ok(configuration)
    }
}

impl From<&[NodeId]> for InitialMembers {
    fn from(voters: &[NodeId]) -> Self {
        Self::of_voters(voters.iter().copied())
    }
}

impl<const COUNT: usize> From<&[NodeId; COUNT]> for InitialMembers {
    fn from(voters: &[NodeId; COUNT]) -> Self {
        Self::from(&voters[..])
    }
}

impl From<&Vec<NodeId>> for InitialMembers {
    fn from(voters: &Vec<NodeId>) -> Self {
        Self::from(&voters[..])
    }
}

impl From<&Self> for InitialMembers {
    fn from(initial_members: &Self) -> Self {
        initial_members.clone()
    }
}

#[cfg(test)]
mod tests {
    use raftwerk_raft::reconfig::ChangeError;

    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn found(voters: &[u64], witnesses: &[u64]) -> Result<Configuration, CreateError> {
        let voters = InitialMembers::of_voters(nodes(voters));
        let all =
            witnesses.iter().fold(voters, |initial_members, node| initial_members.and_witness(NodeId(*node)));
        all.configuration(NodeId(1))
    }

    #[test]
    fn founders_are_each_one_thing_and_most_voters_hold_everything() {
        let founded = found(&[2, 1], &[3]).unwrap();
        assert_eq!((&founded.voters, founded.witnesses.as_slice()), (&nodes(&[1, 2, 3]), &nodes(&[3])[..]));
        let founded =
            InitialMembers::from(&nodes(&[2])).and_learner(NodeId(1)).configuration(NodeId(1)).unwrap();
        assert_eq!((founded.voters, founded.learners), (nodes(&[2]), nodes(&[1])));
        assert!(found(&[1, 2, 3, 4], &[5, 6, 7]).is_ok());

        let too_many = Err(CreateError::InitialMembers(ChangeError::TooManyWitnesses));
        for (whole, witnesses) in [(&[1][..], &[2][..]), (&[], &[1]), (&[1, 2], &[3, 4])] {
            assert_eq!(found(whole, witnesses), too_many, "{whole:?} {witnesses:?}");
        }
        assert_eq!(found(&[], &[]), Err(CreateError::InitialMembers(ChangeError::NoVoters)));
        let none_votes = InitialMembers::default().and_learner(NodeId(1)).configuration(NodeId(1));
        assert_eq!(none_votes, Err(CreateError::InitialMembers(ChangeError::NoVoters)));
        let crowd =
            (2..=65).fold(InitialMembers::from(&[NodeId(1)]), |all, node| all.and_learner(NodeId(node)));
        assert_eq!(crowd.configuration(NodeId(1)), Err(CreateError::InitialMembers(ChangeError::TooMany)));
        for wrong in [found(&[1, 2, 3], &[3]), found(&[1, 1], &[]), found(&[0, 1], &[]), found(&[2, 3], &[])]
        {
            assert!(matches!(wrong, Err(CreateError::Voters(_))), "{wrong:?}");
        }
        assert!(matches!(found(&[1, 2, 3, 4, 5, 6, 7, 8], &[]), Err(CreateError::Voters(_))));
    }
}
