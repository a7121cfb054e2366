//! `cluster`: starts nodes, loads them, kills one if asked to, measures, and proves that nothing was lost. IMPURE:
//! clock, threads and files.
//!
//! Three threads of interest: the [`client`](crate::client), the one that runs this file and shows progress, and, when
//! a node is to be killed, one that does it. Next: [`control`] for what is done with a node, [`verify`] for what is
//! checked at the end.

pub mod child;
pub mod control;
pub mod local;
pub mod power_cut;
pub mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use raftwerk_net::PeerId;
use raftwerk_net::identity::write_cluster;
use tempfile::TempDir;

use crate::cli::{ClusterOptions, Switch, Victim};
use crate::client::{Client, Order, Progress, Tally};
use crate::file_system;
use crate::ledger::{MachineKind, Subject};
use crate::port::NodePort;
use crate::probe::raw_sync_us;
use crate::reading::{self, Reading, Replica};
use crate::report::{BeforeAfter, ClusterReport, FailoverReport};
use crate::usage::{
    cpu_nanos_by_role, own_cpu_nanos, own_resident_bytes, system_cpu_nanos, thread_cpu_nanos,
};
use crate::workload::Workload;
use child::ChildNode;
use control::{NodeControl, NodeSettings, NodeUsage};
use local::LocalNode;
use verify::Verification;

/// How long the load runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// The longest wait for leaders, for operations to end, and for replicas to become equal.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// So much longer for each group, where all of them are to take a write or to become equal.
const PATIENCE_PER_GROUP: Duration = Duration::from_millis(2);

/// Runs the whole thing.
///
/// # Errors
/// A sentence on what kept it from being measured. What a measured run has found wrong is in its report.
pub fn run(options: &ClusterOptions) -> Result<ClusterReport, String> {
    options.check().map_err(|error| error.to_string())?;
    let place = Place::make(options)?;
    if let Some(what) = options.power_cut {
        power_cut::run(options, what, &place)
    } else if options.processes {
        run_with::<ChildNode>(options, &place)
    } else {
        run_with::<LocalNode>(options, &place)
    }
}

/// Where the data is: the user's folder, or one that is removed.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Sockets live apart: their paths must be short.
    sockets: TempDir,
    _removed: Option<TempDir>,
}

impl Place {
    pub(crate) fn make(options: &ClusterOptions) -> Result<Self, String> {
        let sentence = |error: std::io::Error| format!("making a folder for the data: {error}");
        let sockets = tempfile::tempdir().map_err(sentence)?;
        if let Some(path) = &options.data_dir {
            std::fs::create_dir_all(path).map_err(sentence)?;
            let path = path.canonicalize().map_err(sentence)?;
            if std::fs::read_dir(&path).map_err(sentence)?.next().is_some() {
                return Err(format!("--data-dir {} is not empty", path.display()));
            }
            return Self { path, sockets, _removed: None }.certified(options);
        }
        // The build folder is on a real disk, which the system's folder for temporary files may not be.
        let build = Path::new("target");
        let parent = if build.is_dir() { build.to_owned() } else { std::env::temp_dir() };
        let folder =
            tempfile::Builder::new().prefix("raftwerk-bench-").tempdir_in(parent).map_err(sentence)?;
        let path = folder.path().canonicalize().map_err(sentence)?;
        Self { path, sockets, _removed: Some(folder) }.certified(options)
    }

    /// With certificates of all nodes.
    fn certified(self, options: &ClusterOptions) -> Result<Self, String> {
        let peers: Vec<PeerId> = (1..=options.nodes).map(PeerId).collect();
        write_cluster(&self.path.join("certificates"), "bench", &peers).map_err(|error| error.to_string())?;
        Ok(self)
    }

    pub(crate) fn settings(&self, options: &ClusterOptions, node: u64) -> NodeSettings {
        NodeSettings {
            node,
            data_dir: self.path.join(format!("n{node}")),
            identity_dir: self.path.join("certificates").join(PeerId(node).to_string()),
            socket: self.sockets.path().join(format!("n{node}")),
            is_hash: options.state_machine == MachineKind::Hash,
            sync: options.sync == Switch::On,
            workers: options.workers as usize,
            lanes: options.lanes.map(|lanes| lanes as usize),
            checkpoint_log_bytes: options.checkpoint_mib << 20,
            seed: options.seed.wrapping_mul(1009).wrapping_add(node),
            in_flight_max: options.load().in_flight_max() as usize,
        }
    }
}

