//! Named scenarios: a director instead of faults at random. Those of MIT's course 6.5840, in words of our own.
//!
//! A scenario decides which node is cut off, falls or is asked, and what must be seen then; the seed draws delays, timeouts, and
//! whatever the scenario leaves open. All invariants stay on, and every scenario ends as every run does: peace, progress,
//! equal replicas, a linearizable history. What is not here: the verbs (`world::stage`).

mod agreement;
mod elections;
mod key_value;
mod liveness;
mod persistence;
mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use raftwerk::drive::Settings;
use raftwerk_frame::NodeId;
use raftwerk_wal::{LaneOptions, OnDamage};

use crate::chance::Chance;
use crate::plan::{DiskPlan, NetPlan, Plan};
use crate::subject::{KeyValueSubject, Subject};
use crate::variety::Variety;
use crate::watch::Checked;
use crate::world::{Report, World};

const MS: u64 = 1_000_000;
const ELECTION: u64 = 500 * MS;

/// Claims what must be so, and reports what was seen where it is not.
macro_rules! claim {
    ($world:expr, $holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err($world.broken(format_args!($($what)*)));
        }
    };
}
use claim;

/// The network between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Short delays, in order, nothing lost.
    Fair,
    /// Delays of 0 to 26 ms, in any order; a tenth of all requests and a tenth of all replies lost.
    Foul,
}

/// One named scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    name: &'static str,
    tells: &'static str,
    /// The numbers of nodes; the seed takes one of them.
    nodes: &'static [usize],
    /// Workers of each node.
    workers: usize,
    clients: usize,
    weather: Weather,
    /// A checkpoint is due after so many bytes of log.
    checkpoint_bytes: u64,
    direct: fn(&mut World<'_>) -> Checked,
}

/// Every scenario, by theme.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    let themes = [
        elections::SCENARIOS,
        agreement::SCENARIOS,
        persistence::SCENARIOS,
        snapshots::SCENARIOS,
        key_value::SCENARIOS,
        liveness::SCENARIOS,
    ];
    themes.into_iter().flatten()
}

impl Scenario {
    const fn new(
        name: &'static str,
        nodes: &'static [usize],
        tells: &'static str,
        direct: fn(&mut World<'_>) -> Checked,
    ) -> Self {
        // So much that no checkpoint is due unless a scenario is about them.
        let checkpoint_bytes = 64 << 20;
        Self { name, tells, nodes, workers: 1, clients: 0, weather: Weather::Fair, checkpoint_bytes, direct }
    }

    const fn in_foul_weather(mut self) -> Self {
        self.weather = Weather::Foul;
        self
    }

    const fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    const fn with_clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    const fn with_checkpoints(mut self, checkpoint_bytes: u64) -> Self {
        self.checkpoint_bytes = checkpoint_bytes;
        self
    }

    /// The scenario of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        all().find(|scenario| scenario.name == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What happens in it, in a line.
    #[must_use]
    pub const fn tells(&self) -> &'static str {
        self.tells
    }

    /// Lives through it once. `trace` gets a line for each thing that happens.
    #[must_use]
    pub fn run(&self, seed: u64, trace: Option<fn(&str)>) -> Report {
        let subject: Arc<dyn Subject> = Arc::new(KeyValueSubject::default());
        World::of_plan(seed, self.plan(seed), trace, &subject).play(self.name, self.direct)
    }

