//! The members of a group: the configuration that joint consensus moves between (paper section 6, thesis
//! 4.3).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::{Index, LogId, NodeId};

/// The replicas of a group, by role. Lists are sorted and free of duplicates.
///
/// Outside a change, `outgoing` and `learners_next` are empty. During one, both `voters` and `outgoing` must agree.
///
/// A member is a log rather than a node: a node that comes back without its disk has lost its votes and
/// acknowledgements. Added members are named with the log that they have; the initial members are not, since
/// their logs are unknown at bootstrap. A node is in a configuration with one log only, also while the
/// configuration is joint. It is a witness in all of it, or in none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// The (incoming) voters.
    pub voters: Vec<NodeId>,
    /// The voters of the configuration being left; non-empty exactly while the group is joint.
    pub outgoing: Vec<NodeId>,
    /// Replicas that receive the log and do not vote.
    pub learners: Vec<NodeId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
    /// The logs that replicas were added with, by node; initial members have none.
    pub logs: Logs,
    /// The members that hold no payloads: a witness acknowledges headers, and votes by them.
    pub witnesses: Witnesses,
}

/// Replicas that hold no payloads, in rising order. One word if empty, since there are many groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::box_collection, reason = "a word instead of three, in every group")]
pub struct Witnesses(Option<Box<Vec<NodeId>>>);

impl Witnesses {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[NodeId] {
        self.0.as_ref().map_or(&[], |list| list)
    }

    /// Whether `node` is one.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.as_slice().binary_search(&node).is_ok()
    }

    /// Adds a node.
    pub fn put(&mut self, node: NodeId) {
        let list = self.0.get_or_insert_default();
        if let Err(at) = list.binary_search(&node) {
            list.insert(at, node);
        }
    }

    /// Keeps the nodes for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        if let Some(list) = &mut self.0 {
            list.retain(|node| keep(*node));
            if list.is_empty() {
                self.0 = None;
            }
        }
    }

    /// Bytes of memory beside the word.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.as_deref().map_or(0, |list| size_of_val(list) + list.capacity() * size_of::<NodeId>())
    }
}

impl FromIterator<NodeId> for Witnesses {
    /// In any order; duplicates are dropped.
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut witnesses = Self::default();
        nodes.into_iter().for_each(|node| witnesses.put(node));
        witnesses
    }
}

/// The logs of replicas, by node. One word if empty, since there are many groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::box_collection, reason = "a word instead of three, in every group")]
pub struct Logs(Option<Box<Vec<(NodeId, LogId)>>>);

impl Logs {
    /// All of them, by node.
    #[must_use]
    pub fn as_slice(&self) -> &[(NodeId, LogId)] {
        self.0.as_ref().map_or(&[], |list| list)
    }

    /// The log of a node.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<LogId> {
        let list = self.as_slice();
        let at = list.binary_search_by_key(&node, |(named, _)| *named).ok()?;
        Some(list[at].1)
    }

    /// Names the log of a node, unless one is named already.
    pub fn name(&mut self, node: NodeId, log: LogId) {
        let list = self.0.get_or_insert_default();
        if let Err(at) = list.binary_search_by_key(&node, |(named, _)| *named) {
            list.insert(at, (node, log));
        }
    }

    /// Keeps the nodes for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        if let Some(list) = &mut self.0 {
            list.retain(|(node, _)| keep(*node));
            if list.is_empty() {
                self.0 = None;
            }
        }
    }

    /// Bytes of memory beside the word.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of =
            |list: &Vec<(NodeId, LogId)>| size_of_val(list) + list.capacity() * size_of::<(NodeId, LogId)>();
        self.0.as_deref().map_or(0, of)
    }
}

impl FromIterator<(NodeId, LogId)> for Logs {
    /// In any order; the first log of a node counts.
    fn from_iter<I: IntoIterator<Item = (NodeId, LogId)>>(logs: I) -> Self {
        let mut named = Self::default();
        logs.into_iter().for_each(|(node, log)| named.name(node, log));
        named
    }
}

