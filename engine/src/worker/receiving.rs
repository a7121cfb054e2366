//! The follower's end of a snapshot transfer: chunks are taken in order, written, verified as a whole, and restored.
//!
//! Only the next chunk is taken; one that leaves a gap, and a question, is answered by where the file has come to. What is
//! there stays when the connection or the sender's patience ends, and the same sender's next attempt goes on behind it. The
//! same: its node, its log, the file's entry, length and checksum. A checkpoint of the same entry at another node may have
//! other bytes, so a file begun by one leader is not finished by another.
//!
//! Chunks that wait for the disk are bounded for the whole worker; what is beyond is dropped as if it were lost. A group has
//! one unfinished file at a time, and after [`IDLE_MAX`] of silence none.
//!
//! What is not here: the leader's end (`sending`), the layout of a unit (`piece`).

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Term, Time};
use raftwerk_raft::{Input, Voice};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta};
use rustc_hash::FxHashMap;

use super::Worker;
use super::piece::{ACK, Head, PIECE_BYTES, REFUSAL};
use super::sending::WINDOW_CHUNKS;
use super::snapshots::{Work, as_machine};
use crate::state_machine::StateMachine;

/// Bytes of chunks of a worker's incoming snapshots that wait for the disk: those of some senders' windows.
const WRITING_BYTES_MAX: u64 = 4 * WINDOW_CHUNKS * PIECE_BYTES;
/// An unfinished file that nothing was heard of for so long is removed.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// Where a transfer stands, at the receiver.
struct Incoming {
    /// Tells it from those before it, whose work may still be under way.
    serial: u64,
    from: Voice,
    term: Term,
    account: u16,
    id: EntryId,
    total: u64,
    crc: u32,
    /// Everything before was handed to the disk …
    received: u64,
    /// … and this is written.
    written: u64,
    /// All of it is, and is being verified, or restored.
    is_finishing: bool,
    expires: Time,
}

impl Incoming {
    /// Whether a piece is of this file, and of no other that only looks like it.
    fn is_same(&self, from: Voice, head: &Head) -> bool {
        let mine = (self.from.from, self.from.log, self.id, self.total, self.crc);
        mine == (from.from, from.log, head.id, head.total, head.crc)
    }

    /// The head of an answer about it.
    fn head(&self, group: GroupId, kind: u8) -> Head {
        let Self { term, account, id, total, crc, .. } = *self;
        Head { kind, crc, account, group, term, id, offset: self.written, total, ..Head::default() }
    }
}

/// All transfers that a worker receives.
#[derive(Default)]
pub(super) struct Receivings {
    all: FxHashMap<GroupId, Incoming>,
    serial: u64,
    writing_bytes: u64,
}

impl Receivings {
    pub(super) fn forget(&mut self, group: GroupId) {
        self.all.remove(&group);
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.all.values().map(|incoming| incoming.expires).min().unwrap_or(Time::NEVER)
    }

    fn get(&mut self, group: GroupId, serial: u64) -> Option<&mut Incoming> {
        self.all.get_mut(&group).filter(|incoming| incoming.serial == serial)
    }
}

impl<D: Disk> Worker<D> {
    pub(super) fn take_piece(&mut self, from: Voice, head: &Head, bytes: Bytes) {
        let Some(slot) = self.slot_of(head.group) else { return };
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        if head.term < replica.core.term() || head.id.index <= replica.core.commit() {
            // An old leader's, or old news: the core answers it, and the sender's core moves on.
            let configuration = replica.core.configuration().clone();
            return self.step_snapshot(slot, from, head, &configuration);
        }
        let receivings = &mut self.transfers.receivings;
        let known = receivings.all.get(&head.group);
        let is_same = known.is_some_and(|incoming| incoming.is_same(from, head));
        let is_held = |known: &Incoming| head.term < known.term || known.is_finishing && !is_same;
        if known.is_some_and(is_held) {
            return; // an old leader's; or one that is all here comes first
        }
        if !is_same && head.offset != 0 {
            return self.acknowledge(from, Head { kind: ACK, is_start: true, offset: 0, ..*head });
        }
        receivings.serial += 1;
        let fresh = Incoming {
            serial: receivings.serial,
            from,
            term: head.term,
            account: head.account,
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
            // The first piece of another file begins it.
            (incoming.serial, incoming.id, incoming.total) = (receivings.serial, head.id, head.total);
            (incoming.crc, incoming.received, incoming.written) = (head.crc, 0, 0);
        }
        (incoming.from, incoming.term, incoming.account) = (from, head.term, head.account);
        incoming.expires = self.now + IDLE_MAX;
        self.take_chunk(head, bytes);
    }

