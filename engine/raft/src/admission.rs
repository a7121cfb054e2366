//! Newcomers: they come in as learners, and become voters when they have caught up (thesis, section 4.2.1).
//!
//! Catching up is measured in rounds: a round ends when a newcomer holds what was the log's end when the round began. One
//! that takes less than an election timeout shows that the newcomer would not hold the others up for longer than an
//! election does. Nothing of this is in the log: when the leader changes, newcomers stay learners until somebody asks again.
//!
//! What is not here: which step may be taken when (`membership`).

use alloc::boxed::Box;

use raftwerk_frame::{Index, LogId, NodeId, Time};
use smallvec::SmallVec;

use crate::effects::Effects;
use crate::group::Group;
use crate::membership::{Newcomers, Reconfigure, Reconfigured, Refusal, Route};
use crate::reconfig::{self, Change};

/// A change that waits for newcomers.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    changes: SmallVec<[Change; 4]>,
    logs: SmallVec<[(NodeId, LogId); 2]>,
    route: Route,
    newcomers: SmallVec<[Newcomer; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Newcomer {
    node: NodeId,
    /// What the log's end was when the round began; holding it ends the round.
    target: Index,
    began: Time,
    is_caught_up: bool,
}

/// How far a newcomer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewcomerStatus {
    /// Who.
    pub node: NodeId,
    /// What it holds durably.
    pub matched: Index,
    /// What it is to hold next.
    pub target: Index,
}

impl Group {
    /// New voters are not ready: those that take no part yet come in as learners, and all are waited for.
    pub(crate) fn begin_admission(&mut self, wish: &Reconfigure<'_>, effects: &mut Effects) -> Reconfigured {
        let end = reconfig::enter_joint(&self.configuration, wish.changes, true)
            .and_then(|end| reconfig::name(&self.configuration, end, wish.logs));
        let Ok(end) = end else { return Reconfigured::Refused(Refusal::NotReady) };
        let joining: SmallVec<[NodeId; 4]> =
            end.voters.iter().copied().filter(|node| !self.configuration.is_voter(*node)).collect();
        let unknown: SmallVec<[Change; 4]> = joining
            .iter()
            .filter(|node| !self.configuration.contains(**node))
            .map(
                |&node| {
                    if end.is_witness(node) { Change::WitnessLearner(node) } else { Change::Learner(node) }
                },
            )
            .collect();
        let first = reconfig::simple(&self.configuration, &unknown)
            .and_then(|first| reconfig::name(&self.configuration, first, wish.logs));
        let first = match first {
            Ok(first) => first,
            Err(error) => return Reconfigured::Refused(Refusal::Change(error)),
        };
        if wish.dry_run {
            return Reconfigured::Planned(first);
        }
        if first != self.configuration {
            self.append_configuration(first, effects);
        }
        let (target, began) = (self.log.last().index, self.now);
        let newcomer = |node| Newcomer { node, target, began, is_caught_up: false };
        self.admission = Some(Box::new(Admission {
            changes: SmallVec::from_slice(wish.changes),
            logs: SmallVec::from_slice(wish.logs),
            route: wish.route,
            newcomers: joining.into_iter().map(newcomer).collect(),
        }));
        Reconfigured::Admitting
    }

    /// Whether a node keeps up with the log: it was sent all that is committed, and has left nothing unanswered for long.
    pub(crate) fn is_caught_up(&self, node: NodeId) -> bool {
        let patience = self.config.election_timeout();
        self.peer(node).is_some_and(|progress| {
            !self.is_leaving(node) && progress.next > self.commit && progress.keeps_up(self.now, patience)
        })
    }

    /// Something was acknowledged, or committed: rounds may be over, and then the change may begin.
    pub(crate) fn continue_admission(&mut self, effects: &mut Effects) {
        let Some(mut admission) = self.admission.take() else { return };
        let (last, now, patience) = (self.log.last().index, self.now, self.config.election_timeout());
        for newcomer in admission.newcomers.iter_mut().filter(|newcomer| !newcomer.is_caught_up) {
            let matched = self.peer(newcomer.node).map_or(Index(0), |progress| progress.matched);
            if matched >= newcomer.target {
                newcomer.is_caught_up = now.since(newcomer.began) < patience || matched == last;
                (newcomer.target, newcomer.began) = (last, now);
            }
        }
        let is_ready = admission.newcomers.iter().all(|newcomer| newcomer.is_caught_up);
        if !is_ready || self.configuration_at > self.commit || effects.append.is_some() {
            self.admission = Some(admission);
            return;
        }
        let wish = Reconfigure {
            changes: &admission.changes,
            logs: &admission.logs,
            seen: None,
            route: admission.route,
            newcomers: Newcomers::Checked,
            dry_run: false,
        };
        let outcome = match self.plan(&wish) {
            Ok(to) => Reconfigured::Started(self.append_configuration(to, effects)),
            Err(Refusal::NotCaughtUp(_) | Refusal::QuorumAtRisk | Refusal::Transferring) => {
                // It may pass; another round, then.
                admission.newcomers.iter_mut().for_each(|newcomer| newcomer.is_caught_up = false);
                self.admission = Some(admission);
                return;
            }
            Err(refusal) => Reconfigured::Abandoned(refusal),
        };
        effects.reconfigured = Some(outcome);
    }

    /// A leader's newcomers that are on their way to being voters.
    pub fn newcomers(&self) -> impl Iterator<Item = NewcomerStatus> + '_ {
        let newcomers = self.admission.iter().flat_map(|admission| admission.newcomers.iter());
        newcomers.map(|newcomer| NewcomerStatus {
            node: newcomer.node,
            matched: self.peer(newcomer.node).map_or(Index(0), |progress| progress.matched),
            target: newcomer.target,
        })
    }
}
