//! One replica and its driver: a group, a disk that may lag behind, a state machine, and letters that must wait.
//!
//! This is the smallest driver that keeps the contract at the head of `raftwerk_raft`. What a turn writes is one
//! batch; batches become durable in order, and a letter leaves when the batch it depends on is durable.

use std::collections::VecDeque;

use raftwerk_frame::{Configuration, EntryId, Index, Message, NodeId, Time};
use raftwerk_raft::{Append, Config, Effects, Group, Input, Rejected};

use super::image::{Checkpoint, Entry, Image, State, Write, memberships};
use super::outcome::{reconfigured, transfer};
use super::trace::{Trace, configuration, payloads, range, role, spans};
use super::wire::Parcel;

/// What lies beside an input, as the core sees headers only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside<'a> {
    /// The payloads of a proposal.
    pub(crate) payloads: &'a [&'a str],
    /// The entries of an append.
    pub(crate) entries: &'a [Entry],
    /// The content of a snapshot.
    pub(crate) checkpoint: Option<&'a Checkpoint>,
}

/// A letter that may not leave before a batch is durable.
#[derive(Debug)]
struct Held {
    until: u64,
    to: NodeId,
    parcel: Parcel,
}

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) config: Config,
    is_witness: bool,
    /// `None` while the node is down.
    pub(crate) group: Option<Group>,
    /// What was written, durable or not.
    pub(crate) written: Image,
    /// What is durable.
    pub(crate) disk: Image,
    pub(crate) state: State,
    /// Written by closed turns and not yet durable, oldest first.
    batches: VecDeque<Vec<Write>>,
    /// Written by this turn.
    open: Vec<Write>,
    /// How many batches are durable: also the number of the latest of them.
    durable: u64,
    /// The batch that holds the latest hard state.
    hard_state_in: u64,
    held: Vec<Held>,
    /// Reads that wait for the state machine.
    reads: Vec<(u64, Index)>,
    effects: Effects,
    /// Whether the trace has said that it is removed.
    is_told_removed: bool,
}

impl Replica {
    pub(crate) fn new(config: Config, disk: Image, is_witness: bool, now: Time) -> Self {
        let restored = disk.restored(is_witness);
        let group = Group::restore(config.clone(), restored, memberships(&disk.log), now);
        Self {
            config,
            is_witness,
            group: Some(group),
            written: disk.clone(),
            state: disk.checkpoint.state.clone(),
            disk,
            batches: VecDeque::new(),
            open: Vec::new(),
            durable: 0,
            hard_state_in: 0,
            held: Vec::new(),
            reads: Vec::new(),
            effects: Effects::default(),
            is_told_removed: false,
        }
    }

    fn name(&self) -> u64 {
        self.config.node.0
    }

    /// Everything that is not durable is gone.
    pub(crate) fn crash(&mut self) {
        *self = Self { group: None, ..self.again(self.disk.clone(), Time(0)) };
    }

    /// The same replica, begun from a disk.
    pub(crate) fn again(&self, disk: Image, now: Time) -> Self {
        Self::new(self.config.clone(), disk, self.is_witness, now)
    }

    /// Gives the group an input, does what it asks, and tells it at once what was applied.
    pub(crate) fn step(&mut self, now: Time, input: Input<'_>, beside: Beside<'_>, trace: &mut Trace) {
        let Some(group) = &mut self.group else { return };
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        group.step(now, input, &mut effects);
        self.perform(&effects, beside, trace);
        let committed = effects.commit;
        self.effects = effects;
        if let Some((_, index)) = committed {
            self.step(now, Input::Applied { index }, Beside::default(), trace);
        }
    }

    /// Ends a turn: read rounds and snapshots, then what the peers lack; then the batch is closed.
    pub(crate) fn end_turn(&mut self, now: Time, trace: &mut Trace) {
        let Some(group) = &mut self.group else { return };
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        group.flush(now, &mut effects);
        self.perform(&effects, Beside::default(), trace);
        self.effects = effects;
        self.ship();
        if !self.open.is_empty() {
            self.batches.push_back(std::mem::take(&mut self.open));
        }
    }

    /// The oldest batch becomes durable; `false` if there is none.
    pub(crate) fn sync(&mut self) -> Option<Option<EntryId>> {
        let batch = self.batches.pop_front()?;
        self.durable += 1;
        let mut last = None;
        for write in &batch {
            self.disk.write(write);
            if let Write::Entries(entries) = write {
                last = entries.last().map(|entry| entry.id);
            }
        }
        Some(last)
    }

    /// The letters that may leave now, in order.
    pub(crate) fn ready(&mut self) -> Vec<(NodeId, Parcel)> {
        let durable = self.durable;
        let ready = self.held.extract_if(.., |held| held.until <= durable);
        ready.map(|held| (held.to, held.parcel)).collect()
    }

