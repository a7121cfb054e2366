//! Clients that repeat themselves: each counts on keys of its own, by compare-and-sets that are sent to one node after
//! another until there is an answer, and sometimes once more. Some have several of them open at a time, which are answered in any
//! order; and in some runs a group is given more clients than it can remember. If a repetition is applied again, or an answer was
//! for nothing, the client sees a count that it did not write.
//!
//! | rule | what |
//! |---|---|
//! | `repeated, and applied once` | a numbered compare-and-set succeeds, and each repetition has that answer, at that index |
//! | `a client is remembered` | a group forgets a client only in favour of others |
//!
//! Only for subjects with machines that remember their clients. What is not here: a client with more open numbers than may be, which
//! `raftwerk::exactly_once` tries by itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use raftwerk::exactly_once::{self, CLIENTS_MAX, Numbered, OnceError, OnceSession};
use raftwerk::kv::codec::{self, Swap};
use raftwerk::{Applied, Call, Index, ProposeError};

use super::asides::Aside;
use super::{Event, World, group_id};
use crate::disk::held;
use crate::ledger::hash_of;
use crate::watch::{Checked, Violation};

/// How long one attempt is waited for, in nanoseconds.
const PATIENCES: [u64; 3] = [50_000_000, 500_000_000, 3_000_000_000];

/// So many strangers come at a time, and how often.
const STRANGERS_AT_ONCE: u32 = 32;
const STRANGERS_EVERY: u64 = 5_000_000;

/// A write under way.
struct Open {
    number: Numbered,
    payload: Bytes,
    /// Where it was applied, once it was answered.
    answered: Option<Index>,
}

/// A client that repeats itself.
pub(super) struct Repeater {
    group: usize,
    leader: usize,
    session: Option<OnceSession>,
    /// For each number that may be open at a time, what its key holds, and what is under way.
    counts: Vec<u64>,
    open: Vec<Option<Open>>,
    /// Which of them the latest attempt is about.
    slot: usize,
    /// It was forgotten: what its keys hold it cannot tell any more.
    is_lost: bool,
    attempt: Option<(usize, Call<Applied, ProposeError>)>,
    /// The payload of the latest attempt.
    sent: u64,
    due: u64,
}

impl Repeater {
    /// One that has at most so many numbers open at a time.
    pub(super) fn new(group: usize, width: usize) -> Self {
        let open = std::iter::repeat_with(|| None).take(width).collect();
        let counts = vec![0; width];
        let (session, attempt) = (None, None);
        Self { group, leader: 0, session, counts, open, slot: 0, is_lost: false, attempt, sent: 0, due: 0 }
    }
}

