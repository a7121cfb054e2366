//! The readers: they read at every level, at any replica, and take up each other's sessions. What an answer may show is
//! judged at once, from what the world knows and no replica does: when what was committed, and what a state answers.
//!
//! The rules are those of [`crate::levels`], and `an answer is of its index`: the reply is that of a state after exactly the
//! entries up to the index it names.
//!
//! Times are the world's; a node's clock that gains or loses is allowed for. What is not here: linearizability, which is
//! judged over the whole history at the end (`clients`, `ending`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use raftwerk::{Call, Consistency, FrozenState, GroupId, Index, ReadAnswer, ReadError, ReadOptions, Session};

use super::{Event, World, group_id};
use crate::chance::Chance;
use crate::disk::held;
use crate::ledger::hash_of;
use crate::levels::{Asked, Shown};
use crate::subject::Operation;
use crate::watch::{Checked, Violation};

/// A reader that waits longer than this gives up.
const PATIENCE: u64 = 5_000_000_000;
/// How often a query is drawn again; there are state machines without reads.
const READ_TRIES: usize = 32;
const MS: u64 = 1_000_000;

/// What one client has been shown and has written: by its session, and by the world's record.
pub(super) struct Sight {
    session: Session,
    /// By group.
    seen: Vec<u64>,
    written: Vec<u64>,
}

impl Sight {
    pub(super) fn new(groups: usize) -> Self {
        Self { session: Session::new(), seen: vec![0; groups], written: vec![0; groups] }
    }

    /// A write of its own was acknowledged.
    pub(super) fn wrote(&mut self, group: usize, index: Index) {
        self.session.wrote(group_id(group), index);
        self.seen[group] = self.seen[group].max(index.0);
        self.written[group] = self.written[group].max(index.0);
    }

    /// An answer was seen that was not read in the session.
    pub(super) fn saw(&mut self, group: usize, index: Index) {
        self.session.saw(group_id(group), index);
        self.seen[group] = self.seen[group].max(index.0);
    }

    /// The session as another process gets it.
    fn handed_over(&self) -> Result<Self, Violation> {
        let session = Session::from_token(&self.session.to_token())
            .map_err(|error| Violation::new("sessions survive", error.to_string()))?;
        Ok(Self { session, seen: self.seen.clone(), written: self.written.clone() })
    }

    fn merge(&mut self, other: &Self) {
        self.session.merge(&other.session);
        let raise = |all: &mut Vec<u64>, others: &[u64]| {
            all.iter_mut().zip(others).for_each(|(own, other)| *own = (*own).max(*other));
        };
        raise(&mut self.seen, &other.seen);
        raise(&mut self.written, &other.written);
    }
}

enum Pending {
    Read(Call<ReadAnswer, ReadError>),
    Freezing(Call<FrozenState, ReadError>),
}

/// One read on its way.
struct Waiting {
    node: usize,
    group: usize,
    asked: Asked,
    query: Bytes,
    pending: Pending,
}

/// One reader: at most one read at a time.
pub(super) struct Reader {
    sight: Sight,
    waiting: Option<Waiting>,
    /// A state that it has kept, and what that answered at first.
    kept: Option<(usize, FrozenState, Bytes, Bytes)>,
    due: u64,
}

impl Reader {
    pub(super) fn new(groups: usize) -> Self {
        Self { sight: Sight::new(groups), waiting: None, kept: None, due: 0 }
    }
}

fn draw_level(chance: &mut Chance) -> Consistency {
    let bounds = [1, 20, 100, 100, 500, 2_000];
    match chance.below(8) {
        0 => Consistency::Strong,
        1..3 => Consistency::BoundedStaleness(Duration::from_nanos(chance.one_of(&bounds) * MS)),
        3..5 => Consistency::Monotonic,
        5 => Consistency::ReadMyWrites,
        6 => Consistency::ConsistentPrefix,
        _ => Consistency::Eventual,
    }
}

