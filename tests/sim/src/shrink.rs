//! Makes a failing run smaller: fewer kinds of faults, fewer strikes, less time, for as long as the same rule breaks.

use std::sync::Arc;
use std::time::Duration;

use crate::fault::{FaultKind, FaultSet};
use crate::hunt::{Catch, Quarry, hunt};
use crate::{Options, Report, Subject};

/// Shrinks a failing seed and prints how to run what is left. A seed that does not fail is left as it is.
pub fn shrink(seed: u64, options: &Options, subject: &Arc<dyn Subject>, tell: fn(&str)) -> Catch {
    let quiet = Options { trace: None, ..options.clone() };
    let whole = one(seed, &quiet, subject);
    let Some((_, violation)) = whole.violations.first() else {
        tell(&format!("seed {seed} breaks no rule"));
        return whole;
    };
    let rule = violation.invariant.clone();
    tell(&format!("seed {seed} breaks \"{rule}\" with {} faults", faults(&whole)));
    let fails = |options: &Options| {
        let found = one(seed, options, subject);
        found.violations.first().is_some_and(|(_, violation)| violation.invariant == rule).then_some(found)
    };
    let (mut smallest, mut found) = (quiet, whole);
    let keep = |options: Options, found: &mut Catch, smallest: &mut Options| {
        if let Some(smaller) = fails(&options) {
            (*smallest, *found) = (options, smaller);
            return true;
        }
        false
    };
    for kind in FaultKind::ALL {
        let mut without = smallest.without;
        without.insert(*kind);
        let _kept = keep(Options { without, ..smallest.clone() }, &mut found, &mut smallest);
    }
    let drawn = one_report(seed, &Options { strikes: None, ..smallest.clone() }, subject).strikes;
    let mut strikes: Vec<usize> = smallest.strikes.clone().unwrap_or_else(|| (0..drawn).collect());
    let mut step = strikes.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < strikes.len() {
            let mut fewer = strikes.clone();
            fewer.drain(from..(from + step).min(strikes.len()));
            let options = Options { strikes: Some(fewer.clone()), ..smallest.clone() };
            if keep(options, &mut found, &mut smallest) {
                strikes = fewer;
            } else {
                from += step;
            }
        }
        if step == 1 {
            break;
        }
        step = step.div_ceil(2);
    }
    tell(&format!("what is left: {} faults, {} events", faults(&found), found.events));
    tell(&format!("  --seed {seed} {}", arguments(&smallest)));
    found
}

fn faults(found: &Catch) -> u64 {
    found.faults.iter().map(|(_, count)| count).sum()
}

fn quarry(seed: u64) -> Quarry {
    Quarry { from: seed, to: Some(seed + 1), at_most: None::<Duration>, threads: 1, violations_max: 1 }
}

fn one(seed: u64, options: &Options, subject: &Arc<dyn Subject>) -> Catch {
    hunt(quarry(seed), options, subject, |_| ())
}

fn one_report(seed: u64, options: &Options, subject: &Arc<dyn Subject>) -> Report {
    let report = std::sync::Mutex::new(None);
    hunt(quarry(seed), options, subject, |seen| *crate::disk::held(&report) = Some(seen.clone()));
    let report = crate::disk::held(&report).take();
    report.expect("one seed gives one report")
}

/// The options as they are given on the command line.
fn arguments(options: &Options) -> String {
    let mut text = format!("--profile {:?}", options.profile).to_lowercase();
    let mut number = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            text += &format!(" --{name} {value}");
        }
    };
    number("nodes", options.nodes.map(|nodes| nodes as u64));
    number("groups", options.groups.map(|groups| groups as u64));
    number("seconds", options.seconds);
    if options.without != FaultSet::default() {
        let names: Vec<&str> = options.without.iter().map(FaultKind::name).collect();
        text += &format!(" --without {}", names.join(","));
    }
    if let Some(strikes) = &options.strikes {
        let numbers: Vec<String> = strikes.iter().map(usize::to_string).collect();
        text += &format!(" --strikes {}", numbers.join(","));
    }
    text + " --trace"
}
