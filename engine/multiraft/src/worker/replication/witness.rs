//! Witnesses: replicas that vote and acknowledge by headers, and hold no payload (see `engine/docs/witnesses.md`).
//!
//! Both ends are here. The leader sends a witness frames that contain the number and term of entries, without
//! payloads, made from the core's state, so no log is read and no payload copied. A configuration is sent
//! whole. In the place of a snapshot it sends where its log begins, and the configuration there. The witness
//! applies nothing, and compacts its log up to the commit index whenever it has grown a little.
//!
//! Not here: which members may be witnesses, and the commit index that is sent to them
//! (`raft/src/reconfig.rs`, `leader.rs`).

use raftwerk_frame::{Configuration, EntryId, NodeId};
use raftwerk_raft::{Input, MessageSender};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta, Tail};

use crate::api::stats::WorkerMetrics;
use crate::worker::Worker;
use crate::worker::groups::replica::Replica;
use crate::worker::storage::chunk::{Head, LOG_START};

/// A witness's log is compacted at this size in bytes, some three hundred frames: each time costs a record of
/// its own.
const LOG_BYTES: u64 = 16 << 10;

/// Updates the count of groups led here that have a witness, after a change of the group's leader or members.
pub(in crate::worker) fn count_led_with_witness(metrics: &WorkerMetrics, replica: &mut Replica) {
    let core = &replica.core;
    let does = core.is_leader() && !core.configuration().witnesses.as_slice().is_empty();
    let did = std::mem::replace(&mut replica.is_led_with_witness, does);
    match (did, does) {
        (false, true) => metrics.leads_with_witness(),
        (true, false) => metrics.no_longer_leads_with_witness(),
        _ => {}
    }
}

/// Takes a replica that is dropped out of the counts.
pub(in crate::worker) fn uncount(metrics: &WorkerMetrics, replica: &Replica) {
    if replica.core.is_witness() {
        metrics.witness_removed();
    }
    if replica.is_led_with_witness {
        metrics.no_longer_leads_with_witness();
    }
}

impl<D: Disk> Worker<D> {
    /// A witness's replacement for applying: it records the commit index as applied, and compacts the log
    /// once that is long enough.
    pub(in crate::worker) fn pass_over(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let to = replica.may_apply_to();
        if to > replica.applied {
            replica.applied = to;
            self.effects.clear();
            replica.core.step(self.now, Input::Applied { index: to }, &mut self.effects);
        }
        if self.lane.live_bytes(slot) >= LOG_BYTES.min(self.settings.checkpoint_log_bytes) {
            self.cut_log(slot);
        }
    }

    /// Compacts a witness's log up to the last entry known to be committed.
    pub(in crate::worker) fn cut_log(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let to = replica.applied;
        if to <= replica.core.compacted().index {
            return;
        }
        let in_force = replica.core.configuration_up_to(to);
        if in_force.is_none_or(|(_, configuration)| configuration.is_empty()) {
            return; // only the log holds the configuration
        }
        let Some(term) = replica.core.term_at(to) else { return };
        self.lane.compact(slot, EntryId::new(term, to));
        self.step(slot, Input::Compacted { to });
    }

    /// Sent to a witness in place of a checkpoint: where this log begins, and the configuration there.
    pub(in crate::worker) fn log_start(&self, slot: GroupSlot) -> Option<SnapshotMeta> {
        let replica = self.groups.get(slot)?;
        let id = replica.core.compacted();
        let (_, configuration) = replica.core.configuration_up_to(id.index)?;
        Some(SnapshotMeta { group: replica.id, id, configuration: configuration.clone(), bytes: 0, crc: 0 })
    }

    /// Sends these facts in one unit.
    pub(in crate::worker) fn send_log_start(
        &mut self,
        to: NodeId,
        head: &Head,
        configuration: &Configuration,
    ) {
        let mut body = Vec::new();
        configuration.encode(&mut body);
        let head = Head { kind: LOG_START, offset: 0, total: body.len() as u64, ..*head };
        let _retried = self.send_snapshot_unit(to, None, &head, &body);
    }

    /// The leader's log begins after what this witness needs next. Its own log begins there, too, from now
    /// on, unless that is known to be committed here already. Log and configuration change in one record; the
    /// reply is held until it is durable.
    pub(in crate::worker) fn on_log_start(
        &mut self,
        slot: GroupSlot,
        sender: MessageSender,
        head: &Head,
        body: &[u8],
    ) {
        let Ok(configuration) = Configuration::decode(body) else { return self.env.metrics.bad_unit() };
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let (from, configuration) = (sender.from, &configuration);
        let &Head { term, id, progress_epoch, .. } = head;
        let input = Input::SnapshotReceived { from, term, id, configuration, progress_epoch };
        self.effects.clear();
        replica.core.step(self.now, input, &mut self.effects);
        let install = self.effects.install.take();
        if install.is_some() {
            replica.applied = id.index;
            self.env.metrics.installed();
        }
        self.perform_for(slot, &[], Some(sender));
        if let Some(install) = install {
            let tail = if install.keep_tail { Tail::Keep } else { Tail::Drop };
            self.lane.snapshot(slot, install.id, &install.configuration, tail);
        }
    }
}
