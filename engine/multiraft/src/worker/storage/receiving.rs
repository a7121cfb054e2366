//! The follower's end of a snapshot transfer: chunks are taken in order, written, verified as a whole, and
//! restored.
//!
//! Only the next chunk is taken; one that leaves a gap, and a chunk without bytes, is answered with the
//! offset that the file has reached. What is written stays when the connection breaks or the sender gives up,
//! and the same sender's next attempt resumes behind it. The same means: its node, its log, the file's entry,
//! length and checksum. A checkpoint of the same entry at another node may have other bytes, so a file begun
//! by one leader is not finished by another.
//!
//! Chunks that wait for the disk are bounded for the whole worker; those beyond are dropped, as if the
//! network had lost them. A group has one unfinished file at a time, which is removed after [`IDLE_MAX`]
//! without a chunk.
//!
//! Not here: the leader's end (`sending`), the layout of a unit (`chunk`).

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Term, Time};
use raftwerk_raft::{Input, MessageSender};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta, Tail};
use rustc_hash::FxHashMap;

use crate::api::state_machine::StateMachine;
use crate::worker::Worker;
use crate::worker::groups::machines::as_machine;
use crate::worker::storage::background::Work;
use crate::worker::storage::chunk::{ACK, CHUNK_BYTES, Head, REFUSAL, WINDOW_CHUNKS};

/// Most bytes of a worker's incoming chunks that wait for the disk: the windows of some senders.
const WRITING_BYTES_MAX: u64 = 4 * WINDOW_CHUNKS * CHUNK_BYTES;
/// An unfinished file is removed when no chunk of it has arrived for this long.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// The state of a transfer at the receiver.
struct Incoming {
    /// Distinguishes it from earlier transfers, which may still have work under way.
    serial: u64,
    from: MessageSender,
    term: Term,
    progress_epoch: u16,
    id: EntryId,
    total: u64,
    crc: u32,
    /// Everything before this offset was submitted to the disk …
    received: u64,
    /// … and everything before this one is written.
    written: u64,
    /// The file is complete, and being verified or restored.
    is_finishing: bool,
    expires: Time,
}

impl Incoming {
    /// Whether a chunk is of this very file.
    fn is_same(&self, from: MessageSender, head: &Head) -> bool {
        let mine = (self.from.from, self.from.log, self.id, self.total, self.crc);
        mine == (from.from, from.log, head.id, head.total, head.crc)
    }

    /// The header of a reply about this file.
    fn head(&self, group: GroupId, kind: u8) -> Head {
        let Self { term, progress_epoch, id, total, crc, .. } = *self;
        Head { kind, crc, progress_epoch, group, term, id, offset: self.written, total, ..Head::default() }
    }
}

/// All snapshot transfers that a worker receives.
#[derive(Default)]
pub(in crate::worker) struct Receivings {
    all: FxHashMap<GroupId, Incoming>,
    serial: u64,
    writing_bytes: u64,
}

impl Receivings {
    pub(in crate::worker) fn forget(&mut self, group: GroupId) {
        self.all.remove(&group);
    }

    pub(in crate::worker) fn next_deadline(&self) -> Time {
        self.all.values().map(|incoming| incoming.expires).min().unwrap_or(Time::NEVER)
    }

    fn get(&mut self, group: GroupId, serial: u64) -> Option<&mut Incoming> {
        self.all.get_mut(&group).filter(|incoming| incoming.serial == serial)
    }
}

