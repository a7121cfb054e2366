//! `recovery`: how long a node takes to come back over a log of a given size. IMPURE: clock, files.
//!
//! One node, so that nothing but its own log is measured; no checkpoint is taken, so that all of the log counts, or each group is
//! checkpointed, so that its file does. What comes back is compared, group by group, with what was there.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use raftwerk::identity::ClusterAuthority;
use raftwerk::{Config, Engine, GroupId, NodeId, PeerId};
use rustix::fs::OFlags;
use serde::Serialize;

use crate::cli::RecoveryOptions;
use crate::hash_machine::HashMachine;

/// Writes on their way while the log is made.
const IN_FLIGHT: usize = 16 * 1024;
/// Bytes of one raw read, as large as the log's own.
const RAW_READ_BYTES: usize = 2 << 20;
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
    /// Lanes that the node came back with.
    pub lanes: usize,
    /// Entries in it.
    pub entries: u64,
    /// Checkpoints that were written meanwhile; 0: none was wanted.
    pub checkpoints: u64,
    /// Seconds that the making of the log took, until the last of them was written.
    pub fill_seconds: f64,
    /// From the call until the log was read, checked and indexed, and the engine open.
    pub open_seconds: f64,
    /// From the call until every group had applied all of it again and taken another write.
    pub ready_seconds: f64,
    /// Log bytes per second of opening, in GB/s.
    pub open_gb_per_second: f64,
    /// Whether the system's page cache held the log when the node opened.
    pub hot: bool,
    /// The same files read right before, nothing looked at, in GB/s: in reads as large and as many at a time.
    pub raw_gb_per_second: f64,
    /// Whether every state is what it was.
    pub states_agree: bool,
}

/// Makes a log, closes the node, and times how it comes back.
///
/// # Errors
/// An error of the file system or the engine.
pub fn run(options: &RecoveryOptions, out: &mut dyn Write) -> Result<bool, String> {
    let parent =
        if Path::new("target").is_dir() { Path::new("target").to_owned() } else { std::env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("raftwerk-recovery-").tempdir_in(parent).map_err(sentence)?;
    let authority = ClusterAuthority::new("recovery").map_err(sentence)?;
    let identity = authority.issue(PeerId(1)).map_err(sentence)?;
    let mut config = Config::new(NodeId(1), dir.path(), identity);
    let checkpoint_log_bytes = if options.checkpointed { 1 } else { u64::MAX };
    (config.workers, config.checkpoint_log_bytes, config.lane_bytes_max) =
        (options.workers, checkpoint_log_bytes, u64::MAX);
    config.checkpoint_state_percent = 0;
    let groups: Vec<GroupId> = (1..=options.groups).map(GroupId).collect();

    let engine = open(&config)?;
    engine.create_groups(&groups, &[NodeId(1)]).wait().map_err(sentence)?;
    let started = Instant::now();
    fill(&engine, &groups, options)?;
    let checkpoints = if options.checkpointed { all_checkpointed(&engine, options.groups)? } else { 0 };
    let fill_seconds = started.elapsed().as_secs_f64();
    let (log_bytes, entries) = (engine.stats().log_bytes, engine.stats().proposals);
    let before = digests(&engine, &groups)?;
    engine.shutdown().wait().map_err(sentence)?;
    drop(engine);

    let segments = segments(dir.path()).map_err(sentence)?;
    let raw_gb_per_second = read_raw(&segments, options.hot).map_err(sentence)?;
    config.lanes = options.lanes.map(usize::from);
    let started = Instant::now();
    let engine = open(&config)?;
    let open_seconds = started.elapsed().as_secs_f64();
    let after = ready(&engine, &groups, &before)?;
    let ready_seconds = started.elapsed().as_secs_f64();
    engine.shutdown().wait().map_err(sentence)?;

    let seen = Recovery {
        log_bytes,
        groups: options.groups,
        payload_bytes: options.payload,
        lanes: engine.lanes(),
        entries,
        checkpoints,
        fill_seconds,
        open_seconds,
        ready_seconds,
        open_gb_per_second: log_bytes as f64 / 1e9 / open_seconds,
        hot: options.hot,
        raw_gb_per_second,
        states_agree: after,
    };
    report(&seen, options.json, out).map_err(sentence)?;
    Ok(seen.states_agree)
}

fn report(seen: &Recovery, json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:.2} GiB of log, {} entries of {} B in {} groups, {} lanes now: open after {:.2} s ({:.2} GB/s; \
         {} files raw {:.2}), everything applied and writable after {:.2} s, states {}",
        seen.log_bytes as f64 / f64::from(1 << 30),
        seen.entries,
        seen.payload_bytes,
        seen.groups,
        seen.lanes,
        seen.open_seconds,
        seen.open_gb_per_second,
        if seen.hot { "hot" } else { "cold" },
        seen.raw_gb_per_second,
        seen.ready_seconds,
        if seen.states_agree { "as they were" } else { "DIFFER" },
    )?;
    if seen.checkpoints > 0 {
        let each = seen.fill_seconds * 1e3 / seen.checkpoints as f64;
        writeln!(
            out,
            "{} checkpoints were written in {:.1} s, {each:.2} ms each",
            seen.checkpoints, seen.fill_seconds
        )?;
    }
    if json {
        writeln!(out, "{}", serde_json::to_string(seen)?)?;
    }
    Ok(())
}

