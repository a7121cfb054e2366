//! A node as etcd's scripts see one: a group, a log in memory and one on disk, and what waits to be handed on.
//!
//! Inputs are stepped at once, each as a turn of its own; what comes of them waits for [`Node::ready`], which is etcd's
//! "handle a Ready". There entries are written and messages leave, those that need what was written after it. With
//! asynchronous writes, entries go through a queue, and so do the messages that need them and the notice that they are
//! durable. Terms and votes are on disk before anything leaves, always.

mod change;
mod look;
mod ready;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, HardState, Index, Membership, Message, NodeId, Time};
use raftwerk_raft::{Append, Config, Effects, Group, Input, Install, Reconfigured, Rejected, Restored, Role};

use super::parcel::{Content, Entry, Parcel, memberships, runs};
use super::printed::Fact;

/// etcd counts in ticks: a heartbeat each, an election after so many.
const TICK: Duration = Duration::from_millis(10);
pub(super) const ELECTION_TICKS: u32 = 3;

/// What a script sets of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) is_async: bool,
    /// A change that cannot be yet is taken nevertheless.
    pub(super) takes_all_changes: bool,
    /// Entries are applied one a Ready.
    pub(super) applies_singly: bool,
    /// `forget-leader` does nothing, as leases depend on the leader.
    pub(super) has_leases: bool,
    /// A leader that removed itself goes as soon as it has told of it. etcd's other leaders stay for good; ours for a while.
    pub(super) retires_at_once: bool,
}

/// What waits to be handed on.
#[derive(Clone, Debug, Default)]
struct Unready {
    hard_state: Option<HardState>,
    install: Option<Install>,
    entries: Vec<Entry>,
    send: Vec<(NodeId, Parcel)>,
    send_durable: Vec<(NodeId, Parcel)>,
}

/// A write on its way to the disk, and what waits for it.
#[derive(Clone, Debug)]
struct Batch {
    install: Option<Install>,
    entries: Vec<Entry>,
    then: Vec<(NodeId, Parcel)>,
}

/// What a step of a script brings forth.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) letters: Vec<(NodeId, Parcel)>,
    pub(super) facts: Vec<String>,
}

impl Outcome {
    fn tell(&mut self, fact: &Fact<'_>) {
        self.facts.push(fact.to_string());
    }
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) group: Group,
    config: Config,
    options: Options,
    now: Time,
    /// Ticks since the election timer was last set, and how many it takes.
    elapsed: u32,
    pub(super) patience: u32,
    deadline: Time,
    log: BTreeMap<Index, Entry>,
    /// The log on disk, and the entry before its first.
    disk: BTreeMap<Index, Entry>,
    disk_compacted: EntryId,
    unready: Unready,
    /// The commit index at the last Ready.
    told_commit: Index,
    /// What was handed to the state machine.
    handed: Index,
    /// Changes that wait until the core takes them, and proposals behind them.
    wishes: VecDeque<Parcel>,
    outcome_of_wish: Option<Reconfigured>,
    writes: VecDeque<Batch>,
    applies: VecDeque<Index>,
    effects: Effects,
}

impl Node {
    /// A node that starts from a snapshot at `at`, or from nothing.
    pub(super) fn new(
        mut config: Config,
        options: Options,
        at: EntryId,
        configuration: Configuration,
    ) -> Self {
        (config.election_timeout, config.heartbeat_interval) = (TICK * ELECTION_TICKS, TICK);
        config.retirement = if options.retires_at_once { Duration::ZERO } else { config.election_timeout };
        let restored = Restored {
            compacted: at,
            configuration,
            last: at.index,
            applied: at.index,
            ..Restored::default()
        };
        // Far from the beginning of time, so that nothing counts as just heard.
        let now = Time(0) + TICK * 1000;
        let group = Group::new(config.clone(), restored, now);
        Self {
            deadline: group.next_deadline(),
            group,
            config,
            options,
            now,
            elapsed: 0,
            patience: ELECTION_TICKS * 2 - 1,
            log: BTreeMap::new(),
            disk: BTreeMap::new(),
            disk_compacted: at,
            unready: Unready::default(),
            told_commit: at.index,
            handed: at.index,
            wishes: VecDeque::new(),
            outcome_of_wish: None,
            writes: VecDeque::new(),
            applies: VecDeque::new(),
            effects: Effects::default(),
        }
    }

