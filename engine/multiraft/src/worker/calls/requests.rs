//! Takes the requests of clients in: each is queued beside its group, answered, or refused.

use bytes::Bytes;
use raftwerk_frame::{GroupId, Time};
use raftwerk_wal::Disk;

use crate::api::error::ProposeError;
use crate::node::request::{Order, Request};
use crate::node::submission::{OperationKind, SUBMISSION_BYTES, Submission};
use crate::worker::Worker;
use crate::worker::calls::clients::Single;
use crate::worker::calls::reads::refuse_reads;
use crate::worker::calls::waiters::{QueuedProposal, Waiter};
use crate::worker::calls::waiting::ReadWaiter;

/// Bytes of a payload's framing in the batch, which a proposal is charged besides its payload.
const ENTRY_BYTES: u64 = 4;

impl<D: Disk> Worker<D> {
    /// Counts the waiting requests. To be called before the turn's time is read: then each request judged by
    /// that time was called before it, and clients that retry at once cannot keep a turn from ending.
    pub(crate) fn count_requests(&mut self) {
        self.calls.requests_seen = self.env.inbox.requests_len();
    }

    /// Takes the turn's requests while batch and log have room. Returns whether all of them were taken.
    pub(in crate::worker) fn accept_requests(&mut self) -> bool {
        let (at_first, space) = (self.lane.turn_budget() as u64, self.lane.reserved_space());
        let mut room = at_first;
        let mut left = std::mem::take(&mut self.calls.requests_seen);
        let enough = (SUBMISSION_BYTES + self.settings.payload_bytes_max) as u64;
        while room > enough && at_first - room < space && left > 0 {
            left -= 1;
            let Some((request, called)) = self.env.inbox.next_stamped() else { return true };
            if let Some(called) = called {
                self.accept_sample(request, called, &mut room);
            } else {
                self.accept_request(request, &mut room, None);
            }
        }
        if left == 0 {
            return true;
        }
        // Without a disk or memory there is no room: clients are refused at once rather than left waiting.
        match self.refusal() {
            None => return false,
            Some(error @ ProposeError::Poisoned) => self.refuse_requests(&error),
            Some(error) => {
                for _ in 0..left {
                    let Some(request) = self.env.inbox.next_request() else { return true };
                    self.accept_request(request, &mut room, Some(&error));
                }
            }
        }
        true
    }

    /// Takes a request that was stamped when it was called: one of its proposals will be followed, if it has any.
    fn accept_sample(&mut self, request: Request, called: Time, room: &mut u64) {
        self.calls.sampling.begin_choice(called, self.now);
        self.accept_request(request, room, None);
        if !self.calls.sampling.end_choice() {
            self.env.inbox.stamp_next();
        }
    }

    /// Takes one request. With `refusal` nothing can be written now: proposals get that error, while reads,
    /// which need no room, proceed.
    fn accept_request(&mut self, request: Request, room: &mut u64, refusal: Option<&ProposeError>) {
        match request {
            Request::Submission(submission) => self.accept_submission(submission, room, refusal),
            Request::Propose { group, payload, reply } => {
                *room = room.saturating_sub(payload.len() as u64 + ENTRY_BYTES);
                self.queue_single(group, payload, Waiter::Single(reply), refusal);
            }
            Request::ProposeRelaxed { group, payload, reply } => {
                *room = room.saturating_sub(payload.len() as u64 + ENTRY_BYTES);
                self.queue_single(group, payload, Waiter::RelaxedSingle(reply), refusal);
            }
            Request::Read { group, query, demand, reply } => {
                self.on_read(group, &query, demand, ReadWaiter::Single(reply));
            }
            Request::Freeze { group, demand, reply } => {
                self.on_read(group, &[], demand, ReadWaiter::Freezing(reply));
            }
        }
    }

