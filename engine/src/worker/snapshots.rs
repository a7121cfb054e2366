//! Checkpoints, and how a replica that is too far behind gets one from its leader (paper, section 7).
//!
//! The worker only decides. Writing, reading, verifying and restoring happen on the disk's background thread; every
//! piece of work comes back by its token. A transfer is a chain of pieces, each acknowledged when it is on the
//! receiver's disk: what is on its way is bounded by that credit, and a broken transfer goes on where it stopped.

use std::any::Any;
use std::io::{self, Read};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Term, Time};
use raftwerk_net::{Channel, PeerId};
use raftwerk_raft::{Input, Voice};
use raftwerk_wal::{BackgroundDone, BackgroundOutput, Disk, GroupSlot, SnapshotMeta};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::oneshot;

use super::Addressee;
use super::Worker;
use super::introductions::Note;
use super::piece::{ACK, FACTS, FOUNDING, HEAD_BYTES, Head, PIECE, PIECE_BYTES, REFUSAL};
use crate::state_machine::{StateMachine, StateMachines};

/// A piece that is not acknowledged within this is sent again …
const RETRY: Duration = Duration::from_millis(500);
/// What has arrived whole is given so long to be verified and installed.
pub(super) const INSTALL_MAX: Duration = Duration::from_secs(30);
/// … at most so often in a row; then the transfer is given up, and the core decides anew.
const RETRIES_MAX: u32 = 8;

/// Where a transfer stands, at the sender.
struct Outgoing {
    term: Term,
    account: u16,
    meta: SnapshotMeta,
    acked: u64,
    retries: u32,
    deadline: Time,
    reading: bool,
    /// To a witness: what `meta` says is all.
    is_bare: bool,
    /// All of it is there: when to stop waiting for the core to hear that it is installed.
    whole_until: Option<Time>,
}

/// Where a transfer stands, at the receiver.
struct Incoming {
    from: Voice,
    term: Term,
    account: u16,
    id: EntryId,
    total: u64,
    written: u64,
    busy: bool,
}

/// What a piece of background work was for.
pub(super) enum Work {
    Save { slot: GroupSlot, group: GroupId },
    ReadPiece { group: GroupId, to: NodeId, id: EntryId, offset: u64 },
    WritePiece { group: GroupId, end: u64 },
    Finish { group: GroupId },
    Restore { group: GroupId },
    Drop { group: GroupId, reply: oneshot::Sender<bool> },
    Note(Note),
    Scrub,
}

/// All transfers and background work of a worker.
#[derive(Default)]
pub(super) struct Transfers {
    token: u64,
    work: FxHashMap<u64, Work>,
    outgoing: FxHashMap<(GroupId, NodeId), Outgoing>,
    incoming: FxHashMap<GroupId, Incoming>,
    /// Groups that are gone, whose files are not.
    leaving: FxHashSet<GroupId>,
}

impl Transfers {
    /// Forgets the transfers of a group that is gone.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.outgoing.retain(|(of, _), _| *of != group);
        self.incoming.remove(&group);
    }

    /// A group is going: it cannot be made again before its files are gone, too.
    pub(super) fn leave(&mut self, group: GroupId) {
        self.leaving.insert(group);
    }

    /// Whether a group of this id is still going.
    pub(super) fn is_leaving(&self, group: GroupId) -> bool {
        self.leaving.contains(&group)
    }

    fn is_sending(&self, group: GroupId) -> bool {
        self.outgoing.keys().any(|(of, _)| *of == group)
    }

    pub(super) fn expect(&mut self, work: Work) -> u64 {
        self.token += 1;
        self.work.insert(self.token, work);
        self.token
    }

    /// Nothing will come of it.
    pub(super) fn expect_no_more(&mut self, token: u64) {
        self.work.remove(&token);
    }

    /// When a transfer wants to be looked at.
    pub(super) fn next_deadline(&self) -> Time {
        self.outgoing.values().map(|transfer| transfer.deadline).min().unwrap_or(Time::NEVER)
    }
}

