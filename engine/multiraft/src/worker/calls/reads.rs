//! Reads: which state of this replica may answer a read, and when.
//!
//! A read that the present state may answer is answered when it is taken. Reads that need the latest state
//! are collected, and at the end of the turn the worker makes one read-index request to the core for all of
//! them; the index it returns covers everything that was committed when the request was made. So a replica
//! has a time that its state *reflects*: everything that was committed anywhere before then is applied. A
//! read of bounded staleness is compared with that time, which is renewed when half of the bound has passed,
//! together with that of all other groups of the same leader that are read: one message per pair of nodes and
//! half a bound while there are readers, and none per read.
//!
//! Times are those of the worker's turn, and a turn takes only requests that were called before its time was
//! read: what is recent enough for the turn is recent enough for the call.
//!
//! Not here: how a core determines the read index (`raft/src/read.rs`, `asked.rs`).

use std::time::Duration;

use raftwerk_frame::{GroupId, Index, Message, NodeId, Time};
use raftwerk_raft::Input;
use raftwerk_wal::{Disk, GroupSlot};

use crate::api::consistency::{Demand, Wanted};
use crate::api::error::ReadError;
use crate::api::status::{FrozenState, ReadAnswer};
use crate::worker::Worker;
use crate::worker::calls::clients::Clients;
use crate::worker::calls::reading::{ReadIndexRequest, Reading};
use crate::worker::calls::waiting::{PendingRead, ReadBatch, ReadWaiter, Waiting};
use crate::worker::groups::machines::guarded;
use crate::worker::groups::replica::Replica;

/// Deadlines of a group's reads are examined no more often than this, so a read is refused that much later at
/// most.
const GRAIN: Duration = Duration::from_millis(1);
/// Most read-index requests kept after their reads have ended: their answers still date the state.
const REQUESTS_KEPT: usize = 8;
/// Most read-index requests of followers that wait for the next turn; those beyond are dropped, and the
/// followers repeat them.
pub(in crate::worker) const READ_INDEX_MAX: usize = 16 << 10;

impl Replica {
    /// Whether its state satisfies what a read wants.
    fn may_answer(&self, wanted: Wanted, now: Time) -> bool {
        match wanted {
            Wanted::Any => true,
            Wanted::AtLeast(index) => index <= self.applied,
            Wanted::Within(at_most) => self.staleness(now).is_some_and(|staleness| staleness <= at_most),
            Wanted::Latest => false,
        }
    }

    /// The age of its state at most; `None` if unknown.
    fn staleness(&self, now: Time) -> Option<Duration> {
        self.reads.reflects.map(|at| now.since(at))
    }

    /// Why it refuses a read.
    fn refusal(&self, wanted: Wanted, now: Time) -> ReadError {
        match wanted {
            Wanted::Latest | Wanted::Any => ReadError::NotLeader { hint: self.core.leader() },
            Wanted::Within(_) => ReadError::Stale { staleness: self.staleness(now) },
            Wanted::AtLeast(wanted) => ReadError::Behind { applied: self.applied, wanted },
        }
    }

    /// Whether a waiting read can be answered now.
    pub(in crate::worker) fn has_answerable_reads(&self) -> bool {
        self.reads.reading.as_ref().is_some_and(|reading| {
            let first = reading.asked.front().and_then(|asked| asked.index);
            first.is_some_and(|index| index <= self.applied) || reading.parked.has_answerable(self.applied)
        })
    }

    /// What is held for reads that wait.
    pub(in crate::worker) fn reads_held(&self) -> Waiting {
        self.reads.reading.as_ref().map_or(Waiting::default(), |reading| reading.held())
    }

    /// How many of its reads wait, by the running count.
    fn reads_waiting(&self) -> Waiting {
        self.reads.reading.as_ref().map_or(Waiting::default(), |reading| reading.waiting)
    }

    fn answer(&self, clients: &mut Clients, now: Time, query: &[u8], waiter: ReadWaiter) {
        let (index, staleness) = (self.applied, self.staleness(now));
        let Some(machine) = &self.machine else {
            return clients.answer_read(waiter, Err(ReadError::Witness { hint: self.core.leader() }));
        };
        if let ReadWaiter::Freezing(reply) = waiter {
            let frozen = guarded(|| machine.freeze()).map_err(ReadError::Panicked);
            let frozen = frozen.and_then(|frozen| frozen.ok_or(ReadError::NotFreezable));
            return drop(reply.send(frozen.map(|state| FrozenState::new(state, index, staleness))));
        }
        let reply = guarded(|| machine.query(query)).map_err(ReadError::Panicked);
        clients.answer_read(waiter, reply.map(|reply| ReadAnswer { reply, index, staleness }));
    }

