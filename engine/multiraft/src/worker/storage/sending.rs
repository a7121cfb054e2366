//! The leader's end of a snapshot transfer: a window of chunks, and what log and checkpoint are kept for
//! meanwhile.
//!
//! A transfer begins with an empty chunk, which requests the receiver's offset in this file. So an attempt
//! resumes where the last one stopped, by a lost connection or because the sender gave up. Then
//! [`WINDOW_CHUNKS`] chunks are in flight at a time; each acknowledgement lets the next ones be read. After a
//! gap, a timeout or a lost connection, everything that is not acknowledged is read and sent again. All
//! transfers of the worker share one queue for the disk, a chunk each in turn, and what is read at a time is
//! bounded for all of them together.
//!
//! While a transfer makes progress, its group makes no new checkpoint: so the file stays, and so does the log
//! behind it, which the follower needs next. After the installation the log stays that the follower has yet
//! to catch up with. Both are *kept*, and both are given up ([`Worker::yield_kept`]) when the lane exceeds
//! its bound by half, the disk is full or memory short. They are no longer kept when there is no progress for
//! [`PATIENCE`], when the peer is removed, and when the leadership ends.
//!
//! Not here: the follower's end (`receiving`), checkpoints (`snapshots`), the layout of a unit (`chunk`).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index, NodeId, Term, Time};
use raftwerk_raft::{Group, Input, PeerState, PeerStatus};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta};
use rustc_hash::FxHashMap;

use crate::worker::Worker;
use crate::worker::storage::background::Work;
use crate::worker::storage::chunk::{CHUNK, CHUNK_BYTES, Head, WINDOW_CHUNKS};

/// Most bytes that the disk reads at a time for all transfers of a worker; one chunk is always allowed.
const READING_BYTES_MAX: u64 = WINDOW_CHUNKS * CHUNK_BYTES;
/// A request or window without any reply within this time is lost …
pub(in crate::worker) const RETRY: Duration = Duration::from_millis(500);
/// … at most so often in a row; then the transfer is given up, and the core decides anew.
const RETRIES_MAX: u32 = 8;
/// Time for a complete file to be verified and installed, counted from the last acknowledgement of all of it.
pub(in crate::worker) const INSTALL_MAX: Duration = Duration::from_secs(30);
/// A transfer without progress for this long keeps nothing any more.
pub(in crate::worker) const PATIENCE: Duration = INSTALL_MAX;

/// The phase of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits for the checkpoint that is being written, since the present file will be deleted then.
    Waiting,
    /// The receiver's offset was requested.
    Asking,
    /// Chunks are in flight.
    Sending,
    /// The receiver has the whole file and has yet to install it; it has until then.
    Whole { until: Time },
    /// Given up, until the core starts it again.
    Broken,
    /// Installed. The follower has yet to reach `goal`, the end of this leader's log when it was last
    /// examined.
    CatchingUp { goal: Index, matched: Index },
}

/// A transfer at its sender.
struct Outgoing {
    term: Term,
    progress_epoch: u16,
    meta: SnapshotMeta,
    phase: Phase,
    /// To a witness: only facts are sent, from `meta`.
    is_bare: bool,
    /// What it kept was given up for room.
    has_yielded: bool,
    /// Incremented when the transfer goes back: chunks read before are not sent.
    epoch: u64,
    /// Everything before this offset is acknowledged …
    acked: u64,
    /// … everything before this one was sent …
    sent: u64,
    /// … and everything before this one is read or being read.
    read: u64,
    /// Most chunks in flight at present.
    window: u64,
    is_queued: bool,
    retries: u32,
    deadline: Time,
    /// The offset of the last return, and the earliest time of the next one there without a request.
    back_to: u64,
    back_at: Time,
    /// The highest offset acknowledged for this file, and the time of the last progress.
    best: u64,
    progressed_at: Time,
}