    /// One group with a voter on every node, ordinary limits, and no faults but those of the network.
    fn plan(&self, seed: u64) -> Plan {
        let mut chance = Chance::of(seed, self.name);
        let nodes = chance.one_of(self.nodes);
        let (settings, lane) = self.limits(&mut chance, seed);
        let old_percent = chance.one_of(&[0, 10, 50, 90]);
        Plan {
            is_churning: false,
            replaces: false,
            is_unequal: false,
            priorities: vec![raftwerk_raft::PRIORITY_MAX; nodes],
            accepts_losses: false,
            insists_on_witnesses: false,
            stray: 16,
            relaxed: 0,
            noise_ppm: 0,
            nodes,
            groups: 1,
            voters: vec![(0..nodes).collect()],
            workers: vec![self.workers; nodes],
            clients: self.clients,
            readers: if self.clients > 0 { 2 } else { 0 },
            repeaters: usize::from(self.clients > 0),
            faces: 0,
            think: chance.one_of(&[1, 5, 20]) * MS,
            variety: Variety::none(seed),
            clocks_stop: false,
            settings,
            lane,
            inbox_max: 1024,
            ballast: 0,
            crowds: Vec::new(),
            strangers: None,
            open_numbers: 1,
            net: self.net(&mut chance),
            disk: DiskPlan {
                sync: chance.one_of(&[50_000, 500_000, 4 * MS]),
                slow_ppm: 0,
                slow: 0,
                old_percent,
                new_percent: (100 - old_percent) / 2,
            },
            drift_ppm: chance.one_of(&[0, 200]),
            strikes: Vec::new(),
            quic: None,
            crashes: false,
            drops_at_rest: false,
            is_delicate: false,
            tells_of_connections: false,
            fails: false,
            remembers_batches: false,
            end: 0,
        }
    }

    fn net(&self, chance: &mut Chance) -> NetPlan {
        let notice = chance.one_of(&[1, 50, 1_000]) * MS;
        match self.weather {
            Weather::Fair => NetPlan {
                delay: chance.one_of(&[20_000, 100_000, MS, 5 * MS]),
                jitter: chance.one_of(&[10_000, 200_000, 2 * MS]),
                notice,
                ..NetPlan::default()
            },
            Weather::Foul => NetPlan {
                drop_ppm: 100_000,
                reorder_ppm: 1_000_000,
                delay: 0,
                jitter: 26 * MS + 1,
                notice,
                ..NetPlan::default()
            },
        }
    }

    fn limits(&self, chance: &mut Chance, seed: u64) -> (Settings, LaneOptions) {
        let payload_bytes_max = 16 << 10;
        let segment_bytes = chance.one_of(&[64 << 10, 256 << 10]);
        let settings = Settings {
            node: NodeId(0),
            worker: 0,
            workers: 0,
            payload_bytes_max,
            election_timeout: Duration::from_nanos(ELECTION),
            heartbeat_interval: Duration::from_nanos(ELECTION / 5),
            window_bytes: chance.one_of(&[64 << 10, 1 << 20]),
            window_messages: chance.one_of(&[8, 256]) as u32,
            append_bytes_max: chance.one_of(&[64 << 10, 1 << 20]),
            uncommitted_bytes_max: 1 << 20,
            commit_delay: Duration::from_nanos(chance.one_of(&[0, 1, 5]) * MS),
            relaxed_sync_interval: Duration::from_nanos(20 * MS),
            checkpoint_log_bytes: self.checkpoint_bytes,
            checkpoint_state_percent: 0,
            lane_bytes_max: 64 << 20,
            accept_losses: false,
            scrub_bytes_per_second: 0,
            scrub_interval: Duration::ZERO,
            priority: raftwerk::PRIORITY_MAX,
            seed,
            incarnation: 0,
            clock_drift_ppm: 50_000,
            reads_max: 4 << 10,
            read_bytes_max: 1 << 20,
            limits: raftwerk::drive::TurnLimits::default(),
        };
        let recent_bytes = chance.one_of(&[0, 256 << 10]) as usize;
        let lane = LaneOptions {
            lane: 0,
            segment_bytes,
            batch_bytes_max: 4 << 20,
            stream_bytes: 16 << 10,
            frame_bytes_max: payload_bytes_max + 1024,
            queue_bytes_max: 8 << 20,
            ready_segments: 1,
            spare_segments: 1,
            recent_bytes,
            recent_bytes_max: 4 * recent_bytes,
            log_bytes_max: 8 << 20,
            memory_bytes: u64::MAX,
            age_max: None,
            on_damage: OnDamage::Refuse,
        };
        (settings, lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for scenario in all() {
            assert_eq!(all().filter(|other| other.name == scenario.name).count(), 1, "{}", scenario.name);
            assert!(Scenario::named(scenario.name).is_some_and(|found| found.tells == scenario.tells));
        }
        assert!(Scenario::named("no such name").is_none());
    }
}
