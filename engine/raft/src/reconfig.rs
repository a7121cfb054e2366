//! The algebra of configurations: which one follows from another by a set of changes (paper, section 6;
//! thesis, 4.3).
//!
//! Pure functions on [`Configuration`]s: no leader, no log, no health checks. When a leader may take such a
//! step is in `membership`. There are two ways:
//! - [`simple`] changes at most one voter, so that any majority before and any after have a replica in
//!   common;
//! - [`enter_joint`] takes any set of changes, to a configuration in which both majorities must agree, and
//!   [`leave_joint`] ends it.
//!
//! In a set of changes the last change of a node counts. Node 0 does not exist: a change that names it does
//! nothing.

use alloc::vec::Vec;

use raftwerk_frame::{Configuration, LogId, NodeId};

/// The change of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It votes. Adds it, or promotes a learner.
    Voter(NodeId),
    /// It receives the log and does not vote. Adds it, or demotes a voter.
    Learner(NodeId),
    /// It is no member any longer. Does nothing if it is none.
    Remove(NodeId),
    /// It votes, and holds no payloads. Adds it, or promotes a learner that is a witness.
    Witness(NodeId),
    /// It receives headers, holds no payloads and does not vote: a witness that has yet to catch up. Adds it,
    /// or demotes a witness.
    WitnessLearner(NodeId),
}

impl Change {
    /// The node.
    #[must_use]
    pub const fn node(self) -> NodeId {
        match self {
            Self::Voter(node)
            | Self::Learner(node)
            | Self::Remove(node)
            | Self::Witness(node)
            | Self::WitnessLearner(node) => node,
        }
    }
}

/// When a joint configuration is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// By the leader, as soon as it is committed.
    Automatically,
    /// When a request without changes asks for it.
    OnRequest,
}

/// Why no configuration follows from a set of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The configuration is joint already: one change at a time.
    AlreadyJoint,
    /// A simple change in a joint configuration.
    SimpleInJoint,
    /// The configuration is not joint.
    NotJoint,
    /// The configuration has no voters, so no majority can agree.
    NoVoters,
    /// No voter would be left.
    AllVotersRemoved,
    /// More than one voter changes: only a joint configuration makes that safe.
    ManyVoters,
    /// More replicas than a configuration may name.
    TooMany,
    /// The node is a member with another log. That one has to be removed first, and its removal committed.
    OtherLog(NodeId),
    /// The node is a member as a witness, and should hold payloads; or the reverse. Its log cannot change its
    /// kind: the replica has to be removed first, and a new one must join.
    OtherKind(NodeId),
    /// Of the voters, fewer than two would hold payloads, or no more than there are witnesses.
    TooManyWitnesses,
}

/// The first configuration of a group, with these members; no logs are named.
///
/// # Errors
/// [`ChangeError::NoVoters`], [`ChangeError::TooMany`], [`ChangeError::TooManyWitnesses`].
pub fn bootstrap(members: &[Change]) -> Result<Configuration, ChangeError> {
    let nobody = Configuration::default();
    let to = changed(nobody.clone(), members).map_err(|_| ChangeError::NoVoters)?;
    checked(&nobody, to)
}

/// The configuration after changes of at most one voter, and of any number of learners.
///
/// # Errors
/// [`ChangeError`] if there is none.
pub fn simple(from: &Configuration, changes: &[Change]) -> Result<Configuration, ChangeError> {
    if from.is_joint() {
        return Err(ChangeError::SimpleInJoint);
    }
    let to = changed(from.clone(), changes)?;
    let differ = |one: &[NodeId], other: &[NodeId]| one.iter().filter(|node| !other.contains(node)).count();
    if differ(&from.voters, &to.voters) + differ(&to.voters, &from.voters) > 1 {
        return Err(ChangeError::ManyVoters);
    }
    assert!(!to.is_joint(), "changes alone make no configuration joint");
    checked(from, to)
}

