//! The clients' side of a worker: takes their requests in, and answers every one of them.

use std::sync::Arc;

use bytes::Bytes;
use raftwerk_frame::{EntryId, GroupId, Index};
use raftwerk_wal::Disk;
use rustc_hash::FxHashMap;

use super::Worker;
use super::reads::{ReadBatch, ReadWaiter, SPARE_BATCHES, Waiting, refuse_reads};
use super::replica::{Pending, Replica, Staged, Waiter};
use crate::consistency::ReadAnswer;
use crate::error::{ProposeError, ReadError};
use crate::group::Applied;
use crate::inbox::{Order, Request};
use crate::pipeline::{
    Completion, Operation, OperationKind, Outcome, PipelineShared, SUBMISSION_BYTES, Submission,
};
use crate::relaxed::Received;

/// Bytes of a payload's framing in the batch, which a proposal is charged besides its payload.
const ENTRY_BYTES: u64 = 4;

struct PipelineEnd {
    shared: Arc<PipelineShared>,
    finished: Vec<Completion>,
}

/// A single proposal of this turn.
struct Single {
    payload: Bytes,
    waiter: Option<Waiter>,
    is_relaxed: bool,
}

/// Everything between the clients and the groups.
#[derive(Default)]
pub(super) struct Clients {
    /// The submissions that hold this turn's queued payloads.
    submissions: Vec<Submission>,
    singles: Vec<Single>,
    pipelines: FxHashMap<u32, PipelineEnd>,
    /// Pipelines with completions of this turn.
    touched: Vec<u32>,
    spare_batches: Vec<ReadBatch>,
    /// Reads that wait, of all groups.
    pub(super) waiting: Waiting,
}

impl Clients {
    /// The bytes of a queued payload.
    pub(super) fn payload(&self, staged: Staged) -> &[u8] {
        match staged {
            Staged::Operation { submission, operation } => {
                let submission = &self.submissions[submission as usize];
                submission.bytes_of(&submission.operations[operation as usize])
            }
            Staged::Single { request } => &self.singles[request as usize].payload,
        }
    }

    /// Takes the waiter of a queued payload; once per payload.
    pub(super) fn take_waiter(&mut self, staged: Staged) -> Waiter {
        match staged {
            Staged::Operation { submission, operation } => {
                let submission = &self.submissions[submission as usize];
                let Operation { token, kind, .. } = submission.operations[operation as usize];
                let number = submission.shared.number;
                if kind == OperationKind::ProposeRelaxed {
                    Waiter::RelaxedPipeline { number, token }
                } else {
                    Waiter::Pipeline { number, token }
                }
            }
            Staged::Single { request } => {
                self.singles[request as usize].waiter.take().expect("a payload is framed once")
            }
        }
    }

    /// Answers a proposal.
    pub(super) fn answer(&mut self, waiter: Waiter, result: Result<Applied, ProposeError>) {
        match waiter {
            Waiter::Pipeline { number, token } => {
                self.complete(number, Completion { token, outcome: Outcome::Proposal(result) });
            }
            Waiter::Single(reply) => drop(reply.send(result)),
            Waiter::RelaxedPipeline { number, token } => {
                let received = result.map(|applied| Received { id: applied.id });
                self.complete(number, Completion { token, outcome: Outcome::Relaxed(received) });
            }
            Waiter::RelaxedSingle(reply) => {
                drop(reply.send(result.map(|applied| Received { id: applied.id })));
            }
        }
    }

    /// Whether a receipt is enough for the waiter of a queued payload.
    pub(super) fn is_relaxed(&self, staged: Staged) -> bool {
        match staged {
            Staged::Operation { submission, operation } => {
                let operations = &self.submissions[submission as usize].operations;
                operations[operation as usize].kind == OperationKind::ProposeRelaxed
            }
            Staged::Single { request } => self.singles[request as usize].is_relaxed,
        }
    }

    fn complete(&mut self, number: u32, completion: Completion) {
        if let Some(end) = self.pipelines.get_mut(&number) {
            if end.finished.is_empty() {
                self.touched.push(number);
            }
            end.finished.push(completion);
        }
    }

    /// Answers a read.
    pub(super) fn answer_read(&mut self, waiter: ReadWaiter, result: Result<ReadAnswer, ReadError>) {
        match waiter {
            ReadWaiter::Single(reply) => drop(reply.send(result)),
            ReadWaiter::Pipeline { number, token } => {
                self.complete(number, Completion { token, outcome: Outcome::Read(result) });
            }
            ReadWaiter::Freezing(reply) => {
                let error = result.err().unwrap_or(ReadError::NotFreezable);
                drop(reply.send(Err(error)));
            }
        }
    }

