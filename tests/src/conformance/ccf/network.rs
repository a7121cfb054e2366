//! The commands of a scenario: nodes that come, links that break, messages that are dispatched, and what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raftwerk_frame::{Configuration, NodeId};
use raftwerk_raft::Role;

use super::node::{Kind, Letter, Node};

/// Messages that answer messages are dispatched so many times over.
const DISPATCHES: usize = 5;
/// The longest time that passes at once.
const MILLIS_MAX: u64 = 3_600_000;
/// The first node's.
const ID_MAX: u64 = 1 << 20;
/// Rounds in which a network must come to agree.
const ROUNDS_MAX: usize = 100;
const ROUND: Duration = Duration::from_millis(10);

/// The nodes by name, and who is connected to whom.
#[derive(Default)]
pub(super) struct Network {
    nodes: BTreeMap<String, Node>,
    names: BTreeMap<NodeId, String>,
    links: BTreeSet<(String, String)>,
}

impl Network {
    /// Does what a command says, or tells what is not as it says.
    pub(super) fn perform(&mut self, name: &str, words: &[&str]) -> Result<(), String> {
        match (name, words) {
            ("start_node", [name]) => self.start(name),
            ("trust_node" | "trust_nodes", [term, names @ ..]) => self.change(term, &[], names),
            ("swap_node", [term, out, come]) => self.change(term, &[out], &[come]),
            ("swap_nodes", [term, names @ ..]) => {
                let (mut out, mut come, mut is_out) = (Vec::new(), Vec::new(), None);
                for &name in names {
                    match (name, is_out) {
                        ("in" | "out", _) => is_out = Some(name == "out"),
                        (_, Some(true)) => out.push(name),
                        (_, Some(false)) => come.push(name),
                        (_, None) => return Err("`in` or `out` is missing".to_owned()),
                    }
                }
                self.change(term, &out, &come)
            }
            ("cleanup_nodes", [term, names @ ..]) => {
                let nodes = names.iter().map(|name| self.id(name)).collect::<Result<_, _>>()?;
                self.replicate(term, Kind::Cleanup { nodes })
            }
            ("replicate", [term, payload @ ..]) => self.replicate(term, Kind::Payload(payload.join(","))),
            ("emit_signature", [term]) => self.replicate(term, Kind::Signature),
            ("periodic_one", [name, millis]) => self.periodic(name, time(millis)?),
            ("periodic_all", [millis]) => {
                let by = time(millis)?;
                self.names().iter().try_for_each(|name| self.periodic(name, by))
            }
            ("dispatch_one", [name]) => self.dispatch(name, None, usize::MAX),
            ("dispatch_single", [from, to]) => self.dispatch(from, Some(to), 1),
            ("dispatch_all", []) => (0..DISPATCHES).try_for_each(|_| self.dispatch_all_once()),
            ("dispatch_all_once", []) => self.dispatch_all_once(),
            ("drop_pending", [name]) => {
                self.node(name)?.outbox.clear();
                Ok(())
            }
            ("drop_pending_to", [from, to]) => {
                let to = self.id(to)?;
                self.node(from)?.outbox.retain(|letter| letter.to != to);
                Ok(())
            }
            ("connect" | "reconnect", [one, other]) => self.link(one, other, true),
            ("disconnect", [one, other]) => self.link(one, other, false),
            ("reconnect_node" | "disconnect_node", [node]) => {
                let is_linked = name == "reconnect_node";
                let others = self.names().into_iter().filter(|other| other != node).collect::<Vec<_>>();
                others.iter().try_for_each(|other| self.link(node, other, is_linked))
            }
            ("loop_until_sync", []) => self.loop_until_sync(),
            (
                "state_all" | "state_one" | "summarise_log" | "summarise_logs_all" | "summarise_messages",
                _,
            ) => Ok(()),
            ("assert_state_sync", []) => self.assert_sync(),
            ("assert_commit_idx", [name, index]) => {
                let node = self.node(name)?;
                let found = node.counted(node.signed()).len().to_string();
                expect(index, &found)
            }
            ("assert_commit_safety", [name]) => self.assert_commit_safety(name),
            ("assert_detail" | "assert_!detail", [node, what, value]) => {
                let is = self.is(node, what, value)?;
                let should_be = name == "assert_detail";
                if is == should_be { Ok(()) } else { Err(self.describe(node)) }
            }
            _ => Err("no command of this suite".to_owned()),
        }
    }
}

