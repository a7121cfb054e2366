//! The worker's part of node liveness: sends and receives node heartbeats, and passes support events to its
//! groups. The rules are in the documentation of [`crate::liveness`].

use bytes::Bytes;
use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{NODE_HEARTBEAT_BYTES, GroupId, Index, NodeId, Time};
use raftwerk_net::Channel;
use raftwerk_raft::{Effects, Input};
use raftwerk_wal::{Disk, GroupSlot};
use smallvec::SmallVec;

use super::replica::Replica;
use super::ship::Outboxes;
use super::{Timers, Worker};
use crate::liveness::{Liveness, News, PeerLane};

impl<D: Disk> Worker<D> {
    /// Takes node heartbeats from the inbox. Support for their senders is given in the next turn: it must
    /// count from a time after the heartbeat was received, and this turn may have begun long before.
    pub(super) fn take_beats(&mut self) {
        while let Some(beat) = self.inbox.next_beat() {
            self.beats_heard.push(beat);
        }
    }

    /// Refreshes the table of peers: a peer with another log may have another number of workers.
    pub(super) fn look_up(&mut self) {
        self.are_nodes_stale |= self.outboxes.look_up(self.dispatch.peers());
    }

    /// Maintains support: expires it, decides whether this worker may ask for it, and takes in received node
    /// heartbeats.
    pub(super) fn tend_nodes(&mut self) {
        // A new peer is added at once (`introduce_nodes`); a peer that shares no group any more is dropped
        // before the next heartbeat.
        if self.are_nodes_stale && self.now >= self.liveness.next_deadline() {
            self.are_nodes_stale = false;
            let mut lanes: SmallVec<[PeerLane; 16]> = SmallVec::new();
            for replica in self.replicas.iter().flatten() {
                for lane in replica.core.peers().map(|peer| self.outboxes.lane_of(peer, replica.id)) {
                    if !lanes.contains(&lane) {
                        lanes.push(lane);
                    }
                }
            }
            self.liveness.name(self.now, &lanes);
        }
        for heard in self.beats_heard.drain(..) {
            self.liveness.hear(self.now, &heard);
        }
        self.liveness.lapse(self.now);
        let is_healthy = self.pulse.look(self.now, self.oldest_batch());
        self.liveness.is_healthy(self.now, is_healthy);
        self.spread_news();
        self.note_outwaited();
    }

    /// Sends the node heartbeats that are due. They bypass the outboxes: while the disk hangs, the worker
    /// sends nothing else.
    pub(super) fn send_beats(&mut self) {
        if self.now < self.liveness.next_deadline() {
            return;
        }
        let sender = self.outboxes.sender();
        let mut said = false;
        for (to, beat) in self.liveness.beats(self.now) {
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
            unit[UNIT_HEADER_BYTES..].copy_from_slice(&beat.encode());
            let parts = smallvec::smallvec![Bytes::copy_from_slice(&unit)];
            self.outboxes.send(&*self.transport, to.node, Channel::Control, parts);
            said = true;
        }
        if said {
            self.transport.flush();
            self.probe_log();
        }
    }

    /// A node heartbeat vouches for the progress of the log. If nothing was written lately, a probe is
    /// written. A worker that shares no group sends no heartbeats and writes no probe.
    fn probe_log(&mut self) {
        if self.is_poisoned || !self.pulse.wants_probe(self.now, self.oldest_batch()) {
            return;
        }
        match self.lane.probe() {
            Ok(is_probing) => self.pulse.probes(self.now, is_probing),
            Err(error) => self.poison(&error),
        }
    }

    /// A connection to a node was made.
    pub(super) fn take_reached(&mut self, node: NodeId) {
        let news = News::Reached(node);
        // The last event in the queue has not been begun, unless it is also the first.
        if !self.left_out.is_empty() && (self.news.len() < 2 || self.news.back() != Some(&news)) {
            self.news.push_back(news);
        }
    }

