//! A client of many hands: each stays at one node, does one thing at a time, and takes up what another has left off. IMPURE: the
//! one clock by which everything is judged.
//!
//! What is not here: what goes wrong meanwhile (`tests/levels.rs`), and what must hold ([`History`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use raftwerk::{Consistency, Index, ReadError};
use raftwerk_sim::Chance;
use raftwerk_sim::levels::{Asked, Shown};

use super::history::{History, LEVELS, Look, Outcome, Write, level_at};
use crate::calls::word_of;
use crate::facts::PATIENCE;
use crate::journal::Brief;
use crate::processes::{Processes, Said};

const US: u64 = 1_000;
/// How long a hand pauses, usually.
const PAUSE: u64 = 4_000 * US;
/// How often a hand that waits looks whether its node still lives.
const LOOK: u64 = 20_000 * US;
/// Hands at each node that write, and that read.
const WRITERS: usize = 2;
const READERS: usize = 4;
/// Bounds of staleness, in milliseconds.
const BOUNDS_MS: [u64; 5] = [1, 5, 20, 100, 1_000];
/// How long a read may wait, in milliseconds.
const WAITS_MS: [u64; 5] = [0, 0, 20, 200, 1_000];

/// What a session has been shown and has written: as the nodes say, and as this client knows.
#[derive(Clone)]
struct Sight {
    token: String,
    /// By group, from 1.
    seen: Vec<u64>,
    written: Vec<u64>,
}

impl Sight {
    fn merge(&mut self, other: &Self) {
        self.token = format!("{}+{}", self.token, other.token);
        let raise = |all: &mut Vec<u64>, others: &[u64]| {
            all.iter_mut().zip(others).for_each(|(own, other)| *own = (*own).max(*other));
        };
        raise(&mut self.seen, &other.seen);
        raise(&mut self.written, &other.written);
    }
}

/// Something under way.
struct Waiting {
    token: u64,
    life: u64,
    group: u64,
    what: What,
    /// The session that it is part of: its hand's, when it is answered.
    sight: Sight,
}

#[derive(Clone, Copy)]
enum What {
    Write,
    Look { asked: Asked, keeps: bool },
    Again(Kept),
}

/// A state that a node has kept, and how it answered at first.
#[derive(Clone, Copy)]
struct Kept {
    token: u64,
    life: u64,
    index: u64,
    brief: Brief,
}

struct Hand {
    node: u64,
    writes: bool,
    sight: Sight,
    waiting: Option<Waiting>,
    kept: Option<Kept>,
    due: u64,
}

/// How much was done.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Acknowledged writes, by group.
    pub written: BTreeMap<u64, u64>,
    /// Answers, by node, and by level in each.
    pub shown: BTreeMap<u64, [u64; LEVELS]>,
    /// Reads that were refused for now, by node.
    pub refused: BTreeMap<u64, u64>,
    /// Kept states that were asked again.
    pub again: u64,
}

/// The client.
pub struct Load {
    begin: Instant,
    chance: Chance,
    groups: u64,
    hands: Vec<Hand>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// By token, who waits for it.
    open: BTreeMap<u64, usize>,
    /// Who is thought to lead a group.
    leaders: BTreeMap<u64, u64>,
    next_token: u64,
    counts: Counts,
    history: History,
    is_over: bool,
}

impl Load {
    /// Of so many groups, at nodes 1 to `nodes`.
    #[must_use]
    pub fn new(seed: u64, nodes: u64, groups: u64) -> Self {
        let none = vec![0; groups as usize + 1];
        let sight = Sight { token: "-".to_owned(), seen: none.clone(), written: none };
        let hands = (1..=nodes).flat_map(|node| (0..WRITERS + READERS).map(move |at| (node, at < WRITERS)));
        let hand =
            |(node, writes)| Hand { node, writes, sight: sight.clone(), waiting: None, kept: None, due: 0 };
        let hands: Vec<Hand> = hands.map(hand).collect();
        Self {
            begin: Instant::now(),
            chance: Chance::of(seed, "hands"),
            groups,
            due: (0..hands.len()).map(|hand| Reverse((0, hand))).collect(),
            hands,
            open: BTreeMap::new(),
            leaders: (1..=groups).map(|group| (group, group % nodes + 1)).collect(),
            next_token: 1,
            counts: Counts::default(),
            history: History::default(),
            is_over: false,
        }
    }

    /// Who leads a group, as far as is known here.
    #[must_use]
    pub fn leader(&self, group: u64) -> u64 {
        self.leaders[&group]
    }