impl Outgoing {
    /// The bytes of the next chunk to be read, if one may be.
    fn next_chunk(&self, chunk: u64) -> Option<u64> {
        let is_open = self.phase == Phase::Sending && self.read - self.acked < self.window * chunk;
        let left = self.meta.bytes - self.read;
        (is_open && left > 0).then(|| left.min(chunk))
    }

    /// The header of a unit of this file, from an offset on.
    fn head(&self, group: GroupId, offset: u64) -> Head {
        let SnapshotMeta { id, bytes: total, crc, .. } = self.meta;
        let (term, progress_epoch) = (self.term, self.progress_epoch);
        Head { kind: CHUNK, crc, progress_epoch, group, term, id, offset, total, ..Head::default() }
    }

    /// Goes back to an offset: everything in flight is forgotten.
    const fn go_back_to(&mut self, offset: u64) {
        self.epoch += 1;
        (self.acked, self.sent, self.read) = (offset, offset, offset);
    }

    fn is_installed_at(&self, peer: &PeerStatus) -> bool {
        peer.state != PeerState::Snapshot && peer.matched >= self.meta.id.index
    }

    /// Breaks the transfer off; it is kept for [`PATIENCE`], for an attempt that resumes it.
    fn breaks(&mut self, now: Time) {
        self.go_back_to(self.acked);
        (self.phase, self.deadline) = (Phase::Broken, now + PATIENCE);
    }

    const fn is_reading(&self) -> bool {
        self.is_queued || self.read > self.sent
    }

    /// Whether a reply is about this file and this attempt.
    fn is_answered_by(&self, head: &Head) -> bool {
        let mine = (self.term, self.progress_epoch, self.meta.id, self.meta.bytes, self.meta.crc);
        let is_it = mine == (head.term, head.progress_epoch, head.id, head.total, head.crc);
        is_it && head.offset <= self.meta.bytes && !self.is_bare
    }

    /// The receiver has reached this offset.
    fn reaches(&mut self, offset: u64, now: Time) {
        if offset > self.best {
            (self.best, self.progressed_at) = (offset, now);
        }
    }
}

/// All snapshot transfers that a worker sends.
#[derive(Default)]
pub(in crate::worker) struct Sendings {
    all: FxHashMap<(GroupId, NodeId), Outgoing>,
    /// Transfers that may read a chunk, each once.
    to_read: VecDeque<(GroupId, NodeId)>,
    reading_bytes: u64,
    /// Numbers the attempts, so that chunks read for an earlier one are recognized.
    epochs: u64,
    /// Until then the groups that pin the lane's oldest segment are not examined again.
    pub(in crate::worker) look_at: Time,
    /// Until then no refusal causes another checkpoint.
    doubt_at: Time,
}

impl Sendings {
    pub(in crate::worker) fn forget(&mut self, group: GroupId) {
        self.all.retain(|(of, _), _| *of != group);
    }

    pub(in crate::worker) fn next_deadline(&self) -> Time {
        self.all.values().map(|transfer| transfer.deadline).min().unwrap_or(Time::NEVER)
    }

    /// The transfers of a group that keep something for a peer of the leader `core`.
    fn keeping<'a>(
        &'a self,
        core: &'a Group,
        group: GroupId,
        now: Time,
    ) -> impl Iterator<Item = (NodeId, &'a Outgoing)> {
        let all = if core.is_leader() { Some(&self.all) } else { None };
        all.into_iter().flatten().filter_map(move |((of, to), transfer)| {
            let is_alive = now < transfer.progressed_at + PATIENCE && !transfer.has_yielded;
            let is_ours = *of == group && transfer.term == core.term() && !transfer.is_bare;
            (is_ours && is_alive && core.progress(*to).is_some()).then_some((*to, transfer))
        })
    }

    /// Whether the group's checkpoint is kept; not for a follower that has installed it.
    pub(in crate::worker) fn keep_file(&self, core: &Group, group: GroupId, now: Time) -> bool {
        let is_file = |(to, transfer): (NodeId, &Outgoing)| {
            let is_installed = core.progress(to).is_some_and(|peer| transfer.is_installed_at(&peer));
            !is_installed && !matches!(transfer.phase, Phase::CatchingUp { .. })
        };
        self.keeping(core, group, now).any(is_file)
    }

    /// The last entry not needed by the followers that were sent a snapshot or are being sent one.
    pub(in crate::worker) fn needed_after(&self, core: &Group, group: GroupId, now: Time) -> Option<Index> {
        let floor = |(to, transfer): (NodeId, &Outgoing)| {
            let matched = core.progress(to).map_or(Index(0), |peer| peer.matched);
            matched.max(transfer.meta.id.index)
        };
        self.keeping(core, group, now).map(floor).min()
    }
}