fn run_with<N: NodeControl>(options: &ClusterOptions, place: &Place) -> Result<ClusterReport, String> {
    let mut nodes = (1..=options.nodes)
        .map(|node| N::start(place.settings(options, node)))
        .collect::<Result<Vec<N>, _>>()?;
    for node in 0..nodes.len() {
        tell_address(&mut nodes, node)?;
    }
    run_nodes(options, place, nodes, &killing(options.down))
}

/// What befalls a node in the middle of a run, and what is done about it. Gives how long the node then took to catch up;
/// `None` if longer than patience lasts.
pub(crate) type Strike<'a, N> =
    dyn Fn(&mut [N], usize, &Orders<N>, u32) -> Result<Option<Duration>, String> + Sync + 'a;
/// To the client.
pub(crate) type Orders<N> = Sender<Order<<N as NodeControl>::Port>>;

/// Loads nodes that know each other, measures them, and proves that nothing was lost.
pub(crate) fn run_nodes<N: NodeControl>(
    options: &ClusterOptions,
    place: &Place,
    nodes: Vec<N>,
    strike: &Strike<'_, N>,
) -> Result<ClusterReport, String> {
    let loaded = load_and_verify(options, place, nodes, strike)?;
    loaded.nodes.into_iter().for_each(N::stop);
    Ok(loaded.report)
}

/// Nodes that were loaded and verified, and run on.
struct Loaded<N> {
    nodes: Vec<N>,
    /// What was acknowledged.
    subject: Subject,
    /// The counter of the last write.
    counter: u64,
    report: ClusterReport,
}

fn load_and_verify<N: NodeControl>(
    options: &ClusterOptions,
    place: &Place,
    mut nodes: Vec<N>,
    strike: &Strike<'_, N>,
) -> Result<Loaded<N>, String> {
    make_groups(options, &mut nodes)?;
    let (file_system, is_on_disk) =
        file_system::of(&place.path).map_err(|error| format!("{}: {error}", place.path.display()))?;
    let before = probe(place)?;
    let ports = nodes.iter_mut().map(N::port).collect::<Result<Vec<_>, _>>()?;
    let progress = Arc::new(Progress::new(nodes.len()));
    let (orders, obeyed) = mpsc::channel();
    let (say_ready, ready) = mpsc::channel();
    let client = client(options, subject(options), ports, obeyed, &progress);
    let (results, measured) = thread::scope(|scope| {
        let run = move || run_client(client, options.groups, &say_ready);
        let running = thread::Builder::new().name("client".into()).spawn_scoped(scope, run);
        let measured = measure(options, &mut nodes, strike, &orders, &ready, &progress);
        // Whatever happened, the client is to end.
        let _ended = orders.send(Order::Finish);
        let running = running.map_err(|error| format!("starting the client: {error}"))?;
        let results = running.join().map_err(|_| "the client panicked".to_owned())?;
        Ok::<_, String>((results, measured))
    })?;
    let (measured, (tally, mut subject, client_nanos)) = (measured?, results);
    let after = probe(place)?;
    let verification = verify::verify(&mut nodes, options.groups, &mut subject, patience(options.groups));
    let raw_sync_us = BeforeAfter { before, after };
    let report = report(options, &tally, &measured, client_nanos, verification, raw_sync_us);
    let report = ClusterReport { file_system, is_on_disk, ..report };
    Ok(Loaded { nodes, subject, counter: tally.counter, report })
}

fn probe(place: &Place) -> Result<f64, String> {
    raw_sync_us(&place.path).map_err(|error| format!("probing the disk: {error}"))
}

pub(crate) fn make_groups<N: NodeControl>(options: &ClusterOptions, nodes: &mut [N]) -> Result<(), String> {
    // Creating a group waits for the disk: let the nodes wait side by side.
    thread::scope(|scope| {
        let running: Vec<_> = nodes
            .iter_mut()
            .map(|node| scope.spawn(|| node.create_groups(options.groups, options.nodes)))
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|_| Err("creating groups panicked".into())))
    })
}

/// Gives every other node the address of a node.
pub(crate) fn tell_address<N: NodeControl>(nodes: &mut [N], of: usize) -> Result<(), String> {
    let address = nodes[of].address();
    let mut others = nodes.iter_mut().enumerate().filter(|(other, _)| *other != of);
    others.try_for_each(|(_, node)| node.set_address(of as u64 + 1, address))
}

