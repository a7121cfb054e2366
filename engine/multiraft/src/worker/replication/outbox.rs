//! The outboxes: what each peer gets in a turn leaves as one message per peer and stream.
//!
//! Records of all groups are collected in one small buffer per peer. Frames stay where they are, in the batch
//! or in a segment's map. Adjacent places become one slice, so the new frames of a whole turn usually are
//! one.

use bytes::{Bytes, BytesMut};
use raftwerk_frame::wire::{RECORD_BYTES, Record, UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{GroupId, LogId, Message, NodeId};
use raftwerk_net::{Channel, Parts, PeerId, Transport};
use raftwerk_raft::{Group, MessageSender, Recipient};
use raftwerk_wal::{Disk, Lane, LogError, Place};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::node::peers::{PeerLogs, Peers};
use crate::node::placement::PeerLane;

/// An append unit is sent when its frames reach this many bytes.
const APPEND_BYTES: u64 = 1 << 20;
/// Frames shorter than this are copied beside the records: many small slices cost the transport more than one copy.
const SLICE_BYTES: usize = 16 << 10;

/// The records of one unit.
#[derive(Default)]
struct Records {
    bytes: BytesMut,
    count: u32,
}

impl Records {
    fn push(&mut self, record: &Record) {
        if self.count == 0 {
            self.bytes.reserve(UNIT_HEADER_BYTES + 64 * RECORD_BYTES);
            self.bytes.resize(UNIT_HEADER_BYTES, 0);
        }
        self.bytes.extend_from_slice(&record.encode());
        self.count += 1;
    }

    /// The unit's first bytes: header and records.
    fn take(&mut self, sender: LocalSender, to_log: LogId, bodies_bytes: u64) -> BytesMut {
        self.bytes.resize(self.bytes.len().max(UNIT_HEADER_BYTES), 0);
        let header = UnitHeader {
            kind: UnitKind::Groups,
            worker: sender.worker,
            workers: sender.workers,
            to_worker: 0,
            records: std::mem::take(&mut self.count),
            from: sender.node,
            bodies_bytes,
            log: sender.log,
            to_log,
        };
        self.bytes[..UNIT_HEADER_BYTES].copy_from_slice(&header.encode());
        self.bytes.split()
    }
}

/// The identity of this node and worker as a sender.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct LocalSender {
    pub(in crate::worker) node: NodeId,
    pub(in crate::worker) worker: u16,
    pub(in crate::worker) workers: u16,
    pub(in crate::worker) log: LogId,
}

/// The recipient of a message, with the flags of its record.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::worker) struct RecordRecipient {
    pub(in crate::worker) node: NodeId,
    /// The recipient's log; 0 if it is unknown.
    pub(in crate::worker) log: LogId,
    /// The group's configuration names that log.
    pub(in crate::worker) is_named: bool,
    /// The group's configuration names this node's log.
    pub(in crate::worker) names_itself: bool,
    /// The group's configuration has the recipient as a witness.
    pub(in crate::worker) to_witness: bool,
    /// The sender lacks a configuration.
    pub(in crate::worker) lacks_configuration: bool,
    /// The recipient is no member any more, and is sent appends until it has received its removal.
    pub(in crate::worker) is_leaving: bool,
}

/// Frames that follow an append.
pub(super) enum Body {
    /// In the log, as they are.
    Place(Place),
    /// Made anew: part of the frame in the log has been replaced, or the recipient is a witness.
    Made(Bytes),
}

#[derive(Default)]
struct Outbox {
    control: Records,
    /// A unit is sent even without records: its header announces this node's log.
    announces: bool,
    appends: Records,
    bodies: SmallVec<[Body; 4]>,
    bodies_bytes: u64,
}

/// The outboxes of all peers.
pub(in crate::worker) struct Outboxes {
    sender: LocalSender,
    /// Most messages of one control unit.
    control_records: u32,
    /// By node and log.
    peers: FxHashMap<(NodeId, LogId), Outbox>,
    /// The peers' logs, and the version of that table.
    logs: FxHashMap<NodeId, PeerLogs>,
    logs_version: u64,
    /// Units handed to the transport …
    pub(in crate::worker) sent: u64,
    /// … and those that it refused: lost, as far as the protocol is concerned.
    pub(in crate::worker) dropped: u64,
    full: Vec<(NodeId, Bytes)>,
    /// Places that were to be sent and could not be read.
    pub(super) unread: Vec<Place>,
}

