//! A fault while no client writes: how long until other nodes lead what the node led. IMPURE: clock and sleep.
//!
//! Every group has taken a write, and is at rest. No client is there to notice anything; the survivors are asked how often a
//! replica of theirs has begun to lead. Afterwards every group has to take a write again.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::hang::FrozenDisk;
use super::relay::Relay;
use super::{Failover, Fault, Ill, UnavailableMs, of_others};
use crate::cli::{ClusterOptions, FailoverOptions};
use crate::client::{Order, Progress};
use crate::cluster::child::ChildNode;
use crate::cluster::control::NodeControl;
use crate::cluster::{self, PATIENCE, verify};

/// After the last write, until groups are at rest.
const SETTLING: Duration = Duration::from_secs(3);
/// How often the survivors are asked.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What was seen, and how many groups the node led.
pub(super) struct Seen {
    pub(super) failover: Failover,
    pub(super) led: u32,
    pub(super) errors: Vec<String>,
}

pub(super) fn run(
    options: &FailoverOptions,
    cluster: &ClusterOptions,
    mut nodes: Vec<ChildNode>,
    relays: &[Relay],
    disk: Option<&FrozenDisk>,
) -> Result<Seen, String> {
    cluster::make_groups(cluster, &mut nodes)?;
    let ports = nodes.iter_mut().map(ChildNode::port).collect::<Result<Vec<_>, _>>()?;
    let progress = Arc::new(Progress::new(nodes.len()));
    let (orders, obeyed) = mpsc::channel();
    let mut client = cluster::client(cluster, cluster::subject(cluster), ports, obeyed, &progress);
    let late = || format!("not every group took a write within {} s", PATIENCE.as_secs());
    client.barrier(0..options.groups, PATIENCE).then_some(()).ok_or_else(late)?;
    thread::sleep(SETTLING);

    let victim = if disk.is_some() { 0 } else { progress.leads_most() };
    let led = progress.leads(victim);
    let before = leaderships(&mut nodes)?;
    let begun = of_others(&mut nodes, victim)?;
    let ill = Ill { fault: options.fault, victim, relays, disk };
    let struck = Instant::now();
    ill.begin(&mut nodes)?;
    let mut times = Vec::new();
    while struck.elapsed() < options.fault.lasts() {
        if times.len() < led as usize {
            let now = of_others(&mut nodes, victim)?.0 - begun.0;
            times.resize((now as usize).min(led as usize), struck.elapsed());
        }
        thread::sleep(LOOK_EVERY.min(options.fault.lasts().saturating_sub(struck.elapsed())));
    }
    let after = of_others(&mut nodes, victim)?;
    ill.end(&mut nodes)?;

    let told = |_| "the client ended early".to_owned();
    orders.send(Order::Gone(victim)).map_err(told)?;
    orders.send(Order::Back(victim, nodes[victim].port()?)).map_err(told)?;
    let mut errors = Vec::new();
    if !client.barrier(0..options.groups, PATIENCE) {
        errors.push(late());
    }
    let elections = leaderships(&mut nodes)? - before;
    let supports_ended_afterwards = of_others(&mut nodes, victim)?.1 - after.1;
    let (_, mut subject) = client.into_results();
    let verification = verify::verify(&mut nodes, options.groups, &mut subject, PATIENCE);
    nodes.into_iter().for_each(ChildNode::stop);
    errors.extend(verification.errors);
    if options.fault != Fault::Pause && times.len() < led as usize {
        errors.push(format!("of {led} groups others led {} when the fault was over", times.len()));
    }
    let of_groups = |part: f64| {
        let at = ((f64::from(led) * part).ceil() as usize).max(1) - 1;
        times.get(at).map(|time| time.as_micros() as f64 / 1e3)
    };
    let unavailable_ms = UnavailableMs { p50: of_groups(0.5), p99: of_groups(0.99), max: of_groups(1.0) };
    let (fault, groups, idle) = (options.fault.name(), options.groups, true);
    let lost_acknowledged = verification.lost;
    let failover = Failover {
        fault,
        groups,
        idle,
        unavailable_ms,
        elections,
        elections_meanwhile: after.0 - begun.0,
        supports_ended_meanwhile: after.1 - begun.1,
        supports_ended_afterwards,
        lost_acknowledged,
    };
    Ok(Seen { failover, led, errors })
}

/// How often replicas have begun to lead, on all nodes.
fn leaderships(nodes: &mut [ChildNode]) -> Result<u64, String> {
    nodes.iter_mut().map(|node| node.usage().map(|usage| usage.leaderships)).sum()
}
