//! Group commit: a turn's batch is submitted once, and what depends on its durability waits for that.
//!
//! What is not here: which batch is synced when ([`super::relaxed`]).

use raftwerk_frame::{EntryId, GroupId, Message, Time};
use raftwerk_raft::Input;
use raftwerk_wal::{Disk, GroupSlot, Lsn};
use tokio::sync::oneshot;

use crate::api::error::{AcceptLossError, CreateError};
use crate::node::events::Condition;
use crate::node::request::Removed;
use crate::worker::Worker;
use crate::worker::replication::outbox::RecordRecipient;

/// What is released only once a batch is durable.
#[derive(Default)]
pub(in crate::worker) struct OnDurable {
    pub(in crate::worker) lsn: Lsn,
    /// Groups with entries in the batch, and the last entry of each.
    pub(in crate::worker) durable: Vec<(GroupSlot, GroupId, EntryId)>,
    /// Messages held until the batch is durable: votes, vote requests, acknowledgements.
    pub(in crate::worker) messages: Vec<(RecordRecipient, GroupId, Message)>,
    /// `AppendWritten` messages: released once the batch is written, before it is synced.
    pub(in crate::worker) written: Vec<(RecordRecipient, GroupId, Message)>,
    /// The batch is written without a sync; the sync of a later batch covers it.
    pub(in crate::worker) is_relaxed: bool,
    /// Clients that create a group, answered once the batch is durable.
    pub(in crate::worker) created: Vec<oneshot::Sender<Result<(), CreateError>>>,
    /// Operators that accept a loss, answered once the batch is durable.
    pub(in crate::worker) accepted: Vec<oneshot::Sender<Result<(), AcceptLossError>>>,
    /// Groups removed in the batch: once it is durable, their files are deleted and the caller is answered.
    pub(in crate::worker) removed: Vec<(GroupId, Removed)>,
    /// When the batch was submitted to the disk.
    pub(in crate::worker) since: Time,
}

impl<D: Disk> Worker<D> {
    /// Reports a segment shortage once when it begins, and once when it is over.
    pub(in crate::worker) fn on_segment_shortage(&mut self, shortage: Option<raftwerk_wal::Shortage>) {
        let before = std::mem::replace(&mut self.segment_shortage, shortage);
        let lane = self.settings.worker;
        if let Some(why) = before.filter(|_| before != shortage) {
            self.resolve(&Condition::NoSegment { lane, why });
        }
        if let Some(why) = shortage.filter(|_| before != shortage) {
            self.report(Condition::NoSegment { lane, why });
        }
    }

    /// Step 1: batches that became durable.
    pub(in crate::worker) fn on_completions(&mut self) {
        if self.is_poisoned {
            return;
        }
        match self.lane.poll() {
            Ok(progress) => {
                self.durable = progress.durable;
                self.is_full = progress.storage_full;
                self.on_segment_shortage(progress.shortage);
                self.on_written(progress.written);
            }
            Err(poisoned) => return self.poison(&poisoned),
        }
        self.disk_health.probes(self.now, self.lane.is_probing());
        self.disk_health.awaits_segment(self.now, !self.is_full && self.lane.reserved_space() == 0);
        while self.in_flight.front().is_some_and(|batch| batch.lsn <= self.durable) {
            let mut batch = self.in_flight.pop_front().expect("was just seen");
            self.written_in_flight = self.written_in_flight.saturating_sub(1);
            for (slot, group, id) in batch.durable.drain(..) {
                if self.groups.holds(slot, group) {
                    self.step(slot, Input::Durable { id });
                }
            }
            self.release(&mut batch);
            self.note_sync(batch.since);
            self.disk_health.finished(self.now);
            self.spare_on_durable.push(batch);
        }
    }

    /// Releases what was held for a batch that is durable.
    pub(in crate::worker) fn release(&mut self, batch: &mut OnDurable) {
        for (to, group, message) in batch.messages.drain(..) {
            self.outboxes.control(to, group, message);
        }
        for reply in batch.created.drain(..) {
            let _caller_gone = reply.send(Ok(()));
        }
        for reply in batch.accepted.drain(..) {
            let _caller_gone = reply.send(Ok(()));
        }
        for (group, reply) in batch.removed.drain(..) {
            self.drop_files(group, reply);
        }
    }

    /// Step 4a: submits the batch; what depends on its durability is held.
    pub(in crate::worker) fn submit_batch(&mut self) {
        self.on_durable.durable.extend(self.groups.drain_appended());
        let submitted = self.hand_batch_over();
        self.groups.on_hard_states_submitted(submitted.as_ref().ok().copied().flatten());
        match submitted {
            Ok(Some(lsn)) => {
                (self.on_durable.lsn, self.on_durable.since) = (lsn, self.now);
                let next = self.spare_on_durable.pop().unwrap_or_default();
                self.in_flight.push_back(std::mem::replace(&mut self.on_durable, next));
            }
            // Nothing was written in this turn. Held messages may still depend on entries in batches on their
            // way.
            Ok(None) => match self.in_flight.back_mut() {
                Some(last) => {
                    last.messages.append(&mut self.on_durable.messages);
                    last.created.append(&mut self.on_durable.created);
                    last.accepted.append(&mut self.on_durable.accepted);
                    last.removed.append(&mut self.on_durable.removed);
                }
                None => {
                    let mut on_durable = std::mem::take(&mut self.on_durable);
                    self.release(&mut on_durable);
                    self.on_durable = on_durable;
                }
            },
            Err(error) => self.poison(&error),
        }
    }

    /// Whether the disk owes an answer, or a segment, for so long that this node must not lead. Until the
    /// disk answers, the worker sends nothing but node heartbeats, which ask for no support: followers elect
    /// other leaders, and this node's leaders, which receive no acknowledgements, step down.
    pub(in crate::worker) fn is_stalled(&self) -> bool {
        self.disk_health.is_hung(self.now, self.oldest_batch())
    }

    /// When the oldest batch on its way was submitted to the disk.
    pub(in crate::worker) fn oldest_batch(&self) -> Option<Time> {
        self.in_flight.front().map(|batch| batch.since)
    }
}