    /// How much was done so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What was asked and told so far.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// Writes and reads until enough was done.
    ///
    /// # Panics
    /// If it never is, a node says what makes no sense, or a refusal or a kept state is wrong.
    pub fn run(&mut self, nodes: &mut Processes, what: &str, mut is_enough: impl FnMut(&Counts) -> bool) {
        let began = Instant::now();
        while !is_enough(&self.counts) {
            assert!(began.elapsed() < PATIENCE, "never enough: {what}: {:?}", self.counts);
            self.step(nodes);
        }
    }

    /// Lets everything come to an end that is under way at living nodes.
    ///
    /// # Panics
    /// As [`Load::run`].
    pub fn finish(&mut self, nodes: &mut Processes) {
        self.is_over = true;
        let began = Instant::now();
        while self.hands.iter().any(|hand| hand.waiting.is_some()) {
            assert!(began.elapsed() < PATIENCE, "calls that do not end");
            self.step(nodes);
        }
    }

    fn step(&mut self, nodes: &mut Processes) {
        let first = self.due.peek().map_or(0, |Reverse((due, _))| *due);
        if let Some(said) = nodes.hear_within(Duration::from_nanos(first.saturating_sub(self.now()))) {
            self.take(nodes, &said);
        }
        let now = self.now();
        while let Some(Reverse((due, hand))) =
            self.due.peek().copied().filter(|Reverse((due, _))| *due <= now)
        {
            self.due.pop();
            if self.hands[hand].due == due {
                self.act(nodes, hand);
            }
        }
    }

    fn expect(&mut self, hand: usize, within: u64) {
        let due = self.now() + within;
        self.hands[hand].due = due;
        self.due.push(Reverse((due, hand)));
    }

    fn pause(&mut self, hand: usize) {
        let pause = self.chance.from_to(PAUSE / 4, 2 * PAUSE);
        self.expect(hand, pause);
    }

    fn act(&mut self, nodes: &mut Processes, at: usize) {
        let life = nodes.life(self.hands[at].node);
        if let Some(waiting) = &self.hands[at].waiting {
            if Some(waiting.life) != life {
                // It died with the node. Its session is as it was.
                self.open.remove(&waiting.token);
                self.hands[at].waiting = None;
            } else {
                return self.expect(at, LOOK);
            }
        }
        match life {
            Some(life) if !self.is_over => self.begin(nodes, at, life),
            _ => self.expect(at, LOOK),
        }
    }

    fn begin(&mut self, nodes: &mut Processes, at: usize, life: u64) {
        let mut sight = self.hands[at].sight.clone();
        if self.chance.below(3) == 0 {
            // It goes on where another hand is, which is elsewhere most of the time; or with both behind it.
            let other = self.chance.below(self.hands.len() as u64) as usize;
            let other = &self.hands[other].sight;
            if self.chance.below(2) == 0 { sight.merge(other) } else { sight.clone_from(other) }
        }
        let token = self.next_token;
        self.next_token += 1;
        let node = self.hands[at].node;
        let (group, what) =
            if self.hands[at].writes { self.write(node) } else { self.look(nodes, at, &sight) };
        let line = match what {
            What::Write => format!("write {token} {group} {}", sight.token),
            What::Again(kept) => format!("again {}", kept.token),
            What::Look { asked, keeps } => {
                let verb = if keeps { "keep" } else { "look" };
                let wait = self.chance.one_of(&WAITS_MS);
                format!("{verb} {token} {group} {} {wait} {}", word_of(asked.level), sight.token)
            }
        };
        let token = if let What::Again(kept) = what { kept.token } else { token };
        let called = self.now();
        let what = match what {
            What::Look { asked, keeps } => What::Look { asked: Asked { called, ..asked }, keeps },
            other => other,
        };
        if let What::Write = what {
            self.history.writes.insert(token, Write { group, called, outcome: Outcome::Open });
        }
        self.hands[at].waiting = Some(Waiting { token, life, group, what, sight });
        self.open.insert(token, at);
        nodes.tell(node, &line);
        self.expect(at, LOOK);
    }

    /// To a group that the node is thought to lead; now and then, and where there is none, to any.
    fn write(&mut self, node: u64) -> (u64, What) {
        let led = self.leaders.iter().filter(|(_, leader)| **leader == node).map(|(group, _)| *group);
        let led: Vec<u64> = led.collect();
        let is_stray = led.is_empty() || self.chance.below(8) == 0;
        let group = if is_stray { 1 + self.chance.below(self.groups) } else { self.chance.one_of(&led) };
        (group, What::Write)
    }

