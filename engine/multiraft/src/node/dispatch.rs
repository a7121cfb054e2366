//! From the net thread to the workers: routes each message to the worker of its groups, if it is addressed to
//! this node's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raftwerk_frame::wire::{UnitHeader, UnitKind};
use raftwerk_frame::{LogId, NodeHeartbeat, NodeId, Time};
use raftwerk_net::{Channel, PeerId, Receive};

use crate::node::events::{Condition, Events};
use crate::node::inbox::Inbox;
use crate::node::peers::Peers;
use crate::node::placement::PeerLane;
use crate::node::request::{Arrival, Order, ReceivedHeartbeat, ReceivedUnit};

/// Hands what the net thread receives to the inboxes.
pub(crate) struct Dispatch {
    inboxes: Vec<Arc<Inbox>>,
    peers: Peers,
    /// The log of this node.
    log: LogId,
    events: Arc<Events>,
    /// Messages that were no valid units.
    unread: AtomicU64,
    /// Units dropped because an inbox was full.
    overflowed: AtomicU64,
}

impl Dispatch {
    pub(crate) const fn new(inboxes: Vec<Arc<Inbox>>, peers: Peers, log: LogId, events: Arc<Events>) -> Self {
        Self { inboxes, peers, log, events, unread: AtomicU64::new(0), overflowed: AtomicU64::new(0) }
    }

    pub(crate) const fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The event reporter of the node.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Counts of messages that were no units, and of units dropped by full inboxes.
    pub(crate) fn dropped(&self) -> (u64, u64) {
        (self.unread.load(Ordering::Relaxed), self.overflowed.load(Ordering::Relaxed))
    }

    /// Counts a message that is no unit.
    fn count_unread(&self, from: NodeId, what: impl std::fmt::Display) {
        let count = self.unread.fetch_add(1, Ordering::Relaxed) + 1;
        if is_logged(count) {
            tracing::warn!(node = from.0, count, "a peer sent what is no unit of this version: {what}");
        }
    }

    /// Whether a unit may be addressed to the log of this node.
    pub(crate) fn may_be_addressed_here(&self, to_log: LogId) -> bool {
        to_log == self.log || to_log == LogId(0)
    }

    /// Sends a command to a worker.
    pub(crate) fn order(&self, worker: usize, order: Order) {
        self.inboxes[worker].order(order);
    }

    /// Routes a unit of a known peer to the workers of its groups.
    pub(crate) fn route(&self, received: ReceivedUnit) {
        let from = received.from;
        let (header, bodies) = match UnitHeader::parse(&received.unit) {
            Ok((header, _, bodies)) => (header, bodies),
            Err(error) => return self.count_unread(from, error),
        };
        if header.kind == UnitKind::NodeHeartbeat {
            return self.route_heartbeat(from, &header, bodies);
        }
        if usize::from(header.workers) == self.inboxes.len()
            && let Some(inbox) = self.inboxes.get(usize::from(header.worker))
        {
            return self.enqueue(inbox, Arrival::Unit(received));
        }
        // A node with another number of workers: each worker here picks out the records of its own groups.
        for inbox in &self.inboxes {
            self.enqueue(inbox, Arrival::Unit(received.clone()));
        }
    }

    /// Routes a node heartbeat to the worker it is addressed to. There may be none with that number: until it
    /// has received a unit from this node, a peer assumes that this node has as many workers as it has
    /// itself.
    fn route_heartbeat(&self, from: NodeId, header: &UnitHeader, body: &[u8]) {
        let UnitHeader { worker, workers, to_worker, log, .. } = *header;
        match NodeHeartbeat::parse(body) {
            Some(heartbeat) if header.from == from && worker < workers => {
                if let Some(inbox) = self.inboxes.get(usize::from(to_worker)) {
                    inbox.push_heartbeat(ReceivedHeartbeat {
                        from: PeerLane { node: from, worker, workers },
                        log,
                        heartbeat,
                    });
                }
            }
            _ => self.count_unread(from, "a heartbeat that is none, or of another node or worker"),
        }
    }

    fn enqueue(&self, inbox: &Inbox, arrival: Arrival) {
        if !inbox.arrive(arrival) {
            let count = self.overflowed.fetch_add(1, Ordering::Relaxed) + 1;
            if is_logged(count) {
                tracing::warn!(count, "an inbox is full: what peers send is dropped");
            }
        }
    }
}

/// Bounds the lines in the node's log without a clock: the first occurrence is logged, then each doubling of
/// the count.
const fn is_logged(count: u64) -> bool {
    count.is_power_of_two()
}

