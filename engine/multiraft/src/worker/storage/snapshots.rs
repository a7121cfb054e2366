//! Checkpoints, and the background work of a worker.
//!
//! The worker only decides. Writing, reading, verifying and restoring happen on the disk's background thread;
//! each job returns with its token. A group has one checkpoint, which the next one replaces. One that is
//! being sent to a peer stays, and with it the log behind it, until the transfer is over or what it keeps is
//! given up for room.
//!
//! Not here: how a replica that is too far behind gets a checkpoint from its leader (paper, section 7):
//! `sending`, `receiving`; which part of the log is compacted (`perform`).

use bytes::{Bytes, BytesMut};
use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{GroupId, Index, NodeId, Time};
use raftwerk_net::{Channel, PeerId};
use raftwerk_raft::{Group, MessageKind, MessageSender};
use raftwerk_wal::{BackgroundDone, BackgroundOutput, Disk, GroupSlot, SnapshotMeta};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::node::request::Removed;
use crate::worker::Worker;
use crate::worker::groups::machines::{guarded, guarded_image};
use crate::worker::replication::outbox::RecordRecipient;
use crate::worker::storage::background::Work;
use crate::worker::storage::chunk::{ACK, BOOTSTRAP, CHUNK, HEAD_BYTES, Head, LOG_START};
use crate::worker::storage::receiving::Receivings;
use crate::worker::storage::sending::Sendings;

/// How short of space or memory the worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Pressure {
    /// What transfers keep stays.
    Usual,
    /// What transfers keep is given up.
    High,
}

/// All snapshot transfers and background jobs of a worker.
#[derive(Default)]
pub(in crate::worker) struct Transfers {
    token: u64,
    work: FxHashMap<u64, Work>,
    pub(super) sendings: Sendings,
    pub(super) receivings: Receivings,
    /// Groups that are removed and have files left.
    leaving: FxHashSet<GroupId>,
    /// When to try again to checkpoint groups because the disk is full.
    press_at: Time,
}

impl Transfers {
    /// Drops the transfers of a removed group.
    pub(in crate::worker) fn forget(&mut self, group: GroupId) {
        self.sendings.forget(group);
        self.receivings.forget(group);
    }

    /// A group is being removed: it cannot be created again before its files are deleted.
    pub(in crate::worker) fn leave(&mut self, group: GroupId) {
        self.leaving.insert(group);
    }

    /// Whether a group of this id is still being removed.
    pub(in crate::worker) fn is_leaving(&self, group: GroupId) -> bool {
        self.leaving.contains(&group)
    }

    pub(in crate::worker) fn expect(&mut self, work: Work) -> u64 {
        self.token += 1;
        self.work.insert(self.token, work);
        self.token
    }

    /// The last entry not needed by the followers that were sent a snapshot or are being sent one.
    pub(in crate::worker) fn needed_after(&self, core: &Group, group: GroupId, now: Time) -> Option<Index> {
        self.sendings.needed_after(core, group, now)
    }

    /// When a transfer next needs the worker's attention.
    pub(in crate::worker) fn next_deadline(&self) -> Time {
        self.sendings.next_deadline().min(self.receivings.next_deadline())
    }
}

impl<D: Disk> Worker<D> {
    /// Takes a checkpoint if the group's log has grown enough and the present one is not being sent to a
    /// peer.
    pub(in crate::worker) fn maybe_checkpoint(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let is_due = replica.checkpointing.is_due(&self.settings);
        if is_due && !self.transfers.sendings.keep_file(&replica.core, replica.id, self.now) {
            self.checkpoint(slot);
        }
    }

    /// Takes a checkpoint: the machine returns an image, which the background thread writes.
    pub(in crate::worker) fn checkpoint(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(machine) = &replica.machine else { return self.cut_log(slot) };
        if replica.is_quarantined() {
            return; // it has no state
        }
        let (group, id) = (replica.id, replica.applied_id());
        let in_force = replica.core.configuration_up_to(replica.applied);
        let (_, configuration) = in_force.expect("the log reaches back to the applied entry");
        if configuration.is_empty() {
            return; // of no use to any replica, even to this one, once its log begins there
        }
        let configuration = configuration.clone();
        replica.checkpointing.restart_count();
        let image = match guarded(|| machine.checkpoint()) {
            Ok(image) => guarded_image(image),
            Err(what) => {
                return tracing::error!(%group, what, "the state machine panicked at a checkpoint: none is made");
            }
        };
        replica.checkpointing.begin_saving();
        let token = self.transfers.expect(Work::Save { slot, group });
        self.lane.save_snapshot(token, group, id, configuration, image);
    }

