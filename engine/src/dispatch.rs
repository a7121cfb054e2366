//! From the net thread to the workers: routes each message to the worker of its groups, if it is addressed to
//! this node's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raftwerk_frame::wire::{UnitHeader, UnitKind};
use raftwerk_frame::{NodeHeartbeat, LogId, NodeId, Time};
use raftwerk_net::{Channel, PeerId, Receive};

use crate::events::{Events, Ill};
use crate::inbox::{Arrival, Inbox, Order};
use crate::liveness::{Heard, PeerLane};
use crate::peers::Peers;

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
    fn unread(&self, from: NodeId, what: impl std::fmt::Display) {
        let count = self.unread.fetch_add(1, Ordering::Relaxed) + 1;
        if is_worth_a_line(count) {
            tracing::warn!(node = from.0, count, "a peer sent what is no unit of this version: {what}");
        }
    }

    /// Whether a unit may be addressed to the log of this node.
    pub(crate) fn may_be_meant(&self, to_log: LogId) -> bool {
        to_log == self.log || to_log == LogId(0)
    }

    /// Sends a command to a worker.
    pub(crate) fn order(&self, worker: usize, order: Order) {
        self.inboxes[worker].order(order);
    }

    /// Routes a unit of a known peer to the workers of its groups. `is_first`: the sender's log is the first
    /// one that was recorded for that peer.
    pub(crate) fn route(&self, from: NodeId, is_first: bool, unit: Bytes) {
        let (header, bodies) = match UnitHeader::parse(&unit) {
            Ok((header, _, bodies)) => (header, bodies),
            Err(error) => return self.unread(from, error),
        };
        if header.kind == UnitKind::NodeHeartbeat {
            return self.route_beat(from, &header, bodies);
        }
        if usize::from(header.workers) == self.inboxes.len()
            && let Some(inbox) = self.inboxes.get(usize::from(header.worker))
        {
            return self.hand(inbox, Arrival::Unit { from, is_first, unit });
        }
        // A node with another number of workers: each worker here picks out the records of its own groups.
        for inbox in &self.inboxes {
            self.hand(inbox, Arrival::Unit { from, is_first, unit: unit.clone() });
        }
    }

    /// Routes a node heartbeat to the worker it is addressed to. There may be none with that number: until it
    /// has received a unit from this node, a peer assumes that this node has as many workers as it has
    /// itself.
    fn route_beat(&self, from: NodeId, header: &UnitHeader, body: &[u8]) {
        let UnitHeader { worker, workers, to_worker, log, .. } = *header;
        match NodeHeartbeat::parse(body) {
            Some(beat) if header.from == from && worker < workers => {
                if let Some(inbox) = self.inboxes.get(usize::from(to_worker)) {
                    inbox.beat(Heard { from: PeerLane { node: from, worker, workers }, log, beat });
                }
            }
            _ => self.unread(from, "a beat that is none, or of another node or worker"),
        }
    }

    fn hand(&self, inbox: &Inbox, arrival: Arrival) {
        if !inbox.arrive(arrival) {
            let count = self.overflowed.fetch_add(1, Ordering::Relaxed) + 1;
            if is_worth_a_line(count) {
                tracing::warn!(count, "an inbox is full: what peers send is dropped");
            }
        }
    }
}

/// Bounds the lines in the node's log without a clock: the first occurrence is logged, then each doubling of
/// the count.
const fn is_worth_a_line(count: u64) -> bool {
    count.is_power_of_two()
}

impl Receive for Dispatch {
    fn receive(&self, from: PeerId, _: Channel, message: Bytes) {
        let from = NodeId(from.0);
        let header = match UnitHeader::parse(&message) {
            Ok((header, _, _)) => header,
            Err(error) => return self.unread(from, error),
        };
        let log = header.log;
        let is_meant = header.to_log == self.log;
        match self.peers.hear(from, log, header.workers) {
            None => return self.hand(&self.inboxes[0], Arrival::Introduction { from, log, unit: message }),
            Some(is_first) if is_meant || header.to_log == LogId(0) => self.route(from, is_first, message),
            // It is addressed to an earlier log of this node.
            Some(_) => self.peers.refuse(),
        }
        if !is_meant {
            self.hand(&self.inboxes[0], Arrival::Question { from });
        }
    }

    /// Starts the handshake of logs, before the peer is to take part in a group; and notifies the workers,
    /// since groups that are quiescent without this peer must unquiesce.
    fn connected(&self, peer: PeerId) {
        let peer = NodeId(peer.0);
        self.events.is_over(&Ill::PeerLost { node: peer });
        self.events.is_over(&Ill::PeerCertificateEnded { node: peer });
        self.hand(&self.inboxes[0], Arrival::Question { from: peer });
        for inbox in &self.inboxes {
            self.hand(inbox, Arrival::Reached(peer));
        }
    }

    fn disconnected(&self, peer: PeerId) {
        let node = NodeId(peer.0);
        self.peers.gone(node);
        self.events.tell(Time(0), Ill::PeerLost { node });
        for inbox in &self.inboxes {
            self.hand(inbox, Arrival::Lost(node));
        }
    }

    fn own_certificate(&self, ends_in_seconds: Option<i64>) {
        let ends = ends_in_seconds.filter(|left| *left > 0);
        let has_ended = ends_in_seconds.is_some_and(|left| left <= 0);
        let ends_soon = Ill::CertificateEnds { days: ends.unwrap_or(0).unsigned_abs() / (24 * 60 * 60) };
        for (ill, is_so) in [(ends_soon, ends.is_some()), (Ill::CertificateEnded, has_ended)] {
            if is_so { self.events.tell(Time(0), ill) } else { self.events.is_over(&ill) }
        }
    }

    fn certificate_ended(&self, peer: PeerId) {
        self.events.tell(Time(0), Ill::PeerCertificateEnded { node: NodeId(peer.0) });
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
        let soon = |days| vec![Ill::CertificateEnds { days }];
        for (told, wanted) in [
            (None, vec![]),
            (Some(20 * day), soon(20)),
            (Some(19 * day), soon(19)),
            (Some(0), vec![Ill::CertificateEnded]),
            (Some(-day), vec![Ill::CertificateEnded]),
            (Some(1), soon(0)),
            (None, vec![]),
        ] {
            dispatch.own_certificate(told);
            assert_eq!(dispatch.events().ills(), wanted, "{told:?}");
        }
        let refused = |node| Ill::PeerCertificateEnded { node: NodeId(node) };
        [2, 3, 2].iter().for_each(|peer| dispatch.certificate_ended(PeerId(*peer)));
        assert_eq!(dispatch.events().ills(), [2, 3].map(refused));
    }

    #[test]
    fn log_of_what_is_dropped_stays_short() {
        let lines = (1..=1_000_000).filter(|count| is_worth_a_line(*count)).count();
        assert_eq!(lines, 20);
    }
}
