//! `log`: the log alone, against the device under it; and a look into one. IMPURE: clock, files, threads.
//!
//! [`run`] measures cells: so many groups, records, writers. All logs lie on one device, and that is measured in the
//! same run, before and after. With the feature `peers`, raft-engine goes through the same cells. `look` is
//! for operators. What is not here: the cluster (`cluster`), opening a log (`recovery`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use raftwerk_frame::frame::{ENTRY_OVERHEAD_BYTES, HEADER_BYTES};
use serde::Serialize;

mod lane;
mod look;
#[cfg(feature = "peers")]
mod peer;
pub(crate) mod raw;

pub use self::look::Ending;

/// Options of `log`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LogOptions {
    /// Look into a log instead of measuring one.
    #[command(subcommand)]
    pub look: Option<Look>,
    /// Seconds to measure each cell.
    #[arg(long, default_value_t = 0.5)]
    pub seconds: f64,
    /// Only cells with so many groups; may be given several times. Default: 1, 100 and 10,000.
    #[arg(long)]
    pub groups: Vec<u64>,
    /// Only cells with records of so many bytes. Default: 128 and 1,024.
    #[arg(long, value_name = "BYTES")]
    pub record: Vec<usize>,
    /// Only cells with so many records a write. Default: 1 and 32.
    #[arg(long, value_name = "RECORDS")]
    pub batch: Vec<usize>,
    /// Only cells with so many writers. Default: 1 and 8.
    #[arg(long)]
    pub writers: Vec<usize>,
    /// Only cells that are synced, or only those that are not.
    #[arg(long)]
    pub synced: Option<bool>,
    /// How synced appends are written.
    #[arg(long, value_enum, default_value_t = Mode::Direct)]
    pub mode: Mode,
    /// Synced cells wait for the write only, and sync every 10 ms: what a node does for relaxed proposals.
    #[arg(long)]
    pub relaxed: bool,
    /// Hand every batch to a thread of the log's own, as a node does. Otherwise short ones, while none is under way, are written
    /// by the thread that submits.
    #[arg(long)]
    pub own_thread: bool,
    /// How long a waiter looks for its outcome before it sleeps, in microseconds.
    #[arg(long, default_value_t = 50)]
    pub poll_us: u64,
    /// Where to write: a folder is made in it, and removed. Default: `target`, on the disk it is on.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
}

/// What to look for in a log.
#[derive(Debug, Subcommand)]
pub enum Look {
    /// List lanes, segments and groups of a log, and whether it is whole. Only reads, and takes no lock.
    Inspect {
        /// The log's folder: the one that holds `manifest`.
        dir: PathBuf,
        /// List every group, not only those that have lost something.
        #[arg(long)]
        groups: bool,
    },
    /// Check every byte of a log. Status 0: whole; 1: damaged; 2: it cannot be read at all.
    Verify {
        /// The log's folder: the one that holds `manifest`.
        dir: PathBuf,
    },
}

/// A way of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Past the page cache.
    Direct,
    /// Through it, then fdatasync.
    Buffered,
    /// Through a map of the file, then msync.
    Mapped,
}

/// What a cell asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Groups, each with a log of its own.
    pub groups: u64,
    /// Bytes of a record.
    pub record_bytes: usize,
    /// Records of one write, all of one group.
    pub batch: usize,
    /// Writes under way at any time.
    pub writers: usize,
    /// Whether a write is over when it is durable, or when the system has it.
    pub synced: bool,
}

impl Cell {
    /// What a write of its own takes in the log, if the device does nothing but one after another: so long does the device take, at
    /// least.
    fn lone_write_bytes(&self) -> Option<usize> {
        const BATCH_HEADER_BYTES: usize = 64;
        let entries = self.batch * (ENTRY_OVERHEAD_BYTES + self.record_bytes);
        let bytes = (BATCH_HEADER_BYTES + HEADER_BYTES + entries).next_multiple_of(4096);
        (self.synced && self.writers == 1 && bytes <= 1 << 20).then_some(bytes)
    }
}

