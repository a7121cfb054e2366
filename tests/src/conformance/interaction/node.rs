//! A node as etcd's scripts see one: a group, a log in memory and one on disk, and what waits to be handed on.
//!
//! Inputs are stepped at once, each as a turn of its own; what comes of them waits for [`Node::ready`], which is etcd's
//! "handle a Ready". There entries are written and messages leave, those that need what was written after it. With
//! asynchronous writes, entries go through a queue, and so do the messages that need them and the notice that they are
//! durable. Terms and votes are on disk before anything leaves, always.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, HardState, Index, Message, NodeId, Run, Term, Time};
use raftwerk_raft::{Append, Config, Effects, Group, Input, Install, Rejected, Restored, Role};

use super::printed::Fact;

/// etcd counts in ticks: a heartbeat each, an election after so many.
const TICK: Duration = Duration::from_millis(10);
pub(super) const ELECTION_TICKS: u32 = 3;

/// An entry with its payload; `None` opens a leader's term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) payload: Option<String>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.payload.as_deref().unwrap_or_default();
        write!(f, "{}/{} EntryNormal {payload:?}", self.id.term.0, self.id.index.0)
    }
}

/// What is on its way to a node.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Message {
        message: Message,
        entries: Vec<Entry>,
    },
    Snapshot {
        term: Term,
        id: EntryId,
        configuration: Configuration,
    },
    /// A payload that a follower passes on to its leader.
    Proposal(String),
    /// From the node's own disk.
    Durable(EntryId),
    /// From the node's own state machine.
    Applied(Index),
}