impl Outboxes {
    pub(in crate::worker) fn new(sender: LocalSender, control_records: u32) -> Self {
        Self {
            sender,
            control_records,
            peers: FxHashMap::default(),
            logs: FxHashMap::default(),
            logs_version: 0,
            sent: 0,
            dropped: 0,
            full: Vec::new(),
            unread: Vec::new(),
        }
    }

    pub(in crate::worker) const fn sender(&self) -> LocalSender {
        self.sender
    }

    /// The log that this worker sends from.
    pub(in crate::worker) const fn log(&self) -> LogId {
        self.sender.log
    }

    /// Refreshes the table of the peers' logs; returns whether it has changed.
    pub(in crate::worker) fn refresh_peers(&mut self, peers: &Peers) -> bool {
        let before = self.logs_version;
        self.logs_version = peers.copy_since(before, &mut self.logs);
        self.logs_version != before
    }

    /// The worker that has the group on a node. Until that node's number of workers is known, this node's
    /// number is assumed.
    pub(in crate::worker) fn lane_of(&self, node: NodeId, group: GroupId) -> PeerLane {
        let known = self.logs.get(&node).map_or(0, |logs| logs.workers);
        PeerLane::of(node, group, if known > 0 { known } else { self.sender.workers })
    }

    /// The latest log received from a node.
    pub(in crate::worker) fn latest_of(&self, node: NodeId) -> Option<LogId> {
        if node == self.sender.node {
            return Some(self.sender.log);
        }
        self.logs.get(&node).map(|logs| logs.latest)
    }

    /// Whether anything was received from a node since its connection last broke.
    pub(in crate::worker) fn is_here(&self, node: NodeId) -> bool {
        node == self.sender.node || self.logs.get(&node).is_some_and(|logs| logs.is_here)
    }

    /// The first log ever received from a node.
    pub(in crate::worker) fn first_of(&self, node: NodeId) -> Option<LogId> {
        if node == self.sender.node {
            return Some(self.sender.log);
        }
        self.logs.get(&node).map(|logs| logs.first)
    }

    /// The recipient on a node: the log that the group's configuration names, or the sender's log of the
    /// message `reply_to` just now.
    pub(in crate::worker) fn recipient(
        &self,
        core: &Group,
        node: NodeId,
        reply_to: Option<MessageSender>,
    ) -> RecordRecipient {
        let address = core.recipient_of(node);
        let log = match (address, reply_to) {
            // It may differ from the log named here: the configuration of a follower that is behind may name
            // an earlier one.
            (_, Some(sender)) if sender.from == node => sender.log,
            (Recipient::Named(log), _) => log,
            (Recipient::InitialMember, _) => self.first_of(node).unwrap_or_default(),
            (Recipient::Anyone, _) => self.latest_of(node).unwrap_or_default(),
        };
        let is_named = address == Recipient::Named(log);
        let (names_itself, to_witness) = (core.names_itself(), core.has_for_witness(node));
        let lacks_configuration = core.lacks_configuration();
        // Not before its removal is committed: until then a removal in the peer's log is an earlier one, or
        // none.
        let is_leaving = core.has_left(node);
        RecordRecipient { node, log, is_named, names_itself, to_witness, lacks_configuration, is_leaving }
    }

    /// Queues a message without a body for a peer, to be sent at the end of the turn.
    pub(in crate::worker) fn control(&mut self, to: RecordRecipient, group: GroupId, message: Message) {
        let control = &mut self.peers.entry((to.node, to.log)).or_default().control;
        control.push(&record(to, group, message, 0));
        if control.count >= self.control_records {
            self.full.push((to.node, control.take(self.sender, to.log, 0).freeze()));
        }
    }

    /// Announces this node's log to a peer. A `log` of 0 requests the peer's log, too.
    pub(in crate::worker) fn announce(&mut self, to: NodeId, log: LogId) {
        self.peers.entry((to, log)).or_default().announces = true;
    }

    /// Adds an append with its frames. Returns whether the unit is full and should be sent.
    pub(super) fn append(
        &mut self,
        to: RecordRecipient,
        record: &Record,
        bodies: impl Iterator<Item = Body>,
    ) -> bool {
        let outbox = self.peers.entry((to.node, to.log)).or_default();
        outbox.appends.push(record);
        outbox.bodies_bytes += u64::from(record.body_bytes);
        for body in bodies {
            if let (Some(Body::Place(last)), Body::Place(next)) = (outbox.bodies.last_mut(), &body)
                && let Some(joined) = last.join(*next)
            {
                *last = joined;
            } else {
                outbox.bodies.push(body);
            }
        }
        outbox.bodies_bytes >= APPEND_BYTES
    }

