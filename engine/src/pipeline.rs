//! The interface for high throughput: one thread submits many proposals and reads, and takes their
//! completions, both in bulk.
//!
//! A proposal costs its caller a copy into a buffer shared by hundreds of them, and its worker a push into a
//! list that is returned as one. Nothing is allocated per entry once the buffers have grown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::sync::{Parker, Unparker};
use raftwerk_frame::GroupId;

use crate::consistency::{Demand, ReadAnswer, ReadOptions};
use crate::engine::Shared;
use crate::error::{ProposeError, ReadError};
use crate::group::Applied;
use crate::inbox::{Order, Refused, Request};
use crate::relaxed::Received;

/// A submission is handed over when it holds this many operations …
const SUBMISSION_OPS: usize = 1024;
/// … or this many bytes, before its last payload.
pub(crate) const SUBMISSION_BYTES: usize = 256 << 10;

/// The result of one operation of a [`Pipeline`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The caller's token.
    pub token: u64,
    /// The outcome.
    pub outcome: Outcome,
}

/// The outcome of an operation, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a proposal.
    Proposal(Result<Applied, ProposeError>),
    /// Of a relaxed proposal.
    Relaxed(Result<Received, ProposeError>),
    /// Of a read.
    Read(Result<ReadAnswer, ReadError>),
}

impl Outcome {
    /// Whether it was acknowledged, or answered.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        matches!(self, Self::Proposal(Ok(_)) | Self::Relaxed(Ok(_)) | Self::Read(Ok(_)))
    }
}

/// The kind of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OperationKind {
    Propose,
    ProposeRelaxed,
    /// `demand`: the index of its demand in the submission's `demands`.
    Read {
        demand: u32,
    },
}

/// The kind of an operation that a caller submits.
#[derive(Clone, Copy)]
enum Wanted {
    Apply,
    Receive,
    Answer(Demand),
}

/// One operation of a submission; its bytes are in the submission's arena.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) group: GroupId,
    pub(crate) token: u64,
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) kind: OperationKind,
}

impl Operation {
    /// The completion of an operation that fails with certainty.
    fn refused(&self, error: &ProposeError) -> Completion {
        let outcome = match self.kind {
            OperationKind::Propose => Outcome::Proposal(Err(error.clone())),
            OperationKind::ProposeRelaxed => Outcome::Relaxed(Err(error.clone())),
            OperationKind::Read { .. } => Outcome::Read(Err(error.clone().into())),
        };
        Completion { token: self.token, outcome }
    }
}

/// Operations of one pipeline for one worker.
pub(crate) struct Submission {
    pub(crate) shared: Arc<PipelineShared>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) arena: Vec<u8>,
    /// The demands of its reads; consecutive reads with equal demands share one.
    pub(crate) demands: Vec<Demand>,
}

impl Submission {
    /// The bytes of an operation.
    pub(crate) fn bytes_of(&self, operation: &Operation) -> &[u8] {
        &self.arena[operation.start as usize..][..operation.len as usize]
    }

    fn read_of(&mut self, demand: Demand) -> OperationKind {
        if self.demands.last() != Some(&demand) {
            self.demands.push(demand);
        }
        OperationKind::Read { demand: self.demands.len() as u32 - 1 }
    }

    /// Completes all operations with an error that is certain.
    pub(crate) fn refuse(self, error: &ProposeError) {
        let mut list: Vec<Completion> =
            self.operations.iter().map(|operation| operation.refused(error)).collect();
        if !list.is_empty() {
            self.shared.finish(&mut list);
        }
    }
}

/// State shared by a pipeline and the workers.
pub(crate) struct PipelineShared {
    pub(crate) number: u32,
    finished: ArrayQueue<Vec<Completion>>,
    spare_lists: ArrayQueue<Vec<Completion>>,
    spare_submissions: ArrayQueue<Submission>,
    sleeping: AtomicBool,
    gone: AtomicBool,
    unparker: Unparker,
}