/// What was seen of a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// `raftwerk` or `raft-engine`.
    pub engine: &'static str,
    /// How appends were written.
    pub mode: &'static str,
    /// What was asked for.
    #[serde(flatten)]
    pub cell: Cell,
    /// Records written.
    pub records: u64,
    /// Records per second.
    pub records_per_second: f64,
    /// User and system time of the whole process per record.
    pub cpu_us_per_record: f64,
    /// Half of the writes took at most this long.
    pub p50_us: f64,
    /// 99 % did.
    pub p99_us: f64,
    /// Bytes of records per second, in MB/s.
    pub payload_mb_per_second: f64,
    /// Where one writer waits for each write: half of the raw synced writes of as many bytes, padding included, took at most this
    /// long, right before and after the cell.
    pub raw_p50_us: Option<f64>,
    /// The one over the other: the raw device is 1.
    pub p50_over_raw: Option<f64>,
}

impl Seen {
    fn new(engine: &'static str, mode: &'static str, cell: Cell, run: &Run) -> Self {
        let latency = run.latencies.summary();
        let seconds = run.took.as_secs_f64();
        let records_per_second = run.records as f64 / seconds;
        Self {
            engine,
            mode,
            cell,
            records: run.records,
            records_per_second,
            cpu_us_per_record: run.cpu_nanos as f64 / 1000.0 / run.records.max(1) as f64,
            p50_us: latency.map_or(0.0, |latency| latency.p50),
            p99_us: latency.map_or(0.0, |latency| latency.p99),
            payload_mb_per_second: records_per_second * cell.record_bytes as f64 / 1e6,
            raw_p50_us: None,
            p50_over_raw: None,
        }
    }

    /// Runs a cell, and the raw device beside it where that is a yardstick.
    fn beside(
        device: &raw::Device,
        cell: Cell,
        run: impl FnOnce() -> Result<Self, String>,
    ) -> Result<Self, String> {
        let Some(bytes) = cell.lone_write_bytes() else { return run() };
        let (seen, raw_p50_us) = device.p50_us_around(bytes, run)?;
        Ok(Self { p50_over_raw: Some(seen.p50_us / raw_p50_us), raw_p50_us: Some(raw_p50_us), ..seen })
    }
}

/// A cell's raw outcome.
#[derive(Default)]
struct Run {
    records: u64,
    took: Duration,
    cpu_nanos: u64,
    latencies: crate::latency::Latencies,
}

/// All that is printed as JSON.
#[derive(Debug, Serialize)]
struct Report {
    cells: Vec<Seen>,
    raw: raw::Raw,
    raw_after: raw::Raw,
    /// Bytes that the device wrote while the synced cells of `raftwerk` ran, per padded byte of log; null where the system
    /// does not tell. Whatever else writes to that device is in it.
    device_bytes_per_log_byte: Option<f64>,
    load_average: f64,
}

/// The cells of a run: every mix of the canonical ones, then one for latency under load and two for bandwidth.
fn cells(options: &LogOptions) -> Vec<Cell> {
    fn or<T: Copy>(given: &[T], usual: &[T]) -> Vec<T> {
        if given.is_empty() { usual } else { given }.to_vec()
    }
    let mut cells = Vec::new();
    for synced in options.synced.map_or(vec![true, false], |only| vec![only]) {
        for groups in or(&options.groups, &[1, 100, 10_000]) {
            for record_bytes in or(&options.record, &[128, 1024]) {
                for batch in or(&options.batch, &[1, 32]) {
                    for writers in or(&options.writers, &[1, 8]) {
                        cells.push(Cell { groups, record_bytes, batch, writers, synced });
                    }
                }
            }
        }
    }
    let are_all = options.groups.is_empty() && options.record.is_empty() && options.batch.is_empty();
    if are_all && options.writers.is_empty() && options.synced.is_none() {
        let large = |record_bytes: usize, batch, writers| Cell {
            groups: 100,
            record_bytes,
            batch,
            writers,
            synced: true,
        };
        cells.extend([large(128, 1, 64), large(128, 1984, 8), large(4096, 62, 8)]);
    }
    cells
}