    /// Bytes not handed to the transport yet.
    pub(in crate::worker) fn bytes(&self) -> usize {
        let full: usize = self.full.iter().map(|(_, unit)| unit.len()).sum();
        let of = |outbox: &Outbox| outbox.control.bytes.len() + outbox.appends.bytes.len();
        full + self.peers.values().map(|outbox| of(outbox) + outbox.bodies_bytes as usize).sum::<usize>()
    }

    /// Drops everything unsent.
    pub(in crate::worker) fn clear(&mut self) {
        self.peers.clear();
        self.full.clear();
    }

    pub(in crate::worker) fn send(
        &mut self,
        transport: &dyn Transport,
        to: NodeId,
        channel: Channel,
        parts: Parts,
    ) {
        self.sent += 1;
        if transport.send(PeerId(to.0), channel, parts).is_err() {
            self.dropped += 1;
        }
    }

    /// Sends a peer's appends.
    pub(super) fn flush_appends<D: Disk>(
        &mut self,
        (to, log): (NodeId, LogId),
        lane: &Lane<D>,
        transport: &dyn Transport,
    ) -> Result<(), LogError> {
        let channel = Channel::append_for(u64::from(self.sender.worker));
        let Some(outbox) = self.peers.get_mut(&(to, log)).filter(|outbox| outbox.appends.count > 0) else {
            return Ok(());
        };
        let mut head = outbox.appends.take(self.sender, log, std::mem::take(&mut outbox.bodies_bytes));
        let mut parts = Parts::new();
        for body in outbox.bodies.drain(..) {
            let frames = match body {
                Body::Place(place) => match lane.bytes(place) {
                    Ok(frames) => frames,
                    Err(LogError::Damaged { place, .. }) => {
                        // The unit is dropped, as if the network had lost it. Its groups send again what can
                        // be read.
                        self.unread.push(place);
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                },
                Body::Made(frame) => frame,
            };
            if frames.len() < SLICE_BYTES {
                head.extend_from_slice(&frames);
            } else {
                parts.push(head.split().freeze());
                parts.push(frames);
            }
        }
        parts.push(head.freeze());
        parts.retain(|part| !part.is_empty());
        self.send(transport, to, channel, parts);
        Ok(())
    }

    /// Sends everything that is left, at the end of the turn.
    pub(super) fn flush<D: Disk>(
        &mut self,
        lane: &Lane<D>,
        transport: &dyn Transport,
    ) -> Result<(), LogError> {
        let mut sent_any = !self.full.is_empty();
        for (to, unit) in std::mem::take(&mut self.full) {
            self.send(transport, to, Channel::Control, smallvec::smallvec![unit]);
        }
        let peers: SmallVec<[(NodeId, LogId); 8]> = self.peers.keys().copied().collect();
        for (to, log) in peers {
            let outbox = self.peers.get_mut(&(to, log)).expect("is one of the keys");
            let announces = std::mem::take(&mut outbox.announces);
            sent_any |= announces || outbox.control.count + outbox.appends.count > 0;
            if announces || outbox.control.count > 0 {
                let unit = outbox.control.take(self.sender, log, 0).freeze();
                self.send(transport, to, Channel::Control, smallvec::smallvec![unit]);
            }
            self.flush_appends((to, log), lane, transport)?;
            if self.logs.get(&to).is_some_and(|logs| log != logs.latest && log != logs.first) {
                self.peers.remove(&(to, log)); // that log exists no longer
            }
        }
        if sent_any {
            transport.flush();
        }
        Ok(())
    }
}

/// A message to a recipient, as a record.
pub(super) fn record(to: RecordRecipient, group: GroupId, message: Message, body_bytes: u32) -> Record {
    let RecordRecipient { is_named, names_itself, to_witness, lacks_configuration, is_leaving, .. } = to;
    Record { group, message, body_bytes, is_named, names_itself, to_witness, lacks_configuration, is_leaving }
}

impl Body {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Place(place) => u64::from(place.bytes),
            Self::Made(frame) => frame.len() as u64,
        }
    }
}
