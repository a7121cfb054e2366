//! Runs many seeds on all cores: adds up their counts, and keeps the first violations.
//!
//! IMPURE: threads, and the wall clock for the time of the hunt. A run itself uses neither.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use crate::disk::held;
use crate::fault::FaultCounts;
use crate::{Options, Report, Subject, Violation, run};

/// What a hunt has found.
#[derive(Clone, Debug, Default)]
pub struct Catch {
    /// Seeds lived through.
    pub seeds: u64,
    /// Events in all of them.
    pub events: u64,
    /// The world's time in all of them, in nanoseconds.
    pub simulated: u64,
    /// Calls answered.
    pub answered: u64,
    /// Calls with an unknown outcome.
    pub unknown: u64,
    /// Nodes that refused to open a damaged log.
    pub loud_stops: u64,
    /// Strong reads that leaders answered by lease.
    pub leased_reads: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Over the hashes of all seeds, whatever their order.
    pub hash: u64,
    /// Seeds that broke a rule.
    pub violations: Vec<(u64, Violation)>,
    /// How long it took.
    pub took: Duration,
}

/// Which seeds to live through.
#[derive(Clone, Copy, Debug)]
pub struct Quarry {
    /// The first.
    pub from: u64,
    /// The first that is not; none if `None`.
    pub to: Option<u64>,
    /// When to stop.
    pub at_most: Option<Duration>,
    /// How many threads.
    pub threads: usize,
    /// How many violations are enough.
    pub violations_max: usize,
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics within runs are findings; they are kept, not printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() == Some(RUNNER) {
                LAST_PANIC.with_borrow_mut(|last| *last = panic.to_string().replace('\n', " "));
            } else {
                usual(panic);
            }
        }));
    });
}

const RUNNER: &str = "run";

/// Lives through one seed on this thread; a panic of the engine is a violation like any other.
#[must_use]
pub fn run_guarded(seed: u64, options: &Options, subject: &Arc<dyn Subject>) -> Report {
    guarded(seed, || run(seed, options, subject))
}

fn guarded(seed: u64, live: impl FnOnce() -> Report) -> Report {
    catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|payload| {
        let kept = LAST_PANIC.with_borrow_mut(std::mem::take);
        let told = payload.downcast_ref::<String>().map(String::as_str);
        let told = told.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let what = if kept.is_empty() { told.to_owned() } else { kept };
        Report::of_panic(seed, Violation { invariant: "no panic".to_owned(), what })
    })
}

/// Lives through many seeds. `seen` gets the report of each, one at a time.
pub fn hunt(
    quarry: Quarry,
    options: &Options,
    subject: &Arc<dyn Subject>,
    seen: impl Fn(&Report) + Sync,
) -> Catch {
    hunt_by(quarry, |seed| run(seed, options, subject), seen)
}

/// Lives through many seeds in a way of its own: [`hunt`] with [`run`] for `live`.
pub fn hunt_by(quarry: Quarry, live: impl Fn(u64) -> Report + Sync, seen: impl Fn(&Report) + Sync) -> Catch {
    keep_panics();
    let began = Instant::now();
    let (next, enough) = (AtomicU64::new(quarry.from), AtomicBool::new(false));
    let total = Mutex::new(Catch::default());
    let is_over =
        || enough.load(Ordering::Relaxed) || quarry.at_most.is_some_and(|at_most| began.elapsed() >= at_most);
    std::thread::scope(|scope| {
        for _ in 0..quarry.threads.max(1) {
            let work = || {
                while !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if quarry.to.is_some_and(|to| seed >= to) {
                        return;
                    }
                    let report = guarded(seed, || live(seed));
                    let mut total = held(&total);
                    total.add(&report);
                    if total.violations.len() >= quarry.violations_max {
                        enough.store(true, Ordering::Relaxed);
                    }
                    seen(&report);
                }
            };
            let runner = std::thread::Builder::new().name(RUNNER.to_owned());
            if let Err(error) = runner.spawn_scoped(scope, work) {
                panic!("a thread could not be started: {error}");
            }
        }
    });
    let mut total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    total.violations.sort_by_key(|(seed, _)| *seed);
    total.took = began.elapsed();
    total
}

impl Catch {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.events;
        self.simulated += report.simulated;
        self.answered += report.answered;
        self.unknown += report.unknown;
        self.loud_stops += report.loud_stops;
        self.leased_reads += report.leased_reads;
        self.faults.merge(&report.faults);
        self.hash ^= report.hash.wrapping_mul(report.seed | 1);
        self.violations.extend(report.violation.clone().map(|violation| (report.seed, violation)));
    }

    /// Events per second of wall time.
    #[must_use]
    pub fn events_per_second(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Hours of a cluster's life per minute of wall time.
    #[must_use]
    pub fn hours_per_minute(&self) -> f64 {
        let hours = self.simulated as f64 / 3.6e12;
        hours / (self.took.as_secs_f64().max(1e-9) / 60.0)
    }

    /// What machines read: one line.
    #[must_use]
    pub fn json(&self) -> String {
        let faults: serde_json::Map<String, serde_json::Value> =
            self.faults.iter().map(|(kind, count)| (kind.name().to_owned(), count.into())).collect();
        let violations: Vec<serde_json::Value> = self
            .violations
            .iter()
            .map(|(seed, violation)| {
                serde_json::json!({
                    "seed": seed, "invariant": violation.invariant, "what": violation.what,
                })
            })
            .collect();
        serde_json::json!({
            "seeds": self.seeds,
            "events": self.events,
            "events_per_second": self.events_per_second().round(),
            "simulated_seconds": self.simulated as f64 / 1e9,
            "simulated_hours_per_minute": self.hours_per_minute(),
            "answered": self.answered,
            "unknown": self.unknown,
            "loud_stops": self.loud_stops,
            "leased_reads": self.leased_reads,
            "hash": format!("{:016x}", self.hash),
            "faults": faults,
            "violations": violations,
        })
        .to_string()
    }
}
