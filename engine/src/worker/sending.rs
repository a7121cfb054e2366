//! The leader's end of a snapshot transfer: a window of chunks, and what the log and the checkpoint are kept for meanwhile.
//!
//! A transfer begins with a question: how much of this file is there? The answer is an offset, so an attempt goes on
//! where the last one stopped, be it a lost connection or a sender that gave up. Then [`WINDOW_CHUNKS`] chunks are on their
//! way at a time; each acknowledgement lets the next ones be read. After a gap, a silence or a lost connection all that is not
//! acknowledged is read and sent again. Chunks wait for the disk in one queue for all transfers of the worker, a chunk each
//! in turn, and what is read at a time is bounded for all of them together.
//!
//! While a transfer gets on, its group makes no new checkpoint: so the file stays, and the log behind it, which the follower
//! needs next. After that the log stays that the follower has yet to catch up with. Both are *kept*, and both yield
//! ([`Worker::yield_kept`]) when the lane outgrows its bound by half, the disk is full or memory short; and they end when
//! nothing gets on for [`PATIENCE`], when the peer leaves, and with the leadership.
//!
//! What is not here: the follower's end (`receiving`), checkpoints (`snapshots`), the layout of a unit (`piece`).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index, NodeId, Term, Time};
use raftwerk_raft::{Group, Input, PeerState, PeerStatus};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta};
use rustc_hash::FxHashMap;

use super::Worker;
use super::piece::{Head, PIECE, PIECE_BYTES};
use super::snapshots::Work;

/// So many chunks of one transfer are on their way at a time. Fewer after a loss, until acknowledgements come again.
pub(super) const WINDOW_CHUNKS: u64 = 8;
/// Bytes that all transfers of a worker have the disk read at a time; one chunk is always allowed.
const READING_BYTES_MAX: u64 = WINDOW_CHUNKS * PIECE_BYTES;
/// A question, or a window, that nothing is heard of within this is lost …
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// … at most so often in a row; then the transfer is given up, and the core decides anew.
const RETRIES_MAX: u32 = 8;
/// What has arrived whole is given so long to be verified and installed, counted from the last sign that it is.
pub(super) const INSTALL_MAX: Duration = Duration::from_secs(30);
/// A transfer that has not got on for so long keeps nothing any more.
pub(super) const PATIENCE: Duration = INSTALL_MAX;

/// What a transfer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits for the checkpoint that is being written: the one before it will be gone.
    Waiting,
    /// The receiver was asked how much of the file it has.
    Asking,
    /// Chunks are on their way.
    Sending,
    /// All of it is there, and has yet to be installed; that is waited for until then.
    Whole { until: Time },
    /// Given up, until the core begins it anew.
    Broken,
    /// Installed. The follower is to get as far as this leader's log went when it was last looked at.
    CatchingUp { goal: Index, matched: Index },
}

/// A transfer, at its sender.
struct Outgoing {
    term: Term,
    account: u16,
    meta: SnapshotMeta,
    phase: Phase,
    /// To a witness: `meta` is all that is sent.
    is_bare: bool,
    /// What it kept was wanted for something else.
    has_yielded: bool,
    /// Raised by going back: what was read before is not sent.
    epoch: u64,
    /// Everything before is there …
    acked: u64,
    /// … up to here it was sent …
    sent: u64,
    /// … and up to here it is being read.
    read: u64,
    /// Chunks that may be on their way.
    window: u64,
    is_queued: bool,
    retries: u32,
    deadline: Time,
    /// It went back to there, and does so again, unasked, at the earliest then.
    back_to: u64,
    back_at: Time,
    /// The most that was ever there of this file, and when it was last more than before.
    best: u64,
    progressed_at: Time,
}

impl Outgoing {
    /// How much of the file may be read next.
    fn next_chunk(&self, chunk: u64) -> Option<u64> {
        let is_open = self.phase == Phase::Sending && self.read - self.acked < self.window * chunk;
        let left = self.meta.bytes - self.read;
        (is_open && left > 0).then(|| left.min(chunk))
    }