/// What a script sets of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) is_async: bool,
    /// Entries are applied one a Ready.
    pub(super) applies_singly: bool,
    /// It begins without a configuration of its own; that it was told one counts for nothing before it holds something.
    pub(super) is_blank: bool,
    /// `forget-leader` does nothing, as leases depend on the leader.
    pub(super) has_leases: bool,
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
        let input = Input::Propose { count: 1, bytes: payload.len() as u64 };
        match self.turn(input, &[], Some(&payload)) {
            Some(Rejected::NotLeader { leader: Some(leader) }) => {
                self.unready.send.push((leader, Parcel::Proposal(payload)));
                true
            }
            other => other.is_none(),
        }
    }

    pub(super) fn unreachable(&mut self, node: NodeId) {
        self.step(Input::Unreachable { node });
    }

    /// Takes in what has arrived.
    pub(super) fn receive(&mut self, from: NodeId, parcel: Parcel) {
        match parcel {
            Parcel::Message { message, entries } => {
                let runs = runs(&entries);
                self.turn(Input::Message { from, message, runs: &runs }, &entries, None);
            }
            Parcel::Snapshot { term, id, configuration } => {
                self.step(Input::SnapshotReceived { from, term, id, configuration: &configuration });
            }
            Parcel::Proposal(payload) => _ = self.propose(payload),
            Parcel::Durable(id) => self.step(Input::Durable { id }),
            Parcel::Applied(index) => self.step(Input::Applied { index }),
        }
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
        let restored = Restored {
            hard_state: self.group.hard_state(),
            compacted: self.group.compacted(),
            configuration: self.group.configuration().clone(),
            runs: self.group.runs().to_vec(),
            last: self.group.last().index,
            applied: self.group.applied(),
        };
        self.group = Group::new(self.config.clone(), restored, self.now);
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

    /// A snapshot of what is applied here.
    pub(super) fn snapshot(&self) -> Option<Parcel> {
        let index = self.group.applied();
        let id = EntryId::new(self.group.term_at(index)?, index);
        Some(Parcel::Snapshot {
            term: self.group.term(),
            id,
            configuration: self.group.configuration().clone(),
        })
    }

    fn step(&mut self, input: Input<'_>) {
        self.turn(input, &[], None);
    }

    /// Steps an input with what lies beside it, ends the turn, and says whether proposals were refused.
    fn turn(&mut self, input: Input<'_>, entries: &[Entry], payload: Option<&str>) -> Option<Rejected> {
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        self.group.step(self.now, input, &mut effects);
        self.collect(&effects, entries, payload);
        let rejected = effects.rejected;
        effects.clear();
        self.group.flush(self.now, &mut effects);
        self.collect(&effects, &[], None);
        self.effects = effects;
        self.ship();
        if std::mem::replace(&mut self.deadline, self.group.next_deadline()) != self.deadline {
            self.elapsed = 0;
        }
        rejected
    }

    fn collect(&mut self, effects: &Effects, entries: &[Entry], payload: Option<&str>) {
        self.unready.hard_state = effects.hard_state.or(self.unready.hard_state);
        match effects.append {
            Some(Append::Own { id, noop, .. }) => {
                let payload = if noop { None } else { payload.map(str::to_owned) };
                self.append(id.index, vec![Entry { id, payload }]);
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
            self.unready.send.extend(self.snapshot().map(|snapshot| (peer, snapshot)));
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
            while let Some(shipment) = self.group.next_shipment(to) {
                let entries: Vec<Entry> = if shipment.first <= shipment.last && shipment.bytes_max > 0 {
                    self.log.range(shipment.first..=shipment.last).map(|(_, entry)| entry.clone()).collect()
                } else {
                    Vec::new()
                };
                let last = entries.last().map_or(shipment.prev.index, |entry| entry.id.index);
                self.group.shipped(to, last, entries.len() as u64);
                let message =
                    Message::Append { term: shipment.term, prev: shipment.prev, commit: shipment.commit };
                self.unready.send.push((to, Parcel::Message { message, entries }));
            }
        }
    }

    /// Whether there is something to hand on.
    pub(super) fn has_ready(&self) -> bool {
        let Unready { hard_state, install, entries, send, send_durable } = &self.unready;
        hard_state.is_some()
            || install.is_some()
            || !(entries.is_empty() && send.is_empty() && send_durable.is_empty())
            || self.told_commit != self.group.commit()
            || self.to_apply().is_some()
    }

    /// The last entry that the state machine may have now: with asynchronous writes, only what is durable here.
    fn to_apply(&self) -> Option<Index> {
        let commit = self.group.commit();
        let known = if self.options.is_async { commit.min(self.group.durable()) } else { commit };
        let to = if self.options.applies_singly { known.min(self.handed.next()) } else { known };
        (to > self.handed).then_some(to)
    }

    /// Hands on what waits.
    pub(super) fn ready(&mut self, outcome: &mut Outcome) {
        // A group of one votes and leads in one step; etcd hands on the term first, then what was appended in it.
        let leads_alone = self.group.is_leader() && !self.unready.entries.is_empty();
        if leads_alone && self.unready.hard_state.take().is_some() {
            return;
        }
        let Unready { hard_state, install, entries, mut send, send_durable } =
            std::mem::take(&mut self.unready);
        let is_commit_new =
            std::mem::replace(&mut self.told_commit, self.group.commit()) != self.group.commit();
        self.tell_votes(&send_durable, outcome);
        self.tell_snapshots(&send, outcome);
        let applied = self.to_apply();
        if let Some(to) = applied {
            for entry in self.log.range(self.handed.next()..=to).map(|(_, entry)| entry.to_string()) {
                outcome.tell(&Fact::Applied { node: self.group.node().0, entry: &entry });
            }
            self.handed = to;
        }
        // Requests for votes speak of the term and the vote, and those are durable now.
        let (requests, answers) =
            send_durable.into_iter().partition::<Vec<_>, _>(|(_, parcel)| is_request(parcel));
        send.extend(requests);
        let batch = Batch { install, entries, then: answers };
        if self.options.is_async {
            outcome.letters.append(&mut send);
            let is_written = hard_state.is_some() || is_commit_new || batch.install.is_some();
            if is_written || !batch.entries.is_empty() || !batch.then.is_empty() {
                self.writes.push_back(batch);
            }
            self.applies.extend(applied);
            return;
        }
        let durable = self.write(&batch, outcome);
        outcome.letters.append(&mut send);
        outcome.letters.extend(batch.then);
        if let Some(index) = applied {
            self.step(Input::Applied { index });
        }
        if let Some(id) = durable {
            self.step(Input::Durable { id });
        }
    }

    fn write(&mut self, batch: &Batch, outcome: &mut Outcome) -> Option<EntryId> {
        let node = self.group.node().0;
        if let Some(install) = &batch.install {
            if !install.keep_tail {
                self.disk.clear();
            }
            self.disk = self.disk.split_off(&install.id.index.next());
            self.disk_compacted = install.id;
            outcome.tell(&Fact::Installed { node, what: &content(install.id, &install.configuration) });
        }
        if let Some(first) = batch.entries.first() {
            self.disk.split_off(&first.id.index);
        }
        for entry in &batch.entries {
            outcome.tell(&Fact::Durable { node, entry: &entry.to_string() });
            self.disk.insert(entry.id.index, entry.clone());
        }
        batch.entries.last().map(|entry| entry.id)
    }

    /// Writes what waits longest, and lets go what waited for it. `false`: there is nothing.
    pub(super) fn append_work(&mut self, outcome: &mut Outcome) -> bool {
        let Some(batch) = self.writes.pop_front() else { return false };
        let durable = self.write(&batch, outcome);
        outcome.letters.extend(batch.then);
        let node = self.group.node();
        outcome.letters.extend(durable.map(|id| (node, Parcel::Durable(id))));
        true
    }

    /// Applies what waits longest. `false`: there is nothing.
    pub(super) fn apply_work(&mut self, outcome: &mut Outcome) -> bool {
        let Some(index) = self.applies.pop_front() else { return false };
        outcome.letters.push((self.group.node(), Parcel::Applied(index)));
        true
    }

    pub(super) fn has_append_work(&self) -> bool {
        !self.writes.is_empty()
    }

    pub(super) fn has_apply_work(&self) -> bool {
        !self.applies.is_empty()
    }

    fn tell_votes(&self, letters: &[(NodeId, Parcel)], outcome: &mut Outcome) {
        let from = self.group.node().0;
        for (to, parcel) in letters {
            let Parcel::Message { message, .. } = parcel else { continue };
            let (is_pre, term, granted) = match *message {
                Message::VoteReply { term, granted } => (false, term, granted),
                Message::PreVoteReply { term, granted } => (true, term, granted),
                _ => continue,
            };
            outcome.tell(&Fact::Vote { from, to: to.0, is_pre, granted, term: term.0 });
        }
    }

    fn tell_snapshots(&self, letters: &[(NodeId, Parcel)], outcome: &mut Outcome) {
        for (to, parcel) in letters {
            if let Parcel::Snapshot { id, configuration, .. } = parcel {
                let (from, what) = (self.group.node().0, content(*id, configuration));
                outcome.tell(&Fact::SnapshotSent { from, to: to.0, what: &what });
            }
        }
    }

    /// The lines of `raft-log`: what is on disk.
    pub(super) fn disk_lines(&self) -> Vec<String> {
        if self.disk.is_empty() {
            let last = self.disk_compacted.index;
            return vec![format!("log is empty: first index={}, last index={}", last.next().0, last.0)];
        }
        self.disk.values().map(Entry::to_string).collect()
    }

    /// Who takes part, as far as this replica holds it.
    pub(super) fn configuration(&self) -> Configuration {
        let holds_nothing = self.options.is_blank && self.group.last().index == Index(0);
        if holds_nothing { Configuration::default() } else { self.group.configuration().clone() }
    }

    /// The lines of `status`, as far as they are compared: how far each replica is known to match, in the leader's eyes.
    pub(super) fn match_lines(&self) -> Vec<String> {
        let group = &self.group;
        if !group.is_leader() {
            return Vec::new();
        }
        let matched = |node| match group.progress(node) {
            Some(peer) => peer.matched,
            None => group.durable(),
        };
        let replicas = group.configuration().replicas();
        replicas.into_iter().map(|node| format!("{}: match={}", node.0, matched(node).0)).collect()
    }

    /// The entry at `index`, if it is held.
    pub(super) fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(&index)
    }

    /// The line of `raft-state`.
    pub(super) fn state_line(&self) -> String {
        let group = &self.group;
        let node = group.node();
        let voter = if self.configuration().is_voter(node) { "Voter" } else { "Non-Voter" };
        let leader = group.leader().map_or(0, |leader| leader.0);
        format!("{}: {} ({voter}) Term:{} Lead:{leader}", node.0, role_name(group.role()), group.term().0)
    }
}

pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

const fn is_request(parcel: &Parcel) -> bool {
    matches!(parcel, Parcel::Message { message: Message::Vote { .. } | Message::PreVote { .. }, .. })
}

/// A snapshot in etcd's words.
pub(super) fn content(id: EntryId, configuration: &Configuration) -> String {
    let list = |nodes: &[NodeId]| nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(" ");
    format!(
        "Index:{} Term:{} ConfState:Voters:[{}] VotersOutgoing:[{}] Learners:[{}] LearnersNext:[{}] AutoLeave:{}",
        id.index.0,
        id.term.0,
        list(&configuration.voters),
        list(&configuration.outgoing),
        list(&configuration.learners),
        list(&configuration.learners_next),
        configuration.auto_leave
    )
}

/// Entries as the core sees them.
fn runs(entries: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.term == entry.id.term => run.count += 1,
            _ => runs.push(Run { term: entry.id.term, count: 1 }),
        }
    }
    runs
}
