//! `conformance`: runs other projects' test data against Raftwerk and says what differs.
//!
//! `cargo run --release -p raftwerk-tests --bin conformance -- [--dir DIR] [--suite NAME] [--json]`. The exit status is 1
//! if anything differs that is not waived, or a suite that was asked for is not there. With `--json` the last line is an
//! object for machines. See `raftwerk_tests::conformance` for what is compared.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use raftwerk_tests::conformance::{self, Case, Outcome, SUITES, Suite, SuiteError};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Runs other projects' test data against Raftwerk and says what differs")]
struct Options {
    /// Where the suites lie; by default where RAFTWERK_CONFORMANCE points, or ../shared/conformance beside the checkout
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only this suite; may be given several times
    #[arg(long)]
    suite: Vec<String>,
    /// Ends with a line of JSON
    #[arg(long)]
    json: bool,
}

fn main() -> io::Result<ExitCode> {
    let options = Options::parse();
    let folder = options.dir.clone().unwrap_or_else(conformance::default_folder);
    let mut out = io::stdout().lock();
    if let Some(unknown) = options.suite.iter().find(|name| SUITES.iter().all(|suite| suite.name != **name)) {
        let names = SUITES.map(|suite| suite.name).join(", ");
        writeln!(io::stderr(), "no suite is called {unknown}; there are {names}")?;
        return Ok(ExitCode::from(2));
    }
    let is_chosen =
        |suite: &&Suite| options.suite.is_empty() || options.suite.iter().any(|name| name == suite.name);
    let (mut reports, mut is_good) = (Vec::new(), true);
    for suite in SUITES.iter().filter(is_chosen) {
        let begin = Instant::now();
        match (suite.run)(&folder) {
            Ok(cases) => {
                let millis = begin.elapsed().as_millis();
                reports.push(report(&mut out, suite, &cases, millis)?);
                is_good &= !cases.iter().any(|case| matches!(case.outcome, Outcome::Failed(_)));
            }
            Err(SuiteError::Absent { path }) if options.suite.is_empty() => {
                writeln!(out, "{}: SKIPPED, {} is not there", suite.name, path.display())?;
            }
            Err(error) => {
                is_good = false;
                writeln!(out, "{}: CANNOT RUN: {error}", suite.name)?;
            }
        }
    }
    if reports.is_empty() {
        is_good = false;
        writeln!(out, "nothing was run: no suite in {}", folder.display())?;
    }
    if options.json {
        writeln!(out, "{}", json!({ "suites": reports }))?;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a suite's differences and its figures.
fn report(out: &mut impl Write, suite: &Suite, cases: &[Case], millis: u128) -> io::Result<Value> {
    let (mut passed, mut waived) = (0, Vec::new());
    for Case { name, outcome } in cases {
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Waived(reason) => {
                writeln!(out, "{}: {name}: waived: {reason}", suite.name)?;
                waived.push(json!({ "case": name, "reason": reason }));
            }
            Outcome::Failed(what) => writeln!(out, "{}: {name}: FAILED: {what}", suite.name)?,
        }
    }
    let total = cases.len();
    let failed = total - passed - waived.len();
    let waivers = waived.len();
    writeln!(
        out,
        "{}: {passed} of {total} passed, {waivers} waived, {failed} failed ({millis} ms)",
        suite.name
    )?;
    Ok(json!({ "name": suite.name, "passed": passed, "total": total, "waived": waived }))
}