    /// What a unit says of the file, from there on.
    fn head(&self, group: GroupId, offset: u64) -> Head {
        let SnapshotMeta { id, bytes: total, crc, .. } = self.meta;
        let (term, account) = (self.term, self.account);
        Head { kind: PIECE, crc, account, group, term, id, offset, total, ..Head::default() }
    }

    /// Whatever was on its way is forgotten.
    const fn go_back_to(&mut self, offset: u64) {
        self.epoch += 1;
        (self.acked, self.sent, self.read) = (offset, offset, offset);
    }

    fn is_installed_at(&self, peer: &PeerStatus) -> bool {
        peer.state != PeerState::Snapshot && peer.matched >= self.meta.id.index
    }

    /// It is remembered for a while, for the attempt that follows.
    fn breaks(&mut self, now: Time) {
        self.go_back_to(self.acked);
        (self.phase, self.deadline) = (Phase::Broken, now + PATIENCE);
    }

    const fn is_reading(&self) -> bool {
        self.is_queued || self.read > self.sent
    }

    /// Whether an answer is about this file and this attempt.
    fn is_answered_by(&self, head: &Head) -> bool {
        let mine = (self.term, self.account, self.meta.id, self.meta.bytes, self.meta.crc);
        let is_it = mine == (head.term, head.account, head.id, head.total, head.crc);
        is_it && head.offset <= self.meta.bytes && !self.is_bare
    }

    /// So much of it is there.
    fn reaches(&mut self, offset: u64, now: Time) {
        if offset > self.best {
            (self.best, self.progressed_at) = (offset, now);
        }
    }
}

/// All transfers that a worker sends.
#[derive(Default)]
pub(super) struct Sendings {
    all: FxHashMap<(GroupId, NodeId), Outgoing>,
    /// Those that may read a chunk, each once.
    to_read: VecDeque<(GroupId, NodeId)>,
    reading_bytes: u64,
    /// Counts attempts, so that what an earlier one had read is told apart.
    epochs: u64,
    /// Before then it is not looked again at what holds the lane's oldest segment.
    pub(super) look_at: Time,
    /// Before then no refusal makes a checkpoint.
    doubt_at: Time,
}

impl Sendings {
    pub(super) fn forget(&mut self, group: GroupId) {
        self.all.retain(|(of, _), _| *of != group);
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.all.values().map(|transfer| transfer.deadline).min().unwrap_or(Time::NEVER)
    }

    /// The transfers of a group that keep something for a peer of the leader that `core` is.
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

    /// Whether the group's checkpoint is kept: not for a follower that has installed it.
    pub(super) fn keep_file(&self, core: &Group, group: GroupId, now: Time) -> bool {
        let is_file = |(to, transfer): (NodeId, &Outgoing)| {
            let is_installed = core.progress(to).is_some_and(|peer| transfer.is_installed_at(&peer));
            !is_installed && !matches!(transfer.phase, Phase::CatchingUp { .. })
        };
        self.keeping(core, group, now).any(is_file)
    }

    /// The last entry that followers which were sent a snapshot, or are being sent one, do not need any more.
    pub(super) fn needed_after(&self, core: &Group, group: GroupId, now: Time) -> Option<Index> {
        let floor = |(to, transfer): (NodeId, &Outgoing)| {
            let matched = core.progress(to).map_or(Index(0), |peer| peer.matched);
            matched.max(transfer.meta.id.index)
        };
        self.keeping(core, group, now).map(floor).min()
    }
}

impl<D: Disk> Worker<D> {
    fn chunk_bytes(&self) -> u64 {
        self.settings.limits.chunk_bytes.clamp(1, PIECE_BYTES)
    }

