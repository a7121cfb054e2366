//! The worker's part of node liveness: sends and receives node heartbeats, and passes support events to its
//! groups. The rules are in the documentation of [`crate::worker::liveness::support`].

use bytes::Bytes;
use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{GroupId, Index, NODE_HEARTBEAT_BYTES, NodeId, Time};
use raftwerk_net::Channel;
use raftwerk_raft::Input;
use raftwerk_wal::{Disk, GroupSlot};
use smallvec::SmallVec;

use crate::node::placement::PeerLane;
use crate::worker::Worker;
use crate::worker::groups::replica::Replica;
use crate::worker::liveness::support::{Health, Liveness, MutualSupport, SupportEvent};
use crate::worker::replication::outbox::Outboxes;

impl<D: Disk> Worker<D> {
    /// Takes node heartbeats from the inbox. Support for their senders is given in the next turn: it must
    /// count from a time after the heartbeat was received, and this turn may have begun long before.
    pub(in crate::worker) fn take_heartbeats(&mut self) {
        while let Some(heartbeat) = self.env.inbox.next_heartbeat() {
            self.liveness.heartbeats_received.push(heartbeat);
        }
    }

    /// Refreshes the table of peers: a peer with another log may have another number of workers.
    pub(in crate::worker) fn refresh_peers(&mut self) {
        self.liveness.are_nodes_stale |= self.outboxes.refresh_peers(self.env.dispatch.peers());
    }

    /// Maintains support: expires it, decides whether this worker may ask for it, and takes in received node
    /// heartbeats.
    pub(in crate::worker) fn update_liveness(&mut self) {
        // A new peer is added at once (`sync_support`); a peer that shares no group any more is dropped
        // before the next heartbeat.
        if self.liveness.are_nodes_stale && self.now >= self.liveness.support.next_deadline() {
            self.liveness.are_nodes_stale = false;
            let mut lanes: SmallVec<[PeerLane; 16]> = SmallVec::new();
            for replica in self.groups.iter() {
                for lane in replica.core.peers().map(|peer| self.outboxes.lane_of(peer, replica.id)) {
                    if !lanes.contains(&lane) {
                        lanes.push(lane);
                    }
                }
            }
            self.liveness.support.set_peers(self.now, &lanes);
        }
        for received in self.liveness.heartbeats_received.drain(..) {
            self.liveness.support.on_heartbeat(self.now, &received);
        }
        self.liveness.support.expire(self.now);
        let is_healthy = self.liveness.disk_health.evaluate(self.now, self.oldest_batch());
        let health = if is_healthy { Health::Healthy } else { Health::Stalled };
        self.liveness.support.set_health(self.now, health);
        self.notify_groups();
        self.note_outwaited();
    }

    /// Sends the node heartbeats that are due. They bypass the outboxes: while the disk hangs, the worker
    /// sends nothing else.
    pub(in crate::worker) fn send_heartbeats(&mut self) {
        if self.now < self.liveness.support.next_deadline() {
            return;
        }
        let sender = self.outboxes.sender();
        let mut sent_any = false;
        for (to, heartbeat) in self.liveness.support.due_heartbeats(self.now) {
            let header = UnitHeader {
                kind: UnitKind::NodeHeartbeat,
                worker: sender.worker,
                workers: sender.workers,
                to_worker: to.worker,
                records: 0,
                from: sender.node,
                bodies_bytes: NODE_HEARTBEAT_BYTES as u64,
                log: sender.log,
                to_log: self.outboxes.latest_of(to.node).unwrap_or_default(),
            };
            let mut unit = [0; UNIT_HEADER_BYTES + NODE_HEARTBEAT_BYTES];
            unit[..UNIT_HEADER_BYTES].copy_from_slice(&header.encode());
            unit[UNIT_HEADER_BYTES..].copy_from_slice(&heartbeat.encode());
            let parts = smallvec::smallvec![Bytes::copy_from_slice(&unit)];
            self.outboxes.send(&*self.env.transport, to.node, Channel::Control, parts);
            sent_any = true;
        }
        if sent_any {
            self.env.transport.flush();
            self.probe_log();
        }
    }

    /// A node heartbeat vouches for the progress of the log. If nothing was written lately, a probe is
    /// written. A worker that shares no group sends no heartbeats and writes no probe.
    fn probe_log(&mut self) {
        if self.is_poisoned || !self.liveness.disk_health.wants_probe(self.now, self.oldest_batch()) {
            return;
        }
        match self.lane.probe() {
            Ok(true) => self.liveness.disk_health.probe_in_flight(self.now),
            Ok(false) => self.liveness.disk_health.probe_done(self.now),
            Err(error) => self.poison(&error),
        }
    }

    /// A connection to a node was made.
    pub(in crate::worker) fn on_connected(&mut self, node: NodeId) {
        let event = SupportEvent::Connected(node);
        // The last event in the queue has not been begun, unless it is also the first.
        if self.groups.are_any_quiescent_without_peer()
            && (self.liveness.support_events.len() < 2 || self.liveness.support_events.back() != Some(&event))
        {
            self.liveness.support_events.push_back(event);
        }
    }