impl<D: Disk> Worker<D> {
    fn chunk_bytes(&self) -> u64 {
        self.settings.limits.chunk_bytes.clamp(1, CHUNK_BYTES)
    }

    /// Starts a transfer: the group's core has found that a peer needs a snapshot.
    pub(in crate::worker) fn start_transfer(&mut self, slot: GroupSlot, to: NodeId) {
        let Some(replica) = self.groups.get(slot) else { return };
        let (group, is_bare) = (replica.id, replica.core.has_for_witness(to));
        let meta = if is_bare { self.log_start(slot) } else { replica.checkpointing.latest().cloned() };
        let Some(meta) = meta else { return };
        let (term, progress_epoch, is_saving) =
            (replica.core.term(), replica.core.progress_epoch_of(to), replica.checkpointing.is_saving());
        let sendings = &mut self.transfers.sendings;
        let before = sendings.all.remove(&(group, to));
        // An attempt inherits the progress of a failed one: if that has expired, it keeps nothing before it
        // makes progress itself.
        let before = before.filter(|before| !matches!(before.phase, Phase::CatchingUp { .. }));
        let best = before.as_ref().filter(|before| is_same_file(&before.meta, &meta));
        let best = best.map_or(0, |before| before.best);
        sendings.epochs += 1;
        let transfer = Outgoing {
            term,
            progress_epoch,
            meta,
            phase: if is_saving && !is_bare { Phase::Waiting } else { Phase::Asking },
            is_bare,
            has_yielded: false,
            epoch: sendings.epochs << 32,
            acked: 0,
            sent: 0,
            read: 0,
            window: WINDOW_CHUNKS,
            is_queued: sendings.to_read.contains(&(group, to)),
            retries: 0,
            deadline: self.now + RETRY,
            back_to: 0,
            back_at: self.now,
            best,
            progressed_at: before.map_or(self.now, |before| before.progressed_at),
        };
        sendings.all.insert((group, to), transfer);
        self.ask(group, to);
    }

    /// Requests the receiver's offset by an empty chunk. A witness is sent the facts, which is all it needs.
    fn ask(&mut self, group: GroupId, to: NodeId) {
        let Some(transfer) = self.transfers.sendings.all.get_mut(&(group, to)) else { return };
        if transfer.phase == Phase::Waiting {
            return;
        }
        transfer.deadline = self.now + RETRY;
        let head = transfer.head(group, transfer.acked);
        if transfer.is_bare {
            let configuration = transfer.meta.configuration.clone();
            return self.send_log_start(to, &head, &configuration);
        }
        let _retried = self.send_snapshot_unit(to, None, &head, &[]);
    }

    /// Queues the transfer for reading if it may send more.
    fn go_on(&mut self, group: GroupId, to: NodeId) {
        let chunk = self.chunk_bytes();
        let sendings = &mut self.transfers.sendings;
        let Some(transfer) = sendings.all.get_mut(&(group, to)) else { return };
        if transfer.next_chunk(chunk).is_some() && !std::mem::replace(&mut transfer.is_queued, true) {
            sendings.to_read.push_back((group, to));
        }
        self.read_chunks();
    }