    /// A tick of the node's clock.
    pub(super) fn tick(&mut self) {
        self.now = self.now + TICK;
        if self.group.is_leader() {
            return self.step(Input::Timeout);
        }
        self.elapsed += 1;
        if self.elapsed >= self.patience {
            self.elapsed = 0;
            self.step(Input::Campaign);
        }
    }

    pub(super) fn campaign(&mut self) {
        self.step(Input::Campaign);
    }

    /// Proposes a payload. A follower passes it on. `false`: nobody takes it.
    pub(super) fn propose(&mut self, payload: String) -> bool {
        if !self.wishes.is_empty() {
            self.wishes.push_back(Parcel::Proposal(payload));
            return true;
        }
        let input = Input::Propose { count: 1, bytes: payload.len() as u64 };
        match self.turn(input, &[], &Content::Payload(payload.clone())) {
            Some(Rejected::NotLeader { leader: Some(leader) }) => {
                self.unready.send.push((leader, Parcel::Proposal(payload)));
                true
            }
            other => other.is_none(),
        }
    }

    /// Hands over the lead.
    pub(super) fn transfer(&mut self, to: NodeId) {
        self.step(Input::Transfer { to });
    }

    pub(super) fn unreachable(&mut self, node: NodeId) {
        self.step(Input::Unreachable { node });
    }

    /// Takes in what has arrived.
    pub(super) fn receive(&mut self, from: NodeId, parcel: Parcel) {
        match parcel {
            Parcel::Message { message, entries } => {
                let (runs, memberships) = (runs(&entries), memberships(&entries));
                let input = if memberships.is_empty() {
                    Input::Message { from, message, runs: &runs }
                } else {
                    Input::Memberships { from, message, runs: &runs, memberships: &memberships }
                };
                self.turn(input, &entries, &Content::Opening);
            }
            Parcel::Snapshot { term, id, configuration, progress_epoch } => {
                let configuration = &configuration;
                self.step(Input::SnapshotReceived { from, term, id, configuration, progress_epoch });
            }
            Parcel::Proposal(payload) => _ = self.propose(payload),
            Parcel::Wish(wish) => _ = self.wish(wish),
            Parcel::Durable(id) => self.step(Input::Durable { id }),
            Parcel::Applied(index) => self.step(Input::Applied { index }),
        }
        self.grant_wishes();
    }

    /// etcd lets a follower forget its leader while it keeps all else. The nearest that Raft has is a restart.
    pub(super) fn forget_leader(&mut self) -> Result<(), String> {
        let is_following = self.group.role() == Role::Follower && self.group.leader().is_some();
        if self.options.has_leases || !is_following {
            return Ok(());
        }
        if !self.unready.entries.is_empty() || !self.writes.is_empty() || self.unready.hard_state.is_some() {
            return Err("a restart would lose what is not durable yet".to_owned());
        }
        let mut known = self
            .group
            .memberships()
            .map(|(index, configuration)| Membership { index, configuration: configuration.clone() });
        let base = known.next().map(|membership| membership.configuration).unwrap_or_default();
        let known: Vec<Membership> = known.collect();
        let restored = Restored {
            origin: Default::default(),
            is_witness: false,
            hard_state: self.group.hard_state(),
            compacted: self.group.compacted(),
            configuration: base,
            runs: self.group.runs().to_vec(),
            last: self.group.last().index,
            applied: self.group.applied(),
        };
        self.group = Group::restore(self.config.clone(), restored, known, self.now);
        // The timer that runs goes on.
        self.deadline = self.group.next_deadline();
        Ok(())
    }

    /// Drops the log up to `to`, in memory and on disk.
    pub(super) fn compact(&mut self, to: Index) -> Result<(), String> {
        let term = self.group.term_at(to).filter(|_| to <= self.group.applied());
        let id = EntryId::new(term.ok_or("only what is applied can be compacted")?, to);
        self.step(Input::Compacted { to });
        self.disk_compacted = id;
        for log in [&mut self.log, &mut self.disk] {
            *log = log.split_off(&to.next());
        }
        Ok(())
    }

    /// A snapshot of what is applied here, for a node.
    pub(super) fn snapshot(&self, to: NodeId) -> Option<Parcel> {
        let index = self.group.applied();
        let id = EntryId::new(self.group.term_at(index)?, index);
        Some(Parcel::Snapshot {
            term: self.group.term(),
            id,
            configuration: self.group.configuration_up_to(index)?.1.clone(),
            progress_epoch: self.group.progress_epoch_of(to),
        })
    }

    fn step(&mut self, input: Input<'_>) {
        self.turn(input, &[], &Content::Opening);
        self.grant_wishes();
    }

