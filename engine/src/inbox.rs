//! What waits for a worker: requests of callers, units from the net thread, orders of the engine. All bounded.
//!
//! Anyone may push; only the worker pops. Pushing never blocks: full is an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use bytes::Bytes;
use crossbeam_queue::{ArrayQueue, SegQueue};
use raftwerk_frame::wire::{self, Record, UnitHeader};
use raftwerk_frame::{Configuration, GroupId, Index, LogId, Membership, Message, NodeId};
use raftwerk_wal::PeerNote;
use tokio::sync::oneshot;

use crate::consistency::{Demand, ReadAnswer};
use crate::error::{CreateError, ProposeError, ReadError, ReplaceError};
use crate::group::{Applied, FrozenState, GroupStatus};
use crate::liveness::Heard;
use crate::loss::{AcceptLossError, Loss};
use crate::membership::{Reconfiguration, ReconfigureError, TransferError};
use crate::pipeline::Submission;
use crate::quarantine::ReviveError;
use crate::relaxed::Received;

/// One call's worth of work for a worker.
pub(crate) enum Request {
    /// Many proposals and reads of one pipeline.
    Submission(Submission),
    /// A single proposal.
    Propose { group: GroupId, payload: Bytes, reply: oneshot::Sender<Result<Applied, ProposeError>> },
    /// A single relaxed proposal.
    ProposeRelaxed { group: GroupId, payload: Bytes, reply: oneshot::Sender<Result<Received, ProposeError>> },
    /// A single read.
    Read {
        group: GroupId,
        query: Bytes,
        demand: Demand,
        reply: oneshot::Sender<Result<ReadAnswer, ReadError>>,
    },
    /// The state itself, to be read elsewhere.
    Freeze { group: GroupId, demand: Demand, reply: oneshot::Sender<Result<FrozenState, ReadError>> },
}

/// What the net thread saw.
pub(crate) enum Arrival {
    /// A message of a peer whose identity is proven.
    Unit { from: NodeId, is_first: bool, unit: Bytes },
    /// The same, of one that has not been heard before, with this log.
    Introduction { from: NodeId, log: LogId, unit: Bytes },
    /// A peer does not know, or not rightly, which log this node has.
    Question { from: NodeId },
    /// The connection to a peer broke.
    Lost(NodeId),
    /// There is one again.
    Reached(NodeId),
}

/// Orders of the engine; rare, and never refused.
pub(crate) enum Order {
    /// Make a replica here of a group that begins like this.
    Found { group: GroupId, founders: Configuration, reply: oneshot::Sender<Result<(), CreateError>> },
    /// Make a replica here that is to be told of its group.
    Join { group: GroupId, as_witness: bool, reply: oneshot::Sender<Result<(), CreateError>> },
    /// Forget a replica and its log.
    Remove { group: GroupId, reply: oneshot::Sender<bool> },
    /// Want another configuration.
    Reconfigure {
        group: GroupId,
        wish: Reconfiguration,
        reply: oneshot::Sender<Result<Membership, ReconfigureError>>,
    },
    /// Want another leader.
    Transfer { group: GroupId, to: NodeId, reply: oneshot::Sender<Result<(), TransferError>> },
    /// Tell about a replica.
    Status { group: GroupId, reply: oneshot::Sender<Option<GroupStatus>> },
    /// Hash a replica's state.
    Digest { group: GroupId, reply: oneshot::Sender<Option<(Index, u64)>> },
    /// List the replicas.
    Groups { reply: oneshot::Sender<Vec<GroupId>> },
    /// A peer has another log now. So many workers were asked whether a group of theirs counts on it.
    ReplacePeer { peer: PeerNote, asked: u16, reply: oneshot::Sender<Result<(), ReplaceError>> },
    /// Tell what a replica has lost.
    Loss { group: GroupId, reply: oneshot::Sender<Option<Loss>> },
    /// Live with it.
    AcceptLoss { loss: Loss, reply: oneshot::Sender<Result<(), AcceptLossError>> },
    /// Make a new machine for a replica in quarantine.
    Revive { group: GroupId, reply: oneshot::Sender<Result<(), ReviveError>> },
    /// A pipeline is gone.
    PipelineGone { pipeline: u32 },
    /// Answer everyone and stop.
    Shutdown,
}

