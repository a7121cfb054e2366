//! Step 4b: sends what each peer gets in a turn, as one message per peer and stream.
//!
//! Records of all groups are collected in one small buffer per peer. Frames stay where they are, in the batch
//! or in a segment's map. Adjacent places become one slice, so the new frames of a whole turn usually are
//! one.

use bytes::{Bytes, BytesMut};
use raftwerk_frame::frame::{Entries, FrameWriter, HEADER_BYTES, parse};
use raftwerk_frame::wire::{RECORD_BYTES, Record, UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{EntryId, GroupId, LogId, Message, NodeId};
use raftwerk_net::{Channel, Parts, PeerId, Transport};
use raftwerk_raft::{Recipient, Group, MessageSender};
use raftwerk_wal::{Disk, FrameRef, GroupSlot, Lane, LogError, Place};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::Worker;
use super::witness::withheld_frames;
use crate::liveness::PeerLane;
use crate::peers::{PeerLogs, Peers};

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
    fn take(&mut self, sender: Sender, to_log: LogId, bodies_bytes: u64) -> BytesMut {
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
pub(super) struct Sender {
    pub(super) node: NodeId,
    pub(super) worker: u16,
    pub(super) workers: u16,
    pub(super) log: LogId,
}

/// The recipient of a message, with the flags of its record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addressee {
    pub(super) node: NodeId,
    /// The recipient's log; 0 if it is unknown.
    pub(super) log: LogId,
    /// The group's configuration names that log.
    pub(super) is_named: bool,
    /// The group's configuration names this node's log.
    pub(super) names_itself: bool,
    /// The group's configuration has the recipient as a witness.
    pub(super) to_witness: bool,
    /// The sender lacks a configuration.
    pub(super) lacks_configuration: bool,
    /// The recipient is no member any more, and is sent appends until it has received its removal.
    pub(super) is_leaving: bool,
}

/// Frames that follow an append.
enum Body {
    /// In the log, as they are.
    Place(Place),
    /// Made anew: part of the frame in the log has been replaced, or the recipient is a witness.
    Made(Bytes),
}

#[derive(Default)]
struct Outbox {
    control: Records,
    /// A unit is sent even without records: its header announces this node's log.
    greets: bool,
    appends: Records,
    bodies: SmallVec<[Body; 4]>,
    bodies_bytes: u64,
}

/// The outboxes of all peers.
pub(super) struct Outboxes {
    sender: Sender,
    /// Most messages of one control unit.
    control_records: u32,
    /// By node and log.
    peers: FxHashMap<(NodeId, LogId), Outbox>,
    /// The peers' logs, and the version of that table.
    logs: FxHashMap<NodeId, PeerLogs>,
    logs_version: u64,
    /// Units handed to the transport …
    pub(super) sent: u64,
    /// … and those that it refused: lost, as far as the protocol is concerned.
    pub(super) dropped: u64,
    full: Vec<(NodeId, Bytes)>,
    /// Places that were to be sent and could not be read.
    unread: Vec<Place>,
}

impl Outboxes {
    pub(super) fn new(sender: Sender, control_records: u32) -> Self {
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

    pub(super) const fn sender(&self) -> Sender {
        self.sender
    }

    /// The log that this worker sends from.
    pub(super) const fn log(&self) -> LogId {
        self.sender.log
    }

    /// Refreshes the table of the peers' logs; returns whether it has changed.
    pub(super) fn look_up(&mut self, peers: &Peers) -> bool {
        let before = self.logs_version;
        self.logs_version = peers.copy_since(before, &mut self.logs);
        self.logs_version != before
    }

    /// The worker that has the group on a node. Until that node's number of workers is known, this node's
    /// number is assumed.
    pub(super) fn lane_of(&self, node: NodeId, group: GroupId) -> PeerLane {
        let known = self.logs.get(&node).map_or(0, |logs| logs.workers);
        PeerLane::of(node, group, if known > 0 { known } else { self.sender.workers })
    }

    /// The latest log received from a node.
    pub(super) fn latest_of(&self, node: NodeId) -> Option<LogId> {
        if node == self.sender.node {
            return Some(self.sender.log);
        }
        self.logs.get(&node).map(|logs| logs.latest)
    }

    /// Whether anything was received from a node since its connection last broke.
    pub(super) fn is_here(&self, node: NodeId) -> bool {
        node == self.sender.node || self.logs.get(&node).is_some_and(|logs| logs.is_here)
    }

    /// The first log ever received from a node.
    pub(super) fn first_of(&self, node: NodeId) -> Option<LogId> {
        if node == self.sender.node {
            return Some(self.sender.log);
        }
        self.logs.get(&node).map(|logs| logs.first)
    }

    /// The recipient on a node: the log that the group's configuration names, or the sender's log of the
    /// message `heard` just now.
    pub(super) fn addressee(&self, core: &Group, node: NodeId, heard: Option<MessageSender>) -> Addressee {
        let address = core.recipient_of(node);
        let log = match (address, heard) {
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
        Addressee { node, log, is_named, names_itself, to_witness, lacks_configuration, is_leaving }
    }

    /// Queues a message without a body for a peer, to be sent at the end of the turn.
    pub(super) fn control(&mut self, to: Addressee, group: GroupId, message: Message) {
        let control = &mut self.peers.entry((to.node, to.log)).or_default().control;
        control.push(&record(to, group, message, 0));
        if control.count >= self.control_records {
            self.full.push((to.node, control.take(self.sender, to.log, 0).freeze()));
        }
    }

    /// Announces this node's log to a peer. A `log` of 0 requests the peer's log, too.
    pub(super) fn greet(&mut self, to: NodeId, log: LogId) {
        self.peers.entry((to, log)).or_default().greets = true;
    }

    /// Adds an append with its frames. Returns whether the unit is full and should be sent.
    fn append(&mut self, to: Addressee, record: &Record, bodies: impl Iterator<Item = Body>) -> bool {
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
    pub(super) fn bytes(&self) -> usize {
        let full: usize = self.full.iter().map(|(_, unit)| unit.len()).sum();
        let of = |outbox: &Outbox| outbox.control.bytes.len() + outbox.appends.bytes.len();
        full + self.peers.values().map(|outbox| of(outbox) + outbox.bodies_bytes as usize).sum::<usize>()
    }

    /// Drops everything unsent.
    pub(super) fn clear(&mut self) {
        self.peers.clear();
        self.full.clear();
    }

    pub(super) fn send(&mut self, transport: &dyn Transport, to: NodeId, channel: Channel, parts: Parts) {
        self.sent += 1;
        if transport.send(PeerId(to.0), channel, parts).is_err() {
            self.dropped += 1;
        }
    }

    /// Sends a peer's appends.
    fn flush_appends<D: Disk>(
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
    fn flush<D: Disk>(&mut self, lane: &Lane<D>, transport: &dyn Transport) -> Result<(), LogError> {
        let mut said = !self.full.is_empty();
        for (to, unit) in std::mem::take(&mut self.full) {
            self.send(transport, to, Channel::Control, smallvec::smallvec![unit]);
        }
        let peers: SmallVec<[(NodeId, LogId); 8]> = self.peers.keys().copied().collect();
        for (to, log) in peers {
            let outbox = self.peers.get_mut(&(to, log)).expect("is one of the keys");
            let greets = std::mem::take(&mut outbox.greets);
            said |= greets || outbox.control.count + outbox.appends.count > 0;
            if greets || outbox.control.count > 0 {
                let unit = outbox.control.take(self.sender, log, 0).freeze();
                self.send(transport, to, Channel::Control, smallvec::smallvec![unit]);
            }
            self.flush_appends((to, log), lane, transport)?;
            if self.logs.get(&to).is_some_and(|logs| log != logs.latest && log != logs.first) {
                self.peers.remove(&(to, log)); // that log exists no longer
            }
        }
        if said {
            transport.flush();
        }
        Ok(())
    }
}

impl<D: Disk> Worker<D> {
    /// Sends every touched group's appends to its followers, as the core plans them.
    pub(super) fn ship_groups(&mut self) {
        let is_stalled = self.is_stalled();
        if is_stalled {
            self.outboxes.clear();
        }
        let mut list = std::mem::take(&mut self.dirty);
        for slot in list.drain(..) {
            let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { continue };
            replica.is_dirty = false;
            // A leader whose term is not durable yet sends nothing: its first entry is in the same batch, and
            // the completion of that batch brings the group back here.
            if !is_stalled
                && replica.core.is_leader()
                && replica.may_speak(self.durable)
                && let Err(error) = self.ship_group(slot)
            {
                let LogError::Damaged { place, .. } = error else { return self.poison(&error) };
                self.found_damage(place);
            }
        }
        self.dirty = list;
        if let Err(error) = self.outboxes.flush(&self.lane, &*self.transport) {
            self.poison(&error);
        }
        for place in std::mem::take(&mut self.outboxes.unread) {
            self.found_damage(place);
        }
    }

    fn ship_group(&mut self, slot: GroupSlot) -> Result<(), LogError> {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return Ok(()) };
        let group = replica.id;
        let peers: SmallVec<[NodeId; 8]> = replica.core.peers().collect();
        for to in peers {
            let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return Ok(()) };
            let addressee = self.outboxes.addressee(&replica.core, to, None);
            loop {
                let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return Ok(()) };
                let Some(append_plan) = replica.core.next_append(to) else { break };
                let message = Message::Append {
                    term: append_plan.term,
                    prev: append_plan.prev,
                    commit: append_plan.commit,
                    progress_epoch: append_plan.progress_epoch,
                };
                if append_plan.first > append_plan.last {
                    replica.core.note_sent(to, append_plan.prev.index, 0);
                    let record = record(addressee, group, message, 0);
                    self.outboxes.append(addressee, &record, std::iter::empty());
                    continue;
                }
                if replica.is_damaged_in(append_plan.first, append_plan.last) && !append_plan.is_withheld {
                    break; // a snapshot is sent instead
                }
                let frames = if append_plan.is_withheld {
                    None
                } else {
                    Some(self.lane.read(slot, append_plan.first, append_plan.last, append_plan.bytes_max)?)
                };
                if frames.as_ref().is_some_and(|frames| self.must_wait_for(slot, frames)) {
                    break;
                }
                let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return Ok(()) };
                let (bodies, last) = if append_plan.is_withheld {
                    let frames = withheld_frames(group, &replica.core, &append_plan);
                    let (frames, last) = frames.expect("a leader knows the terms of what it ships");
                    (smallvec::smallvec![Body::Made(frames)], last)
                } else {
                    let frames = frames.unwrap_or_default();
                    let last = frames.last().expect("a read gives at least one frame").last;
                    (bodies(group, &frames, &self.lane)?, last)
                };
                let bytes: u64 = bodies.iter().map(Body::bytes).sum();
                replica.core.note_sent(to, last, bytes);
                let record = record(addressee, group, message, bytes as u32);
                if self.outboxes.append(addressee, &record, bodies.into_iter()) {
                    self.outboxes.flush_appends((to, addressee.log), &self.lane, &*self.transport)?;
                }
            }
        }
        Ok(())
    }
}

/// A message to a recipient, as a record.
fn record(to: Addressee, group: GroupId, message: Message, body_bytes: u32) -> Record {
    let Addressee { is_named, names_itself, to_witness, lacks_configuration, is_leaving, .. } = to;
    Record { group, message, body_bytes, is_named, names_itself, to_witness, lacks_configuration, is_leaving }
}

impl Body {
    fn bytes(&self) -> u64 {
        match self {
            Self::Place(place) => u64::from(place.bytes),
            Self::Made(frame) => frame.len() as u64,
        }
    }
}

/// The frames as they are to be sent: from where they lie, except one whose tail was replaced. Leaders of
/// this version never cause that: a frame is sent whole and acknowledged whole, so logs diverge only between
/// frames.
fn bodies<D: Disk>(
    group: GroupId,
    frames: &[FrameRef],
    lane: &Lane<D>,
) -> Result<SmallVec<[Body; 4]>, LogError> {
    let mut bodies = SmallVec::with_capacity(frames.len());
    for frame in frames {
        bodies.push(if frame.frame_last == frame.last {
            Body::Place(frame.place)
        } else {
            Body::Made(cut(group, frame, &lane.bytes(frame.place)?).ok_or(LogError::Frame)?)
        });
    }
    Ok(bodies)
}

/// The part of a frame that still counts, as a frame of its own.
fn cut(group: GroupId, frame: &FrameRef, bytes: &[u8]) -> Option<Bytes> {
    let (header, body) = parse(bytes).ok()?;
    let mut out = vec![0; HEADER_BYTES + body.len()];
    let mut writer = FrameWriter::new(&mut out, group, EntryId::new(frame.term, frame.first))?;
    for entry in Entries::new(&header, body).take_while(|entry| entry.id.index <= frame.last) {
        if !writer.push(entry.kind, entry.payload) {
            return None;
        }
    }
    let bytes = writer.finish()?.frame_bytes();
    out.truncate(bytes);
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::frame::EntryKind;
    use raftwerk_frame::{Index, Term};

    use super::*;

    #[test]
    fn a_frame_whose_tail_was_replaced_is_cut_to_what_counts() {
        let mut out = vec![0; 256];
        let first = EntryId::new(Term(2), Index(5));
        let mut writer = FrameWriter::new(&mut out, GroupId(1), first).unwrap();
        for payload in [b"five", b"six ", b"seve"] {
            assert!(writer.push(EntryKind::Payload, payload));
        }
        let header = writer.finish().unwrap();
        let place = Place { segment: 0, offset: 0, bytes: header.frame_bytes() as u32 };
        let frame = FrameRef { first: Index(5), last: Index(6), frame_last: Index(7), term: Term(2), place };
        let cut = cut(GroupId(1), &frame, &out).unwrap();
        let (header, body) = parse(&cut).unwrap();
        let payloads: Vec<&[u8]> = Entries::new(&header, body).map(|entry| entry.payload).collect();
        assert_eq!((header.index, payloads), (Index(5), vec![&b"five"[..], b"six "]));
    }
}