impl Network {
    fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    fn node(&mut self, name: &str) -> Result<&mut Node, String> {
        self.nodes.get_mut(name).ok_or_else(|| format!("there is no node {name}"))
    }

    fn id(&self, name: &str) -> Result<NodeId, String> {
        let node = self.nodes.get(name).ok_or_else(|| format!("there is no node {name}"))?;
        Ok(node.group.node())
    }

    fn add(&mut self, name: &str, voters: bool) -> Result<(), String> {
        if self.nodes.contains_key(name) {
            return Err(format!("there is a node {name} already"));
        }
        // Backwards: of several heirs that are as good, CCF's leader hurries the first, and ours the last.
        let id = NodeId(ID_MAX - self.nodes.len() as u64);
        let configuration =
            if voters { Configuration::of_voters(vec![id]) } else { Configuration::default() };
        self.nodes.insert(name.to_owned(), Node::new(id, configuration));
        self.names.insert(id, name.to_owned());
        Ok(())
    }

    /// The first node leads alone; its first entry says so.
    fn start(&mut self, name: &str) -> Result<(), String> {
        if !self.nodes.is_empty() {
            return Err("there are nodes already".to_owned());
        }
        self.add(name, true)?;
        let node = self.node(name)?;
        node.campaign()?;
        let voters = vec![node.group.node()];
        node.replicate(Kind::Change { voters })
    }

    /// Nodes come, connected to all others, and go. The configuration is everyone but those who go.
    fn change(&mut self, term: &str, out: &[&str], come: &[&str]) -> Result<(), String> {
        for name in come {
            self.add(name, false)?;
        }
        for name in come {
            for other in self.names().iter().filter(|other| other != name) {
                self.link(name, other, true)?;
            }
        }
        let out = out.iter().map(|name| self.id(name)).collect::<Result<Vec<_>, _>>()?;
        let voters = self.names.keys().copied().filter(|node| !out.contains(node)).collect();
        self.replicate(term, Kind::Change { voters })
    }

    fn link(&mut self, one: &str, other: &str, is_linked: bool) -> Result<(), String> {
        _ = (self.id(one)?, self.id(other)?);
        for (from, to) in [(one, other), (other, one)] {
            let link = (from.to_owned(), to.to_owned());
            if is_linked {
                self.links.insert(link)
            } else {
                self.links.remove(&link)
            };
        }
        Ok(())
    }

    /// Gives an entry to who leads in `term`. If that is the latest, and nobody leads, it goes nowhere.
    fn replicate(&mut self, term: &str, kind: Kind) -> Result<(), String> {
        let leaders = self.nodes.values_mut().filter(|node| node.group.is_leader());
        let leader = if term == "latest" {
            leaders.max_by_key(|node| node.group.term())
        } else {
            let term: u64 = term.parse().map_err(|_| format!("`{term}` is no term"))?;
            let found = leaders.filter(|node| node.group.term().0 == term).last();
            Some(found.ok_or("nobody leads in this term")?)
        };
        leader.map_or(Ok(()), |leader| leader.replicate(kind))
    }

    fn periodic(&mut self, name: &str, by: Duration) -> Result<(), String> {
        self.node(name)?.periodic(by)
    }

    /// Dispatches up to so many messages of a node, to one other or to all. Where there is no link, they are lost.
    fn dispatch(&mut self, from: &str, to: Option<&str>, count_max: usize) -> Result<(), String> {
        let (id, only) = (self.id(from)?, to.map(|to| self.id(to)).transpose()?);
        for _ in 0..count_max {
            let outbox = &mut self.node(from)?.outbox;
            let at = outbox.iter().position(|letter| only.is_none_or(|only| letter.to == only));
            let Some(letter) = at.and_then(|at| outbox.remove(at)) else { break };
            self.deliver(from, id, letter)?;
        }
        Ok(())
    }

    fn deliver(&mut self, from: &str, id: NodeId, letter: Letter) -> Result<(), String> {
        let Some(to) = self.names.get(&letter.to).cloned() else { return Ok(()) };
        if self.links.contains(&(from.to_owned(), to.clone())) {
            let node = self.node(&to)?;
            node.receive(id, letter)?;
            node.go_on()?;
        }
        Ok(())
    }