/// The joint configuration that begins changes of any kind and number. A voter that is to become a learner
/// stays a voter until the joint configuration is left: the old half still needs its vote.
///
/// # Errors
/// [`ChangeError`] if there is none.
pub fn enter_joint(
    from: &Configuration,
    changes: &[Change],
    leave: Leave,
) -> Result<Configuration, ChangeError> {
    if from.is_joint() {
        return Err(ChangeError::AlreadyJoint);
    }
    if from.voters.is_empty() {
        return Err(ChangeError::NoVoters);
    }
    let joint = Configuration {
        outgoing: from.voters.clone(),
        auto_leave: leave == Leave::Automatically,
        ..from.clone()
    };
    let to = changed(joint, changes)?;
    assert!(to.is_joint() && to.outgoing.len() == from.voters.len(), "the old half keeps its say");
    checked(from, to)
}

/// The configuration after a joint one.
///
/// # Errors
/// [`ChangeError::NotJoint`].
pub fn leave_joint(from: &Configuration) -> Result<Configuration, ChangeError> {
    if !from.is_joint() {
        return Err(ChangeError::NotJoint);
    }
    let mut to = Configuration {
        voters: from.voters.clone(),
        learners: from.learners.clone(),
        logs: from.logs.clone(),
        witnesses: from.witnesses.clone(),
        ..Configuration::default()
    };
    for &node in &from.learners_next {
        put(&mut to.learners, node);
    }
    forget_absent(&mut to);
    assert!(!to.is_joint() && to.voters.len() == from.voters.len(), "the new half remains");
    Ok(to)
}

/// `to`, which follows from `from`, with the logs of the members that it adds. A member of both keeps its
/// log: a majority of `from` and one of `to` have a replica in common only if that has the same log in both.
///
/// # Errors
/// [`ChangeError::OtherLog`].
pub fn name(
    from: &Configuration,
    mut to: Configuration,
    logs: &[(NodeId, LogId)],
) -> Result<Configuration, ChangeError> {
    for &(node, log) in logs {
        if from.contains(node) {
            if from.log_of(node) != Some(log) {
                return Err(ChangeError::OtherLog(node));
            }
        } else if to.contains(node) {
            to.logs.name(node, log);
        }
    }
    Ok(to)
}

/// Logs are named of members only; the same holds for witnesses.
fn forget_absent(to: &mut Configuration) {
    let (mut logs, mut witnesses) = (core::mem::take(&mut to.logs), core::mem::take(&mut to.witnesses));
    logs.retain(|node| to.contains(node));
    witnesses.retain(|node| to.contains(node));
    (to.logs, to.witnesses) = (logs, witnesses);
}

/// A node that is a witness in one, and a member with payloads in the other.
fn other_kind(from: &Configuration, to: &Configuration) -> Option<NodeId> {
    if from.witnesses == to.witnesses {
        return None;
    }
    let is_other = |node: &NodeId| to.contains(*node) && to.is_witness(*node) != from.is_witness(*node);
    from.replicas().into_iter().find(is_other)
}

/// Whether `to` may be the next configuration in a log after `from`.
#[must_use]
pub fn may_follow(from: &Configuration, to: &Configuration) -> bool {
    if from.is_joint() {
        return leave_joint(from).as_ref() == Ok(to);
    }
    let stays = |node: &NodeId| !to.contains(*node) || to.log_of(*node) == from.log_of(*node);
    if !from.replicas().iter().all(stays) || other_kind(from, to).is_some() || !to.holds_enough() {
        return false;
    }
    if to.is_joint() {
        return to.outgoing == from.voters;
    }
    let differ = |one: &[NodeId], other: &[NodeId]| one.iter().filter(|node| !other.contains(node)).count();
    differ(&from.voters, &to.voters) + differ(&to.voters, &from.voters) <= 1
}

