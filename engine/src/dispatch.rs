//! From the net thread to the workers: a message goes to the worker whose groups it speaks of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raftwerk_frame::NodeId;
use raftwerk_frame::wire::UnitHeader;
use raftwerk_net::{Channel, PeerId, Receive};

use crate::inbox::{Arrival, Inbox};

/// Hands what the net thread receives to the inboxes.
pub(crate) struct Dispatch {
    inboxes: Vec<Arc<Inbox>>,
    /// Messages that no inbox had room for, or that were not units at all.
    dropped: AtomicU64,
}

impl Dispatch {
    pub(crate) const fn new(inboxes: Vec<Arc<Inbox>>) -> Self {
        Self { inboxes, dropped: AtomicU64::new(0) }
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
        let from = NodeId(from.0);
        if usize::from(header.workers) == self.inboxes.len()
            && let Some(inbox) = self.inboxes.get(usize::from(header.worker))
        {
            return self.hand(inbox, Arrival::Unit { from, unit: message });
        }
        // A node with another number of workers: each of ours picks out its own groups.
        for inbox in &self.inboxes {
            self.hand(inbox, Arrival::Unit { from, unit: message.clone() });
        }
    }

    fn connected(&self, _: PeerId) {}

    fn disconnected(&self, peer: PeerId) {
        for inbox in &self.inboxes {
            self.hand(inbox, Arrival::Lost(NodeId(peer.0)));
        }
    }
}
