//! One operation's way: started, sent, answered, repeated or given up.

use std::sync::atomic::Ordering;

use raftwerk::{Applied, Completion, GroupId, NodeId, Outcome, ProposeError, ReadAnswer, ReadError};

use super::slots::{Stage, Step};
use super::{Client, Load, Phase, RETRIES_SOON, RETRY_NANOS};
use crate::ledger::Write;
use crate::port::{NodePort, Refused};
use crate::workload::{KeyNumber, Operation};

/// The id of the group with a number: ids start at 1.
#[must_use]
pub(crate) const fn group_id(group: u32) -> GroupId {
    GroupId(group as u64 + 1)
}

impl<P: NodePort, C: FnMut() -> u64> Client<P, C> {
    /// Starts what should have started by `now`, as far as slots reach.
    pub(super) fn start_new(&mut self, now: u64) {
        while self.slots.has_free() {
            if let Some(group) = self.barriers.pop_front() {
                self.start(Step::Write, Write { group, key: KeyNumber::BARRIER, counter: 0 }, now);
                continue;
            }
            if !self.is_issuing() {
                return;
            }
            let started = match self.load {
                Load::Closed { .. } => now,
                Load::Open { .. } => self.next_start(),
            };
            if started > now {
                return;
            }
            self.started += 1;
            let (operation, key) = self.workload.draw();
            let step = match operation {
                Operation::Write => Step::Write,
                Operation::Read => Step::Read,
                Operation::ReadModifyWrite => Step::ReadFirst,
            };
            let group = self.subject.group_of(key);
            self.start(step, Write { group, key, counter: 0 }, started);
        }
    }

    #[inline]
    fn start(&mut self, step: Step, mut write: Write, started: u64) {
        if step == Step::Write {
            self.counter += 1;
            write.counter = self.counter;
        }
        let is_held_to = step != Step::Write && self.reading.sees_own_writes();
        let floor = if is_held_to { self.subject.floor(write.group, write.key) } else { 0 };
        let at = self.slots.take(step, write, started, floor).expect("the caller saw a free slot");
        self.send(at, started);
    }

    /// Tries once; what is refused waits.
    #[inline]
    fn send(&mut self, at: u32, now: u64) {
        let token = self.slots.new_token(at);
        let (write, step) = (self.slots.slot(at).write, self.slots.slot(at).step);
        let node = self.node_for(step, write.group);
        let refused = match &mut self.ports[node] {
            None => Err(Refused::Closed),
            Some(port) if step == Step::Write => {
                port.submit(group_id(write.group), token, self.subject.payload(&write))
            }
            Some(port) => {
                let query = self.subject.query(write.key);
                port.read(group_id(write.group), token, query, self.reading.options())
            }
        };
        match refused {
            Ok(()) => {
                let slot = self.slots.slot(at);
                (slot.node, slot.stage) = (node as u8, Stage::Sent);
                self.dirty[node] = true;
            }
            Err(refused) => {
                if refused == Refused::Closed {
                    self.routes.correct(write.group, node, None);
                }
                self.wait(at, now);
            }
        }
    }

    /// Where an operation goes: to its group's leader, unless any replica will do.
    #[inline]
    fn node_for(&mut self, step: Step, group: u32) -> usize {
        if step == Step::Write || !self.reading.is_anywhere() {
            return self.routes.node_of(group);
        }
        for _ in 0..self.ports.len() {
            self.next_reader = (self.next_reader + 1) % self.ports.len();
            if self.ports[self.next_reader].is_some() {
                break;
            }
        }
        self.next_reader
    }

    fn wait(&mut self, at: u32, now: u64) {
        self.tally.retries += 1;
        if matches!(self.phase, Phase::Finish { .. }) && self.slots.slot(at).write.key != KeyNumber::BARRIER {
            return self.slots.release(at);
        }
        let slot = self.slots.slot(at);
        slot.stage = Stage::Waiting;
        slot.refusals += 1;
        let queue = usize::from(slot.refusals > RETRIES_SOON);
        self.waiting[queue].push_back((now + RETRY_NANOS[queue], at));
    }

