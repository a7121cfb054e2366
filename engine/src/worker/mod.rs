//! A worker: the owner of some of the node's groups, of one lane of the log, and of nothing else.
//!
//! [`Worker::turn`] is one pass of its loop. It has no thread, clock, file or socket of its own: production loops it
//! (see `runtime`), a simulator may call it for many nodes in one thread. Nothing in a turn waits or locks.
//!
//! The order within a turn matters and is this:
//! 1. what the disk finished: held replies leave, groups learn what is durable;
//! 2. what the network brought, what callers want, whose deadline has come: the cores step, entries are framed into
//!    the batch;
//! 3. each touched group is flushed once: proposals of the turn enter its core together;
//! 4. the batch goes to the disk, and in parallel its frames go to the peers, one message per peer;
//! 5. committed entries are applied and their callers answered, while disk and network work.

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

/// What may leave only when a batch is durable.
#[derive(Default)]
struct Held {
    lsn: Lsn,
    /// Groups with entries in the batch, and the last entry of each.
    durable: Vec<(GroupSlot, GroupId, EntryId)>,
    /// Votes, vote requests, acknowledgements.
    messages: Vec<(Addressee, GroupId, Message)>,
    /// What may leave when it is written: notes of that.
    written: Vec<(Addressee, GroupId, Message)>,
    /// It is synced with a later one.
    is_relaxed: bool,
    /// Groups that come into being with the batch.
    created: Vec<oneshot::Sender<Result<(), CreateError>>>,
    /// Losses that are lived with from it on.
    accepted: Vec<oneshot::Sender<Result<(), AcceptLossError>>>,
    /// Groups that are gone with it: their files may follow, and who removed them is told.
    removed: Vec<(GroupId, oneshot::Sender<bool>)>,
    /// When it was handed to the disk.
    since: Time,
}

/// What a turn tells the one who drives the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnEnd {
    /// There is more to do at once.
    pub is_busy: bool,
    /// Otherwise, not before this time, unless something arrives.
    pub next_deadline: Time,
    /// The worker has answered everyone and is done for good.
    pub is_closed: bool,
}

/// While the network has brought more than a turn takes in, deadlines come in one of so many turns: what a group waits for
/// may be among it, and who campaigns for nothing makes more work for those who have too much.
const TURNS_BEHIND_MAX: u32 = 8;

/// The owner of some groups. See the module's head.
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
    /// Groups to flush, and to ship for, at the end of the turn.
    dirty: Vec<GroupSlot>,
    /// Groups with entries in the batch being filled.
    appended: Vec<GroupSlot>,
    /// Groups with a hard state in it.
    promised: Vec<GroupSlot>,
    to_apply: Vec<GroupSlot>,
    /// What waits for the batch being filled …
    filling: Held,
    /// … and for those on their way to the disk, oldest first.
    held: VecDeque<Held>,
    spare_held: Vec<Held>,
    /// So many of those held, from the oldest on, are known to be written.
    told_written: usize,
    /// When the first of what is written and not on its way to be synced was handed over.
    relaxed_since: Option<Time>,
    durable: Lsn,
    outboxes: Outboxes,
    clients: Clients,
    /// Requests that were there before the turn's time was read.
    requests_seen: usize,
    /// Counts the questions of reads to the cores.
    read_tokens: u64,
    reads_due: Timers,
    /// Followers' questions up to where to read, which the lease of the next turn may answer.
    questions: Vec<(GroupSlot, GroupId, NodeId, Message)>,
    /// Groups that follow, and were read at bounded staleness since their leader was asked.
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
    /// Beats that this turn has brought.
    beats_heard: Vec<Heard>,
    /// Groups that were seen to rest without one of their peers, some of which may have woken since.
    left_out: Vec<GroupSlot>,
    /// What not every replica has been told yet, in order; and how many have been told of the first.
    news: VecDeque<News>,
    news_told: usize,
    /// Of what the network brought, an append comes next, if one waits.
    is_append_next: bool,
    /// So many turns have left something of the network's waiting.
    turns_behind: u32,
    /// The nodes that groups are shared with may be others than before.
    are_nodes_stale: bool,
    replies: Replies,
    is_poisoned: bool,
    is_full: bool,
    states: states::States,
    /// Why no segment can be made, as it was said last.
    segment_shortage: Option<raftwerk_wal::Shortage>,
    /// When groups are to be checkpointed again because of that.
    press_at: Time,
    is_closing: bool,
}

impl<D: Disk> Worker<D> {
    /// One pass. `now` must not go back.
    pub(crate) fn turn(&mut self, now: Time) -> TurnEnd {
        self.now = now;
        self.lane.tell_time(now);
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

    /// Says once why no segment can be made, and once that one can again.
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
        self.pulse.awaits_segment(self.now, !self.is_full && self.lane.space() == 0);
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

    /// Lets go what waited for a batch.
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

    /// Whether the disk has been busy with one write for so long that this node must not lead: it falls silent, so that
    /// followers elect others and its own leaders, unheard, step down. It speaks again when the disk does.
    pub(super) fn is_stalled(&self) -> bool {
        self.pulse.is_hung(self.now, self.oldest_batch())
    }

    /// Since when the oldest batch has been on its way to the disk.
    fn oldest_batch(&self) -> Option<Time> {
        self.held.front().map(|held| held.since)
    }

    /// The deadlines that have come, so many a turn: where thousands of groups wake together, what they say must find room,
    /// and others a hearing.
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

    /// Step 3: the turn's proposals enter the cores; read rounds start.
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

    /// Step 4a: the batch goes to the disk; what depends on it is held.
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
            // Nothing was written in this turn. What is held may still speak of entries in batches on their way.
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

    /// Feeds one input to a core and does what it asks for.
    fn step(&mut self, slot: GroupSlot, input: Input<'_>) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        self.effects.clear();
        replica.core.step(self.now, input, &mut self.effects);
        self.perform(slot);
    }

    /// Puts a group on the list of those to flush.
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

    /// Whether a group would be this worker's, if it were here.
    fn owns(&self, group: GroupId) -> bool {
        crate::engine::worker_of(group, usize::from(self.settings.workers))
            == usize::from(self.settings.worker)
    }

    fn slot_of(&self, group: GroupId) -> Option<GroupSlot> {
        self.slots.get(&group).copied()
    }

    /// The log has failed for good. From here on the worker says nothing to anyone but its callers: its groups lose
    /// their leaders, and other nodes elect new ones.
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
    /// It has panicked in a turn, and takes no other: what is in its memory may be half done. What it has said is in the log.
    pub(crate) fn dies(&mut self, what: &str) {
        self.report(Ill::LaneDied { lane: self.settings.worker, what: what.to_owned() });
        self.metrics.died();
    }
}

impl<D: Disk> Drop for Worker<D> {
    /// Nobody is left waiting, even if the worker ends by a panic.
    fn drop(&mut self) {
        if !self.is_closing {
            self.close();
        }
    }
}
