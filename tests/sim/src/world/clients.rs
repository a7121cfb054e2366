//! The clients: each calls, waits, and calls again; what they saw is the history that is judged at the end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use raftwerk::{Applied, Call, NodeId, ProposeError, ReadAnswer, ReadError, ReadOptions};

use super::readers::Sight;
use super::{Event, World, group_id};
use crate::disk::held;
use crate::ledger::hash_of;
use crate::subject::{Operation, Seen};

/// A client that waits longer than this gives up, and does not know.
const PATIENCE: u64 = 5_000_000_000;

/// A read at any replica waits no longer than this for what that replica lacks.
const ELSEWHERE: Duration = Duration::from_secs(2);

/// How often a client that only reads draws again; there are state machines without reads.
const READ_TRIES: usize = 32;
/// The most proposals of a moment that no client waits for.
const NOISE_MAX: u64 = 8;

/// A call on its way.
pub(super) enum Pending {
    Write(Call<Applied, ProposeError>),
    Read(Call<ReadAnswer, ReadError>),
}

/// One client: at most one call at a time.
pub(super) struct Client {
    /// The node that it takes for each group's leader.
    leaders: Vec<usize>,
    waiting: Option<Waiting>,
    sight: Sight,
    /// The event that counts: a call that was answered leaves behind the one for its caller's patience.
    due: u64,
}

struct Waiting {
    node: usize,
    group: usize,
    /// Its place in the group's history.
    at: usize,
    /// How much of the group was committed when it called.
    committed: u64,
    pending: Pending,
}

/// What became of a call.
pub(super) enum Outcome {
    Answered(ReadAnswer),
    /// Applied, as this entry.
    Applied(Applied),
    /// It certainly had no effect; the leader may be there.
    Refused(Option<NodeId>),
    Unknown,
}

impl Client {
    pub(super) fn new(groups: usize) -> Self {
        Self { leaders: vec![0; groups], waiting: None, sight: Sight::new(groups), due: 0 }
    }

    /// What it has been shown, and has written.
    pub(super) const fn sight(&self) -> &Sight {
        &self.sight
    }
}

