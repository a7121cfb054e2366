//! What a scenario directs a world with: it cuts and mends, fells and starts, asks, waits, and looks.
//!
//! On a stage nothing goes wrong by itself but for the weather between the nodes; every invariant is checked as ever.
//! What is not here: the scenarios (`crate::scenario`).

use std::task::Poll;

use bytes::Bytes;
use raftwerk::Role;
use raftwerk::drive::ReplicaView;
use raftwerk::kv::codec;
use raftwerk_frame::Message;
use raftwerk_frame::wire::{UnitHeader, UnitKind, records};

use super::clients::{Outcome, Pending, outcome};
use super::{Report, World, group_id};
use crate::chance::Chance;
use crate::disk::held;
use crate::ledger::hash_of;
use crate::node::State;
use crate::subject::{Operation, Seen};
use crate::watch::{Checked, Violation};

/// How long an agreement, or an election, may take: as long as progress at the end of any run.
const PATIENCE_TIMEOUTS: u64 = 20;
/// How long one proposal is waited for before another is made: it may have gone to a leader that reaches no other node.
const RETRY: u64 = 1_500_000_000;
/// How long a late reply takes, in nanoseconds.
const LATE: (u64, u64) = (200_000_000, 2_200_000_000);
/// Replies in a million that are late, when replies are.
const LATE_PPM: u32 = 666_667;

/// What was sent so far, over all nodes, lost or not. A unit is what one worker sends one peer in one turn on one
/// channel; its records are the protocol's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Units of every kind.
    pub(crate) units: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Units with nothing but heartbeats and answers to them.
    pub(crate) idle_units: u64,
    /// Appends that a follower refused because the log before them did not match.
    pub(crate) rejects: u64,
}

impl Tally {
    /// What was sent since an earlier count.
    pub(crate) const fn since(&self, before: &Self) -> Self {
        Self {
            units: self.units - before.units,
            bytes: self.bytes - before.bytes,
            idle_units: self.idle_units - before.idle_units,
            rejects: self.rejects - before.rejects,
        }
    }

    /// Counts a unit; whether it only answers.
    fn add(&mut self, unit: &[u8]) -> bool {
        self.units += 1;
        self.bytes += unit.len() as u64;
        let Ok((header, heads, _)) = UnitHeader::parse(unit) else { return false };
        if header.kind == UnitKind::Snapshot {
            return false;
        }
        let (mut is_idle, mut is_reply) = (true, true);
        for record in records(heads).flatten() {
            is_idle &= matches!(record.message, Message::Heartbeat { .. } | Message::HeartbeatAck { .. });
            is_reply &= is_answer(&record.message);
            self.rejects += u64::from(matches!(record.message, Message::AppendReject { .. }));
        }
        self.idle_units += u64::from(is_idle);
        is_reply
    }
}

const fn is_answer(message: &Message) -> bool {
    matches!(
        message,
        Message::PreVoteReply { .. }
            | Message::VoteReply { .. }
            | Message::AppendAck { .. }
            | Message::AppendWritten { .. }
            | Message::AppendReject { .. }
            | Message::HeartbeatAck { .. }
    )
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Applied, at this index.
    Applied(u64),
    /// It certainly had, and will have, no effect.
    Refused,
    /// It may have an effect yet.
    Unknown,
}

/// A proposal of no client.
struct Ask {
    called: u64,
    payload: Bytes,
    /// `None` once it is answered.
    pending: Option<Pending>,
    told: Option<Told>,
}

/// What a director keeps beside the world.
pub(super) struct Stage {
    name: &'static str,
    /// Nodes with no message from or to them arriving.
    cut: Vec<bool>,
    /// Which part of a divided network each node is in.
    side: Vec<u64>,
    replies_are_late: bool,
    chance: Chance,
    lateness: Chance,
    tally: Tally,
    asks: Vec<Ask>,
}

impl Stage {
    /// A unit is sent: counts it, and gives how much later than others it arrives.
    pub(super) fn posted(&mut self, unit: &[u8], is_healed: bool) -> u64 {
        let is_reply = self.tally.add(unit);
        let is_late = is_reply && self.replies_are_late && !is_healed && self.lateness.hits(LATE_PPM);
        if is_late { self.lateness.from_to(LATE.0, LATE.1) } else { 0 }
    }
}

