//! The checker against recorded histories of other systems whose verdicts are known. They lie beside the checkout, in
//! `../shared/conformance` or where `RAFTWERK_CONFORMANCE` points; without them this test says so and checks nothing.
//!
//! What is not here: histories of this project's own (the simulator checks those as it makes them).
#![allow(clippy::print_stdout, reason = "a skipped test must be seen to be skipped")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raftwerk_sim::linearizability::Verdict;
use raftwerk_sim::linearizability::recording::Recording;

/// Far more than any of them takes.
const BUDGET: u64 = 50_000_000;

fn suite() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    std::env::var_os("RAFTWERK_CONFORMANCE").map_or_else(beside, PathBuf::from).join("linearizability")
}

/// A recording by its name in the list of verdicts: those without a folder are register logs.
fn path_of(suite: &Path, name: &str) -> PathBuf {
    let folder = if name.contains('/') { "test_data" } else { "test_data/jepsen" };
    suite.join(folder).join(name)
}

#[test]
fn every_recorded_history_gets_its_verdict() {
    let suite = suite();
    let Ok(verdicts) = fs::read_to_string(suite.join("EXPECTED_VERDICTS.txt")) else {
        println!("SKIPPED: no recorded histories in {}", suite.display());
        return;
    };
    let mut wrong = Vec::new();
    let mut times: Vec<(Duration, &str)> = Vec::new();
    for line in verdicts.lines().filter(|line| !line.trim().is_empty()) {
        let (name, expected) = line.split_once(' ').expect("a name and a verdict");
        let text = fs::read_to_string(path_of(&suite, name)).expect(name);
        let begin = Instant::now();
        let found = match Recording::parse(&text).expect(name).check(BUDGET) {
            Verdict::Linearizable => "linearizable",
            Verdict::Violation(_) => "not_linearizable",
            Verdict::OutOfBudget => "out_of_budget",
        };
        times.push((begin.elapsed(), name));
        if found != expected {
            wrong.push(format!("{name}: expected {expected}, found {found}"));
        }
    }
    times.sort();
    println!("{} histories; the slowest: {:?}", times.len(), times.iter().rev().take(5).collect::<Vec<_>>());
    assert!(!times.is_empty(), "a list of verdicts without any");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
