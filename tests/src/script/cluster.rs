//! The cluster: replicas, one clock, one wire; turns, and the checks after each.

use std::collections::BTreeMap;
use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, NodeId, Term, Time};
use raftwerk_raft::invariant::ClusterChecker;
use raftwerk_raft::quorum::{self, VoteResult};
use raftwerk_raft::{Config, Group, Input, Opening};

use super::arguments::{Arguments, parse};
use super::image::{Entry, Image, memberships, runs};
use super::replica::{Beside, Replica};
use super::trace::Trace;
use super::wire::{Letter, Parcel, Wire};

/// T, and with it everything that takes time.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(1000);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// More letters than any story has: a cluster that never falls silent is a finding.
const LETTERS_MAX: u32 = 10_000;

/// A cluster in the middle of its story.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) now: Time,
    pub(crate) replicas: BTreeMap<NodeId, Replica>,
    pub(crate) wire: Wire,
    pub(crate) trace: Trace,
    /// The token of the last read.
    pub(crate) reads: u64,
    is_manual: bool,
    checker: ClusterChecker,
    applied: BTreeMap<Index, Entry>,
}

impl Cluster {
    /// Starts as the options say.
    pub(crate) fn start(&mut self, arguments: &mut Arguments<'_>) -> Result<(), String> {
        let config = Config {
            node: NodeId(0),
            log: raftwerk_frame::LogId(0),
            group: GroupId(1),
            seed: 7,
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            first_timeout: None,
            window_bytes: arguments.number("window")?.unwrap_or(256),
            window_messages: arguments.number("messages")?.unwrap_or(64) as u32,
            append_bytes_max: arguments.number("append")?.unwrap_or(64),
            uncommitted_bytes_max: arguments.number("uncommitted")?.unwrap_or(1000),
            commit_delay: Duration::ZERO,
            retirement: ELECTION_TIMEOUT,
            abstention: Duration::ZERO,
            opening: match arguments.text("opening") {
                None => Opening::Core,
                Some("driver") => Opening::Driver,
                Some(other) => return Err(format!("opening={other}: driver, or nothing")),
            },
            pre_vote: arguments.is_on("pre-vote")?,
            check_quorum: arguments.is_on("check-quorum")?,
        };
        let nodes = arguments.number("nodes")?.unwrap_or(3);
        let learners = arguments.number("learners")?.unwrap_or(0);
        let mut configuration = Configuration::of_voters((1..=nodes).map(NodeId));
        configuration.learners = (nodes + 1..=nodes + learners).map(NodeId).collect();
        let witnesses = arguments.number("witnesses")?.unwrap_or(0);
        configuration.witnesses = (nodes.saturating_sub(witnesses) + 1..=nodes).map(NodeId).collect();
        *self = Self::default();
        self.set_durability(arguments.text("durability").unwrap_or("auto"))?;
        for node in configuration.replicas() {
            let mut disk = Image::default();
            disk.checkpoint.configuration = configuration.clone();
            let config = Config { node, ..config.clone() };
            let is_witness = configuration.is_witness(node);
            self.replicas.insert(node, Replica::new(config, disk, is_witness, self.now));
        }
        Ok(())
    }

    /// A node with an empty replica that knows nobody.
    pub(crate) fn join(&mut self, node: NodeId, is_witness: bool) -> Result<(), String> {
        if self.replicas.contains_key(&node) {
            return Err(format!("node {} is there already", node.0));
        }
        let like = self.replicas.values().next().ok_or("there is no cluster to join")?;
        let config = Config { node, ..like.config.clone() };
        self.replicas.insert(node, Replica::new(config, Image::default(), is_witness, self.now));
        Ok(())
    }

    /// Whether a turn's batch is durable at once, or waits to be told.
    pub(crate) fn set_durability(&mut self, durability: &str) -> Result<(), String> {
        self.is_manual = match durability {
            "auto" => false,
            "manual" => true,
            other => return Err(format!("durability {other:?}: auto or manual")),
        };
        Ok(())
    }

