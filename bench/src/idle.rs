//! `idle`: what groups cost that no caller uses. IMPURE: clock, files, threads of its engines.
//!
//! Three nodes in this process, each with a replica of every group. Every group takes one write, so that each has a leader and
//! a log; then no caller asks for anything, and what the process uses meanwhile is what idle groups cost. Afterwards the first write
//! to groups that rest is timed against a second one to the same groups, and one node is opened again over all of them.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftwerk::identity::ClusterAuthority;
use raftwerk::{Checkpoint, Committed, Config, Engine, EngineStats, Group, GroupId, NodeId, Outcome, PeerId};
use raftwerk::{ProposeError, Replies, StateMachine};
use serde::Serialize;

use crate::cli::IdleOptions;
use crate::usage::{own_cpu_nanos, own_resident_bytes};

const NODES: u64 = 3;
/// Writes on their way while every group gets one.
const IN_FLIGHT: usize = 4096;
/// Groups that are made together.
const AT_ONCE: usize = 4096;
/// Groups with a first write that is timed.
const SAMPLE: usize = 400;
/// How long to wait for something that should take seconds.
const PATIENCE: Duration = Duration::from_secs(300);
/// After the last write, for the last words: several election timeouts.
const SETTLING: Duration = Duration::from_secs(4);

/// What was seen.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// Groups, each with a replica on each of three nodes.
    pub groups: u64,
    /// CPU time of all three nodes, in percent of one core.
    pub cpu_percent: f64,
    /// Resident memory that came with the groups, per replica.
    pub bytes_per_replica: u64,
    /// Units that all three nodes have sent.
    pub messages_per_second: f64,
    /// How long one node took to open again over its replicas.
    pub open_seconds: f64,
    /// One write at a time, medians.
    pub first_write_us: FirstWrite,
}

/// The time of a write, from call to answer, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FirstWrite {
    /// To a group that was at rest.
    pub cold: f64,
    /// To the same group, just after.
    pub warm: f64,
}

/// Counts payloads: what memory a replica takes is to be the engine's.
#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
    fn apply(&mut self, entries: Committed<'_>, _: &mut Replies) {
        self.0 += entries.count() as u64;
    }

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn checkpoint(&self) -> Checkpoint {
        let count = self.0;
        Box::new(move |out| out.write_all(&count.to_le_bytes()))
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut count = [0; 8];
        image.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}

/// Runs the whole thing.
///
/// # Errors
/// An error of the file system or an engine, or something that did not happen in time.
pub fn run(options: &IdleOptions, out: &mut dyn Write) -> Result<bool, String> {
    let parent =
        if Path::new("target").is_dir() { Path::new("target").to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::Builder::new().prefix("raftwerk-idle-").tempdir_in(parent).map_err(sentence)?;
    let authority = ClusterAuthority::new("idle").map_err(sentence)?;
    let configs = (1..=NODES).map(|node| {
        let identity = authority.issue(PeerId(node)).map_err(sentence)?;
        let mut config = Config::new(NodeId(node), folder.path().join(format!("n{node}")), identity);
        (config.workers, config.seed) = (options.workers, options.seed.wrapping_mul(1009).wrapping_add(node));
        Ok(config)
    });
    let configs = configs.collect::<Result<Vec<Config>, String>>()?;
    let mut engines = configs.iter().map(open).collect::<Result<Vec<Engine>, String>>()?;
    introduce(&engines);
    let before = own_resident_bytes();
    let groups: Vec<GroupId> = (1..=options.groups).map(GroupId).collect();
    // A few at a time: all at once, they would compete for the disk and the cores before any of them has a leader.
    for some in groups.chunks(AT_ONCE) {
        create(&engines, some)?;
        write_to_all(&engines, some)?;
    }
    std::thread::sleep(SETTLING);

    let (cpu, sent, started) = (own_cpu_nanos(), sent(&engines), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(options.seconds));
    let seconds = started.elapsed().as_secs_f64();
    let cpu_percent = (own_cpu_nanos() - cpu) as f64 / 1e7 / seconds;
    let messages_per_second = (self::sent(&engines) - sent) as f64 / seconds;
    let bytes_per_replica = own_resident_bytes().saturating_sub(before) / (NODES * options.groups);
    let first_write_us = time_first_writes(&engines[0], &groups)?;

    let last = engines.pop().ok_or("three nodes were started")?;
    last.shutdown().wait().map_err(sentence)?;
    drop(last);
    let started = Instant::now();
    engines.push(open(&configs[NODES as usize - 1])?);
    let open_seconds = started.elapsed().as_secs_f64();
    for engine in &engines {
        engine.shutdown().wait().map_err(sentence)?;
    }

    let groups = options.groups;
    let seen =
        Idle { groups, cpu_percent, bytes_per_replica, messages_per_second, open_seconds, first_write_us };
    report(&seen, options.json, out).map_err(sentence)?;
    Ok(true)
}

fn report(seen: &Idle, json: bool, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{} idle groups on three nodes: {:.2} % of a core, {} B per replica, {:.0} messages/s; a first write takes {:.0} µs, \
         the next {:.0} µs; a node opens over them in {:.2} s",
        seen.groups,
        seen.cpu_percent,
        seen.bytes_per_replica,
        seen.messages_per_second,
        seen.first_write_us.cold,
        seen.first_write_us.warm,
        seen.open_seconds,
    )?;
    if json {
        writeln!(out, "{}", serde_json::to_string(seen)?)?;
    }
    Ok(())
}

