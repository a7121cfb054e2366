//! What a run is made of, drawn from its seed: how many nodes and groups, how small the limits, what may go wrong.
//!
//! Every seed draws its own tiny limits, and every kind of fault its own rate or none ("swarm testing"): a run without
//! some faults reaches places that a run with all of them never does.

use std::time::Duration;

use raftwerk::drive::{Settings, TurnLimits};
use raftwerk_frame::NodeId;
use raftwerk_raft::PRIORITY_MAX;
use raftwerk_wal::{LaneOptions, OnDamage};

use crate::chance::Chance;
use crate::fault::{FaultKind, FaultSet, Strike, decays, schedule};
use crate::quic::QuicPlan;
use crate::variety::{self, Apart, Variety};
use crate::world::faces::planned;

mod callers;

pub(crate) use callers::{Crowd, Strangers};

/// Which faults a run may have, and how often they strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Delays, and nodes that stop and start again.
    Gentle,
    /// Every kind of fault with even chance, at rates of its own; damage on at most a minority.
    Swarm,
    /// Every kind of fault, often.
    Hostile,
    /// As swarm, over the real transport: QUIC, over datagrams that are lost, doubled, reordered, corrupted. Slower.
    Quic,
    /// Clocks that gain or lose up to 5 %, nodes, workers and disks that stand still, leaders that are cut off or hand over, and
    /// many readers: whether leases hold.
    Leases,
    /// Groups of changing membership on more nodes than they have voters, and leaders that hand over, under every kind
    /// of fault that damages nothing.
    Churn,
    /// As swarm, without damage, with relaxed proposals beside the others.
    Relaxed,
    /// As churn, with membership that is asked to change all the time. In every second run most nodes that did not found a group
    /// are witnesses in it; in every fourth it changes by disks that are lost, and in every fourth by nodes that go and come
    /// back. Some have relaxed proposals.
    Members,
}

/// What the caller wants of a run; the seed draws the rest.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kinds and rates of faults.
    pub profile: Profile,
    /// How many nodes, 1 to 9; drawn if `None`.
    pub nodes: Option<usize>,
    /// How many groups, 1 to 64; drawn if `None`.
    pub groups: Option<usize>,
    /// How long the faults go on, in seconds of the world; drawn if `None`.
    pub seconds: Option<u64>,
    /// Kinds of faults to leave out.
    pub without: FaultSet,
    /// Of the drawn strikes, only these; all if `None`.
    pub strikes: Option<Vec<usize>>,
    /// Gets a line for each thing that happens.
    pub trace: Option<fn(&str)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: Profile::Swarm,
            nodes: None,
            groups: None,
            seconds: None,
            without: FaultSet::default(),
            strikes: None,
            trace: None,
        }
    }
}

/// Rates of the network, per million messages, and delays in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct NetPlan {
    /// Messages that are lost.
    pub drop_ppm: u32,
    /// Messages that arrive twice.
    pub duplicate_ppm: u32,
    /// Messages that may overtake others of their channel.
    pub reorder_ppm: u32,
    /// Messages that the sender's transport refuses.
    pub refuse_ppm: u32,
    /// Messages that arrive once more, much later.
    pub late_ppm: u32,
    /// The most by which a second copy is later.
    pub late: u64,
    /// The usual delay.
    pub delay: u64,
    /// The most that is added to it at random.
    pub jitter: u64,
    /// One in a million with a delay from a heavy tail.
    pub tail_ppm: u32,
    /// The usual delay of those.
    pub tail: u64,
    /// How long after a node's death, or a cut, its peers learn that the connection is gone.
    pub notice: u64,
}

