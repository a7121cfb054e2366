//! Witnesses: replicas that vote and acknowledge by headers, and hold no payload (see `engine/docs/witnesses.md`).
//!
//! Both ends are here. The leader sends a witness frames that contain the number and term of entries, without
//! payloads, made from the core's state, so no log is read and no payload copied. A configuration is sent
//! whole. In the place of a snapshot it sends where its log begins, and the configuration there. The witness
//! applies nothing, and compacts its log up to the commit index whenever it has grown a little.
//!
//! Not here: which members may be witnesses, and the commit index that is sent to them
//! (`raft/src/reconfig.rs`, `leader.rs`).

use bytes::{Bytes, BytesMut};
use raftwerk_frame::frame::{
    ENTRY_OVERHEAD_BYTES, Entries, EntryKind, FrameHeader, FrameKind, FrameWriter, HEADER_BYTES, withheld,
};
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId};
use raftwerk_raft::{Group, Input, AppendPlan, MessageSender};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta};

use super::Worker;
use super::piece::{FACTS, Head};
use super::replica::Replica;
use crate::metric::WorkerMetrics;

/// A witness's log is compacted at this size in bytes, some three hundred frames: each time costs a record of
/// its own.
const LOG_BYTES: u64 = 16 << 10;

/// The entries of an append plan (`AppendPlan`) as sent to a witness, and the last of them: as many frames as
/// the plan allows, at least one. Adjacent entries of a term share a frame; each configuration has its own.
pub(super) fn withheld_frames(group: GroupId, core: &Group, append_plan: &AppendPlan) -> Option<(Bytes, Index)> {
    let mut out = BytesMut::new();
    let mut first = append_plan.first;
    while first <= append_plan.last && (out.is_empty() || (out.len() as u64) < append_plan.bytes_max) {
        let term = core.term_at(first)?;
        let next = core.memberships().find(|(index, _)| *index >= first);
        if let Some((_, configuration)) = next.filter(|(index, _)| *index == first) {
            out.extend_from_slice(&configuration_frame(group, EntryId::new(term, first), configuration)?);
            first = first.next();
            continue;
        }
        let run_end = core.runs().iter().find(|run| run.first > first).map(|run| run.first.prev());
        let before_next = next.map(|(index, _)| index.prev());
        let last = [run_end, before_next].into_iter().flatten().fold(append_plan.last, Index::min);
        let count = u32::try_from(super::perform::span(first, last)).unwrap_or(u32::MAX);
        out.extend_from_slice(&withheld(group, EntryId::new(term, first), count)?);
        first = first.plus(u64::from(count));
    }
    Some((out.freeze(), first.prev()))
}

/// A configuration entry in a frame of its own.
fn configuration_frame(group: GroupId, id: EntryId, configuration: &Configuration) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    configuration.encode(&mut payload);
    let mut out = vec![0; HEADER_BYTES + ENTRY_OVERHEAD_BYTES + payload.len()];
    let mut writer = FrameWriter::new(&mut out, group, id)?;
    let fits = writer.push(EntryKind::Membership, &payload);
    writer.finish().filter(|_| fits)?;
    Some(out)
}

/// Whether a replica accepts a frame: a witness none with payloads, any other replica none that withholds
/// them.
pub(super) fn suits(header: &FrameHeader, body: &[u8], is_witness: bool) -> bool {
    match header.kind {
        FrameKind::Withheld => is_witness,
        FrameKind::Entries if is_witness => {
            Entries::new(header, body).all(|entry| entry.kind == EntryKind::Membership)
        }
        FrameKind::Entries => true,
        _ => false,
    }
}

/// Updates the count of groups led here that have a witness, after a change of the group's leader or members.
pub(super) fn count_led_with_witness(metrics: &WorkerMetrics, replica: &mut Replica) {
    let core = &replica.core;
    let does = core.is_leader() && !core.configuration().witnesses.as_slice().is_empty();
    let did = std::mem::replace(&mut replica.is_led_with_witness, does);
    metrics.leads_with_witness(did, does);
}

/// Takes a replica that is dropped out of the counts.
pub(super) fn uncount(metrics: &WorkerMetrics, replica: &Replica) {
    metrics.went(replica.core.is_witness());
    metrics.leads_with_witness(replica.is_led_with_witness, false);
}

impl<D: Disk> Worker<D> {
    /// A witness's replacement for applying: it records the commit index as applied, and compacts the log
    /// once that is long enough.
    pub(super) fn pass_over(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
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
    pub(super) fn cut_log(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
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
    pub(super) fn facts(&self, slot: GroupSlot) -> Option<SnapshotMeta> {
        let replica = self.replicas[slot.0 as usize].as_ref()?;
        let id = replica.core.compacted();
        let (_, configuration) = replica.core.configuration_up_to(id.index)?;
        Some(SnapshotMeta { group: replica.id, id, configuration: configuration.clone(), bytes: 0, crc: 0 })
    }

    /// Sends these facts in one unit.
    pub(super) fn send_facts(&mut self, to: NodeId, head: &Head, configuration: &Configuration) {
        let mut body = Vec::new();
        configuration.encode(&mut body);
        let head = Head { kind: FACTS, offset: 0, total: body.len() as u64, ..*head };
        let _retried = self.send_snapshot_unit(to, None, &head, &body);
    }

    /// The leader's log begins after what this witness needs next. Its own log begins there, too, from now
    /// on, unless that is known to be committed here already. Log and configuration change in one record; the
    /// reply is held until it is durable.
    pub(super) fn take_facts(&mut self, slot: GroupSlot, sender: MessageSender, head: &Head, body: &[u8]) {
        let Ok(configuration) = Configuration::decode(body) else { return self.metrics.bad_unit() };
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        let (from, configuration) = (sender.from, &configuration);
        let &Head { term, id, progress_epoch, .. } = head;
        let input = Input::SnapshotReceived { from, term, id, configuration, progress_epoch };
        self.effects.clear();
        replica.core.step(self.now, input, &mut self.effects);
        let install = self.effects.install.take();
        if install.is_some() {
            replica.applied = id.index;
            self.metrics.installed();
        }
        self.perform_for(slot, &[], Some(sender));
        if let Some(install) = install {
            self.lane.snapshot(slot, install.id, &install.configuration, install.keep_tail);
        }
    }
}
