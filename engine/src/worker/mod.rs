//! A worker: the owner of some of the node's groups and of one lane of the log.
//!
//! [`Worker::turn`] is one iteration of its loop. The worker has no thread, clock, file or socket of its own:
//! in production `runtime` runs the loop, and a simulator may run the turns of many nodes on one thread. A
//! turn neither blocks nor takes a lock.
//!
//! A turn does its work in this order, which matters:
//! 1. completions of the disk: held messages are released, the cores receive what is durable;
//! 2. units of the network, requests of clients, timers that have expired: the cores step, entries are framed
//!    into the batch;
//! 3. each touched group is flushed once: all its proposals of the turn enter its core together;
//! 4. the batch is submitted to the disk, and in parallel its frames are sent to the peers, one message per
//!    peer;
//! 5. committed entries are applied and their clients answered, while disk and network work.

mod abstention;
mod apply;
mod clients;
mod founding;
mod introductions;
mod limits;
mod loss;
mod membership;
mod memory;
mod nodes;
mod open;
mod orders;
mod perform;
mod piece;
mod quarantine;
mod reads;
mod receive;
mod receiving;
mod relaxed;
mod replica;
mod scrub;
mod sending;
mod ship;
mod snapshots;
mod states;
#[cfg(test)]
mod tests;
mod timers;
mod view;
mod witness;

use std::collections::VecDeque;
use std::sync::Arc;

use raftwerk_frame::{EntryId, GroupId, Message, NodeId, Time};
use raftwerk_net::Transport;
use raftwerk_raft::{Effects, Input};
use raftwerk_wal::{Disk, GroupSlot, Lane, Lsn};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use self::abstention::Abstention;
use self::clients::Clients;
use self::introductions::Introductions;
pub use self::limits::TurnLimits;
pub(crate) use self::loss::is_reserved;
use self::memory::Shortage;
pub use self::open::Settings;
pub(crate) use self::open::Surroundings;
use self::quarantine::Quarantined;
pub(crate) use self::quarantine::{give_up, guarded};
use self::replica::{Promise, Replica};
use self::scrub::Scrubbing;
use self::ship::{Addressee, Outboxes};
use self::snapshots::Transfers;
use self::timers::Timers;
pub use self::view::{Load, ReplicaView};
use crate::dispatch::Dispatch;
use crate::error::{CreateError, ProposeError};
use crate::events::Ill;
use crate::inbox::Inbox;
use crate::liveness::{Heard, Liveness, News};
use crate::loss::AcceptLossError;
use crate::metric::WorkerMetrics;
use crate::pulse::Pulse;
use crate::state_machine::{Replies, StateMachines};

/// What is released only once a batch is durable.
#[derive(Default)]
struct Held {
    lsn: Lsn,
    /// Groups with entries in the batch, and the last entry of each.
    durable: Vec<(GroupSlot, GroupId, EntryId)>,
    /// Messages held until the batch is durable: votes, vote requests, acknowledgements.
    messages: Vec<(Addressee, GroupId, Message)>,
    /// `AppendWritten` messages: released once the batch is written, before it is synced.
    written: Vec<(Addressee, GroupId, Message)>,
    /// The batch is written without a sync; the sync of a later batch covers it.
    is_relaxed: bool,
    /// Clients that create a group, answered once the batch is durable.
    created: Vec<oneshot::Sender<Result<(), CreateError>>>,
    /// Operators that accept a loss, answered once the batch is durable.
    accepted: Vec<oneshot::Sender<Result<(), AcceptLossError>>>,
    /// Groups removed in the batch: once it is durable, their files are deleted and the caller is answered.
    removed: Vec<(GroupId, oneshot::Sender<bool>)>,
    /// When the batch was submitted to the disk.
    since: Time,
}

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

/// When the inbox is backlogged, timers fire only in one turn out of so many: the message that would reset a
/// timer may still be queued, and a needless election would add load to an overloaded node.
const TURNS_BEHIND_MAX: u32 = 8;