    /// Passes support events to every group that has the node for a peer, within the turn's limit: all groups
    /// receive one event before any receives the next; what exceeds the limit follows in later turns.
    fn notify_groups(&mut self) {
        let fresh = self.liveness.support.take_events();
        if !fresh.is_empty() {
            self.refresh_peers();
            let ended = fresh.iter().filter(|event| matches!(event, SupportEvent::SupportedBy(_, false)));
            self.env.metrics.supports_ended(ended.count() as u64);
        }
        self.liveness.support_events.extend(fresh);
        let mut left = self.settings.limits.notifications;
        while let Some(&event) = self.liveness.support_events.front() {
            let (input, lane, yes) = match event {
                SupportEvent::Supports(lane, yes) => (Input::Supports { node: lane.node, yes }, lane, yes),
                SupportEvent::SupportedBy(lane, yes) => {
                    (Input::SupportedBy { node: lane.node, yes }, lane, yes)
                }
                SupportEvent::Connected(node) => {
                    if !self.unquiesce_for(node, &mut left) {
                        return;
                    }
                    self.liveness.support_events.pop_front();
                    self.liveness.notified = 0;
                    continue;
                }
            };
            if self.liveness.notified == 0 {
                tracing::debug!(node = self.settings.node.0, worker = self.settings.worker, ?event);
            }
            while self.liveness.notified < self.groups.slots_end() as usize {
                if left == 0 {
                    return;
                }
                let slot = GroupSlot(self.liveness.notified as u32);
                (left, self.liveness.notified) = (left - 1, self.liveness.notified + 1);
                if let Some(replica) = self.groups.get(slot)
                    && lane.has(replica.id)
                    && replica.core.peers().any(|peer| peer == lane.node)
                    && (!yes
                        || support_of(&self.liveness.support, &self.outboxes, replica, lane.node)
                            != MutualSupport::default())
                {
                    self.notify(slot, input);
                }
            }
            self.liveness.support_events.pop_front();
            self.liveness.notified = 0;
            self.liveness.support.on_all_notified(event);
        }
    }

    /// Unquiesces the groups that this node leads and that are quiescent without `node`. No other group is
    /// visited, so a reconnecting node costs the groups that fell behind, however many are idle. Returns
    /// whether the list is done.
    fn unquiesce_for(&mut self, node: NodeId, left: &mut usize) -> bool {
        while let Some(slot) = self.groups.quiescent_without_peer_at(self.liveness.notified) {
            if *left == 0 {
                return false;
            }
            *left -= 1;
            if self.groups.is_listed_quiescent(slot) {
                self.notify(slot, Input::Reachable { node });
            }
            // It stays on the list if another peer is missing, too.
            self.liveness.notified = self.groups.recheck_quiescent(self.liveness.notified);
        }
        true
    }

    /// Passes a support event to a group. That sends no message at once, but may change the group's deadline.
    fn notify(&mut self, slot: GroupSlot, input: Input<'_>) {
        let (Some(replica), effects) = (self.groups.get_mut(slot), &mut self.effects) else { return };
        effects.clear();
        replica.core.step(self.now, input, effects);
        debug_assert!(effects.send.is_empty() && effects.send_durable.is_empty() && !effects.role_changed);
        self.groups.arm(slot);
    }

    /// A group is new or its peers have changed: its core receives the present support of each peer, before
    /// any of its messages can leave.
    pub(in crate::worker) fn sync_support(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get(slot) else { return };
        let nodes: SmallVec<[NodeId; 8]> = replica.core.peers().collect();
        for node in nodes {
            let Some(replica) = self.groups.get_mut(slot) else { return };
            self.liveness.support.add_peer(self.now, self.outboxes.lane_of(node, replica.id));
            let MutualSupport { given, received } =
                support_of(&self.liveness.support, &self.outboxes, replica, node);
            let (knows_support, knows_supported) =
                (replica.core.is_supporting(node), replica.core.is_supported_by(node));
            let inputs = [
                (given != knows_support).then_some(Input::Supports { node, yes: given }),
                (received != knows_supported).then_some(Input::SupportedBy { node, yes: received }),
            ];
            for input in inputs.into_iter().flatten() {
                self.notify(slot, input);
            }
        }
    }

    /// The index up to which a group may be read locally under its leader's lease, at this turn's time. Valid
    /// only for reads called before that time was read: a worker that was suspended may have lost the lease
    /// since, and another leader may have committed writes.
    pub(in crate::worker) fn lease_of(&self, slot: GroupSlot) -> Option<Index> {
        let replica = self.groups.get(slot)?;
        let (index, until) = self.lease_with(replica)?;
        (until > self.now).then_some(index)
    }

    /// Until when a group's lease lasts, and the index up to which it may be read until then.
    fn lease_with(&self, replica: &Replica) -> Option<(Index, Time)> {
        if !self.liveness.support_events.is_empty() {
            return None; // an event not yet passed on: support may have ended and begun anew
        }
        replica.core.lease(|node| self.liveness.support.support_until(node, replica.id))
    }

    /// Until when a group's lease lasts, by present knowledge.
    pub(crate) fn lease_until(&self, group: GroupId) -> Option<Time> {
        let replica = self.groups.find(group)?;
        self.lease_with(replica).map(|(_, until)| until)
    }
}

/// The support between this node and a peer, as a group is to see it: that of the log that the group means.
fn support_of(liveness: &Liveness, outboxes: &Outboxes, replica: &Replica, node: NodeId) -> MutualSupport {
    liveness.support_with(node, outboxes.recipient(&replica.core, node, None).log, replica.id)
}
