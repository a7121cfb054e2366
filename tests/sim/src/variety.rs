//! What differs between the nodes of a run, and between the lives of one node: settings, limits and costs of turns, clocks; and
//! the faults that are drawn apart from the others, each kind in a stream of its own.
//!
//! A rolling change is such a difference: one node after the other comes back with another election timeout, other windows, other
//! limits. What is not here: what all nodes of a run have in common (`plan`), and what the faults do (`world`).

use std::time::Duration;

use raftwerk::drive::{Settings, TurnLimits};

use crate::chance::Chance;
use crate::fault::{FaultKind, FaultSet, Strike};
use crate::plan::Profile;

const MS: u64 = 1_000_000;
/// Election timeouts that lives of a run may have, in quarters of the run's.
const TIMEOUTS: [&[u32]; 6] = [&[4], &[4], &[4], &[1, 4], &[2, 4], &[2, 4, 8]];
const QUARTERS: u32 = 4;
/// Of an election timeout a slow turn takes one in so many, at the most.
const SLOW_TURN: u64 = 10;
/// The same of turns that take long in every life.
const USUAL_TURN: u64 = 1_000;
/// Whether nodes may differ in how long a payload may be. Off: a follower refuses a longer one for ever.
const PAYLOADS_DIFFER: bool = false;

/// What differs.
#[derive(Clone, Debug)]
pub(crate) struct Variety {
    seed: u64,
    /// Turns have limits so small that work is left over.
    has_small_turns: bool,
    /// Of news of nodes, nearly always.
    tells_little: bool,
    /// Lives differ in windows, limits and checkpoints.
    has_other_settings: bool,
    /// Quarters of T that a life's election timeout may have.
    timeouts: &'static [u32],
    /// What a turn costs at least, in nanoseconds.
    pub(crate) turn: u64,
    /// In so many of eight lives the clock begins near 0.
    young_clocks: u64,
}

impl Variety {
    /// None: all nodes are alike, all their lives, and turns take no time.
    pub(crate) const fn none(seed: u64) -> Self {
        Self {
            seed,
            has_small_turns: false,
            tells_little: false,
            has_other_settings: false,
            timeouts: TIMEOUTS[0],
            turn: 0,
            young_clocks: 0,
        }
    }

    pub(crate) fn draw(seed: u64, profile: Profile, election: u64) -> Self {
        let mut chance = Chance::of(seed, "variety");
        let has_small_turns = chance.below(2) == 0;
        let has_other_settings = chance.below(3) == 0;
        let timeouts = chance.one_of(&TIMEOUTS);
        let turn = chance.one_of(&[0, 0, 20_000, 100_000, 500_000]).min(election / USUAL_TURN);
        let young_clocks = chance.one_of(&[0, 4, 8]);
        let is_about_leases = profile == Profile::Leases;
        Self {
            seed,
            has_small_turns: has_small_turns || is_about_leases && chance.below(2) == 0,
            tells_little: is_about_leases,
            has_other_settings,
            timeouts: if profile == Profile::Gentle { TIMEOUTS[0] } else { timeouts },
            turn,
            young_clocks,
        }
    }

    /// The longest of some election timeouts.
    pub(crate) fn longest(&self, timeout: u64) -> u64 {
        let most = self.timeouts.iter().copied().max().unwrap_or(QUARTERS);
        timeout * u64::from(most) / u64::from(QUARTERS)
    }

    fn of_life(&self, node: usize, life: u32, concern: &str) -> Chance {
        Chance::of(self.seed ^ (node as u64 + 1) << 40 ^ u64::from(life) << 48, concern)
    }

    /// The settings of a life. All lives of a run have heartbeats that the shortest of its election timeouts can do with.
    pub(crate) fn settings(&self, usual: &Settings, node: usize, life: u32) -> Settings {
        let mut chance = self.of_life(node, life, "timeouts of a life");
        let quarters = chance.one_of(self.timeouts);
        let least = self.timeouts.iter().copied().min().unwrap_or(QUARTERS);
        let election_timeout = usual.election_timeout * quarters / QUARTERS;
        let heartbeat_interval = usual.heartbeat_interval * quarters.min(2 * least) / QUARTERS;
        let mut settings = Settings { election_timeout, heartbeat_interval, ..usual.clone() };
        if self.has_small_turns {
            let mut chance = self.of_life(node, life, "limits of turns");
            settings.limits = limits(&mut chance, usual.limits);
            if self.tells_little && chance.below(4) > 0 {
                settings.limits.notifications = chance.one_of(&[1, 1, 2]) as usize;
            }
        }
        if self.has_other_settings {
            let mut chance = self.of_life(node, life, "settings of a life");
            settings.window_bytes = chance.one_of(&[1, 256, 4 << 10, 1 << 20]);
            settings.window_messages = chance.one_of(&[1, 2, 8, 256]) as u32;
            settings.append_bytes_max = chance.one_of(&[1, 512, 8 << 10, 1 << 20]);
            settings.uncommitted_bytes_max = chance.one_of(&[4 << 10, 64 << 10, 1 << 20]);
            settings.commit_delay = Duration::from_nanos(chance.one_of(&[0, 1, 5, 20]) * MS);
            settings.checkpoint_log_bytes = chance.one_of(&[128, 1 << 10, 8 << 10, 64 << 10]);
            let payload_bytes_max = chance.one_of(&[1 << 10, 4 << 10]) as usize;
            if PAYLOADS_DIFFER {
                settings.payload_bytes_max = payload_bytes_max;
            }
        }
        settings
    }

