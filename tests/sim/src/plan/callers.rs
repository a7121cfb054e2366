//! What callers and operators do besides, each drawn from a stream of its own: crowds of readers, slips of operators, groups that
//! shrink to their last voter, snapshots in small chunks.
//!
//! What is not here: everything that was drawn before there was this (the parent), and what each of it does (`world`).

use raftwerk::exactly_once::CLIENTS_MAX;

use super::{MS, Options, Profile};
use crate::chance::Chance;
use crate::fault::{FaultKind, Strike};

/// A crowd of readers that come to one replica.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Crowd {
    /// When the first of them come, in nanoseconds of the world's time.
    pub(crate) at: u64,
    /// Which replica: both are taken modulo what there is.
    pub(crate) group: u64,
    pub(crate) place: u64,
    /// So many times some come …
    pub(crate) rounds: u32,
    /// … at intervals of so many nanoseconds …
    pub(crate) gap: u64,
    /// … so many at a time.
    pub(crate) count: u32,
    /// Bytes of a query at the most.
    pub(crate) bytes: usize,
    /// How long they wait, in nanoseconds.
    pub(crate) wait: u64,
    /// They wait for what never comes, and no task polls them: there are to be more than a worker lets wait.
    pub(crate) is_flood: bool,
}

/// Clients that a group is to remember.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strangers {
    /// When the first of them come, in nanoseconds of the world's time.
    pub(crate) at: u64,
    /// Which group: modulo what there is.
    pub(crate) group: u64,
    /// How many there are.
    pub(crate) count: u32,
}

/// In one run of 24 a group is given more clients than it can remember.
pub(super) fn strangers(seed: u64, options: &Options, end: u64) -> Option<Strangers> {
    let mut chance = Chance::of(seed, "strangers");
    if options.profile == Profile::Gentle || chance.below(24) > 0 {
        return None;
    }
    let (at, group) = (chance.from_to(0, end / 2), chance.any());
    let count = CLIENTS_MAX as u32 + chance.from_to(0, 200) as u32;
    Some(Strangers { at, group, count })
}

/// Crowds come in half of all runs; in one of 32 that let many requests wait, more than may wait come at once.
pub(super) fn crowds(seed: u64, options: &Options, end: u64, inbox_max: usize) -> Vec<Crowd> {
    let mut chance = Chance::of(seed, "crowds");
    let is_spared = options.profile == Profile::Gentle || chance.below(2) == 0;
    let count = if is_spared { 0 } else { chance.from_to(1, 3) };
    let mut crowds: Vec<Crowd> = (0..count).map(|_| crowd(&mut chance, end)).collect();
    if inbox_max >= FLOOD_ROUND as usize && chance.below(32) == 0 {
        let (bytes, wait, count) = (64, 500 * MS, FLOOD_ROUND);
        let drawn = crowd(&mut chance, end);
        crowds.push(Crowd { rounds: 8, gap: MS / 10, count, bytes, wait, is_flood: true, ..drawn });
    }
    crowds
}

/// So many requests are made at once in a flood.
const FLOOD_ROUND: u32 = 1024;

fn crowd(chance: &mut Chance, end: u64) -> Crowd {
    Crowd {
        at: chance.from_to(end / 10, end),
        group: chance.any(),
        place: chance.any(),
        rounds: chance.from_to(1, 40) as u32,
        gap: chance.one_of(&[1, 10, 50, 200]) * MS,
        count: chance.one_of(&[1, 4, 16]),
        bytes: chance.one_of(&[32, 200, 4 << 10]),
        wait: chance.one_of(&[1, 10, 60, 3_600]) * 1_000 * MS,
        is_flood: false,
    }
}

/// How many reads may wait for a worker, and how many bytes of their queries: hardly any, in one run of four.
pub(super) fn reads_max(seed: u64, query_bytes_max: usize) -> (usize, usize) {
    let mut chance = Chance::of(seed, "reads that wait");
    (chance.one_of(&[16, 256, 4 << 10, 4 << 10]), query_bytes_max * chance.one_of(&[4, 32, 256]))
}

/// How images travel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    /// Bytes of a chunk.
    pub(super) bytes: u64,
    /// Bytes that images have besides.
    pub(super) ballast: u64,
}

/// Most states are some kB: chunks of the usual size hold them whole. In more than half of all runs chunks are smaller, and in most
/// of those images have some dozen at least; but where disks and links are slow, one takes no more than a second or two.
pub(super) fn chunks(seed: u64, round_trip: u64, usual: u64) -> Chunks {
    let mut chance = Chance::of(seed, "chunks");
    let drawn = chance.one_of(&[1, 16, 64, 256, 1 << 10, usual, usual, usual]);
    let count = chance.one_of(&[0, 16, 50, 100]);
    let bytes = drawn.max((8 << 10) * round_trip / (1_000 * MS));
    Chunks { bytes, ballast: if drawn < usual { (bytes * count).min(BALLAST_MAX) } else { 0 } }
}

/// Every checkpoint costs as much.
const BALLAST_MAX: u64 = 16 << 10;

/// In every second run with replicas that are dropped by mistake, one is once more when the faults have ended.
pub(super) fn drops_at_rest(seed: u64, options: &Options) -> bool {
    matches!(options.profile, Profile::Churn | Profile::Members)
        && !options.without.has(FaultKind::DropReplica)
        && Chance::of(seed, "drops at rest").below(2) == 0
}

/// What befalls groups with changing membership, besides their changes; and, in one run of eight, one bad message.
pub(super) fn errands(seed: u64, options: &Options, nodes: usize, end: u64) -> Vec<Strike> {
    let mut strikes = Vec::new();
    let mut draw = |name: &str, kind: FaultKind, most: u64| {
        let mut chance = Chance::of(seed, name);
        let count = if options.without.has(kind) { 0 } else { chance.below(most + 1) };
        for _ in 0..count {
            let (at, node) = (chance.from_to(end / 10, end), chance.below(nodes as u64) as usize);
            let other = (node + 1 + chance.below(nodes as u64 - 1) as usize) % nodes;
            strikes.push(Strike { at, kind, node, other, span: 0, salt: chance.any() });
        }
    };
    if matches!(options.profile, Profile::Churn | Profile::Members) {
        draw("shrinking", FaultKind::Shrink, 3);
        draw("slipping", FaultKind::DropReplica, 2);
    }
    let is_calm = matches!(options.profile, Profile::Gentle | Profile::Leases | Profile::Quic);
    if !is_calm && nodes > 1 && Chance::of(seed, "bad messages").below(8) == 0 {
        draw("far terms", FaultKind::FarTerm, 2);
    }
    if options.profile != Profile::Gentle && Chance::of(seed, "panics").below(4) == 0 {
        draw("machines", FaultKind::PanicMachine, 4);
    }
    strikes
}