/// The files of a log's lanes, found by what lies in their folders.
fn segments(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Reads files whole, on twice as many threads as there are cores: past the page cache, or until that holds them.
fn read_raw(files: &[PathBuf], hot: bool) -> std::io::Result<f64> {
    let bytes = AtomicU64::new(0);
    let read_all = |past_cache: bool| -> std::io::Result<Duration> {
        let started = Instant::now();
        let next = AtomicUsize::new(0);
        let work = || -> std::io::Result<()> {
            let room = vec![0u8; RAW_READ_BYTES + 4096];
            let start = room.as_ptr().align_offset(4096);
            let mut room = room;
            while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let flags = if past_cache { OFlags::DIRECT.bits() as i32 } else { 0 };
                let mut file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
                loop {
                    let read = file.read(&mut room[start..start + RAW_READ_BYTES])?;
                    bytes.fetch_add(read as u64, Ordering::Relaxed);
                    if read == 0 {
                        break;
                    }
                }
            }
            Ok(())
        };
        let hands = 2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            let hands: Vec<_> = (0..hands).map(|_| scope.spawn(work)).collect();
            hands
                .into_iter()
                .try_for_each(|hand| hand.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())))
        })?;
        Ok(started.elapsed())
    };
    if hot {
        read_all(false)?; // the first time fills the cache
        bytes.store(0, Ordering::Relaxed);
    }
    let took = read_all(!hot)?;
    Ok(bytes.into_inner() as f64 / 1e9 / took.as_secs_f64())
}

fn sentence(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn open(config: &Config) -> Result<Engine, String> {
    Engine::open(config.clone(), |_| HashMachine::default()).wait().map_err(sentence)
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

/// Waits until every group has a checkpoint and no more are written. How many were.
fn all_checkpointed(engine: &Engine, groups: u64) -> Result<u64, String> {
    let (mut seen, mut since) = (0, Instant::now());
    while seen < groups || since.elapsed() < Duration::from_secs(1) {
        let now = engine.stats().checkpoints;
        if now > seen {
            (seen, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!("{seen} checkpoints of {groups} groups, and no more"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(seen)
}

fn digests(engine: &Engine, groups: &[GroupId]) -> Result<Vec<u64>, String> {
    let digest = |group: &GroupId| engine.group(*group).digest().wait().ok().map(|(_, digest)| digest);
    groups.iter().map(|group| digest(group).ok_or_else(|| format!("{group} is gone"))).collect()
}

/// Waits until every group answers a read, for which it must have applied everything, and compares.
fn ready(engine: &Engine, groups: &[GroupId], before: &[u64]) -> Result<bool, String> {
    let started = Instant::now();
    for group in groups {
        let group = engine.group(*group);
        while group.read(crate::hash_machine::COUNT_QUERY).wait().is_err() {
            if started.elapsed() > PATIENCE {
                return Err(format!("{} has no leader", group.id()));
            }
            std::thread::yield_now();
        }
    }
    Ok(digests(engine, groups)? == before)
}