    /// An empty batch of reads, with the memory of an earlier one if there is some.
    pub(super) fn spare_batch(&mut self) -> ReadBatch {
        self.spare_batches.pop().unwrap_or_default()
    }

    /// Returns an answered batch for reuse of its memory.
    pub(super) fn recycle_batch(&mut self, batch: ReadBatch) {
        if self.spare_batches.len() < SPARE_BATCHES && batch.is_spare() {
            self.spare_batches.push(batch);
        }
    }

    /// Answers the queued proposals of a group with an error: certainly none of them will be applied.
    pub(super) fn refuse_staged(&mut self, replica: &mut Replica, error: &ProposeError) {
        replica.staged_bytes = 0;
        for staged in std::mem::take(&mut replica.staged) {
            let waiter = self.take_waiter(staged);
            self.answer(waiter, Err(error.clone()));
        }
    }

    /// Answers appended proposals with `Unknown` if they are above `certain` or their entry has been
    /// replaced: this node does not decide any more whether they will be applied. An index at or below
    /// `certain` proves nothing by itself: the step that deposed this leader may have committed the entries
    /// that replaced its own.
    pub(super) fn abandon(&mut self, replica: &mut Replica, certain: Index) {
        let core = &replica.core;
        let is_certain = |id: EntryId| id.index <= certain && core.term_at(id.index) == Some(id.term);
        let kept = replica.pending.partition_point(|pending| is_certain(pending.id));
        for pending in replica.pending.split_off(kept) {
            self.answer(pending.waiter, Err(ProposeError::Unknown));
        }
        for Pending { id, waiter } in replica.relaxed.take().into_iter().flat_map(|of| of.pending) {
            let receipt = is_certain(id).then(|| Applied { id, reply: Bytes::new() });
            self.answer(waiter, receipt.ok_or(ProposeError::Unknown));
        }
    }

    /// The turn's payloads have all been framed or refused: releases their memory.
    pub(super) fn turn_is_staged(&mut self) {
        for submission in self.submissions.drain(..) {
            let shared = Arc::clone(&submission.shared);
            shared.recycle(submission);
        }
        self.singles.clear();
    }

    /// Delivers the turn's completions.
    pub(super) fn finish_turn(&mut self) {
        for number in self.touched.drain(..) {
            if let Some(end) = self.pipelines.get_mut(&number) {
                end.shared.finish(&mut end.finished);
            }
        }
    }

    /// Drops a pipeline that is gone.
    pub(super) fn forget(&mut self, pipeline: u32) {
        self.pipelines.remove(&pipeline);
    }

    fn meet(&mut self, submission: &Submission) {
        let shared = &submission.shared;
        if shared.is_gone() {
            return;
        }
        self.pipelines
            .entry(shared.number)
            .or_insert_with(|| PipelineEnd { shared: Arc::clone(shared), finished: Vec::new() });
    }
}

impl<D: Disk> Worker<D> {
    /// Counts the waiting requests. To be called before the turn's time is read: then each request judged by
    /// that time was called before it, and clients that retry at once cannot keep a turn from ending.
    pub(crate) fn count_requests(&mut self) {
        self.requests_seen = self.inbox.requests_len();
    }