/// A configuration and its position in the log. A group's first configuration, which is in no entry, has
/// index 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The index of its entry.
    pub index: Index,
    /// The members from there on.
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
    /// A log is 0, or is that of a node that is no member, or logs are out of order.
    #[error("a configuration may name one log of each replica, and of nobody else")]
    Logs,
    /// A witness is named that is no member, or witnesses are out of order.
    #[error("a configuration may name each replica once as a witness, and nobody else")]
    Witnesses,
    /// A flag is set that this version does not know.
    #[error("a configuration's flags are unknown")]
    Flags,
}

/// Flags of the byte form.
const AUTO_LEAVE: u8 = 1;
const HAS_LOGS: u8 = 2;
const HAS_WITNESSES: u8 = 4;

/// Of the byte form: flags and the four lists' lengths; a node's id; a node's id and its log.
const HEAD_BYTES: usize = 5;
const NODE_BYTES: usize = size_of::<u64>();
const LOG_BYTES: usize = NODE_BYTES + size_of::<u64>();

impl Configuration {
    /// The most entries all lists together may hold.
    pub const REPLICAS_MAX: usize = 64;

    /// The most bytes of the byte form: all lists are full, and every member is named with its log, and as a
    /// witness.
    pub const BYTES_MAX: usize =
        HEAD_BYTES + Self::REPLICAS_MAX * NODE_BYTES + counted_bytes(LOG_BYTES) + counted_bytes(NODE_BYTES);

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

    /// Whether `node` is a member that holds no payloads.
    #[must_use]
    pub fn is_witness(&self, node: NodeId) -> bool {
        self.witnesses.contains(node)
    }

    /// Whether `node` may lead: it votes in the (incoming) half, and holds payloads.
    #[must_use]
    pub fn may_lead(&self, node: NodeId) -> bool {
        self.voters.contains(&node) && !self.is_witness(node)
    }

    /// Whether in each half the voters that hold payloads outnumber the witnesses, and are at least two if
    /// there is a witness. So any majority holds every payload, and the loss of one of those voters leaves
    /// another.
    #[must_use]
    pub fn holds_enough(&self) -> bool {
        [&self.voters, &self.outgoing].into_iter().all(|voters| {
            let witnesses = voters.iter().filter(|node| self.is_witness(**node)).count();
            let whole = voters.len() - witnesses;
            witnesses == 0 || whole >= 2 && whole > witnesses
        })
    }

