//! The worker's half of liveness by node: its beats leave, those of others come, and its groups hear what came of it.
//! The rules are at the head of [`crate::liveness`].

use bytes::Bytes;
use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{BEAT_BYTES, Index, NodeId};
use raftwerk_net::Channel;
use raftwerk_raft::{Group, Input};
use raftwerk_wal::{Disk, GroupSlot};
use smallvec::SmallVec;

use super::Worker;
use crate::liveness::News;

impl<D: Disk> Worker<D> {
    /// Takes in the beats that have come. What they ask for is promised in the next turn: a promise counts from a time after
    /// the question, and this turn may have begun long before it.
    pub(super) fn take_beats(&mut self) {
        while let Some(beat) = self.inbox.next_beat() {
            self.beats_heard.push(beat);
        }
    }

    /// Looks after support: what ends, whether this worker may be supported itself, and the beats that are due.
    pub(super) fn tend_nodes(&mut self) {
        if std::mem::take(&mut self.are_nodes_stale) {
            let mut nodes: Vec<NodeId> =
                self.replicas.iter().flatten().flat_map(|replica| replica.core.peers()).collect();
            nodes.sort_unstable();
            nodes.dedup();
            self.liveness.name(self.now, &nodes);
        }
        for heard in self.beats_heard.drain(..) {
            self.liveness.hear(self.now, &heard);
        }
        self.liveness.lapse(self.now);
        let is_well = self.pulse.look(self.now, self.oldest_batch());
        self.liveness.is_well(self.now, is_well);
        self.spread_news();
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
                records: 0,
                from: sender.node,
                bodies_bytes: BEAT_BYTES as u64,
                log: sender.log,
                to_log: self.outboxes.latest_of(to).unwrap_or_default(),
            };
            let mut unit = [0; UNIT_HEADER_BYTES + BEAT_BYTES];
            unit[..UNIT_HEADER_BYTES].copy_from_slice(&header.encode());
            unit[UNIT_HEADER_BYTES..].copy_from_slice(&beat.encode());
            let parts = smallvec::smallvec![Bytes::copy_from_slice(&unit)];
            self.outboxes.send(&*self.transport, to, Channel::Control, parts);
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

    /// Tells every group that knows a node what has become of it.
    fn spread_news(&mut self) {
        let news = self.liveness.take_news();
        if !news.is_empty() {
            self.outboxes.look_up(self.dispatch.peers());
        }
        for news in news {
            let (News::Supports(node, yes) | News::SupportedBy(node, yes)) = news;
            tracing::debug!(node = self.settings.node.0, worker = self.settings.worker, ?news);
            for at in 0..self.replicas.len() {
                if let Some(replica) = &self.replicas[at]
                    && replica.core.peers().any(|peer| peer == node)
                    && (!yes || self.tie_of(&replica.core, node) != (false, false))
                {
                    let input = match news {
                        News::Supports(..) => Input::Supports { node, yes },
                        News::SupportedBy(..) => Input::SupportedBy { node, yes },
                    };
                    let slot = replica.slot;
                    self.step(slot, input);
                }
            }
        }
    }

    /// What a group is to know of a node: what has become of the log that it means.
    fn tie_of(&self, core: &Group, node: NodeId) -> (bool, bool) {
        self.liveness.tie(node, self.outboxes.addressee(core, node, None).log)
    }

    /// A group is new, or knows other nodes than before: it hears who is supported, before anything it says can leave.
    pub(super) fn introduce_nodes(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let nodes: SmallVec<[NodeId; 8]> = replica.core.peers().collect();
        for node in nodes {
            let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
            let (supports, is_supported) = self.tie_of(&replica.core, node);
            let (knows_support, knows_supported) = replica.core.tie(node);
            if supports != knows_support {
                self.step(slot, Input::Supports { node, yes: supports });
            }
            if is_supported != knows_supported {
                self.step(slot, Input::SupportedBy { node, yes: is_supported });
            }
        }
    }

    /// Up to where a group may be read without asking anybody, at this turn's time. For reads that were called before it: a
    /// worker that was stopped may have lost the lease since, and another may have written.
    pub(super) fn lease_of(&self, slot: GroupSlot) -> Option<Index> {
        let replica = self.replicas[slot.0 as usize].as_ref()?;
        let (index, until) = replica.core.lease(|node| self.liveness.kept_until(node))?;
        (until > self.now).then_some(index)
    }
}
