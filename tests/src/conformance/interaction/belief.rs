//! What etcd's output tells about the replicas by the time they are at rest.
//!
//! Every Ready names what has changed: role and leader, term, vote and commit index, entries, a snapshot. So what was said
//! last still holds, unless a command did something while output was switched off: then nothing is known, until it is said
//! again.

use std::collections::{BTreeMap, BTreeSet};

use raftwerk_frame::{Index, NodeId};

use super::super::confchange::in_words;
use super::super::datadriven::Command;
use super::cluster::Cluster;
use super::node::Node;
use super::parcel::role_name;
use super::printed::{first_node, is_entry, is_look, is_silent, section};

/// What is known of a replica.
#[derive(Debug, Default)]
struct Known {
    role: Option<String>,
    leader: Option<u64>,
    term: Option<u64>,
    vote: Option<u64>,
    commit: Option<u64>,
    is_voter: Option<bool>,
    configuration: Option<String>,
    /// Entries by index.
    log: BTreeMap<u64, String>,
    last: Option<u64>,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub(super) struct Belief {
    /// The replicas that have settled, and to which nothing happened since.
    settled: BTreeSet<u64>,
    nodes: BTreeMap<u64, Known>,
}

impl Belief {
    /// Learns from a command's output.
    pub(super) fn learn(&mut self, command: &Command, cluster: &Cluster) {
        let name = command.name.as_str();
        if name == "log-level" {
            return;
        }
        self.settle(command, cluster);
        if is_silent(command) {
            // Of what only changes inputs, nothing is seen even with output: it will be seen in a Ready.
            if !matches!(
                name,
                "propose"
                    | "tick-heartbeat"
                    | "tick-election"
                    | "set-randomized-election-timeout"
                    | "forget-leader"
            ) {
                self.nodes.clear();
            }
            return;
        }
        let (mut node, mut is_own_entries) = (first_node(command), name == "raft-log");
        if name == "raft-log" {
            self.known(node).log.clear();
        }
        for line in command.expected.lines().map(str::trim) {
            if let Some((at, _)) = section(line) {
                (node, is_own_entries) = (at, false);
            } else if line.ends_with(':') {
                is_own_entries = line == "Entries:";
            } else if is_entry(line) {
                if is_own_entries {
                    self.learn_entry(node, line);
                }
            } else {
                is_own_entries &= name == "raft-log";
                self.learn_line(node, line, name);
            }
        }
    }

    fn settle(&mut self, command: &Command, cluster: &Cluster) {
        let named =
            || command.words.iter().chain(command.list("drop")).filter_map(|word| word.parse::<u64>().ok());
        match command.name.as_str() {
            "stabilize" if command.words.is_empty() => self.settled = cluster.ids().collect(),
            "stabilize" => self.settled.extend(named()),
            _ if is_look(command) => {}
            _ => named().for_each(|node| _ = self.settled.remove(&node)),
        }
    }

    fn known(&mut self, node: u64) -> &mut Known {
        self.nodes.entry(node).or_default()
    }

    /// An entry takes the place of what stood at its index and after it.
    fn learn_entry(&mut self, node: u64, line: &str) {
        let Some(index) = line.split([' ', '/']).nth(1).and_then(|index| index.parse().ok()) else { return };
        let known = self.known(node);
        known.log.split_off(&index);
        known.log.insert(index, line.to_owned());
        known.last = Some(index);
    }

    fn learn_line(&mut self, node: u64, line: &str, command: &str) {
        if let Some(state) = line.strip_prefix("INFO newRaft ") {
            self.learn_start(state);
        } else if let Some((node, configuration)) = switched(line) {
            let known = self.known(node);
            (known.configuration, known.is_voter) = (Some(configuration.to_owned()), None);
        } else if command == "raft-state" {
            self.learn_state(line);
        } else if let Some((leader, role)) =
            line.strip_prefix("Lead:").and_then(|rest| rest.split_once(" State:"))
        {
            let known = self.known(node);
            (known.leader, known.role) = (leader.parse().ok(), Some(role.to_owned()));
        } else if let Some(state) = line.strip_prefix("HardState ") {
            let known = self.known(node);
            (known.term, known.commit) = (field(state, "Term:"), field(state, "Commit:"));
            known.vote = Some(field(state, "Vote:").unwrap_or(0));
        } else if let Some(state) = line.strip_prefix("Snapshot Index:") {
            let known = self.known(node);
            known.log.clear();
            known.last = state.split(' ').next().and_then(|index| index.parse().ok());
        }
    }

