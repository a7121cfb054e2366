//! The interface for high throughput: one thread submits many proposals and reads, and takes their
//! completions, both in bulk.
//!
//! A proposal costs its caller a copy into a buffer shared by hundreds of them, and its worker a push into a
//! list that is returned as one. Nothing is allocated per entry once the buffers have grown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_utils::sync::Parker;
use raftwerk_frame::GroupId;

use crate::api::consistency::{Demand, ReadOptions};
use crate::api::error::{ProposeError, ReadError};
use crate::node::handle::NodeShared;
use crate::node::request::{Order, Refused, Request};
use crate::node::submission::{
    Completion, Operation, OperationKind, PipelineShared, SUBMISSION_BYTES, Submission,
};

/// A submission is handed over when it holds this many operations …
const SUBMISSION_OPS: usize = 1024;
/// The kind of an operation that a caller submits.
#[derive(Clone, Copy)]
enum Wanted {
    Apply,
    Receive,
    Answer(Demand),
}

/// A thread's own interface to the engine, for many operations in flight. Not shared: one per thread.
///
/// ```no_run
/// # use raftwerk_multiraft as raftwerk;
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
    engine: Arc<NodeShared>,
    shared: Arc<PipelineShared>,
    parker: Parker,
    filling: Vec<Option<Submission>>,
    early: Vec<Completion>,
    in_flight: usize,
    in_flight_max: usize,
}

impl Pipeline {
    /// A pipeline for one caller, with a number of its own.
    pub(crate) fn open(engine: &Arc<NodeShared>, in_flight_max: usize) -> Self {
        let engine = Arc::clone(engine);
        let number = engine.pipelines.fetch_add(1, Ordering::Relaxed);
        let parker = Parker::new();
        let in_flight_max = in_flight_max.max(1);
        let shared = PipelineShared::new(number, in_flight_max, parker.unparker().clone());
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

    /// As [`Pipeline::propose`], for a payload that need not be durable to be acknowledged: see
    /// [`Received`](crate::Received) for what its completion guarantees, and what it does not.
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
        let submission = self.filling[worker].get_or_insert_with(|| self.shared.spare());
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
        self.shared.take_finished(out);
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
        self.shared.begin_sleep();
        if !self.is_ready() {
            self.parker.park_timeout(at_most);
        }
        self.shared.end_sleep();
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        !self.early.is_empty() || self.shared.has_finished()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.leave();
        for inbox in &self.engine.inboxes {
            inbox.order(Order::PipelineGone { pipeline: self.shared.number });
        }
    }
}
