//! The end of a run: faults stop, a quorum is healed, and the world checks what must hold then.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use raftwerk::{Applied, Call, ProposeError, Role};

use super::{Event, World, group_id};
use crate::chance::Chance;
use crate::disk::{Mishaps, held};
use crate::ledger::hash_of;
use crate::node::State;
use crate::quic::QuicPlan;
use crate::subject::Operation;
use crate::watch::{Checked, Violation};

/// How many election timeouts (the longest that is drawn, 2 T) every group has to commit something after the faults.
const TIMEOUTS_TO_PROGRESS: u64 = 10;
/// How long the replicas have to become equal; the transfer of a snapshot that went wrong is given up after 30 s.
const TO_CONVERGE: u64 = 120_000_000_000;
/// … and so many times as long, as long as it gets on.
const PERIODS_TO_CONVERGE: u32 = 10;
/// How long a group may take to commit what it has, as long as its followers get more of it: an append, of an entry, a sync.
const TO_PROGRESS: u64 = 20 * TO_CONVERGE;
/// What must happen in time, where enough nodes are there.
const IN_TIME: [&str; 2] = ["progress", "convergence"];

impl World<'_> {
    pub(super) fn end(&mut self) -> Checked {
        match self.come_to_rest() {
            // A node is gone for good and not replaced: the others may be too few.
            Err(violation)
                if (self.is_given_up || self.waits_for_damaged())
                    && IN_TIME.contains(&&*violation.invariant) =>
            {
                Ok(())
            }
            ended => ended,
        }
    }

    /// Where groups change, whether one has come to a configuration without a quorum of those that have lost nothing. A replica that has
    /// lost something grants no vote before a leader repairs it: such a group has no leader until an operator decides. Nor has one with
    /// witnesses that know of entries that only a replica had which has lost them.
    fn waits_for_damaged(&self) -> bool {
        if !self.plan.is_churning || self.nodes.iter().all(|node| !node.is_damaged) {
            return false;
        }
        let bodies =
            || self.nodes.iter().filter(|node| node.is_reachable()).filter_map(|node| node.body.as_ref());
        let views = |body: &'_ raftwerk::drive::Node<_>, id| {
            let view = body.replicas(body.worker_of(id)).find(|view| view.group == id);
            view.map(|view| (view.core.configuration().clone(), view.core.is_fenced()))
        };
        let knows_more = |id| {
            let lasts = |of_witnesses: bool| {
                let views = bodies().filter_map(move |body| {
                    body.replicas(body.worker_of(id)).find(|view| view.group == id && !view.core.is_fenced())
                });
                let of_kind = views.filter(move |view| view.machine.is_none() == of_witnesses);
                of_kind.map(|view| view.core.last()).max()
            };
            lasts(true) > lasts(false)
        };
        (0..self.plan.groups).map(group_id).any(|id| {
            let whole: Vec<_> =
                bodies().filter(|body| views(body, id).is_some_and(|(_, is_fenced)| !is_fenced)).collect();
            let is_too_few = |half: &[raftwerk::NodeId]| {
                !half.is_empty()
                    && half.iter().filter(|node| whole.iter().any(|body| body.node() == **node)).count()
                        <= half.len() / 2
            };
            let lacks = |of: &raftwerk::Configuration| is_too_few(&of.voters) || is_too_few(&of.outgoing);
            knows_more(id)
                || bodies()
                    .any(|body| views(body, id).is_some_and(|(configuration, _)| lacks(&configuration)))
        })
    }

    fn come_to_rest(&mut self) -> Checked {
        self.heal()?;
        if self.is_given_up {
            return Ok(());
        }
        self.progress(0..self.plan.groups)?;
        self.make_good()?;
        self.converge()?;
        self.arrive_late()?;
        self.hear_faces_out()?;
        self.let_go()?;
        self.be_well()?;
        self.come_within_reach()?;
        self.lose_resting_leader()?;
        self.judge()?;
        self.prefer()?;
        self.lose_for_good()
    }

    /// Everything is mended that can be. Sometimes only a quorum: the rest stays away.
    fn heal(&mut self) -> Checked {
        self.is_ending = true;
        self.mend_links();
        self.finish_leaving()?;
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.files.limit(None);
            *held(&node.mishaps) = Mishaps::default();
            (node.frozen_until, node.hangs_until, node.stuck) = (0, 0, (0, 0));
            self.restore_pace(at);
            let node = &self.nodes[at];
            if let Some(body) = node.body.as_ref()
                && (0..body.lanes()).any(|worker| body.load(worker).is_poisoned)
            {
                self.fall(at, false)?;
            }
        }
        self.make_willing()?;
        let away = self.who_stays_away();
        for at in 0..self.nodes.len() {
            if away == Some(at) {
                self.say(|| format!("n{}  stays away", at + 1));
                self.nodes[at].is_fenced = true;
            }
            let node = &self.nodes[at];
            let (node, life) = (at as u16, node.life);
            self.at(self.now, Event::Start { node, life });
            self.recall(at);
            self.tend(at);
        }
        Ok(())
    }

    /// With even chance, a node without which every group still has a quorum of voters that lost nothing.
    fn who_stays_away(&mut self) -> Option<usize> {
        let mut chance = Chance::of(self.seed, "ending");
        let chosen = chance.below(2 * self.nodes.len() as u64) as usize;
        let is_good = |at: &&usize| **at != chosen && !self.nodes[**at].is_damaged;
        let is_spare =
            self.plan.voters.iter().all(|voters| voters.iter().filter(is_good).count() > voters.len() / 2);
        (chosen < self.nodes.len() && is_spare && !self.plan.is_churning && !self.nodes[chosen].is_fenced)
            .then_some(chosen)
    }

    /// Turns and disks' work that a frozen or hung node put off happen now.
    fn recall(&mut self, at: usize) {
        for worker in 0..self.nodes[at].rounds.len() {
            self.nodes[at].rounds[worker].is_working = [false; 3];
            self.wake(at, worker);
        }
    }

    /// Every one of these groups commits something new. One that still has much to commit from before, or to bring to its followers
    /// before it may commit (paper, section 5.4.2), may take its time for that, as long as it never stands still.
    pub(super) fn progress(&mut self, groups: Range<usize>) -> Checked {
        let timeout = 2 * self.longest_timeout();
        let to_connect = self.plan.quic.as_ref().map_or(0, QuicPlan::patience);
        let patience = TIMEOUTS_TO_PROGRESS * timeout + to_connect + self.patience();
        let mut probes: Vec<Probe> = groups.map(|group| Probe::new(group, self)).collect();
        let mut stuck = None;
        let ended = self.run_until(self.now + TO_PROGRESS, |world| {
            probes.retain_mut(|probe| {
                probe.note_leader(world, timeout);
                !probe.is_done(world)
            });
            stuck = probes
                .iter_mut()
                .position(|probe| world.now > probe.moved_at + patience && !probe.has_reached_more(world));
            probes.is_empty() || stuck.is_some()
        })?;
        if ended && stuck.is_none() {
            return Ok(());
        }
        let stuck: Vec<String> = probes.iter().map(|probe| self.describe(probe.group)).collect();
        let timeouts = TIMEOUTS_TO_PROGRESS;
        Err(Violation::new("progress", format!("for {timeouts} election timeouts: {}", stuck.join("; "))))
    }

    pub(super) fn describe(&self, group: usize) -> String {
        let mut text = format!("{}", group_id(group));
        for at in self.places(group) {
            let node = &self.nodes[at];
            let id = group_id(group);
            let view = node.body.as_ref().and_then(|body| {
                body.replicas(body.worker_of(id)).find(|view| view.group == id).map(|view| {
                    let core = view.core;
                    let (role, term) = (core.role(), core.term());
                    format!(
                        "{role:?} {term} {}..{} commit {} applied {}",
                        core.compacted(),
                        core.last(),
                        core.commit(),
                        view.applied
                    )
                })
            });
            let seen = view.unwrap_or_else(|| format!("{:?}", node.state));
            text += &format!(", n{}{} {seen}", at + 1, if node.is_fenced { " (away)" } else { "" });
        }
        text
    }

    /// Whether a voter still takes part: it may be behind, but not for ever.
    fn takes_part(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.state != State::Retired && !node.is_fenced && !node.is_wiped
    }

    /// All replicas that take part reach the same index and the same state.
    pub(super) fn converge(&mut self) -> Checked {
        let (mut group, mut periods) = (0, 0);
        loop {
            let before = (group, self.applied_in(group));
            let all = self.run_until(self.now + TO_CONVERGE, |world| {
                while group < world.plan.groups && world.is_equal(group).is_some() {
                    group += 1;
                }
                group == world.plan.groups
            })?;
            if all {
                break;
            }
            // A replica far behind may need a slow sync for each entry: it takes its time, as long as it gets on.
            periods += 1;
            if (group, self.applied_in(group)) == before || periods == PERIODS_TO_CONVERGE {
                return Err(Violation::new("convergence", format!("never equal: {}", self.describe(group))));
            }
        }
        for group in 0..self.plan.groups {
            if self.is_equal(group) == Some(false) {
                return Err(Violation::new("equal states", format!("at the end: {}", self.describe(group))));
            }
        }
        Ok(())
    }

    /// How much the replicas of a group have applied, all together.
    fn applied_in(&self, group: usize) -> u64 {
        let id = group_id(group);
        let bodies = self.nodes.iter().filter_map(|node| node.body.as_ref());
        let applied = bodies.flat_map(|body| body.replicas(body.worker_of(id)));
        applied.filter(|view| view.group == id).map(|view| view.applied.0).sum()
    }

    /// When nothing is on its way any more, no call holds what was read of the log.
    fn let_go(&mut self) -> Checked {
        let held_by = |world: &Self| {
            let alive = world.nodes.iter().filter(|node| node.is_reachable());
            let mut bodies = alive.filter_map(|node| node.body.as_ref());
            bodies.find_map(|body| {
                let pinned = |worker| body.load(worker).lane.pinned_bytes;
                (0..body.lanes()).map(pinned).find(|bytes| *bytes > 0).map(|bytes| (body.node(), bytes))
            })
        };
        if self.run_until(self.now + TO_CONVERGE, |world| held_by(world).is_none())? {
            return Ok(());
        }
        let what = format!("what was read of the log is counted for ever: {:?}", held_by(self));
        Err(Violation::new("what is read is given back", what))
    }

    /// Whether all replicas of a group are in the same state; `None` if they are not at the same index.
    pub(super) fn is_equal(&self, group: usize) -> Option<bool> {
        let id = group_id(group);
        let mut first = None;
        let last = held(&self.ledger).last_applied(id).max(self.watch.committed(id));
        for at in self.members(group).into_iter().filter(|at| self.takes_part(*at)) {
            let body = self.nodes[at].body.as_ref()?;
            let view = body.replicas(body.worker_of(id)).find(|view| view.group == id)?;
            if view.applied.0 < last || view.applied != view.core.commit() {
                return None;
            }
            if view.core.lacks_configuration() {
                return None; // its creator has to give it the members
            }
            if view.core.configuration().auto_leave {
                return None; // a joint configuration that leaders leave by themselves
            }
            let Some(machine) = view.machine else { continue }; // a witness, which has no state
            let digest = machine.digest();
            if *first.get_or_insert(digest) != digest {
                return Some(false);
            }
        }
        Some(true)
    }

    /// What the clients saw, group by group.
    fn judge(&mut self) -> Checked {
        self.judge_receipts()?;
        self.judge_faces()?;
        for (group, calls) in self.history.iter().enumerate() {
            self.subject
                .judge(group_id(group), calls)
                .map_err(|what| Violation::new("linearizable", format!("{}: {what}", group_id(group))))?;
        }
        Ok(())
    }
}