/// Restores a new machine from an image.
pub(super) fn restore_machine(
    machines: &dyn StateMachines,
    group: GroupId,
    image: &mut dyn Read,
) -> io::Result<Box<dyn Any + Send>> {
    let mut machine = machines.create(group);
    machine.restore(image)?;
    Ok(Box::new(machine))
}

/// What [`restore_machine`] made, back from the background.
pub(super) fn as_machine(machine: Box<dyn Any + Send>) -> Box<dyn StateMachine> {
    let machine: Result<Box<Box<dyn StateMachine>>, _> = machine.downcast();
    *machine.unwrap_or_else(|_| unreachable!("restore_machine makes a machine"))
}

impl<D: Disk> Worker<D> {
    /// Takes a checkpoint if the group's log has grown enough, or holds the whole lane back.
    pub(super) fn maybe_checkpoint(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        // While somebody is being sent the present one, only a log that grows far beyond its bound makes a new one.
        let group = replica.id;
        let is_in_use = self.transfers.is_sending(group);
        let enough = self.settings.checkpoint_log_bytes.saturating_mul(if is_in_use { 4 } else { 1 });
        if replica.bytes_since_checkpoint >= enough && !replica.saving {
            self.checkpoint(slot);
        }
    }

    /// Takes a checkpoint: the machine hands out an image, the background thread writes it.
    pub(super) fn checkpoint(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        let Some(machine) = &replica.machine else { return self.cut_log(slot) };
        let (group, id) = (replica.id, replica.applied_id());
        let in_force = replica.core.configuration_up_to(replica.applied);
        let (_, configuration) = in_force.expect("the log reaches back to the applied entry");
        if configuration.is_empty() {
            return; // nobody could use it: not even this replica, once its log begins there
        }
        let configuration = configuration.clone();
        replica.saving = true;
        replica.bytes_since_checkpoint = 0;
        let image = machine.checkpoint();
        let token = self.transfers.expect(Work::Save { slot, group });
        self.lane.save_snapshot(token, group, id, configuration, image);
    }