/// Rates and delays of the disks.
#[derive(Clone, Debug, Default)]
pub struct DiskPlan {
    /// The usual time of a sync, in nanoseconds.
    pub sync: u64,
    /// Jobs in a million that take a time from a heavy tail.
    pub slow_ppm: u32,
    /// The usual time of those.
    pub slow: u64,
    /// Sectors in a hundred that keep old bytes, then those that get new ones, at a power cut; the rest is garbage.
    pub old_percent: u64,
    /// Sectors in a hundred that get new bytes, see `old_percent`.
    pub new_percent: u64,
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes.
    pub nodes: usize,
    /// How many groups.
    pub groups: usize,
    /// The first voters of each group, as positions of nodes.
    pub voters: Vec<Vec<usize>>,
    /// Membership changes: every node has a replica of each group, if only an empty one.
    pub is_churning: bool,
    /// Members are taken out, and other nodes let in, one node at a time: replicas of one node follow each other.
    pub replaces: bool,
    /// Most nodes that did not found a group are witnesses in it, not half of them, and the operator asks for one where none votes.
    pub insists_on_witnesses: bool,
    /// Nodes have different priorities …
    pub is_unequal: bool,
    /// … of these values, by node.
    pub priorities: Vec<u8>,
    /// In the end a group loses something that no replica can bring back, and an operator accepts that.
    pub accepts_losses: bool,
    /// Workers of each node.
    pub workers: Vec<usize>,
    /// How many clients.
    pub clients: usize,
    /// How many readers there are besides the clients: they read at every level, at any replica.
    pub readers: usize,
    /// How many clients repeat calls of unknown outcome.
    pub repeaters: usize,
    /// How many users of the engine's own faces.
    pub faces: usize,
    /// How long a client thinks between two calls, usually, in nanoseconds.
    pub think: u64,
    /// One call in so many goes to any voter, whether it leads or not.
    pub stray: u64,
    /// Calls in a million that come with proposals that no client waits for.
    pub noise_ppm: u32,
    /// One call in so many comes with a relaxed proposal; none if 0.
    pub relaxed: u64,
    /// What differs between nodes, and between the lives of one.
    pub(crate) variety: Variety,
    /// Some clocks stand still: then ages of answers are not judged.
    pub clocks_stop: bool,
    /// Settings of all workers; the node's number is filled in.
    pub settings: Settings,
    /// Limits of all lanes; the lane's number is filled in.
    pub lane: LaneOptions,
    /// Requests that may wait for one worker.
    pub inbox_max: usize,
    /// Bytes that each image has besides those of its machine.
    pub ballast: u64,
    /// Crowds of readers.
    pub(crate) crowds: Vec<Crowd>,
    /// Clients that register with a group and make no call afterwards.
    pub(crate) strangers: Option<Strangers>,
    /// The most numbers that a repeating client has open at a time.
    pub open_numbers: usize,
    /// The network.
    pub net: NetPlan,
    /// Real transports over it, and their limits.
    pub(crate) quic: Option<QuicPlan>,
    /// The disks.
    pub disk: DiskPlan,
    /// Each node's clock drift, in parts per million, give or take.
    pub drift_ppm: i64,
    /// Faults that strike at a moment.
    pub strikes: Vec<Strike>,
    /// Nodes also die while they open, and when their logs have just begun anew.
    pub crashes: bool,
    /// In every second run: nodes also die in the middle of naming a checkpoint, and right after a snapshot; devices that refuse
    /// calls also refuse the next segment; and leaders that are cut off have handed over before.
    pub is_delicate: bool,
    /// In the end a group at rest loses its leader's replica.
    pub drops_at_rest: bool,
    /// In every second run both ends get a notice of a connection that is made again.
    pub tells_of_connections: bool,
    /// Calls to the disk are refused.
    pub fails: bool,
    /// Batches are remembered, because a fault may take them away.
    pub remembers_batches: bool,
    /// When faults end, in nanoseconds.
    pub end: u64,
}

const MS: u64 = 1_000_000;
/// The free memory that a worker needs to take in more, and the buffers that it always has.
const MEMORY_LEAST: u64 = (2 << 20) + (32 << 10);
/// Long, beside the time of a sync: so that nodes die with unsynced bytes.
const RELAXED_SYNC_INTERVAL: u64 = 20 * MS;

