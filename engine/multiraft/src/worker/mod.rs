//! A worker: the owner of some of the node's groups and of one lane of the log.
//!
//! [`Worker::turn`] is one iteration of its loop. The worker has no thread, clock, file or socket of its own:
//! in production `node::threads` runs the loop, and a simulator may run the turns of many nodes on one
//! thread. A turn neither blocks nor takes a lock.
//!
//! A turn does its work in this order, which matters:
//! 1. completions of the disk: held messages are released, the cores receive what is durable;
//! 2. units of the network, requests of clients, timers that have expired: the cores step, entries are framed
//!    into the batch;
//! 3. each touched group is flushed once: all its proposals of the turn enter its core together;
//! 4. the batch is submitted to the disk, and in parallel its frames are sent to the peers, one message per
//!    peer;
//! 5. committed entries are applied and their clients answered, while disk and network work.

mod calls;
mod groups;
mod limits;
pub(crate) mod liveness;
mod log;
mod open;
mod replication;
mod settings;
mod storage;
#[cfg(test)]
mod tests;
mod view;

use raftwerk_frame::{GroupId, Time};
use raftwerk_raft::{Effects, Input};
use raftwerk_wal::{Disk, GroupSlot, Lane};

use self::calls::Calls;
use self::groups::table::{Groups, Timer};
pub use self::limits::TurnLimits;
use self::liveness::NodeLiveness;
use self::log::LaneUpkeep;
use self::log::group_commit::GroupCommit;
pub(crate) use self::open::WorkerContext;
use self::replication::outbox::Outboxes;
use self::replication::receive::Intake;
use self::storage::snapshots::Transfers;
pub use self::view::{Load, ReplicaView};
use crate::api::error::ProposeError;
use crate::node::events::Condition;
pub(crate) use crate::worker::groups::machines::{give_up, guarded};
pub use crate::worker::settings::Settings;

/// What a turn returns to the driver of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnEnd {
    /// There is more work: the next turn should follow at once.
    pub is_busy: bool,
    /// Otherwise the next turn is due at this time, or as soon as something arrives.
    pub next_deadline: Time,
    /// The worker has answered all its clients and has stopped for good.
    pub is_closed: bool,
}

/// The owner of some groups, see the module's documentation.
pub(crate) struct Worker<D: Disk> {
    settings: Settings,
    env: WorkerContext,
    now: Time,
    lane: Lane<D>,
    /// Scratch: what the step of a core under way wants done.
    effects: Effects,
    groups: Groups,
    log: GroupCommit,
    upkeep: LaneUpkeep,
    outboxes: Outboxes,
    intake: Intake,
    liveness: NodeLiveness,
    calls: Calls,
    transfers: Transfers,
    /// The log has failed for good.
    is_poisoned: bool,
    is_closing: bool,
}

impl<D: Disk> Worker<D> {
    /// One turn. `now` must not go back.
    pub(crate) fn turn(&mut self, now: Time) -> TurnEnd {
        self.now = now;
        self.lane.set_time(now);
        self.refresh_peers();
        self.on_completions();
        self.follow_sample();
        self.execute_orders();
        if self.is_closing {
            return TurnEnd { is_busy: false, next_deadline: Time::NEVER, is_closed: true };
        }
        if !self.is_poisoned {
            self.update_liveness();
            self.take_heartbeats();
            self.answer_read_index();
            self.receive_units();
            self.on_background_done();
            self.scrub();
            self.relieve_memory();
            self.tick_quarantined();
            self.fire_timers();
        }
        let had_room = self.accept_requests();
        if !self.is_poisoned {
            self.flush_groups();
            self.submit_batch();
            self.note_sample_handed();
            self.send_heartbeats();
            self.send_appends();
        }
        self.calls.clients().release_payloads();
        self.follow_sample();
        let applied_all = self.apply_groups();
        self.follow_sample();
        self.report_conditions();
        self.calls.clients().finish_turn();
        self.end_sample();
        let Outboxes { sent, dropped, .. } = self.outboxes;
        self.env.metrics.publish(&self.lane.stats(), self.lane.log_bytes(), sent, dropped);
        TurnEnd {
            is_busy: !self.is_poisoned && self.has_arrivals()
                || self.env.inbox.requests_len() > 0 && had_room
                || !applied_all
                || self.liveness.is_busy()
                || self.env.inbox.has_orders()
                || self.calls.pending_read_index() > 0
                || self.groups.are_any_dirty(),
            next_deadline: if self.is_poisoned {
                Time::NEVER
            } else {
                let own = self.liveness.next_deadline(now, self.oldest_batch());
                let own = own.min(self.transfers.next_deadline());
                let own = own.min(self.relaxed_due()).min(self.scrub_due()).min(self.lane.next_too_old());
                let own = own.min(self.shortage_due()).min(self.groups.attention_at());
                self.groups.next_deadline().min(self.calls.next_deadline()).min(own)
            },
            is_closed: false,
        }
    }