impl World<'_> {
    /// A reader's time has come: it reads, or loses patience.
    pub(super) fn read(&mut self, at: usize) -> Checked {
        if self.is_ending || self.readers[at].due != self.now {
            return Ok(());
        }
        if let Some(waiting) = self.readers[at].waiting.take() {
            self.nodes[waiting.node].readers.retain(|reader| *reader != at);
        }
        self.count(14, at as u64);
        self.ask_kept(at)?;
        self.take_up_session(at)?;
        let group = self.chances.readers.below(self.plan.groups as u64) as usize;
        let places = self.places(group);
        let node = self.chances.readers.one_of(&places);
        let Some(query) = self.draw_query() else { return Ok(()) };
        if !self.nodes[node].is_reachable() {
            self.pause_reader(at);
            return Ok(());
        }
        let Some(body) = &self.nodes[node].body else { return Ok(()) };
        let chance = &mut self.chances.readers;
        let level = draw_level(chance);
        let reader = &mut self.readers[at];
        let options = ReadOptions::new(level).in_session(&reader.sight.session);
        let options = match chance.one_of(&[0, 0, 10, 100, 1_000]) {
            0 => options,
            ms => options.or_wait(Duration::from_nanos(ms * MS)),
        };
        let id = group_id(group);
        let pending = if chance.below(5) == 0 {
            Pending::Freezing(body.group(id).freeze(options))
        } else {
            Pending::Read(body.group(id).query(query.clone(), options))
        };
        let asked = Asked {
            level,
            called: self.now,
            committed: self.watch.committed(id),
            floor: Asked::floor(level, reader.sight.seen[group], reader.sight.written[group]),
            rate_ppm: 1_000_000 - self.plan.drift_ppm.unsigned_abs() as u32,
        };
        reader.waiting = Some(Waiting { node, group, asked, query, pending });
        self.nodes[node].readers.push(at);
        self.expect_reader(at, self.now + PATIENCE);
        self.answer_bells(node);
        Ok(())
    }

    fn draw_query(&mut self) -> Option<Bytes> {
        (0..READ_TRIES).find_map(|_| match self.subject.operation(&mut self.chances.readers, self.unique) {
            Operation::Read(query) => Some(query),
            Operation::Write(_) => None,
        })
    }

    /// Now and then a reader goes on with another's session, or takes in what it has seen.
    fn take_up_session(&mut self, at: usize) -> Checked {
        let chance = &mut self.chances.readers;
        if chance.below(3) != 0 {
            return Ok(());
        }
        let whose = chance.below((self.clients.len() + self.readers.len()) as u64) as usize;
        let is_merge = chance.below(2) == 0;
        let sight = match self.clients.get(whose) {
            Some(client) => client.sight(),
            None => &self.readers[whose - self.clients.len()].sight,
        };
        let sight = sight.handed_over()?;
        let own = &mut self.readers[at].sight;
        if is_merge {
            own.merge(&sight)
        } else {
            *own = sight
        }
        Ok(())
    }

    /// A state that was kept answers as it did.
    fn ask_kept(&mut self, at: usize) -> Checked {
        let Some((group, state, query, first)) = &self.readers[at].kept else { return Ok(()) };
        let answer = state.query(query);
        if answer.reply != *first {
            let what = format!("{}: a state frozen at {} has changed", group_id(*group), answer.index);
            return Err(Violation::new("an answer is of its index", what));
        }
        if self.chances.readers.below(4) == 0 {
            self.readers[at].kept = None;
        }
        Ok(())
    }

    fn expect_reader(&mut self, at: usize, when: u64) {
        self.readers[at].due = when;
        self.at(when, Event::Reader { reader: at as u16 });
    }

    pub(super) fn pause_reader(&mut self, at: usize) {
        let pause = self.chances.readers.heavy_tailed(self.plan.think);
        self.expect_reader(at, self.now + pause);
    }

    /// A node dies with everything its readers wait for.
    pub(super) fn lose_readers(&mut self, node: usize) {
        for at in std::mem::take(&mut self.nodes[node].readers) {
            self.readers[at].waiting = None;
            self.pause_reader(at);
        }
    }

    /// Hands out what a node has answered.
    pub(super) fn answer_readers(&mut self, node: usize) -> Checked {
        let mut next = 0;
        while let Some(&at) = self.nodes[node].readers.get(next) {
            let Some(waiting) = &mut self.readers[at].waiting else { return Ok(()) };
            let mut cx = Context::from_waker(Waker::noop());
            let outcome = match &mut waiting.pending {
                Pending::Read(read) => Pin::new(read).poll(&mut cx).map_ok(|answer| (answer, None)),
                Pending::Freezing(freezing) => Pin::new(freezing)
                    .poll(&mut cx)
                    .map_ok(|state| (state.query(&waiting.query), Some(state))),
            };
            let Poll::Ready(outcome) = outcome else {
                next += 1;
                continue;
            };
            self.nodes[node].readers.swap_remove(next);
            let Some(waiting) = self.readers[at].waiting.take() else { return Ok(()) };
            self.take_answer(at, waiting, outcome)?;
            self.pause_reader(at);
        }
        Ok(())
    }

    fn take_answer(
        &mut self,
        at: usize,
        waiting: Waiting,
        outcome: Result<(ReadAnswer, Option<FrozenState>), ReadError>,
    ) -> Checked {
        self.count(15, hash_of(&waiting.query) ^ waiting.node as u64);
        let (answer, state) = match outcome {
            Ok(answered) => answered,
            Err(error) => return waiting.asked.judge_refusal(&error),
        };
        self.answered += 1;
        self.judge_answer(&waiting, &answer)?;
        let sight = &mut self.readers[at].sight;
        sight.seen[waiting.group] = sight.seen[waiting.group].max(answer.index.0);
        if let Some(state) = state {
            self.readers[at].kept = Some((waiting.group, state, waiting.query, answer.reply));
        }
        Ok(())
    }

    fn judge_answer(&self, waiting: &Waiting, answer: &ReadAnswer) -> Checked {
        let id = group_id(waiting.group);
        let (query, reply) = (hash_of(&waiting.query), hash_of(&answer.reply));
        if !held(&self.ledger).has_answered(id, answer.index, query, reply) {
            let what = format!("{}: no state at {} answers so", about(waiting, id), answer.index);
            return Err(Violation::new("an answer is of its index", what));
        }
        // A clock that stood still makes ages of its own.
        let staleness = answer.staleness.filter(|_| !self.plan.clocks_stop);
        let shown = Shown { at: self.now, index: answer.index.0, staleness };
        let mut asked = waiting.asked;
        if self.plan.clocks_stop && matches!(asked.level, Consistency::BoundedStaleness(_)) {
            asked.level = Consistency::Eventual;
        }
        asked.judge(&shown, &self.commits[waiting.group]).map_err(|violation| {
            Violation::new(violation.invariant, format!("{}: {}", about(waiting, id), violation.what))
        })
    }
}

fn about(waiting: &Waiting, group: GroupId) -> String {
    format!("{group} read at n{}, {:?}", waiting.node + 1, waiting.asked.level)
}