    /// A piece of the file that is coming in: the next, another, or a question.
    fn take_chunk(&mut self, head: &Head, bytes: Bytes) {
        let group = head.group;
        let receivings = &mut self.transfers.receivings;
        let Some(incoming) = receivings.all.get_mut(&group) else { return };
        let said = incoming.head(group, ACK);
        let to = incoming.from;
        if incoming.is_finishing || head.offset < incoming.received && !bytes.is_empty() {
            return self.acknowledge(to, said); // it is here
        }
        if head.offset > incoming.received || bytes.is_empty() {
            let offset = incoming.received;
            return self.acknowledge(to, Head { is_start: true, offset, ..said });
        }
        let len = bytes.len() as u64;
        if receivings.writing_bytes + len > WRITING_BYTES_MAX {
            return; // as if it were lost
        }
        receivings.writing_bytes += len;
        incoming.received += len;
        let (serial, end) = (incoming.serial, incoming.received);
        let token = self.transfers.expect(Work::WritePiece { group, serial, end, bytes: len });
        self.lane.write_snapshot_chunk(token, group, head.id, head.offset, bytes);
    }

    fn acknowledge(&mut self, to: Voice, head: Head) {
        // Lost if refused: the sender asks.
        let _lost = self.send_snapshot_unit(to.from, Some(to), &head, &[]);
    }

    /// A chunk is on the disk, or could not be written.
    pub(super) fn piece_written(&mut self, group: GroupId, serial: u64, end: u64, bytes: u64, is_well: bool) {
        self.transfers.receivings.writing_bytes -= bytes;
        let Some(incoming) = self.transfers.receivings.get(group, serial) else { return };
        if !is_well {
            return self.refuse_incoming(group, serial);
        }
        incoming.written = end;
        incoming.is_finishing = end == incoming.total;
        let (to, is_whole, head) = (incoming.from, incoming.is_finishing, incoming.head(group, ACK));
        self.acknowledge(to, head);
        if is_whole {
            let token = self.transfers.expect(Work::Finish { group, serial });
            self.lane.finish_snapshot(token, group, head.id, head.total);
        }
    }

    /// It is verified and durable, whatever became of the transfer: next, a new machine is made of it.
    pub(super) fn incoming_finished(&mut self, group: GroupId, serial: u64, meta: &SnapshotMeta) {
        self.adopt_checkpoint(group, meta);
        if self.transfers.receivings.get(group, serial).is_some() {
            let token = self.transfers.expect(Work::Restore { group, serial });
            self.restore_in_background(token, group);
        }
    }

    /// It cannot be taken in. What there is of it makes room, and the sender begins anew.
    pub(super) fn refuse_incoming(&mut self, group: GroupId, serial: u64) {
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

    /// Removes unfinished files that no sender has gone on with for long.
    pub(super) fn tick_receivings(&mut self) {
        let now = self.now;
        if self.transfers.receivings.next_deadline() > now {
            return;
        }
        let mut idle = Vec::new();
        for (group, incoming) in &mut self.transfers.receivings.all {
            if incoming.expires > now {
                continue;
            }
            // What the disk works on is not removed under its hands.
            let is_at_work = incoming.is_finishing || incoming.received > incoming.written;
            incoming.expires = now + IDLE_MAX;
            idle.extend((!is_at_work).then_some(*group));
        }
        for group in idle {
            self.drop_incoming(group);
        }
    }

    /// The newest snapshot that is durable here is in a new machine: now the core decides, and if it agrees, machine and
    /// log change in one step. It may be a later one than was just received, from a leader that was deposed before it was
    /// installed: what it holds is committed all the same.
    pub(super) fn restored(
        &mut self,
        group: GroupId,
        serial: u64,
        meta: &SnapshotMeta,
        machine: Box<dyn Any + Send>,
    ) {
        let receivings = &mut self.transfers.receivings;
        if receivings.get(group, serial).is_none() {
            return; // of an earlier life of the replica
        }
        let incoming = receivings.all.remove(&group);
        let (Some(incoming), Some(slot)) = (incoming, self.slot_of(group)) else { return };
        self.install_snapshot(slot, &incoming, meta, as_machine(machine));
    }

    fn step_snapshot(&mut self, slot: GroupSlot, voice: Voice, head: &Head, configuration: &Configuration) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        self.effects.clear();
        let Head { term, id, account, .. } = *head;
        let from: NodeId = voice.from;
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
            self.end_quarantine(slot);
        }
        self.perform_for(slot, &[], Some(voice));
        if let Some(install) = install {
            self.lane.snapshot(slot, meta.id, &meta.configuration, install.keep_tail);
        }
    }
}