    /// What the clock of a life shows first, if it is one that begins then.
    pub(crate) fn clock_begins(&self, node: usize, life: u32) -> Option<u64> {
        let mut chance = self.of_life(node, life, "clocks begin");
        let drawn = chance.one_of(&[0, 0, 1, 1_000, MS, 100 * MS]);
        (chance.below(8) < self.young_clocks).then(|| if drawn > 1 { chance.below(drawn) } else { drawn })
    }
}

/// Half of a life's limits are as usual.
fn limits(chance: &mut Chance, usual: TurnLimits) -> TurnLimits {
    let mut one = |usual: u64| {
        let drawn = chance.one_of(&[1, 2, 8]);
        if chance.below(2) == 0 { usual } else { drawn }
    };
    TurnLimits {
        deadlines: one(usual.deadlines as u64) as usize,
        arrivals: one(usual.arrivals as u64) as usize,
        records: one(u64::from(usual.records)) as u32,
        orders: one(usual.orders as u64) as usize,
        notifications: one(usual.notifications as u64) as usize,
        control_records: one(u64::from(usual.control_records)) as u32,
        apply_bytes: one(usual.apply_bytes),
        ..usual
    }
}

/// In every second run about leases that is not quiet, groups change, too.
pub(crate) fn leases_change(seed: u64) -> bool {
    Chance::of(seed, "members of leases").below(2) == 0
}

/// In one of eight runs, a node that comes back with another number of workers has its log moved into as many lanes; there, that happens
/// more often.
pub(crate) fn relanes(seed: u64) -> bool {
    Chance::of(seed, "logs are moved").below(8) == 0
}

/// In every second run about leases there are so many groups that not all of them hear of a node in one turn.
pub(crate) fn many_groups(seed: u64, profile: Profile) -> Option<usize> {
    let mut chance = Chance::of(seed, "many groups");
    (profile == Profile::Leases && chance.below(2) == 0).then_some(6)
}

/// In every second run in which groups change, and nodes live with damage, a node may be damaged.
pub(crate) fn damages_members(seed: u64) -> bool {
    Chance::of(seed, "damage with members").below(2) == 0
}

/// The damage that a group may live with while it changes: what takes a whole disk needs an operator.
pub(crate) const fn befalls_members(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::BitRot
            | FaultKind::LostWrite
            | FaultKind::Misdirected
            | FaultKind::StaleRead
            | FaultKind::LostRename
            | FaultKind::Decay
    )
}

/// What strikes in a run, in streams of its own.
pub(crate) struct Apart {
    pub(crate) profile: Profile,
    pub(crate) changes: bool,
    pub(crate) damages: bool,
    pub(crate) relanes: bool,
    pub(crate) nodes: usize,
    pub(crate) end: u64,
    /// T, in nanoseconds.
    pub(crate) election: u64,
    pub(crate) gap: u64,
}

impl Apart {
    /// In so many of eight runs a kind strikes.
    fn odds(&self, kind: FaultKind) -> u64 {
        let is_about_leases = self.profile == Profile::Leases;
        match kind {
            _ if self.profile == Profile::Gentle => 0,
            FaultKind::StallChannel if self.profile == Profile::Quic => 0,
            FaultKind::SlowTurns
            | FaultKind::StallChannel
            | FaultKind::SlowSegment
            | FaultKind::ClockRate => 4,
            FaultKind::ClockStop if !is_about_leases => 2,
            FaultKind::Part | FaultKind::Oust if self.changes && !is_about_leases => 4,
            FaultKind::Resign if self.changes => 6,
            FaultKind::Workers if self.relanes => 8,
            FaultKind::Reconfigure if is_about_leases && self.changes => 8,
            FaultKind::Lapse if is_about_leases => 6,
            FaultKind::Lapse | FaultKind::Murmur if self.changes || is_about_leases => 3,
            kind if befalls_members(kind) && self.changes && self.damages => 4,
            _ => 0,
        }
    }

    /// The strikes, kind by kind.
    pub(crate) fn strikes(&self, seed: u64, without: FaultSet) -> Vec<Strike> {
        let mut strikes = Vec::new();
        for kind in FaultKind::ALL.iter().copied().filter(|kind| !without.has(*kind)) {
            let mut chance = Chance::of(seed ^ (kind as u64) << 32, "faults drawn apart");
            if chance.below(8) >= self.odds(kind) {
                continue;
            }
            let is_aimed = self.profile == Profile::Leases && kind == FaultKind::Lapse;
            let usual = self.gap * chance.one_of(if is_aimed { &[1, 2, 4] } else { &[4, 8, 16] });
            let mut at = chance.below(usual);
            while at < self.end {
                strikes.push(self.one(kind, at, &mut chance));
                at += chance.heavy_tailed(usual);
            }
        }
        strikes
    }

    fn one(&self, kind: FaultKind, at: u64, chance: &mut Chance) -> Strike {
        let (nodes, election) = (self.nodes as u64, self.election);
        let node = chance.below(nodes) as usize;
        let other = (node + 1 + chance.below(nodes.max(2) - 1) as usize) % self.nodes;
        let span = match kind {
            FaultKind::SlowSegment => chance.from_to(election / 2, 6 * election),
            FaultKind::SlowTurns => chance.from_to(election, 8 * election),
            FaultKind::Oust | FaultKind::Resign => chance.from_to(3 * election, 5 * election),
            FaultKind::Lapse => chance.from_to(4 * election, 6 * election),
            FaultKind::ClockStop => chance.heavy_tailed(election).min(20 * election),
            _ => chance.heavy_tailed(2 * election).min(8_000 * MS),
        };
        Strike { at, kind, node, other, span, salt: chance.any() }
    }
}

/// What a slow turn takes, of a node that is slow for a strike's sake.
pub(crate) const fn slow_turn(strike: &Strike, election: u64) -> u64 {
    let most = election / SLOW_TURN;
    most >> (strike.salt % 7)
}
