//! The worker's half of liveness by node: its beats leave, those of others come, and its groups hear what came of it.
//! The rules are at the head of [`crate::liveness`].

use bytes::Bytes;
use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{BEAT_BYTES, GroupId, Index, NodeId, Time};
use raftwerk_net::Channel;
use raftwerk_raft::{Effects, Input};
use raftwerk_wal::{Disk, GroupSlot};
use smallvec::SmallVec;

use super::replica::Replica;
use super::ship::Outboxes;
use super::{Timers, Worker};
use crate::liveness::{Liveness, News, PeerLane};

impl<D: Disk> Worker<D> {
    /// Takes in the beats that have come. What they ask for is promised in the next turn: a promise counts from a time after
    /// the question, and this turn may have begun long before it.
    pub(super) fn take_beats(&mut self) {
        while let Some(beat) = self.inbox.next_beat() {
            self.beats_heard.push(beat);
        }
    }

    /// Looks again what is known of peers: who has another log may have other workers.
    pub(super) fn look_up(&mut self) {
        self.are_nodes_stale |= self.outboxes.look_up(self.dispatch.peers());
    }

    /// Looks after support: what ends, whether this worker may be supported itself, and the beats that are due.
    pub(super) fn tend_nodes(&mut self) {
        // Who comes is met at once, and who is missed no longer is noticed before the next beat.
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
        let is_well = self.pulse.look(self.now, self.oldest_batch());
        self.liveness.is_well(self.now, is_well);
        self.spread_news();
        self.note_outwaited();
    }

    /// Sends the beats that are due. They go past the outboxes: a worker whose disk hangs says nothing but this.
    pub(super) fn send_beats(&mut self) {
        if self.now < self.liveness.next_deadline() {
            return;
        }
        let sender = self.outboxes.sender();
        let mut said = false;
        for (to, beat) in self.liveness.beats(self.now) {
            let header = UnitHeader {
                kind: UnitKind::Beat,
                worker: sender.worker,
                workers: sender.workers,
                to_worker: to.worker,
                records: 0,
                from: sender.node,
                bodies_bytes: BEAT_BYTES as u64,
                log: sender.log,
                to_log: self.outboxes.latest_of(to.node).unwrap_or_default(),
            };
            let mut unit = [0; UNIT_HEADER_BYTES + BEAT_BYTES];
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

    /// A beat vouches for the log. Where nothing was written to that lately, a probe is: whoever shares no group vouches for
    /// nothing, and writes none.
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
        // The last one has not been begun, unless it is the first.
        if !self.left_out.is_empty() && (self.news.len() < 2 || self.news.back() != Some(&news)) {
            self.news.push_back(news);
        }
    }

    /// Tells every group that knows a node what has become of it: all groups of one piece of news before any of the next, some
    /// in this turn, the others in those to come.
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

    /// Wakes the groups that this node leads and that went to rest without `node`. No other group is looked at, so a node that
    /// comes and goes costs what is behind it, however many groups are idle. Whether all are awake.
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
                replica.has_left_out = replica.core.rests_without_a_peer();
                replica.has_left_out
            });
            if rests_on {
                self.news_told += 1; // without somebody else
            } else {
                self.left_out.swap_remove(self.news_told);
            }
        }
        true
    }

    /// A group is told of a node. It does nothing at once, though it may have another deadline.
    fn tell(timers: &mut Timers, effects: &mut Effects, replica: &mut Replica, now: Time, input: Input<'_>) {
        effects.clear();
        replica.core.step(now, input, effects);
        debug_assert!(effects.send.is_empty() && effects.send_durable.is_empty() && !effects.role_changed);
        Self::arm(timers, replica);
    }

    /// A group is new, or knows other nodes than before: it hears who is supported, before anything it says can leave.
    pub(super) fn introduce_nodes(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let nodes: SmallVec<[NodeId; 8]> = replica.core.peers().collect();
        for node in nodes {
            let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
            self.liveness.meet(self.now, self.outboxes.lane_of(node, replica.id));
            let (supports, is_supported) = tie_of(&self.liveness, &self.outboxes, replica, node);
            let (knows_support, knows_supported) = replica.core.tie(node);
            let news = [
                (supports != knows_support).then_some(Input::Supports { node, yes: supports }),
                (is_supported != knows_supported).then_some(Input::SupportedBy { node, yes: is_supported }),
            ];
            for input in news.into_iter().flatten() {
                Self::tell(&mut self.timers, &mut self.effects, replica, self.now, input);
            }
        }
    }

    /// Up to where a group may be read without asking anybody, at this turn's time. For reads that were called before it: a
    /// worker that was stopped may have lost the lease since, and another may have written.
    pub(super) fn lease_of(&self, slot: GroupSlot) -> Option<Index> {
        let replica = self.replicas[slot.0 as usize].as_ref()?;
        let (index, until) = self.lease_with(replica)?;
        (until > self.now).then_some(index)
    }

    /// Until when a group's lease lasts, and the index up to which it may be read until then.
    fn lease_with(&self, replica: &Replica) -> Option<(Index, Time)> {
        if !self.news.is_empty() {
            return None; // a promise that has ended, and begun again, is another one
        }
        replica.core.lease(|node| self.liveness.kept_until(node, replica.id))
    }

    /// Until when a group's lease lasts, as far as is known now.
    pub(crate) fn lease_until(&self, group: GroupId) -> Option<Time> {
        let replica = self.replica(group)?;
        self.lease_with(replica).map(|(_, until)| until)
    }
}

/// What a group is to know of a node: what has become of the log that it means.
fn tie_of(liveness: &Liveness, outboxes: &Outboxes, replica: &Replica, node: NodeId) -> (bool, bool) {
    liveness.tie(node, outboxes.addressee(&replica.core, node, None).log, replica.id)
}