impl PipelineShared {
    /// Hands over completed operations; `list` is left empty, with memory of an older one where there is
    /// some.
    pub(crate) fn finish(&self, list: &mut Vec<Completion>) {
        let spare = self.spare_lists.pop().unwrap_or_default();
        let full = std::mem::replace(list, spare);
        // Every list holds at least one completion and there are at most as many as operations in flight.
        assert!(self.finished.push(full).is_ok(), "more completions than operations in flight");
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.unparker.unpark();
        }
    }

    /// Whether the pipeline has been dropped, and takes no more completions.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Drops spare submissions. Each holds a reference to the shared state that holds it, a reference cycle.
    fn drop_spares(&self) {
        while self.spare_submissions.pop().is_some() {}
    }

    /// Returns a processed submission, so that its memory is reused.
    pub(crate) fn recycle(&self, mut submission: Submission) {
        // A spare keeps the shared state that holds it alive; none is kept after the pipeline was dropped.
        if self.is_gone() {
            return;
        }
        submission.operations.clear();
        submission.arena.clear();
        submission.demands.clear();
        let _spare_enough = self.spare_submissions.push(submission);
        if self.is_gone() {
            self.drop_spares();
        }
    }
}

/// A thread's own interface to the engine, for many operations in flight. Not shared: one per thread.
///
/// ```no_run
/// # fn example(engine: &raftwerk::Engine) -> Result<(), raftwerk::ProposeError> {
/// let mut pipeline = engine.pipeline(1024);
/// for token in 0..1024 {
///     pipeline.propose(raftwerk::GroupId(token % 48), token, b"sixteen bytes ..")?;
/// }
/// pipeline.flush();
/// let mut done = Vec::new();
/// while pipeline.in_flight() > 0 {
///     pipeline.wait(std::time::Duration::from_secs(1));
///     pipeline.take(&mut done);
/// }
/// # Ok(()) }
/// ```
pub struct Pipeline {
    engine: Arc<Shared>,
    shared: Arc<PipelineShared>,
    parker: Parker,
    filling: Vec<Option<Submission>>,
    early: Vec<Completion>,
    in_flight: usize,
    in_flight_max: usize,
}

impl Pipeline {
    pub(crate) fn new(engine: Arc<Shared>, number: u32, in_flight_max: usize) -> Self {
        let parker = Parker::new();
        let in_flight_max = in_flight_max.max(1);
        let shared = Arc::new(PipelineShared {
            number,
            finished: ArrayQueue::new(in_flight_max),
            spare_lists: ArrayQueue::new(16),
            spare_submissions: ArrayQueue::new(16),
            sleeping: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            unparker: parker.unparker().clone(),
        });
        let filling = (0..engine.inboxes.len()).map(|_| None).collect();
        Self { engine, shared, parker, filling, early: Vec::new(), in_flight: 0, in_flight_max }
    }

    /// Accepts a proposal, to be handed over by [`Pipeline::flush`] or when enough have gathered. The payload
    /// is copied. Its [`Completion`] carries `token`.
    ///
    /// # Errors
    /// `Busy` when the maximum of operations is in flight, `TooLarge`, `Closed`. Nothing was accepted.
    pub fn propose(&mut self, group: GroupId, token: u64, payload: &[u8]) -> Result<(), ProposeError> {
        self.submit(group, token, payload, Wanted::Apply)
    }

    /// As [`Pipeline::propose`], for a payload that need not be durable to be acknowledged: see [`Received`]
    /// for what its completion guarantees, and what it does not.
    ///
    /// # Errors
    /// As for [`Pipeline::propose`].
    pub fn propose_relaxed(
        &mut self,
        group: GroupId,
        token: u64,
        payload: &[u8],
    ) -> Result<(), ProposeError> {
        self.submit(group, token, payload, Wanted::Receive)
    }

    /// Accepts a linearizable read, likewise; served by the leader alone.
    ///
    /// # Errors
    /// As for [`Pipeline::propose`].
    pub fn read(&mut self, group: GroupId, token: u64, query: &[u8]) -> Result<(), ReadError> {
        self.submit(group, token, query, Wanted::Answer(Demand::STRONG)).map_err(ReadError::from)
    }