    /// Fires expired timers, a bounded number a turn: when thousands of groups expire together, their
    /// messages need room in the outboxes and incoming messages their share of the turns.
    fn fire_timers(&mut self) {
        if self.has_arrivals() {
            self.intake.fall_behind();
        } else {
            self.intake.catch_up();
        }
        let deadlines = if self.intake.may_fire_timers() { self.settings.limits.deadlines } else { 0 };
        for _ in 0..deadlines {
            match self.groups.take_timer(self.now) {
                None => break,
                Some(Timer::Due(slot)) => self.step(slot, Input::Timeout),
                Some(Timer::Stale) => {}
            }
        }
        self.fire_read_deadlines();
        self.tick_transfers();
    }

    /// Step 3: the turn's proposals and read-index requests enter the cores.
    fn flush_groups(&mut self) {
        let mut at = 0;
        while let Some(slot) = self.groups.dirty_at(at) {
            at += 1;
            self.propose_queued(slot);
            self.request_read_index(slot);
            let Some(replica) = self.groups.get_mut(slot) else { continue };
            self.effects.clear();
            replica.core.flush(self.now, &mut self.effects);
            self.perform(slot);
            self.groups.arm(slot);
        }
    }

    /// Steps a core with one input and performs its effects.
    fn step(&mut self, slot: GroupSlot, input: Input<'_>) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        self.effects.clear();
        replica.core.step(self.now, input, &mut self.effects);
        self.perform(slot);
    }

    /// Whether a group id belongs to this worker's lane, whether or not the group exists here.
    fn owns(&self, group: GroupId) -> bool {
        crate::node::placement::worker_of(group, usize::from(self.settings.workers))
            == usize::from(self.settings.worker)
    }

    /// The log has failed for good. From here on the worker answers its clients and sends nothing to peers:
    /// its groups lose their leaders here, and other nodes elect new ones.
    fn poison(&mut self, error: &dyn std::error::Error) {
        self.report(Condition::LogFailed { lane: self.settings.worker, error: error.to_string() });
        self.is_poisoned = true;
        self.env.metrics.poisoned();
        self.log.fail();
        self.outboxes.clear();
        self.groups.clear_dirty();
        self.liveness.clear();
        self.calls.drop_read_index();
        self.abandon_all(&ProposeError::Poisoned);
    }
}

impl<D: Disk> Worker<D> {
    /// The worker has panicked in a turn and runs no further one: its memory may be half updated. What it has
    /// acknowledged is in the log.
    pub(crate) fn dies(&mut self, what: &str) {
        self.report(Condition::LaneDied { lane: self.settings.worker, what: what.to_owned() });
        self.env.metrics.died();
    }
}

impl<D: Disk> Drop for Worker<D> {
    /// No client is left waiting, even if the worker ends by a panic.
    fn drop(&mut self) {
        if !self.is_closing {
            self.close();
        }
    }
}