impl<D: Disk> Worker<D> {
    pub(in crate::worker) fn on_chunk(&mut self, from: MessageSender, head: &Head, bytes: Bytes) {
        let Some(slot) = self.groups.slot_of(head.group) else { return };
        let Some(replica) = self.groups.get(slot) else { return };
        if head.term < replica.core.term() || head.id.index <= replica.core.commit() {
            // Of an old leader, or committed here already: the core answers it, and the sender's core moves
            // on.
            let configuration = replica.core.configuration().clone();
            return self.step_snapshot(slot, from, head, &configuration);
        }
        let receivings = &mut self.transfers.receivings;
        let known = receivings.all.get(&head.group);
        let is_same = known.is_some_and(|incoming| incoming.is_same(from, head));
        let is_held = |known: &Incoming| head.term < known.term || known.is_finishing && !is_same;
        if known.is_some_and(is_held) {
            return; // of an old leader; or a complete file comes first
        }
        if !is_same && head.offset != 0 {
            return self.acknowledge(from, Head { kind: ACK, is_start: true, offset: 0, ..*head });
        }
        receivings.serial += 1;
        let fresh = Incoming {
            serial: receivings.serial,
            from,
            term: head.term,
            progress_epoch: head.progress_epoch,
            id: head.id,
            total: head.total,
            crc: head.crc,
            received: 0,
            written: 0,
            is_finishing: false,
            expires: Time::NEVER,
        };
        let incoming = receivings.all.entry(head.group).or_insert(fresh);
        if !is_same {
            // The first chunk of another file begins that one.
            (incoming.serial, incoming.id, incoming.total) = (receivings.serial, head.id, head.total);
            (incoming.crc, incoming.received, incoming.written) = (head.crc, 0, 0);
        }
        (incoming.from, incoming.term, incoming.progress_epoch) = (from, head.term, head.progress_epoch);
        incoming.expires = self.now + IDLE_MAX;
        self.accept_chunk(head, bytes);
    }

    /// A chunk of the present file: the next one, another one, or one without bytes, which requests the
    /// offset.
    fn accept_chunk(&mut self, head: &Head, bytes: Bytes) {
        let group = head.group;
        let receivings = &mut self.transfers.receivings;
        let Some(incoming) = receivings.all.get_mut(&group) else { return };
        let ack = incoming.head(group, ACK);
        let to = incoming.from;
        if incoming.is_finishing || head.offset < incoming.received && !bytes.is_empty() {
            return self.acknowledge(to, ack); // it is here already
        }
        if head.offset > incoming.received || bytes.is_empty() {
            let offset = incoming.received;
            return self.acknowledge(to, Head { is_start: true, offset, ..ack });
        }
        let len = bytes.len() as u64;
        if receivings.writing_bytes + len > WRITING_BYTES_MAX {
            return; // dropped, as if it were lost
        }
        receivings.writing_bytes += len;
        incoming.received += len;
        let (serial, end) = (incoming.serial, incoming.received);
        let token = self.transfers.expect(Work::WriteChunk { group, serial, end, bytes: len });
        self.lane.write_snapshot_chunk(token, group, head.id, head.offset, bytes);
    }

    fn acknowledge(&mut self, to: MessageSender, head: Head) {
        // A refused unit is lost: the sender asks for the offset again.
        let _lost = self.send_snapshot_unit(to.from, Some(to), &head, &[]);
    }

    /// A chunk is written, up to `end`, or could not be.
    pub(in crate::worker) fn on_chunk_written(
        &mut self,
        group: GroupId,
        serial: u64,
        end: Option<u64>,
        bytes: u64,
    ) {
        self.transfers.receivings.writing_bytes -= bytes;
        let Some(incoming) = self.transfers.receivings.get(group, serial) else { return };
        let Some(end) = end else { return self.refuse_incoming(group, serial) };
        incoming.written = end;
        incoming.is_finishing = end == incoming.total;
        let (to, is_whole, head) = (incoming.from, incoming.is_finishing, incoming.head(group, ACK));
        self.acknowledge(to, head);
        if is_whole {
            let token = self.transfers.expect(Work::Finish { group, serial });
            self.lane.finish_snapshot(token, group, head.id, head.total);
        }
    }

    /// The file is verified and durable, whatever became of the transfer: next, a new machine is restored
    /// from it.
    pub(in crate::worker) fn incoming_finished(&mut self, group: GroupId, serial: u64, meta: &SnapshotMeta) {
        self.adopt_checkpoint(group, meta);
        if self.transfers.receivings.get(group, serial).is_some() {
            let token = self.transfers.expect(Work::Restore { group, serial });
            self.restore_in_background(token, group);
        }
    }

