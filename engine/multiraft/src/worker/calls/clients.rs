//! The clients of a worker that wait: every one of them is answered.
//!
//! What is not here: taking their requests in ([`super::requests`]).

use std::sync::Arc;

use bytes::Bytes;
use raftwerk_frame::{EntryId, Index};
use rustc_hash::FxHashMap;

use crate::api::error::{ProposeError, ReadError};
use crate::api::status::{Applied, ReadAnswer, Received};
use crate::node::submission::{Completion, Operation, OperationKind, Outcome, PipelineShared, Submission};
use crate::worker::calls::waiters::{Pending, QueuedProposal, Waiter};
use crate::worker::calls::waiting::{ReadBatch, ReadWaiter, SPARE_BATCHES, Waiting};
use crate::worker::groups::replica::Replica;

struct PipelineEnd {
    shared: Arc<PipelineShared>,
    finished: Vec<Completion>,
}

/// A single proposal of this turn.
pub(super) struct Single {
    pub(super) payload: Bytes,
    pub(super) waiter: Option<Waiter>,
    pub(super) is_relaxed: bool,
}

/// Everything between the clients and the groups.
#[derive(Default)]
pub(in crate::worker) struct Clients {
    /// The submissions that hold this turn's queued payloads.
    pub(super) submissions: Vec<Submission>,
    pub(super) singles: Vec<Single>,
    pipelines: FxHashMap<u32, PipelineEnd>,
    /// Pipelines with completions of this turn.
    touched: Vec<u32>,
    spare_batches: Vec<ReadBatch>,
    /// Reads that wait, of all groups.
    pub(in crate::worker) waiting: Waiting,
}

impl Clients {
    /// The bytes of a queued payload.
    pub(in crate::worker) fn payload(&self, queued: QueuedProposal) -> &[u8] {
        match queued {
            QueuedProposal::Operation { submission, operation } => {
                let submission = &self.submissions[submission as usize];
                submission.bytes_of(&submission.operations[operation as usize])
            }
            QueuedProposal::Single { request } => &self.singles[request as usize].payload,
        }
    }

    /// Takes the waiter of a queued payload; once per payload.
    pub(in crate::worker) fn take_waiter(&mut self, queued: QueuedProposal) -> Waiter {
        match queued {
            QueuedProposal::Operation { submission, operation } => {
                let submission = &self.submissions[submission as usize];
                let Operation { token, kind, .. } = submission.operations[operation as usize];
                let number = submission.shared.number;
                if kind == OperationKind::ProposeRelaxed {
                    Waiter::RelaxedPipeline { number, token }
                } else {
                    Waiter::Pipeline { number, token }
                }
            }
            QueuedProposal::Single { request } => {
                self.singles[request as usize].waiter.take().expect("a payload is framed once")
            }
        }
    }

    /// Answers a proposal.
    pub(in crate::worker) fn answer(&mut self, waiter: Waiter, result: Result<Applied, ProposeError>) {
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
    pub(in crate::worker) fn is_relaxed(&self, queued: QueuedProposal) -> bool {
        match queued {
            QueuedProposal::Operation { submission, operation } => {
                let operations = &self.submissions[submission as usize].operations;
                operations[operation as usize].kind == OperationKind::ProposeRelaxed
            }
            QueuedProposal::Single { request } => self.singles[request as usize].is_relaxed,
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
    pub(in crate::worker) fn answer_read(
        &mut self,
        waiter: ReadWaiter,
        result: Result<ReadAnswer, ReadError>,
    ) {
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
    pub(in crate::worker) fn spare_batch(&mut self) -> ReadBatch {
        self.spare_batches.pop().unwrap_or_default()
    }

    /// Returns an answered batch for reuse of its memory.
    pub(in crate::worker) fn recycle_batch(&mut self, batch: ReadBatch) {
        if self.spare_batches.len() < SPARE_BATCHES && batch.is_spare() {
            self.spare_batches.push(batch);
        }
    }

    /// Answers the queued proposals of a group with an error: certainly none of them will be applied.
    pub(in crate::worker) fn refuse_queued(&mut self, replica: &mut Replica, error: &ProposeError) {
        for queued in replica.proposals.take_queued() {
            let waiter = self.take_waiter(queued);
            self.answer(waiter, Err(error.clone()));
        }
    }

    /// Answers appended proposals with `Unknown` if they are above `certain` or their entry has been
    /// replaced: this node does not decide any more whether they will be applied. An index at or below
    /// `certain` proves nothing by itself: the step that deposed this leader may have committed the entries
    /// that replaced its own.
    pub(in crate::worker) fn abandon(&mut self, replica: &mut Replica, certain: Index) {
        let core = &replica.core;
        let is_certain = |id: EntryId| id.index <= certain && core.term_at(id.index) == Some(id.term);
        for pending in replica.proposals.take_uncertain(is_certain) {
            self.answer(pending.waiter, Err(ProposeError::Unknown));
        }
        for Pending { id, waiter } in replica.proposals.take_relaxed() {
            let receipt = is_certain(id).then(|| Applied { id, reply: Bytes::new() });
            self.answer(waiter, receipt.ok_or(ProposeError::Unknown));
        }
    }

    /// The turn's payloads have all been framed or refused: releases their memory.
    pub(in crate::worker) fn release_payloads(&mut self) {
        for submission in self.submissions.drain(..) {
            let shared = Arc::clone(&submission.shared);
            shared.recycle(submission);
        }
        self.singles.clear();
    }

    /// Delivers the turn's completions.
    pub(in crate::worker) fn finish_turn(&mut self) {
        for number in self.touched.drain(..) {
            if let Some(end) = self.pipelines.get_mut(&number) {
                end.shared.finish(&mut end.finished);
            }
        }
    }

    /// Drops a pipeline that is gone.
    pub(in crate::worker) fn forget(&mut self, pipeline: u32) {
        self.pipelines.remove(&pipeline);
    }

    pub(super) fn register(&mut self, submission: &Submission) {
        let shared = &submission.shared;
        if shared.is_gone() {
            return;
        }
        self.pipelines
            .entry(shared.number)
            .or_insert_with(|| PipelineEnd { shared: Arc::clone(shared), finished: Vec::new() });
    }
}
