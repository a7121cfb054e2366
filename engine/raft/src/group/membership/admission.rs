//! New members: they are added as learners, and become voters when they have caught up (thesis, section
//! 4.2.1).
//!
//! Catching up is measured in rounds: a round ends when a new member holds what was the log's end when the
//! round began. A round shorter than an election timeout shows that the new voter would not delay the others
//! for longer than an election does. This state is not in the log: when the leader changes, new members stay
//! learners until the next request.
//!
//! What is not here: when a leader may make which step (`membership`).

use alloc::boxed::Box;

use raftwerk_frame::{Index, LogId, NodeId, Time};
use smallvec::SmallVec;

use crate::contract::{Admission, Effects, Reconfigure, Reconfigured, Refusal, Transition};
use crate::group::Group;
use crate::reconfig::{self, Change};

/// A change that waits until its new members have caught up.
#[derive(Clone, Debug)]
pub(crate) struct PendingAdmission {
    changes: SmallVec<[Change; 4]>,
    logs: SmallVec<[(NodeId, LogId); 2]>,
    transition: Transition,
    new_members: SmallVec<[NewMember; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct NewMember {
    node: NodeId,
    /// The log's end when the round began; holding it ends the round.
    target: Index,
    began: Time,
    is_caught_up: bool,
}

/// How far a new member has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewMemberStatus {
    /// The node.
    pub node: NodeId,
    /// The last index that it holds durably.
    pub matched: Index,
    /// The index that it has to hold next.
    pub target: Index,
}

impl Group {
    /// New voters are not caught up: those that are no members yet are added as learners, and the change
    /// waits for all.
    pub(crate) fn begin_admission(
        &mut self,
        request: &Reconfigure<'_>,
        effects: &mut Effects,
    ) -> Reconfigured {
        let end =
            reconfig::enter_joint(self.configuration(), request.changes, reconfig::Leave::Automatically)
                .and_then(|end| reconfig::name(self.configuration(), end, request.logs));
        let Ok(end) = end else { return Reconfigured::Refused(Refusal::NotReady) };
        let joining: SmallVec<[NodeId; 4]> =
            end.voters.iter().copied().filter(|node| !self.configuration().is_voter(*node)).collect();
        let unknown: SmallVec<[Change; 4]> = joining
            .iter()
            .filter(|node| !self.configuration().contains(**node))
            .map(
                |&node| {
                    if end.is_witness(node) { Change::WitnessLearner(node) } else { Change::Learner(node) }
                },
            )
            .collect();
        let first = reconfig::simple(self.configuration(), &unknown)
            .and_then(|first| reconfig::name(self.configuration(), first, request.logs));
        let first = match first {
            Ok(first) => first,
            Err(error) => return Reconfigured::Refused(Refusal::Change(error)),
        };
        if request.dry_run {
            return Reconfigured::Planned(first);
        }
        if first != *self.configuration() {
            self.append_configuration(first, effects);
        }
        assert!(self.is_leader(), "a leader adds new members");
        assert!(self.admission().is_none(), "one change waits for new members at a time");
        let (target, began) = (self.log.last().index, self.now);
        let new_member = |node| NewMember { node, target, began, is_caught_up: false };
        let admission = PendingAdmission {
            changes: SmallVec::from_slice(request.changes),
            logs: SmallVec::from_slice(request.logs),
            transition: request.transition,
            new_members: joining.into_iter().map(new_member).collect(),
        };
        self.set_admission(Box::new(admission));
        Reconfigured::Admitting
    }

    /// Whether a node keeps up with the log: it was sent all that is committed, and has left no append
    /// unanswered for an election timeout.
    pub(crate) fn is_caught_up(&self, node: NodeId) -> bool {
        let patience = self.config.election_timeout();
        self.peer(node).is_some_and(|progress| {
            !self.is_leaving(node) && progress.next() > self.commit && progress.keeps_up(self.now, patience)
        })
    }

    /// The log was acknowledged, or committed, further: rounds may be over, and then the change may begin.
    pub(crate) fn continue_admission(&mut self, effects: &mut Effects) {
        let Some(mut admission) = self.take_admission() else { return };
        let (last, now, patience) = (self.log.last().index, self.now, self.config.election_timeout());
        for new_member in admission.new_members.iter_mut().filter(|new_member| !new_member.is_caught_up) {
            let matched = self.peer(new_member.node).map_or(Index(0), |progress| progress.matched());
            assert!(new_member.target <= last, "a round ends at an entry of the log");
            assert!(new_member.began <= now, "a round begins before it ends");
            if matched >= new_member.target {
                new_member.is_caught_up = now.since(new_member.began) < patience || matched == last;
                (new_member.target, new_member.began) = (last, now);
            }
        }
        let is_ready = admission.new_members.iter().all(|new_member| new_member.is_caught_up);
        if !is_ready || self.configuration_index() > self.commit || effects.append.is_some() {
            return self.set_admission(admission);
        }
        let request = Reconfigure {
            changes: &admission.changes,
            logs: &admission.logs,
            expected_index: None,
            transition: admission.transition,
            admission: Admission::Checked,
            dry_run: false,
        };
        let outcome = match self.plan(&request) {
            Ok(to) => Reconfigured::Started(self.append_configuration(to, effects)),
            Err(Refusal::NotCaughtUp(_) | Refusal::QuorumAtRisk | Refusal::Transferring) => {
                // This may pass: the new members catch up for another round.
                admission.new_members.iter_mut().for_each(|new_member| new_member.is_caught_up = false);
                return self.set_admission(admission);
            }
            Err(refusal) => Reconfigured::Abandoned(refusal),
        };
        assert!(self.admission().is_none(), "a change that has begun waits no longer");
        effects.reconfigured = Some(outcome);
    }

    /// Ends the wait for new members.
    pub(crate) fn take_admission(&mut self) -> Option<Box<PendingAdmission>> {
        self.leadership_mut()?.take_admission()
    }

    fn set_admission(&mut self, admission: Box<PendingAdmission>) {
        if let Some(leadership) = self.leadership_mut() {
            leadership.set_admission(admission);
        }
    }

    /// A leader's new members that are to become voters.
    pub fn new_members(&self) -> impl Iterator<Item = NewMemberStatus> + '_ {
        let new_members = self.admission().into_iter().flat_map(|admission| admission.new_members.iter());
        new_members.map(|new_member| NewMemberStatus {
            node: new_member.node,
            matched: self.peer(new_member.node).map_or(Index(0), |progress| progress.matched()),
            target: new_member.target,
        })
    }
}