fn sentence(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn open(config: &Config) -> Result<Engine, String> {
    Engine::open(config.clone(), |_| Count::default()).wait().map_err(sentence)
}

fn introduce(engines: &[Engine]) {
    for (at, engine) in engines.iter().enumerate() {
        for (other, peer) in engines.iter().enumerate().filter(|(other, _)| *other != at) {
            engine.set_address(NodeId(other as u64 + 1), peer.local_addr());
        }
    }
}

fn sent(engines: &[Engine]) -> u64 {
    engines.iter().map(|engine| engine.stats()).map(|EngineStats { units_sent, .. }| units_sent).sum()
}

fn create(engines: &[Engine], groups: &[GroupId]) -> Result<(), String> {
    let voters: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
    std::thread::scope(|scope| {
        let one = |engine: &Engine| engine.create_groups(groups, &voters).wait().map_err(sentence);
        let running: Vec<_> = engines.iter().map(|engine| scope.spawn(move || one(engine))).collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().map_err(|_| "creating groups panicked".to_owned())?)
    })
}

/// One write to each group, at its leader.
fn write_to_all(engines: &[Engine], groups: &[GroupId]) -> Result<(), String> {
    let started = Instant::now();
    let mut pipelines: Vec<_> = engines.iter().map(|engine| engine.pipeline(IN_FLIGHT)).collect();
    // Where a group is thought to be led. Leaders of new groups are spread over the nodes.
    let mut todo: Vec<(GroupId, usize)> = groups.iter().map(|group| (*group, group.0 as usize % 3)).collect();
    let (mut done, mut left) = (Vec::new(), groups.len());
    while left > 0 {
        let waiting = todo.split_off(0);
        for (group, node) in waiting {
            if pipelines[node].propose(group, group.0, b"a write to each").is_err() {
                todo.push((group, node));
            }
        }
        for (at, pipeline) in pipelines.iter_mut().enumerate() {
            pipeline.wait(Duration::from_millis(20));
            pipeline.take(&mut done);
            for completion in done.drain(..) {
                let group = GroupId(completion.token);
                match completion.outcome {
                    Outcome::Proposal(Ok(_)) => left -= 1,
                    Outcome::Proposal(Err(ProposeError::NotLeader { hint: Some(hint) })) => {
                        todo.push((group, hint.0 as usize - 1))
                    }
                    Outcome::Proposal(Err(ProposeError::NotLeader { hint: None })) => {
                        todo.push((group, (at + 1) % 3))
                    }
                    _ => todo.push((group, at)),
                }
            }
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("{left} groups took no write within {} s", PATIENCE.as_secs()));
        }
    }
    Ok(())
}

/// The median time of a first and of a second write, one group after the other.
fn time_first_writes(engine: &Engine, groups: &[GroupId]) -> Result<FirstWrite, String> {
    let mut times = (Vec::new(), Vec::new());
    for group in groups.iter().rev().map(|group| engine.group(*group)) {
        if times.0.len() == SAMPLE {
            break;
        }
        // Another node leads it, and a refusal wakes no group.
        let Some(cold) = time_write(&group)? else { continue };
        let Some(warm) = time_write(&group)? else { continue };
        times.0.push(cold);
        times.1.push(warm);
    }
    if times.0.is_empty() {
        return Err("the first node leads no group".to_owned());
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok(FirstWrite { cold: median(times.0), warm: median(times.1) })
}

fn time_write(group: &Group) -> Result<Option<f64>, String> {
    let started = Instant::now();
    match group.propose(&b"timed"[..]).wait() {
        Ok(_) => Ok(Some(started.elapsed().as_secs_f64() * 1e6)),
        Err(ProposeError::NotLeader { .. } | ProposeError::Unknown) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
