//! The cluster that a script talks to: nodes, one queue of messages, and the commands.

use std::collections::BTreeMap;
use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Term};
use raftwerk_raft::{Config, Opening};

use super::super::datadriven::Command;
use super::node::{ELECTION_TICKS, Node, Options, Outcome};
use super::parcel::{Parcel, Wish, content, kind_of};
use super::printed::Fact;

/// More rounds than any script needs: a cluster that never settles is a finding.
const ROUNDS_MAX: u32 = 10_000;
/// etcd's default is to have this many appends on their way.
const IN_FLIGHT_DEFAULT: u32 = 256;

#[derive(Clone)]
struct Letter {
    from: NodeId,
    to: NodeId,
    parcel: Parcel,
}

/// A cluster in the middle of a script.
#[derive(Clone, Default)]
pub(super) struct Cluster {
    /// Whether writes wait for the script's word.
    pub(super) is_async: bool,
    nodes: BTreeMap<NodeId, Node>,
    letters: Vec<Letter>,
    facts: Vec<String>,
}

impl Cluster {
    pub(super) fn node(&self, node: u64) -> Option<&Node> {
        self.nodes.get(&NodeId(node))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.nodes.keys().map(|node| node.0)
    }

    /// What happened since the last time.
    pub(super) fn take_facts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.facts)
    }

    /// Does what a command says.
    pub(super) fn perform(&mut self, command: &Command) -> Result<(), String> {
        let nodes = || numbers(&command.words);
        let first = || Ok::<_, String>(NodeId(*nodes()?.first().ok_or("the command names no node")?));
        match command.name.as_str() {
            "log-level" => Ok(()),
            "status" => {
                let lines = self.at(first()?)?.match_lines();
                self.print(lines);
                Ok(())
            }
            "add-nodes" => self.add_nodes(command),
            "campaign" => self.at(first()?).map(Node::campaign),
            "propose" => self.propose(command),
            "propose-conf-change" => {
                let wish = Wish::of(command)?;
                self.at(first()?)?.wish(wish)
            }
            "transfer-leadership" => {
                let node = |key| number(command, key)?.map(NodeId).ok_or(format!("`{key}` is missing"));
                let (from, to) = (node("from")?, node("to")?);
                self.at(from).map(|node| node.transfer(to))
            }
            "stabilize" => self.stabilize(&nodes()?),
            "process-ready" => self.each(&nodes()?, |node, outcome| node.ready(outcome)),
            "process-append-thread" => self.each(&nodes()?, |node, outcome| _ = node.append_work(outcome)),
            "process-apply-thread" => self.each(&nodes()?, |node, outcome| _ = node.apply_work(outcome)),
            "deliver-msgs" => self.deliver_command(command),
            "tick-heartbeat" => self.at(first()?).map(Node::tick),
            "tick-election" => self.at(first()?).map(|node| (0..ELECTION_TICKS).for_each(|_| node.tick())),
            "set-randomized-election-timeout" => {
                let ticks = number(command, "timeout")?.ok_or("`timeout` is missing")?;
                self.at(first()?).map(|node| node.patience = ticks as u32)
            }
            "forget-leader" => self.at(first()?).and_then(Node::forget_leader),
            "report-unreachable" => match nodes()?[..] {
                [at, peer] => self.at(NodeId(at)).map(|node| node.unreachable(NodeId(peer))),
                _ => Err("two nodes are needed".to_owned()),
            },
            "send-snapshot" => match nodes()?[..] {
                [from, to] => self.send_snapshot(NodeId(from), NodeId(to)),
                _ => Err("two nodes are needed".to_owned()),
            },
            "compact" => match nodes()?[..] {
                [at, to] => {
                    let node = self.at(NodeId(at))?;
                    node.compact(Index(to))?;
                    let lines = node.disk_lines();
                    self.print(lines);
                    Ok(())
                }
                _ => Err("a node and an index are needed".to_owned()),
            },
            "raft-log" => {
                let lines = self.at(first()?)?.disk_lines();
                self.print(lines);
                Ok(())
            }
            "raft-state" => {
                let lines = self.nodes.values().map(Node::state_line).collect();
                self.print(lines);
                Ok(())
            }
            other => Err(format!("`{other}`: the core cannot do that yet")),
        }
    }

    fn print(&mut self, lines: Vec<String>) {
        self.facts.extend(lines.iter().map(|line| Fact::Line(line).to_string()));
    }

    fn at(&mut self, node: NodeId) -> Result<&mut Node, String> {
        self.nodes.get_mut(&node).ok_or_else(|| format!("there is no node {}", node.0))
    }

    fn add_nodes(&mut self, command: &Command) -> Result<(), String> {
        let count = numbers(&command.words)?.first().copied().ok_or("how many?")?;
        let list =
            |key| Ok::<_, String>(numbers(command.list(key))?.into_iter().map(NodeId).collect::<Vec<_>>());
        let mut configuration = Configuration::of_voters(list("voters")?);
        configuration.learners = list("learners")?;
        configuration.learners.sort_unstable();
        let index = Index(number(command, "index")?.unwrap_or(0));
        let at = EntryId::new(Term(u64::from(index > Index(0))), index);
        let is_on = |key: &str| command.list(key) == ["true"];
        self.is_async |= is_on("async-storage-writes");
        let options = Options {
            is_async: self.is_async,
            takes_all_changes: is_on("disable-conf-change-validation"),
            applies_singly: number(command, "max-committed-size-per-ready")?.is_some(),
            has_leases: command.list("read-only") == ["lease-based"],
            retires_at_once: is_on("step-down-on-removal"),
        };
        for _ in 0..count {
            let node = NodeId(self.nodes.last_key_value().map_or(0, |(node, _)| node.0) + 1);
            let config = Config {
                node,
                log: raftwerk_frame::LogId(0),
                group: GroupId(1),
                seed: node.0,
                election_timeout: Duration::ZERO,
                heartbeat_interval: Duration::ZERO,
                first_timeout: None,
                window_bytes: u64::MAX >> 1,
                window_messages: number(command, "inflight")?.map_or(IN_FLIGHT_DEFAULT, |count| count as u32),
                append_bytes_max: u64::MAX >> 1,
                uncommitted_bytes_max: u64::MAX >> 1,
                commit_delay: Duration::ZERO,
                retirement: Duration::ZERO,
                abstention: Duration::ZERO,
                opening: Opening::Core,
                pre_vote: is_on("prevote"),
                check_quorum: is_on("checkquorum"),
            };
            self.nodes.insert(node, Node::new(config, options, at, configuration.clone()));
        }
        Ok(())
    }

    fn propose(&mut self, command: &Command) -> Result<(), String> {
        let [node, payload] = &command.words[..] else {
            return Err("a node and a payload are needed".to_owned());
        };
        let node = NodeId(number_of(node)?);
        _ = self.at(node)?.propose(payload.clone());
        Ok(())
    }

    fn send_snapshot(&mut self, from: NodeId, to: NodeId) -> Result<(), String> {
        let parcel = self.at(from)?.snapshot(to).ok_or("there is nothing to take a snapshot of")?;
        if let Parcel::Snapshot { id, configuration, .. } = &parcel {
            let what = content(*id, configuration);
            self.facts.push(Fact::SnapshotSent { from: from.0, to: to.0, what: &what }.to_string());
        }
        self.letters.push(Letter { from, to, parcel });
        Ok(())
    }

    /// Lets each of these nodes do something, and takes in what comes of it.
    fn each(&mut self, nodes: &[u64], deed: impl Fn(&mut Node, &mut Outcome)) -> Result<(), String> {
        for &node in nodes {
            let mut outcome = Outcome::default();
            deed(self.at(NodeId(node))?, &mut outcome);
            self.facts.append(&mut outcome.facts);
            let letter = |(to, parcel)| Letter { from: NodeId(node), to, parcel };
            self.letters.extend(outcome.letters.into_iter().map(letter));
        }
        Ok(())
    }

    /// Everything settles, between these nodes or all: Readys, messages, writes, applies, until nothing moves.
    fn stabilize(&mut self, nodes: &[u64]) -> Result<(), String> {
        let all: Vec<u64> = self.nodes.keys().map(|node| node.0).collect();
        let nodes = if nodes.is_empty() { &all[..] } else { nodes };
        for _ in 0..ROUNDS_MAX {
            let select = |cluster: &Self, has: fn(&Node) -> bool| -> Vec<u64> {
                let chosen = nodes.iter().filter(|node| cluster.nodes.get(&NodeId(**node)).is_some_and(has));
                chosen.copied().collect()
            };
            let ready = select(self, Node::has_ready);
            self.each(&ready, |node, outcome| node.ready(outcome))?;
            let mut is_done = ready.is_empty();
            for &node in nodes {
                is_done &= !self.deliver(NodeId(node), None, false);
            }
            let writing = select(self, Node::has_append_work);
            self.each(&writing, |node, outcome| while node.append_work(outcome) {})?;
            let applying = select(self, Node::has_apply_work);
            self.each(&applying, |node, outcome| while node.apply_work(outcome) {})?;
            if is_done && writing.is_empty() && applying.is_empty() {
                return Ok(());
            }
        }
        Err(format!("not settled after {ROUNDS_MAX} rounds"))
    }

    /// Whether nothing is on its way or waits.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_idle = |node: &Node| !node.has_ready() && !node.has_append_work() && !node.has_apply_work();
        self.letters.is_empty() && self.nodes.values().all(is_idle)
    }

    /// Whether a change of who takes part is under way: somebody has not applied the latest configuration.
    pub(super) fn is_changing(&self) -> bool {
        let latest = self.nodes.values().map(|node| node.group.configuration_index()).max();
        self.nodes.values().any(|node| {
            let at = node.group.configuration_index();
            Some(at) != latest || at > node.group.applied() || node.has_wishes()
        })
    }

    fn deliver_command(&mut self, command: &Command) -> Result<(), String> {
        let kind = command.list("type").first().map(String::as_str);
        for node in numbers(&command.words)? {
            self.deliver(NodeId(node), kind, false);
        }
        for node in numbers(command.list("drop"))? {
            self.deliver(NodeId(node), kind, true);
        }
        Ok(())
    }

    /// Delivers what has been sent to a node so far, or loses it; notices of its own disk and state machine are never lost.
    /// `false`: there was nothing.
    fn deliver(&mut self, to: NodeId, kind: Option<&str>, is_lost: bool) -> bool {
        let Some(node) = self.nodes.get_mut(&to) else {
            if is_lost {
                self.letters.retain(|letter| letter.to != to);
            }
            return false;
        };
        let is_due = |letter: &mut Letter| {
            let is_own = matches!(letter.parcel, Parcel::Durable(_) | Parcel::Applied(_));
            letter.to == to && !(is_lost && is_own) && kind.is_none_or(|kind| kind == kind_of(&letter.parcel))
        };
        let due: Vec<Letter> = self.letters.extract_if(.., is_due).collect();
        let is_any = !due.is_empty();
        if !is_lost {
            due.into_iter().for_each(|letter| node.receive(letter.from, letter.parcel));
        }
        is_any
    }
}

fn number_of(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn numbers(texts: &[String]) -> Result<Vec<u64>, String> {
    texts.iter().map(|text| number_of(text)).collect()
}

fn number(command: &Command, key: &str) -> Result<Option<u64>, String> {
    match command.list(key) {
        [] => Ok(None),
        [one] => number_of(one).map(Some),
        _ => Err(format!("`{key}` wants one number")),
    }
}