/// The owner of some groups, see the module's documentation.
pub(crate) struct Worker<D: Disk> {
    settings: Settings,
    machines: Arc<dyn StateMachines>,
    lane: Lane<D>,
    transport: Arc<dyn Transport>,
    inbox: Arc<Inbox>,
    dispatch: Arc<Dispatch>,
    metrics: Arc<WorkerMetrics>,
    now: Time,
    replicas: Vec<Option<Box<Replica>>>,
    slots: FxHashMap<GroupId, GroupSlot>,
    timers: Timers,
    effects: Effects,
    /// Groups to flush, and to send appends for, at the end of the turn.
    dirty: Vec<GroupSlot>,
    /// Groups with entries in the batch being filled.
    appended: Vec<GroupSlot>,
    /// Groups whose hard state is in that batch and not durable yet.
    promised: Vec<GroupSlot>,
    to_apply: Vec<GroupSlot>,
    /// What is held for the batch being filled …
    filling: Held,
    /// … and for the batches on their way to the disk, oldest first.
    held: VecDeque<Held>,
    spare_held: Vec<Held>,
    /// How many entries of `held`, from the oldest on, are known to be written (though perhaps not synced).
    told_written: usize,
    /// When the oldest batch was submitted that is written and not being synced.
    relaxed_since: Option<Time>,
    durable: Lsn,
    outboxes: Outboxes,
    clients: Clients,
    /// Length of the request queue before the turn's time was read.
    requests_seen: usize,
    /// The last token of a read-index request to a core.
    read_tokens: u64,
    reads_due: Timers,
    /// Read-index requests of followers; the lease of the next turn may answer them.
    questions: Vec<(GroupSlot, GroupId, NodeId, Message)>,
    /// Groups read at bounded staleness since their last read-index request.
    watched: Vec<GroupSlot>,
    transfers: Transfers,
    scrubbing: Scrubbing,
    quarantined: Quarantined,
    shortage: Shortage,
    unknown: loss::Unknown,
    introductions: Introductions,
    abstention: Abstention,
    liveness: Liveness,
    pulse: Pulse,
    /// Node heartbeats received in this turn.
    beats_heard: Vec<Heard>,
    /// Groups seen quiescent without one of their peers; some of them may have unquiesced since.
    left_out: Vec<GroupSlot>,
    /// Support events that not every replica has received yet, in order; and how many replicas the first one
    /// has reached.
    news: VecDeque<News>,
    news_told: usize,
    /// The next arrival taken is an append, if one waits.
    is_append_next: bool,
    /// Consecutive turns that have left arrivals in the inbox.
    turns_behind: u32,
    /// The set of nodes that groups are shared with may have changed.
    are_nodes_stale: bool,
    replies: Replies,
    is_poisoned: bool,
    is_full: bool,
    states: states::States,
    /// Why no segment can be made, as last reported.
    segment_shortage: Option<raftwerk_wal::Shortage>,
    /// When to try again to checkpoint groups because the disk is full.
    press_at: Time,
    is_closing: bool,
}

impl<D: Disk> Worker<D> {
    /// One turn. `now` must not go back.
    pub(crate) fn turn(&mut self, now: Time) -> TurnEnd {
        self.now = now;
        self.lane.set_time(now);
        self.look_up();
        self.take_completions();
        self.take_orders();
        if self.is_closing {
            return TurnEnd { is_busy: false, next_deadline: Time::NEVER, is_closed: true };
        }
        if !self.is_poisoned {
            self.tend_nodes();
            self.take_beats();
            self.answer_questions();
            self.take_arrivals();
            self.take_background();
            self.scrub();
            self.relieve_memory();
            self.tick_quarantined();
            self.take_due();
        }
        let had_room = self.take_requests();
        if !self.is_poisoned {
            self.flush_groups();
            self.submit_batch();
            self.send_beats();
            self.ship_groups();
        }
        self.clients.turn_is_staged();
        let applied_all = self.apply_groups();
        self.tell_states();
        self.clients.finish_turn();
        let Outboxes { sent, dropped, .. } = self.outboxes;
        self.metrics.publish(&self.lane.stats(), self.lane.log_bytes(), sent, dropped);
        TurnEnd {
            is_busy: !self.is_poisoned && self.has_arrivals()
                || self.inbox.requests_len() > 0 && had_room
                || !applied_all
                || !self.beats_heard.is_empty()
                || !self.news.is_empty()
                || self.inbox.has_orders()
                || !self.questions.is_empty()
                || !self.dirty.is_empty(),
            next_deadline: if self.is_poisoned {
                Time::NEVER
            } else {
                let hangs_at = self.pulse.next_deadline(now, self.oldest_batch());
                let own = self.transfers.next_deadline().min(self.liveness.next_deadline()).min(hangs_at);
                let own = own.min(self.relaxed_due()).min(self.scrub_due()).min(self.lane.next_too_old());
                let own = own.min(self.shortage_due()).min(self.quarantined.next_deadline());
                let own = own.min(self.states.next_deadline());
                self.timers.next().min(self.reads_due.next()).min(own)
            },
            is_closed: false,
        }
    }