impl World<'_> {
    /// Lives through a scenario: what it directs, then peace and judgement as after any run.
    pub(crate) fn play(mut self, name: &'static str, direct: fn(&mut Self) -> Checked) -> Report {
        let count = self.nodes.len();
        self.stage = Some(Box::new(Stage {
            name,
            cut: vec![false; count],
            side: vec![0; count],
            replies_are_late: false,
            chance: Chance::of(self.seed, "stage"),
            lateness: Chance::of(self.seed, "late replies"),
            tally: Tally::default(),
            asks: Vec::new(),
        }));
        let outcome = direct(&mut self).and_then(|()| {
            self.settle();
            self.end()
        });
        self.report(outcome)
    }

    fn stage(&mut self) -> &mut Stage {
        self.stage.as_mut().expect("only a world that is directed is asked to act")
    }

    fn staged(&self) -> &Stage {
        self.stage.as_ref().expect("only a world that is directed is asked what it shows")
    }

    /// A violation of the scenario's claim.
    pub(crate) fn broken(&self, what: impl std::fmt::Display) -> Violation {
        let at = self.clock();
        Violation::new(format!("scenario {}", self.staged().name), format!("{}: {what}", at.trim_start()))
    }

    /// A line for the trace.
    pub(crate) fn note(&self, what: impl std::fmt::Display) {
        self.say(|| format!("note: {what}"));
    }

    // Chance and time.

    /// A number below `n`, from the scenario's own stream.
    pub(crate) fn draw(&mut self, n: u64) -> u64 {
        self.stage().chance.below(n)
    }

    /// A few different nodes.
    pub(crate) fn draw_nodes(&mut self, count: usize) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.nodes.len()).collect();
        for at in 0..count {
            let other = at + self.draw((nodes.len() - at) as u64) as usize;
            nodes.swap(at, other);
        }
        nodes.truncate(count);
        nodes
    }

    /// Nanoseconds since the world began.
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// The shortest election timeout, in nanoseconds; the longest is twice as long.
    pub(crate) fn timeout(&self) -> u64 {
        self.plan.settings.election_timeout.as_nanos() as u64
    }

    /// The interval of heartbeats, in nanoseconds.
    pub(crate) fn heartbeat(&self) -> u64 {
        self.plan.settings.heartbeat_interval.as_nanos() as u64
    }

    /// Lets so many nanoseconds pass.
    pub(crate) fn run_for(&mut self, span: u64) -> Checked {
        self.run_until(self.now + span, |_| false).map(|_| ())
    }

    /// Lets up to so many nanoseconds pass, until something is so; whether it was.
    pub(crate) fn wait(&mut self, span: u64, done: impl FnMut(&mut Self) -> bool) -> Result<bool, Violation> {
        self.run_until(self.now + span, done)
    }

    // Links.

    /// No message from or to a node arrives any more; what was on its way is lost.
    pub(crate) fn cut_off(&mut self, node: usize) {
        self.say(|| format!("n{}  is cut off", node + 1));
        self.stage().cut[node] = true;
        self.draw_links();
    }

    /// Its messages, and those to it, arrive again.
    pub(crate) fn mend(&mut self, node: usize) {
        self.say(|| format!("n{}  is back", node + 1));
        self.stage().cut[node] = false;
        self.draw_links();
    }

    /// Divides the network: nodes with the same number see each other.
    pub(crate) fn divide(&mut self, side: Vec<u64>) {
        self.say(|| format!("divided: {side:?}"));
        self.stage().side = side;
        self.draw_links();
    }

    /// Everybody sees everybody.
    pub(crate) fn mend_all(&mut self) {
        let count = self.nodes.len();
        let stage = self.stage();
        (stage.cut, stage.side) = (vec![false; count], vec![0; count]);
        self.draw_links();
    }

    fn draw_links(&mut self) {
        let stage = self.staged();
        let (cut, side) = (stage.cut.clone(), stage.side.clone());
        for from in 0..cut.len() {
            for to in (0..cut.len()).filter(|to| *to != from) {
                let is_cut = cut[from] || cut[to] || side[from] != side[to];
                self.links.link(from, to).cuts = u32::from(is_cut);
            }
        }
        if self.draw(2) == 0 {
            self.notice_cuts();
        }
    }

    /// Whether a node runs and is not cut off.
    pub(crate) fn is_in_touch(&self, node: usize) -> bool {
        self.is_up(node) && !self.staged().cut[node]
    }

    /// From now on two thirds of all replies take far longer; or no longer so.
    pub(crate) fn delay_replies(&mut self, are_late: bool) {
        self.stage().replies_are_late = are_late;
    }

    // Lives.

    /// Whether a node runs.
    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].state == State::Up
    }

    /// A node falls, with its process or with its machine, as chance has it; it stays down until it is started.
    pub(crate) fn crash(&mut self, node: usize) -> Checked {
        let power = self.draw(2) == 0;
        if self.is_up(node) { self.fall(node, power) } else { Ok(()) }
    }

    /// A node that is down starts.
    pub(crate) fn revive(&mut self, node: usize) -> Checked {
        let life = self.nodes[node].life;
        self.start(node, life)
    }

    /// A node stands still for so many nanoseconds.
    pub(crate) fn freeze(&mut self, node: usize, span: u64) {
        self.say(|| format!("n{}  freezes", node + 1));
        self.nodes[node].frozen_until = self.now + span;
    }

    /// A node's disk does nothing for so many nanoseconds.
    pub(crate) fn hang_disk(&mut self, node: usize, span: u64) {
        self.say(|| format!("n{}  its disk hangs", node + 1));
        let now = self.now;
        self.nodes[node].hang(now, now + span);
    }

    /// The worker that has the group has no turns for so many nanoseconds; others of its node do.
    pub(crate) fn stick_worker(&mut self, node: usize, span: u64) {
        self.say(|| format!("n{}  its worker is stuck", node + 1));
        let worker = self.nodes[node].body.as_ref().map_or(0, |body| body.worker_of(group_id(0)));
        self.nodes[node].stuck = (worker, self.now + span);
    }

    /// A sync takes so many nanoseconds from now on, give or take half of them.
    pub(crate) const fn slow_disks(&mut self, sync: u64) {
        self.plan.disk.sync = sync;
    }

    // What is to be seen.

    /// The scenario's only group, at a node that runs.
    pub(crate) fn view(&self, node: usize) -> Option<ReplicaView<'_>> {
        let body = self.nodes[node].body.as_ref()?;
        body.replicas(body.worker_of(group_id(0))).find(|view| view.group == group_id(0))
    }

    /// Whether a node takes itself for the leader.
    pub(crate) fn leads(&self, node: usize) -> bool {
        self.view(node).is_some_and(|view| view.core.role() == Role::Leader)
    }

    /// The node in touch that leads: in the latest term of any node in touch, and followed by a majority of all voters.
    pub(crate) fn leader(&self) -> Option<usize> {
        let in_touch = || (0..self.nodes.len()).filter(|at| self.is_in_touch(*at));
        let leader =
            in_touch().find(|at| self.leads(*at) && in_touch().all(|of| self.term(of) <= self.term(*at)))?;
        let id = super::node_id(leader);
        let follows = |at: &usize| {
            self.view(*at)
                .is_some_and(|view| view.core.term().0 == self.term(leader) && view.core.leader() == Some(id))
        };
        (in_touch().filter(follows).count() > self.nodes.len() / 2).then_some(leader)
    }

    /// The latest term that a node knows; 0 if it is down.
    pub(crate) fn term(&self, node: usize) -> u64 {
        self.view(node).map_or(0, |view| view.core.term().0)
    }

    /// The last index of a node's log; 0 if it is down.
    pub(crate) fn last(&self, node: usize) -> u64 {
        self.view(node).map_or(0, |view| view.core.last().index.0)
    }

    /// The last index that a node's machine has seen; 0 if it is down.
    pub(crate) fn applied(&self, node: usize) -> u64 {
        self.view(node).map_or(0, |view| view.applied.0)
    }

    /// The last index that a node has dropped from its log; 0 if it is down.
    pub(crate) fn compacted(&self, node: usize) -> u64 {
        self.view(node).map_or(0, |view| view.core.compacted().index.0)
    }

    /// Bytes of the longest log of all nodes that run.
    pub(crate) fn log_bytes(&self) -> u64 {
        let logs = (0..self.nodes.len()).filter_map(|at| self.view(at));
        logs.map(|view| view.log_bytes).max().unwrap_or(0)
    }

    /// How many entries are known to be committed: the highest commit index that any node has ever shown.
    pub(crate) fn committed(&self) -> u64 {
        self.watch.committed(group_id(0))
    }

    /// What was sent so far.
    pub(crate) fn tally(&self) -> Tally {
        self.staged().tally
    }

    /// How many snapshots were installed so far.
    pub(crate) fn installs(&self) -> u64 {
        self.installed()
    }

    /// How many calls of clients were answered so far.
    pub(crate) const fn answers(&self) -> u64 {
        self.answered
    }

    /// How many nodes there are.
    pub(crate) fn count_nodes(&self) -> usize {
        self.nodes.len()
    }

    // Asking.

    /// Proposes something new of about so many bytes at a node that runs; [`World::told`] has the answer.
    ///
    /// # Errors
    /// If the node is down.
    pub(crate) fn ask(&mut self, node: usize, bytes: usize) -> Result<usize, Violation> {
        self.unique += 1;
        let mut value = self.unique.to_le_bytes().to_vec();
        value.resize(bytes.max(8), self.unique as u8);
        let mut payload = Vec::new();
        codec::put(&mut payload, b"stage", &value);
        let payload = Bytes::from(payload);
        let Some(body) = &self.nodes[node].body else {
            return Err(self.broken(format_args!("n{} is down and cannot be asked", node + 1)));
        };
        let pending = Some(Pending::Write(body.group(group_id(0)).propose(payload.clone())));
        let ask = Ask { called: self.events, payload, pending, told: None };
        self.stage().asks.push(ask);
        self.answer_bells(node);
        Ok(self.staged().asks.len() - 1)
    }

    /// What became of a question, if that is known.
    pub(crate) fn told(&mut self, number: usize) -> Option<Told> {
        let events = self.events;
        let ask = &mut self.stage().asks[number];
        let Poll::Ready(outcome) = outcome(ask.pending.as_mut()?) else { return None };
        ask.pending = None;
        let (called, payload) = (ask.called, std::mem::take(&mut ask.payload));
        let (id, hash) = (group_id(0), hash_of(&payload));
        let (told, returned) = match outcome {
            Outcome::Applied(applied) => {
                let index = applied.id.index;
                held(&self.ledger).acknowledged(id, index, hash);
                (Told::Applied(index.0), Some((events, applied.reply)))
            }
            Outcome::Refused(_) | Outcome::Answered(_) => {
                held(&self.ledger).refused(id, hash);
                (Told::Refused, None)
            }
            Outcome::Unknown => (Told::Unknown, None),
        };
        if told != Told::Refused {
            let operation = Operation::Write(payload);
            self.history[0].push(Seen { client: u32::MAX, called, returned, operation });
        }
        self.stage().asks[number].told = Some(told);
        Some(told)
    }

    /// A call that is still open at the end has an unknown outcome.
    fn settle(&mut self) {
        for number in 0..self.staged().asks.len() {
            let _known = self.told(number);
            let ask = &mut self.stage().asks[number];
            if ask.pending.take().is_some() {
                let (called, operation) = (ask.called, Operation::Write(std::mem::take(&mut ask.payload)));
                self.history[0].push(Seen { client: u32::MAX, called, returned: None, operation });
            }
        }
    }

    // What a scenario waits for.

    /// Waits for a leader.
    ///
    /// # Errors
    /// If there is none within the time that progress may take.
    pub(crate) fn await_leader(&mut self) -> Result<usize, Violation> {
        self.await_leader_within(PATIENCE_TIMEOUTS * self.timeout())
    }

    fn await_leader_within(&mut self, span: u64) -> Result<usize, Violation> {
        let mut leader = None;
        self.wait(span, |world| {
            leader = world.leader();
            leader.is_some()
        })?;
        leader.ok_or_else(|| self.broken(format_args!("no leader: {}", self.describe(0))))
    }

    /// Has something of about so many bytes committed, and applied by at least `expected` nodes in touch; its index.
    ///
    /// # Errors
    /// If that does not come about within the time that progress may take.
    pub(crate) fn agree(&mut self, expected: usize, bytes: usize) -> Result<u64, Violation> {
        self.agree_within(PATIENCE_TIMEOUTS * self.timeout(), expected, bytes)
    }

    /// As [`World::agree`], with so many nanoseconds of patience.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn agree_within(
        &mut self,
        span: u64,
        expected: usize,
        bytes: usize,
    ) -> Result<u64, Violation> {
        let deadline = self.now + span;
        while self.now < deadline {
            let leader = self.await_leader_within(deadline - self.now)?;
            let ask = self.ask(leader, bytes)?;
            let mut told = None;
            let retry = deadline.min(self.now + RETRY);
            self.run_until(retry, |world| {
                told = world.told(ask);
                told.is_some()
            })?;
            let Some(Told::Applied(index)) = told else { continue };
            let everywhere = self.run_until(deadline, |world| world.count_applied(index) >= expected)?;
            return if everywhere {
                Ok(index)
            } else {
                let what = format!("{index} is not applied by {expected}: {}", self.describe(0));
                Err(self.broken(what))
            };
        }
        Err(self.broken(format_args!("no agreement of {expected}: {}", self.describe(0))))
    }

    /// How many nodes in touch have applied an index.
    fn count_applied(&self, index: u64) -> usize {
        let has = |at: &usize| self.is_in_touch(*at) && self.applied(*at) >= index;
        (0..self.nodes.len()).filter(has).count()
    }
}