impl Plan {
    /// Draws a plan.
    #[must_use]
    pub fn draw(seed: u64, options: &Options) -> Self {
        let mut chance = Chance::of(seed, "plan");
        let is_about_leases = options.profile == Profile::Leases;
        // In every third run about leases clients hardly write, and what hangs is there for long enough to be noticed.
        let is_quiet = is_about_leases && seed.is_multiple_of(3);
        let is_loud = |kind| is_quiet && matches!(kind, FaultKind::Part | FaultKind::Oust);
        let kinds =
            kinds(&mut chance, options.profile).without(options.without).without(FaultSet::of(is_loud));
        let counts: &[usize] = match options.profile {
            Profile::Churn => &[3, 4, 5, 6],
            Profile::Members => &[3, 4, 5, 6],
            Profile::Leases => &[3, 5],
            _ => &[3, 3, 3, 3, 5, 5, 1, 2, 4, 7],
        };
        let nodes = options.nodes.unwrap_or_else(|| chance.one_of(counts));
        let groups = options.groups.unwrap_or_else(|| chance.one_of(&[1, 1, 1, 2, 3, 6]));
        let mut voters: Vec<_> = (0..groups).map(|_| voters(&mut chance, nodes, options.profile)).collect();
        let groups = variety::many_groups(seed, options.profile)
            .filter(|_| options.groups.is_none())
            .unwrap_or(groups);
        // About leases all groups have the same.
        voters.resize_with(groups, || (0..nodes).collect());
        let is_churning = matches!(options.profile, Profile::Churn | Profile::Members)
            || is_about_leases && !is_quiet && variety::leases_change(seed);
        let (alike, usual) = (chance.below(4) > 0, chance.one_of(&[1, 1, 2, 3]));
        let one = |chance: &mut Chance| if alike { usual } else { chance.one_of(&[1, 1, 1, 2, 3]) };
        let workers = (0..nodes).map(|_| one(&mut chance)).collect();
        let election = chance.one_of(&[200, 500, 1_000, 1_000]) * MS;
        let end = options.seconds.unwrap_or_else(|| chance.from_to(10, 60)) * 1_000 * MS;
        let (mut settings, lane) = limits(&mut chance, seed, election);
        let net = net_plan(&mut chance, kinds, election);
        let disk = disk_plan(&mut chance, kinds, election);
        let gap = match options.profile {
            Profile::Gentle => 3_000 * MS,
            Profile::Leases => chance.one_of(&[500, 1_000]) * MS,
            Profile::Swarm | Profile::Quic | Profile::Relaxed => chance.one_of(&[300, 1_000, 2_000]) * MS,
            Profile::Hostile | Profile::Churn | Profile::Members => 250 * MS,
        };
        let mut strikes = schedule(Chance::of(seed, "strikes"), kinds, nodes, end, gap, election);
        if options.profile == Profile::Members {
            let by_losses = seed % 4 == 3;
            let is_wanted = |kind: FaultKind| match kind {
                FaultKind::Reconfigure => !by_losses,
                FaultKind::Wipe => by_losses,
                kind => kind.is_wish(),
            };
            // A disk may be lost where nothing else is changing.
            strikes.retain(|strike| !by_losses || strike.kind != FaultKind::Reconfigure);
            let wishes = FaultSet::of(is_wanted).without(options.without);
            let gap = chance.one_of(&[50, 150, 500]) * MS;
            strikes.extend(schedule(Chance::of(seed, "wishes"), wishes, nodes, end, gap, election));
            strikes.sort_by_key(|strike| strike.at);
        }
        if kinds.has(FaultKind::BitRot) && !options.without.has(FaultKind::Decay) {
            let decays = decays(seed, nodes, end);
            // A scrub looks for it in some runs, and reads meet it in the others.
            if !decays.is_empty() && Chance::of(seed, "scrub").below(3) > 0 {
                settings.scrub_bytes_per_second = 256 << 10;
            }
            strikes.extend(decays);
        }
        let variety = Variety::draw(seed, options.profile, election);
        let damages = is_churning && lane.on_damage == OnDamage::Fence && variety::damages_members(seed);
        let profile = options.profile;
        let relanes = variety::relanes(seed);
        let apart = Apart { profile, changes: is_churning, damages, relanes, nodes, end, election, gap };
        strikes.extend(apart.strikes(seed, options.without));
        strikes.extend(callers::errands(seed, options, nodes, end));
        // A member that lost something differs from one that left only where no whole disk, and no replica, goes.
        let goes =
            |kind: FaultKind| matches!(kind, FaultKind::Wipe | FaultKind::Rejoin | FaultKind::DropReplica);
        strikes.retain(|strike| !damages || !goes(strike.kind));
        if let Some(kept) = &options.strikes {
            let chosen = kept.iter().filter_map(|at| strikes.get(*at).copied());
            strikes = chosen.collect();
        }
        // Long enough for a worker to notice the hang.
        let hangs = |kind: FaultKind| matches!(kind, FaultKind::DiskHang | FaultKind::Stuck);
        for strike in strikes.iter_mut().filter(|strike| is_about_leases && hangs(strike.kind)) {
            strike.span = election * (2 + strike.salt % 11);
        }
        // Leases rest on clocks that run, if not at the right rate. Where one may leap, there are none.
        let clocks_stop = strikes.iter().any(|strike| strike.kind == FaultKind::ClockStop);
        if clocks_stop || strikes.iter().any(|strike| strike.kind == FaultKind::ClockLeap) {
            settings.clock_drift_ppm = 1_000_000;
        }
        let round_trip = 2 * (net.delay + net.jitter) + 2 * disk.sync;
        let usual = settings.limits.chunk_bytes;
        (settings.reads_max, settings.read_bytes_max) = callers::reads_max(seed, settings.payload_bytes_max);
        let chunks = callers::chunks(seed, round_trip, usual);
        settings.limits.chunk_bytes = chunks.bytes;
        let remembers_batches =
            (!is_churning || damages) && strikes.iter().any(|strike| strike.kind.is_damage());
        let priorities = priorities(seed, nodes, is_churning, remembers_batches);
        let may_accept = remembers_batches
            && !is_churning
            && lane.on_damage == OnDamage::Fence
            && options.profile != Profile::Quic;
        let mut plan = Self {
            nodes,
            groups,
            voters,
            is_churning,
            is_unequal: priorities.iter().any(|priority| *priority != PRIORITY_MAX),
            priorities,
            accepts_losses: may_accept && Chance::of(seed, "accepts losses").below(2) == 0,
            replaces: options.profile == Profile::Members && seed % 4 == 1,
            insists_on_witnesses: options.profile == Profile::Members && seed.is_multiple_of(2),
            workers,
            clients: chance.from_to(1, 6) as usize,
            readers: if is_about_leases { 4 } else { Chance::of(seed, "readers planned").below(4) as usize },
            repeaters: if is_quiet { 0 } else { Chance::of(seed, "repeaters planned").below(3) as usize },
            faces: planned(seed, options.profile),
            think: chance.one_of(&[1, 5, 10, 50, 200, 1_000]) * MS * if is_quiet { 100 } else { 1 },
            stray: chance.one_of(&[2, 16]),
            noise_ppm: chance.one_of(&[0, 50_000, 500_000]),
            relaxed: match options.profile {
                Profile::Relaxed => chance.one_of(&[1, 2, 8]),
                Profile::Members => chance.one_of(&[0, 0, 2]),
                _ => 0,
            },
            variety,
            clocks_stop,
            settings,
            lane,
            inbox_max: chance.one_of(&[1, 4, 64, 1024]) as usize,
            ballast: chunks.ballast,
            crowds: Vec::new(),
            strangers: callers::strangers(seed, options, end),
            open_numbers: Chance::of(seed, "open numbers").one_of(&[1, 1, 2, 5]),
            net,
            quic: (options.profile == Profile::Quic).then(|| QuicPlan::draw(seed, kinds)),
            disk,
            drift_ppm: match options.profile {
                Profile::Gentle => 50,
                Profile::Leases => 50_000,
                _ => chance.one_of(&[0, 200, 20_000, 50_000]),
            },
            tells_of_connections: Chance::of(seed, "told of connections").below(2) == 0,
            drops_at_rest: callers::drops_at_rest(seed, options),
            is_delicate: Chance::of(seed, "delicate planned").below(2) == 0,
            fails: strikes.iter().any(|strike| strike.kind == FaultKind::WriteError),
            crashes: strikes.iter().any(|strike| strike.kind == FaultKind::CrashAtCall),
            remembers_batches,
            strikes,
            end,
        };
        plan.crowds = callers::crowds(seed, options, end, plan.inbox_max);
        plan
    }
}

