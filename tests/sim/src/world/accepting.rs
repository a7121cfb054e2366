//! A group that has lost something on so many disks that no leader can repair it, and the operator's way out.
//!
//! When all else is judged, a bare majority of a group's voters is left; the others are gone. Each of those lost a durable batch.
//! A replica that has lost entries by that is fenced, and none leads. Then the operator accepts what is lost: not before the node is
//! opened for that, nothing but what is lost, and no more than that is gone afterwards: whatever a remaining replica has, stays.
//!
//! What is not here: damage that a quorum lives on after (`faults`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use raftwerk::{AcceptLossError, GroupId, Loss};
use raftwerk_frame::{EntryId, Index};

use super::{World, group_id};
use crate::chance::Chance;
use crate::disk::held;
use crate::fault::{FaultKind, Strike};
use crate::node::{State, Written};
use crate::watch::{Checked, Violation};

/// How long a node may take to start, or to answer.
const SOON: u64 = 10_000_000_000;
/// How many election timeouts no replica leads, and how many one has to begin with, of the longest, 2 T.
const TIMEOUTS_WITHOUT: u64 = 5;
const TIMEOUTS_TO_LEAD: u64 = 10;
/// A batch among so many of the latest is lost.
const LATEST: usize = 6;

fn broken(what: String) -> Violation {
    Violation::new("a named loss", what)
}