impl World<'_> {
    /// A client's time has come: it calls, or loses patience.
    pub(super) fn act(&mut self, at: usize) {
        if self.is_ending || self.clients[at].due != self.now {
            return;
        }
        self.give_up(at);
        self.count(4, at as u64);
        let group = self.chances.clients.below(self.plan.groups as u64) as usize;
        self.make_noise(group);
        let places = self.places(group);
        if self.chances.clients.below(self.plan.stray) == 0 {
            self.clients[at].leaders[group] = self.chances.clients.one_of(&places);
        }
        let node = self.clients[at].leaders[group];
        self.propose_relaxed(group, node);
        if !self.nodes[node].is_reachable() || !places.contains(&node) {
            self.clients[at].leaders[group] = self.chances.clients.one_of(&places);
            return self.rest(at);
        }
        self.unique += 1;
        let operation = self.operation(at);
        let Some(body) = &self.nodes[node].body else { return };
        let anywhere = self.chances.clients.below(2) == 0;
        let pending = match &operation {
            Operation::Write(payload) => Pending::Write(body.group(group_id(group)).propose(payload.clone())),
            Operation::Read(query) if anywhere => {
                let options = ReadOptions::default().or_wait(ELSEWHERE);
                Pending::Read(body.group(group_id(group)).query(query.clone(), options))
            }
            Operation::Read(query) => {
                Pending::Read(body.group(group_id(group)).query(query.clone(), ReadOptions::default()))
            }
        };
        let place = self.history[group].len();
        self.history[group].push(Seen { client: at as u32, called: self.events, returned: None, operation });
        let committed = self.watch.committed(group_id(group));
        let waiting = Waiting { node, group, at: place, committed, pending };
        self.clients[at].waiting = Some(waiting);
        self.nodes[node].callers.push(at);
        self.expect(at, self.now + PATIENCE);
        self.answer_bells(node);
        self.answer_callers(node);
    }

    /// What a client asks for. Every third one only reads: a write at a leader that is cut off keeps its client waiting,
    /// and no client would be left to see what such a leader answers.
    fn operation(&mut self, at: usize) -> Operation {
        let mut operation = self.subject.operation(&mut self.chances.clients, self.unique);
        for _ in 0..READ_TRIES {
            if at % 3 != 2 || matches!(operation, Operation::Read(_)) {
                break;
            }
            operation = self.subject.operation(&mut self.chances.clients, self.unique);
        }
        operation
    }

    /// Several proposals arrive at once, at any voter, and no client waits for them: so frames hold more than one entry, and
    /// a leader that is cut off has a tail that others replace.
    fn make_noise(&mut self, group: usize) {
        if !self.chances.clients.hits(self.plan.noise_ppm) {
            return;
        }
        let node = self.chances.clients.one_of(&self.plan.voters[group]);
        let count = self.chances.clients.from_to(1, NOISE_MAX);
        self.propose_unheard(group, node, count);
    }

    /// Proposals for a replica, wanted by no client.
    pub(super) fn propose_unheard(&mut self, group: usize, node: usize, count: u64) {
        self.propose_besides(group, node, count, false);
    }

    /// A client takes this node for the leader, until it learns better.
    pub(super) fn hold_on(&mut self, client: usize, group: usize, node: usize) {
        self.clients[client].leaders[group] = node;
    }

    fn rest(&mut self, at: usize) {
        let pause = self.chances.clients.heavy_tailed(self.plan.think);
        self.expect(at, self.now + pause);
    }

    /// A client acts at that time, and not before.
    pub(super) fn expect(&mut self, at: usize, when: u64) {
        self.clients[at].due = when;
        self.at(when, Event::Client { client: at as u16 });
    }

    /// What it still waits for stays unknown for good.
    fn give_up(&mut self, at: usize) {
        let Some(waiting) = self.clients[at].waiting.take() else { return };
        self.nodes[waiting.node].callers.retain(|caller| *caller != at);
        self.unknown += 1;
    }

    /// A node dies with everything its callers wait for.
    pub(super) fn lose_callers(&mut self, node: usize) {
        for at in std::mem::take(&mut self.nodes[node].callers) {
            self.clients[at].waiting = None;
            self.unknown += 1;
            self.rest(at);
        }
    }

    /// Hands out what a node has answered.
    pub(super) fn answer_callers(&mut self, node: usize) {
        let mut next = 0;
        while let Some(&at) = self.nodes[node].callers.get(next) {
            let Some(waiting) = &mut self.clients[at].waiting else { return };
            match outcome(&mut waiting.pending) {
                Poll::Pending => next += 1,
                Poll::Ready(outcome) => {
                    self.nodes[node].callers.swap_remove(next);
                    self.answered(at, outcome);
                }
            }
        }
    }

    fn answered(&mut self, at: usize, outcome: Outcome) {
        let Some(waiting) = self.clients[at].waiting.take() else { return };
        let Waiting { node, group, at: place, pending, committed } = waiting;
        let is_write = matches!(pending, Pending::Write(_));
        let payload = hash_of(self.history[group][place].operation.bytes());
        self.count(5, payload ^ node as u64);
        match outcome {
            Outcome::Applied(applied) => {
                self.check_told(node, group_id(group), &applied, payload);
                self.clients[at].sight.wrote(group, applied.id.index);
                self.answered += 1;
                self.history[group][place].returned = Some((self.events, applied.reply));
            }
            Outcome::Answered(answer) => {
                self.check_read(group, &answer, committed);
                self.clients[at].sight.saw(group, answer.index);
                self.answered += 1;
                self.history[group][place].returned = Some((self.events, answer.reply));
            }
            Outcome::Refused(hint) => {
                if is_write {
                    held(&self.ledger).refused(group_id(group), payload);
                }
                // It had no effect: as if it had never been.
                self.forget(group, place);
                let places = self.places(group);
                let guess = hint.map(|node| node.0 as usize - 1).filter(|node| places.contains(node));
                self.clients[at].leaders[group] =
                    guess.unwrap_or_else(|| self.chances.clients.one_of(&places));
            }
            Outcome::Unknown => self.unknown += 1,
        }
        self.rest(at);
    }

    /// A read that was answered has seen what was committed anywhere when it was called: a leader commits before anyone
    /// else does, and a new one commits all there was before it answers (thesis, section 6.4).
    fn check_read(&self, group: usize, answer: &ReadAnswer, committed: u64) {
        if answer.index.0 < committed {
            held(&self.ledger).stale_read(group_id(group), answer.index, committed);
        }
    }

    /// Takes a call out of the history; the last one takes its place.
    fn forget(&mut self, group: usize, place: usize) {
        let last = self.history[group].len() - 1;
        self.history[group].swap_remove(place);
        for client in &mut self.clients {
            if let Some(waiting) = &mut client.waiting
                && (waiting.group, waiting.at) == (group, last)
            {
                waiting.at = place;
            }
        }
    }
}

pub(super) fn outcome(pending: &mut Pending) -> Poll<Outcome> {
    let mut cx = Context::from_waker(Waker::noop());
    match pending {
        Pending::Write(proposal) => Pin::new(proposal).poll(&mut cx).map(|result| match result {
            Ok(applied) => Outcome::Applied(applied),
            Err(ProposeError::Unknown) => Outcome::Unknown,
            Err(ProposeError::NotLeader { hint }) => Outcome::Refused(hint),
            Err(_) => Outcome::Refused(None),
        }),
        Pending::Read(read) => Pin::new(read).poll(&mut cx).map(|result| match result {
            Ok(answer) => Outcome::Answered(answer),
            Err(ReadError::NotLeader { hint }) => Outcome::Refused(hint),
            Err(_) => Outcome::Refused(None),
        }),
    }
}