    pub(super) fn retry_due(&mut self, now: u64) {
        for queue in 0..self.waiting.len() {
            while let Some((_, at)) = self.waiting[queue].pop_front_if(|(due, _)| *due <= now) {
                if self.slots.slot(at).stage == Stage::Waiting {
                    self.send(at, now);
                }
            }
        }
    }

    pub(super) fn flush(&mut self) {
        for (port, dirty) in self.ports.iter_mut().zip(&mut self.dirty) {
            // A socket may have taken only a part, so ports with something on its way are flushed again.
            if let Some(port) = port
                && (std::mem::take(dirty) || port.in_flight() > 0)
            {
                port.flush();
            }
        }
    }

    pub(super) fn take(&mut self) -> usize {
        self.ports.iter_mut().flatten().map(|port| port.take(&mut self.done)).sum()
    }

    #[inline]
    pub(super) fn complete(&mut self, completion: Completion, now: u64) {
        let Some(at) = self.slots.sent_as(completion.token) else { return };
        match completion.outcome {
            Outcome::Proposal(Ok(applied)) => self.acknowledged(at, &applied, now),
            // Nothing here proposes relaxed.
            Outcome::Relaxed(Ok(received)) => {
                self.acknowledged(at, &Applied { id: received.id, ..Applied::default() }, now);
            }
            Outcome::Proposal(Err(error)) | Outcome::Relaxed(Err(error)) => self.fail(at, &error, now),
            Outcome::Read(Ok(answer)) => self.answered(at, &answer, now),
            Outcome::Read(Err(error)) => self.fail_read(at, &error, now),
        }
    }

    #[inline]
    fn acknowledged(&mut self, at: u32, applied: &Applied, now: u64) {
        let slot = *self.slots.slot(at);
        self.reading.wrote(group_id(slot.write.group), applied.id.index);
        self.subject.acknowledged(&slot.write, applied.id);
        self.tally.acknowledged += 1;
        self.progress.writes.store(self.tally.acknowledged, Ordering::Relaxed);
        if !self.outages.is_empty() {
            self.note_recovery(slot.write.group, usize::from(slot.node), now);
        }
        if slot.write.key == KeyNumber::BARRIER {
            self.barriers_left = self.barriers_left.saturating_sub(1);
        } else {
            self.time(slot.started, now, true);
        }
        self.slots.release(at);
    }

    #[inline]
    fn answered(&mut self, at: u32, answer: &ReadAnswer, now: u64) {
        let slot = *self.slots.slot(at);
        self.reading.saw(group_id(slot.write.group), answer.index);
        self.tally.answered += 1;
        self.progress.reads.store(self.tally.answered, Ordering::Relaxed);
        self.tally.stale_reads += u64::from(!self.subject.is_fresh(&answer.reply, slot.floor));
        self.time(slot.started, now, false);
        if let (Phase::Measure { .. }, Some(staleness)) = (&self.phase, answer.staleness) {
            self.tally.staleness.record(staleness.as_nanos() as u64);
        }
        if slot.step == Step::ReadFirst && self.is_issuing() {
            self.counter += 1;
            let slot = self.slots.slot(at);
            slot.write.counter = self.counter;
            (slot.step, slot.started) = (Step::Write, now);
            self.send(at, now);
        } else {
            self.slots.release(at);
        }
    }

    /// Counts an operation inside the measured time, and its latency if it started inside.
    #[inline]
    fn time(&mut self, started: u64, now: u64, is_write: bool) {
        let (from, until) = match self.phase {
            Phase::Measure { from } => (from, u64::MAX),
            Phase::Finish { from, until } => (from, until),
            Phase::Barrier | Phase::Warm => return,
        };
        let (count, latencies) = if is_write {
            (&mut self.tally.writes, &mut self.tally.write_latencies)
        } else {
            (&mut self.tally.reads, &mut self.tally.read_latencies)
        };
        if now < until {
            *count += 1;
        }
        if started >= from && started < until {
            latencies.record(now.saturating_sub(started));
        }
    }

