//! The inbox of a worker: requests of callers, units from the net thread, commands of the engine. All
//! bounded.
//!
//! Any thread may push; only the worker pops. Pushing never blocks: a full queue returns an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use crossbeam_queue::{ArrayQueue, SegQueue};
use raftwerk_frame::Time;

use crate::api::error::ProposeError;
use crate::node::request::{Arrival, Order, ReceivedHeartbeat, Refused, Request};
use crate::node::threads::Clock;

/// The maximum of units queued for one worker: this many of appends and snapshots, and as many others.
const ARRIVALS_MAX: usize = 16 * 1024;
/// The maximum of node heartbeats queued for one worker: newer ones push out older ones.
const HEARTBEATS_MAX: usize = 1024;
/// The maximum of bytes of payloads and queries queued for one worker, give or take one request, and of units
/// of appends and snapshots; fewer where the worker has less memory than that.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// … and of all other units.
const CONTROL_BYTES_MAX: usize = 16 << 20;

/// The queues of one worker.
pub(crate) struct Inbox {
    /// Each with the time of its call, if it was stamped.
    requests: ArrayQueue<(Request, Option<Time>)>,
    /// Stamps one request at a time; `None`: no request.
    clock: Option<Clock>,
    /// Whether the next request is stamped.
    stamps_next: AtomicBool,
    request_bytes: AtomicUsize,
    request_bytes_max: usize,
    /// Units of appends and snapshots, in order: they wait while the log has no space for them, …
    appends: Arrivals,
    /// … and everything else, which does not wait: acknowledgements, heartbeats and votes keep leaders in
    /// office meanwhile.
    control: Arrivals,
    heartbeats: ArrayQueue<ReceivedHeartbeat>,
    orders: SegQueue<Order>,
    closed: AtomicBool,
    waker: Waker,
}

impl Inbox {
    /// The queues of a worker with `memory` bytes for its log: none holds more than that.
    pub(crate) fn new(requests_max: usize, memory: u64, waker: Waker, clock: Option<Clock>) -> Arc<Self> {
        let bytes_max = usize::try_from(memory).unwrap_or(usize::MAX).min(WAITING_BYTES_MAX);
        Arc::new(Self {
            requests: ArrayQueue::new(requests_max),
            clock,
            stamps_next: AtomicBool::new(clock.is_some()),
            request_bytes: AtomicUsize::new(0),
            request_bytes_max: bytes_max,
            appends: Arrivals::new(bytes_max),
            control: Arrivals::new(bytes_max.min(CONTROL_BYTES_MAX)),
            heartbeats: ArrayQueue::new(HEARTBEATS_MAX),
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
        self.requests.push((request, self.stamp())).map_err(|(request, stamp)| {
            self.lose(stamp);
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
    pub(crate) fn push_heartbeat(&self, received: ReceivedHeartbeat) {
        if !self.is_closed() {
            self.heartbeats.force_push(received);
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

    /// The time of a call, if it is one to be stamped.
    fn stamp(&self) -> Option<Time> {
        let is_due =
            self.stamps_next.load(Ordering::Relaxed) && self.stamps_next.swap(false, Ordering::Relaxed);
        self.clock.filter(|_| is_due).map(Clock::now)
    }

    /// The next request is stamped with the time of its call, if there is a clock. To be called when what became
    /// of the one before is known.
    pub(crate) fn stamp_next(&self) {
        self.stamps_next.store(self.clock.is_some(), Ordering::Relaxed);
    }

    /// Takes a request, with the time of its call if it was stamped.
    pub(crate) fn next_stamped(&self) -> Option<(Request, Option<Time>)> {
        let (request, stamp) = self.requests.pop()?;
        self.request_bytes.fetch_sub(request.bytes(), Ordering::Relaxed);
        Some((request, stamp))
    }

    /// Takes a request.
    pub(crate) fn next_request(&self) -> Option<Request> {
        let (request, stamp) = self.next_stamped()?;
        self.lose(stamp);
        Some(request)
    }

    /// A stamp will not be followed up: another request gets one.
    fn lose(&self, stamp: Option<Time>) {
        if stamp.is_some() {
            self.stamp_next();
        }
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
    pub(crate) fn next_heartbeat(&self) -> Option<ReceivedHeartbeat> {
        self.heartbeats.pop()
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
        while self.next_heartbeat().is_some() {}
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raftwerk_frame::NodeId;

    use super::*;
    use crate::node::request::ReceivedUnit;

    #[test]
    fn a_unit_larger_than_all_the_room_is_taken_alone() {
        let unit = |bytes: usize| {
            let unit = Bytes::from(vec![0; bytes]);
            Arrival::Unit(ReceivedUnit { from: NodeId(2), is_first: true, unit })
        };
        let waiting = Arrivals::new(1000);
        assert!(waiting.push(unit(2000)));
        assert!(!waiting.push(unit(1)), "nothing else fits beside it");
        assert!(waiting.pop().is_some());
        assert!(waiting.push(unit(900)));
        assert!(!waiting.push(unit(2000)), "it waits until it is alone");
    }
}