    /// Dispatches what waits now, and nothing that comes of it.
    fn dispatch_all_once(&mut self) -> Result<(), String> {
        let counts: Vec<(String, usize)> =
            self.nodes.iter().map(|(name, node)| (name.clone(), node.outbox.len())).collect();
        counts.into_iter().try_for_each(|(name, count)| self.dispatch(&name, None, count))
    }

    fn loop_until_sync(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            if self.assert_sync().is_ok() {
                return Ok(());
            }
            self.names().iter().try_for_each(|name| self.periodic(name, ROUND))?;
            (0..DISPATCHES).try_for_each(|_| self.dispatch_all_once())?;
        }
        self.assert_sync()
    }

    /// Of any two nodes, one holds to be committed what the other does, and perhaps more.
    pub(super) fn assert_agreement(&self) -> Result<(), String> {
        let mut committed: Vec<_> = self.nodes.values().map(|node| node.counted(node.signed())).collect();
        committed.sort_by_key(Vec::len);
        let do_agree = committed.windows(2).all(|pair| pair[1].starts_with(&pair[0]));
        if do_agree { Ok(()) } else { Err("two nodes disagree about what is committed".to_owned()) }
    }

    /// All nodes have the same term, entries and commit index.
    fn assert_sync(&self) -> Result<(), String> {
        let mut nodes = self.nodes.iter();
        let Some((first_name, first)) = nodes.next() else { return Ok(()) };
        for (name, node) in nodes {
            let is_same = node.group.term() == first.group.term()
                && node.counted(node.group.last().index) == first.counted(first.group.last().index)
                && node.counted(node.signed()) == first.counted(first.signed());
            if !is_same {
                return Err(format!("{}; {}", self.describe(first_name), self.describe(name)));
            }
        }
        Ok(())
    }

    /// What a node holds to be committed is in the logs of most nodes.
    fn assert_commit_safety(&mut self, name: &str) -> Result<(), String> {
        let node = self.nodes.get(name).ok_or_else(|| format!("there is no node {name}"))?;
        let committed = node.counted(node.signed());
        let holds = |node: &&Node| {
            node.counted(node.group.last().index).get(..committed.len()) == Some(&committed[..])
        };
        let holders = self.nodes.values().filter(holds).count();
        if holders > self.nodes.len() / 2 {
            Ok(())
        } else {
            Err(format!("what is committed, {} entries, is in {holders} logs only", committed.len()))
        }
    }

    fn is(&mut self, name: &str, what: &str, value: &str) -> Result<bool, String> {
        let node = self.node(name)?;
        let (role, retirement, has_lost) = (node.group.role(), node.retirement(), node.has_lost());
        match (what, value) {
            ("leadership_state", "Leader" | "Primary") => Ok(role == Role::Leader),
            ("leadership_state", "Candidate") => {
                Ok(has_lost || matches!(role, Role::Candidate | Role::PreCandidate))
            }
            ("leadership_state", "Follower") => Ok(role == Role::Follower),
            // It has retired, and heard of no other leader since.
            ("leadership_state", "None") => {
                Ok(role == Role::Follower && node.group.leader().is_none() && retirement.is_some())
            }
            ("membership_state", "Retired") => Ok(retirement.is_some()),
            ("membership_state", "Active") => Ok(retirement.is_none()),
            ("retirement_phase", phase) => Ok(retirement == Some(phase)),
            _ => Err("no detail of this suite".to_owned()),
        }
    }

    fn describe(&self, name: &str) -> String {
        let Some(node) = self.nodes.get(name) else { return format!("there is no node {name}") };
        let group = &node.group;
        let (last, committed) = (node.counted(group.last().index).len(), node.counted(node.signed()).len());
        let retirement = node.retirement().unwrap_or("none");
        let (role, term) = (group.role(), group.term().0);
        format!(
            "{name} is {role:?} in term {term}, of {last} entries {committed} committed, retirement: {retirement}"
        )
    }
}

fn expect(expected: &str, found: &str) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("found {found}")) }
}

fn time(millis: &str) -> Result<Duration, String> {
    let millis = millis.parse().ok().filter(|millis| *millis <= MILLIS_MAX);
    millis.map(Duration::from_millis).ok_or_else(|| format!("no time of at most {MILLIS_MAX} ms"))
}