    /// Takes a checkpoint of the state machine at `to`, which is applied, and drops the log before it.
    pub(crate) fn compact(&mut self, to: Index, now: Time, trace: &mut Trace) -> Result<(), String> {
        let Some(group) = &self.group else { return Err("the node is down".to_owned()) };
        let term = group.term_at(to).filter(|_| to <= group.applied() && to > group.compacted().index);
        let id = EntryId::new(term.ok_or("only what is applied, and still there, can be compacted")?, to);
        let state = self.state.iter().filter(|entry| entry.id.index <= to).cloned().collect();
        let (_, configuration) = group.configuration_up_to(to).ok_or("the configuration there is gone")?;
        let configuration = configuration.clone();
        self.write(Write::Compact(Checkpoint { id, configuration, state }));
        self.step(now, Input::Compacted { to }, Beside::default(), trace);
        trace.deed(format_args!("{} compacts to {id}", self.name()));
        Ok(())
    }

    fn write(&mut self, write: Write) {
        self.written.write(&write);
        self.open.push(write);
    }

    /// The number of the last batch that has, or is going to have, something in it.
    fn last_batch(&self) -> u64 {
        self.durable + self.batches.len() as u64 + u64::from(!self.open.is_empty())
    }

    fn post(&mut self, until: u64, to: NodeId, parcel: Parcel) {
        self.held.push(Held { until, to, parcel });
    }

    fn perform(&mut self, effects: &Effects, beside: Beside<'_>, trace: &mut Trace) {
        if effects.role_changed || effects.leader_changed {
            self.tell_role(trace);
        }
        if let Some(hard_state) = effects.hard_state {
            let vote = hard_state.vote.map_or(String::new(), |node| format!(" vote {}", node.0));
            trace.deed(format_args!("{} writes {}{vote}", self.name(), hard_state.term));
            self.write(Write::HardState(hard_state));
            self.hard_state_in = self.last_batch();
        }
        if let Some(append) = effects.append {
            self.append(append, effects.membership.as_ref(), beside, trace);
        }
        if let (Some(install), Some(checkpoint)) = (&effects.install, beside.checkpoint) {
            let tail = if install.keep_tail { " and keeps its log after it" } else { "" };
            trace.deed(format_args!("{} installs the snapshot at {}{tail}", self.name(), install.id));
            let checkpoint = checkpoint.clone();
            self.state = checkpoint.state.clone();
            self.write(if install.keep_tail {
                Write::Compact(checkpoint)
            } else {
                Write::Restart(checkpoint)
            });
        }
        if effects.configuration_changed
            && let Some(group) = &self.group
        {
            let (index, now) = (group.configuration_index(), configuration(group.configuration()));
            trace.deed(format_args!("{} is in {now} since {index}", self.name()));
        }
        self.post_all(effects);
        if let Some((first, last)) = effects.commit {
            let entries: Vec<Entry> = self.written.between(first, last).cloned().collect();
            let what = payloads(entries.iter());
            trace.deed(format_args!("{} commits {}: {what}", self.name(), range(first, last)));
            self.state.extend(entries);
        }
        if let Some(index) = effects.settled {
            trace.deed(format_args!("{} has settled the change at {index}", self.name()));
        }
        if self.group.as_ref().is_some_and(Group::is_removed) != self.is_told_removed {
            self.is_told_removed = !self.is_told_removed;
            let what = if self.is_told_removed { "knows that it is removed" } else { "takes part again" };
            trace.deed(format_args!("{} {what}", self.name()));
        }
        self.answer(effects, trace);
    }

    /// Whether an entry, or a snapshot of it, would survive a crash.
    pub(crate) fn has_durable(&self, id: EntryId) -> bool {
        self.disk.checkpoint.id.index >= id.index || self.disk.log.iter().any(|entry| entry.id == id)
    }

    fn tell_role(&self, trace: &mut Trace) {
        let Some(group) = &self.group else { return };
        match group.leader().filter(|_| !group.is_leader()) {
            Some(leader) => {
                trace.deed(format_args!("{} follows {} in {}", self.name(), leader.0, group.term()))
            }
            None => trace.deed(format_args!("{} is {} in {}", self.name(), role(group.role()), group.term())),
        }
    }

