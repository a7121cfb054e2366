//! Every level of reading on real processes, while they are cut off from each other, stopped, killed, slowed down, and hand over
//! their leads, by clocks that are 5 % fast, and slow, and right: what was shown is held against what each level promises.
//! `LEVELS_ROUNDS` asks for more faults than one of each kind, `LEVELS_SEED` for other draws.
//!
//! The verdict does not depend on how fast anything is: see the head of `raftwerk_tests::levels`. What is not here: disks that lose
//! or tear what they were given; the simulator's do.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::time::Duration;

use raftwerk_tests::levels::{Counts, LEVELS, Load};
use raftwerk_tests::processes::Processes;

const NODES: u64 = 3;
const GROUPS: u64 = 4;
/// By as much as the engine allows for, and no more.
const RATES: [u32; 3] = [1_050_000, 950_000, 1_000_000];
/// How many writes each group acknowledges in a part of a round …
const WRITES: u64 = 12;
/// … and how many answers each node gives at each level.
const ANSWERS: u64 = 4;
/// How often a follower that has lost its leader refuses to answer before more happens.
const REFUSALS: u64 = 12;
const LAG: Duration = Duration::from_millis(40);
const LOSS_PPM: u32 = 100_000;

/// What happens to a node that leads, or between it and others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing passes between it and the others.
    Isolate,
    /// It hears nobody; what it says arrives.
    Deafen,
    /// It hears everybody, and is not heard.
    Mute,
    /// It and one other do not hear each other.
    Part,
    /// SIGSTOP, until others lead; then SIGCONT.
    Pause,
    /// SIGKILL; in its next life its clock has another rate.
    Kill,
    /// What it says comes late.
    Delay,
    /// A tenth of all packets is lost.
    Lose,
    /// It hands over, again and again.
    HandOver,
    /// It hands over, and does not hear that it has.
    HandOverDeaf,
    /// It loses one follower, which waits until it may campaign; then the other.
    Oust,
}

const FAULTS: [Fault; 11] = [
    Fault::Isolate,
    Fault::HandOver,
    Fault::Pause,
    Fault::HandOverDeaf,
    Fault::Kill,
    Fault::Delay,
    Fault::Deafen,
    Fault::Lose,
    Fault::Mute,
    Fault::Part,
    Fault::Oust,
];