    /// A peer needs a snapshot, so its group's core finds.
    pub(super) fn start_transfer(&mut self, slot: GroupSlot, to: NodeId) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let (group, is_bare) = (replica.id, replica.core.has_for_witness(to));
        let meta = if is_bare { self.facts(slot) } else { replica.checkpoint.clone() };
        let Some(meta) = meta else { return };
        let (term, account, is_saving) = (replica.core.term(), replica.core.account_of(to), replica.saving);
        let sendings = &mut self.transfers.sendings;
        let before = sendings.all.remove(&(group, to));
        // An attempt after one that went nowhere keeps nothing before it gets on.
        let before = before.filter(|before| !matches!(before.phase, Phase::CatchingUp { .. }));
        let best = before.as_ref().filter(|before| is_same_file(&before.meta, &meta));
        let best = best.map_or(0, |before| before.best);
        sendings.epochs += 1;
        let transfer = Outgoing {
            term,
            account,
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

    /// An empty piece is a question: the receiver answers with the offset from which it lacks the file. A witness is sent all.
    fn ask(&mut self, group: GroupId, to: NodeId) {
        let Some(transfer) = self.transfers.sendings.all.get_mut(&(group, to)) else { return };
        if transfer.phase == Phase::Waiting {
            return;
        }
        transfer.deadline = self.now + RETRY;
        let head = transfer.head(group, transfer.acked);
        if transfer.is_bare {
            let configuration = transfer.meta.configuration.clone();
            return self.send_facts(to, &head, &configuration);
        }
        let _retried = self.send_snapshot_unit(to, None, &head, &[]);
    }

    /// The transfer may have become able to send more.
    fn go_on(&mut self, group: GroupId, to: NodeId) {
        let chunk = self.chunk_bytes();
        let sendings = &mut self.transfers.sendings;
        let Some(transfer) = sendings.all.get_mut(&(group, to)) else { return };
        if transfer.next_chunk(chunk).is_some() && !std::mem::replace(&mut transfer.is_queued, true) {
            sendings.to_read.push_back((group, to));
        }
        self.read_chunks();
    }

    /// Has the disk read what may be sent, a chunk of each transfer in turn.
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
            let token = self.transfers.expect(Work::ReadPiece { group, to, epoch, bytes });
            self.lane.read_snapshot_chunk(token, group, id, offset, bytes as usize);
        }
    }

    /// A chunk was read, or could not be.
    pub(super) fn chunk_read(
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
            return self.metrics.snapshot_bytes(chunk.len() as u64);
        }
        // The way there is full or gone. What is acknowledged, or the next question, brings it on.
        if let Some(transfer) = self.transfers.sendings.all.get_mut(&(head.group, to)) {
            let acked = transfer.acked;
            transfer.go_back_to(head.offset);
            transfer.acked = acked;
            transfer.phase = Phase::Asking;
            transfer.window = (transfer.window / 2).max(1);
        }
    }

    /// The receiver answers how much of the file it has.
    pub(super) fn take_ack(&mut self, from: NodeId, head: &Head) {
        let now = self.now;
        let Some(transfer) = self.transfers.sendings.all.get_mut(&(head.group, from)) else { return };
        let is_open = matches!(transfer.phase, Phase::Asking | Phase::Sending | Phase::Whole { .. });
        if !transfer.is_answered_by(head) || !is_open {
            return;
        }
        let offset = head.offset;
        if offset > 0 && transfer.phase == Phase::Asking && head.is_start {
            self.metrics.resumed();
        }
        transfer.reaches(offset, now);
        if offset == transfer.meta.bytes {
            // All of it is there, and has yet to be verified and installed; the follower's core will tell ours. Each time
            // that it answers so, it is still at it.
            transfer.go_back_to(offset);
            transfer.progressed_at = now;
            transfer.phase = Phase::Whole { until: now + INSTALL_MAX };
            (transfer.retries, transfer.deadline) = (0, now + RETRY);
            return;
        }
        if head.is_start {
            // What it lacks begins there. Unasked, that is a gap, and each chunk behind it brings the same answer.
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
                transfer.go_back_to(offset); // of an earlier attempt, and more than this one had sent
            }
            (transfer.acked, transfer.phase) = (offset, Phase::Sending);
        }
        (transfer.retries, transfer.deadline) = (0, now + RETRY);
        self.go_on(head.group, from);
    }

    /// The receiver could not take it in. If it had all of it, the file may be what is wrong.
    pub(super) fn take_refusal(&mut self, from: NodeId, head: &Head) {
        let transfer = self.transfers.sendings.all.get(&(head.group, from));
        let Some(transfer) = transfer.filter(|transfer| transfer.is_answered_by(head)) else { return };
        let was_whole = matches!(transfer.phase, Phase::Whole { .. });
        self.give_up(head.group, from);
        if was_whole {
            self.doubt_checkpoint(head.group);
        }
    }

    /// The checkpoint may be damaged: another is made, of the state as it is. Not often: a peer may be wrong.
    fn doubt_checkpoint(&mut self, group: GroupId) {
        let Some(slot) = self.slot_of(group) else { return };
        let is_saving = self.replica(group).is_none_or(|replica| replica.saving);
        if is_saving || self.now < self.transfers.sendings.doubt_at {
            return;
        }
        self.transfers.sendings.doubt_at = self.now + PATIENCE;
        self.checkpoint(slot);
    }

    /// What the group's transfers keep is wanted for something else: for room.
    pub(super) fn yield_kept(&mut self, group: GroupId) {
        let mut yielded = 0;
        for ((of, _), transfer) in &mut self.transfers.sendings.all {
            if *of == group && !transfer.is_bare && !std::mem::replace(&mut transfer.has_yielded, true) {
                yielded += 1;
            }
        }
        self.metrics.yielded(yielded);
    }

    /// The group has another checkpoint, and the file of the one before is gone; or it could not be written.
    pub(super) fn restart_transfers(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let Some(present) = replica.checkpoint.as_ref() else { return };
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
            let peer = self.replicas[slot.0 as usize].as_ref().and_then(|replica| replica.core.progress(to));
            if peer.is_some_and(|peer| peer.state == PeerState::Snapshot) {
                self.start_transfer(slot, to);
            }
        }
    }

    /// Transfers of which nothing was heard in time.
    pub(super) fn tick_sendings(&mut self) {
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
        let slot = self.slot_of(group);
        let replica = slot.and_then(|slot| self.replicas[slot.0 as usize].as_ref());
        let Some(transfer) = self.transfers.sendings.all.get_mut(&(group, to)) else { return };
        transfer.deadline = self.now + RETRY;
        let core = replica.map(|replica| &replica.core);
        let leads = core.filter(|core| core.is_leader() && core.term() == transfer.term);
        let Some((core, peer)) = leads.and_then(|core| Some((core, core.progress(to)?))) else {
            // No longer ours to send.
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
            // It is busy with what it has, or has nothing; its answer tells them apart.
            Phase::Whole { until } if self.now < until => self.ask(group, to),
            // Not the receiver is late: the disk is.
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

    /// It is over: what it kept may go.
    fn end_transfer(&mut self, group: GroupId, to: NodeId) {
        self.transfers.sendings.all.remove(&(group, to));
        if let Some(slot) = self.slot_of(group) {
            self.compact(slot);
            self.maybe_checkpoint(slot);
        }
    }

    /// The core decides anew. It ignores this unless it still waits for the snapshot.
    fn give_up(&mut self, group: GroupId, to: NodeId) {
        if let Some(transfer) = self.transfers.sendings.all.get_mut(&(group, to)) {
            transfer.breaks(self.now);
        }
        if let Some(slot) = self.slot_of(group) {
            self.step(slot, Input::SnapshotFailed { to });
        }
    }

    /// A connection broke: what was on its way over it has to be asked for again.
    pub(super) fn lose_transfers(&mut self, node: NodeId) {
        for ((_, to), transfer) in &mut self.transfers.sendings.all {
            if *to != node {
                continue;
            }
            match &mut transfer.phase {
                // It may have died before it had installed what it was sent.
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

/// Whether it is the very same file, not only of the same entry.
fn is_same_file(one: &SnapshotMeta, other: &SnapshotMeta) -> bool {
    (one.id, one.bytes, one.crc) == (other.id, other.bytes, other.crc)
}
