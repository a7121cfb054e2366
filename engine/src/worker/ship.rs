//! Step 4b: what goes to each peer in a turn, as one message per peer and stream.
//!
//! Records of all groups are gathered in one small buffer per peer. Frames stay where they are, in the batch or in a
//! segment's map: places that lie side by side become one slice, and so the new frames of a whole turn usually are one.

use bytes::{Bytes, BytesMut};
use raftwerk_frame::frame::{Entries, FrameWriter, HEADER_BYTES, parse};
use raftwerk_frame::wire::{RECORD_BYTES, Record, UNIT_HEADER_BYTES, UnitHeader, UnitKind};
use raftwerk_frame::{EntryId, GroupId, LogId, Message, NodeId};
use raftwerk_net::{Channel, Parts, PeerId, Transport};
use raftwerk_wal::{Disk, FrameRef, GroupSlot, Lane, LogError, Place};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::Worker;

/// A control unit leaves early only when it holds this many records, 768 KiB: the transport carries at most 1 MiB.
const CONTROL_RECORDS: u32 = 16 << 10;
/// An append unit leaves when its frames reach this many bytes.
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
    fn take(&mut self, sender: Sender, bodies_bytes: u64) -> BytesMut {
        let header = UnitHeader {
            kind: UnitKind::Groups,
            worker: sender.worker,
            workers: sender.workers,
            records: std::mem::take(&mut self.count),
            from: sender.node,
            bodies_bytes,
            log: sender.log,
        };
        self.bytes[..UNIT_HEADER_BYTES].copy_from_slice(&header.encode());
        self.bytes.split()
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) node: NodeId,
    pub(super) worker: u16,
    pub(super) workers: u16,
    pub(super) log: LogId,
}

/// Frames that follow an append.
enum Body {
    /// In the log, as they are.
    Place(Place),
    /// Made anew, because part of what is in the log no longer counts.
    Cut(Bytes),
}

#[derive(Default)]
struct Outbox {
    control: Records,
    appends: Records,
    bodies: SmallVec<[Body; 4]>,
    bodies_bytes: u64,
}

/// The outboxes of all peers.
pub(super) struct Outboxes {
    sender: Sender,
    peers: FxHashMap<NodeId, Outbox>,
    /// Units that were handed to the transport …
    pub(super) sent: u64,
    /// … and those that it refused: lost, as far as the protocol is concerned.
    pub(super) dropped: u64,
    full: Vec<(NodeId, Bytes)>,
}

impl Outboxes {
    pub(super) fn new(sender: Sender) -> Self {
        Self { sender, peers: FxHashMap::default(), sent: 0, dropped: 0, full: Vec::new() }
    }

    pub(super) const fn sender(&self) -> Sender {
        self.sender
    }

    /// Whose words these are.
    pub(super) const fn log(&self) -> LogId {
        self.sender.log
    }

    /// Says something small to a peer at the end of the turn.
    pub(super) fn control(&mut self, to: NodeId, group: GroupId, message: Message) {
        let control = &mut self.peers.entry(to).or_default().control;
        control.push(&Record { group, message, body_bytes: 0 });
        if control.count == CONTROL_RECORDS {
            self.full.push((to, control.take(self.sender, 0).freeze()));
        }
    }