/// Which kinds of faults a run may have.
fn kinds(chance: &mut Chance, profile: Profile) -> FaultSet {
    let drawn = chance.any();
    let has_damage = chance.below(2) == 0;
    let is_drawn = |kind: FaultKind| drawn & 1 << kind as u8 != 0;
    // How many voters may be damaged depends on the configuration: where that changes, none is, but for lost disks, after which
    // an operator looks.
    FaultSet::of(|kind| match profile {
        // What they try are leases, and elsewhere much else is in the way.
        Profile::Leases if matches!(kind, FaultKind::Part | FaultKind::Oust) => true,
        _ if matches!(kind, FaultKind::Part | FaultKind::Oust) => false,
        _ if kind.is_drawn_apart() => false,
        Profile::Gentle => matches!(kind, FaultKind::Kill | FaultKind::Delay | FaultKind::Isolate),
        Profile::Leases => {
            matches!(
                kind,
                FaultKind::Freeze
                    | FaultKind::Stuck
                    | FaultKind::DiskHang
                    | FaultKind::Transfer
                    | FaultKind::Depose
                    | FaultKind::Isolate
                    | FaultKind::OneWay
                    | FaultKind::Kill
                    | FaultKind::Delay
            ) || kind == FaultKind::Late && is_drawn(kind)
        }
        Profile::Swarm | Profile::Quic | Profile::Hostile | Profile::Relaxed
            if matches!(kind, FaultKind::Reconfigure | FaultKind::Rejoin) =>
        {
            false
        }
        Profile::Swarm | Profile::Quic => is_drawn(kind) && (has_damage || !kind.is_damage()),
        Profile::Hostile => true,
        Profile::Churn | Profile::Members if kind.is_damage() && kind != FaultKind::Wipe => false,
        Profile::Relaxed => is_drawn(kind) && !kind.is_damage(),
        Profile::Churn | Profile::Members => {
            matches!(kind, FaultKind::Transfer | FaultKind::Reconfigure) || is_drawn(kind)
        }
    })
}