    /// Starts a replica anew from a disk with entries of these terms.
    pub(crate) fn give(&mut self, node: NodeId, arguments: &mut Arguments<'_>) -> Result<(), String> {
        let term = Term(arguments.number("term")?.unwrap_or(0));
        let vote = arguments.node("vote")?;
        let mut log = Vec::new();
        for text in arguments.text("log").unwrap_or_default().split(',').filter(|text| !text.is_empty()) {
            let id = EntryId::new(Term(parse(text)?), Index(log.len() as u64 + 1));
            log.push(Entry::with_payload(id, Some(id.to_string())));
        }
        let now = self.now;
        let replica = self.replica(node)?;
        let checkpoint = replica.disk.checkpoint.clone();
        let disk = Image { hard_state: HardState { term, vote }, checkpoint, log };
        *replica = replica.again(disk, now);
        Ok(())
    }

    pub(crate) fn replica(&mut self, node: NodeId) -> Result<&mut Replica, String> {
        self.replicas.get_mut(&node).ok_or_else(|| format!("there is no node {}", node.0))
    }

    /// The group of a node that is up.
    pub(crate) fn group(&mut self, node: NodeId) -> Result<&Group, String> {
        self.replica(node)?.group.as_ref().ok_or_else(|| format!("node {} is down", node.0))
    }

    /// Gives a node inputs, and ends its turn.
    pub(crate) fn turn(
        &mut self,
        node: NodeId,
        inputs: impl FnOnce(&mut Replica, Time, &mut Trace),
    ) -> Result<(), String> {
        self.group(node)?;
        let Some(replica) = self.replicas.get_mut(&node) else { return Ok(()) };
        inputs(replica, self.now, &mut self.trace);
        replica.end_turn(self.now, &mut self.trace);
        self.post(node);
        self.check()?;
        if !self.is_manual {
            while self.sync(node)?.is_some() {}
        }
        Ok(())
    }

    /// A turn with one input.
    pub(crate) fn input(&mut self, node: NodeId, input: Input<'_>) -> Result<(), String> {
        self.turn(node, |replica, now, trace| replica.step(now, input, Beside::default(), trace))
    }

    /// The oldest batch of a node becomes durable: letters leave, and the group learns of it in a turn of its own.
    /// `None` if there is no batch.
    pub(crate) fn sync(&mut self, node: NodeId) -> Result<Option<()>, String> {
        let (now, is_manual) = (self.now, self.is_manual);
        let Some(replica) = self.replicas.get_mut(&node) else { return Ok(None) };
        let Some(last) = replica.sync() else { return Ok(None) };
        if is_manual {
            let what = last.map_or_else(|| "its hard state".to_owned(), |id| id.to_string());
            self.trace.deed(format_args!("{} has durable: {what}", node.0));
        }
        self.post(node);
        if let Some(replica) = self.replicas.get_mut(&node) {
            if let Some(id) = last {
                replica.step(now, Input::Durable { id }, Beside::default(), &mut self.trace);
            }
            replica.end_turn(now, &mut self.trace);
        }
        self.post(node);
        self.check()?;
        Ok(Some(()))
    }

    /// Puts what may leave on the wire.
    fn post(&mut self, from: NodeId) {
        let ready = self.replicas.get_mut(&from).map(Replica::ready).unwrap_or_default();
        for (to, parcel) in ready {
            let letter = Letter { number: 0, from, to, parcel };
            let is_cut = self.wire.is_cut(from, to);
            self.trace.letter(if is_cut { "-x" } else { "->" }, &letter);
            if !is_cut {
                self.wire.put(from, to, letter.parcel);
            }
        }
    }