    /// Whether `node` is a member in any role.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.lists().iter().any(|list| list.contains(&node))
    }

    /// The log that a replica was added with; `None` for initial members, and for nodes that are no members.
    #[must_use]
    pub fn log_of(&self, node: NodeId) -> Option<LogId> {
        self.logs.of(node)
    }

    /// Whether it has no members: the configuration of a replica that has yet to receive its group's.
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

    /// Appends the byte form: flags u8 (1: `auto_leave`, 2: names logs, 4: has witnesses), four list lengths
    /// u8, then every node id; if it names logs, their count u8, then node and log of each; if it has
    /// witnesses, their count u8, then every id. Little-endian.
    ///
    /// # Panics
    /// If the lists hold more than [`Configuration::REPLICAS_MAX`] entries together, or more logs or witnesses are named than
    /// that.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let lists = self.lists();
        assert!(lists.iter().map(|list| list.len()).sum::<usize>() <= Self::REPLICAS_MAX);
        let logs = self.logs.as_slice();
        let witnesses = self.witnesses.as_slice();
        let begin = out.len();
        assert!(logs.len() <= Self::REPLICAS_MAX && witnesses.len() <= Self::REPLICAS_MAX);
        let leaves = if self.auto_leave { AUTO_LEAVE } else { 0 };
        let has_logs = if logs.is_empty() { 0 } else { HAS_LOGS };
        out.push(leaves | has_logs | if witnesses.is_empty() { 0 } else { HAS_WITNESSES });
        out.extend(lists.iter().map(|list| list.len() as u8));
        for node in lists.into_iter().flatten() {
            out.extend_from_slice(&node.0.to_le_bytes());
        }
        if !logs.is_empty() {
            out.push(logs.len() as u8);
        }
        for (node, log) in logs {
            out.extend_from_slice(&node.0.to_le_bytes());
            out.extend_from_slice(&log.0.to_le_bytes());
        }
        if !witnesses.is_empty() {
            out.push(witnesses.len() as u8);
        }
        for node in witnesses {
            out.extend_from_slice(&node.0.to_le_bytes());
        }
        assert!(out.len() - begin <= Self::BYTES_MAX, "the byte form has a bound");
    }

    /// Decodes the byte form and checks it.
    ///
    /// # Errors
    /// [`ConfigurationError`] if the bytes are not what [`Configuration::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigurationError> {
        let (head, mut rest) = bytes.split_at_checked(HEAD_BYTES).ok_or(ConfigurationError::Length)?;
        let total: usize = head[1..].iter().map(|&n| usize::from(n)).sum();
        if total > Self::REPLICAS_MAX {
            return Err(ConfigurationError::TooMany);
        }
        let flags = head[0];
        if flags & !(AUTO_LEAVE | HAS_LOGS | HAS_WITNESSES) != 0 {
            return Err(ConfigurationError::Flags);
        }
        if rest.len() < total * NODE_BYTES {
            return Err(ConfigurationError::Length);
        }
        let mut take = |n: u8| -> Vec<NodeId> {
            let (list, tail) = rest.split_at(usize::from(n) * NODE_BYTES);
            rest = tail;
            let (ids, _) = list.as_chunks::<NODE_BYTES>();
            ids.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect()
        };
        let mut configuration = Self {
            voters: take(head[1]),
            outgoing: take(head[2]),
            learners: take(head[3]),
            learners_next: take(head[4]),
            auto_leave: flags & AUTO_LEAVE != 0,
            logs: Logs::default(),
            witnesses: Witnesses::default(),
        };
        if flags & HAS_LOGS != 0 {
            (configuration.logs, rest) = configuration.decode_logs(rest)?;
        }
        if flags & HAS_WITNESSES != 0 {
            (configuration.witnesses, rest) = configuration.decode_witnesses(rest)?;
        }
        if !rest.is_empty() {
            return Err(ConfigurationError::Length);
        }
        let sorted = |list: &&Vec<NodeId>| list.windows(2).all(|pair| pair[0] < pair[1]);
        if configuration.voters.is_empty() || !configuration.lists().iter().all(sorted) {
            return Err(ConfigurationError::Lists);
        }
        Ok(configuration)
    }

    fn decode_logs<'a>(&self, bytes: &'a [u8]) -> Result<(Logs, &'a [u8]), ConfigurationError> {
        let (pairs, rest) = counted::<LOG_BYTES>(bytes)?;
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let pair = |pair: &[u8; LOG_BYTES]| (NodeId(word(pair)), LogId(word(&pair[8..])));
        let logs: Vec<(NodeId, LogId)> = pairs.iter().map(pair).collect();
        let is_good = !logs.is_empty()
            && logs.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && logs.iter().all(|(node, log)| log.0 != 0 && self.contains(*node));
        if is_good { Ok((Logs(Some(Box::new(logs))), rest)) } else { Err(ConfigurationError::Logs) }
    }

    fn decode_witnesses<'a>(&self, bytes: &'a [u8]) -> Result<(Witnesses, &'a [u8]), ConfigurationError> {
        let (ids, rest) = counted::<NODE_BYTES>(bytes)?;
        let nodes: Vec<NodeId> = ids.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect();
        let is_good = !nodes.is_empty()
            && nodes.windows(2).all(|pair| pair[0] < pair[1])
            && nodes.iter().all(|node| self.contains(*node));
        if is_good {
            Ok((Witnesses(Some(Box::new(nodes))), rest))
        } else {
            Err(ConfigurationError::Witnesses)
        }
    }
}

/// The most bytes of a count u8 and as many items of this length.
const fn counted_bytes(item_bytes: usize) -> usize {
    1 + Configuration::REPLICAS_MAX * item_bytes
}