/// A ledger in which nothing was acknowledged yet.
pub(crate) fn subject(options: &ClusterOptions) -> Subject {
    Subject::new(options.state_machine, options.groups, options.keys, options.payload)
}

pub(crate) fn client<P: NodePort>(
    options: &ClusterOptions,
    subject: Subject,
    ports: Vec<P>,
    orders: Receiver<Order<P>>,
    progress: &Arc<Progress>,
) -> Client<P, impl FnMut() -> u64 + Send + use<P>> {
    let origin = Instant::now();
    let clock = move || origin.elapsed().as_nanos() as u64;
    let workload = Workload::new(options.workload, options.keys, options.reads, options.seed);
    let reading = Reading::new(options.consistency, options.replica);
    let (load, progress) = (options.load(), Arc::clone(progress));
    Client::new(ports, clock, options.groups, subject, workload, load, orders, progress).reading(reading)
}

fn patience(groups: u32) -> Duration {
    PATIENCE + PATIENCE_PER_GROUP * groups
}

fn run_client<P: NodePort, C: FnMut() -> u64>(
    mut client: Client<P, C>,
    groups: u32,
    ready: &Sender<bool>,
) -> (Tally, Subject, u64) {
    let before = thread_cpu_nanos();
    let has_leaders = client.barrier(0..groups, patience(groups));
    // There is no receiver only if the run was given up.
    let _heard = ready.send(has_leaders);
    if has_leaders {
        client.run(PATIENCE);
    }
    let (tally, subject) = client.into_results();
    (tally, subject, thread_cpu_nanos() - before)
}

/// What the measured time has cost.
struct Measured {
    cpu_nanos: u64,
    /// Of this process, by what the threads do; `None` if nodes have processes of their own.
    cpu_by_role: Option<BTreeMap<String, u64>>,
    /// What other processes used, in cores.
    others_cores: Option<f64>,
    messages_sent: u64,
    message_bytes_sent: u64,
    elections: u64,
    syncs: u64,
    bytes_synced: u64,
    checkpoints: u64,
    installs: u64,
    snapshot_bytes: u64,
    segments_recycled: u64,
    resident_bytes: u64,
    append_mode: String,
    caught_up: Vec<Option<Duration>>,
    errors: Vec<String>,
}

fn measure<N: NodeControl>(
    options: &ClusterOptions,
    nodes: &mut [N],
    strike: &Strike<'_, N>,
    orders: &Orders<N>,
    ready: &Receiver<bool>,
    progress: &Progress,
) -> Result<Measured, String> {
    if !ready.recv().map_err(|_| "the client ended early".to_owned())? {
        let seconds = patience(options.groups).as_secs();
        return Err(format!("not every group took a write within {seconds} s"));
    }
    thread::sleep(WARM_UP);
    let (cpu, used) = usage(nodes)?;
    let (system, roles, started) = (system_cpu_nanos(), cpu_nanos_by_role(), Instant::now());
    let told = |_| "the client ended early".to_owned();
    orders.send(Order::Measure).map_err(told)?;
    let (mut caught_up, mut errors) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let killing = options.strike().map(|(victim, after)| {
            let nodes = &mut *nodes;
            scope.spawn(move || {
                thread::sleep(after);
                let victim = match victim {
                    Victim::LeadsMost => progress.leads_most(),
                    Victim::LeadsFewest => progress.leads_fewest(),
                };
                strike(nodes, victim, orders, options.groups)
            })
        });
        show_progress(options.seconds, progress);
        match killing.map(|killing| killing.join()) {
            None => {}
            Some(Ok(Ok(time))) => caught_up.push(time),
            Some(Ok(Err(error))) => errors.push(error),
            Some(Err(_)) => errors.push("killing a node panicked".into()),
        }
    });
    let (cpu_after, used_after) = usage(nodes)?;
    let busy = system_cpu_nanos().zip(system).map(|(after, before)| after.saturating_sub(before));
    let others = busy.map(|nanos| nanos.saturating_sub(cpu_after - cpu));
    let others_cores = others.map(|nanos| nanos as f64 / started.elapsed().as_nanos() as f64);
    let cpu_by_role = (!options.processes).then(|| since(&roles, cpu_nanos_by_role()));
    let resident_bytes = own_resident_bytes() + used_after.resident_bytes;
    orders.send(Order::Finish).map_err(told)?;
    Ok(Measured {
        cpu_nanos: cpu_after - cpu,
        cpu_by_role,
        others_cores,
        messages_sent: used_after.messages_sent - used.messages_sent,
        message_bytes_sent: used_after.message_bytes_sent - used.message_bytes_sent,
        elections: used_after.leaderships - used.leaderships,
        syncs: used_after.syncs - used.syncs,
        bytes_synced: used_after.bytes_synced - used.bytes_synced,
        checkpoints: used_after.checkpoints - used.checkpoints,
        installs: used_after.installs - used.installs,
        snapshot_bytes: used_after.snapshot_bytes - used.snapshot_bytes,
        segments_recycled: used_after.segments_recycled - used.segments_recycled,
        resident_bytes,
        append_mode: used_after.append_mode,
        caught_up,
        errors,
    })
}

