//! From the net thread to the workers: a message goes to the worker whose groups it speaks of, if its sender is who it
//! was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raftwerk_frame::wire::{UnitHeader, UnitKind};
use raftwerk_frame::{Beat, NodeId};
use raftwerk_net::{Channel, PeerId, Receive};

use crate::inbox::{Arrival, Inbox, Order};
use crate::peers::{Peers, Standing};

/// Hands what the net thread receives to the inboxes.
pub(crate) struct Dispatch {
    inboxes: Vec<Arc<Inbox>>,
    peers: Peers,
    /// Messages that no inbox had room for, or that were not units at all.
    dropped: AtomicU64,
}

impl Dispatch {
    pub(crate) const fn new(inboxes: Vec<Arc<Inbox>>, peers: Peers) -> Self {
        Self { inboxes, peers, dropped: AtomicU64::new(0) }
    }

    pub(crate) const fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Gives a worker an order.
    pub(crate) fn order(&self, worker: usize, order: Order) {
        self.inboxes[worker].order(order);
    }

    /// Hands a unit of a peer that is known to the workers whose groups it speaks of.
    pub(crate) fn route(&self, from: NodeId, unit: Bytes) {
        let Ok((header, _, bodies)) = UnitHeader::parse(&unit) else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if header.kind == UnitKind::Beat {
            return self.route_beat(from, &header, bodies);
        }
        if usize::from(header.workers) == self.inboxes.len()
            && let Some(inbox) = self.inboxes.get(usize::from(header.worker))
        {
            return self.hand(inbox, Arrival::Unit { from, unit });
        }
        // A node with another number of workers: each of ours picks out its own groups.
        for inbox in &self.inboxes {
            self.hand(inbox, Arrival::Unit { from, unit: unit.clone() });
        }
    }

    /// To the worker of the same number; with another number of workers than ours, a node's groups are spread over several
    /// of ours, and its beats say nothing to any.
    fn route_beat(&self, from: NodeId, header: &UnitHeader, body: &[u8]) {
        match (Beat::parse(body), self.inboxes.get(usize::from(header.worker))) {
            (Some(beat), Some(inbox)) if header.from == from => {
                if usize::from(header.workers) == self.inboxes.len() {
                    inbox.beat(from, beat);
                }
            }
            _ => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn hand(&self, inbox: &Inbox, arrival: Arrival) {
        if !inbox.arrive(arrival) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Receive for Dispatch {
    fn receive(&self, from: PeerId, _: Channel, message: Bytes) {
        let Ok((header, _, _)) = UnitHeader::parse(&message) else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (from, log) = (NodeId(from.0), header.log);
        match self.peers.standing(from, log) {
            Standing::Known => self.route(from, message),
            Standing::New => self.hand(&self.inboxes[0], Arrival::Introduction { from, log, unit: message }),
            Standing::Replaced => {}
        }
    }

    fn connected(&self, _: PeerId) {}

    fn disconnected(&self, peer: PeerId) {
        for inbox in &self.inboxes {
            self.hand(inbox, Arrival::Lost(NodeId(peer.0)));
        }
    }
}
