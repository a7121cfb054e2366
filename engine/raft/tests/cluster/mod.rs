//! Replicas of one group in memory, driven by hand: the crate's public contract, step by step. The test
//! decides on time, order, loss and durability, and `check` checks everything after every turn. Not a
//! simulator of the engine: no bytes, no files, no sockets. Next: `disk` for durable state, `check` for the
//! rules.

mod check;
pub(crate) mod disk;
mod faults;
mod incarnation;
mod perform;
mod seen;
mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use raftwerk_frame::{
    Configuration, EntryId, GroupId, Index, LogId, Membership, Message, NodeId, Term, Time,
};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{
    Admission, Config, Effects, Group, Input, Opening, PeerStatus, Recipient, Reconfigure, Reconfigured,
    Rejected, Restored, Role, Transfer, Transition,
};

use check::Ledger;
pub(crate) use seen::Seen;

use disk::{Disk, Entry, Image, MEMBERSHIPS};

/// A millisecond of the cluster's clock.
pub(crate) const MS: u64 = 1_000_000;
/// The election timeout T, in milliseconds.
pub(crate) const T: u64 = 100;
/// The bytes of every entry.
pub(crate) const ENTRY_BYTES: u64 = 10;

/// The parameters of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) voters: u64,
    pub(crate) learners: u64,
    /// Nodes with an empty replica and no configuration.
    pub(crate) newcomers: u64,
    /// The last voters, this many, are witnesses …
    pub(crate) witnesses: u64,
    /// … and the last new members, this many.
    pub(crate) witness_newcomers: u64,
    pub(crate) seed: u64,
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
    pub(crate) window_bytes: u64,
    pub(crate) window_messages: u32,
    pub(crate) append_bytes_max: u64,
    pub(crate) uncommitted_bytes_max: u64,
    pub(crate) opening: Opening,
    /// Whether all writes are durable at the end of their turn.
    pub(crate) syncs_at_once: bool,
    /// Whether a restarted replica grants no vote for a while.
    pub(crate) abstains: bool,
    /// Whether configurations name the logs of members that are added.
    pub(crate) names_logs: bool,
    /// How long a new commit index waits for an entry to travel with, in milliseconds …
    pub(crate) commit_delay: u64,
    /// … and how long a leader without a vote waits for a successor.
    pub(crate) retirement: u64,
}

impl Options {
    pub(crate) const fn of(voters: u64) -> Self {
        Self {
            voters,
            learners: 0,
            newcomers: 0,
            witnesses: 0,
            witness_newcomers: 0,
            seed: 1,
            pre_vote: true,
            check_quorum: true,
            window_bytes: 100 * ENTRY_BYTES,
            window_messages: 8,
            append_bytes_max: 10 * ENTRY_BYTES,
            uncommitted_bytes_max: 1000 * ENTRY_BYTES,
            opening: Opening::Core,
            syncs_at_once: true,
            abstains: false,
            names_logs: false,
            commit_delay: 0,
            retirement: T,
        }
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::of_voters((1..=self.voters).map(NodeId));
        let last = self.voters + self.learners;
        configuration.learners = (self.voters + 1..=last).map(NodeId).collect();
        configuration.witnesses =
            (1..=self.voters).filter(|node| self.is_witness(*node)).map(NodeId).collect();
        configuration
    }

    /// Whether a node is a witness, for the whole test.
    pub(crate) const fn is_witness(&self, node: u64) -> bool {
        let is_founder = node <= self.voters && node > self.voters - self.witnesses;
        is_founder || node > self.replicas() - self.witness_newcomers
    }

    pub(crate) const fn replicas(&self) -> u64 {
        self.voters + self.learners + self.newcomers
    }
}

/// The content of a packet.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Message { message: Message, entries: Vec<Entry> },
    Snapshot { term: Term, snapshot: disk::Checkpoint, progress_epoch: u16 },
}

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The sender's log, the address that the sender has for the receiver, whether its configuration names
    /// itself, and whether the receiver is a witness in it; `None` for a message of the test's own making.
    pub(crate) logs: Option<(LogId, Recipient, bool, bool)>,
    pub(crate) body: Body,
}

