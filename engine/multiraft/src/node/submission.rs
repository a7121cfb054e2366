//! What a pipeline and the workers hand each other: operations in bulk, and their completions.
//!
//! What is not here: the caller's side ([`crate::Pipeline`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::sync::Unparker;
use raftwerk_frame::GroupId;

use crate::api::consistency::Demand;
use crate::api::error::{ProposeError, ReadError};
use crate::api::status::{Applied, ReadAnswer, Received};

/// … or this many bytes, before its last payload.
pub(crate) const SUBMISSION_BYTES: usize = 256 << 10;

/// The result of one operation of a [`Pipeline`](crate::Pipeline).
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
    pub(crate) fn refused(&self, error: &ProposeError) -> Completion {
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

    pub(crate) fn read_of(&mut self, demand: Demand) -> OperationKind {
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
    pub(crate) fn new(number: u32, in_flight_max: usize, unparker: Unparker) -> Arc<Self> {
        Arc::new(Self {
            number,
            finished: ArrayQueue::new(in_flight_max),
            spare_lists: ArrayQueue::new(16),
            spare_submissions: ArrayQueue::new(16),
            sleeping: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            unparker,
        })
    }

    /// An empty submission, with the memory of a processed one where there is some.
    pub(crate) fn spare(self: &Arc<Self>) -> Submission {
        self.spare_submissions.pop().unwrap_or_else(|| {
            let shared = Arc::clone(self);
            Submission { shared, operations: Vec::new(), arena: Vec::new(), demands: Vec::new() }
        })
    }

    /// Appends the available completions to `out`.
    pub(crate) fn take_finished(&self, out: &mut Vec<Completion>) {
        while let Some(mut list) = self.finished.pop() {
            out.append(&mut list);
            let _spare_enough = self.spare_lists.push(list);
        }
    }

    /// Whether completions are available.
    pub(crate) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// The pipeline's thread is about to sleep: from now on completions wake it. It must look for completions
    /// once more before it sleeps.
    pub(crate) fn begin_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// The pipeline is dropped, and takes no more completions.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.drop_spares();
    }

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