    /// Has the disk read chunks, one of each transfer in turn.
    fn read_chunks(&mut self) {
        let chunk = self.chunk_bytes();
        while self.transfers.sendings.reading_bytes < READING_BYTES_MAX {
            let sendings = &mut self.transfers.sendings;
            let Some((group, to)) = sendings.to_read.pop_front() else { return };
            let Some(transfer) = sendings.all.get_mut(&(group, to)) else { continue };
            transfer.is_queued = false;
            let Some(bytes) = transfer.next_chunk(chunk) else { continue };
            let (id, offset, epoch) = (transfer.meta.id, transfer.read, transfer.epoch);
            transfer.read += bytes;
            if transfer.next_chunk(chunk).is_some() {
                transfer.is_queued = true;
                sendings.to_read.push_back((group, to));
            }
            sendings.reading_bytes += bytes;
            let token = self.transfers.expect(Work::ReadChunk { group, to, epoch, bytes });
            self.lane.read_snapshot_chunk(token, group, id, offset, bytes as usize);
        }
    }

    /// A chunk was read, or could not be.
    pub(in crate::worker) fn on_chunk_read(
        &mut self,
        (group, to): (GroupId, NodeId),
        epoch: u64,
        bytes: u64,
        chunk: Option<&Bytes>,
    ) {
        let sendings = &mut self.transfers.sendings;
        sendings.reading_bytes -= bytes;
        let transfer = sendings.all.get_mut(&(group, to)).filter(|transfer| transfer.epoch == epoch);
        match (transfer, chunk.filter(|chunk| chunk.len() as u64 == bytes)) {
            (Some(transfer), Some(chunk)) => {
                let head = transfer.head(group, transfer.sent);
                transfer.sent += bytes;
                transfer.deadline = self.now + RETRY;
                self.send_chunk(to, &head, chunk);
            }
            (Some(_), None) => {
                self.give_up(group, to);
                self.doubt_checkpoint(group);
            }
            (None, _) => {} // of an earlier attempt
        }
        self.read_chunks();
    }

    fn send_chunk(&mut self, to: NodeId, head: &Head, chunk: &Bytes) {
        if self.send_snapshot_unit(to, None, head, chunk) {
            return self.env.metrics.snapshot_bytes(chunk.len() as u64);
        }
        // The transport is full or the connection gone. The next acknowledgement or request continues the
        // transfer.
        if let Some(transfer) = self.transfers.sendings.all.get_mut(&(head.group, to)) {
            let acked = transfer.acked;
            transfer.go_back_to(head.offset);
            transfer.acked = acked;
            transfer.phase = Phase::Asking;
            transfer.window = (transfer.window / 2).max(1);
        }
    }

    /// The receiver has acknowledged an offset of the file.
    pub(in crate::worker) fn on_ack(&mut self, from: NodeId, head: &Head) {
        let now = self.now;
        let Some(transfer) = self.transfers.sendings.all.get_mut(&(head.group, from)) else { return };
        let is_open = matches!(transfer.phase, Phase::Asking | Phase::Sending | Phase::Whole { .. });
        if !transfer.is_answered_by(head) || !is_open {
            return;
        }
        let offset = head.offset;
        if offset > 0 && transfer.phase == Phase::Asking && head.is_start {
            self.env.metrics.resumed();
        }
        transfer.reaches(offset, now);
        if offset == transfer.meta.bytes {
            // All of it is there, and has yet to be verified and installed, which this node's core learns
            // from the follower's. As long as the receiver repeats this acknowledgement, it is still at work.
            transfer.go_back_to(offset);
            transfer.progressed_at = now;
            transfer.phase = Phase::Whole { until: now + INSTALL_MAX };
            (transfer.retries, transfer.deadline) = (0, now + RETRY);
            return;
        }
        if head.is_start {
            // The next chunk begins there. Without a request, that means a gap, and each chunk behind it
            // causes the same reply.
            if transfer.phase == Phase::Sending {
                let is_old = offset > 0 && offset < transfer.acked;
                let is_known = offset <= transfer.back_to && now < transfer.back_at;
                if is_old || is_known {
                    return;
                }
                transfer.window = (transfer.window / 2).max(1);
            }
            (transfer.back_to, transfer.back_at) = (offset, now + RETRY);
            transfer.phase = Phase::Sending;
            transfer.go_back_to(offset);
        } else if offset <= transfer.acked || matches!(transfer.phase, Phase::Whole { .. }) {
            return;
        } else {
            transfer.window = (transfer.window + 1).min(WINDOW_CHUNKS);
            if offset > transfer.sent {
                transfer.go_back_to(offset); // of an earlier attempt that had sent more than this one
            }
            (transfer.acked, transfer.phase) = (offset, Phase::Sending);
        }
        (transfer.retries, transfer.deadline) = (0, now + RETRY);
        self.go_on(head.group, from);
    }