    /// Passes support events to every group that has the node for a peer, within the turn's limit: all groups
    /// receive one event before any receives the next; what exceeds the limit follows in later turns.
    fn spread_news(&mut self) {
        let fresh = self.liveness.take_news();
        if !fresh.is_empty() {
            self.look_up();
            let ended = fresh.iter().filter(|news| matches!(news, News::SupportedBy(_, false)));
            self.metrics.supports_ended(ended.count() as u64);
        }
        self.news.extend(fresh);
        let mut left = self.settings.limits.told;
        while let Some(&news) = self.news.front() {
            let (input, lane, yes) = match news {
                News::Supports(lane, yes) => (Input::Supports { node: lane.node, yes }, lane, yes),
                News::SupportedBy(lane, yes) => (Input::SupportedBy { node: lane.node, yes }, lane, yes),
                News::Reached(node) => {
                    if !self.wake_for(node, &mut left) {
                        return;
                    }
                    self.news.pop_front();
                    self.news_told = 0;
                    continue;
                }
            };
            if self.news_told == 0 {
                tracing::debug!(node = self.settings.node.0, worker = self.settings.worker, ?news);
            }
            while let Some(replica) = self.replicas.get_mut(self.news_told) {
                if left == 0 {
                    return;
                }
                (left, self.news_told) = (left - 1, self.news_told + 1);
                if let Some(replica) = replica
                    && lane.has(replica.id)
                    && replica.core.peers().any(|peer| peer == lane.node)
                    && (!yes || tie_of(&self.liveness, &self.outboxes, replica, lane.node) != (false, false))
                {
                    Self::tell(&mut self.timers, &mut self.effects, replica, self.now, input);
                }
            }
            self.news.pop_front();
            self.news_told = 0;
            self.liveness.is_told(news);
        }
    }

    /// Unquiesces the groups that this node leads and that are quiescent without `node`. No other group is
    /// visited, so a reconnecting node costs the groups that fell behind, however many are idle. Returns
    /// whether the list is done.
    fn wake_for(&mut self, node: NodeId, left: &mut usize) -> bool {
        while let Some(&slot) = self.left_out.get(self.news_told) {
            if *left == 0 {
                return false;
            }
            *left -= 1;
            let replica = self.replicas[slot.0 as usize].as_mut().filter(|replica| replica.has_left_out);
            let rests_on = replica.is_some_and(|replica| {
                let input = Input::Reachable { node };
                Self::tell(&mut self.timers, &mut self.effects, replica, self.now, input);
                replica.has_left_out = replica.core.is_quiescent_without_peer();
                replica.has_left_out
            });
            if rests_on {
                self.news_told += 1; // another peer is missing, too
            } else {
                self.left_out.swap_remove(self.news_told);
            }
        }
        true
    }

    /// Passes a support event to a group. That sends no message at once, but may change the group's deadline.
    fn tell(timers: &mut Timers, effects: &mut Effects, replica: &mut Replica, now: Time, input: Input<'_>) {
        effects.clear();
        replica.core.step(now, input, effects);
        debug_assert!(effects.send.is_empty() && effects.send_durable.is_empty() && !effects.role_changed);
        Self::arm(timers, replica);
    }

    /// A group is new or its peers have changed: its core receives the present support of each peer, before
    /// any of its messages can leave.
    pub(super) fn introduce_nodes(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let nodes: SmallVec<[NodeId; 8]> = replica.core.peers().collect();
        for node in nodes {
            let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
            self.liveness.meet(self.now, self.outboxes.lane_of(node, replica.id));
            let (supports, is_supported) = tie_of(&self.liveness, &self.outboxes, replica, node);
            let (knows_support, knows_supported) = (replica.core.is_supporting(node), replica.core.is_supported_by(node));
            let news = [
                (supports != knows_support).then_some(Input::Supports { node, yes: supports }),
                (is_supported != knows_supported).then_some(Input::SupportedBy { node, yes: is_supported }),
            ];
            for input in news.into_iter().flatten() {
                Self::tell(&mut self.timers, &mut self.effects, replica, self.now, input);
            }
        }
    }

    /// The index up to which a group may be read locally under its leader's lease, at this turn's time. Valid
    /// only for reads called before that time was read: a worker that was suspended may have lost the lease
    /// since, and another leader may have committed writes.
    pub(super) fn lease_of(&self, slot: GroupSlot) -> Option<Index> {
        let replica = self.replicas[slot.0 as usize].as_ref()?;
        let (index, until) = self.lease_with(replica)?;
        (until > self.now).then_some(index)
    }

    /// Until when a group's lease lasts, and the index up to which it may be read until then.
    fn lease_with(&self, replica: &Replica) -> Option<(Index, Time)> {
        if !self.news.is_empty() {
            return None; // an event not yet passed on: support may have ended and begun anew
        }
        replica.core.lease(|node| self.liveness.kept_until(node, replica.id))
    }

    /// Until when a group's lease lasts, by present knowledge.
    pub(crate) fn lease_until(&self, group: GroupId) -> Option<Time> {
        let replica = self.replica(group)?;
        self.lease_with(replica).map(|(_, until)| until)
    }
}

/// The support between this node and a peer, as a group is to see it: that of the log that the group means.
fn tie_of(liveness: &Liveness, outboxes: &Outboxes, replica: &Replica, node: NodeId) -> (bool, bool) {
    liveness.tie(node, outboxes.addressee(&replica.core, node, None).log, replica.id)
}