    fn append(
        &mut self,
        append: Append,
        membership: Option<&Configuration>,
        beside: Beside<'_>,
        trace: &mut Trace,
    ) {
        let (verb, entries): (_, Vec<Entry>) = match append {
            Append::Own { id, count, noop } => {
                let entry = |n: u64| {
                    let id = EntryId::new(id.term, id.index.plus(n));
                    match membership {
                        Some(configuration) => {
                            let configuration = Some(configuration.clone());
                            Entry { configuration, ..Entry::with_payload(id, None) }
                        }
                        None => {
                            Entry::with_payload(id, (!noop).then(|| beside.payloads[n as usize].to_owned()))
                        }
                    }
                };
                ("appends", (0..u64::from(count)).map(entry).collect())
            }
            Append::Accept { from, last } => {
                let wanted = |entry: &&Entry| (from..=last).contains(&entry.id.index);
                ("accepts", beside.entries.iter().filter(wanted).cloned().collect())
            }
        };
        let first = entries.first().map_or(Index(0), |entry| entry.id.index);
        let replaced: Vec<Entry> = self.written.between(first, Index(u64::MAX)).cloned().collect();
        let instead = match replaced.is_empty() {
            true => String::new(),
            false => format!(" in place of {}", spans(&replaced)),
        };
        let is_kept_so =
            |entry: &Entry| entry.configuration.is_some() || entry.is_withheld == self.is_witness;
        assert!(entries.iter().all(is_kept_so), "{} takes {entries:?}", self.name());
        trace.deed(format_args!("{} {verb} {}{instead}", self.name(), spans(&entries)));
        self.write(Write::Entries(entries));
    }

    fn post_all(&mut self, effects: &Effects) {
        let parcel = |message: Message| Parcel::Message { message, entries: Vec::new() };
        for &(to, message) in &effects.send {
            self.post(self.hard_state_in, to, parcel(message));
        }
        for &(to, message) in &effects.send_durable {
            self.post(self.last_batch(), to, parcel(message));
        }
        let Some(term) = self.group.as_ref().map(Group::term) else { return };
        for &to in &effects.snapshot_to {
            // A witness gets where the log begins, and no state.
            let is_bare = self.group.as_ref().is_some_and(|group| group.has_for_witness(to));
            let whole = self.written.checkpoint.clone();
            let checkpoint = if is_bare { Checkpoint { state: Vec::new(), ..whole } } else { whole };
            let progress_epoch = self.group.as_ref().map_or(0, |group| group.progress_epoch_of(to));
            self.post(self.hard_state_in, to, Parcel::Snapshot { term, checkpoint, progress_epoch });
        }
    }

    fn answer(&mut self, effects: &Effects, trace: &mut Trace) {
        match effects.rejected {
            Some(Rejected::NotLeader { leader: Some(leader) }) => {
                trace.deed(format_args!("{} refuses the proposal: {} leads", self.name(), leader.0));
            }
            Some(Rejected::NotLeader { leader: None }) => {
                trace.deed(format_args!("{} refuses the proposal: it knows no leader", self.name()));
            }
            Some(Rejected::Busy) => trace.deed(format_args!("{} refuses the proposal: busy", self.name())),
            None => {}
        }
        if let Some(outcome) = &effects.reconfigured {
            trace.deed(format_args!("{} {}", self.name(), reconfigured(outcome)));
        }
        if let Some(outcome) = effects.transfer {
            trace.deed(format_args!("{} {}", self.name(), transfer(outcome)));
        }
        for token in &effects.reads_rejected {
            trace.deed(format_args!("{} refuses read {token}", self.name()));
        }
        self.reads.extend_from_slice(&effects.reads);
        let applied = self.state.last().map_or(Index(0), |entry| entry.id.index);
        let name = self.name();
        for (token, index) in self.reads.extract_if(.., |(_, index)| *index <= applied) {
            trace.deed(format_args!("{name} answers read {token} at {index}"));
        }
    }

    fn ship(&mut self) {
        let Some(mut group) = self.group.take() else { return };
        let peers: Vec<NodeId> = group.peers().collect();
        for to in peers {
            while let Some(append_plan) = group.next_append(to) {
                let count =
                    if append_plan.first > append_plan.last { 0 } else { append_plan.bytes_max.max(1) };
                let entries = self.written.between(append_plan.first, append_plan.last).take(count as usize);
                let as_sent = |entry: Entry| if append_plan.is_withheld { entry.withheld() } else { entry };
                let entries: Vec<Entry> = entries.cloned().map(as_sent).collect();
                let last = entries.last().map_or(append_plan.prev.index, |entry| entry.id.index);
                group.note_sent(to, last, entries.len() as u64);
                let message = Message::Append {
                    term: append_plan.term,
                    prev: append_plan.prev,
                    commit: append_plan.commit,
                    progress_epoch: append_plan.progress_epoch,
                };
                self.post(self.hard_state_in, to, Parcel::Message { message, entries });
            }
        }
        self.group = Some(group);
    }
}