impl Receive for Dispatch {
    fn receive(&self, from: PeerId, _: Channel, message: Bytes) {
        let from = NodeId(from.0);
        let header = match UnitHeader::parse(&message) {
            Ok((header, _, _)) => header,
            Err(error) => return self.count_unread(from, error),
        };
        let log = header.log;
        let is_addressed_here = header.to_log == self.log;
        match self.peers.on_unit(from, log, header.workers) {
            None => return self.enqueue(&self.inboxes[0], Arrival::UnknownPeer { from, log, unit: message }),
            Some(is_first) if is_addressed_here || header.to_log == LogId(0) => {
                self.route(ReceivedUnit { from, is_first, unit: message })
            }
            // It is addressed to an earlier log of this node.
            Some(_) => self.peers.refuse(),
        }
        if !is_addressed_here {
            self.enqueue(&self.inboxes[0], Arrival::LogQuery { from });
        }
    }

    /// Starts the handshake of logs, before the peer is to take part in a group; and notifies the workers,
    /// since groups that are quiescent without this peer must unquiesce.
    fn connected(&self, peer: PeerId) {
        let peer = NodeId(peer.0);
        self.events.resolve(&Condition::PeerLost { node: peer });
        self.events.resolve(&Condition::PeerCertificateEnded { node: peer });
        self.enqueue(&self.inboxes[0], Arrival::LogQuery { from: peer });
        for inbox in &self.inboxes {
            self.enqueue(inbox, Arrival::Connected(peer));
        }
    }

    fn disconnected(&self, peer: PeerId) {
        let node = NodeId(peer.0);
        self.peers.on_disconnected(node);
        self.events.report(Time(0), Condition::PeerLost { node });
        for inbox in &self.inboxes {
            self.enqueue(inbox, Arrival::Disconnected(node));
        }
    }

    fn own_certificate(&self, ends_in_seconds: Option<i64>) {
        let ends = ends_in_seconds.filter(|left| *left > 0);
        let has_ended = ends_in_seconds.is_some_and(|left| left <= 0);
        let ends_soon =
            Condition::CertificateEnds { days: ends.unwrap_or(0).unsigned_abs() / (24 * 60 * 60) };
        for (condition, is_so) in [(ends_soon, ends.is_some()), (Condition::CertificateEnded, has_ended)] {
            if is_so { self.events.report(Time(0), condition) } else { self.events.resolve(&condition) }
        }
    }

    fn certificate_ended(&self, peer: PeerId) {
        self.events.report(Time(0), Condition::PeerCertificateEnded { node: NodeId(peer.0) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_of_another_version_is_counted_where_it_can_be_read() {
        let dispatch = Dispatch::new(Vec::new(), Peers::new(&[]), LogId(7), Arc::default());
        let unit = UnitHeader {
            kind: UnitKind::Groups,
            worker: 0,
            workers: 1,
            to_worker: 0,
            records: 0,
            from: NodeId(2),
            bodies_bytes: 0,
            log: LogId(8),
            to_log: LogId(7),
        };
        let mut bytes = unit.encode().to_vec();
        bytes[3] += 1;
        dispatch.receive(PeerId(2), Channel::Control, Bytes::from(bytes));
        dispatch.receive(PeerId(2), Channel::Control, Bytes::from_static(b"RWU4, and nothing else"));
        assert_eq!(dispatch.dropped(), (2, 0));
    }

    #[test]
    fn ends_of_certificates_are_ills_as_long_as_they_are_so() {
        let dispatch = Dispatch::new(Vec::new(), Peers::new(&[]), LogId(7), Arc::default());
        let day = 24 * 60 * 60;
        let soon = |days| vec![Condition::CertificateEnds { days }];
        for (days_left, wanted) in [
            (None, vec![]),
            (Some(20 * day), soon(20)),
            (Some(19 * day), soon(19)),
            (Some(0), vec![Condition::CertificateEnded]),
            (Some(-day), vec![Condition::CertificateEnded]),
            (Some(1), soon(0)),
            (None, vec![]),
        ] {
            dispatch.own_certificate(days_left);
            assert_eq!(dispatch.events().conditions(), wanted, "{days_left:?}");
        }
        let refused = |node| Condition::PeerCertificateEnded { node: NodeId(node) };
        [2, 3, 2].iter().for_each(|peer| dispatch.certificate_ended(PeerId(*peer)));
        assert_eq!(dispatch.events().conditions(), [2, 3].map(refused));
    }

    #[test]
    fn log_of_what_is_dropped_stays_short() {
        let lines = (1..=1_000_000).filter(|count| is_logged(*count)).count();
        assert_eq!(lines, 20);
    }
}