    fn accept_submission(&mut self, submission: Submission, room: &mut u64, refusal: Option<&ProposeError>) {
        self.calls.clients.register(&submission);
        let number = self.calls.clients.submissions.len() as u32;
        self.calls.clients.submissions.push(submission);
        let submission = &mut self.calls.clients.submissions[number as usize];
        let count = submission.operations.len();
        // Queries are read in place; payloads are not read before the end of the turn.
        let arena = std::mem::take(&mut submission.arena);
        for at in 0..count {
            let submission = &self.calls.clients.submissions[number as usize];
            let operation = submission.operations[at];
            match operation.kind {
                OperationKind::Propose | OperationKind::ProposeRelaxed => {
                    *room = room.saturating_sub(u64::from(operation.len) + ENTRY_BYTES);
                    let queued = QueuedProposal::Operation { submission: number, operation: at as u32 };
                    self.queue(operation.group, queued, u64::from(operation.len), refusal);
                }
                OperationKind::Read { demand } => {
                    let demand = submission.demands[demand as usize];
                    let waiter =
                        ReadWaiter::Pipeline { number: submission.shared.number, token: operation.token };
                    let query = &arena[operation.start as usize..][..operation.len as usize];
                    self.on_read(operation.group, query, demand, waiter);
                }
            }
        }
        self.calls.clients.submissions[number as usize].arena = arena;
    }

    fn queue_single(
        &mut self,
        group: GroupId,
        payload: Bytes,
        waiter: Waiter,
        refusal: Option<&ProposeError>,
    ) {
        let (bytes, request) = (payload.len() as u64, self.calls.clients.singles.len() as u32);
        let is_relaxed = waiter.is_relaxed();
        self.calls.clients.singles.push(Single { payload, waiter: Some(waiter), is_relaxed });
        self.queue(group, QueuedProposal::Single { request }, bytes, refusal);
    }

    /// Queues a payload beside its group's core until the end of the turn; refuses what cannot succeed.
    fn queue(&mut self, group: GroupId, queued: QueuedProposal, bytes: u64, refusal: Option<&ProposeError>) {
        let refused = if self.is_poisoned {
            Err(ProposeError::Poisoned)
        } else {
            match self.groups.find_mut(group) {
                None => Err(ProposeError::NoSuchGroup(group)),
                Some(replica) if !replica.core.is_leader() => {
                    Err(ProposeError::NotLeader { hint: replica.core.leader() })
                }
                Some(replica) if replica.is_quarantined() => Err(ProposeError::Quarantined(group)),
                Some(_) if let Some(error) = refusal => Err(error.clone()),
                Some(replica) => {
                    self.calls.sampling.note_queued(replica.slot, group, replica.proposals.queued());
                    replica.proposals.queue(queued, bytes + ENTRY_BYTES);
                    Ok(replica.slot)
                }
            }
        };
        match refused {
            Ok(slot) => self.groups.touch(slot),
            Err(error) => {
                let waiter = self.calls.clients.take_waiter(queued);
                self.calls.clients.answer(waiter, Err(error));
            }
        }
    }

    /// Why nothing at all can be written now, if so.
    fn refusal(&self) -> Option<ProposeError> {
        if self.is_poisoned {
            Some(ProposeError::Poisoned)
        } else if self.upkeep.is_full() {
            Some(ProposeError::StorageFull)
        } else if self.is_short_of_memory() {
            Some(ProposeError::Busy)
        } else {
            None
        }
    }

    fn refuse_requests(&mut self, error: &ProposeError) {
        for _ in 0..self.env.inbox.requests_len() {
            if let Some(request) = self.env.inbox.next_request() {
                request.refuse(error);
            }
        }
    }

    /// Answers every waiting client: the outcome of what was appended is unknown.
    pub(in crate::worker) fn abandon_all(&mut self, reason: &ProposeError) {
        for replica in self.groups.iter_mut() {
            self.calls.clients.refuse_queued(replica, reason);
            let applied = replica.applied;
            self.calls.clients.abandon(replica, applied);
            refuse_reads(replica, &mut self.calls.clients, &reason.clone().into());
            crate::worker::calls::membership::abandon_change(replica);
            replica.changes.drop_transfer();
        }
    }

    /// Answers all clients; from here on the inbox refuses requests.
    pub(in crate::worker) fn close(&mut self) {
        self.is_closing = true;
        self.env.inbox.close();
        self.abandon_all(&ProposeError::Closed);
        self.env.inbox.refuse_all();
        self.calls.clients.finish_turn();
    }

    /// Takes the engine's commands.
    pub(in crate::worker) fn execute_orders(&mut self) {
        for _ in 0..self.settings.limits.orders {
            let Some(order) = self.env.inbox.next_order() else { return };
            match order {
                Order::PipelineGone { pipeline } => self.calls.clients.forget(pipeline),
                Order::Shutdown => return self.close(),
                other => self.execute(other),
            }
        }
    }
}
