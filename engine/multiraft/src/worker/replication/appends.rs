//! Step 4b: sends every touched group's appends to its followers, as the core plans them.
//!
//! What is not here: the units that they travel in ([`super::outbox`]).

use bytes::Bytes;
use raftwerk_frame::frame::{Entries, FrameWriter, HEADER_BYTES, parse};
use raftwerk_frame::{EntryId, GroupId, Message, NodeId};
use raftwerk_wal::{Disk, FrameRef, GroupSlot, Lane, LogError};
use smallvec::SmallVec;

use crate::worker::Worker;
use crate::worker::replication::frames::withheld_frames;
use crate::worker::replication::outbox::{Body, record};

impl<D: Disk> Worker<D> {
    /// Sends every touched group's appends to its followers, as the core plans them.
    pub(in crate::worker) fn send_appends(&mut self) {
        let is_stalled = self.is_stalled();
        if is_stalled {
            self.outboxes.clear();
        }
        let mut list = self.groups.take_dirty();
        for slot in list.drain(..) {
            let Some(replica) = self.groups.undirty(slot) else { continue };
            // A leader whose term is not durable yet sends nothing: its first entry is in the same batch, and
            // the completion of that batch brings the group back here.
            if !is_stalled
                && replica.core.is_leader()
                && replica.may_send(self.log.durable())
                && let Err(error) = self.send_group_appends(slot)
            {
                let LogError::Damaged { place, .. } = error else { return self.poison(&error) };
                self.found_damage(place);
            }
        }
        self.groups.recycle_dirty(list);
        if let Err(error) = self.outboxes.flush(&self.lane, &*self.env.transport) {
            self.poison(&error);
        }
        for place in std::mem::take(&mut self.outboxes.unread) {
            self.found_damage(place);
        }
    }

    fn send_group_appends(&mut self, slot: GroupSlot) -> Result<(), LogError> {
        let Some(replica) = self.groups.get(slot) else { return Ok(()) };
        let group = replica.id;
        let peers: SmallVec<[NodeId; 8]> = replica.core.peers().collect();
        for to in peers {
            let Some(replica) = self.groups.get_mut(slot) else { return Ok(()) };
            let recipient = self.outboxes.recipient(&replica.core, to, None);
            loop {
                let Some(replica) = self.groups.get_mut(slot) else { return Ok(()) };
                let Some(append_plan) = replica.core.next_append(to) else { break };
                let message = Message::Append {
                    term: append_plan.term,
                    prev: append_plan.prev,
                    commit: append_plan.commit,
                    progress_epoch: append_plan.progress_epoch,
                };
                if append_plan.first > append_plan.last {
                    replica.core.note_sent(to, append_plan.prev.index, 0);
                    let record = record(recipient, group, message, 0);
                    self.outboxes.append(recipient, &record, std::iter::empty());
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
                let Some(replica) = self.groups.get_mut(slot) else { return Ok(()) };
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
                let record = record(recipient, group, message, bytes as u32);
                if self.outboxes.append(recipient, &record, bodies.into_iter()) {
                    self.outboxes.flush_appends((to, recipient.log), &self.lane, &*self.env.transport)?;
                }
            }
        }
        Ok(())
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
    use raftwerk_wal::Place;

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