    /// The receiver refused the snapshot. If it had the whole file, the file may be damaged.
    pub(in crate::worker) fn on_refusal(&mut self, from: NodeId, head: &Head) {
        let transfer = self.transfers.sendings.all.get(&(head.group, from));
        let Some(transfer) = transfer.filter(|transfer| transfer.is_answered_by(head)) else { return };
        let was_whole = matches!(transfer.phase, Phase::Whole { .. });
        self.give_up(head.group, from);
        if was_whole {
            self.doubt_checkpoint(head.group);
        }
    }

    /// The checkpoint may be damaged: another is made of the present state. Not often, since the peer may be
    /// wrong.
    fn doubt_checkpoint(&mut self, group: GroupId) {
        let Some(slot) = self.groups.slot_of(group) else { return };
        let is_saving = self.groups.find(group).is_none_or(|replica| replica.checkpointing.is_saving());
        if is_saving || self.now < self.transfers.sendings.doubt_at {
            return;
        }
        self.transfers.sendings.doubt_at = self.now + PATIENCE;
        self.checkpoint(slot);
    }

    /// Gives up what the group's transfers keep, for room.
    pub(in crate::worker) fn yield_kept(&mut self, group: GroupId) {
        let mut yielded = 0;
        for ((of, _), transfer) in &mut self.transfers.sendings.all {
            if *of == group && !transfer.is_bare && !std::mem::replace(&mut transfer.has_yielded, true) {
                yielded += 1;
            }
        }
        self.env.metrics.yielded(yielded);
    }

    /// Starts transfers again after another checkpoint: the previous file is gone; or the new one could not
    /// be written.
    pub(in crate::worker) fn restart_transfers(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get(slot) else { return };
        let Some(present) = replica.checkpointing.latest() else { return };
        let is_to_restart = |transfer: &Outgoing| {
            let is_file = matches!(
                transfer.phase,
                Phase::Waiting | Phase::Asking | Phase::Sending | Phase::Whole { .. }
            );
            let is_stale = transfer.phase == Phase::Waiting || !is_same_file(&transfer.meta, present);
            is_file && is_stale && !transfer.is_bare
        };
        let all = self.transfers.sendings.all.iter();
        let stale: Vec<NodeId> = all
            .filter(|((of, _), transfer)| *of == replica.id && is_to_restart(transfer))
            .map(|((_, to), _)| *to)
            .collect();
        for to in stale {
            let peer = self.groups.get(slot).and_then(|replica| replica.core.progress(to));
            if peer.is_some_and(|peer| peer.state == PeerState::Snapshot) {
                self.start_transfer(slot, to);
            }
        }
    }

    /// Handles the transfers past their deadlines.
    pub(in crate::worker) fn tick_sendings(&mut self) {
        if self.transfers.sendings.next_deadline() > self.now {
            return;
        }
        let all = self.transfers.sendings.all.iter();
        let late = all.filter(|(_, transfer)| transfer.deadline <= self.now);
        let late: Vec<(GroupId, NodeId)> = late.map(|(key, _)| *key).collect();
        for (group, to) in late {
            self.tick_transfer(group, to);
        }
    }

