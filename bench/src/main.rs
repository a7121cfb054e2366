//! `raftwerk-bench`: the command. IMPURE: standard streams. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use raftwerk_bench::cli::{Cli, ClusterOptions, Command};
use raftwerk_bench::{certs, cluster, failover, idle, log, node, recovery, suite};

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Cluster(options) => run_cluster(&options),
        Command::Certs(options) => certs::run(&options).map(|()| true).map_err(|error| error.to_string()),
        Command::Recovery(options) => recovery::run(&options, &mut std::io::stdout().lock()),
        Command::Failover(options) => failover::run(&options, &mut std::io::stdout().lock()),
        Command::Idle(options) => idle::run(&options, &mut std::io::stdout().lock()),
        Command::Log(options) => match log::run(&options, &mut std::io::stdout().lock()) {
            Ok(ending) => return ExitCode::from(ending as u8),
            Err(error) => Err(error),
        },
        Command::Suite(options) => suite::run(&options, &mut std::io::stdout().lock()),
        Command::Node { settings } => node::run(&settings).map(|()| true),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // If this fails, there is no output left to report it to.
            let _told = writeln!(std::io::stderr(), "raftwerk-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs, prints, and reports whether all was well.
fn run_cluster(options: &ClusterOptions) -> Result<bool, String> {
    let report = cluster::run(options)?;
    let mut out = std::io::stdout().lock();
    let json = if options.json { format!("{}\n", report.to_json()) } else { String::new() };
    write!(out, "{}\n{json}", report.to_table()).map_err(|error| error.to_string())?;
    Ok(report.is_good())
}
