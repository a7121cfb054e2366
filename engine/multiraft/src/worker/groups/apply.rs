//! Step 5: committed entries are applied to their state machines, and their clients are answered.

use bytes::Bytes;
use raftwerk_frame::Index;
use raftwerk_frame::frame::{Entries, FrameHeader, FrameKind, HEADER_BYTES};
use raftwerk_raft::Input;
use raftwerk_wal::{Disk, FrameRef, GroupSlot, LogError};

use crate::api::error::ProposeError;
use crate::api::state_machine::{Caller, Committed, Replies};
use crate::api::status::Applied;
use crate::worker::Worker;
use crate::worker::calls::clients::Clients;
use crate::worker::calls::waiters::Pending;
use crate::worker::groups::machines::guarded;
use crate::worker::groups::replica::Replica;

impl<D: Disk> Worker<D> {
    /// Applies what is committed and answers the clients that wait for it. Returns whether nothing is left to
    /// apply.
    pub(in crate::worker) fn apply_groups(&mut self) -> bool {
        let mut list = self.groups.take_to_apply();
        for slot in list.drain(..) {
            let Some(replica) = self.groups.begin_apply(slot) else { continue };
            let before = replica.applied;
            let is_stuck = match self.apply_group(slot) {
                Ok(()) => false,
                Err(LogError::Damaged { place, .. }) => {
                    self.is_stuck_at(slot, place);
                    true
                }
                Err(error) => {
                    self.poison(&error);
                    break;
                }
            };
            let Some(replica) = self.groups.get_mut(slot) else { continue };
            self.env.metrics.applied(replica.applied.0 - before.0);
            if replica.may_apply_to() > replica.applied && !is_stuck {
                self.groups.note_to_apply(slot);
            }
            self.maybe_checkpoint(slot);
        }
        self.groups.recycle_to_apply(list)
    }

    fn apply_group(&mut self, slot: GroupSlot) -> Result<(), LogError> {
        let Some(replica) = self.groups.get_mut(slot) else { return Ok(()) };
        if replica.machine.is_none() {
            self.pass_over(slot);
            return Ok(());
        }
        let to = replica.may_apply_to();
        if to > replica.applied {
            let frames =
                self.lane.read(slot, replica.applied.next(), to, self.settings.limits.apply_bytes)?;
            let (mut read, mut panicked) = (Ok(()), None);
            for frame in &frames {
                match self.lane.bytes(frame.place) {
                    Ok(bytes) => {
                        let (replies, clients) = self.calls.for_apply();
                        let applied = apply_frame(replica, replies, clients, frame, &bytes, to);
                        panicked = applied.err();
                    }
                    Err(error) => read = Err(error),
                }
                if panicked.is_some() || read.is_err() {
                    break;
                }
            }
            // This input has no effects, so there is nothing to perform, and no reason for another turn.
            self.effects.clear();
            replica.core.step(self.now, Input::Applied { index: replica.applied }, &mut self.effects);
            match panicked {
                Some(what) => self.quarantine(slot, what),
                None => self.maybe_end_quarantine(slot),
            }
            self.answer_reads(slot);
            return read;
        }
        self.answer_reads(slot);
        Ok(())
    }
}

/// Applies a frame's entries up to `to`. Errors: the message of the machine's panic.
fn apply_frame(
    replica: &mut Replica,
    replies: &mut Replies,
    clients: &mut Clients,
    frame: &FrameRef,
    bytes: &[u8],
    to: Index,
) -> Result<(), String> {
    let header = FrameHeader {
        kind: FrameKind::Entries,
        group: replica.id,
        term: frame.term,
        index: frame.first,
        count: (frame.frame_last.0 + 1 - frame.first.0) as u32,
        body_bytes: (bytes.len() - HEADER_BYTES) as u32,
        body_crc: 0,
        is_relaxed: false,
    };
    let (from, last) = (replica.applied.next(), frame.last.min(to));
    let entries = Entries::new(&header, &bytes[HEADER_BYTES..]);
    replies.reset(if replica.proposals.pending() > 0 { Caller::Waits } else { Caller::Absent });
    if let Some(machine) = &mut replica.machine {
        guarded(|| machine.apply(Committed::new(entries, from, last), replies))?;
    }
    replica.applied = last;
    replica.checkpointing.on_applied(bytes.len() as u64);
    let mut given = replies.drain().peekable();
    while let Some(Pending { id, waiter }) = replica.proposals.next_up_to(last) {
        // Another leader's entry has this index; or a snapshot covers it, and its reply is lost.
        let is_replaced = id.term != frame.term;
        let is_passed = id.index < from;
        if is_replaced || is_passed {
            clients.answer(waiter, Err(ProposeError::Unknown));
            continue;
        }
        while given.next_if(|(index, _)| *index < id.index).is_some() {}
        let reply = given.next_if(|(index, _)| *index == id.index).map_or(Bytes::new(), |(_, reply)| reply);
        clients.answer(waiter, Ok(Applied { id, reply }));
    }
    Ok(())
}