/// After a refusal a probe asks again after this.
const ASK_AGAIN: u64 = 20_000_000;

/// A call for a group to commit something.
struct Probe {
    group: usize,
    asked: Option<(usize, Call<Applied, ProposeError>, u64)>,
    /// What the group has committed, and since when it is no more.
    committed: u64,
    moved_at: u64,
    /// How far its followers were at the last look.
    reach: Reach,
    /// When to see which node leads.
    look_at: u64,
    /// It was refused, and does not ask again before then: each time is another call to be judged in the history.
    ask_at: u64,
}

/// How far the logs of a group's followers reach, all together, in the term of its leader.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    term: u64,
    last: u64,
    /// Bytes of snapshots on their way to them: how many there may be is bounded by `a snapshot arrives`.
    shipped: u64,
}

impl Reach {
    pub(super) fn of(world: &World<'_>, group: usize) -> Self {
        let id = group_id(group);
        let bodies =
            world.nodes.iter().filter(|node| node.is_reachable()).filter_map(|node| node.body.as_ref());
        let cores: Vec<_> = bodies
            .filter_map(|body| body.replicas(body.worker_of(id)).find(|view| view.group == id))
            .map(|view| view.core)
            .collect();
        let leader = cores.iter().filter(|core| core.is_leader()).map(|core| core.term()).max();
        let follows = |core: &&&raftwerk_raft::Group| !core.is_leader() && Some(core.term()) == leader;
        let last = cores.iter().filter(follows).map(|core| core.last().index.0).sum();
        let shipped = world.shipped_of(group);
        Self { term: leader.unwrap_or_default().0, last, shipped }
    }