    /// Handles finished background jobs.
    pub(in crate::worker) fn on_background_done(&mut self) {
        while let Some(BackgroundDone { token, result, .. }) = self.lane.poll_background() {
            let Some(work) = self.transfers.work.remove(&token) else { continue };
            match (work, result) {
                (Work::Save { slot, group }, Ok(BackgroundOutput::Saved(meta))) => {
                    self.saved(slot, group, Some(meta))
                }
                (Work::Save { slot, group }, result) => {
                    tracing::warn!(%group, error = ?result.err(), "a checkpoint could not be written");
                    self.saved(slot, group, None);
                }
                (Work::ReadChunk { group, to, epoch, bytes }, result) => {
                    let chunk = match &result {
                        Ok(BackgroundOutput::Chunk(chunk)) => Some(chunk),
                        _ => None,
                    };
                    self.on_chunk_read((group, to), epoch, bytes, chunk);
                }
                (Work::WriteChunk { group, serial, end, bytes }, result) => {
                    self.on_chunk_written(group, serial, result.is_ok().then_some(end), bytes);
                }
                (Work::Finish { group, serial }, Ok(BackgroundOutput::Finished(meta)))
                    if !meta.configuration.voters.is_empty() =>
                {
                    self.incoming_finished(group, serial, &meta);
                }
                (Work::Restore { group, serial }, Ok(BackgroundOutput::Loaded { meta, value })) => {
                    self.restored(group, serial, &meta, value);
                }
                (Work::Finish { group, serial } | Work::Restore { group, serial }, result) => {
                    tracing::warn!(%group, error = ?result.err(), "a snapshot could not be taken in");
                    self.refuse_incoming(group, serial);
                }
                // What could not be removed now is removed with the next transfer, or at the next opening.
                (Work::DropIncoming, _) => {}
                (Work::Drop { group, reply }, _) => {
                    // What could not be removed now is removed at the next opening.
                    self.transfers.leaving.remove(&group);
                    let _caller_gone = reply.send(Ok(()));
                }
                (Work::Revive { slot, group, reply }, result) => {
                    let loaded = match result {
                        Ok(BackgroundOutput::Loaded { meta, value }) => Ok((meta, value)),
                        other => Err(other.err().map_or_else(String::new, |error| error.to_string())),
                    };
                    self.revived((slot, group), loaded, reply);
                }
                (Work::Note(note), result) => self.noted(note, result.map(drop)),
                (Work::Scrub, Ok(BackgroundOutput::Scrubbed(seen))) => self.scrubbed(seen),
                (Work::Scrub, Ok(BackgroundOutput::Checked(seen))) => self.checkpoints_scrubbed(&seen),
                (Work::Scrub, _) => self.scrubbed(None),
            }
        }
        self.checkpoint_pinning();
    }

    /// When the lane is over its bound, its oldest segment too old, or the disk full, checkpoints the groups
    /// that pin its oldest segment. On a full disk checkpoints may fail, too: they are tried once per
    /// election timeout. What transfers keep is given up when the disk is full, or when the lane exceeds its
    /// bound by half.
    fn checkpoint_pinning(&mut self) {
        let (bytes, bytes_max) = (self.lane.log_bytes(), self.settings.lane_bytes_max);
        let is_over = bytes > bytes_max || self.lane.is_too_old();
        let is_pressed = self.upkeep.is_full() || bytes > bytes_max.saturating_add(bytes_max / 2);
        if !is_over {
            if !self.upkeep.is_full() || self.now < self.transfers.press_at {
                return;
            }
            self.transfers.press_at = self.now + self.settings.election_timeout;
        } else if !is_pressed && self.now < self.transfers.sendings.look_at {
            return;
        }
        let pressure = if is_pressed { Pressure::High } else { Pressure::Usual };
        let pinning: Vec<GroupSlot> =
            self.lane.pinning().filter_map(|group| self.groups.slot_of(group)).collect();
        for slot in pinning {
            if !self.checkpoint_or_compact(slot, pressure) {
                // Each look goes through all groups, and this one cannot change for a while.
                self.transfers.sendings.look_at = self.now + self.settings.heartbeat_interval;
            }
        }
    }

    /// Shortens a group's log, if that is possible now; not while transfers keep it, unless the pressure is
    /// high. Returns whether the transfers permitted it.
    pub(in crate::worker) fn checkpoint_or_compact(&mut self, slot: GroupSlot, pressure: Pressure) -> bool {
        let Some(replica) = self.groups.get(slot) else { return true };
        let (group, checkpointed) = (replica.id, replica.checkpointing.index());
        if replica.checkpointing.is_saving() {
            return true;
        }
        let is_behind = replica.applied > checkpointed.unwrap_or_default();
        if pressure == Pressure::High {
            self.yield_kept(group);
            self.compact(slot);
        } else {
            let (sendings, core) = (&self.transfers.sendings, &replica.core);
            let needed = sendings.needed_after(core, group, self.now);
            if sendings.keep_file(core, group, self.now)
                || needed.is_some_and(|after| Some(after) < checkpointed)
            {
                return false; // another checkpoint would not free the log
            }
        }
        if is_behind {
            self.checkpoint(slot)
        } else {
            self.compact(slot)
        }
        true
    }