    /// A letter arrives, if the link and the receiver are there.
    pub(crate) fn deliver(&mut self, number: u64) -> Result<(), String> {
        let letter = self.wire.take(number).ok_or_else(|| format!("there is no message #{number}"))?;
        if self.wire.is_cut(letter.from, letter.to) || self.group(letter.to).is_err() {
            self.trace.letter("-x", &letter);
            return Ok(());
        }
        self.trace.letter("=>", &letter);
        self.trace.is_deep = true;
        let from = letter.from;
        let result = self.turn(letter.to, |replica, now, trace| match &letter.parcel {
            Parcel::Message { message, entries } => {
                let (runs, memberships, message) = (runs(entries), memberships(entries), *message);
                let input = match &memberships[..] {
                    [] => Input::Message { from, message, runs: &runs },
                    memberships => Input::Memberships { from, message, runs: &runs, memberships },
                };
                replica.step(now, input, Beside { entries, ..Beside::default() }, trace);
            }
            Parcel::Snapshot { term, checkpoint, progress_epoch } => {
                let (id, configuration, progress_epoch) =
                    (checkpoint.id, &checkpoint.configuration, *progress_epoch);
                let input = Input::SnapshotReceived { from, term: *term, id, configuration, progress_epoch };
                replica.step(now, input, Beside { checkpoint: Some(checkpoint), ..Beside::default() }, trace);
            }
        });
        self.trace.is_deep = false;
        result
    }

    /// Letters arrive until none is left.
    pub(crate) fn stabilize(&mut self) -> Result<(), String> {
        for _ in 0..LETTERS_MAX {
            let Some(&number) = self.wire.select(super::wire::Filter::default()).first() else {
                return Ok(());
            };
            self.deliver(number)?;
        }
        Err(format!("not silent after {LETTERS_MAX} messages"))
    }

    /// Time passes until a node's deadline, and its timer fires.
    pub(crate) fn time_out(&mut self, node: NodeId) -> Result<(), String> {
        self.now = self.now.max(self.group(node)?.next_deadline());
        self.input(node, Input::Timeout)
    }

    /// Time passes, timers fire in order; in between, `silence` may let messages arrive.
    pub(crate) fn advance(
        &mut self,
        millis: u64,
        mut silence: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let end = self.now + Duration::from_millis(millis);
        silence(self)?;
        loop {
            let up = self.replicas.iter().filter_map(|(node, replica)| Some((node, replica.group.as_ref()?)));
            let next = up.map(|(node, group)| (group.next_deadline(), *node)).min();
            let Some((at, node)) = next.filter(|(at, _)| *at <= end) else { break };
            self.time_out(node)?;
            if self.group(node)?.next_deadline() <= at {
                return Err(format!("the timer of node {} fires for ever", node.0));
            }
            silence(self)?;
        }
        self.now = end;
        Ok(())
    }

    /// The rules that hold after every step.
    fn check(&mut self) -> Result<(), String> {
        let groups = self.replicas.values().filter_map(|replica| replica.group.as_ref());
        let checked = self.checker.check(groups.clone());
        checked.map_err(|violation| format!("rule {} is broken: {}", violation.rule, violation.what))?;
        for (node, replica) in &self.replicas {
            for entry in replica.state.iter().filter(|entry| !entry.is_withheld) {
                let first = self.applied.entry(entry.id.index).or_insert_with(|| entry.clone());
                if first != entry {
                    return Err(format!("node {} applied {entry:?}, another {first:?}", node.0));
                }
            }
        }
        let highest = groups.clone().max_by_key(|group| group.commit());
        let Some((group, term)) = highest.and_then(|group| Some((group, group.term_at(group.commit())?)))
        else {
            return Ok(());
        };
        let id = EntryId::new(term, group.commit());
        // Counted by the configuration in force at the leader, or by the one just left with this step.
        let mut by = group.memberships().map(|(_, configuration)| configuration.clone()).collect::<Vec<_>>();
        by.drain(..by.len().saturating_sub(2));
        let holds = |node: NodeId| self.replicas.get(&node).map(|replica| replica.has_durable(id));
        if id.index > Index(0) && !by.iter().any(|by| quorum::vote_result(by, holds) == VoteResult::Won) {
            return Err(format!("{id} is committed, and not durable on a majority"));
        }
        let whole = |by: &Configuration| {
            let mut whole = by.replicas().into_iter().filter(|node| !by.is_witness(*node));
            whole.any(|node| holds(node) == Some(true))
        };
        if id.index > Index(0) && !by.iter().any(whole) {
            return Err(format!("{id} is committed, and nobody holds it whole"));
        }
        Ok(())
    }
}