    /// Reports a segment shortage once when it begins, and once when it is over.
    fn take_segment_shortage(&mut self, shortage: Option<raftwerk_wal::Shortage>) {
        let before = std::mem::replace(&mut self.segment_shortage, shortage);
        let lane = self.settings.worker;
        if let Some(why) = before.filter(|_| before != shortage) {
            self.is_over(&Ill::NoSegment { lane, why });
        }
        if let Some(why) = shortage.filter(|_| before != shortage) {
            self.report(Ill::NoSegment { lane, why });
        }
    }

    /// Step 1: batches that became durable.
    fn take_completions(&mut self) {
        if self.is_poisoned {
            return;
        }
        match self.lane.poll() {
            Ok(progress) => {
                self.durable = progress.durable;
                self.is_full = progress.storage_full;
                self.take_segment_shortage(progress.shortage);
                self.take_written(progress.written);
            }
            Err(poisoned) => return self.poison(&poisoned),
        }
        self.pulse.probes(self.now, self.lane.is_probing());
        self.pulse.awaits_segment(self.now, !self.is_full && self.lane.reserved_space() == 0);
        while self.held.front().is_some_and(|held| held.lsn <= self.durable) {
            let mut held = self.held.pop_front().expect("was just seen");
            self.told_written = self.told_written.saturating_sub(1);
            for (slot, group, id) in held.durable.drain(..) {
                if self.holds(slot, group) {
                    self.step(slot, Input::Durable { id });
                }
            }
            self.release(&mut held);
            self.note_sync(held.since);
            self.pulse.finished(self.now);
            self.spare_held.push(held);
        }
    }

    /// Releases what was held for a batch that is durable.
    fn release(&mut self, held: &mut Held) {
        for (to, group, message) in held.messages.drain(..) {
            self.outboxes.control(to, group, message);
        }
        for reply in held.created.drain(..) {
            let _caller_gone = reply.send(Ok(()));
        }
        for reply in held.accepted.drain(..) {
            let _caller_gone = reply.send(Ok(()));
        }
        for (group, reply) in held.removed.drain(..) {
            self.drop_files(group, reply);
        }
    }

    /// Whether the disk owes an answer, or a segment, for so long that this node must not lead. Until the
    /// disk answers, the worker sends nothing but node heartbeats, which ask for no support: followers elect
    /// other leaders, and this node's leaders, which receive no acknowledgements, step down.
    pub(super) fn is_stalled(&self) -> bool {
        self.pulse.is_hung(self.now, self.oldest_batch())
    }

    /// When the oldest batch on its way was submitted to the disk.
    fn oldest_batch(&self) -> Option<Time> {
        self.held.front().map(|held| held.since)
    }