impl World<'_> {
    /// A repeater's time has come: it sends what is open, or something new, whatever became of the last attempt.
    pub(super) fn repeat(&mut self, at: usize) -> Checked {
        if self.is_ending || self.repeaters[at].due != self.now {
            return Ok(());
        }
        if let Some((node, _)) = self.repeaters[at].attempt.take() {
            self.nodes[node].repeaters.retain(|other| *other != at);
        }
        self.count(16, at as u64);
        let group = self.repeaters[at].group;
        let places = self.places(group);
        let chance = &mut self.chances.repeaters;
        if chance.below(4) == 0 {
            self.repeaters[at].leader = chance.one_of(&places);
        }
        let node = self.repeaters[at].leader;
        if !self.nodes[node].is_reachable() || !places.contains(&node) {
            self.repeaters[at].leader = self.chances.repeaters.one_of(&places);
            self.pause_repeater(at);
            return Ok(());
        }
        let width = self.repeaters[at].open.len() as u64;
        self.repeaters[at].slot = if width > 1 { self.chances.repeaters.below(width) as usize } else { 0 };
        let payload = self.repeaters[at].next_payload(at);
        let Some(body) = &self.nodes[node].body else { return Ok(()) };
        let sent = hash_of(&payload);
        self.repeaters[at].sent = sent;
        held(&self.ledger).may_repeat(group_id(group), sent);
        let proposal = body.group(group_id(group)).propose(payload);
        self.repeaters[at].attempt = Some((node, proposal));
        self.nodes[node].repeaters.push(at);
        let patience = self.chances.repeaters.one_of(&PATIENCES);
        self.expect_repeater(at, self.now + patience);
        self.answer_bells(node);
        self.answer_repeaters(node)
    }

    fn expect_repeater(&mut self, at: usize, when: u64) {
        self.repeaters[at].due = when;
        self.at(when, Event::Repeater { repeater: at as u16 });
    }

    pub(super) fn pause_repeater(&mut self, at: usize) {
        let pause = self.chances.repeaters.heavy_tailed(self.plan.think);
        self.expect_repeater(at, self.now + pause);
    }

    /// A node dies with every attempt at it.
    pub(super) fn lose_repeaters(&mut self, node: usize) {
        for at in std::mem::take(&mut self.nodes[node].repeaters) {
            self.repeaters[at].attempt = None;
            self.pause_repeater(at);
        }
    }

    /// Hands out what a node has answered.
    pub(super) fn answer_repeaters(&mut self, node: usize) -> Checked {
        let mut next = 0;
        while let Some(&at) = self.nodes[node].repeaters.get(next) {
            let Some((_, proposal)) = &mut self.repeaters[at].attempt else { return Ok(()) };
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(outcome) = Pin::new(proposal).poll(&mut cx) else {
                next += 1;
                continue;
            };
            self.nodes[node].repeaters.swap_remove(next);
            self.repeaters[at].attempt = None;
            let (group, payload) = (group_id(self.repeaters[at].group), self.repeaters[at].sent);
            match outcome {
                Ok(applied) => {
                    self.answered += 1;
                    self.check_told(node, group, &applied, payload);
                    self.take_outcome(at, &applied.reply)?;
                }
                Err(ProposeError::NotLeader { hint: Some(hint) }) => {
                    self.repeaters[at].leader = hint.0 as usize - 1;
                }
                // Refused or unknown: it is sent again all the same.
                Err(_) => {}
            }
            self.pause_repeater(at);
        }
        Ok(())
    }

    fn take_outcome(&mut self, at: usize, reply: &Bytes) -> Checked {
        let keeps_on = self.chances.repeaters.below(3) == 0;
        let registered = self.registered;
        let repeater = &mut self.repeaters[at];
        let wrong = |rule, what: String| {
            Err(Violation::new(rule, format!("{} client {at}: {what}", group_id(repeater.group))))
        };
        let outcome = match exactly_once::outcome(reply) {
            Ok(outcome) => outcome,
            Err(OnceError::Expired) if registered >= CLIENTS_MAX as u64 => {
                // Others may have taken its place; what its key holds it cannot tell now.
                let (due, width) = (repeater.due, repeater.open.len());
                *repeater = Repeater { due, is_lost: true, ..Repeater::new(repeater.group, width) };
                return Ok(());
            }
            Err(error) => return wrong("a client is remembered", error.to_string()),
        };
        let slot = repeater.slot;
        let Some(open) = &mut repeater.open[slot] else {
            repeater.session = Some(OnceSession::new(outcome.index));
            self.registered += 1;
            return Ok(());
        };
        let swap = codec::swapped(&outcome.reply);
        if swap != Ok(Swap::Applied) {
            return wrong(
                "repeated, and applied once",
                format!("from {} on: {swap:?}", repeater.counts[slot]),
            );
        }
        if open.answered.is_some_and(|before| before != outcome.index) {
            return wrong(
                "repeated, and applied once",
                format!("{:?}, then {}", open.answered, outcome.index),
            );
        }
        open.answered = Some(outcome.index);
        if !keeps_on && let (Some(open), Some(session)) = (repeater.open[slot].take(), &mut repeater.session)
        {
            session.end(open.number);
            repeater.counts[slot] += 1;
        }
        Ok(())
    }
}

impl World<'_> {
    /// Strangers are registered with a group, some at a time, until it has more clients than it can remember.
    pub(super) fn register_strangers(&mut self, left: u32) {
        let Some(strangers) = self.plan.strangers.filter(|_| !self.is_ending && left > 0) else { return };
        let group = (strangers.group % self.plan.groups as u64) as usize;
        let mut rest = left;
        if let Some(leader) = self.leading(group_id(group)) {
            rest = left.saturating_sub(STRANGERS_AT_ONCE);
            let payload = exactly_once::register();
            held(&self.ledger).may_repeat(group_id(group), hash_of(&payload));
            for _ in rest..left {
                self.registered += 1;
                self.propose_and_listen(group_id(group), leader, payload.clone(), false);
            }
            self.answer_bells(leader);
        }
        self.aside(self.now + STRANGERS_EVERY, Aside::Strangers { left: rest });
    }
}

impl Repeater {
    /// What it sends next: a registration, what is open, or one more.
    fn next_payload(&mut self, at: usize) -> Bytes {
        let Some(session) = &mut self.session else { return exactly_once::register() };
        let slot = self.slot;
        if let Some(open) = &self.open[slot] {
            return open.payload.clone();
        }
        if self.is_lost {
            return exactly_once::register();
        }
        let Some(number) = session.begin() else { return exactly_once::register() };
        let count = self.counts[slot];
        let (before, after) = (count.to_le_bytes(), (count + 1).to_le_bytes());
        let expected = (count > 0).then_some(&before[..]);
        let mut inner = Vec::new();
        codec::compare_and_set(&mut inner, &[b'o', at as u8, slot as u8], expected, Some(&after));
        let payload = session.payload(number, &inner);
        self.open[slot] = Some(Open { number, payload: payload.clone(), answered: None });
        payload
    }
}