    /// Steps an input with what lies beside it, ends the turn, and says whether proposals were refused. `own` is what an
    /// entry of the leader's holds that this input makes.
    fn turn(&mut self, input: Input<'_>, entries: &[Entry], own: &Content) -> Option<Rejected> {
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        self.group.step(self.now, input, &mut effects);
        if self.group.is_retiring() {
            // etcd's leaders do not hurry their heirs: scripts go on as if that word was lost.
            effects.send.retain(|(_, message)| !matches!(message, Message::TimeoutNow { .. }));
        }
        self.collect(&effects, entries, own);
        let rejected = effects.rejected;
        self.outcome_of_wish = effects.reconfigured.take();
        effects.clear();
        self.group.flush(self.now, &mut effects);
        self.collect(&effects, &[], &Content::Opening);
        self.effects = effects;
        self.ship();
        if self.group.is_retiring() && self.group.next_deadline() <= self.now {
            // It has told of its removal, and its time is over.
            return self.turn(Input::Timeout, &[], &Content::Opening).or(rejected);
        }
        if std::mem::replace(&mut self.deadline, self.group.next_deadline()) != self.deadline {
            self.elapsed = 0;
        }
        rejected
    }

    fn collect(&mut self, effects: &Effects, entries: &[Entry], own: &Content) {
        self.unready.hard_state = effects.hard_state.or(self.unready.hard_state);
        match effects.append {
            Some(Append::Own { id, noop, .. }) => {
                let content = self.content_of(effects, noop, own);
                self.append(id.index, vec![Entry { id, content }]);
            }
            Some(Append::Accept { from, last }) => {
                let accepted = entries.iter().filter(|entry| (from..=last).contains(&entry.id.index));
                self.append(from, accepted.cloned().collect());
            }
            None => {}
        }
        if let Some(install) = &effects.install {
            if !install.keep_tail {
                self.log.clear();
            }
            self.log = self.log.split_off(&install.id.index.next());
            self.unready.entries.retain(|entry| install.keep_tail && entry.id.index > install.id.index);
            self.handed = install.id.index;
            self.unready.install = Some(install.clone());
        }
        let message = |(to, message): &(NodeId, Message)| {
            (*to, Parcel::Message { message: *message, entries: Vec::new() })
        };
        self.unready.send.extend(effects.send.iter().map(message));
        self.unready.send_durable.extend(effects.send_durable.iter().map(message));
        for &peer in &effects.snapshot_to {
            self.unready.send.extend(self.snapshot(peer).map(|snapshot| (peer, snapshot)));
        }
    }

    fn append(&mut self, from: Index, entries: Vec<Entry>) {
        self.log.split_off(&from);
        self.log.extend(entries.iter().map(|entry| (entry.id.index, entry.clone())));
        self.unready.entries.retain(|entry| entry.id.index < from);
        self.unready.entries.extend(entries);
    }

    fn ship(&mut self) {
        let peers: Vec<NodeId> = self.group.peers().collect();
        for to in peers {
            while let Some(append_plan) = self.group.next_append(to) {
                let entries: Vec<Entry> =
                    if append_plan.first <= append_plan.last && append_plan.bytes_max > 0 {
                        self.log
                            .range(append_plan.first..=append_plan.last)
                            .map(|(_, entry)| entry.clone())
                            .collect()
                    } else {
                        Vec::new()
                    };
                let last = entries.last().map_or(append_plan.prev.index, |entry| entry.id.index);
                self.group.note_sent(to, last, entries.len() as u64);
                let message = Message::Append {
                    term: append_plan.term,
                    prev: append_plan.prev,
                    commit: append_plan.commit,
                    progress_epoch: append_plan.progress_epoch,
                };
                self.post_append(to, message, entries);
            }
        }
    }

    /// All that goes to a peer with one Ready goes in one append, as far as it follows one another.
    fn post_append(&mut self, to: NodeId, message: Message, mut entries: Vec<Entry>) {
        if let Message::Append { term, prev, commit, .. } = message
            && let Some((_, Parcel::Message { message, entries: before })) =
                self.unready.send.iter_mut().rfind(|(node, _)| *node == to)
            && let Message::Append { term: same, commit: earlier, prev: from, .. } = message
            && *same == term
            && before.last().map_or(*from, |entry| entry.id) == prev
        {
            *earlier = commit.max(*earlier);
            before.append(&mut entries);
            return;
        }
        self.unready.send.push((to, Parcel::Message { message, entries }));
    }
}