    /// Takes the turn's requests while batch and log have room. Returns whether all of them were taken.
    pub(super) fn take_requests(&mut self) -> bool {
        let (at_first, space) = (self.lane.turn_budget() as u64, self.lane.reserved_space());
        let mut room = at_first;
        let mut left = std::mem::take(&mut self.requests_seen);
        let enough = (SUBMISSION_BYTES + self.settings.payload_bytes_max) as u64;
        while room > enough && at_first - room < space && left > 0 {
            left -= 1;
            let Some(request) = self.inbox.next_request() else { return true };
            self.take_request(request, &mut room, None);
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
                    let Some(request) = self.inbox.next_request() else { return true };
                    self.take_request(request, &mut room, Some(&error));
                }
            }
        }
        true
    }

    /// Takes one request. With `refusal` nothing can be written now: proposals get that error, while reads,
    /// which need no room, proceed.
    fn take_request(&mut self, request: Request, room: &mut u64, refusal: Option<&ProposeError>) {
        match request {
            Request::Submission(submission) => self.take_submission(submission, room, refusal),
            Request::Propose { group, payload, reply } => {
                *room = room.saturating_sub(payload.len() as u64 + ENTRY_BYTES);
                self.stage_single(group, payload, Waiter::Single(reply), refusal);
            }
            Request::ProposeRelaxed { group, payload, reply } => {
                *room = room.saturating_sub(payload.len() as u64 + ENTRY_BYTES);
                self.stage_single(group, payload, Waiter::RelaxedSingle(reply), refusal);
            }
            Request::Read { group, query, demand, reply } => {
                self.take_read(group, &query, demand, ReadWaiter::Single(reply));
            }
            Request::Freeze { group, demand, reply } => {
                self.take_read(group, &[], demand, ReadWaiter::Freezing(reply));
            }
        }
    }

    fn take_submission(&mut self, submission: Submission, room: &mut u64, refusal: Option<&ProposeError>) {
        self.clients.meet(&submission);
        let number = self.clients.submissions.len() as u32;
        self.clients.submissions.push(submission);
        let submission = &mut self.clients.submissions[number as usize];
        let count = submission.operations.len();
        // Queries are read in place; payloads are not read before the end of the turn.
        let arena = std::mem::take(&mut submission.arena);
        for at in 0..count {
            let submission = &self.clients.submissions[number as usize];
            let operation = submission.operations[at];
            match operation.kind {
                OperationKind::Propose | OperationKind::ProposeRelaxed => {
                    *room = room.saturating_sub(u64::from(operation.len) + ENTRY_BYTES);
                    let staged = Staged::Operation { submission: number, operation: at as u32 };
                    self.stage(operation.group, staged, u64::from(operation.len), refusal);
                }
                OperationKind::Read { demand } => {
                    let demand = submission.demands[demand as usize];
                    let waiter =
                        ReadWaiter::Pipeline { number: submission.shared.number, token: operation.token };
                    let query = &arena[operation.start as usize..][..operation.len as usize];
                    self.take_read(operation.group, query, demand, waiter);
                }
            }
        }
        self.clients.submissions[number as usize].arena = arena;
    }

    fn stage_single(
        &mut self,
        group: GroupId,
        payload: Bytes,
        waiter: Waiter,
        refusal: Option<&ProposeError>,
    ) {
        let (bytes, request) = (payload.len() as u64, self.clients.singles.len() as u32);
        let is_relaxed = waiter.is_relaxed();
        self.clients.singles.push(Single { payload, waiter: Some(waiter), is_relaxed });
        self.stage(group, Staged::Single { request }, bytes, refusal);
    }

    /// Queues a payload beside its group's core until the end of the turn; refuses what cannot succeed.
    fn stage(&mut self, group: GroupId, staged: Staged, bytes: u64, refusal: Option<&ProposeError>) {
        let refused = if self.is_poisoned {
            Err(ProposeError::Poisoned)
        } else {
            match self.slot_of(group).and_then(|slot| self.replicas[slot.0 as usize].as_mut()) {
                None => Err(ProposeError::NoSuchGroup(group)),
                Some(replica) if !replica.core.is_leader() => {
                    Err(ProposeError::NotLeader { hint: replica.core.leader() })
                }
                Some(replica) if replica.is_quarantined() => Err(ProposeError::Quarantined(group)),
                Some(_) if let Some(error) = refusal => Err(error.clone()),
                Some(replica) => {
                    replica.staged.push(staged);
                    replica.staged_bytes += bytes + ENTRY_BYTES;
                    Ok(replica.slot)
                }
            }
        };
        match refused {
            Ok(slot) => self.touch(slot),
            Err(error) => {
                let waiter = self.clients.take_waiter(staged);
                self.clients.answer(waiter, Err(error));
            }
        }
    }

    /// Why nothing at all can be written now, if so.
    fn refusal(&self) -> Option<ProposeError> {
        if self.is_poisoned {
            Some(ProposeError::Poisoned)
        } else if self.is_full {
            Some(ProposeError::StorageFull)
        } else if self.is_short_of_memory() {
            Some(ProposeError::Busy)
        } else {
            None
        }
    }

    fn refuse_requests(&mut self, error: &ProposeError) {
        for _ in 0..self.inbox.requests_len() {
            if let Some(request) = self.inbox.next_request() {
                request.refuse(error);
            }
        }
    }

    /// Answers every waiting client: the outcome of what was appended is unknown.
    pub(super) fn abandon_all(&mut self, reason: &ProposeError) {
        for replica in self.replicas.iter_mut().flatten() {
            self.clients.refuse_staged(replica, reason);
            let applied = replica.applied;
            self.clients.abandon(replica, applied);
            refuse_reads(replica, &mut self.clients, &reason.clone().into());
            super::membership::abandon_change(replica);
            replica.transfer = None;
        }
    }

    /// Answers all clients; from here on the inbox refuses requests.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
        self.inbox.close();
        self.abandon_all(&ProposeError::Closed);
        self.inbox.refuse_all();
        self.clients.finish_turn();
    }

    /// Takes the engine's commands.
    pub(super) fn take_orders(&mut self) {
        for _ in 0..self.settings.limits.orders {
            let Some(order) = self.inbox.next_order() else { return };
            match order {
                Order::PipelineGone { pipeline } => self.clients.forget(pipeline),
                Order::Shutdown => return self.close(),
                other => self.obey(other),
            }
        }
    }
}