/// Most groups have a voter on every node; some on three or on one of more.
fn voters(chance: &mut Chance, nodes: usize, profile: Profile) -> Vec<usize> {
    let count = match chance.below(6) {
        _ if profile == Profile::Churn => nodes.min(3),
        of_six if profile == Profile::Members => (nodes - 1).min(if of_six < 4 { 2 } else { 3 }),
        _ if profile == Profile::Leases => nodes,
        0 if nodes > 3 => 3,
        1 => 1,
        _ => nodes,
    };
    let from = chance.below(nodes as u64) as usize;
    let mut voters: Vec<usize> = (0..count).map(|at| (from + at) % nodes).collect();
    voters.sort_unstable();
    voters
}

fn limits(chance: &mut Chance, seed: u64, election: u64) -> (Settings, LaneOptions) {
    let segment_bytes = chance.one_of(&[16 << 10, 32 << 10, 64 << 10, 256 << 10]);
    let payload_bytes_max = 4 << 10;
    let settings = Settings {
        node: NodeId(0),
        worker: 0,
        workers: 0,
        payload_bytes_max,
        election_timeout: Duration::from_nanos(election),
        heartbeat_interval: Duration::from_nanos(election / 5),
        window_bytes: chance.one_of(&[1, 256, 4 << 10, 1 << 20]),
        window_messages: chance.one_of(&[1, 2, 8, 256]) as u32,
        append_bytes_max: chance.one_of(&[1, 512, 8 << 10, 1 << 20]),
        uncommitted_bytes_max: chance.one_of(&[4 << 10, 64 << 10, 1 << 20]),
        commit_delay: Duration::from_nanos(chance.one_of(&[0, 1, 5, 20]) * MS),
        relaxed_sync_interval: Duration::from_nanos(RELAXED_SYNC_INTERVAL),
        checkpoint_log_bytes: chance.one_of(&[128, 1 << 10, 8 << 10, 64 << 10]),
        checkpoint_state_percent: checkpoint_state_percent(seed),
        lane_bytes_max: segment_bytes * chance.one_of(&[2, 4, 16]),
        accept_losses: false,
        scrub_bytes_per_second: 0,
        scrub_interval: Duration::ZERO,
        priority: raftwerk::PRIORITY_MAX,
        seed,
        incarnation: 0,
        clock_drift_ppm: 50_000,
        reads_max: 4 << 10,
        read_bytes_max: 1 << 20,
        limits: TurnLimits::default(),
    };
    let (ready_segments, spare_segments) = (chance.from_to(1, 2), chance.from_to(0, 3));
    let recent_bytes = chance.one_of(&[0, 16 << 10, 256 << 10]) as usize;
    let lane = LaneOptions {
        lane: 0,
        segment_bytes,
        // A turn takes in at least one unit of the usual size: see `receive`.
        batch_bytes_max: 4 << 20,
        stream_bytes: stream_bytes(seed),
        frame_bytes_max: payload_bytes_max + 1024,
        queue_bytes_max: 8 << 20,
        ready_segments: ready_segments as usize,
        spare_segments: spare_segments as usize,
        recent_bytes,
        // Nothing is read from memory where that is so by the drawn size.
        recent_bytes_max: 16 * recent_bytes,
        log_bytes_max: settings.lane_bytes_max,
        memory_bytes: memory_bytes(seed),
        age_max: age_max(seed),
        // Every other run lives with damage; in the rest, a damaged node stops.
        on_damage: if seed.is_multiple_of(2) { OnDamage::Fence } else { OnDamage::Refuse },
    };
    (settings, lane)
}

