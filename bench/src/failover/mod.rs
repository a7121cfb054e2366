//! `failover`: how long groups take no writes when the node that leads them fails, in one of several ways. IMPURE: clock,
//! threads, signals.
//!
//! Three nodes, each a process; as many writes under way as there are groups. In the middle the node that leads most of them is
//! struck. Of each group that it led, the time until another node acknowledges a write counts. The client turns away from the
//! node at once: what is measured is the cluster's time, not a client's patience. Then the fault ends, the node catches up, and
//! every acknowledged write is looked for in every replica.

mod hang;
mod idle;
mod relay;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use self::hang::FrozenDisk;
use self::relay::{Relay, Way};
use crate::cli::{ClusterOptions, FailoverOptions};
use crate::client::Order;
use crate::cluster::child::ChildNode;
use crate::cluster::control::NodeControl;
use crate::cluster::{self, Orders, Place};

const NODES: u64 = 3;
/// How long a fault lasts: longer than any client should need to get over it.
const FAULT_TIME: Duration = Duration::from_secs(5);
/// How long a pause lasts.
const PAUSE: Duration = Duration::from_millis(100);
/// When it begins, counted from the beginning of the measured time.
const FAULT_AFTER: Duration = Duration::from_secs(3);

/// What happens to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Freeze,
    /// Its file system takes no writes; the process lives. Needs root: the file system is a loop-mounted one of its own.
    DiskHang,
    /// Nothing passes between it and the others.
    Partition,
    /// What the others send does not reach it; what it sends arrives.
    OneWay,
    /// Its worker, of which there is one then, is stuck in a state machine; the process lives.
    WorkerStuck,
    /// SIGSTOP, and SIGCONT a tenth of a second later: no election is to follow.
    Pause,
}

/// What was seen.
#[derive(Debug, Serialize)]
pub struct Failover {
    /// The fault's name.
    pub fault: String,
    /// All groups; a third of them was led by the node.
    pub groups: u32,
    /// No client wrote anything.
    pub idle: bool,
    /// Of the groups that the node led, from the fault to the first write that another node acknowledged; of idle ones, until
    /// another node led them.
    pub unavailable_ms: UnavailableMs,
    /// How often a replica began to lead in the measured time, which ends when the node has caught up.
    pub elections: u64,
    /// Of those, on the other nodes while the fault lasted: one for each group that the node led, if all goes well.
    pub elections_meanwhile: u64,
    /// How often, meanwhile, a worker of another node lost a node's support: once for each worker of the struck node that could be
    /// reached, if all goes well. Each more wakes all groups of a node that lives.
    pub supports_ended_meanwhile: u64,
    /// The same after the fault's end, until the node has caught up.
    pub supports_ended_afterwards: u64,
    /// Acknowledged writes that a replica lacks at the end.
    pub lost_acknowledged: u64,
}

/// In milliseconds; `None`: never, in this run.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct UnavailableMs {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// Runs the whole thing. `false`: something was lost, or did not come back.
///
/// # Errors
/// What kept it from being measured.
pub fn run(options: &FailoverOptions, out: &mut dyn Write) -> Result<bool, String> {
    let cluster = options.cluster(FAULT_AFTER, FAULT_AFTER + FAULT_TIME + Duration::from_secs(2));
    cluster.check().map_err(|error| error.to_string())?;
    let place = Place::make(&cluster)?;
    let disk = (options.fault == Fault::DiskHang).then(|| FrozenDisk::mount(&place.path)).transpose()?;
    let mut nodes = start(&cluster, &place, disk.as_ref())?;
    let relays = connect(&mut nodes, options.fault)?;
    if options.idle {
        let seen = idle::run(options, &cluster, nodes, &relays, disk.as_ref())?;
        let is_good = seen.errors.is_empty() && seen.failover.lost_acknowledged == 0;
        let said = tell(&seen.failover, seen.led, None, &seen.errors, options.json, out);
        return said.map(|()| is_good).map_err(|error| error.to_string());
    }
    let [elections_meanwhile, supports_ended_meanwhile, supports_ended_afterwards] =
        std::array::from_fn(|_| AtomicU64::new(0));
    let strike = |nodes: &mut [ChildNode], most: usize, orders: &Orders<ChildNode>, groups: u32| {
        // Only the first node is on a disk that can be made to hang.
        let victim = if disk.is_some() { 0 } else { most };
        let ill = Ill { fault: options.fault, victim, relays: &relays, disk: disk.as_ref() };
        cluster::expect_outage::<ChildNode>(victim, orders)?;
        let before = of_others(nodes, victim)?;
        ill.begin(nodes)?;
        let gone = || orders.send(Order::Gone(victim)).map_err(|_| "the client ended early".to_owned());
        if options.fault != Fault::Pause {
            gone()?;
        }
        thread::sleep(options.fault.lasts());
        let after = of_others(nodes, victim)?;
        elections_meanwhile.store(after.0 - before.0, Ordering::Relaxed);
        supports_ended_meanwhile.store(after.1 - before.1, Ordering::Relaxed);
        let start = Instant::now();
        ill.end(nodes)?;
        if options.fault == Fault::Pause {
            gone()?;
        }
        orders
            .send(Order::Back(victim, nodes[victim].port()?))
            .map_err(|_| "the client ended early".to_owned())?;
        let caught_up = cluster::caught_up(nodes, victim, start, groups);
        supports_ended_afterwards.store(of_others(nodes, victim)?.1 - after.1, Ordering::Relaxed);
        caught_up
    };
    let report = cluster::run_nodes(&cluster, &place, nodes, &strike)?;
    let failover = report.failovers.first().ok_or("the node was not struck")?;
    let unavailable_ms = UnavailableMs {
        p50: failover.unavailable_p50_ms,
        p99: failover.unavailable_p99_ms,
        max: failover.unavailable_ms,
    };
    let (fault, elections) = (options.fault.name(), report.elections);
    let lost_acknowledged = report.lost_acknowledged;
    let (groups, idle) = (options.groups, false);
    let seen = Failover {
        fault,
        groups,
        idle,
        unavailable_ms,
        elections,
        elections_meanwhile: elections_meanwhile.into_inner(),
        supports_ended_meanwhile: supports_ended_meanwhile.into_inner(),
        supports_ended_afterwards: supports_ended_afterwards.into_inner(),
        lost_acknowledged,
    };
    let said = tell(&seen, failover.groups_led, failover.caught_up_ms, &report.errors, options.json, out);
    said.map_err(|error| error.to_string())?;
    Ok(report.is_good())
}