/// The most units that may wait for one worker: so many of appends and snapshots, and as many others.
const ARRIVALS_MAX: usize = 16 * 1024;
/// The most beats that may wait for one worker: newer ones push out older ones.
const BEATS_MAX: usize = 1024;
/// The most bytes of payloads and queries that may wait for one worker, give or take one request, and of units of appends and
/// snapshots; fewer where the worker has less memory than that.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// … and of all other units.
const CONTROL_BYTES_MAX: usize = 16 << 20;

/// The queues of one worker.
pub(crate) struct Inbox {
    requests: ArrayQueue<Request>,
    request_bytes: AtomicUsize,
    request_bytes_max: usize,
    /// Units of appends and snapshots, in order: they wait where the log has no room for what they bring, …
    appends: Arrivals,
    /// … and everything else, which does not wait: acknowledgements, heartbeats and votes keep leaders in place meanwhile.
    control: Arrivals,
    beats: ArrayQueue<Heard>,
    orders: SegQueue<Order>,
    closed: AtomicBool,
    waker: Waker,
}

impl Inbox {
    /// The queues of a worker that has so many bytes for its log: none holds more than that.
    pub(crate) fn new(requests_max: usize, memory: u64, waker: Waker) -> Arc<Self> {
        let bytes_max = usize::try_from(memory).unwrap_or(usize::MAX).min(WAITING_BYTES_MAX);
        Arc::new(Self {
            requests: ArrayQueue::new(requests_max),
            request_bytes: AtomicUsize::new(0),
            request_bytes_max: bytes_max,
            appends: Arrivals::new(bytes_max),
            control: Arrivals::new(bytes_max.min(CONTROL_BYTES_MAX)),
            beats: ArrayQueue::new(BEATS_MAX),
            orders: SegQueue::new(),
            closed: AtomicBool::new(false),
            waker,
        })
    }

