//! Three real processes under load, killed in rounds by SIGKILL: no acknowledged write is lost, none is there twice, and
//! what was refused with certainty is not there at all. `KILL9_ROUNDS` asks for more rounds than the usual three:
//! `KILL9_ROUNDS=200 cargo test -p raftwerk-tests --test kill9 -- --nocapture`.
//!
//! What is not here: machines that lose power. A killed process leaves the page cache alone; the simulator's disk does
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::Path;

use raftwerk_tests::processes::{Processes, Said};

const GROUPS: u64 = 6;
const IN_FLIGHT: usize = 64;
const ACKNOWLEDGED_PER_ROUND: usize = 1500;

/// What was asked of the cluster, and what became of it.
struct Load {
    next_token: u64,
    /// Token to group, node, and the node's life.
    pending: BTreeMap<u64, (u64, u64, u64)>,
    /// Token to group and index.
    acknowledged: BTreeMap<u64, (u64, u64)>,
    refused: BTreeSet<u64>,
    /// Who is asked for a group next.
    leaders: BTreeMap<u64, u64>,
}

impl Load {
    fn new() -> Self {
        let leaders = (1..=GROUPS).map(|group| (group, 1)).collect();
        let (pending, acknowledged, refused) = Default::default();
        Self { next_token: 1, pending, acknowledged, refused, leaders }
    }

    /// Keeps proposals under way until so many more are acknowledged, and leaves the rest under way.
    fn run(&mut self, nodes: &mut Processes, more: usize) {
        let goal = self.acknowledged.len() + more;
        while self.acknowledged.len() < goal {
            self.pending.retain(|_, (_, node, life)| nodes.life(*node) == Some(*life));
            while self.pending.len() < IN_FLIGHT {
                self.put(nodes);
            }
            let said = nodes.hear();
            self.note(nodes, &said);
        }
    }

    fn put(&mut self, nodes: &mut Processes) {
        let (token, group) = (self.next_token, self.next_token % GROUPS + 1);
        self.next_token += 1;
        let wanted = self.leaders[&group];
        let node = if nodes.life(wanted).is_some() { wanted } else { nodes.alive()[0] };
        self.leaders.insert(group, node);
        self.pending.insert(token, (group, node, nodes.life(node).expect("it is alive")));
        nodes.tell(node, &format!("put {group} {token}"));
    }

    /// An acknowledgement counts, also one whose sender has died since.
    fn note(&mut self, nodes: &Processes, said: &Said) {
        let words: Vec<&str> = said.line.split(' ').collect();
        let token: u64 = words[1].parse().expect("a token");
        let group = token % GROUPS + 1;
        self.pending.remove(&token);
        match words[..] {
            ["done", _, index] => {
                self.acknowledged.insert(token, (group, index.parse().expect("an index")));
            }
            ["not", _, "unknown"] => {}
            ["not", _, "busy"] => {
                self.refused.insert(token);
            }
            ["not", _, "leader", ref hint @ ..] => {
                self.refused.insert(token);
                let alive = nodes.alive();
                let hinted = hint.first().and_then(|hint| hint.parse().ok());
                let turn = alive[token as usize % alive.len()];
                self.leaders.insert(group, hinted.filter(|node| alive.contains(node)).unwrap_or(turn));
            }
            _ => panic!("node {} says {:?}", said.node, said.line),
        }
    }

    /// Lets everything that is under way at living nodes come to an end.
    fn finish(&mut self, nodes: &mut Processes) {
        self.pending.retain(|_, (_, node, life)| nodes.life(*node) == Some(*life));
        while !self.pending.is_empty() {
            let said = nodes.hear();
            self.note(nodes, &said);
        }
    }
}

#[test]
fn no_acknowledged_write_is_lost_by_killed_processes() {
    let rounds =
        env::var("KILL9_ROUNDS").map_or(3, |rounds| rounds.parse().expect("KILL9_ROUNDS is a number"));
    let mut nodes = Processes::start(Path::new(env!("CARGO_BIN_EXE_node_process")));
    for node in 1..=3 {
        nodes.tell(node, &format!("create {GROUPS}"));
        nodes.wait_for(node, "created");
    }
    let (mut load, mut kills) = (Load::new(), 0);
    for round in 0..rounds {
        load.run(&mut nodes, ACKNOWLEDGED_PER_ROUND);
        // One, whoever leads the first group; then two; then all at once. Dozens of proposals are under way each time.
        let first = load.leaders[&1];
        let victims: Vec<u64> = (0..=round % 3).map(|n| (first - 1 + n) % 3 + 1).collect();
        for victim in &victims {
            nodes.kill(*victim);
            kills += 1;
        }
        if victims.len() == 1 {
            load.run(&mut nodes, ACKNOWLEDGED_PER_ROUND / 3);
        }
        for victim in &victims {
            nodes.revive(*victim);
        }
    }
    load.run(&mut nodes, ACKNOWLEDGED_PER_ROUND / 3);
    load.finish(&mut nodes);
    for group in 1..=GROUPS {
        check(&mut nodes, &load, group);
    }
    let (acknowledged, refused) = (load.acknowledged.len(), load.refused.len());
    eprintln!(
        "{rounds} rounds, {kills} kills: {acknowledged} acknowledged writes are all there, {refused} refused ones are not"
    );
}

fn check(nodes: &mut Processes, load: &Load, group: u64) {
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for (token, index) in nodes.journal(group) {
        assert_eq!(found.insert(token, index), None, "{token} is there twice");
        assert!(
            token < load.next_token && token % GROUPS + 1 == group,
            "nobody wrote {token} to group {group}"
        );
        assert!(!load.refused.contains(&token), "{token} was refused with certainty");
    }
    for (token, (_, index)) in load.acknowledged.iter().filter(|(_, (of, _))| *of == group) {
        assert_eq!(found.get(token), Some(index), "{token} was acknowledged at {index} in group {group}");
    }
    nodes.assert_equal(group);
}