    /// Refuses a read at its deadline, or for want of a leader.
    fn refuse(&self, clients: &mut Clients, now: Time, read: PendingRead) {
        clients.answer_read(read.waiter, Err(self.refusal(read.wanted, now)));
    }
}

/// A read waits no longer: updates the counts.
fn leave(clients: &mut Clients, of_group: &mut Waiting, query: &[u8]) {
    of_group.leave(query);
    clients.waiting.leave(query);
}

/// Ends every read of a replica with an error.
pub(in crate::worker) fn refuse_reads(replica: &mut Replica, clients: &mut Clients, error: &ReadError) {
    let Some(mut reading) = replica.reads.reading.take() else { return };
    let Reading { queued, asked, parked, waiting, .. } = &mut *reading;
    let mut end = |query: &[u8], read: PendingRead| {
        leave(clients, waiting, query);
        clients.answer_read(read.waiter, Err(error.clone()));
    };
    for batch in asked.iter_mut().map(|asked| &mut asked.batch).chain([queued]) {
        batch.drain(&mut end);
    }
    parked.drain(end);
}

impl<D: Disk> Worker<D> {
    /// Takes a read: answers it, refuses it, or keeps it.
    pub(in crate::worker) fn on_read(
        &mut self,
        group: GroupId,
        query: &[u8],
        demand: Demand,
        waiter: ReadWaiter,
    ) {
        let Some(slot) = self.groups.slot_of(group) else {
            return self.calls.clients.answer_read(waiter, Err(ReadError::NoSuchGroup(group)));
        };
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let (Demand { wanted, patience }, now) = (demand, self.now);
        if replica.machine.is_none() {
            return replica.answer(&mut self.calls.clients, now, query, waiter); // a witness has no state
        }
        if replica.is_quarantined() {
            return self.calls.clients.answer_read(waiter, Err(ReadError::Quarantined(group)));
        }
        if replica.may_answer(wanted, now) {
            replica.answer(&mut self.calls.clients, now, query, waiter);
            return self.renew(slot, wanted);
        }
        if wanted.is_of_time() && self.lease_of(slot).is_some_and(|index| index <= self.applied_of(slot)) {
            return self.answer_by_lease(slot, query, waiter);
        }
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let leads = replica.core.is_leader();
        if self.is_poisoned || patience.is_none() && !(leads && wanted.is_of_time()) {
            let refusal = if self.is_poisoned && wanted == Wanted::Latest {
                ReadError::NotLeader { hint: None }
            } else {
                replica.refusal(wanted, now)
            };
            self.calls.clients.answer_read(waiter, Err(refusal));
            return self.renew(slot, wanted);
        }
        let max = Waiting { reads: self.settings.reads_max, bytes: self.settings.read_bytes_max };
        if !self.calls.clients.waiting.admits(replica.reads_waiting(), query.len(), max) {
            return self.calls.clients.answer_read(waiter, Err(ReadError::Busy));
        }
        let until = patience.map(|patience| now + patience);
        let reading = replica.reads.reading.get_or_insert_with(Reading::new);
        self.calls.clients.waiting.enter(query);
        reading.waiting.enter(query);
        if let Some(until) = until {
            reading.arm(&mut self.calls.reads_due, slot, now, until);
        }
        let read = PendingRead { wanted, until, waiter };
        if wanted.is_of_time() {
            reading.queued.push(query, read);
            reading.is_wanted = true;
            self.groups.touch(slot);
        } else {
            reading.parked.push(query, read);
        }
    }

