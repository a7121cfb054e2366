//! Clients that repeat themselves: each counts on a key of its own, by compare-and-sets that are sent to one node after
//! another until there is an answer, and sometimes once more. Whoever's repetition is applied again, or whose answer was
//! for nothing, sees a count that it did not write.
//!
//! | rule | what |
//! |---|---|
//! | `repeated, and applied once` | a numbered compare-and-set succeeds, and each repetition has that answer, at that index |
//! | `a client is remembered` | a group forgets a client only in favour of others |
//!
//! Only for subjects whose machines remember their clients. What is not here: several open numbers of one client, which
//! `raftwerk::exactly_once` tries by itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use raftwerk::exactly_once::{self, CLIENTS_MAX, Numbered, OnceError, OnceSession};
use raftwerk::kv::codec::{self, Swap};
use raftwerk::{Index, Proposal, ProposeError};

use super::{Event, World, group_id};
use crate::disk::held;
use crate::ledger::hash_of;
use crate::watch::{Checked, Violation};

/// How long one attempt is waited for, in nanoseconds.
const PATIENCES: [u64; 3] = [50_000_000, 500_000_000, 3_000_000_000];

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
    /// What its key holds.
    count: u64,
    open: Option<Open>,
    attempt: Option<(usize, Proposal)>,
    due: u64,
}

impl Repeater {
    pub(super) const fn new(group: usize) -> Self {
        Self { group, leader: 0, session: None, count: 0, open: None, attempt: None, due: 0 }
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
        let payload = self.repeaters[at].next_payload(at);
        let Some(body) = &self.nodes[node].body else { return Ok(()) };
        held(&self.ledger).may_repeat(group_id(group), hash_of(&payload));
        let proposal = body.propose(group_id(group), payload);
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
            match outcome {
                Ok(applied) => {
                    self.answered += 1;
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
                *repeater = Repeater { due: repeater.due, ..Repeater::new(repeater.group) };
                repeater.count = u64::MAX;
                return Ok(());
            }
            Err(error) => return wrong("a client is remembered", error.to_string()),
        };
        let Some(open) = &mut repeater.open else {
            repeater.session = Some(OnceSession::new(outcome.index));
            self.registered += 1;
            return Ok(());
        };
        let swap = codec::swapped(&outcome.reply);
        if swap != Ok(Swap::Applied) {
            return wrong("repeated, and applied once", format!("from {} on: {swap:?}", repeater.count));
        }
        if open.answered.is_some_and(|before| before != outcome.index) {
            return wrong(
                "repeated, and applied once",
                format!("{:?}, then {}", open.answered, outcome.index),
            );
        }
        open.answered = Some(outcome.index);
        if !keeps_on && let (Some(open), Some(session)) = (repeater.open.take(), &mut repeater.session) {
            session.end(open.number);
            repeater.count += 1;
        }
        Ok(())
    }
}

impl Repeater {
    /// What it sends next: a registration, what is open, or one more.
    fn next_payload(&mut self, at: usize) -> Bytes {
        let Some(session) = &mut self.session else { return exactly_once::register() };
        if let Some(open) = &self.open {
            return open.payload.clone();
        }
        if self.count == u64::MAX {
            return exactly_once::register();
        }
        let Some(number) = session.begin() else { return exactly_once::register() };
        let (before, after) = (self.count.to_le_bytes(), (self.count + 1).to_le_bytes());
        let expected = (self.count > 0).then_some(&before[..]);
        let mut inner = Vec::new();
        codec::compare_and_set(&mut inner, &[b'o', at as u8], expected, Some(&after));
        let payload = session.payload(number, &inner);
        self.open = Some(Open { number, payload: payload.clone(), answered: None });
        payload
    }
}