fn changed(mut to: Configuration, changes: &[Change]) -> Result<Configuration, ChangeError> {
    for change in changes.iter().filter(|change| change.node() != NodeId(0)) {
        match *change {
            Change::Voter(node) | Change::Learner(node) => {
                to.witnesses.retain(|witness| witness != node);
            }
            Change::Witness(node) | Change::WitnessLearner(node) => to.witnesses.put(node),
            Change::Remove(_) => {}
        }
        match *change {
            Change::Voter(node) | Change::Witness(node) => {
                take(&mut to.learners, node);
                take(&mut to.learners_next, node);
                put(&mut to.voters, node);
            }
            Change::Learner(node) | Change::WitnessLearner(node) if to.learners.contains(&node) => {}
            Change::Learner(node) | Change::WitnessLearner(node) => {
                take(&mut to.voters, node);
                let still_votes = to.outgoing.contains(&node);
                put(if still_votes { &mut to.learners_next } else { &mut to.learners }, node);
            }
            Change::Remove(node) => {
                take(&mut to.voters, node);
                take(&mut to.learners, node);
                take(&mut to.learners_next, node);
            }
        }
    }
    if to.voters.is_empty() { Err(ChangeError::AllVotersRemoved) } else { Ok(to) }
}

fn checked(from: &Configuration, mut to: Configuration) -> Result<Configuration, ChangeError> {
    forget_absent(&mut to);
    let named = to.voters.len() + to.outgoing.len() + to.learners.len() + to.learners_next.len();
    if named > Configuration::REPLICAS_MAX {
        return Err(ChangeError::TooMany);
    }
    if let Some(node) = other_kind(from, &to) {
        return Err(ChangeError::OtherKind(node));
    }
    if to.holds_enough() { Ok(to) } else { Err(ChangeError::TooManyWitnesses) }
}

fn put(list: &mut Vec<NodeId>, node: NodeId) {
    if let Err(at) = list.binary_search(&node) {
        list.insert(at, node);
    }
}

