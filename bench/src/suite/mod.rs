//! `suite`: the canonical rows one after another, and beside each what its parts cost alone. IMPURE: clock, files, processes.
//!
//! Each row is one `cluster` in a process of its own, so that no row finds memory or CPU time of another, and the end of one
//! is that row's error. Parts (`parts`) are measured first, in this process. Next: `rows.rs` for what runs, `record.rs` for
//! what is kept of it, `table.rs`, `page.rs` and `compare.rs` for how it is shown.

mod chart;
mod child;
mod compare;
mod machine;
mod page;
mod parts;
mod record;
mod rows;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use self::parts::Parts;
use self::record::{FORMAT, RowReport, SuiteReport};
use self::rows::Row;

/// What a row takes beside its measured time: start, warm-up, verification; more with many groups.
const BESIDE_SECONDS: f64 = 3.5;
const GROUPS_PER_SECOND: f64 = 2000.0;
/// What measuring the parts takes.
const PARTS_SECONDS: f64 = 10.0;
/// What a row may take beside its measured time before it is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Options of `suite`.
#[derive(Clone, Debug, Default, Args)]
pub struct SuiteOptions {
    /// Short rows, fewer of them: less than three minutes on two idle cores.
    #[arg(long)]
    pub quick: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
    /// Write a page with the table and charts, which needs no other file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Compare with the JSON of an earlier run.
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Only these rows.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Seconds to measure each row: 8 by default, 2 with `--quick`; at least 8 where a node is killed.
    #[arg(long, value_name = "N")]
    pub seconds: Option<f64>,
}

/// Runs the suite. `false`: a row failed, or was not verified.
///
/// # Errors
/// A sentence on what kept the suite from running.
pub fn run(options: &SuiteOptions, out: &mut dyn Write) -> Result<bool, String> {
    let earlier = options.compare.as_deref().map(compare::load).transpose()?;
    let rows = rows::chosen(options)?;
    let started = Instant::now();
    let folder = machine::folder()?;
    let mut header = machine::header(folder.path(), options)?;
    let progress = Progress::new(&rows, options);

    let clusters = rows.iter().map(Row::options).collect::<Result<Vec<_>, _>>()?;
    progress.begin("parts");
    let parts = parts::measure(&clusters, folder.path(), &|| progress.tick())?;
    progress.end(PARTS_SECONDS);
    let mut reports: Vec<RowReport> = rows.iter().map(|row| run_row(row, &parts, &progress)).collect();
    let base = reports.iter().find(|row| row.name == rows::BASE).and_then(|row| row.operations_per_second);
    for row in rows::sweep(options, base.unwrap_or(0.0)) {
        reports.push(run_row(&row, &parts, &progress));
    }
    progress.bar.finish_and_clear();

    header.raw_sync_us.after = machine::raw_sync(folder.path())?;
    header.seconds_in_all = started.elapsed().as_secs_f64();
    let report = SuiteReport { suite: FORMAT, header, parts, rows: reports };
    show(&report, earlier.as_ref(), options, out)?;
    Ok(report.is_good())
}

fn show(
    report: &SuiteReport,
    earlier: Option<&SuiteReport>,
    options: &SuiteOptions,
    out: &mut dyn Write,
) -> Result<(), String> {
    let sentence = |error: std::io::Error| error.to_string();
    writeln!(out, "{}", table::text(report)).map_err(sentence)?;
    if let Some(earlier) = earlier {
        writeln!(out, "\n{}", compare::text(earlier, report)).map_err(sentence)?;
    }
    // Before the page: one that cannot be written takes nothing else with it.
    if options.json {
        let json = serde_json::to_string(report).map_err(|error| error.to_string())?;
        writeln!(out, "{json}").map_err(sentence)?;
    }
    if let Some(path) = &options.html {
        std::fs::write(path, page::page(report))
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    Ok(())
}

fn run_row(row: &Row, parts: &Parts, progress: &Progress) -> RowReport {
    progress.begin(&row.name);
    let patience = PATIENCE + Duration::from_secs_f64(row.seconds);
    let report = match child::run(&row.arguments(), patience, &|| progress.tick()) {
        Ok(ended) => RowReport::of(row, ended.is_good, ended.report, parts),
        Err(error) => RowReport::failed(row, error),
    };
    progress.end(expected_seconds(row));
    report
}

/// How long a row is thought to take in all.
fn expected_seconds(row: &Row) -> f64 {
    let groups = row.options().map_or(0, |options| options.groups);
    row.seconds + BESIDE_SECONDS + f64::from(groups) / GROUPS_PER_SECOND
}

/// The bar, with the time that is thought to be left.
struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    fn new(rows: &[Row], options: &SuiteOptions) -> Self {
        let sweep = rows::sweep(options, 1e6);
        let expected: f64 = rows.iter().chain(&sweep).map(expected_seconds).sum();
        let bar = ProgressBar::new(((PARTS_SECONDS + expected) * 1000.0) as u64);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
            bar.set_style(style);
        }
        Self { bar, started: Instant::now() }
    }

    fn begin(&self, what: &str) {
        self.bar.set_prefix(what.to_owned());
        self.tick();
    }

    /// What was expected to take so long is over.
    fn end(&self, expected_seconds: f64) {
        self.bar.inc((expected_seconds * 1000.0) as u64);
        self.tick();
    }

    fn tick(&self) {
        let (done, all) = (self.bar.position() as f64, self.bar.length().unwrap_or(0) as f64);
        // Once something is done, what is left is thought to be as slow.
        let slower = if done > 0.0 { self.started.elapsed().as_secs_f64() * 1000.0 / done } else { 1.0 };
        let left = (all - done).max(0.0) / 1000.0 * slower.max(0.5);
        self.bar.set_message(format!("{}, {left:.0} s left", self.bar.prefix()));
    }
}