    /// The snapshot cannot be taken. Its file is removed, and the sender begins anew.
    pub(in crate::worker) fn refuse_incoming(&mut self, group: GroupId, serial: u64) {
        let Some(incoming) = self.transfers.receivings.get(group, serial) else { return };
        let (to, head) = (incoming.from, Head { offset: 0, ..incoming.head(group, REFUSAL) });
        self.drop_incoming(group);
        self.acknowledge(to, head);
    }

    fn drop_incoming(&mut self, group: GroupId) {
        self.transfers.receivings.forget(group);
        let token = self.transfers.expect(Work::DropIncoming);
        self.lane.drop_incoming_snapshot(token, group);
    }

    /// Removes unfinished files that no sender has continued for [`IDLE_MAX`].
    pub(in crate::worker) fn tick_receivings(&mut self) {
        let now = self.now;
        if self.transfers.receivings.next_deadline() > now {
            return;
        }
        let mut idle = Vec::new();
        for (group, incoming) in &mut self.transfers.receivings.all {
            if incoming.expires > now {
                continue;
            }
            // A file that the disk still works on is not removed.
            let is_at_work = incoming.is_finishing || incoming.received > incoming.written;
            incoming.expires = now + IDLE_MAX;
            idle.extend((!is_at_work).then_some(*group));
        }
        for group in idle {
            self.drop_incoming(group);
        }
    }

    /// The newest durable snapshot has been restored into a new machine. If the core accepts it, machine and
    /// log change in one step. The snapshot may be later than the one just received, from a leader that was
    /// deposed before it was installed: what it holds is committed all the same.
    pub(in crate::worker) fn restored(
        &mut self,
        group: GroupId,
        serial: u64,
        meta: &SnapshotMeta,
        machine: Box<dyn Any + Send>,
    ) {
        let receivings = &mut self.transfers.receivings;
        if receivings.get(group, serial).is_none() {
            return; // of an earlier replica
        }
        let incoming = receivings.all.remove(&group);
        let (Some(incoming), Some(slot)) = (incoming, self.groups.slot_of(group)) else { return };
        self.install_snapshot(slot, &incoming, meta, as_machine(machine));
    }

    fn step_snapshot(
        &mut self,
        slot: GroupSlot,
        sender: MessageSender,
        head: &Head,
        configuration: &Configuration,
    ) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        self.effects.clear();
        let Head { term, id, progress_epoch, .. } = *head;
        let from: NodeId = sender.from;
        let input = Input::SnapshotReceived { from, term, id, configuration, progress_epoch };
        replica.core.step(self.now, input, &mut self.effects);
        assert!(self.effects.install.is_none(), "a snapshot at or below the commit index is never installed");
        self.perform_for(slot, &[], Some(sender));
    }

    fn install_snapshot(
        &mut self,
        slot: GroupSlot,
        &Incoming { from, term, progress_epoch, .. }: &Incoming,
        meta: &SnapshotMeta,
        machine: Box<dyn StateMachine>,
    ) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        self.effects.clear();
        let (sender, from, id, configuration) = (from, from.from, meta.id, &meta.configuration);
        let input = Input::SnapshotReceived { from, term, id, configuration, progress_epoch };
        replica.core.step(self.now, input, &mut self.effects);
        let install = self.effects.install.take();
        if let Some(install) = &install {
            assert_eq!(install.id, meta.id, "the core installs what it was given");
            replica.machine = Some(machine);
            replica.applied = meta.id.index;
            replica.checkpointing.restart_count();
            // What this replica proposed as an earlier leader is covered by the snapshot; its replies are
            // lost.
            self.calls.clients().abandon(replica, Index(0));
            self.env.metrics.installed();
            self.end_quarantine(slot);
        }
        self.perform_for(slot, &[], Some(sender));
        if let Some(install) = install {
            let tail = if install.keep_tail { Tail::Keep } else { Tail::Drop };
            self.lane.snapshot(slot, meta.id, &meta.configuration, tail);
        }
    }
}