impl World<'_> {
    /// Takes so much from a group that only the operator can decide how it goes on; and decides.
    pub(super) fn lose_for_good(&mut self) -> Checked {
        if !self.plan.accepts_losses {
            return Ok(());
        }
        self.mend_links();
        let mut chance = Chance::of(self.seed, "accepting");
        let group = chance.below(self.plan.groups as u64) as usize;
        let id = group_id(group);
        let mut left = self.fit(group);
        left.truncate(self.plan.voters[group].len() / 2 + 1);
        let lost: Vec<Written> = left.iter().filter_map(|at| self.some_batch(*at, id, &mut chance)).collect();
        if left.len() <= self.plan.voters[group].len() / 2 || lost.len() < left.len() {
            return Ok(());
        }
        for at in 0..self.nodes.len() {
            self.nodes[at].is_fenced |= !left.contains(&at);
        }
        for (at, written) in left.iter().copied().zip(&lost) {
            let salt = chance.any();
            let strike = Strike { at: self.now, kind: FaultKind::BitRot, node: at, other: at, span: 0, salt };
            super::faults::spoil(&self.nodes[at].files, &strike, written, None);
            self.nodes[at].damaged();
            self.say(|| format!("n{}  loses {} at {} for good", at + 1, written.path, written.offset));
            self.nodes[at].hurries = true;
            self.fall(at, true)?;
        }
        if !self.await_up(&left)? {
            return Ok(()); // a node refuses to open: nothing to be accepted there
        }
        if left.iter().all(|at| self.has_no_configuration(*at, id)) {
            return Ok(()); // no replica is left that knows the members
        }
        let fenced: Vec<usize> = left.iter().copied().filter(|at| self.loss_at(*at, id).is_some()).collect();
        if fenced.is_empty() {
            return Ok(()); // what they lost was in their checkpoints
        }
        self.stay_without_a_leader(id)?;
        self.accept_losses(id, &fenced)?;
        self.lead_with_the_rest(group, &left)
    }

    /// The voters of a group that take part and have lost nothing of it.
    fn fit(&self, group: usize) -> Vec<usize> {
        let id = group_id(group);
        let is_fit = |at: &usize| {
            let Some(body) = self.nodes[*at].body.as_ref() else { return false };
            let mut replicas = body.replicas(body.worker_of(id)).filter(|view| view.group == id);
            self.nodes[*at].is_reachable()
                && !self.nodes[*at].is_wiped
                && replicas.any(|view| view.fence.is_none() && view.machine.is_some())
        };
        self.plan.voters[group].iter().copied().filter(is_fit).collect()
    }

    /// A durable batch with entries of the group, among the latest that others vouch for.
    fn some_batch(&self, at: usize, id: GroupId, chance: &mut Chance) -> Option<Written> {
        let node = &self.nodes[at];
        let lane = node.body.as_ref()?.worker_of(id);
        let paths = node.files.paths();
        let is_good = |written: &&Written| {
            written.lane == lane
                && written.lsn <= node.vouched[lane]
                && written.groups.contains(&id)
                && paths.binary_search(&written.path).is_ok()
        };
        let latest: Vec<&Written> = node.written.iter().rev().filter(is_good).take(LATEST).collect();
        latest.get(chance.below(latest.len() as u64) as usize).map(|written| (*written).clone())
    }

    fn await_up(&mut self, nodes: &[usize]) -> Result<bool, Violation> {
        let state = |world: &Self, state| nodes.iter().filter(|at| world.nodes[**at].state == state).count();
        let up = self.run_until(self.now + SOON, |world| {
            state(world, State::Up) == nodes.len() || state(world, State::Retired) > 0
        })?;
        Ok(up && state(self, State::Retired) == 0)
    }

    fn loss_at(&self, at: usize, id: GroupId) -> Option<Loss> {
        self.nodes[at].body.as_ref()?.present_loss(id)
    }

    fn has_no_configuration(&self, at: usize, id: GroupId) -> bool {
        let Some(body) = &self.nodes[at].body else { return false };
        let mut replicas = body.replicas(body.worker_of(id)).filter(|view| view.group == id);
        replicas.any(|view| view.core.configuration().is_empty())
    }

    /// No replica may lead by the vote of a fenced one, and there is no majority without.
    fn stay_without_a_leader(&mut self, id: GroupId) -> Checked {
        let timeout = 2 * self.longest_timeout();
        let leads =
            self.run_until(self.now + TIMEOUTS_WITHOUT * timeout, |world| world.leading(id).is_some())?;
        if leads {
            return Err(broken(format!(
                "somebody leads before it is accepted: {}",
                self.describe(id.0 as usize - 1)
            )));
        }
        Ok(())
    }

    /// Accepts what is lost, on all that have lost something: too early, wrongly, and as it is.
    fn accept_losses(&mut self, id: GroupId, fenced: &[usize]) -> Checked {
        for at in fenced.iter().copied() {
            let Some(loss) = self.loss_at(at, id) else { continue };
            self.check_loss(at, &loss)?;
            let said = self.say_accepted(at, loss)?;
            if said != Err(AcceptLossError::Forbidden) {
                return Err(broken(format!(
                    "n{} was not opened for it, and says {said:?} to {loss:?}",
                    at + 1
                )));
            }
            (self.nodes[at].accepts_losses, self.nodes[at].hurries) = (true, true);
            self.fall(at, false)?;
        }
        if !self.await_up(fenced)? {
            return Err(broken("somebody does not open again".to_owned()));
        }
        for at in fenced.iter().copied() {
            let Some(loss) = self.loss_at(at, id) else {
                return Err(broken(format!("n{} has forgotten that it has lost something", at + 1)));
            };
            self.check_loss(at, &loss)?;
            let shorter = EntryId { index: Index(loss.last.index.0.wrapping_sub(1)), ..loss.last };
            let said = self.say_accepted(at, Loss { last: shorter, ..loss })?;
            if said != Err(AcceptLossError::Other(loss)) {
                return Err(broken(format!("n{} says {said:?} to the loss of more than {loss:?}", at + 1)));
            }
            let said = self.say_accepted(at, loss)?;
            if said != Ok(()) {
                return Err(broken(format!("n{} says {said:?} to {loss:?}", at + 1)));
            }
        }
        Ok(())
    }

    /// The node has the last entry and the applied index that the report names.
    fn check_loss(&self, at: usize, loss: &Loss) -> Checked {
        let body = self.nodes[at].body.as_ref();
        let view = body
            .and_then(|body| body.replicas(body.worker_of(loss.group)).find(|view| view.group == loss.group));
        let is_so = view.is_some_and(|view| view.core.last() == loss.last && view.applied == loss.applied);
        if is_so {
            return Ok(());
        }
        Err(broken(format!(
            "n{} says {loss:?}, and has {}",
            at + 1,
            self.describe(loss.group.0 as usize - 1)
        )))
    }

    fn say_accepted(&mut self, at: usize, loss: Loss) -> Result<Result<(), AcceptLossError>, Violation> {
        let Some(body) = &self.nodes[at].body else { return Ok(Err(AcceptLossError::Closed)) };
        let mut accepting = body.accept_loss(loss);
        self.answer_bells(at);
        let mut said = Err(AcceptLossError::Closed);
        self.run_until(self.now + SOON, |_| {
            match Pin::new(&mut accepting).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => false,
                Poll::Ready(answer) => {
                    said = answer;
                    true
                }
            }
        })?;
        Ok(said)
    }

    /// The remaining replicas lead, and commit something, with all that one of them has.
    fn lead_with_the_rest(&mut self, group: usize, left: &[usize]) -> Checked {
        let id = group_id(group);
        let views = left.iter().filter_map(|at| {
            let body = self.nodes[*at].body.as_ref()?;
            body.replicas(body.worker_of(id)).find(|view| view.group == id)
        });
        let Some(best) = views.max_by_key(|view| view.core.last()) else { return Ok(()) };
        let (last, before) = (best.core.last(), self.watch.committed(id));
        let kept = self.watch.accept_loss(id, best.core);
        held(&self.ledger).accept_loss(id, kept);
        self.say(|| format!("{id}  goes on after {last}; of {before} committed, it has {kept}"));
        let timeout = 2 * self.longest_timeout();
        let goes_on = |world: &mut Self| {
            left.iter().all(|at| {
                let Some(body) = world.nodes[*at].body.as_ref() else { return false };
                let view = body.replicas(body.worker_of(id)).find(|view| view.group == id);
                view.is_some_and(|view| view.applied > last.index && view.core.term() > last.term)
            })
        };
        if !self.run_until(self.now + TIMEOUTS_TO_LEAD * timeout + SOON, goes_on)? {
            return Err(broken(format!(
                "accepted, and nobody goes on after {last}: {}",
                self.describe(group)
            )));
        }
        Ok(())
    }
}