    /// Answers a read under the lease: everything committed anywhere is applied here, and no other node
    /// leads.
    fn answer_by_lease(&mut self, slot: GroupSlot, query: &[u8], waiter: ReadWaiter) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        replica.reads.reflects = Some(self.now);
        replica.answer(&mut self.calls.clients, self.now, query, waiter);
        self.env.metrics.leased_read();
    }

    fn applied_of(&self, slot: GroupSlot) -> Index {
        self.groups.get(slot).map_or(Index(0), |replica| replica.applied)
    }

    /// After a read of bounded staleness: has the time that the state reflects renewed when half of the bound
    /// has passed, so that the next read need not wait.
    fn renew(&mut self, slot: GroupSlot, wanted: Wanted) {
        let Wanted::Within(at_most) = wanted else { return };
        let Some(replica) = self.groups.get_mut(slot) else { return };
        if replica.reads.watched.is_zero() {
            self.calls.watched.push(slot);
        }
        replica.reads.watched =
            if replica.reads.watched.is_zero() { at_most } else { replica.reads.watched.min(at_most) };
        let is_fresh = replica.staleness(self.now).is_some_and(|staleness| staleness <= at_most / 2);
        let is_asking = replica.reads.reading.as_ref().is_some_and(|reading| !reading.is_quiet());
        if let Some(leader) = replica.core.leader().filter(|_| !(is_fresh || is_asking || self.is_poisoned)) {
            self.renew_all(leader);
        }
    }

    /// Renews all groups of a leader that are read and due soon: their read-index requests are sent as one
    /// message per pair of nodes, and so are the replies.
    fn renew_all(&mut self, leader: NodeId) {
        let watched = std::mem::take(&mut self.calls.watched);
        for slot in watched {
            let Some(replica) = self.groups.get_mut(slot) else {
                continue;
            };
            let is_soon =
                replica.staleness(self.now).is_none_or(|staleness| staleness > replica.reads.watched / 4);
            if replica.core.leader() != Some(leader) || !is_soon {
                // No reader watches the successor of a removed replica.
                if !replica.reads.watched.is_zero() {
                    self.calls.watched.push(slot);
                }
                continue;
            }
            replica.reads.watched = Duration::ZERO;
            let reading = replica.reads.reading.get_or_insert_with(Reading::new);
            if reading.is_quiet() {
                reading.is_wanted = true;
                self.groups.touch(slot);
            }
        }
    }

    /// A follower's read-index request, which a lease may answer. Beyond the bound it is dropped, as if the
    /// network had lost it.
    pub(in crate::worker) fn on_read_index(
        &mut self,
        slot: GroupSlot,
        group: GroupId,
        from: NodeId,
        message: Message,
    ) {
        if self.calls.pending_read_index.len() < READ_INDEX_MAX {
            self.calls.pending_read_index.push((slot, group, from, message));
        }
    }

    /// Answers the read-index requests of followers that came before this turn's time was read: a lease that
    /// stands now stood when they were made, and answers them without another message. All others are stepped
    /// into the core.
    pub(in crate::worker) fn answer_read_index(&mut self) {
        let mut requests = std::mem::take(&mut self.calls.pending_read_index);
        for (slot, group, from, message) in requests.drain(..) {
            if !self.groups.holds(slot, group) {
                continue;
            }
            let leased = self.lease_of(slot).filter(|_| !self.is_stalled());
            let Some(replica) = self.groups.get_mut(slot) else { continue };
            let (term, is_known) = (replica.core.term(), replica.core.peers().any(|peer| peer == from));
            match (message, leased) {
                (Message::ReadIndex { term: asked_in, round }, Some(index))
                    if asked_in == term && is_known && replica.may_send(self.log.durable()) =>
                {
                    let to = self.outboxes.recipient(&replica.core, from, None);
                    self.outboxes.control(to, group, Message::ReadIndexReply { term, round, index });
                    self.env.metrics.leased_read();
                }
                _ => self.step(slot, Input::Message { from, message, runs: &[] }),
            }
        }
        self.calls.pending_read_index = requests;
    }

    /// Step 3: makes a read-index request to the core, one for all reads of a group and turn.
    pub(in crate::worker) fn request_read_index(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(reading) = replica.reads.reading.as_mut() else { return };
        let is_anyone = replica.core.leader().is_some();
        let is_asked_for = reading.is_wanted || is_anyone && reading.parked.wants_leader();
        if !is_asked_for {
            return;
        }
        reading.is_wanted = false;
        if !is_anyone {
            let queued = std::mem::take(&mut reading.queued);
            return self.put_off(slot, queued);
        }
        let Reading { queued, parked, .. } = &mut **reading;
        parked.drain_asking(|query, read| queued.push(query, read));
        self.calls.read_tokens += 1;
        let (token, at) = (self.calls.read_tokens, self.now);
        let batch = std::mem::replace(&mut reading.queued, self.calls.clients.spare_batch());
        reading.asked.push_back(ReadIndexRequest { token, at, index: None, batch });
        reading.arm(&mut self.calls.reads_due, slot, at, at + self.settings.heartbeat_interval);
        let Some(index) = self.lease_of(slot) else {
            return self.step(slot, Input::FollowerRead { token });
        };
        // The lease answers: no message is needed.
        let Some(replica) = self.groups.get_mut(slot) else { return };
        Self::confirm_read(replica, token, index);
        self.groups.note_to_apply(slot);
    }

    /// The core has determined the read index.
    pub(in crate::worker) fn confirm_read(replica: &mut Replica, token: u64, index: Index) {
        if let Some(reading) = replica.reads.reading.as_mut() {
            reading.confirm(token, index);
        }
    }

    /// The core has no leader any more to determine a read index: reads that may wait do so for the next
    /// leader.
    pub(in crate::worker) fn reject_read(&mut self, slot: GroupSlot, token: u64) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(reading) = replica.reads.reading.as_mut() else { return };
        if let Some(at) = reading.asked.iter().position(|asked| asked.token == token)
            && let Some(asked) = reading.asked.remove(at)
        {
            self.put_off(slot, asked.batch);
        }
    }

    /// There is no leader: reads with a deadline wait for one, the others are refused.
    fn put_off(&mut self, slot: GroupSlot, mut batch: ReadBatch) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(mut reading) = replica.reads.reading.take() else { return };
        let now = self.now;
        let Reading { parked, waiting, .. } = &mut *reading;
        batch.drain(|query, read| {
            if read.until.is_some() {
                return parked.push(query, read);
            }
            leave(&mut self.calls.clients, waiting, query);
            replica.refuse(&mut self.calls.clients, now, read);
        });
        reading.arm(&mut self.calls.reads_due, slot, now, now + self.settings.heartbeat_interval);
        replica.reads.reading = Some(reading);
        self.calls.clients.recycle_batch(batch);
    }

    /// Step 5: answers the reads whose index is applied.
    pub(in crate::worker) fn answer_reads(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(mut reading) = replica.reads.reading.take() else { return };
        let now = self.now;
        let is_applied =
            |asked: &mut ReadIndexRequest| asked.index.is_some_and(|index| index <= replica.applied);
        let Reading { asked, parked, waiting, .. } = &mut *reading;
        let mut is_younger = false;
        while let Some(mut asked) = asked.pop_front_if(is_applied) {
            replica.reads.reflects = replica.reads.reflects.max(Some(asked.at));
            is_younger = true;
            asked.batch.drain(|query, read| {
                leave(&mut self.calls.clients, waiting, query);
                replica.answer(&mut self.calls.clients, now, query, read.waiter);
            });
            self.calls.clients.recycle_batch(asked.batch);
        }
        let mut answer = |query: &[u8], read: PendingRead| {
            leave(&mut self.calls.clients, waiting, query);
            replica.answer(&mut self.calls.clients, now, query, read.waiter);
        };
        // The state's new age may be enough for reads of later requests.
        let batches = asked.iter_mut().map(|asked| &mut asked.batch);
        for batch in batches.filter(|batch| is_younger && batch.has_bounded()) {
            batch.extract(|read| replica.may_answer(read.wanted, now), &mut answer);
        }
        parked.drain_applied(replica.applied, answer);
        replica.reads.reading = Some(reading);
    }

    /// Serves reads that may be past their deadline, and repeats read-index requests that may have been lost.
    pub(in crate::worker) fn fire_read_deadlines(&mut self) {
        while let Some((at, slot)) = self.calls.reads_due.due(self.now) {
            let replica = self.groups.get_mut(slot);
            let reading = replica.and_then(|replica| replica.reads.reading.as_mut());
            if let Some(reading) = reading.filter(|reading| reading.due == at) {
                reading.due = Time::NEVER;
                self.on_read_deadline(slot);
            }
        }
    }

    fn on_read_deadline(&mut self, slot: GroupSlot) {
        // What came in this turn, a snapshot above all, may be what some of them waited for.
        self.answer_reads(slot);
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(mut reading) = replica.reads.reading.take() else { return };
        let (now, interval) = (self.now, self.settings.heartbeat_interval);
        let Reading { parked, asked, waiting, .. } = &mut *reading;
        let mut refuse = |query: &[u8], read: PendingRead| {
            leave(&mut self.calls.clients, waiting, query);
            replica.refuse(&mut self.calls.clients, now, read);
        };
        let batches = asked.iter_mut().map(|asked| &mut asked.batch);
        for batch in batches.filter(|batch| batch.first_until() <= now) {
            batch.extract(|read| read.until.is_some_and(|until| until <= now), &mut refuse);
        }
        parked.drain_due(now, refuse);
        // The answer to a later request serves the earlier ones.
        let (mut left, kept) = (asked.len(), REQUESTS_KEPT);
        asked.retain(|asked| {
            left -= 1;
            left < kept || !asked.batch.is_empty()
        });
        reading.is_wanted |= reading.asked.back().is_some_and(|last| last.at + interval <= now);
        if reading.is_empty() {
            return;
        }
        let is_asking = !reading.is_quiet() || reading.parked.wants_leader();
        let again = if is_asking { now + interval } else { Time::NEVER };
        let until = reading.first_until();
        reading.not_before = now + GRAIN;
        reading.arm(&mut self.calls.reads_due, slot, now, until.min(again));
        replica.reads.reading = Some(reading);
        if is_asking {
            self.groups.touch(slot);
        }
    }
}