    /// What the background thread finished.
    pub(super) fn take_background(&mut self) {
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
                (Work::ReadPiece { group, to, id, offset }, result) => {
                    // A late answer for an older snapshot is no piece of this one.
                    let current = self.transfers.outgoing.get(&(group, to));
                    match result {
                        _ if current.is_none_or(|transfer| transfer.meta.id != id) => {}
                        Ok(BackgroundOutput::Chunk(bytes)) => self.send_piece(group, to, offset, &bytes),
                        _ => self.give_up(group, to),
                    }
                }
                (Work::WritePiece { group, end }, Ok(_)) => self.piece_written(group, end),
                (Work::Finish { group }, Ok(BackgroundOutput::Finished(meta)))
                    if !meta.configuration.voters.is_empty() =>
                {
                    self.adopt_checkpoint(group, &meta);
                    let token = self.transfers.expect(Work::Restore { group });
                    self.restore_in_background(token, group);
                }
                (Work::Restore { group }, Ok(BackgroundOutput::Loaded { meta, value })) => {
                    self.restored(group, &meta, value);
                }
                (
                    Work::WritePiece { group, .. } | Work::Finish { group } | Work::Restore { group },
                    result,
                ) => {
                    tracing::warn!(%group, error = ?result.err(), "a snapshot could not be taken in");
                    self.refuse_incoming(group);
                }
                (Work::Drop { group, reply }, _) => {
                    // What could not be removed now is removed at the next opening.
                    self.transfers.leaving.remove(&group);
                    let _caller_gone = reply.send(true);
                }
                (Work::Note(note), result) => self.noted(note, result.is_ok()),
                (Work::Scrub, Ok(BackgroundOutput::Scrubbed(seen))) => self.scrubbed(seen),
                (Work::Scrub, _) => self.scrubbed(None),
            }
        }
        self.checkpoint_pinning();
    }

    /// When the lane is over its bound, its oldest segment too old, or the disk full, checkpoints the groups that hold its oldest
    /// segment back. On a full disk checkpoints may fail, too: they are tried once in an election timeout.
    fn checkpoint_pinning(&mut self) {
        if self.lane.log_bytes() <= self.settings.lane_bytes_max && !self.lane.is_too_old() {
            if !self.is_full || self.now < self.press_at {
                return;
            }
            self.press_at = self.now + self.settings.election_timeout;
        }
        let pinning: Vec<GroupSlot> = self.lane.pinning().filter_map(|group| self.slot_of(group)).collect();
        for slot in pinning {
            self.checkpoint_or_compact(slot);
        }
    }

    /// Makes a group's log shorter, if it can be just now.
    pub(super) fn checkpoint_or_compact(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let checkpointed = replica.checkpoint.as_ref().map_or(Index(0), |meta| meta.id.index);
        if replica.saving || self.transfers.is_sending(replica.id) {
            return;
        }
        if replica.applied > checkpointed { self.checkpoint(slot) } else { self.compact(slot) }
    }

    fn saved(&mut self, slot: GroupSlot, group: GroupId, meta: Option<SnapshotMeta>) {
        if !self.holds(slot, group) {
            return;
        }
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        replica.saving = false;
        if let Some(meta) = meta {
            self.metrics.checkpointed();
            self.adopt_checkpoint(group, &meta);
            self.compact(slot);
            self.mend(slot);
        }
    }

    /// A snapshot file of the group is complete and durable, and older ones are gone. One that is received may overtake
    /// one's own.
    fn adopt_checkpoint(&mut self, group: GroupId, meta: &SnapshotMeta) {
        let slot = self.slot_of(group);
        let Some(replica) = slot.and_then(|slot| self.replicas[slot.0 as usize].as_mut()) else { return };
        if replica.checkpoint.as_ref().is_none_or(|known| known.id.index < meta.id.index) {
            replica.checkpoint = Some(meta.clone());
        }
    }

    /// Removes the files of a group whose end is durable.
    pub(super) fn drop_files(&mut self, group: GroupId, reply: oneshot::Sender<bool>) {
        let token = self.transfers.expect(Work::Drop { group, reply });
        self.lane.drop_snapshots(token, group);
    }

    /// The core says that a peer needs a snapshot.
    pub(super) fn start_transfer(&mut self, slot: GroupSlot, to: NodeId) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let (group, is_bare) = (replica.id, replica.core.has_for_witness(to));
        let meta = if is_bare { self.facts(slot) } else { replica.checkpoint.clone() };
        let Some(meta) = meta else { return };
        let transfer = Outgoing {
            term: replica.core.term(),
            account: replica.core.account_of(to),
            meta,
            acked: 0,
            retries: 0,
            deadline: self.now + RETRY,
            reading: false,
            is_bare,
            whole_until: None,
        };
        self.transfers.outgoing.insert((group, to), transfer);
        self.read_piece(group, to);
    }

    fn read_piece(&mut self, group: GroupId, to: NodeId) {
        let Some(transfer) = self.transfers.outgoing.get_mut(&(group, to)) else { return };
        if transfer.reading {
            return;
        }
        transfer.deadline = self.now + RETRY;
        if transfer.is_bare {
            let (account, term, id) = (transfer.account, transfer.term, transfer.meta.id);
            let configuration = transfer.meta.configuration.clone();
            let head = Head { account, group, term, id, ..Head::default() };
            return self.send_facts(to, &head, &configuration);
        }
        transfer.reading = true;
        let (id, offset) = (transfer.meta.id, transfer.acked);
        let chunk = self.settings.limits.chunk_bytes.clamp(1, PIECE_BYTES);
        let len = chunk.min(transfer.meta.bytes - offset) as usize;
        let token = self.transfers.expect(Work::ReadPiece { group, to, id, offset });
        self.lane.read_snapshot_chunk(token, group, id, offset, len);
    }

    fn send_piece(&mut self, group: GroupId, to: NodeId, offset: u64, bytes: &Bytes) {
        let Some(transfer) = self.transfers.outgoing.get_mut(&(group, to)) else { return };
        transfer.reading = false;
        let head = Head {
            kind: PIECE,
            account: transfer.account,
            group,
            term: transfer.term,
            id: transfer.meta.id,
            offset,
            total: transfer.meta.bytes,
            ..Head::default()
        };
        self.metrics.snapshot_bytes(bytes.len() as u64);
        self.send_snapshot_unit(to, None, &head, bytes);
    }

    /// An empty piece behind the last one: whoever does not hold all the others asks for them.
    fn ask_for_more(&mut self, group: GroupId, to: NodeId) {
        let Some(transfer) = self.transfers.outgoing.get(&(group, to)) else { return };
        let (term, account, meta) = (transfer.term, transfer.account, &transfer.meta);
        let (id, offset, total) = (meta.id, meta.bytes, meta.bytes);
        let head = Head { kind: PIECE, account, group, term, id, offset, total, ..Head::default() };
        self.send_snapshot_unit(to, None, &head, &[]);
    }

    /// Says something of a snapshot to the log of a peer that the group means.
    pub(super) fn send_snapshot_unit(&mut self, to: NodeId, heard: Option<Voice>, head: &Head, bytes: &[u8]) {
        let Some(replica) = self.replica(head.group) else { return };
        let addressee = self.outboxes.addressee(&replica.core, to, heard);
        let Addressee { is_named, names_itself, to_witness, .. } = addressee;
        let head = Head { is_named, names_itself, to_witness, ..*head };
        let body_bytes = HEAD_BYTES + bytes.len();
        let header = UnitHeader {
            kind: UnitKind::Snapshot,
            worker: self.settings.worker,
            workers: self.settings.workers,
            records: 0,
            from: self.settings.node,
            bodies_bytes: body_bytes as u64,
            log: self.outboxes.log(),
            to_log: addressee.log,
        };
        let mut unit = BytesMut::with_capacity(UNIT_HEADER_BYTES + body_bytes);
        unit.extend_from_slice(&header.encode());
        head.encode(&mut unit);
        unit.extend_from_slice(bytes);
        // Lost if refused; the retry brings it again.
        let _lost = self.transport.send(PeerId(to.0), Channel::Bulk, smallvec::smallvec![unit.freeze()]);
        self.transport.flush();
    }

    /// A piece, or what became of one, has arrived.
    pub(super) fn take_snapshot_unit(&mut self, voice: Voice, body: Bytes) {
        let Some((head, head_bytes)) = Head::parse(&body) else { return self.metrics.bad_unit() };
        let Some(slot) = self.slot_of(head.group) else { return };
        let from = voice.from;
        let Head { is_named, names_itself, to_witness, .. } = head;
        let voice = Voice { is_named, names_itself, to_witness, ..voice };
        if !self.hears(slot, voice, matches!(head.kind, PIECE | FACTS | FOUNDING)) {
            return self.dispatch.peers().refuse();
        }
        match head.kind {
            // A witness has no state to be given, and nobody else can do without.
            PIECE | FACTS if self.lane.is_witness(slot) != (head.kind == FACTS) => self.metrics.bad_unit(),
            PIECE => self.take_piece(voice, &head, body.slice(head_bytes..)),
            FACTS => self.take_facts(slot, voice, &head, &body[head_bytes..]),
            FOUNDING => self.take_founding(slot, voice, &head, &body[head_bytes..]),
            ACK => self.take_ack(from, &head),
            _ => self.give_up(head.group, from),
        }
    }

    fn take_ack(&mut self, from: NodeId, head: &Head) {
        let Some(transfer) = self.transfers.outgoing.get_mut(&(head.group, from)) else { return };
        if transfer.meta.id != head.id || head.offset > transfer.meta.bytes || transfer.is_bare {
            return;
        }
        if head.offset == 0 && transfer.acked > 0 {
            // The receiver holds nothing, or no longer: it has started anew, or thrown away what it could not install.
            (transfer.acked, transfer.whole_until) = (0, None);
            return self.read_piece(head.group, from);
        }
        if head.offset < transfer.acked {
            return;
        }
        if head.offset > transfer.acked {
            transfer.retries = 0;
        }
        transfer.acked = head.offset;
        if head.offset == transfer.meta.bytes {
            // All of it is there, and has yet to be verified and installed; the follower's core will tell ours.
            transfer.whole_until = Some(self.now + INSTALL_MAX);
            transfer.deadline = self.now + RETRY;
        } else {
            self.read_piece(head.group, from);
        }
    }

    fn take_piece(&mut self, from: Voice, head: &Head, bytes: Bytes) {
        let Some(slot) = self.slot_of(head.group) else { return };
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        if head.term < replica.core.term() || head.id.index <= replica.core.commit() {
            // An old leader's, or old news: the core answers it, and the sender's core moves on.
            let configuration = replica.core.configuration().clone();
            return self.step_snapshot(slot, from, head, &configuration);
        }
        let incoming = self.transfers.incoming.get(&head.group);
        let same = incoming.is_some_and(|incoming| incoming.id == head.id && incoming.total == head.total);
        if incoming.is_some_and(|incoming| incoming.busy) {
            return;
        }
        if !same {
            if head.offset != 0 {
                return self.acknowledge(from, Head { kind: ACK, offset: 0, ..*head });
            }
            let fresh = Incoming {
                from,
                term: head.term,
                account: head.account,
                id: head.id,
                total: head.total,
                written: 0,
                busy: false,
            };
            self.transfers.incoming.insert(head.group, fresh);
        }
        let incoming = self.transfers.incoming.get_mut(&head.group).expect("was just put there");
        (incoming.from, incoming.term, incoming.account) = (from, head.term, head.account);
        if head.offset != incoming.written || bytes.is_empty() {
            let offset = incoming.written;
            return self.acknowledge(from, Head { kind: ACK, offset, ..*head });
        }
        incoming.busy = true;
        let end = head.offset + bytes.len() as u64;
        let token = self.transfers.expect(Work::WritePiece { group: head.group, end });
        self.lane.write_snapshot_chunk(token, head.group, head.id, head.offset, bytes);
    }

    fn acknowledge(&mut self, to: Voice, head: Head) {
        self.send_snapshot_unit(to.from, Some(to), &head, &[]);
    }

    fn piece_written(&mut self, group: GroupId, end: u64) {
        let Some(incoming) = self.transfers.incoming.get_mut(&group) else { return };
        incoming.written = end;
        let (to, done) = (incoming.from, end == incoming.total);
        incoming.busy = done;
        let head = Head {
            kind: ACK,
            account: incoming.account,
            group,
            term: incoming.term,
            id: incoming.id,
            offset: end,
            total: incoming.total,
            ..Head::default()
        };
        self.acknowledge(to, head);
        if done {
            let token = self.transfers.expect(Work::Finish { group });
            self.lane.finish_snapshot(token, group, head.id, head.total);
        }
    }

    fn refuse_incoming(&mut self, group: GroupId) {
        if let Some(incoming) = self.transfers.incoming.remove(&group) {
            let Incoming { from, term, account, id, total, .. } = incoming;
            let head = Head { kind: REFUSAL, account, group, term, id, total, ..Head::default() };
            self.acknowledge(from, head);
        }
    }

    /// The newest snapshot that is durable here is in a new machine: now the core decides, and if it agrees, machine and
    /// log change in one step. It may be a later one than was just received, from a leader who was deposed before it was
    /// installed: what it holds is committed all the same.
    fn restored(&mut self, group: GroupId, meta: &SnapshotMeta, machine: Box<dyn Any + Send>) {
        let incoming = self.transfers.incoming.remove(&group);
        let (Some(incoming), Some(slot)) = (incoming, self.slot_of(group)) else { return };
        self.install_snapshot(slot, &incoming, meta, as_machine(machine));
    }

    fn step_snapshot(&mut self, slot: GroupSlot, voice: Voice, head: &Head, configuration: &Configuration) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        self.effects.clear();
        let Head { term, id, account, .. } = *head;
        let from = voice.from;
        let input = Input::SnapshotReceived { from, term, id, configuration, account };
        replica.core.step(self.now, input, &mut self.effects);
        assert!(self.effects.install.is_none(), "a snapshot at or below the commit index is never installed");
        self.perform_for(slot, &[], Some(voice));
    }

    fn install_snapshot(
        &mut self,
        slot: GroupSlot,
        &Incoming { from, term, account, .. }: &Incoming,
        meta: &SnapshotMeta,
        machine: Box<dyn StateMachine>,
    ) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        self.effects.clear();
        let (voice, from, id, configuration) = (from, from.from, meta.id, &meta.configuration);
        let input = Input::SnapshotReceived { from, term, id, configuration, account };
        replica.core.step(self.now, input, &mut self.effects);
        let install = self.effects.install.take();
        if let Some(install) = &install {
            assert_eq!(install.id, meta.id, "the core installs what it was given");
            replica.machine = Some(machine);
            replica.applied = meta.id.index;
            replica.bytes_since_checkpoint = 0;
            // What was proposed here in an earlier life as leader is in the snapshot; its replies are lost.
            self.clients.abandon(replica, Index(0));
            self.metrics.installed();
        }
        self.perform_for(slot, &[], Some(voice));
        if let Some(install) = install {
            self.lane.snapshot(slot, meta.id, &meta.configuration, install.keep_tail);
        }
    }

    /// Transfers whose last piece was not acknowledged in time.
    pub(super) fn tick_transfers(&mut self) {
        if self.transfers.next_deadline() > self.now {
            return;
        }
        let late = |(key, transfer): (&(GroupId, NodeId), &Outgoing)| {
            (transfer.deadline <= self.now).then_some(*key)
        };
        let late: Vec<(GroupId, NodeId)> = self.transfers.outgoing.iter().filter_map(late).collect();
        for (group, to) in late {
            self.tick_transfer(group, to);
        }
    }

    fn tick_transfer(&mut self, group: GroupId, to: NodeId) {
        let Some(transfer) = self.transfers.outgoing.get_mut(&(group, to)) else { return };
        transfer.deadline = self.now + RETRY;
        let slot = self.slots.get(&group);
        let core = slot.and_then(|slot| self.replicas[slot.0 as usize].as_ref()).map(|replica| &replica.core);
        let leads = core.filter(|core| core.is_leader() && core.term() == transfer.term);
        let is_wanted = leads
            .and_then(|core| core.progress(to))
            .is_some_and(|peer| peer.state == raftwerk_raft::PeerState::Snapshot);
        if !is_wanted {
            // Installed, or no longer ours to send.
            self.transfers.outgoing.remove(&(group, to));
            return;
        }
        match transfer.whole_until {
            // It is busy with what it has, and says nothing; or it has nothing, and says so.
            Some(until) if self.now < until => self.ask_for_more(group, to),
            Some(_) => self.give_up(group, to),
            None if transfer.reading => {}
            None => {
                transfer.retries += 1;
                if transfer.retries > RETRIES_MAX {
                    self.give_up(group, to);
                } else {
                    self.read_piece(group, to);
                }
            }
        }
    }

    /// The core decides anew. It ignores this unless it still waits for the snapshot.
    fn give_up(&mut self, group: GroupId, to: NodeId) {
        self.transfers.outgoing.remove(&(group, to));
        if let Some(slot) = self.slot_of(group) {
            self.step(slot, Input::SnapshotFailed { to });
        }
    }

    /// A connection broke: what was on its way over it has to be asked for again.
    pub(super) fn lose_transfers(&mut self, node: NodeId) {
        for ((_, to), transfer) in &mut self.transfers.outgoing {
            if *to == node {
                transfer.deadline = self.now + RETRY;
                // It may have died before it had installed what it was sent.
                transfer.whole_until = transfer.whole_until.map(|until| until.min(self.now + 2 * RETRY));
            }
        }
    }
}