impl Packet {
    pub(crate) const fn message(&self) -> Option<Message> {
        match self.body {
            Body::Message { message, .. } => Some(message),
            Body::Snapshot { .. } => None,
        }
    }

    pub(crate) const fn is_snapshot(&self) -> bool {
        matches!(self.body, Body::Snapshot { .. })
    }

    pub(crate) const fn is_append(&self) -> bool {
        matches!(self.message(), Some(Message::Append { .. }))
    }

    /// The entries that the packet carries.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.body {
            Body::Message { entries, .. } => entries,
            Body::Snapshot { .. } => &[],
        }
    }

    pub(crate) const fn is_ack(&self) -> bool {
        matches!(self.message(), Some(Message::AppendAck { .. }))
    }

    pub(crate) const fn is_reject(&self) -> bool {
        matches!(self.message(), Some(Message::AppendReject { .. }))
    }

    pub(crate) const fn is_vote(&self) -> bool {
        matches!(self.message(), Some(Message::Vote { .. } | Message::VoteReply { .. }))
    }

    pub(crate) const fn is_pre_vote(&self) -> bool {
        matches!(self.message(), Some(Message::PreVote { .. } | Message::PreVoteReply { .. }))
    }

    pub(crate) const fn is_heartbeat(&self) -> bool {
        matches!(self.message(), Some(Message::Heartbeat { .. } | Message::HeartbeatAck { .. }))
    }
}

/// One replica: the core under test, and what its driver keeps beside it.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) group: Option<Group>,
    pub(crate) disk: Disk,
    /// A new one each time that the disk was lost.
    pub(crate) log: LogId,
    /// The first log that was received of each node.
    pub(crate) first: BTreeMap<u64, LogId>,
    /// The disk has lost durable state.
    pub(crate) has_lost: bool,
    /// Messages that are held until this position is durable.
    held: VecDeque<(u64, Packet)>,
    pub(crate) applied: Index,
    pub(crate) state: u64,
    pub(crate) rejected: Option<Rejected>,
    /// The outcomes of membership change requests, in order.
    pub(crate) reconfigured: Vec<Reconfigured>,
    pub(crate) transfers: Vec<Transfer>,
    /// The configurations that it has reported as settled.
    pub(crate) settled: Vec<Index>,
    pub(crate) reads: Vec<(u64, Index)>,
    pub(crate) reads_rejected: Vec<u64>,
}

/// Nodes 1..=n, the network between them, and the facts that must hold for ever.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) options: Options,
    pub(crate) now: Time,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) network: VecDeque<Packet>,
    pub(crate) seen: Seen,
    /// One-way links that lose everything.
    cut: BTreeSet<(u64, u64)>,
    effects: Effects,
    /// In a leader's step: the configuration that it counts by.
    counted_by: Option<Configuration>,
    ledger: Ledger,
    payload_next: u64,
    /// The configurations that payloads represent.
    configurations: Vec<Configuration>,
    read_next: u64,
    /// For an unanswered read: what was committed anywhere when it arrived.
    reads_open: BTreeMap<u64, Index>,
}

impl Cluster {
    pub(crate) fn new(options: Options) -> Self {
        let images = (0..options.replicas()).map(|_| Image::default()).collect();
        Self::with_images(options, images)
    }

    /// Replicas with logs of entries of these terms. The replica's term is its element of `terms`.
    pub(crate) fn with_logs(options: Options, logs: &[&[u64]], terms: &[u64]) -> Self {
        let image = |(log, term): (&&[u64], &u64)| {
            let entry =
                |(at, &term): (usize, &u64)| Entry { term: Term(term), payload: term * 1000 + at as u64 };
            let mut image =
                Image { entries: log.iter().enumerate().map(entry).collect(), ..Image::default() };
            image.hard_state.term = Term(*term);
            image
        };
        Self::with_images(options, logs.iter().zip(terms).map(image).collect())
    }