    fn tick_transfer(&mut self, group: GroupId, to: NodeId) {
        let slot = self.groups.slot_of(group);
        let replica = slot.and_then(|slot| self.groups.get(slot));
        let Some(transfer) = self.transfers.sendings.all.get_mut(&(group, to)) else { return };
        transfer.deadline = self.now + RETRY;
        let core = replica.map(|replica| &replica.core);
        let leads = core.filter(|core| core.is_leader() && core.term() == transfer.term);
        let Some((core, peer)) = leads.and_then(|core| Some((core, core.progress(to)?))) else {
            // This node does not lead any more, or the peer is gone.
            return self.end_transfer(group, to);
        };
        let (is_wanted, last) = (peer.state == PeerState::Snapshot, core.last().index);
        let is_installed = transfer.is_installed_at(&peer);
        match transfer.phase {
            _ if is_installed && transfer.is_bare => self.end_transfer(group, to),
            Phase::CatchingUp { goal, matched } => {
                if peer.matched > matched {
                    transfer.progressed_at = self.now;
                }
                let is_over = self.now >= transfer.progressed_at + PATIENCE;
                if is_wanted || peer.matched >= goal || is_over {
                    return self.end_transfer(group, to);
                }
                transfer.phase = Phase::CatchingUp { goal: last, matched: peer.matched };
            }
            _ if is_installed => {
                transfer.progressed_at = self.now;
                transfer.phase = Phase::CatchingUp { goal: last, matched: peer.matched };
            }
            Phase::Broken => self.end_transfer(group, to),
            _ if !is_wanted => transfer.breaks(self.now),
            Phase::Waiting => {}
            // The receiver is busy with the file, or has lost it; its reply distinguishes the two.
            Phase::Whole { until } if self.now < until => self.ask(group, to),
            // The disk is late, not the receiver.
            Phase::Sending if transfer.is_reading() => {
                transfer.progressed_at = transfer.progressed_at + RETRY;
            }
            _ if transfer.retries >= RETRIES_MAX => self.give_up(group, to),
            Phase::Whole { .. } => self.give_up(group, to),
            Phase::Asking | Phase::Sending => {
                transfer.retries += 1;
                transfer.window = (transfer.window / 2).max(1);
                transfer.go_back_to(transfer.acked);
                transfer.phase = Phase::Asking;
                self.ask(group, to);
            }
        }
    }

    /// The transfer is over: what it kept may be compacted.
    fn end_transfer(&mut self, group: GroupId, to: NodeId) {
        self.transfers.sendings.all.remove(&(group, to));
        if let Some(slot) = self.groups.slot_of(group) {
            self.compact(slot);
            self.maybe_checkpoint(slot);
        }
    }

    /// Gives a transfer up: the core decides anew. It ignores this unless it still waits for the snapshot.
    fn give_up(&mut self, group: GroupId, to: NodeId) {
        if let Some(transfer) = self.transfers.sendings.all.get_mut(&(group, to)) {
            transfer.breaks(self.now);
        }
        if let Some(slot) = self.groups.slot_of(group) {
            self.step(slot, Input::SnapshotFailed { to });
        }
    }

    /// A connection broke: what was in flight over it has to be sent again, from the offset that the receiver
    /// reports.
    pub(in crate::worker) fn lose_transfers(&mut self, node: NodeId) {
        for ((_, to), transfer) in &mut self.transfers.sendings.all {
            if *to != node {
                continue;
            }
            match &mut transfer.phase {
                // The receiver may have crashed before the installation.
                Phase::Whole { until } => *until = (*until).min(self.now + 2 * RETRY),
                phase @ (Phase::Asking | Phase::Sending) => {
                    *phase = Phase::Asking;
                    transfer.go_back_to(transfer.acked);
                }
                _ => continue,
            }
            transfer.deadline = self.now + RETRY;
        }
    }
}

/// Whether two files are the same, and not only of the same entry.
fn is_same_file(one: &SnapshotMeta, other: &SnapshotMeta) -> bool {
    (one.id, one.bytes, one.crc) == (other.id, other.bytes, other.crc)
}
