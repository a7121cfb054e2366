//! The inbox of a worker: requests of callers, units from the net thread, commands of the engine. All
//! bounded.
//!
//! Any thread may push; only the worker pops. Pushing never blocks: a full queue returns an error.

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
    /// The frozen state, to be read outside the worker.
    Freeze { group: GroupId, demand: Demand, reply: oneshot::Sender<Result<FrozenState, ReadError>> },
}

/// An event from the net thread.
pub(crate) enum Arrival {
    /// A message from an authenticated peer.
    Unit { from: NodeId, is_first: bool, unit: Bytes },
    /// The same, from a peer that has no recorded log yet, with this log.
    Introduction { from: NodeId, log: LogId, unit: Bytes },
    /// A peer has no log recorded for this node, or a wrong one.
    Question { from: NodeId },
    /// The connection to a peer broke.
    Lost(NodeId),
    /// A connection to it was established.
    Reached(NodeId),
}

/// Commands of the engine; rare, and never refused.
pub(crate) enum Order {
    /// Create a replica of a group with these initial members.
    Found { group: GroupId, founders: Configuration, reply: oneshot::Sender<Result<(), CreateError>> },
    /// Create an empty replica, which receives its group's state from a leader.
    Join { group: GroupId, as_witness: bool, reply: oneshot::Sender<Result<(), CreateError>> },
    /// Delete a replica and its log.
    Remove { group: GroupId, reply: oneshot::Sender<bool> },
    /// Request another configuration.
    Reconfigure {
        group: GroupId,
        wish: Reconfiguration,
        reply: oneshot::Sender<Result<Membership, ReconfigureError>>,
    },
    /// Request a leadership transfer.
    Transfer { group: GroupId, to: NodeId, reply: oneshot::Sender<Result<(), TransferError>> },
    /// Return the status of a replica.
    Status { group: GroupId, reply: oneshot::Sender<Option<GroupStatus>> },
    /// Hash a replica's state.
    Digest { group: GroupId, reply: oneshot::Sender<Option<(Index, u64)>> },
    /// List the replicas.
    Groups { reply: oneshot::Sender<Vec<GroupId>> },
    /// A peer has another log now. `asked`: the number of workers that have already checked that no group of
    /// theirs depends on the old one.
    ReplacePeer { peer: PeerNote, asked: u16, reply: oneshot::Sender<Result<(), ReplaceError>> },
    /// Return what a replica has lost.
    Loss { group: GroupId, reply: oneshot::Sender<Option<Loss>> },
    /// Accept the loss.
    AcceptLoss { loss: Loss, reply: oneshot::Sender<Result<(), AcceptLossError>> },
    /// Make a new machine for a replica in quarantine.
    Revive { group: GroupId, reply: oneshot::Sender<Result<(), ReviveError>> },
    /// A pipeline was dropped.
    PipelineGone { pipeline: u32 },
    /// Answer every caller and stop.
    Shutdown,
}

/// The maximum of units queued for one worker: this many of appends and snapshots, and as many others.
const ARRIVALS_MAX: usize = 16 * 1024;
/// The maximum of node heartbeats queued for one worker: newer ones push out older ones.
const BEATS_MAX: usize = 1024;
/// The maximum of bytes of payloads and queries queued for one worker, give or take one request, and of units
/// of appends and snapshots; fewer where the worker has less memory than that.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// … and of all other units.
const CONTROL_BYTES_MAX: usize = 16 << 20;

/// The queues of one worker.
pub(crate) struct Inbox {
    requests: ArrayQueue<Request>,
    request_bytes: AtomicUsize,
    request_bytes_max: usize,
    /// Units of appends and snapshots, in order: they wait while the log has no space for them, …
    appends: Arrivals,
    /// … and everything else, which does not wait: acknowledgements, heartbeats and votes keep leaders in
    /// office meanwhile.
    control: Arrivals,
    beats: ArrayQueue<Heard>,
    orders: SegQueue<Order>,
    closed: AtomicBool,
    waker: Waker,
}

impl Inbox {
    /// The queues of a worker with `memory` bytes for its log: none holds more than that.
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

    /// Enqueues a request, or returns it if the queue is full or closed.
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

    /// Enqueues an event of the net thread; `false` if it was dropped, which the protocol tolerates.
    pub(crate) fn arrive(&self, arrival: Arrival) -> bool {
        let queue = if arrival.is_append() { &self.appends } else { &self.control };
        if self.is_closed() || !queue.push(arrival) {
            return false;
        }
        self.waker.wake_by_ref();
        true
    }

    /// Enqueues a node heartbeat. It is not queued behind anything else: an overloaded worker must still see
    /// which peers are alive.
    pub(crate) fn beat(&self, heard: Heard) {
        if !self.is_closed() {
            self.beats.force_push(heard);
            self.waker.wake_by_ref();
        }
    }

    /// Enqueues a command. On a closed inbox it is dropped, and with it its reply channel, by which the
    /// caller notices.
    pub(crate) fn order(&self, order: Order) {
        if !self.is_closed() {
            self.orders.push(order);
            self.pushed();
        }
    }

    /// Wakes the worker; or, if the worker closed between the check and the push, answers in its place.
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

    /// Takes the next other event of the net thread.
    pub(crate) fn next_control(&self) -> Option<Arrival> {
        self.control.pop()
    }

    /// Takes a node heartbeat.
    pub(crate) fn next_beat(&self) -> Option<Heard> {
        self.beats.pop()
    }

    /// Takes a command.
    pub(crate) fn next_order(&self) -> Option<Order> {
        self.orders.pop()
    }

    /// Whether commands are queued.
    pub(crate) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// The number of queued requests.
    pub(crate) fn requests_len(&self) -> usize {
        self.requests.len()
    }

    /// Whether units of appends or snapshots are queued.
    pub(crate) fn has_appends(&self) -> bool {
        !self.appends.queue.is_empty()
    }

    /// Whether other events of the net thread are queued.
    pub(crate) fn has_control(&self) -> bool {
        !self.control.queue.is_empty()
    }

    /// Bytes of queued units and requests.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let arrivals =
            self.appends.bytes.load(Ordering::Relaxed) + self.control.bytes.load(Ordering::Relaxed);
        arrivals + self.request_bytes.load(Ordering::Relaxed)
    }

    /// Refuses everything from now on. What is already queued remains to be processed.
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

    /// Answers with an error that is certain: no part of it happened.
    pub(crate) fn refuse(self, error: &ProposeError) {
        match self {
            // A dropped receiver means that the caller no longer wants the answer.
            Self::Propose { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::ProposeRelaxed { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Read { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Self::Freeze { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Self::Submission(submission) => submission.refuse(error),
        }
    }
}

/// A queue of events from the net thread, bounded in number and bytes.
struct Arrivals {
    queue: ArrayQueue<Arrival>,
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Arrivals {
    fn new(bytes_max: usize) -> Self {
        Self { queue: ArrayQueue::new(ARRIVALS_MAX), bytes: AtomicUsize::new(0), bytes_max }
    }

    /// `false` if there is no space. An arrival larger than the whole queue is accepted when the queue is
    /// empty; otherwise it would never be.
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
    /// Whether it may carry bytes for the log or a snapshot file. An append without entries, which only
    /// carries a commit index, keeps its place among those with entries: ahead of them it would look like a
    /// gap. Units of peers without a recorded log wait for that record, not for space.
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

/// Why a request was returned. Nothing happened.
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
