//! Relaxed proposals on a worker: what is written and not durable, its acknowledgement, and the deadline of
//! its sync.
//!
//! A batch that contains nothing but relaxed entries is written without a sync. When it is written, a
//! follower sends `AppendWritten`, and a leader counts its own log; when a quorum has written an entry, its
//! client gets a receipt. Everything else waits for the sync as usual: acknowledgements, the commit, the
//! state machine. Hard states never wait: a batch with a term, a vote or any other fact in it is synced at
//! once, and that syncs all that was written before.
//!
//! Not here: the public side (`crate::api::relaxed`), which batch needs a sync (`raftwerk_wal::Lane`).

use bytes::Bytes;
use raftwerk_frame::Time;
use raftwerk_wal::{Disk, LogError, Lsn};

use crate::api::status::Applied;
use crate::worker::Worker;
use crate::worker::calls::clients::Clients;
use crate::worker::calls::waiters::Pending;
use crate::worker::groups::replica::Replica;

impl Clients {
    /// Answers the relaxed proposals that a quorum has written with receipts.
    pub(in crate::worker) fn give_receipts(&mut self, replica: &mut Replica) {
        let Some(relaxed) = replica.proposals.relaxed() else { return };
        let to = replica.core.written_by_quorum(relaxed.written);
        while let Some(Pending { id, waiter }) =
            relaxed.pending.pop_front_if(|pending| pending.id.index <= to)
        {
            // A leader never replaces its own entries, and what waits here is abandoned when it leads no
            // longer.
            debug_assert!(
                replica.core.is_leader() && id.term == replica.core.term(),
                "{id} is not this leader's"
            );
            self.answer(waiter, Ok(Applied { id, reply: Bytes::new() }));
        }
        if relaxed.pending.is_empty() && replica.core.commit() >= relaxed.written.index {
            replica.proposals.take_relaxed();
        }
    }
}

impl<D: Disk> Worker<D> {
    /// Step 1: batches that are written, before those that are durable.
    pub(in crate::worker) fn on_written(&mut self, written: Lsn) {
        while let Some(batch) =
            self.log.in_flight.get_mut(self.log.written).filter(|batch| batch.lsn <= written)
        {
            self.log.written += 1;
            if !batch.is_relaxed {
                continue; // durable, too: its completion follows in this turn
            }
            for (to, group, message) in batch.written.drain(..) {
                self.outboxes.control(to, group, message);
            }
            for (slot, group, id) in &batch.durable {
                let replica = self.groups.get_mut(*slot).filter(|replica| replica.id == *group);
                if let Some(replica) = replica
                    && let Some(relaxed) = replica.proposals.relaxed()
                {
                    relaxed.written = *id;
                    self.calls.clients().give_receipts(replica);
                }
            }
        }
    }

    /// Step 4a: submits the turn's batch, with a sync if something in it requires one or an earlier unsynced
    /// write is due.
    pub(in crate::worker) fn hand_batch_over(&mut self) -> Result<Option<Lsn>, LogError> {
        let is_due = self.relaxed_due() <= self.now;
        let interval = self.settings.relaxed_sync_interval;
        let submitted =
            if is_due || interval.is_zero() { self.lane.submit()? } else { self.lane.submit_relaxed()? };
        self.log.filling.is_relaxed = submitted.is_some() && self.lane.has_unsynced();
        if !self.log.filling.is_relaxed {
            self.log.filling.written.clear(); // the acknowledgement, sent at the same time, covers it
        }
        if is_due {
            self.lane.sync()?;
        }
        let since = self.log.relaxed_since.unwrap_or(self.now);
        self.log.relaxed_since = self.lane.has_unsynced().then_some(since);
        Ok(submitted)
    }

    /// When what was written without a sync must be synced; never, if there is nothing.
    pub(in crate::worker) fn relaxed_due(&self) -> Time {
        self.log.relaxed_since.map_or(Time::NEVER, |since| since + self.settings.relaxed_sync_interval)
    }
}