/// What each has grown by. Threads that have ended meanwhile are not counted, so that a role may lose.
fn since(before: &BTreeMap<String, u64>, mut after: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    for (role, nanos) in &mut after {
        *nanos = nanos.saturating_sub(before.get(role).copied().unwrap_or(0));
    }
    after
}

/// CPU time of everything so far, and what the nodes have done.
fn usage<N: NodeControl>(nodes: &mut [N]) -> Result<(u64, NodeUsage), String> {
    let each = nodes.iter_mut().map(N::usage).collect::<Result<Vec<_>, _>>()?;
    let mut sum = NodeUsage::default();
    for node in each {
        sum.resident_bytes += node.resident_bytes;
        sum.append_mode.clone_from(&node.append_mode);
        sum = sum.plus(&node);
    }
    Ok((own_cpu_nanos() + sum.cpu_nanos, sum))
}

fn show_progress(seconds: f64, progress: &Progress) {
    let millis = (seconds * 1000.0) as u64;
    let bar = ProgressBar::new(millis);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
        bar.set_style(style);
    }
    let start = Instant::now();
    let count = || progress.writes.load(Ordering::Relaxed);
    let reads = || progress.reads.load(Ordering::Relaxed);
    let (mut last, mut last_writes, mut last_reads) = (start, count(), reads());
    while start.elapsed().as_millis() < u128::from(millis) {
        let left = Duration::from_millis(millis).saturating_sub(start.elapsed());
        thread::sleep(left.min(Duration::from_millis(200)));
        let (now, writes, read) = (Instant::now(), count(), reads());
        let passed = now.duration_since(last).as_secs_f64().max(0.001);
        let per_second = |count: u64| format!("{:.0}", count as f64 / passed);
        let mut message = format!("{} writes/s", per_second(writes - last_writes));
        if read > 0 {
            message.push_str(&format!(", {} reads/s", per_second(read - last_reads)));
        }
        bar.set_message(message);
        bar.set_position(start.elapsed().as_millis() as u64);
        (last, last_writes, last_reads) = (now, writes, read);
    }
    bar.finish_and_clear();
}

/// The death of a node that stays down for so long.
fn killing<N: NodeControl>(
    down: Duration,
) -> impl Fn(&mut [N], usize, &Orders<N>, u32) -> Result<Option<Duration>, String> + Sync {
    move |nodes, victim, orders, groups| kill_and_restart(nodes, victim, down, orders, groups)
}

/// Kills a node, starts it again, and waits until it has applied what the others had when it came back.
fn kill_and_restart<N: NodeControl>(
    nodes: &mut [N],
    victim: usize,
    down: Duration,
    orders: &Orders<N>,
    groups: u32,
) -> Result<Option<Duration>, String> {
    expect_outage::<N>(victim, orders)?;
    nodes[victim].kill()?;
    orders.send(Order::Gone(victim)).map_err(|_| ended_early())?;
    thread::sleep(down);
    let start = Instant::now();
    nodes[victim].restart()?;
    tell_address(nodes, victim)?;
    orders.send(Order::Back(victim, nodes[victim].port()?)).map_err(|_| ended_early())?;
    caught_up(nodes, victim, start, groups)
}

fn ended_early() -> String {
    "the client ended early".to_owned()
}

/// Sends the client a notice that a node is about to be struck, and waits until it has it.
pub(crate) fn expect_outage<N: NodeControl>(victim: usize, orders: &Orders<N>) -> Result<(), String> {
    let (seen, expected) = mpsc::channel();
    orders.send(Order::Killing(victim, seen)).map_err(|_| ended_early())?;
    expected.recv().map_err(|_| ended_early())
}

