//! Performs the effects of a core: hard state and entries into the batch, messages into the outboxes, in that
//! order.

use raftwerk_frame::frame::{ENTRY_OVERHEAD_BYTES, EntryKind};
use raftwerk_frame::{EntryId, Message, NodeId};
use raftwerk_raft::{Append, Effects, Input, MessageSender, Rejected};
use raftwerk_wal::{Disk, GroupSlot, Lane, LogError};

use crate::api::error::ProposeError;
use crate::api::stats::WorkerMetrics;
use crate::worker::Worker;
use crate::worker::calls::clients::Clients;
use crate::worker::calls::membership::abandon_change;
use crate::worker::calls::waiters::Pending;
use crate::worker::groups::replica::Replica;
use crate::worker::replication::frames::ArrivedFrame;
use crate::worker::replication::witness::count_led_with_witness;

/// The leader closes a frame at this size: large enough to make its header cheap, small enough for a window.
const FRAME_BYTES: usize = 128 << 10;

impl<D: Disk> Worker<D> {
    /// Performs `self.effects` for a group.
    pub(in crate::worker) fn perform(&mut self, slot: GroupSlot) {
        self.perform_for(slot, &[], None);
    }

    /// Performs `self.effects` for a group. `frames` came with the message from `reply_to`; replies to that
    /// sender go to the log that it sent from.
    pub(in crate::worker) fn perform_for(
        &mut self,
        slot: GroupSlot,
        frames: &[ArrivedFrame<'_>],
        reply_to: Option<MessageSender>,
    ) {
        let is_relaxed = are_relaxed(&self.effects, frames);
        if let Err(error) = self.write_effects(slot, frames) {
            return self.poison(&error);
        }
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let group = replica.id;
        let may_send = replica.may_send(self.log.durable());
        let Effects {
            // Done by `write_effects`.
            hard_state: _,
            append: _,
            membership: _,
            // Done by the caller, which caused them.
            install: _,
            begins_in: _,
            rejected: _,
            // `Groups::enlist` looks for what may be applied, which must be durable here, too.
            commit: _,
            send,
            send_durable,
            reads,
            reconfigured,
            settled,
            transfer,
            role_changed,
            configuration_changed,
            // Done by `follow_up`.
            reads_rejected: _,
            snapshot_to: _,
            leader_changed: _,
        } = &mut self.effects;
        for (to, message) in send.drain(..) {
            let to = self.outboxes.recipient(&replica.core, to, reply_to);
            if may_send {
                self.outboxes.control(to, group, message);
            } else {
                self.log.hold(to, group, message);
            }
        }
        if is_relaxed {
            for (to, message) in &*send_durable {
                if let Message::AppendAck { term, matched, progress_epoch } = *message {
                    let to = self.outboxes.recipient(&replica.core, *to, reply_to);
                    let message = Message::AppendWritten { term, matched, progress_epoch };
                    self.log.hold_until_written(to, group, message);
                }
            }
        }
        for (to, message) in send_durable.drain(..) {
            let to = self.outboxes.recipient(&replica.core, to, reply_to);
            self.log.hold(to, group, message);
        }
        for (token, index) in reads.drain(..) {
            Self::confirm_read(replica, token, index);
        }
        self.calls.clients().answer_changes(replica, reconfigured.take(), *settled, transfer.take());
        if *role_changed {
            on_role_changed(replica, self.settings.node, self.calls.clients(), &self.env.metrics);
        }
        if *role_changed || *configuration_changed {
            count_led_with_witness(&self.env.metrics, replica);
        }
        if replica.proposals.has_relaxed() {
            self.calls.clients().give_receipts(replica);
        }
        self.follow_up(slot);
    }

    /// The rest of a step's effects, which concerns more of the worker than its outboxes and clients.
    fn follow_up(&mut self, slot: GroupSlot) {
        self.groups.enlist(slot);
        let rejected = std::mem::take(&mut self.effects.reads_rejected);
        for &token in &rejected {
            self.reject_read(slot, token);
        }
        self.effects.reads_rejected = rejected;
        let wanted_by = std::mem::take(&mut self.effects.snapshot_to);
        for &to in &wanted_by {
            self.start_transfer(slot, to);
        }
        self.effects.snapshot_to = wanted_by;
        self.groups.touch(slot);
        if self.effects.configuration_changed {
            self.liveness.on_peers_changed();
        }
        if self.effects.leader_changed {
            self.note_leader(slot);
        }
        if self.effects.leader_changed || self.effects.configuration_changed {
            self.sync_support(slot);
        }
    }

    /// Hard state, then entries, both into this turn's batch.
    fn write_effects(&mut self, slot: GroupSlot, frames: &[ArrivedFrame<'_>]) -> Result<(), LogError> {
        if self.groups.get(slot).is_none() {
            return Ok(());
        }
        if let Some(hard_state) = self.effects.hard_state.take() {
            self.lane.hard_state(slot, hard_state)?;
            self.groups.note_hard_state(slot);
        }
        match self.effects.append.take() {
            None => return Ok(()),
            Some(Append::Own { id, noop: true, .. }) => self.lane.append_noop(slot, id)?,
            Some(Append::Own { id, .. }) if let Some(to) = self.effects.membership.take() => {
                self.lane.append_membership(slot, id, &to)?;
            }
            Some(Append::Own { id, count, noop: false }) => {
                let Some(replica) = self.groups.get_mut(slot) else { return Ok(()) };
                assert_eq!(
                    count as usize,
                    replica.proposals.queued(),
                    "the core takes all of a turn's proposals or none"
                );
                Self::write_queued(&mut self.lane, self.calls.clients(), replica, id)?;
                self.calls.sampling().note_appended(slot, id);
            }
            Some(Append::Accept { from, last }) => {
                for (header, bytes) in frames {
                    if header.last_index() >= from && header.index <= last {
                        self.lane.append_frame(slot, bytes, header)?;
                    }
                }
            }
        }
        self.groups.note_appended(slot);
        Ok(())
    }

    /// Frames a group's proposals of the turn: the leader's only copy of their bytes.
    fn write_queued(
        lane: &mut Lane<D>,
        clients: &mut Clients,
        replica: &mut Replica,
        first: EntryId,
    ) -> Result<(), LogError> {
        let queued_bytes = replica.proposals.queued_bytes() as usize;
        let mut queued = replica.proposals.take_queued();
        // If relaxed and durable proposals share a turn, all are synced: they share the batch.
        let is_relaxed = queued.iter().all(|one| clients.is_relaxed(*one));
        let mut at = 0;
        let written = loop {
            let Some(&one) = queued.get(at) else { break Ok(()) };
            let longest = FRAME_BYTES.max(clients.payload(one).len() + ENTRY_OVERHEAD_BYTES);
            let hint = longest.min(queued_bytes);
            let mut next = EntryId::new(first.term, first.index.plus(at as u64));
            let mut frame = match lane.begin_frame(replica.slot, next, hint) {
                Ok(frame) => frame,
                Err(error) => break Err(error),
            };
            if is_relaxed {
                frame.relax();
            }
            let mut frame_bytes = 0;
            while let Some(&one) = queued.get(at) {
                let payload = clients.payload(one);
                if frame.count() > 0 && frame_bytes + payload.len() > FRAME_BYTES
                    || !frame.push(EntryKind::Payload, payload)
                {
                    break;
                }
                at += 1;
                frame_bytes += payload.len() + ENTRY_OVERHEAD_BYTES;
                let waiter = clients.take_waiter(one);
                let pending = Pending { id: next, waiter };
                replica.proposals.push(pending);
                next.index = next.index.next();
            }
            assert!(frame.finish().is_some(), "the first payload always fits: it is below the limit");
        };
        // What was not framed stays queued, so that its clients can be answered.
        queued.drain(..at);
        replica.proposals.put_back(queued);
        written
    }

    /// Step 3: hands the queued proposals of the turn to the core, all at once.
    pub(in crate::worker) fn propose_queued(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        if replica.proposals.queued() == 0 {
            return;
        }
        let count = replica.proposals.queued() as u32;
        self.effects.clear();
        replica.core.step(
            self.now,
            Input::Propose { count, bytes: replica.proposals.queued_bytes() },
            &mut self.effects,
        );
        if let Some(rejected) = self.effects.rejected.take() {
            let error = match rejected {
                Rejected::NotLeader { leader } => ProposeError::NotLeader { hint: leader },
                Rejected::Busy => ProposeError::Busy,
            };
            self.calls.clients().refuse_queued(replica, &error);
        } else {
            self.env.metrics.proposed(u64::from(count));
        }
        self.perform(slot);
    }

    /// Compacts the log up to the durable checkpoint, as far as neither a follower that keeps up nor one that
    /// was sent a snapshot still needs it.
    pub(in crate::worker) fn compact(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(checkpoint) = replica.checkpointing.latest() else { return };
        let bytes = self.lane.live_bytes(slot);
        let mut to = checkpoint.id.index.min(replica.applied);
        let spared_max = self.settings.checkpoint_log_bytes.saturating_mul(4);
        let spared_max =
            spared_max.max(replica.checkpointing.log_bytes_max(&self.settings).saturating_mul(2));
        let is_spared = bytes < spared_max && replica.damage.is_none();
        if replica.core.is_leader() && is_spared {
            let needed = replica.core.slowest_live_match();
            to = to.min(needed.unwrap_or(to));
        }
        if replica.damage.is_none() {
            let kept = self.transfers.needed_after(&replica.core, replica.id, self.now);
            to = to.min(kept.unwrap_or(to));
        }
        if to <= replica.core.compacted().index {
            return;
        }
        let Some(term) = replica.core.term_at(to) else { return };
        self.lane.compact(slot, EntryId::new(term, to));
        self.step(slot, Input::Compacted { to });
    }
}

/// The replica's role or term has changed. A deposed leader answers the clients of what it cannot decide any
/// more.
fn on_role_changed(replica: &mut Replica, node: NodeId, clients: &mut Clients, metrics: &WorkerMetrics) {
    tracing::debug!(node = node.0, group = %replica.id, role = ?replica.core.role(),
        term = replica.core.term().0, "role changed");
    if replica.core.is_leader() {
        metrics.leads();
    } else {
        clients.abandon(replica, replica.core.commit());
        abandon_change(replica);
    }
}

/// Whether all entries of a message are relaxed, and some of them are new here.
fn are_relaxed(effects: &Effects, frames: &[ArrivedFrame<'_>]) -> bool {
    matches!(effects.append, Some(Append::Accept { .. }))
        && frames.iter().all(|(header, _)| header.is_relaxed)
}
