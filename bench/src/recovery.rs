//! `recovery`: how long a node takes to come back over a log of a given size. IMPURE: clock, files.
//!
//! One node, so that nothing but its own log is measured; no checkpoint is taken, so that all of the log counts. What
//! comes back is compared, group by group, with what was there.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use raftwerk::identity::ClusterAuthority;
use raftwerk::{Config, Engine, GroupId, NodeId, PeerId};
use serde::Serialize;

use crate::cli::RecoveryOptions;
use crate::hash_machine::HashMachine;

/// Writes on their way while the log is made.
const IN_FLIGHT: usize = 16 * 1024;
/// How long to wait for something that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Serialize)]
pub struct Recovery {
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Groups in it.
    pub groups: u64,
    /// Bytes of each payload.
    pub payload_bytes: usize,
    /// Entries in it.
    pub entries: u64,
    /// From the call until the log was read, checked and indexed, and the engine open.
    pub open_seconds: f64,
    /// From the call until every group had applied all of it again and taken another write.
    pub ready_seconds: f64,
    /// Log bytes per second of opening, in GB/s.
    pub open_gb_per_second: f64,
    /// Whether every state is what it was.
    pub states_agree: bool,
}

/// Makes a log, closes the node, and times how it comes back.
///
/// # Errors
/// What the file system or the engine says.
pub fn run(options: &RecoveryOptions, out: &mut dyn Write) -> Result<bool, String> {
    let parent =
        if Path::new("target").is_dir() { Path::new("target").to_owned() } else { std::env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("raftwerk-recovery-").tempdir_in(parent).map_err(sentence)?;
    let authority = ClusterAuthority::new("recovery").map_err(sentence)?;
    let identity = authority.issue(PeerId(1)).map_err(sentence)?;
    let mut config = Config::new(NodeId(1), dir.path(), identity);
    (config.workers, config.checkpoint_log_bytes, config.lane_bytes_max) =
        (options.workers, u64::MAX, u64::MAX);
    let groups: Vec<GroupId> = (1..=options.groups).map(GroupId).collect();

    let engine = open(&config)?;
    engine.create_groups(&groups, &[NodeId(1)]).map_err(sentence)?;
    fill(&engine, &groups, options)?;
    let (log_bytes, entries) = (engine.stats().log_bytes, engine.stats().proposals);
    let before = digests(&engine, &groups)?;
    engine.shutdown();
    drop(engine);

    let started = Instant::now();
    let engine = open(&config)?;
    let open_seconds = started.elapsed().as_secs_f64();
    let after = ready(&engine, &groups, &before)?;
    let ready_seconds = started.elapsed().as_secs_f64();
    engine.shutdown();

    let seen = Recovery {
        log_bytes,
        groups: options.groups,
        payload_bytes: options.payload,
        entries,
        open_seconds,
        ready_seconds,
        open_gb_per_second: log_bytes as f64 / 1e9 / open_seconds,
        states_agree: after,
    };
    report(&seen, options.json, out).map_err(sentence)?;
    Ok(seen.states_agree)
}

fn report(seen: &Recovery, json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:.2} GiB of log, {} entries of {} B in {} groups: open after {:.2} s ({:.2} GB/s), \
         everything applied and writable after {:.2} s, states {}",
        seen.log_bytes as f64 / f64::from(1 << 30),
        seen.entries,
        seen.payload_bytes,
        seen.groups,
        seen.open_seconds,
        seen.open_gb_per_second,
        seen.ready_seconds,
        if seen.states_agree { "as they were" } else { "DIFFER" },
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
    Engine::open(config.clone(), |_| HashMachine::default()).map_err(sentence)
}

/// Writes until the log has its size and everything is applied.
fn fill(engine: &Engine, groups: &[GroupId], options: &RecoveryOptions) -> Result<(), String> {
    let mut pipeline = engine.pipeline(IN_FLIGHT);
    let mut payload = vec![0; options.payload.max(8)];
    let (mut number, mut done) = (0u64, Vec::new());
    while engine.stats().log_bytes < options.mib << 20 {
        for _ in 0..IN_FLIGHT / 4 {
            payload[..8].copy_from_slice(&number.to_le_bytes());
            let group = groups[(number % groups.len() as u64) as usize];
            if pipeline.propose(group, number, &payload).is_err() {
                break;
            }
            number += 1;
        }
        pipeline.wait(PATIENCE);
        pipeline.take(&mut done);
        done.clear();
    }
    while pipeline.in_flight() > 0 {
        if !pipeline.wait(PATIENCE) {
            return Err("a write did not end".to_owned());
        }
        pipeline.take(&mut done);
    }
    Ok(())
}

fn digests(engine: &Engine, groups: &[GroupId]) -> Result<Vec<u64>, String> {
    let digest = |group: &GroupId| engine.group(*group)?.digest().map(|(_, digest)| digest);
    groups.iter().map(|group| digest(group).ok_or_else(|| format!("{group} is gone"))).collect()
}

/// Waits until every group answers a read, for which it must have applied everything, and compares.
fn ready(engine: &Engine, groups: &[GroupId], before: &[u64]) -> Result<bool, String> {
    let started = Instant::now();
    for group in groups {
        let group = engine.group(*group).ok_or_else(|| format!("{group} did not come back"))?;
        while group.read(crate::hash_machine::COUNT_QUERY).wait().is_err() {
            if started.elapsed() > PATIENCE {
                return Err(format!("{} has no leader", group.id()));
            }
            std::thread::yield_now();
        }
    }
    Ok(digests(engine, groups)? == before)
}