fn take(list: &mut Vec<NodeId>, node: NodeId) {
    if let Ok(at) = list.binary_search(&node) {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|&id| NodeId(id)).collect()
    }

    fn voters(ids: &[u64]) -> Configuration {
        Configuration::of_voters(nodes(ids))
    }

    #[test]
    fn one_voter_more_or_less_goes_the_short_way_and_two_do_not() {
        use Change::{Learner, Remove, Voter};
        let three = voters(&[1, 2, 3]);
        assert_eq!(simple(&three, &[Voter(NodeId(4))]), Ok(voters(&[1, 2, 3, 4])));
        assert_eq!(simple(&three, &[Remove(NodeId(3)), Remove(NodeId(3))]), Ok(voters(&[1, 2])));
        let replace = [Remove(NodeId(3)), Voter(NodeId(4))];
        assert_eq!(simple(&three, &replace), Err(ChangeError::ManyVoters));
        let away_and_back = [Learner(NodeId(3)), Voter(NodeId(3))];
        assert_eq!(simple(&three, &away_and_back), Ok(three));
        assert_eq!(simple(&voters(&[1]), &[Learner(NodeId(1))]), Err(ChangeError::AllVotersRemoved));
    }

    #[test]
    fn a_voter_that_is_demoted_votes_until_the_joint_configuration_is_left() {
        let changes = [Change::Learner(NodeId(1)), Change::Voter(NodeId(2)), Change::Learner(NodeId(5))];
        let joint = enter_joint(&voters(&[1]), &changes, Leave::Automatically).unwrap();
        assert_eq!((&joint.voters, &joint.outgoing), (&nodes(&[2]), &nodes(&[1])));
        assert_eq!((&joint.learners, &joint.learners_next), (&nodes(&[5]), &nodes(&[1])));
        assert_eq!(enter_joint(&joint, &[], Leave::OnRequest), Err(ChangeError::AlreadyJoint));
        assert_eq!(simple(&joint, &[]), Err(ChangeError::SimpleInJoint));
        let left = leave_joint(&joint).unwrap();
        assert_eq!((left.voters, left.learners), (nodes(&[2]), nodes(&[1, 5])));
        assert!(left.outgoing.is_empty() && left.learners_next.is_empty() && !left.auto_leave);
        assert_eq!(leave_joint(&voters(&[1])), Err(ChangeError::NotJoint));
    }

    #[test]
    fn nobody_is_node_zero_and_nobody_makes_a_group_joint() {
        let zero = [Change::Voter(NodeId(1)), Change::Remove(NodeId(0)), Change::Voter(NodeId(0))];
        assert_eq!(simple(&Configuration::default(), &zero), Ok(voters(&[1])));
        assert_eq!(
            enter_joint(&Configuration::default(), &zero, Leave::OnRequest),
            Err(ChangeError::NoVoters)
        );
    }

    #[test]
    fn a_configuration_stays_within_what_its_byte_form_holds() {
        let many: Vec<Change> = (1..=65).map(|id| Change::Learner(NodeId(id))).collect();
        assert_eq!(simple(&voters(&[99]), &many), Err(ChangeError::TooMany));
        assert!(simple(&voters(&[99]), &many[..63]).is_ok());
    }

    fn change() -> impl Strategy<Value = Change> {
        (0..5u8, 0..8u64).prop_map(|(kind, id)| match kind {
            0 => Change::Voter(NodeId(id)),
            1 => Change::Learner(NodeId(id)),
            2 => Change::Witness(NodeId(id)),
            3 => Change::WitnessLearner(NodeId(id)),
            _ => Change::Remove(NodeId(id)),
        })
    }

    proptest! {
        /// Both routes end in the same configuration, every list is sorted, and no node is in two lists
        /// except both halves of the voters.
        #[test]
        fn both_ways_lead_to_the_same_end(
            first in prop::collection::vec(1..8u64, 1..5),
            changes in prop::collection::vec(change(), 0..8),
        ) {
            let from = voters(&first);
            let joint = enter_joint(&from, &changes, Leave::Automatically);
            if let Ok(joint) = &joint {
                let left = leave_joint(joint).unwrap();
                prop_assert!(may_follow(&from, joint) && may_follow(joint, &left));
                for list in [&left.voters, &left.learners, &joint.voters, &joint.learners, &joint.learners_next] {
                    prop_assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
                }
                prop_assert!(left.voters.iter().all(|node| !left.learners.contains(node)));
                prop_assert!(joint.learners_next.iter().all(|node| joint.outgoing.contains(node)));
                if let Ok(short) = simple(&from, &changes) {
                    prop_assert!(may_follow(&from, &short));
                    prop_assert_eq!(short, left);
                }
            }
            let is_expected = matches!(
                joint,
                Err(ChangeError::AllVotersRemoved | ChangeError::OtherKind(_) | ChangeError::TooManyWitnesses)
            );
            prop_assert_eq!(joint.is_err(), is_expected);
            if let Ok(joint) = &joint {
                prop_assert!(joint.holds_enough() && other_kind(&from, joint).is_none());
                prop_assert!(joint.witnesses.as_slice().iter().all(|node| joint.contains(*node)));
            }
        }

        /// Any majority before a simple change and any after it have a replica in common.
        #[test]
        fn majorities_across_a_simple_change_meet(
            first in prop::collection::vec(1..7u64, 1..6),
            one in change(),
        ) {
            let from = voters(&first);
            let Ok(to) = simple(&from, &[one]) else { return Ok(()) };
            for before in 0u32..128 {
                let after = !before & 127;
                let agree = |list: &[NodeId], set: u32| {
                    list.iter().filter(|node| set & (1 << node.0) != 0).count() > list.len() / 2
                };
                prop_assert!(!(agree(&from.voters, before) && agree(&to.voters, after)));
            }
        }
    }

    #[test]
    fn a_node_is_named_with_one_log_until_it_has_left_and_may_come_back_with_another() {
        let (one, other) = ((NodeId(3), LogId(31)), (NodeId(3), LogId(32)));
        let add = |from: &Configuration, log| {
            simple(from, &[Change::Voter(NodeId(3))]).and_then(|to| name(from, to, &[log]))
        };
        let first = voters(&[1, 2]);
        let named = add(&first, one).unwrap();
        assert_eq!((named.log_of(NodeId(3)), named.log_of(NodeId(1))), (Some(LogId(31)), None));
        assert_eq!(add(&named, one).as_ref(), Ok(&named));
        assert_eq!(add(&named, other), Err(ChangeError::OtherLog(NodeId(3))));
        let founder = name(&first, first.clone(), &[(NodeId(1), LogId(9))]);
        assert_eq!(founder, Err(ChangeError::OtherLog(NodeId(1))), "whose log nobody has named");
        let away_and_back =
            enter_joint(&named, &[Change::Remove(NodeId(3)), Change::Voter(NodeId(4))], Leave::Automatically);
        let joint = away_and_back.unwrap();
        assert_eq!(joint.log_of(NodeId(3)), Some(LogId(31)), "it has a say until that is left");
        assert_eq!(name(&joint, joint.clone(), &[other]), Err(ChangeError::OtherLog(NodeId(3))));
        let gone = leave_joint(&joint).unwrap();
        assert!(gone.logs.as_slice().is_empty() && may_follow(&joint, &gone));
        let again = add(&gone, other).unwrap();
        assert!(
            may_follow(&gone, &again)
                && !may_follow(
                    &named,
                    &Configuration { logs: [other].into_iter().collect(), ..named.clone() }
                )
        );
    }

    #[test]
    fn a_witness_stays_one_until_it_is_gone_and_never_outweighs_those_who_hold_everything() {
        use Change::{Learner, Remove, Voter, Witness, WitnessLearner};
        let (one, three) = (NodeId(1), NodeId(3));
        assert_eq!(simple(&voters(&[1]), &[Witness(three)]), Err(ChangeError::TooManyWitnesses));
        let two = simple(&voters(&[1, 2]), &[Witness(three)]).unwrap();
        assert!(two.is_witness(three) && two.voters == nodes(&[1, 2, 3]));
        for change in [Voter(three), Learner(three)] {
            assert_eq!(simple(&two, &[change]), Err(ChangeError::OtherKind(three)));
            assert_eq!(
                enter_joint(&two, &[Remove(three), change], Leave::Automatically),
                Err(ChangeError::OtherKind(three))
            );
        }
        assert_eq!(simple(&two, &[Witness(one)]), Err(ChangeError::OtherKind(one)));
        assert_eq!(simple(&two, &[Remove(one)]), Err(ChangeError::TooManyWitnesses));
        assert_eq!(simple(&two, &[Witness(NodeId(4))]), Err(ChangeError::TooManyWitnesses));
        let demoted = simple(&two, &[WitnessLearner(three)]).unwrap();
        assert!(demoted.is_witness(three) && demoted.learners == nodes(&[3]));
        assert_eq!(simple(&demoted, &[Witness(three)]), Ok(two.clone()));
        let joint = enter_joint(&two, &[Remove(three), Voter(NodeId(4))], Leave::Automatically).unwrap();
        assert!(joint.is_witness(three), "it has a say until that is left");
        let gone = leave_joint(&joint).unwrap();
        assert_eq!(gone, voters(&[1, 2, 4]));
        assert!(may_follow(&joint, &gone) && may_follow(&gone, &simple(&gone, &[Voter(three)]).unwrap()));
        let whole = Configuration { witnesses: Default::default(), ..two.clone() };
        assert!(!may_follow(&two, &whole) && !may_follow(&whole, &two));
    }

    #[test]
    fn what_is_unknown_is_removed_without_a_trace() {
        let changes = vec![Change::Remove(NodeId(9))];
        assert_eq!(simple(&voters(&[1, 2]), &changes), Ok(voters(&[1, 2])));
    }
}
