//! What a client counts and times, and what it shows while it runs.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::latency::Latencies;

/// Seen by others while the client runs.
#[derive(Debug)]
pub struct Progress {
    /// Acknowledged writes so far, warm-up included.
    pub writes: AtomicU64,
    /// Answered reads so far.
    pub reads: AtomicU64,
    /// Groups that send their operations to each node.
    pub led: Vec<AtomicU32>,
}

impl Progress {
    /// For so many nodes.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self {
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            led: (0..nodes).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// The node, counted from 0, that leads most groups; the first of equals.
    #[must_use]
    pub fn leads_most(&self) -> usize {
        let led = self.led.iter().map(|led| led.load(Ordering::Relaxed)).enumerate();
        led.rev().max_by_key(|(_, led)| *led).map_or(0, |(node, _)| node)
    }

    /// The node, counted from 0, that leads fewest groups; the last of equals.
    #[must_use]
    pub fn leads_fewest(&self) -> usize {
        let led = self.led.iter().map(|led| led.load(Ordering::Relaxed)).enumerate();
        led.rev().min_by_key(|(_, led)| *led).map_or(0, |(node, _)| node)
    }

    /// How many groups a node, counted from 0, leads, as far as the client knows.
    #[must_use]
    pub fn leads(&self, node: usize) -> u32 {
        self.led[node].load(Ordering::Relaxed)
    }
}

/// What became of everything.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Writes acknowledged inside the measured time.
    pub writes: u64,
    /// Reads answered inside the measured time.
    pub reads: u64,
    /// Latencies of writes that started inside the measured time.
    pub write_latencies: Latencies,
    /// Latencies of reads that started inside the measured time.
    pub read_latencies: Latencies,
    /// How old the states were that reads were answered from, inside the measured time, where that was known.
    pub staleness: Latencies,
    /// Length of the measured time in nanoseconds.
    pub measured_nanos: u64,
    /// Writes acknowledged in all.
    pub acknowledged: u64,
    /// Reads answered in all.
    pub answered: u64,
    /// The counter of the last write: the next client of the same ledger counts on from here.
    pub counter: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Attempts that certainly did nothing and were repeated elsewhere or later.
    pub retries: u64,
    /// Reads that missed an acknowledged write.
    pub stale_reads: u64,
    /// Open loop: operations that should have left inside the measured time and had not when it ended.
    pub shortfall: u64,
    /// Operations that had not ended when the client gave up waiting.
    pub unfinished: u64,
    /// Outcomes that no retry can help; the first few.
    pub failures: Vec<String>,
    /// One per killed node.
    pub failovers: Vec<Failover>,
}

/// What a node's death did to writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// The node, counted from 0.
    pub node: usize,
    /// How many groups it led.
    pub groups: u32,
    /// From its death to the first acknowledgement of the last of these groups, in nanoseconds; `None`: never.
    pub unavailable_nanos: Option<u64>,
    /// The same of each of these groups, in the order in which they came back.
    pub group_nanos: Vec<u64>,
}

impl Failover {
    /// So many of the groups were back after this time, in nanoseconds: a half is the median. `None` if they were not.
    #[must_use]
    pub fn of_groups(&self, share: f64) -> Option<u64> {
        let rank = (f64::from(self.groups) * share).ceil().max(1.0) as usize;
        self.group_nanos.get(rank - 1).copied()
    }
}

impl Tally {
    /// Keeps a failure's description, if there are not too many already.
    pub(super) fn fail(&mut self, what: String) {
        const FAILURES_MAX: usize = 5;
        if self.failures.len() < FAILURES_MAX && !self.failures.contains(&what) {
            self.failures.push(what);
        }
    }
}