fn tell(
    seen: &Failover,
    led: u32,
    caught_up_ms: Option<f64>,
    errors: &[String],
    json: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let ms = |time: Option<f64>| time.map_or_else(|| "for ever".to_owned(), |ms| format!("{ms:.0} ms"));
    let UnavailableMs { p50, p99, max } = seen.unavailable_ms;
    writeln!(
        out,
        "{}: {led} of {} groups {} for {} (p50), {} (p99), {} (the last); {} elections, {} of them meanwhile, when \
         support ended {} times, and {} times afterwards; the node had caught up {} after the fault's end; {} acknowledged writes lost",
        seen.fault,
        seen.groups,
        if seen.idle { "had no other leader" } else { "took no writes" },
        ms(p50),
        ms(p99),
        ms(max),
        seen.elections,
        seen.elections_meanwhile,
        seen.supports_ended_meanwhile,
        seen.supports_ended_afterwards,
        ms(caught_up_ms),
        seen.lost_acknowledged,
    )?;
    for error in errors {
        writeln!(out, "FAILED: {error}")?;
    }
    if json {
        writeln!(out, "{}", serde_json::to_string(seen)?)?;
    }
    Ok(())
}

/// How often replicas of all nodes but one have begun to lead, and workers have lost a node's support.
fn of_others(nodes: &mut [ChildNode], but: usize) -> Result<(u64, u64), String> {
    let mut sums = (0, 0);
    for (_, node) in nodes.iter_mut().enumerate().filter(|(at, _)| *at != but) {
        let usage = node.usage()?;
        sums = (sums.0 + usage.leaderships, sums.1 + usage.supports_ended);
    }
    Ok(sums)
}

impl Fault {
    const fn lasts(self) -> Duration {
        if matches!(self, Self::Pause) { PAUSE } else { FAULT_TIME }
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn start(
    options: &ClusterOptions,
    place: &Place,
    disk: Option<&FrozenDisk>,
) -> Result<Vec<ChildNode>, String> {
    let one = |node| {
        let mut settings = place.settings(options, node);
        if let Some(disk) = disk.filter(|_| node == 1) {
            settings.data_dir = disk.path().join("n1");
        }
        ChildNode::start(settings)
    };
    (1..=NODES).map(one).collect()
}

/// Gives the nodes each other's addresses; by way of relays, where the fault is in the network.
fn connect(nodes: &mut [ChildNode], fault: Fault) -> Result<Vec<Relay>, String> {
    let mut relays = Vec::new();
    let addresses: Vec<SocketAddr> = nodes.iter().map(NodeControl::address).collect();
    for (from, node) in nodes.iter_mut().enumerate() {
        for (to, address) in addresses.iter().enumerate().filter(|(to, _)| *to != from) {
            let mut way = *address;
            if matches!(fault, Fault::Partition | Fault::OneWay) {
                let relay = Relay::start(from, to, *address).map_err(|error| format!("a relay: {error}"))?;
                way = relay.address();
                relays.push(relay);
            }
            node.set_address(to as u64 + 1, way)?;
        }
    }
    Ok(relays)
}

/// A fault while it lasts.
struct Ill<'a> {
    fault: Fault,
    victim: usize,
    relays: &'a [Relay],
    disk: Option<&'a FrozenDisk>,
}

impl Ill<'_> {
    fn begin(&self, nodes: &mut [ChildNode]) -> Result<(), String> {
        match self.fault {
            Fault::Kill => nodes[self.victim].kill(),
            Fault::Freeze | Fault::Pause => nodes[self.victim].freeze(true),
            Fault::WorkerStuck => nodes[self.victim].begin_stall(0, FAULT_TIME),
            Fault::DiskHang => self.disk.map_or(Ok(()), |disk| disk.freeze(true)),
            Fault::Partition => {
                self.relays.iter().for_each(|relay| relay.cut(self.victim, Way::Both, true));
                Ok(())
            }
            Fault::OneWay => {
                self.relays.iter().for_each(|relay| relay.cut(self.victim, Way::Towards, true));
                Ok(())
            }
        }
    }

    fn end(&self, nodes: &mut [ChildNode]) -> Result<(), String> {
        match self.fault {
            Fault::Kill => {
                nodes[self.victim].restart()?;
                cluster::tell_address(nodes, self.victim)
            }
            Fault::Freeze | Fault::Pause => nodes[self.victim].freeze(false),
            Fault::WorkerStuck => nodes[self.victim].end_stall(),
            Fault::DiskHang => self.disk.map_or(Ok(()), |disk| disk.freeze(false)),
            Fault::Partition | Fault::OneWay => {
                self.relays.iter().for_each(|relay| relay.cut(self.victim, Way::Both, false));
                Ok(())
            }
        }
    }
}