    /// Accepts a read, as [`Group::query`](crate::Group::query) does. A session is consulted now; the caller
    /// has to record the completion's index in it by [`Session::saw`](crate::Session::saw).
    ///
    /// # Errors
    /// As for [`Pipeline::propose`], and `NoSession`.
    pub fn query(
        &mut self,
        group: GroupId,
        token: u64,
        query: &[u8],
        options: ReadOptions<'_>,
    ) -> Result<(), ReadError> {
        let demand = options.demand(group)?;
        self.submit(group, token, query, Wanted::Answer(demand)).map_err(ReadError::from)
    }

    fn submit(
        &mut self,
        group: GroupId,
        token: u64,
        bytes: &[u8],
        wanted: Wanted,
    ) -> Result<(), ProposeError> {
        let max = self.engine.payload_bytes_max;
        if bytes.len() > max {
            return Err(ProposeError::TooLarge { bytes: bytes.len(), max });
        }
        if self.in_flight == self.in_flight_max {
            return Err(ProposeError::Busy);
        }
        let worker = self.engine.worker_of(group);
        let submission = self.filling[worker].get_or_insert_with(|| {
            self.shared.spare_submissions.pop().unwrap_or_else(|| {
                let shared = Arc::clone(&self.shared);
                Submission { shared, operations: Vec::new(), arena: Vec::new(), demands: Vec::new() }
            })
        });
        let full =
            submission.operations.len() >= SUBMISSION_OPS || submission.arena.len() >= SUBMISSION_BYTES;
        if full && !self.hand_over(worker) {
            return Err(ProposeError::Busy);
        }
        if full {
            return self.submit(group, token, bytes, wanted);
        }
        let submission = self.filling[worker].as_mut().expect("was just filled");
        let start = submission.arena.len() as u32;
        submission.arena.extend_from_slice(bytes);
        let kind = match wanted {
            Wanted::Apply => OperationKind::Propose,
            Wanted::Receive => OperationKind::ProposeRelaxed,
            Wanted::Answer(demand) => submission.read_of(demand),
        };
        submission.operations.push(Operation { group, token, start, len: bytes.len() as u32, kind });
        self.in_flight += 1;
        Ok(())
    }

    /// Hands all accepted operations to the workers. What a full inbox refuses stays for the next call.
    pub fn flush(&mut self) {
        for worker in 0..self.filling.len() {
            self.hand_over(worker);
        }
    }

    fn hand_over(&mut self, worker: usize) -> bool {
        let Some(submission) = self.filling[worker].take_if(|submission| !submission.operations.is_empty())
        else {
            return true;
        };
        match self.engine.inboxes[worker].request(Request::Submission(submission)) {
            Ok(()) => true,
            Err(Refused::Full(Request::Submission(submission))) => {
                self.filling[worker] = Some(submission);
                false
            }
            Err(Refused::Closed(Request::Submission(submission))) => {
                let closed = |operation: &Operation| operation.refused(&ProposeError::Closed);
                self.early.extend(submission.operations.iter().map(closed));
                true
            }
            Err(_) => unreachable!("an inbox gives back what it was given"),
        }
    }

    /// Accepted operations without a completion that was taken.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Appends the available completions to `out` and returns their number. Never blocks.
    pub fn take(&mut self, out: &mut Vec<Completion>) -> usize {
        let before = out.len();
        out.append(&mut self.early);
        while let Some(mut list) = self.shared.finished.pop() {
            out.append(&mut list);
            let _spare_enough = self.shared.spare_lists.push(list);
        }
        let taken = out.len() - before;
        self.in_flight -= taken;
        taken
    }

    /// Hands over the accepted operations, then sleeps until a completion is available, for at most
    /// `at_most`. Returns whether one is.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        self.flush();
        if self.is_ready() {
            return true;
        }
        self.shared.sleeping.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        if !self.is_ready() {
            self.parker.park_timeout(at_most);
        }
        self.shared.sleeping.store(false, Ordering::Relaxed);
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        !self.early.is_empty() || !self.shared.finished.is_empty()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        self.shared.drop_spares();
        for inbox in &self.engine.inboxes {
            inbox.order(Order::PipelineGone { pipeline: self.shared.number });
        }
    }
}
