//! Pipelines: many marks in flight at one node, each answered once, by what is of its own entry.

use std::time::Duration;

use bytes::Bytes;
use raftwerk::kv::codec::{self, Swap};
use raftwerk::{Outcome, ProposeError, ReadAnswer, ReadError, ReadOptions};

use super::{User, World, group_id};
use crate::disk::held;
use crate::ledger::hash_of;
use crate::watch::{Checked, Violation};

/// Keys of pipelines begin with this byte: a shard map would send them elsewhere.
const MARK: u8 = b'h';
const KEYS: u64 = 4;
/// How long a read of any replica may wait.
const ELSEWHERE: Duration = Duration::from_secs(2);
/// One submission in so many is kept back until the next.
const KEPT_BACK: u64 = 4;
/// One pipeline in so many bursts is dropped with all that it has in flight.
const DROPPED: u64 = 40;

/// An operation that is under way.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) node: usize,
    group: usize,
    key: u8,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Of a payload with this hash, which has no reply.
    Put(u64),
    /// Likewise, which is refused by what the key holds.
    Swap(u64),
    Relaxed(u64),
    /// A query, and how much was committed when it was called.
    Read(Bytes, u64),
}

impl World<'_> {
    /// A user submits several operations at once.
    pub(super) fn submit(&mut self, user: &mut User, group: usize, node: usize) -> Checked {
        if self.faces.chance.below(DROPPED) == 0 {
            // The next one is another pipeline, and gets no completion of this one's operations.
            user.doors[node] = None;
            user.marks.retain(|_, mark| mark.node != node);
            if !self.open_door(user, node) {
                return Ok(());
            }
        }
        for _ in 0..self.faces.chance.from_to(1, 8) {
            self.submit_one(user, group, node)?;
        }
        if self.faces.chance.below(KEPT_BACK) > 0
            && let Some(door) = &mut user.doors[node]
        {
            door.pipeline.flush();
        }
        Ok(())
    }

    fn submit_one(&mut self, user: &mut User, group: usize, node: usize) -> Checked {
        self.unique += 1;
        let token = self.unique;
        let chance = &mut self.faces.chance;
        let (drawn, key) = (chance.below(8), chance.below(KEYS) as u8);
        let relaxes = self.plan.relaxed > 0 && !self.is_ending && chance.below(3) == 0;
        let value = [&[key][..], &token.to_le_bytes()].concat();
        let mut bytes = Vec::new();
        let id = group_id(group);
        let Some(door) = &mut user.doors[node] else { return Ok(()) };
        let pipeline = &mut door.pipeline;
        let (kind, taken) = match drawn {
            0..3 => {
                codec::put(&mut bytes, &[MARK, key], &value);
                let payload = hash_of(&bytes);
                if relaxes {
                    (Kind::Relaxed(payload), pipeline.propose_relaxed(id, token, &bytes))
                } else {
                    (Kind::Put(payload), pipeline.propose(id, token, &bytes))
                }
            }
            3..5 => {
                // Nothing holds this, so it shows what the key does hold.
                codec::compare_and_set(&mut bytes, &[MARK, key], Some(&value), Some(&value));
                (Kind::Swap(hash_of(&bytes)), pipeline.propose(id, token, &bytes))
            }
            _ => {
                codec::get(&mut bytes, &[MARK, key]);
                let committed = self.watch.committed(id);
                let kind = Kind::Read(Bytes::from(bytes.clone()), committed);
                let asked = if drawn == 5 {
                    pipeline.query(id, token, &bytes, ReadOptions::default().or_wait(ELSEWHERE))
                } else {
                    pipeline.read(id, token, &bytes)
                };
                (kind, asked.map_err(|_| ProposeError::Busy))
            }
        };
        match (taken, &kind) {
            (Ok(()), _) => _ = user.marks.insert(token, Mark { node, group, key, kind }),
            (Err(_), Kind::Put(payload) | Kind::Swap(payload) | Kind::Relaxed(payload)) => {
                held(&self.ledger).refused(id, *payload);
            }
            (Err(_), Kind::Read(..)) => {}
        }
        Ok(())
    }

    /// Takes what a node's pipeline has for its user.
    pub(super) fn take_completions(&mut self, user: &mut User, node: usize) -> Checked {
        let Some(door) = &mut user.doors[node] else { return Ok(()) };
        let mut done = Vec::new();
        let taken = door.pipeline.take(&mut done);
        let in_flight = door.pipeline.in_flight();
        if taken == 0 {
            return Ok(());
        }
        for completion in done {
            let token = completion.token;
            let Some(mark) = user.marks.remove(&token).filter(|mark| mark.node == node) else {
                let what = format!("n{}: {token} is answered, and nothing is open under it", node + 1);
                return Err(Violation::new("a mark is answered once", what));
            };
            self.count(41, token);
            self.take_completion(user, &mark, completion.outcome)?;
        }
        let left = user.marks.iter().find(|(_, mark)| in_flight == 0 && mark.node == node);
        left.map_or(Ok(()), |(token, mark)| {
            let what = format!("n{}: nothing is in flight, and {token} is open: {mark:?}", node + 1);
            Err(Violation::new("a mark is answered once", what))
        })
    }

    fn take_completion(&mut self, user: &mut User, mark: &Mark, outcome: Outcome) -> Checked {
        let id = group_id(mark.group);
        let wrong = |outcome: &dyn std::fmt::Debug| {
            Err(Violation::new("an answer is of its call", format!("{mark:?}: {outcome:?}")))
        };
        match (&mark.kind, outcome) {
            (Kind::Put(payload) | Kind::Swap(payload), Outcome::Proposal(Ok(applied))) => {
                self.answered += 1;
                held(&self.ledger).acknowledged(id, applied.id.index, *payload);
                let is_right = match (&mark.kind, codec::swapped(&applied.reply)) {
                    (Kind::Swap(_), Ok(Swap::Refused(found))) => {
                        found.is_none_or(|found| found.value.first() == Some(&mark.key))
                    }
                    (Kind::Swap(_), _) => false,
                    _ => applied.reply.is_empty(),
                };
                if is_right { Ok(()) } else { wrong(&applied) }
            }
            (Kind::Relaxed(payload), Outcome::Relaxed(Ok(received))) => {
                self.answered += 1;
                held(&self.ledger).received(id, received.id.index, *payload);
                Ok(())
            }
            (Kind::Put(payload) | Kind::Swap(payload), Outcome::Proposal(Err(error)))
            | (Kind::Relaxed(payload), Outcome::Relaxed(Err(error))) => {
                self.take_refusal(user, mark.group, *payload, &error);
                Ok(())
            }
            (Kind::Read(query, committed), Outcome::Read(Ok(answer))) => {
                self.answered += 1;
                self.judge_read(mark, query, *committed, &answer)
            }
            (Kind::Read(..), Outcome::Read(Err(error))) => {
                if let ReadError::NotLeader { hint: Some(leader) } = error {
                    user.leaders[mark.group] = leader.0 as usize - 1;
                }
                Ok(())
            }
            (_, outcome) => wrong(&outcome),
        }
    }

    fn judge_read(&self, mark: &Mark, query: &Bytes, committed: u64, answer: &ReadAnswer) -> Checked {
        let id = group_id(mark.group);
        let mut ledger = held(&self.ledger);
        if answer.index.0 < committed {
            ledger.stale_read(id, answer.index, committed);
        }
        let found = codec::found(&answer.reply);
        let is_of_key = |found: &codec::Found| found.value.first() == Some(&mark.key);
        if found.as_ref().is_ok_and(|found| found.as_ref().is_none_or(is_of_key))
            && ledger.has_answered(id, answer.index, hash_of(query), hash_of(&answer.reply))
        {
            return Ok(());
        }
        Err(Violation::new("an answer is of its call", format!("{mark:?}: {answer:?}")))
    }

    /// A proposal had no effect, or its outcome is unknown.
    pub(super) fn take_refusal(&mut self, user: &mut User, group: usize, payload: u64, error: &ProposeError) {
        match error {
            ProposeError::Unknown => self.unknown += 1,
            error => {
                held(&self.ledger).refused(group_id(group), payload);
                if let ProposeError::NotLeader { hint: Some(leader) } = error {
                    user.leaders[group] = leader.0 as usize - 1;
                }
            }
        }
    }
}
