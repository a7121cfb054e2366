//! Who takes part in a group: the configuration that joint consensus moves between (paper section 6, thesis 4.3).

use alloc::vec::Vec;

use crate::{Index, NodeId};

/// The replicas of a group, by part. Lists are sorted and free of doubles.
///
/// Outside a change, `outgoing` and `learners_next` are empty. During one, both `voters` and `outgoing` must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// The (incoming) voters.
    pub voters: Vec<NodeId>,
    /// The voters of the configuration being left; not empty exactly while the group is joint.
    pub outgoing: Vec<NodeId>,
    /// Replicas that receive the log and do not vote.
    pub learners: Vec<NodeId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// A configuration and where the log has it. A group's first configuration, which no entry brought, stands at index 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The index of its entry.
    pub index: Index,
    /// Who takes part from there on.
    pub configuration: Configuration,
}

/// Why bytes or lists are not a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// The bytes end before the lists do, or go on after them.
    #[error("a configuration's bytes have the wrong length")]
    Length,
    /// More replicas than a group may have.
    #[error("a configuration may name at most {} replicas", Configuration::REPLICAS_MAX)]
    TooMany,
    /// A list is unsorted or names a node twice, or there is no voter.
    #[error("a configuration's lists must be sorted, without doubles, and name a voter")]
    Lists,
}

impl Configuration {
    /// The most entries all lists together may hold.
    pub const REPLICAS_MAX: usize = 64;

    /// A plain configuration of these voters, sorted and without doubles.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        let mut voters: Vec<NodeId> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        Self { voters, ..Self::default() }
    }

    /// Whether the group is between two configurations.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, in either half.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` takes part at all.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.lists().iter().any(|list| list.contains(&node))
    }

    /// Whether nobody is named: what a replica knows that has yet to be told of its group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists().iter().all(|list| list.is_empty())
    }

    /// Every replica once, in ascending order.
    #[must_use]
    pub fn replicas(&self) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self.lists().iter().flat_map(|list| list.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn lists(&self) -> [&Vec<NodeId>; 4] {
        [&self.voters, &self.outgoing, &self.learners, &self.learners_next]
    }

    /// Appends the byte form: `auto_leave` u8, four list lengths u8, then every node id, little-endian.
    ///
    /// # Panics
    /// If the lists hold more than [`Configuration::REPLICAS_MAX`] entries together.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let lists = self.lists();
        assert!(lists.iter().map(|list| list.len()).sum::<usize>() <= Self::REPLICAS_MAX);
        out.push(u8::from(self.auto_leave));
        out.extend(lists.iter().map(|list| list.len() as u8));
        for node in lists.into_iter().flatten() {
            out.extend_from_slice(&node.0.to_le_bytes());
        }
    }

    /// Reads the byte form back and checks it.
    ///
    /// # Errors
    /// [`ConfigurationError`] if the bytes are not what [`Configuration::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigurationError> {
        let (head, mut rest) = bytes.split_at_checked(5).ok_or(ConfigurationError::Length)?;
        let total: usize = head[1..].iter().map(|&n| usize::from(n)).sum();
        if total > Self::REPLICAS_MAX {
            return Err(ConfigurationError::TooMany);
        }
        if rest.len() != total * 8 {
            return Err(ConfigurationError::Length);
        }
        let mut take = |n: u8| -> Vec<NodeId> {
            let (list, tail) = rest.split_at(usize::from(n) * 8);
            rest = tail;
            let (ids, _) = list.as_chunks::<8>();
            ids.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect()
        };
        let configuration = Self {
            voters: take(head[1]),
            outgoing: take(head[2]),
            learners: take(head[3]),
            learners_next: take(head[4]),
            auto_leave: head[0] != 0,
        };
        let sorted = |list: &&Vec<NodeId>| list.windows(2).all(|pair| pair[0] < pair[1]);
        if configuration.voters.is_empty() || !configuration.lists().iter().all(sorted) {
            return Err(ConfigurationError::Lists);
        }
        Ok(configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_configuration_survives_the_round_trip() {
        let mut joint = Configuration::of_voters([NodeId(3), NodeId(1), NodeId(3)]);
        joint.outgoing = alloc::vec![NodeId(1), NodeId(2)];
        joint.learners_next = alloc::vec![NodeId(2)];
        joint.auto_leave = true;
        let mut bytes = Vec::new();
        joint.encode(&mut bytes);
        assert_eq!(Configuration::decode(&bytes), Ok(joint.clone()));
        assert_eq!(joint.replicas(), [NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(Configuration::decode(&bytes[..bytes.len() - 1]), Err(ConfigurationError::Length));
    }

    #[test]
    fn a_configuration_without_a_voter_is_refused() {
        let lonely = Configuration { learners: alloc::vec![NodeId(1)], ..Configuration::default() };
        let mut bytes = Vec::new();
        lonely.encode(&mut bytes);
        assert_eq!(Configuration::decode(&bytes), Err(ConfigurationError::Lists));
        assert!(lonely.contains(NodeId(1)) && !lonely.contains(NodeId(2)));
        assert!(Configuration::default().is_empty() && !lonely.is_empty());
    }

    #[test]
    fn lists_out_of_order_are_refused() {
        let mut bytes = Vec::new();
        Configuration::of_voters([NodeId(1), NodeId(2)]).encode(&mut bytes);
        bytes[5..21].rotate_left(8);
        assert_eq!(Configuration::decode(&bytes), Err(ConfigurationError::Lists));
    }
}