/// How long after `start` a node had applied what another has now.
pub(crate) fn caught_up<N: NodeControl>(
    nodes: &mut [N],
    victim: usize,
    start: Instant,
    groups: u32,
) -> Result<Option<Duration>, String> {
    let other = (victim + 1) % nodes.len();
    let wanted = nodes[other].applied(groups)?;
    while start.elapsed() < PATIENCE {
        let applied = nodes[victim].applied(groups)?;
        if applied.iter().zip(&wanted).all(|(applied, wanted)| applied >= wanted) {
            return Ok(Some(start.elapsed()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

fn report(
    options: &ClusterOptions,
    tally: &Tally,
    measured: &Measured,
    client_nanos: u64,
    verification: Verification,
    raw_sync_us: BeforeAfter,
) -> ClusterReport {
    let seconds = tally.measured_nanos as f64 / 1e9;
    let per = |of: u64| (of > 0).then(|| measured.cpu_nanos as f64 / 1000.0 / of as f64);
    let by_thread = measured.cpu_by_role.as_ref().filter(|_| tally.writes > 0).map(|roles| {
        let per_write = |nanos: &u64| *nanos as f64 / 1000.0 / tally.writes as f64;
        roles.iter().map(|(role, nanos)| (role.clone(), per_write(nanos))).collect()
    });
    let millis = |nanos: u64| (nanos / 1000) as f64 / 1000.0;
    let ended = tally.acknowledged + tally.answered;
    let failovers = tally.failovers.iter().enumerate().map(|(number, failover)| FailoverReport {
        node: failover.node as u64 + 1,
        groups_led: failover.groups,
        unavailable_ms: failover.unavailable_nanos.map(millis),
        unavailable_p50_ms: failover.of_groups(0.5).map(millis),
        unavailable_p99_ms: failover.of_groups(0.99).map(millis),
        caught_up_ms: measured.caught_up.get(number).copied().flatten().map(|time| time.as_millis() as f64),
    });
    let mut errors = [tally.failures.clone(), measured.errors.clone(), verification.errors].concat();
    if tally.unfinished > 0 {
        errors.push(format!("{} operations did not end within {} s", tally.unfinished, PATIENCE.as_secs()));
    }
    ClusterReport {
        nodes: options.nodes as usize,
        groups: options.groups,
        payload_bytes: options.payload,
        in_flight: options.load().in_flight_max(),
        rate: options.rate,
        seconds,
        state_machine: options.state_machine.name(),
        workload: options.workload.name(),
        keys: options.keys,
        reads_percent: options.workload.reads_percent().unwrap_or(options.reads),
        workers: options.workers as usize,
        lanes: options.lanes.unwrap_or(options.workers) as usize,
        processes: options.processes,
        sync: options.sync == Switch::On,
        append_mode: measured.append_mode.clone(),
        file_system: String::new(),
        is_on_disk: false,
        seed: options.seed,
        writes: tally.writes,
        writes_per_second: tally.writes as f64 / seconds,
        latency_us: tally.write_latencies.summary(),
        reads: tally.reads,
        reads_per_second: tally.reads as f64 / seconds,
        read_latency_us: tally.read_latencies.summary(),
        consistency: reading::name(options.consistency),
        any_replica: options.replica == Replica::Any,
        staleness_us: tally.staleness.summary(),
        cpu_us_per_write: per(tally.writes),
        cpu_us_per_operation: per(tally.writes + tally.reads),
        client_cpu_us_per_operation: (ended > 0).then(|| client_nanos as f64 / 1000.0 / ended as f64),
        cpu_us_per_write_by_thread: by_thread,
        others_cores: measured.others_cores,
        messages_sent: measured.messages_sent,
        message_bytes_sent: measured.message_bytes_sent,
        checkpoints: measured.checkpoints,
        installs: measured.installs,
        snapshot_bytes: measured.snapshot_bytes,
        segments_recycled: measured.segments_recycled,
        syncs: measured.syncs,
        bytes_per_sync: (measured.syncs > 0).then(|| measured.bytes_synced as f64 / measured.syncs as f64),
        raw_sync_us,
        resident_bytes: measured.resident_bytes,
        retries: tally.retries,
        unknown_outcomes: tally.unknown,
        shortfall: tally.shortfall,
        acknowledged: tally.acknowledged,
        elections: measured.elections,
        lost_acknowledged: verification.lost,
        stale_reads: tally.stale_reads,
        replicas_agree: verification.replicas_agree,
        power_cut: None,
        failovers: failovers.collect(),
        errors,
    }
}