    /// Queues a request, or gives it back if the queue is full or closed.
    pub(crate) fn request(&self, request: Request) -> Result<(), Refused> {
        if self.is_closed() {
            return Err(Refused::Closed(request));
        }
        let bytes = request.bytes();
        if self.request_bytes.fetch_add(bytes, Ordering::Relaxed) > self.request_bytes_max {
            self.request_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Refused::Full(request));
        }
        self.requests.push(request).map_err(|request| {
            self.request_bytes.fetch_sub(bytes, Ordering::Relaxed);
            Refused::Full(request)
        })?;
        self.pushed();
        Ok(())
    }

    /// Queues what the network brought; `false` if it had to be dropped, which the protocol survives.
    pub(crate) fn arrive(&self, arrival: Arrival) -> bool {
        let queue = if arrival.is_append() { &self.appends } else { &self.control };
        if self.is_closed() || !queue.push(arrival) {
            return false;
        }
        self.waker.wake_by_ref();
        true
    }

    /// Queues a sign of life. It waits behind nothing else: a worker with much to do is to know who lives.
    pub(crate) fn beat(&self, heard: Heard) {
        if !self.is_closed() {
            self.beats.force_push(heard);
            self.waker.wake_by_ref();
        }
    }

    /// Queues an order. On a closed inbox it is dropped, and so its caller is told.
    pub(crate) fn order(&self, order: Order) {
        if !self.is_closed() {
            self.orders.push(order);
            self.pushed();
        }
    }

    /// Wakes the worker; or, where it left between our check and our push, answers in its place.
    fn pushed(&self) {
        if self.is_closed() { self.refuse_all() } else { self.waker.wake_by_ref() }
    }

    /// Takes a request.
    pub(crate) fn next_request(&self) -> Option<Request> {
        let request = self.requests.pop()?;
        self.request_bytes.fetch_sub(request.bytes(), Ordering::Relaxed);
        Some(request)
    }

    /// Takes the next unit of appends or of a snapshot.
    pub(crate) fn next_append(&self) -> Option<Arrival> {
        self.appends.pop()
    }

    /// Takes the next of what the network brought besides.
    pub(crate) fn next_control(&self) -> Option<Arrival> {
        self.control.pop()
    }

    /// Takes a sign of life.
    pub(crate) fn next_beat(&self) -> Option<Heard> {
        self.beats.pop()
    }

    /// Takes an order.
    pub(crate) fn next_order(&self) -> Option<Order> {
        self.orders.pop()
    }

    /// Whether the engine wants something.
    pub(crate) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// How many requests wait.
    pub(crate) fn requests_len(&self) -> usize {
        self.requests.len()
    }

    /// Whether units of appends or snapshots wait.
    pub(crate) fn has_appends(&self) -> bool {
        !self.appends.queue.is_empty()
    }

    /// Whether anything else of the network's waits.
    pub(crate) fn has_control(&self) -> bool {
        !self.control.queue.is_empty()
    }

    /// Bytes of units and of requests that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let arrivals =
            self.appends.bytes.load(Ordering::Relaxed) + self.control.bytes.load(Ordering::Relaxed);
        arrivals + self.request_bytes.load(Ordering::Relaxed)
    }

    /// Refuses everything from now on. What is queued is still to be taken.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Answers everything that is queued on a closed inbox with `Closed`.
    pub(crate) fn refuse_all(&self) {
        while let Some(request) = self.next_request() {
            request.refuse(&ProposeError::Closed);
        }
        while self.orders.pop().is_some() {}
        while self.next_append().is_some() || self.next_control().is_some() {}
        while self.next_beat().is_some() {}
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Submission(submission) => submission.arena.len(),
            Self::Propose { payload, .. } | Self::ProposeRelaxed { payload, .. } => payload.len(),
            Self::Read { query, .. } => query.len(),
            Self::Freeze { .. } => 0,
        }
    }

    /// Answers with an error that is certain: nothing of it happened.
    pub(crate) fn refuse(self, error: &ProposeError) {
        match self {
            // Whoever dropped the receiving end does not want to know.
            Self::Propose { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::ProposeRelaxed { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Read { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Self::Freeze { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Self::Submission(submission) => submission.refuse(error),
        }
    }
}

/// A queue of what the network brought, bounded in number and bytes.
struct Arrivals {
    queue: ArrayQueue<Arrival>,
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Arrivals {
    fn new(bytes_max: usize) -> Self {
        Self { queue: ArrayQueue::new(ARRIVALS_MAX), bytes: AtomicUsize::new(0), bytes_max }
    }

    /// `false` if there is no room. What is larger than all of it is taken where nothing else waits, or it never would be.
    fn push(&self, arrival: Arrival) -> bool {
        let bytes = arrival.bytes();
        let waiting = self.bytes.load(Ordering::Relaxed);
        if waiting > 0 && waiting + bytes > self.bytes_max {
            return false;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_taken = self.queue.push(arrival).is_ok();
        if !is_taken {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    fn pop(&self) -> Option<Arrival> {
        let arrival = self.queue.pop()?;
        self.bytes.fetch_sub(arrival.bytes(), Ordering::Relaxed);
        Some(arrival)
    }
}

impl Arrival {
    /// Whether it may bring bytes for the log or a snapshot file. One that brings none, and only tells a commit, keeps its place
    /// among those that do: ahead of them it would look like a gap. Units of newcomers wait for a note, not for room.
    fn is_append(&self) -> bool {
        let Self::Unit { unit, .. } = self else { return false };
        let Ok((header, records, _)) = UnitHeader::parse(unit) else { return false };
        let begins_with_append = || {
            let first = wire::records(records).next();
            matches!(first, Some(Ok(Record { message: Message::Append { .. }, .. })))
        };
        header.bodies_bytes > 0 || begins_with_append()
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Unit { unit, .. } | Self::Introduction { unit, .. } => unit.len(),
            Self::Question { .. } | Self::Lost(_) | Self::Reached(_) => 0,
        }
    }
}

/// Why a request was given back. Nothing happened.
pub(crate) enum Refused {
    /// The queue is full.
    Full(Request),
    /// The engine is closed.
    Closed(Request),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_larger_than_all_the_room_is_taken_alone() {
        let unit = |bytes: usize| Arrival::Unit {
            from: NodeId(2),
            is_first: true,
            unit: Bytes::from(vec![0; bytes]),
        };
        let waiting = Arrivals::new(1000);
        assert!(waiting.push(unit(2000)));
        assert!(!waiting.push(unit(1)), "nothing else fits beside it");
        assert!(waiting.pop().is_some());
        assert!(waiting.push(unit(900)));
        assert!(!waiting.push(unit(2000)), "it waits until it is alone");
    }
}