    /// Fires expired timers, a bounded number a turn: when thousands of groups expire together, their
    /// messages need room in the outboxes and incoming messages their share of the turns.
    fn take_due(&mut self) {
        self.turns_behind = if self.has_arrivals() { self.turns_behind + 1 } else { 0 };
        let deadlines = if self.turns_behind.is_multiple_of(TURNS_BEHIND_MAX) {
            self.settings.limits.deadlines
        } else {
            0
        };
        for _ in 0..deadlines {
            let Some((at, slot)) = self.timers.due(self.now) else { break };
            let Some(replica) = self.replicas.get_mut(slot.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            if replica.timer_at != at {
                continue;
            }
            replica.timer_at = Time::NEVER;
            if replica.core.next_deadline() <= self.now {
                self.step(slot, Input::Timeout);
            } else {
                Self::arm(&mut self.timers, replica);
            }
        }
        self.take_reads_due();
        self.tick_transfers();
    }

    /// Keeps the group's entry in the timers no later than its deadline.
    fn arm(timers: &mut Timers, replica: &mut Replica) {
        let deadline = replica.core.next_deadline();
        if deadline < replica.timer_at {
            replica.timer_at = deadline;
            timers.add(deadline, replica.slot);
        }
    }

    /// Step 3: the turn's proposals and read-index requests enter the cores.
    fn flush_groups(&mut self) {
        let mut at = 0;
        while let Some(&slot) = self.dirty.get(at) {
            at += 1;
            self.propose_staged(slot);
            self.ask_staged(slot);
            let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { continue };
            self.effects.clear();
            replica.core.flush(self.now, &mut self.effects);
            self.perform(slot);
            if let Some(replica) = self.replicas[slot.0 as usize].as_mut() {
                Self::arm(&mut self.timers, replica);
            }
        }
    }

    /// Step 4a: submits the batch; what depends on its durability is held.
    fn submit_batch(&mut self) {
        for slot in self.appended.drain(..) {
            if let Some(replica) = self.replicas[slot.0 as usize].as_mut() {
                replica.has_appended = false;
                self.filling.durable.push((slot, replica.id, replica.core.last()));
            }
        }
        let submitted = self.hand_batch_over();
        for slot in self.promised.drain(..) {
            if let (Some(replica), Ok(Some(lsn))) = (self.replicas[slot.0 as usize].as_mut(), &submitted) {
                replica.promise = Promise::InBatch(*lsn);
            }
        }
        match submitted {
            Ok(Some(lsn)) => {
                (self.filling.lsn, self.filling.since) = (lsn, self.now);
                let next = self.spare_held.pop().unwrap_or_default();
                self.held.push_back(std::mem::replace(&mut self.filling, next));
            }
            // Nothing was written in this turn. Held messages may still depend on entries in batches on their
            // way.
            Ok(None) => match self.held.back_mut() {
                Some(last) => {
                    last.messages.append(&mut self.filling.messages);
                    last.created.append(&mut self.filling.created);
                    last.accepted.append(&mut self.filling.accepted);
                    last.removed.append(&mut self.filling.removed);
                }
                None => {
                    let mut filling = std::mem::take(&mut self.filling);
                    self.release(&mut filling);
                    self.filling = filling;
                }
            },
            Err(error) => self.poison(&error),
        }
    }

    /// Steps a core with one input and performs its effects.
    fn step(&mut self, slot: GroupSlot, input: Input<'_>) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        self.effects.clear();
        replica.core.step(self.now, input, &mut self.effects);
        self.perform(slot);
    }

    /// Adds a group to the list of those to flush.
    fn touch(&mut self, slot: GroupSlot) {
        if let Some(replica) = self.replicas[slot.0 as usize].as_mut()
            && !std::mem::replace(&mut replica.is_dirty, true)
        {
            self.dirty.push(slot);
        }
    }

    fn holds(&self, slot: GroupSlot, group: GroupId) -> bool {
        self.replicas.get(slot.0 as usize).and_then(Option::as_ref).is_some_and(|replica| replica.id == group)
    }

    /// Whether a group id belongs to this worker's lane, whether or not the group exists here.
    fn owns(&self, group: GroupId) -> bool {
        crate::engine::worker_of(group, usize::from(self.settings.workers))
            == usize::from(self.settings.worker)
    }

    fn slot_of(&self, group: GroupId) -> Option<GroupSlot> {
        self.slots.get(&group).copied()
    }

    /// The log has failed for good. From here on the worker answers its clients and sends nothing to peers:
    /// its groups lose their leaders here, and other nodes elect new ones.
    fn poison(&mut self, error: &dyn std::error::Error) {
        self.report(Ill::LogFailed { lane: self.settings.worker, error: error.to_string() });
        self.is_poisoned = true;
        self.metrics.poisoned();
        let waiting = self.held.drain(..).chain([std::mem::take(&mut self.filling)]);
        for held in waiting {
            for reply in held.created {
                let _caller_gone = reply.send(Err(CreateError::Poisoned));
            }
            for reply in held.accepted {
                let _caller_gone = reply.send(Err(AcceptLossError::Poisoned));
            }
        }
        self.outboxes.clear();
        self.dirty.clear();
        self.beats_heard.clear();
        self.news.clear();
        self.questions.clear();
        self.abandon_all(&ProposeError::Poisoned);
    }
}

impl<D: Disk> Worker<D> {
    /// The worker has panicked in a turn and runs no further one: its memory may be half updated. What it has
    /// acknowledged is in the log.
    pub(crate) fn dies(&mut self, what: &str) {
        self.report(Ill::LaneDied { lane: self.settings.worker, what: what.to_owned() });
        self.metrics.died();
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