    fn saved(&mut self, slot: GroupSlot, group: GroupId, meta: Option<SnapshotMeta>) {
        if !self.groups.holds(slot, group) {
            return;
        }
        let Some(replica) = self.groups.get_mut(slot) else { return };
        replica.checkpointing.end_saving();
        let Some(meta) = meta else { return self.restart_transfers(slot) };
        self.env.metrics.checkpointed();
        self.adopt_checkpoint(group, &meta);
        self.restart_transfers(slot);
        self.compact(slot);
        self.mend(slot);
    }

    /// A snapshot file of the group is complete and durable, and older ones are gone. A received one may be
    /// newer than this replica's own.
    pub(in crate::worker) fn adopt_checkpoint(&mut self, group: GroupId, meta: &SnapshotMeta) {
        let slot = self.groups.slot_of(group);
        let Some(replica) = slot.and_then(|slot| self.groups.get_mut(slot)) else { return };
        replica.checkpointing.adopt(meta);
    }

    /// Deletes the files of a group whose removal is durable.
    pub(in crate::worker) fn drop_files(&mut self, group: GroupId, reply: Removed) {
        let token = self.transfers.expect(Work::Drop { group, reply });
        self.lane.drop_snapshots(token, group);
    }

    /// Sends a snapshot unit to a peer, for the log that the group means. Returns whether the transport
    /// accepted it.
    pub(in crate::worker) fn send_snapshot_unit(
        &mut self,
        to: NodeId,
        reply_to: Option<MessageSender>,
        head: &Head,
        bytes: &[u8],
    ) -> bool {
        let Some(replica) = self.groups.find(head.group) else { return false };
        let recipient = self.outboxes.recipient(&replica.core, to, reply_to);
        let RecordRecipient { is_named, names_itself, to_witness, .. } = recipient;
        let head = Head { is_named, names_itself, to_witness, ..*head };
        let body_bytes = HEAD_BYTES + bytes.len();
        let header = UnitHeader {
            kind: UnitKind::Snapshot,
            worker: self.settings.worker,
            workers: self.settings.workers,
            to_worker: 0,
            records: 0,
            from: self.settings.node,
            bodies_bytes: body_bytes as u64,
            log: self.outboxes.log(),
            to_log: recipient.log,
        };
        let mut unit = BytesMut::with_capacity(UNIT_HEADER_BYTES + body_bytes);
        unit.extend_from_slice(&header.encode());
        head.encode(&mut unit);
        unit.extend_from_slice(bytes);
        let sent = self.env.transport.send(PeerId(to.0), Channel::Bulk, smallvec::smallvec![unit.freeze()]);
        self.env.transport.flush();
        sent.is_ok()
    }

    /// Handles a snapshot unit: a chunk, or a reply about one.
    pub(in crate::worker) fn on_snapshot_unit(&mut self, sender: MessageSender, body: Bytes) {
        let Some((head, head_bytes)) = Head::parse(&body) else { return self.env.metrics.bad_unit() };
        let Some(slot) = self.groups.slot_of(head.group) else { return };
        let from = sender.from;
        let Head { is_named, names_itself, to_witness, .. } = head;
        let sender = MessageSender { is_named, names_itself, to_witness, ..sender };
        let kind = match head.kind {
            CHUNK | LOG_START | BOOTSTRAP => MessageKind::Request,
            _ => MessageKind::Other,
        };
        if !self.accepts(slot, sender, kind) {
            return self.env.dispatch.peers().refuse();
        }
        match head.kind {
            // A witness has no state to restore, and no other replica can do without one.
            CHUNK | LOG_START if self.lane.is_witness(slot) != (head.kind == LOG_START) => {
                self.env.metrics.bad_unit()
            }
            CHUNK => self.on_chunk(sender, &head, body.slice(head_bytes..)),
            LOG_START => self.on_log_start(slot, sender, &head, &body[head_bytes..]),
            BOOTSTRAP => self.on_bootstrap(slot, sender, &head, &body[head_bytes..]),
            ACK => self.on_ack(from, &head),
            _ => self.on_refusal(from, &head),
        }
    }

    /// Handles the transfers past their deadlines.
    pub(in crate::worker) fn tick_transfers(&mut self) {
        self.tick_sendings();
        self.tick_receivings();
    }
}