/// In every second run in which groups change, and in every fourth other one with damage, nodes are not equally willing to lead, and
/// at most one not at all. Drawn apart.
fn priorities(seed: u64, nodes: usize, is_churning: bool, has_damage: bool) -> Vec<u8> {
    let mut chance = Chance::of(seed, "priorities");
    let is_rare = !is_churning && (!has_damage || chance.below(2) == 0);
    if is_rare || chance.below(2) == 0 {
        return vec![PRIORITY_MAX; nodes];
    }
    let mut has_unwilling = false;
    let mut one = || match chance.one_of(&[PRIORITY_MAX, 1, 1, 0]) {
        0 if std::mem::replace(&mut has_unwilling, true) => 1,
        drawn => drawn,
    };
    (0..nodes).map(|_| one()).collect()
}

/// In one run of four there is hardly more memory than one turn may want. Drawn apart.
fn memory_bytes(seed: u64) -> u64 {
    let mut chance = Chance::of(seed, "memory");
    if chance.below(4) > 0 { u64::MAX } else { MEMORY_LEAST + chance.one_of(&[64 << 10, 256 << 10, 1 << 20]) }
}

/// In one run of four a checkpoint is the seldomer the larger it is. Drawn apart.
fn checkpoint_state_percent(seed: u64) -> u32 {
    Chance::of(seed, "size of states").one_of(&[0, 0, 0, 100]) as u32
}

/// In every second run a turn need not be large to leave in parts. Drawn apart.
fn stream_bytes(seed: u64) -> usize {
    let mut chance = Chance::of(seed, "stream");
    chance.one_of(&[1, 1 << 10, 512 << 10, 512 << 10]) as usize
}

/// In one run of four what has been in the log for some seconds is to go. Drawn apart.
fn age_max(seed: u64) -> Option<Duration> {
    let mut chance = Chance::of(seed, "age");
    (chance.below(4) == 0).then(|| Duration::from_nanos(chance.from_to(500, 8_000) * MS))
}

fn net_plan(chance: &mut Chance, kinds: FaultSet, election: u64) -> NetPlan {
    let mut rate = |kind: FaultKind, rates: &[u32]| {
        let drawn = chance.one_of(rates);
        if kinds.has(kind) { drawn } else { 0 }
    };
    NetPlan {
        drop_ppm: rate(FaultKind::Drop, &[1_000, 10_000, 100_000]),
        duplicate_ppm: rate(FaultKind::Duplicate, &[1_000, 20_000, 200_000]),
        reorder_ppm: rate(FaultKind::Reorder, &[10_000, 100_000, 660_000]),
        refuse_ppm: rate(FaultKind::Refuse, &[1_000, 20_000]),
        late_ppm: rate(FaultKind::Late, &[1_000, 10_000, 100_000]),
        late: 8 * election,
        tail_ppm: rate(FaultKind::Delay, &[1_000, 20_000, 200_000]),
        delay: chance.one_of(&[20_000, 100_000, 1_000_000, 5_000_000]).min(election / 40),
        jitter: chance.one_of(&[10_000, 200_000, 2_000_000]).min(election / 40),
        tail: chance.one_of(&[5 * MS, 50 * MS]),
        notice: chance.one_of(&[1, 50, 1_000]) * MS,
    }
}

fn disk_plan(chance: &mut Chance, kinds: FaultSet, election: u64) -> DiskPlan {
    let slow_ppm = chance.one_of(&[1_000, 20_000]);
    let old_percent = chance.one_of(&[0, 10, 50, 90]);
    DiskPlan {
        // The slowest is slow enough for leaders to change while batches are on their way.
        sync: chance.one_of(&[50_000, 500_000, 4_000_000, election / 10]),
        slow_ppm: if kinds.has(FaultKind::SlowDisk) { slow_ppm } else { 0 },
        slow: 20 * MS,
        old_percent,
        new_percent: (100 - old_percent) / 2 + chance.below(2) * ((100 - old_percent) / 2),
    }
}