fn number(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

const fn next(node: u64) -> u64 {
    node % NODES + 1
}

/// The other nodes.
fn others(node: u64) -> impl Iterator<Item = u64> {
    (1..=NODES).filter(move |other| *other != node)
}

impl Fault {
    /// Whether a node still answers at every level meanwhile: others do without the one that is struck, and of two that do not
    /// hear each other, one may lead what the other is asked for.
    fn leaves(self, node: u64, victim: u64) -> bool {
        match self {
            Self::Delay | Self::Lose | Self::HandOver => true,
            Self::Part => node != victim && node != next(victim),
            _ => node != victim,
        }
    }

    fn begin(self, nodes: &mut Processes, load: &mut Load, victim: u64) {
        match self {
            Self::Isolate => others(victim).for_each(|other| part(nodes, victim, other)),
            Self::Deafen => others(victim).for_each(|other| nodes.cut(other, victim)),
            Self::Mute => others(victim).for_each(|other| nodes.cut(victim, other)),
            Self::Part => part(nodes, victim, next(victim)),
            Self::Oust => {
                let before = load.counts().refused.get(&next(victim)).copied().unwrap_or_default();
                part(nodes, victim, next(victim));
                load.run(nodes, "a follower that misses its leader", |now| {
                    now.refused.get(&next(victim)).is_some_and(|refused| *refused > before + REFUSALS)
                });
                others(victim).for_each(|other| part(nodes, victim, other));
            }
            Self::Pause => nodes.pause(victim, true),
            Self::Kill => nodes.kill(victim),
            Self::Delay => others(victim).for_each(|other| nodes.lag(victim, other, LAG)),
            Self::Lose => nodes.lose(LOSS_PPM),
            Self::HandOver => hand_over(nodes, load, victim),
            Self::HandOverDeaf => {
                hand_over(nodes, load, victim);
                others(victim).for_each(|other| nodes.cut(other, victim));
            }
        }
    }

    fn end(self, nodes: &mut Processes, victim: u64, round: u64) {
        nodes.mend();
        match self {
            Self::Pause => nodes.pause(victim, false),
            Self::Kill => {
                nodes.set_rate(victim, RATES[(victim + round) as usize % RATES.len()]);
                nodes.revive(victim);
            }
            _ => {}
        }
    }
}

/// Two nodes do not hear each other any more.
fn part(nodes: &Processes, one: u64, other: u64) {
    nodes.cut(one, other);
    nodes.cut(other, one);
}

/// Asks a node to hand over whatever it leads.
fn hand_over(nodes: &mut Processes, load: &Load, from: u64) {
    for group in (1..=GROUPS).filter(|group| load.leader(*group) == from) {
        let to = others(from).nth(group as usize % (NODES as usize - 1)).expect("there are others");
        nodes.tell(from, &format!("transfer {group} {to}"));
    }
}

/// Whether each group has so many writes more than before, and each of the nodes answers at each level.
fn has_done(before: &Counts, now: &Counts, writes: u64, by: impl Iterator<Item = u64>) -> bool {
    let more = |group: u64| {
        let of = |counts: &Counts| counts.written.get(&group).copied().unwrap_or_default();
        of(now) >= of(before) + writes
    };
    let answers = |node: u64| {
        let of = |counts: &Counts| counts.shown.get(&node).copied().unwrap_or([0; LEVELS]);
        of(now).iter().zip(of(before)).all(|(now, before)| *now >= before + ANSWERS)
    };
    (1..=GROUPS).all(more) && by.into_iter().all(answers)
}

#[test]
fn every_read_level_keeps_its_guarantee_under_faults() {
    let program = Path::new(env!("CARGO_BIN_EXE_node_process"));
    let mut nodes = Processes::start_apart(program, &RATES);
    for node in 1..=NODES {
        nodes.tell(node, &format!("create {GROUPS}"));
        nodes.wait_for(node, "created");
    }
    let mut load = Load::new(number("LEVELS_SEED", 1), NODES, GROUPS);
    let everybody = |load: &mut Load, nodes: &mut Processes, what: &str| {
        let before = load.counts().clone();
        load.run(nodes, what, |now| has_done(&before, now, WRITES, 1..=NODES));
    };
    everybody(&mut load, &mut nodes, "at the beginning");
    for round in 0..number("LEVELS_ROUNDS", FAULTS.len() as u64) {
        let fault = FAULTS[round as usize % FAULTS.len()];
        let victim = load.leader(round % GROUPS + 1);
        let before = load.counts().clone();
        fault.begin(&mut nodes, &mut load, victim);
        let what = format!("round {round}, {fault:?} of node {victim}");
        let by = |node: &u64| fault.leaves(*node, victim);
        load.run(&mut nodes, &what, |now| has_done(&before, now, WRITES, (1..=NODES).filter(by)));
        fault.end(&mut nodes, victim, round);
        everybody(&mut load, &mut nodes, &format!("after {what}"));
    }
    load.finish(&mut nodes);
    let journals: BTreeMap<u64, Vec<(u64, u64)>> =
        (1..=GROUPS).map(|group| (group, nodes.journal(group))).collect();
    (1..=GROUPS).for_each(|group| nodes.assert_equal(group));
    let tally = match load.history().judge(&journals) {
        Ok(tally) => tally,
        Err(violation) => panic!("{}: {}", violation.invariant, violation.what),
    };
    assert!(load.counts().again > 0, "kept states were asked again");
    // Not told apart from each other, levels would prove nothing: the weak ones were late, the strong one never.
    let [strong, bounded, .., prefix, eventual] = tally.stale;
    assert!(strong == 0 && [bounded, prefix, eventual].iter().all(|stale| *stale > 0), "{tally:?}");
}
