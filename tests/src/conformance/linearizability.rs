//! Recorded histories of other systems, against the checker that judges the simulator's. The list of verdicts,
//! `name verdict` a line, says which files there are.

use std::path::Path;

use raftwerk_sim::linearizability::Verdict;
use raftwerk_sim::linearizability::recording::Recording;

use super::{Case, Outcome, SuiteError, read};

/// Many times what the hardest of them takes.
const BUDGET: u64 = 50_000_000;

pub(super) fn run(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    let path = folder.join("linearizability/EXPECTED_VERDICTS.txt");
    let verdicts = read(&path)?;
    let malformed =
        |line: &str| SuiteError::Malformed { path: path.clone(), what: format!("not a verdict: {line}") };
    let mut cases = Vec::new();
    for line in verdicts.lines().filter(|line| !line.trim().is_empty()) {
        let (name, verdict) = line.trim().split_once(char::is_whitespace).ok_or_else(|| malformed(line))?;
        let expects_order = match verdict.trim() {
            "linearizable" => true,
            "not_linearizable" => false,
            _ => return Err(malformed(line)),
        };
        // Names without a folder are register logs.
        let home =
            if name.contains('/') { "linearizability/test_data" } else { "linearizability/test_data/jepsen" };
        // A file that is listed and not there is no reason to skip anything.
        let outcome = match read(&folder.join(home).join(name)) {
            Ok(text) => judge(&text, expects_order),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        cases.push(Case { name: name.to_owned(), outcome });
    }
    Ok(cases)
}

fn judge(text: &str, expects_order: bool) -> Outcome {
    let recording = match Recording::parse(text) {
        Ok(recording) => recording,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match (recording.check(BUDGET), expects_order) {
        (Verdict::Linearizable, true) | (Verdict::Violation(_), false) => Outcome::Passed,
        (Verdict::Linearizable, false) => {
            Outcome::Failed("an order was found, and there should be none".to_owned())
        }
        (Verdict::Violation(violation), true) => Outcome::Failed(recording.describe(&violation)),
        (Verdict::OutOfBudget, _) => Outcome::Failed(format!("no verdict within {BUDGET} steps")),
    }
}