    /// Replicas that all hold entries of these terms, the last of which is their term.
    pub(crate) fn with_one_log(options: Options, log: &[u64]) -> Self {
        let count = options.replicas() as usize;
        let term = log.last().copied().unwrap_or_default();
        Self::with_logs(options, &vec![log; count], &vec![term; count])
    }

    fn with_images(options: Options, images: Vec<Image>) -> Self {
        let begun_with = options.configuration();
        let of_node = |(at, mut image): (usize, Image)| {
            let knows = begun_with.contains(NodeId(at as u64 + 1));
            image.membership = if knows { MEMBERSHIPS } else { 0 };
            image.checkpoint.membership = image.membership;
            image
        };
        let images: Vec<Image> = images.into_iter().enumerate().map(of_node).collect();
        let replica = |(at, image): (usize, Image)| Replica {
            log: LogId(100 * (at as u64 + 1)),
            first: BTreeMap::new(),
            group: None,
            disk: Disk::new(image),
            held: VecDeque::new(),
            has_lost: false,
            applied: Index(0),
            state: 0,
            rejected: None,
            reconfigured: Vec::new(),
            transfers: Vec::new(),
            settled: Vec::new(),
            reads: Vec::new(),
            reads_rejected: Vec::new(),
        };
        let mut cluster = Self {
            replicas: images.into_iter().enumerate().map(replica).collect(),
            options,
            now: Time(MS),
            network: VecDeque::new(),
            seen: Seen::default(),
            cut: BTreeSet::new(),
            effects: Effects::default(),
            counted_by: None,
            ledger: Ledger::default(),
            payload_next: 1_000_000,
            configurations: vec![begun_with.clone()],
            read_next: 1,
            reads_open: BTreeMap::new(),
        };
        for node in cluster.nodes() {
            cluster.restart(node);
        }
        cluster.check();
        cluster
    }

    pub(crate) fn nodes(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.options.replicas()
    }

    pub(crate) fn replica(&self, node: u64) -> &Replica {
        &self.replicas[node as usize - 1]
    }

    pub(crate) fn replica_mut(&mut self, node: u64) -> &mut Replica {
        &mut self.replicas[node as usize - 1]
    }

    pub(crate) fn is_up(&self, node: u64) -> bool {
        self.replica(node).group.is_some()
    }

    /// The core of a replica that is up.
    pub(crate) fn group(&self, node: u64) -> &Group {
        self.replica(node).group.as_ref().expect("the replica is up")
    }

    pub(crate) fn progress(&self, leader: u64, peer: u64) -> PeerStatus {
        self.group(leader).progress(NodeId(peer)).expect("the leader knows its peers")
    }