    fn look(&mut self, nodes: &Processes, at: usize, sight: &Sight) -> (u64, What) {
        let node = self.hands[at].node;
        if let Some(kept) = self.hands[at].kept.filter(|_| self.chance.below(4) == 0) {
            self.hands[at].kept = None;
            if Some(kept.life) == nodes.life(node) {
                return (0, What::Again(kept));
            }
        }
        let group = 1 + self.chance.below(self.groups);
        let bound = Duration::from_millis(self.chance.one_of(&BOUNDS_MS));
        let level = self.chance.one_of(&[
            Consistency::Strong,
            Consistency::Strong,
            Consistency::BoundedStaleness(bound),
            Consistency::BoundedStaleness(bound),
            Consistency::Monotonic,
            Consistency::Monotonic,
            Consistency::ReadMyWrites,
            Consistency::ConsistentPrefix,
            Consistency::Eventual,
        ]);
        let is_prefix = level == Consistency::ConsistentPrefix;
        let keeps = self.hands[at].kept.is_none() && (is_prefix || self.chance.below(8) == 0);
        let (seen, written) = (sight.seen[group as usize], sight.written[group as usize]);
        let floor = Asked::floor(level, seen, written);
        let asked = Asked { level, called: 0, committed: 0, floor, rate_ppm: nodes.rate(node) };
        (group, What::Look { asked, keeps })
    }

    /// Takes in what a node has said. Words of the dead count, too, if they are acknowledgements.
    fn take(&mut self, nodes: &Processes, said: &Said) {
        let now = self.now();
        let words: Vec<&str> = said.line.split(' ').collect();
        let number = |at: usize| -> u64 {
            let word = words.get(at).and_then(|word| word.parse().ok());
            word.unwrap_or_else(|| panic!("node {} says {:?}", said.node, said.line))
        };
        let token = number(1);
        let at = self.open.remove(&token);
        let waiting = at.and_then(|at| self.hands[at].waiting.take());
        match words[0] {
            "wrote" => {
                let outcome = Outcome::Acknowledged { at: now, index: number(2), lines: number(3) };
                let write = self.history.writes.get_mut(&token).expect("tokens of writes are known");
                write.outcome = outcome;
                *self.counts.written.entry(write.group).or_default() += 1;
                self.leaders.insert(write.group, said.node);
            }
            "unwritten" if words[2] == "not" => {
                let write = self.history.writes.get_mut(&token).expect("tokens of writes are known");
                write.outcome = Outcome::Refused;
                let hint = number(3);
                if hint != 0 && hint != said.node {
                    self.leaders.insert(write.group, hint);
                }
            }
            "unwritten" | "shown" | "hidden" | "again" => {}
            _ => panic!("node {} says {:?}", said.node, said.line),
        }
        let (Some(at), Some(waiting)) = (at, waiting) else { return };
        let brief = |at: usize| Brief { count: number(at), last: number(at + 1), hash: number(at + 2) };
        match (words[0], waiting.what) {
            ("wrote", What::Write) => self.adopt(at, &waiting, number(2), words[4], true),
            ("unwritten", What::Write) => {}
            ("shown", What::Look { asked, keeps }) => {
                let staleness = (words[6] != "-").then(|| Duration::from_nanos(number(6)));
                let shown = Shown { at: asked.called, index: number(2), staleness };
                let (node, group, brief) = (said.node, waiting.group, brief(3));
                self.history.looks.push(Look { node, group, asked, shown, brief, answered: now });
                self.counts.shown.entry(node).or_default()[level_at(asked.level)] += 1;
                if keeps {
                    let (index, life) = (shown.index, waiting.life);
                    self.hands[at].kept = Some(Kept { token, life, index, brief });
                }
                self.adopt(at, &waiting, shown.index, words[7], false);
            }
            ("hidden", What::Look { asked, .. }) if words[2] == "behind" => {
                let error = ReadError::Behind { applied: Index(number(3)), wanted: Index(number(4)) };
                if let Err(violation) = asked.judge_refusal(&error) {
                    panic!("{}: {}", violation.invariant, violation.what);
                }
            }
            ("hidden", What::Look { .. }) => *self.counts.refused.entry(said.node).or_default() += 1,
            ("again", What::Again(kept)) => {
                let is_same = (kept.index, kept.brief) == (number(2), brief(3));
                assert!(is_same, "kept states stay: {:?} answers {:?}", kept.brief, said.line);
                self.counts.again += 1;
            }
            _ => panic!("node {} answers {:?}", said.node, said.line),
        }
        debug_assert!(nodes.life(said.node).is_none_or(|life| life >= said.life));
        self.pause(at);
    }

    /// An answer raises its session, which is its hand's from now on.
    fn adopt(&mut self, at: usize, waiting: &Waiting, index: u64, token: &str, is_write: bool) {
        let (mut sight, group) = (waiting.sight.clone(), waiting.group as usize);
        sight.token = token.to_owned();
        sight.seen[group] = sight.seen[group].max(index);
        if is_write {
            sight.written[group] = sight.written[group].max(index);
        }
        self.hands[at].sight = sight;
    }
}