    fn fail(&mut self, at: u32, error: &ProposeError, now: u64) {
        match error {
            ProposeError::NotLeader { hint } => self.go_elsewhere(at, *hint, now),
            ProposeError::NoSuchGroup(_) | ProposeError::Closed | ProposeError::Poisoned => {
                self.move_on(at, now)
            }
            ProposeError::Busy | ProposeError::StorageFull => self.wait(at, now),
            ProposeError::Unknown => self.give_up(at),
            other => {
                self.tally.fail(other.to_string());
                self.give_up(at);
            }
        }
    }

    fn fail_read(&mut self, at: u32, error: &ReadError, now: u64) {
        match error {
            ReadError::NotLeader { hint } => self.go_elsewhere(at, *hint, now),
            ReadError::NoSuchGroup(_) | ReadError::Closed => self.move_on(at, now),
            ReadError::Busy | ReadError::Stale { .. } | ReadError::Behind { .. } => self.wait(at, now),
            other => {
                self.tally.fail(other.to_string());
                self.give_up(at);
            }
        }
    }

    /// The node does not lead the operation's group.
    fn go_elsewhere(&mut self, at: u32, hint: Option<NodeId>, now: u64) {
        let slot = *self.slots.slot(at);
        let hint = hint.map(|node| node.0 as usize - 1);
        let hint = hint.filter(|&node| self.ports.get(node).is_some_and(Option::is_some));
        if self.routes.correct(slot.write.group, usize::from(slot.node), hint) && hint.is_some() {
            self.tally.retries += 1;
            self.send(at, now);
        } else {
            self.wait(at, now);
        }
    }

    /// The node does not have the operation's group, or is about to leave.
    fn move_on(&mut self, at: u32, now: u64) {
        let slot = *self.slots.slot(at);
        self.routes.correct(slot.write.group, usize::from(slot.node), None);
        self.wait(at, now);
    }

    /// Ends an operation without an acknowledgement. A write that may have left this client counts as unknown.
    pub(super) fn give_up(&mut self, at: u32) {
        let slot = *self.slots.slot(at);
        if slot.step == Step::Write && slot.stage == Stage::Sent {
            self.tally.unknown += 1;
            self.subject.unknown(&slot.write);
        }
        if slot.write.key == KeyNumber::BARRIER && self.barriers_left > 0 {
            self.barriers.push_back(slot.write.group);
        }
        self.slots.release(at);
    }

    /// Forgets a dead node: its groups are looked for elsewhere, its unanswered writes have unknown outcomes.
    pub(super) fn lose(&mut self, node: usize, now: u64) {
        let Some(mut port) = self.ports[node].take() else { return };
        let mut last = Vec::new();
        port.take(&mut last);
        for completion in last {
            self.complete(completion, now);
        }
        for at in self.slots.matching(|slot| slot.stage == Stage::Sent && usize::from(slot.node) == node) {
            if self.slots.slot(at).step == Step::Write { self.give_up(at) } else { self.wait(at, now) }
        }
        let groups: Vec<u32> = self.routes.groups_of(node).collect();
        for group in groups {
            self.routes.correct(group, node, None);
        }
    }

    fn note_recovery(&mut self, group: u32, node: usize, now: u64) {
        for outage in &mut self.outages {
            let out = outage.groups.get_mut(group as usize).filter(|out| **out);
            if let Some(out) = out.filter(|_| node != outage.node || outage.back) {
                *out = false;
                outage.left -= 1;
                let failover = &mut self.tally.failovers[outage.number];
                failover.group_nanos.push(now - outage.at);
                if outage.left == 0 {
                    failover.unavailable_nanos = Some(now - outage.at);
                }
            }
        }
        self.outages.retain(|outage| outage.left > 0);
    }
}