    /// Adds an append with its frames. Whether the unit is full and should leave.
    fn append(&mut self, to: NodeId, record: &Record, bodies: impl Iterator<Item = Body>) -> bool {
        let outbox = self.peers.entry(to).or_default();
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

    /// Forgets everything unsaid.
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
        to: NodeId,
        lane: &Lane<D>,
        transport: &dyn Transport,
    ) -> Result<(), LogError> {
        let channel = Channel::append_for(u64::from(self.sender.worker));
        let Some(outbox) = self.peers.get_mut(&to).filter(|outbox| outbox.appends.count > 0) else {
            return Ok(());
        };
        let mut head = outbox.appends.take(self.sender, std::mem::take(&mut outbox.bodies_bytes));
        let mut parts = Parts::new();
        for body in outbox.bodies.drain(..) {
            let frames = match body {
                Body::Place(place) => lane.bytes(place)?,
                Body::Cut(frame) => frame,
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

    /// Sends everything that is left; the end of the turn.
    fn flush<D: Disk>(&mut self, lane: &Lane<D>, transport: &dyn Transport) -> Result<(), LogError> {
        let mut said = !self.full.is_empty();
        for (to, unit) in std::mem::take(&mut self.full) {
            self.send(transport, to, Channel::Control, smallvec::smallvec![unit]);
        }
        let peers: SmallVec<[NodeId; 8]> = self.peers.keys().copied().collect();
        for to in peers {
            let outbox = self.peers.get_mut(&to).expect("is one of the keys");
            said |= outbox.control.count + outbox.appends.count > 0;
            if outbox.control.count > 0 {
                let unit = outbox.control.take(self.sender, 0).freeze();
                self.send(transport, to, Channel::Control, smallvec::smallvec![unit]);
            }
            self.flush_appends(to, lane, transport)?;
        }
        if said {
            transport.flush();
        }
        Ok(())
    }
}

impl<D: Disk> Worker<D> {
    /// Pulls from every touched group what its followers should get, and sends it.
    pub(super) fn ship_groups(&mut self) {
        let is_stalled = self.is_stalled();
        if is_stalled {
            self.outboxes.clear();
        }
        let mut list = std::mem::take(&mut self.dirty);
        for slot in list.drain(..) {
            let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { continue };
            replica.is_dirty = false;
            // A leader whose term is not durable yet ships when it is: its first entry is in the same batch, and its
            // notice brings the group back here.
            if !is_stalled
                && replica.core.is_leader()
                && replica.may_speak(self.durable)
                && let Err(error) = self.ship_group(slot)
            {
                return self.poison(&error);
            }
        }
        self.dirty = list;
        if let Err(error) = self.outboxes.flush(&self.lane, &*self.transport) {
            self.poison(&error);
        }
    }

    fn ship_group(&mut self, slot: GroupSlot) -> Result<(), LogError> {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return Ok(()) };
        let group = replica.id;
        let peers: SmallVec<[NodeId; 8]> = replica.core.peers().collect();
        for to in peers {
            while let Some(shipment) = replica.core.next_shipment(to) {
                let message =
                    Message::Append { term: shipment.term, prev: shipment.prev, commit: shipment.commit };
                if shipment.first > shipment.last {
                    replica.core.shipped(to, shipment.prev.index, 0);
                    self.outboxes.append(to, &Record { group, message, body_bytes: 0 }, std::iter::empty());
                    continue;
                }
                let frames = self.lane.read(slot, shipment.first, shipment.last, shipment.bytes_max)?;
                let last = frames.last().expect("a read gives at least one frame").last;
                let bodies = bodies(group, &frames, &self.lane)?;
                let bytes: u64 = bodies.iter().map(Body::bytes).sum();
                replica.core.shipped(to, last, bytes);
                let record = Record { group, message, body_bytes: bytes as u32 };
                if self.outboxes.append(to, &record, bodies.into_iter()) {
                    self.outboxes.flush_appends(to, &self.lane, &*self.transport)?;
                }
            }
        }
        Ok(())
    }
}

impl Body {
    fn bytes(&self) -> u64 {
        match self {
            Self::Place(place) => u64::from(place.bytes),
            Self::Cut(frame) => frame.len() as u64,
        }
    }
}

/// The frames as they are to be sent: where they lie, but for one whose tail was replaced since. No leader of this version
/// makes such: a frame travels whole and is acknowledged whole, so logs part between frames.
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
            Body::Cut(cut(group, frame, &lane.bytes(frame.place)?).ok_or(LogError::Frame)?)
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