/// Measures, prints, and reports how it ended.
///
/// # Errors
/// An error of the file system or the log.
pub fn run(options: &LogOptions, out: &mut dyn Write) -> Result<Ending, String> {
    match &options.look {
        Some(look) => look::run(look, out).map_err(|error| error.to_string()),
        None => measure(options, out).map(|()| Ending::Whole),
    }
}

fn measure(options: &LogOptions, out: &mut dyn Write) -> Result<(), String> {
    let sentence = |error: std::io::Error| error.to_string();
    let target = Path::new("target");
    let parent = options
        .dir
        .clone()
        .unwrap_or_else(|| if target.is_dir() { target.to_owned() } else { std::env::temp_dir() });
    let folder = tempfile::Builder::new().prefix("raftwerk-log-").tempdir_in(parent).map_err(sentence)?;
    let device = raw::Device::open(folder.path()).map_err(sentence)?;
    let raw_before = device.measure().map_err(sentence)?;
    writeln!(out, "raw device: {raw_before}").map_err(sentence)?;
    let cells = cells(options);
    let mut seen = Vec::new();
    let mut show = |one: Seen| -> Result<(), String> {
        let Cell { groups, record_bytes, batch, writers, synced } = one.cell;
        let beside = one.p50_over_raw.map_or_else(String::new, |ratio| format!("  {ratio:.2} x raw"));
        writeln!(
            out,
            "{:>11} {:>8} {groups:>6} groups {record_bytes:>5} B x {batch:<4} {writers:>2} writers {} {:>10.0} records/s \
             {:>7.2} us CPU  p50 {:>8.1} us  p99 {:>8.1} us {:>8.1} MB/s{beside}",
            one.engine,
            one.mode,
            if synced { "synced  " } else { "unsynced" },
            one.records_per_second,
            one.cpu_us_per_record,
            one.p50_us,
            one.p99_us,
            one.payload_mb_per_second
        )
        .map_err(sentence)?;
        seen.push(one);
        Ok(())
    };
    let path = folder.path().join("raftwerk");
    let open = |synced: bool| lane::Rig::open(&path, options, synced);
    let close = |rig: lane::Rig| -> Result<lane::Written, String> {
        let written = rig.written();
        drop(rig);
        std::fs::remove_dir_all(&path).map_err(sentence)?;
        Ok(written)
    };
    let mut written = lane::Written::default();
    if cells.iter().any(|cell| cell.synced) {
        let mut rig = open(true)?;
        rig.age(options)?;
        for cell in cells.iter().filter(|cell| cell.synced) {
            show(Seen::beside(&device, *cell, || rig.run(*cell, options))?)?;
        }
        written = close(rig)?;
    }
    // A log for each: what others have left in the page cache, and in how large pieces, changes what a write costs.
    for cell in cells.iter().filter(|cell| !cell.synced) {
        let mut rig = open(false)?;
        show(rig.run(*cell, options)?)?;
        close(rig)?;
    }
    #[cfg(feature = "peers")]
    for cell in &cells {
        show(Seen::beside(&device, *cell, || peer::run(folder.path(), *cell, options))?)?;
    }
    let raw_after = device.measure().map_err(sentence)?;
    writeln!(out, "raw device: {raw_after}").map_err(sentence)?;
    if let Some(ratio) = written.ratio() {
        writeln!(out, "device bytes per byte of log, padding included: {ratio:.3}").map_err(sentence)?;
    }
    if options.json {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let report = Report {
            cells: seen,
            raw: raw_before,
            raw_after,
            device_bytes_per_log_byte: written.ratio(),
            load_average: load.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default(),
        };
        let json = serde_json::to_string(&report).map_err(|error| error.to_string())?;
        writeln!(out, "{json}").map_err(sentence)?;
    }
    Ok(())
}