/// A count u8 and as many items of N bytes; and the bytes after them.
fn counted<const N: usize>(bytes: &[u8]) -> Result<(&[[u8; N]], &[u8]), ConfigurationError> {
    let (&count, rest) = bytes.split_first().ok_or(ConfigurationError::Length)?;
    if usize::from(count) > Configuration::REPLICAS_MAX {
        return Err(ConfigurationError::TooMany);
    }
    let (pieces, rest) = rest.split_at_checked(usize::from(count) * N).ok_or(ConfigurationError::Length)?;
    Ok((pieces.as_chunks::<N>().0, rest))
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
    fn logs_are_named_of_replicas_only_each_once_and_a_cut_anywhere_is_refused() {
        let mut named = Configuration::of_voters([NodeId(1), NodeId(2)]);
        named.learners = alloc::vec![NodeId(7)];
        named.logs = [(NodeId(7), LogId(u64::MAX)), (NodeId(2), LogId(22))].into_iter().collect();
        let mut bytes = Vec::new();
        named.encode(&mut bytes);
        assert_eq!(Configuration::decode(&bytes), Ok(named.clone()));
        assert_eq!(
            [1, 2, 7, 9].map(|node| named.log_of(NodeId(node)).map(|log| log.0)),
            [None, Some(22), Some(u64::MAX), None]
        );
        for at in 0..bytes.len() {
            assert_eq!(Configuration::decode(&bytes[..at]), Err(ConfigurationError::Length), "{at}");
        }
        let with = |logs: &[(u64, u64)]| {
            let logs: Vec<_> = logs.iter().map(|&(node, log)| (NodeId(node), LogId(log))).collect();
            let logs = Logs(Some(Box::new(logs)));
            let mut bytes = Vec::new();
            Configuration { logs, ..named.clone() }.encode(&mut bytes);
            Configuration::decode(&bytes)
        };
        for bad in [&[(3, 5)][..], &[(2, 0)], &[(7, 1), (2, 1)], &[(2, 1), (2, 3)]] {
            assert_eq!(with(bad), Err(ConfigurationError::Logs), "{bad:?}");
        }
        bytes[0] |= 8;
        assert_eq!(Configuration::decode(&bytes), Err(ConfigurationError::Flags));
    }

    #[test]
    fn witnesses_are_replicas_each_once_and_a_cut_anywhere_is_refused() {
        let mut named = Configuration::of_voters([NodeId(1), NodeId(2), NodeId(5)]);
        named.learners = alloc::vec![NodeId(7)];
        named.witnesses = [NodeId(7), NodeId(5), NodeId(5)].into_iter().collect();
        for logs in [&[][..], &[(NodeId(5), LogId(50))]] {
            named.logs = logs.iter().copied().collect();
            let mut bytes = Vec::new();
            named.encode(&mut bytes);
            assert_eq!(Configuration::decode(&bytes), Ok(named.clone()));
            for at in 0..bytes.len() {
                assert_eq!(Configuration::decode(&bytes[..at]), Err(ConfigurationError::Length), "{at}");
            }
            bytes.push(0);
            assert_eq!(Configuration::decode(&bytes), Err(ConfigurationError::Length));
        }
        assert_eq!([1, 5, 7, 9].map(|node| named.is_witness(NodeId(node))), [false, true, true, false]);
        assert_eq!([1, 5, 7].map(|node| named.may_lead(NodeId(node))), [true, false, false]);
        for bad in [&[9][..], &[7, 5], &[5, 5]] {
            let witnesses = Witnesses(Some(Box::new(bad.iter().map(|node| NodeId(*node)).collect())));
            let mut bytes = Vec::new();
            Configuration { witnesses, ..named.clone() }.encode(&mut bytes);
            assert_eq!(Configuration::decode(&bytes), Err(ConfigurationError::Witnesses), "{bad:?}");
        }
    }

    #[test]
    fn two_voters_at_least_hold_everything_and_more_than_there_are_witnesses() {
        let of = |voters: u64, witnesses: &[u64]| Configuration {
            witnesses: witnesses.iter().map(|node| NodeId(*node)).collect(),
            ..Configuration::of_voters((1..=voters).map(NodeId))
        };
        assert!(of(1, &[]).holds_enough() && of(3, &[2]).holds_enough() && of(5, &[1, 2]).holds_enough());
        assert!(!of(2, &[2]).holds_enough() && !of(4, &[1, 2]).holds_enough() && !of(1, &[1]).holds_enough());
        let leaving = Configuration { outgoing: alloc::vec![NodeId(1), NodeId(2)], ..of(3, &[2]) };
        assert!(!leaving.holds_enough(), "either half");
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
