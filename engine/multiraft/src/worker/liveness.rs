//! Liveness of nodes: support between workers, the disk's health, and the handshake of logs.

pub(crate) mod abstention;
pub(crate) mod disk_health;
pub(crate) mod handshakes;
pub(crate) mod nodes;
pub(crate) mod support;

use std::collections::VecDeque;
use std::time::Duration;

use raftwerk_frame::Time;

use self::abstention::Abstention;
use self::disk_health::DiskHealth;
use self::handshakes::Handshakes;
use self::support::{Liveness, SupportEvent, SupportTerms};
use crate::node::request::ReceivedHeartbeat;

/// What a worker knows of the nodes that it shares groups with, and of its own fitness to lead.
pub(in crate::worker) struct NodeLiveness {
    support: Liveness,
    abstention: Abstention,
    disk_health: DiskHealth,
    handshakes: Handshakes,
    /// Node heartbeats received in this turn.
    heartbeats_received: Vec<ReceivedHeartbeat>,
    /// Support events that not every replica has received yet, in order …
    support_events: VecDeque<SupportEvent>,
    /// … and how many replicas the first one has reached.
    notified: usize,
    /// The set of nodes that groups are shared with may have changed.
    are_nodes_stale: bool,
}

impl NodeLiveness {
    /// For a worker that opens. A hang of its disk is a write that takes longer than support lasts.
    pub(in crate::worker) fn new(terms: SupportTerms, abstention: Abstention, now: Time) -> Self {
        Self {
            support: Liveness::new(terms),
            abstention,
            disk_health: DiskHealth::new(now, terms.duration),
            handshakes: Handshakes::default(),
            heartbeats_received: Vec::new(),
            support_events: VecDeque::new(),
            notified: 0,
            are_nodes_stale: false,
        }
    }

    /// For how long a replica that starts now grants no vote.
    pub(in crate::worker) fn abstention(&self) -> Duration {
        self.abstention.now()
    }

    pub(in crate::worker) const fn disk_health(&mut self) -> &mut DiskHealth {
        &mut self.disk_health
    }

    /// Whether the disk owes a write for too long; `oldest`: since when the oldest batch has been in flight.
    pub(in crate::worker) fn is_hung(&self, now: Time, oldest: Option<Time>) -> bool {
        self.disk_health.is_hung(now, oldest)
    }

    /// The set of nodes that groups are shared with may have changed.
    pub(in crate::worker) const fn on_peers_changed(&mut self) {
        self.are_nodes_stale = true;
    }

    /// How many support events have not reached every replica.
    pub(in crate::worker) fn support_events(&self) -> usize {
        self.support_events.len()
    }

    /// Whether something is left to be done in the next turn.
    pub(in crate::worker) fn is_busy(&self) -> bool {
        !self.heartbeats_received.is_empty() || !self.support_events.is_empty()
    }

    /// Drops what is left to be done: the log has failed.
    pub(in crate::worker) fn clear(&mut self) {
        self.heartbeats_received.clear();
        self.support_events.clear();
    }

    /// When a heartbeat is due, support ends, or the writes in flight will count as hung.
    pub(in crate::worker) fn next_deadline(&self, now: Time, oldest: Option<Time>) -> Time {
        self.support.next_deadline().min(self.disk_health.next_deadline(now, oldest))
    }

    #[cfg(test)]
    pub(in crate::worker) const fn support(&mut self) -> &mut Liveness {
        &mut self.support
    }
}