    /// Whether, under the same leader, followers have more by now.
    pub(super) const fn has_grown_to(&self, later: &Self) -> bool {
        self.term == later.term && (self.last < later.last || self.shipped < later.shipped)
    }
}

impl Probe {
    fn new(group: usize, world: &World<'_>) -> Self {
        let committed = world.watch.committed(group_id(group));
        let (moved_at, reach) = (world.now, Reach::of(world, group));
        Self { group, asked: None, committed, moved_at, reach, look_at: world.now, ask_at: world.now }
    }

    /// Once in a while: what a new leader's followers have is counted from when it is seen to lead.
    fn note_leader(&mut self, world: &World<'_>, every: u64) {
        if world.now < self.look_at {
            return;
        }
        self.look_at = world.now + every;
        let now = Reach::of(world, self.group);
        if now.term != self.reach.term {
            self.reach = now;
        }
    }

    /// Whether, under the same leader, followers have more than when this was asked last.
    fn has_reached_more(&mut self, world: &World<'_>) -> bool {
        let before = std::mem::replace(&mut self.reach, Reach::of(world, self.group));
        let has = before.has_grown_to(&self.reach);
        if has {
            self.moved_at = world.now;
        }
        has
    }

    fn is_done(&mut self, world: &mut World<'_>) -> bool {
        let id = group_id(self.group);
        let committed = world.watch.committed(id);
        if committed > self.committed {
            (self.committed, self.moved_at) = (committed, world.now);
        }
        if let Some((node, proposal, payload)) = &mut self.asked {
            match Pin::new(proposal).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return false,
                Poll::Ready(Ok(applied)) => {
                    world.check_told(*node, id, &applied, *payload);
                    return true;
                }
                Poll::Ready(Err(_)) => (self.asked, self.ask_at) = (None, world.now + ASK_AGAIN),
            }
        }
        if world.now < self.ask_at {
            return false;
        }
        for at in world.places(self.group) {
            let node = &world.nodes[at];
            let Some(body) = node.body.as_ref().filter(|_| node.is_reachable()) else { continue };
            let leads = body
                .replicas(body.worker_of(id))
                .any(|view| view.group == id && view.core.role() == Role::Leader);
            if !leads {
                continue;
            }
            let mut chance = Chance::of(world.seed ^ world.events, "probe");
            world.unique += 1;
            let payload = loop {
                if let Operation::Write(payload) = world.subject.operation(&mut chance, world.unique) {
                    break payload;
                }
            };
            let hash = hash_of(&payload);
            world.history[self.group].push(crate::subject::Seen {
                client: u32::MAX,
                called: world.events,
                returned: None,
                operation: Operation::Write(payload.clone()),
            });
            self.asked = Some((at, body.group(id).propose(payload), hash));
            world.answer_bells(at);
            return false;
        }
        false
    }
}