    /// The leader of the highest term, if there is one.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.nodes().filter(|&node| self.is_up(node) && self.group(node).is_leader());
        leaders.max_by_key(|&node| self.group(node).term())
    }

    /// The terms of the entries that a replica has written.
    pub(crate) fn log(&self, node: u64) -> Vec<u64> {
        self.replica(node).disk.written.entries.iter().map(|entry| entry.term.0).collect()
    }

    /// How many entries are committed for good.
    pub(crate) fn committed(&self) -> u64 {
        self.ledger.len()
    }

    /// Starts a replica from its durable state.
    pub(crate) fn restart(&mut self, node: u64) {
        let config = self.config(node);
        let now = self.now;
        let replica = self.replica_mut(node);
        replica.disk.crash();
        replica.held.clear();
        let image = replica.disk.durable.clone();
        let configuration = self.configuration_of(image.membership);
        let memberships = image
            .memberships()
            .map(|(index, payload)| Membership { index, configuration: self.configuration_of(payload) });
        let memberships: Vec<Membership> = memberships.collect();
        let restored = Restored {
            origin: image.origin,
            is_witness: self.options.is_witness(node),
            hard_state: image.hard_state,
            compacted: image.compacted,
            configuration,
            runs: image.term_runs(),
            last: image.last().index,
            applied: image.checkpoint.id.index,
        };
        let replica = self.replica_mut(node);
        (replica.applied, replica.state) = (image.checkpoint.id.index, image.checkpoint.state);
        replica.group = Some(Group::restore(config, restored, memberships, now));
        self.ledger.forget(node);
    }

    /// The configuration that a payload represents; an empty one for 0.
    pub(crate) fn configuration_of(&self, payload: u64) -> Configuration {
        match payload.checked_sub(MEMBERSHIPS) {
            Some(at) => self.configurations[at as usize].clone(),
            None => Configuration::default(),
        }
    }

    fn config(&self, node: u64) -> Config {
        let options = &self.options;
        Config {
            node: NodeId(node),
            log: self.replica(node).log,
            group: GroupId(1),
            seed: options.seed,
            election_timeout: Duration::from_nanos(T * MS),
            heartbeat_interval: Duration::from_nanos(T * MS / 10),
            first_timeout: None,
            window_bytes: options.window_bytes,
            window_messages: options.window_messages,
            append_bytes_max: options.append_bytes_max,
            uncommitted_bytes_max: options.uncommitted_bytes_max,
            commit_delay: Duration::from_nanos(options.commit_delay * MS),
            retirement: Duration::from_nanos(options.retirement * MS),
            abstention: Duration::from_nanos(if options.abstains { T * MS } else { 0 }),
            opening: options.opening,
            pre_vote: options.pre_vote,
            check_quorum: options.check_quorum,
        }
    }

    // Actions of a test. Each is a whole turn: inputs, flush, appends, and then the checks.

    pub(crate) fn campaign(&mut self, node: u64) {
        self.input(node, Input::Campaign);
        self.finish(node);
    }

    /// Campaigns and delivers everything: a leader, unless the protocol forbids it.
    pub(crate) fn elect(&mut self, node: u64) {
        self.campaign(node);
        self.settle();
        assert_eq!(self.group(node).role(), Role::Leader, "node {node} was to lead");
    }

    /// As [`Cluster::elect`], with the others restarted first, so that they no longer protect an old leader.
    pub(crate) fn elect_among(&mut self, node: u64) {
        for other in self.nodes().filter(|&other| other != node) {
            if self.is_up(other) && !self.group(other).is_leader() {
                self.crash(other);
                self.restart(other);
            }
        }
        self.elect(node);
    }

    pub(crate) fn propose(&mut self, node: u64, count: u32) {
        self.input(node, Input::Propose { count, bytes: u64::from(count) * ENTRY_BYTES });
        self.finish(node);
    }

    /// Steps reads, all in one turn; returns the token of the first. The tokens are consecutive.
    pub(crate) fn read(&mut self, node: u64, count: u64) -> u64 {
        let first = self.read_next;
        for token in first..first + count {
            self.reads_open.insert(token, Index(self.committed()));
            self.read_next += 1;
            self.input(node, Input::Read { token });
        }
        self.finish(node);
        first
    }

    /// Requests a membership change; returns its immediate outcome, if there was any.
    pub(crate) fn reconfigure(&mut self, node: u64, wish: Reconfigure<'_>) -> Option<Reconfigured> {
        let told = self.replica(node).reconfigured.len();
        self.input(node, Input::Reconfigure(wish));
        let outcome = self.replica(node).reconfigured.get(told).cloned();
        self.finish(node);
        outcome
    }

    /// As [`Cluster::reconfigure`], for changes that must begin: without health checks.
    pub(crate) fn change(&mut self, node: u64, transition: Transition, changes: &[Change]) -> Index {
        let admission = Admission::Unchecked;
        let logs = self.logs_of(node, changes);
        let wish =
            Reconfigure { changes, logs: &logs, expected_index: None, transition, admission, dry_run: false };
        match self.reconfigure(node, wish) {
            Some(Reconfigured::Started(index)) => index,
            other => panic!("{changes:?}: {other:?}"),
        }
    }

    /// The logs of the nodes that changes add, if configurations name them.
    fn logs_of(&self, leader: u64, changes: &[Change]) -> Vec<(NodeId, LogId)> {
        let nodes = changes.iter().map(|change| change.node());
        let is_new = |node: &NodeId| !self.group(leader).configuration().contains(*node);
        let nodes = nodes.filter(|node| self.options.names_logs && is_new(node));
        nodes.map(|node| (node, self.replica(node.0).log)).collect()
    }

    pub(crate) fn transfer(&mut self, node: u64, to: u64) {
        self.input(node, Input::Transfer { to: NodeId(to) });
        self.finish(node);
    }

    /// As [`Cluster::read`], at a replica of any role.
    pub(crate) fn on_follower_read(&mut self, node: u64, count: u64) -> u64 {
        let first = self.read_next;
        for token in first..first + count {
            self.reads_open.insert(token, Index(self.committed()));
            self.read_next += 1;
            self.input(node, Input::FollowerRead { token });
        }
        self.finish(node);
        first
    }

    pub(crate) fn unreachable(&mut self, node: u64, peer: u64) {
        self.input(node, Input::Unreachable { node: NodeId(peer) });
        self.finish(node);
    }

    pub(crate) fn snapshot_failed(&mut self, node: u64, peer: u64) {
        self.input(node, Input::SnapshotFailed { to: NodeId(peer) });
        self.finish(node);
    }

    /// Delivers a message of the test's own making.
    pub(crate) fn say(&mut self, from: u64, to: u64, message: Message, entries: &[Entry]) {
        let body = Body::Message { message, entries: entries.to_vec() };
        self.network.push_front(Packet { from, to, logs: None, body });
        self.deliver(0);
    }

    /// As [`Cluster::say`], whatever link is cut.
    pub(crate) fn give(&mut self, from: u64, to: u64, message: Message) {
        self.input(to, Input::Message { from: NodeId(from), message, runs: &[] });
        self.finish(to);
    }

    /// The state machine makes its state durable; with `compact`, the log up to there is dropped.
    pub(crate) fn checkpoint(&mut self, node: u64, compact: bool) {
        let replica = self.replica_mut(node);
        // A log begins with a durable entry.
        let to = replica.applied;
        if replica.group.as_ref().is_some_and(|group| group.durable() < to)
            || to <= replica.disk.written.checkpoint.id.index && !compact
        {
            return;
        }
        let term = replica.disk.written.term_at(to).expect("what is applied is held or just compacted");
        let membership = replica.disk.written.membership_up_to(to);
        let checkpoint = disk::Checkpoint { id: EntryId::new(term, to), state: replica.state, membership };
        replica.disk.write(disk::Write::Checkpoint(checkpoint));
        if compact {
            replica.disk.write(disk::Write::Compact(to));
            self.input(node, Input::Compacted { to });
        }
        self.finish(node);
    }

    /// Time passes: all timeouts fire as they become due, in order.
    pub(crate) fn advance(&mut self, ms: u64) {
        let end = Time(self.now.0 + ms * MS);
        loop {
            let due = |node: &u64| self.is_up(*node) && self.group(*node).next_deadline() <= end;
            let next = self.nodes().filter(due).min_by_key(|&node| self.group(node).next_deadline());
            let Some(node) = next else { break };
            self.now = self.now.max(self.group(node).next_deadline());
            self.input(node, Input::Timeout);
            self.finish(node);
            assert!(self.group(node).next_deadline() > self.now, "a timeout moves the deadline on");
        }
        self.now = end;
    }

    /// Delivers all packets, and those that follow from them, until none is under way.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.network.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("the replicas never fall silent: {:?}", self.network.front());
    }

    /// Time passes with a network that delivers within a millisecond.
    pub(crate) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.advance(1);
            self.settle();
        }
    }

    /// Runs until there is a leader that has committed all of its log.
    pub(crate) fn run_to_leader(&mut self) -> u64 {
        for _ in 0..50 * T {
            self.run(1);
            if let Some(leader) = self.leader()
                && self.group(leader).commit() == self.group(leader).last().index
            {
                return leader;
            }
        }
        panic!("no leader within 50 election timeouts");
    }
}
