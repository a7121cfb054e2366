//! Group commit: a turn's batch is submitted once, and what depends on its durability waits for that.
//!
//! What is not here: which batch is synced when ([`super::relaxed`]).

use std::collections::VecDeque;

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
pub(super) struct OnDurable {
    pub(super) lsn: Lsn,
    /// Groups with entries in the batch, and the last entry of each.
    pub(super) durable: Vec<(GroupSlot, GroupId, EntryId)>,
    /// Messages held until the batch is durable: votes, vote requests, acknowledgements.
    pub(super) messages: Vec<(RecordRecipient, GroupId, Message)>,
    /// `AppendWritten` messages: released once the batch is written, before it is synced.
    pub(super) written: Vec<(RecordRecipient, GroupId, Message)>,
    /// The batch is written without a sync; the sync of a later batch covers it.
    pub(super) is_relaxed: bool,
    /// Clients that create a group, answered once the batch is durable.
    pub(super) created: Vec<oneshot::Sender<Result<(), CreateError>>>,
    /// Operators that accept a loss, answered once the batch is durable.
    pub(super) accepted: Vec<oneshot::Sender<Result<(), AcceptLossError>>>,
    /// Groups removed in the batch: once it is durable, their files are deleted and the caller is answered.
    pub(super) removed: Vec<(GroupId, Removed)>,
    /// When the batch was submitted to the disk.
    pub(super) since: Time,
}

/// The batches of a worker, and what is held for each.
#[derive(Default)]
pub(in crate::worker) struct GroupCommit {
    /// What is held for the batch being filled …
    pub(super) filling: OnDurable,
    /// … and for the batches on their way to the disk, oldest first.
    pub(super) in_flight: VecDeque<OnDurable>,
    /// Kept for reuse of their memory.
    spare: Vec<OnDurable>,
    /// How many elements of `in_flight`, from the oldest on, are known to be written (though perhaps not
    /// synced).
    pub(super) written: usize,
    /// When the oldest batch was submitted that is written and not being synced.
    pub(super) relaxed_since: Option<Time>,
    /// The last durable batch. Never lowered.
    durable: Lsn,
}

impl GroupCommit {
    /// The last durable batch.
    pub(in crate::worker) const fn durable(&self) -> Lsn {
        self.durable
    }

    pub(in crate::worker) fn batches_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(in crate::worker) fn held_messages(&self) -> usize {
        self.in_flight.iter().map(|batch| batch.messages.len()).sum()
    }

    /// Holds a message until the batch being filled is durable.
    pub(in crate::worker) fn hold(&mut self, to: RecordRecipient, group: GroupId, message: Message) {
        self.filling.messages.push((to, group, message));
    }

    /// Holds an `AppendWritten` message until the batch being filled is written.
    pub(in crate::worker) fn hold_until_written(
        &mut self,
        to: RecordRecipient,
        group: GroupId,
        message: Message,
    ) {
        self.filling.written.push((to, group, message));
    }

    /// A client creates a group.
    pub(in crate::worker) fn hold_created(&mut self, reply: oneshot::Sender<Result<(), CreateError>>) {
        self.filling.created.push(reply);
    }

    /// An operator accepts a loss.
    pub(in crate::worker) fn hold_accepted(&mut self, reply: oneshot::Sender<Result<(), AcceptLossError>>) {
        self.filling.accepted.push(reply);
    }

    /// A group is removed: its files follow.
    pub(in crate::worker) fn hold_removed(&mut self, group: GroupId, reply: Removed) {
        self.filling.removed.push((group, reply));
    }

    /// The log has failed: what was held is dropped, and the clients are answered.
    pub(in crate::worker) fn fail(&mut self) {
        for batch in self.in_flight.drain(..).chain([std::mem::take(&mut self.filling)]) {
            for reply in batch.created {
                let _caller_gone = reply.send(Err(CreateError::Poisoned));
            }
            for reply in batch.accepted {
                let _caller_gone = reply.send(Err(AcceptLossError::Poisoned));
            }
        }
    }
}

impl<D: Disk> Worker<D> {
    /// Reports a segment shortage once when it begins, and once when it is over.
    fn on_segment_shortage(&mut self, shortage: Option<raftwerk_wal::Shortage>) {
        let before = std::mem::replace(&mut self.upkeep.segment_shortage, shortage);
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
                self.log.durable = progress.durable;
                self.upkeep.is_full = progress.storage_full;
                self.on_segment_shortage(progress.shortage);
                self.on_written(progress.written);
            }
            Err(poisoned) => return self.poison(&poisoned),
        }
        let is_segment_awaited = self.awaits_segment();
        let disk_health = self.liveness.disk_health();
        if self.lane.is_probing() {
            disk_health.probe_in_flight(self.now);
        } else {
            disk_health.probe_done(self.now);
        }
        if is_segment_awaited {
            disk_health.segment_awaited(self.now);
        } else {
            disk_health.segment_made();
        }
        while self.log.in_flight.front().is_some_and(|batch| batch.lsn <= self.log.durable) {
            let mut batch = self.log.in_flight.pop_front().expect("was just seen");
            self.log.written = self.log.written.saturating_sub(1);
            for (slot, group, id) in batch.durable.drain(..) {
                if self.groups.holds(slot, group) {
                    self.step(slot, Input::Durable { id });
                }
            }
            self.release(&mut batch);
            self.note_sync(batch.since);
            self.liveness.disk_health().finished(self.now);
            self.log.spare.push(batch);
        }
    }

    /// Releases what was held for a batch that is durable.
    fn release(&mut self, batch: &mut OnDurable) {
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
        self.log.filling.durable.extend(self.groups.drain_appended());
        let submitted = self.hand_batch_over();
        self.groups.on_hard_states_submitted(submitted.as_ref().ok().copied().flatten());
        match submitted {
            Ok(Some(lsn)) => {
                (self.log.filling.lsn, self.log.filling.since) = (lsn, self.now);
                let next = self.log.spare.pop().unwrap_or_default();
                self.log.in_flight.push_back(std::mem::replace(&mut self.log.filling, next));
            }
            // Nothing was written in this turn. Held messages may still depend on entries in batches on their
            // way.
            Ok(None) => match self.log.in_flight.back_mut() {
                Some(last) => {
                    last.messages.append(&mut self.log.filling.messages);
                    last.created.append(&mut self.log.filling.created);
                    last.accepted.append(&mut self.log.filling.accepted);
                    last.removed.append(&mut self.log.filling.removed);
                }
                None => {
                    let mut on_durable = std::mem::take(&mut self.log.filling);
                    self.release(&mut on_durable);
                    self.log.filling = on_durable;
                }
            },
            Err(error) => self.poison(&error),
        }
    }

    /// Whether the disk owes an answer, or a segment, for so long that this node must not lead. Until the
    /// disk answers, the worker sends nothing but node heartbeats, which ask for no support: followers elect
    /// other leaders, and this node's leaders, which receive no acknowledgements, step down.
    pub(in crate::worker) fn is_stalled(&self) -> bool {
        self.liveness.is_hung(self.now, self.oldest_batch())
    }

    /// When the oldest batch on its way was submitted to the disk.
    pub(in crate::worker) fn oldest_batch(&self) -> Option<Time> {
        self.log.in_flight.front().map(|batch| batch.since)
    }
}