    /// `1 [peers: [1,2], term: 0, commit: 2, applied: 2, lastindex: 2, lastterm: 1]`
    fn learn_start(&mut self, line: &str) {
        let Some((node, state)) = line.split_once(' ') else { return };
        let Ok(node) = node.parse() else { return };
        let known = self.known(node);
        let number = |name: &str| {
            let (_, rest) = state.split_once(name)?;
            rest.split([',', ']']).next()?.trim().parse().ok()
        };
        (known.role, known.leader, known.vote) = (Some("StateFollower".to_owned()), Some(0), Some(0));
        (known.term, known.commit, known.last) = (number("term:"), number("commit:"), number("lastindex:"));
    }

    /// `1: StateLeader (Voter) Term:1 Lead:1`
    fn learn_state(&mut self, line: &str) {
        let Some((node, state)) = line.split_once(": ") else { return };
        let Ok(node) = node.parse() else { return };
        let known = self.known(node);
        known.role = state.split(' ').next().map(str::to_owned);
        known.is_voter = Some(state.contains("(Voter)"));
        (known.term, known.leader) = (field(state, "Term:"), field(state, "Lead:"));
    }

    /// Where the replicas are not what is known of them; and how many things were compared.
    pub(super) fn differences(&self, command: &Command, cluster: &Cluster) -> (usize, Vec<String>) {
        let (mut compared, mut differences) = (0, Vec::new());
        for (&id, known) in self.nodes.iter().filter(|(id, _)| self.settled.contains(id)) {
            let mut differ = |what: &str, expected: String, found: String| {
                let line = command.line;
                differences
                    .push(format!("line {line}: node {id}: {what}: expected {expected}, found {found}"));
            };
            match cluster.node(id) {
                Some(node) => compared += known.compare(node, &mut differ),
                None => differ("it", "is there".to_owned(), "is not".to_owned()),
            }
        }
        (compared, differences)
    }
}

impl Known {
    /// Tells what differs, and gives the number of things that were compared.
    fn compare(&self, node: &Node, differ: &mut impl FnMut(&str, String, String)) -> usize {
        let group = &node.group;
        let id_of = |node: Option<NodeId>| node.map_or(0, |node| node.0);
        let numbers = [
            ("leader", self.leader, id_of(group.leader())),
            ("term", self.term, group.term().0),
            ("vote", self.vote, id_of(group.hard_state().vote)),
            ("commit", self.commit, group.commit().0),
            ("last index", self.last, group.last().index.0),
        ];
        let mut compared = 0;
        for (what, expected, found) in numbers {
            let Some(expected) = expected else { continue };
            compared += 1;
            if expected != found {
                differ(what, expected.to_string(), found.to_string());
            }
        }
        let configuration = &node.configuration();
        let words = [
            ("role", self.role.clone(), role_name(group.role()).to_owned()),
            (
                "voter",
                self.is_voter.map(|is| is.to_string()),
                configuration.is_voter(group.node()).to_string(),
            ),
            ("configuration", self.configuration.clone(), in_words(configuration)),
        ];
        for (what, expected, found) in words {
            let Some(expected) = expected else { continue };
            compared += 1;
            if expected != found {
                differ(what, expected, found);
            }
        }
        for (&index, entry) in self.log.range(group.compacted().index.0 + 1..) {
            let found = node.entry(Index(index)).map_or_else(|| "nothing".to_owned(), ToString::to_string);
            compared += 1;
            if *entry != found {
                differ("entry", entry.clone(), found);
            }
        }
        compared
    }
}

/// `INFO 1 switched to configuration voters=(1 2)`
fn switched(line: &str) -> Option<(u64, &str)> {
    let (node, configuration) = line.strip_prefix("INFO ")?.split_once(" switched to configuration ")?;
    Some((node.parse().ok()?, configuration))
}

/// The number after `name` in `A:1 B:2`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.split(' ').find_map(|word| word.strip_prefix(name))?.parse().ok()
}
