//! The client: one thread that keeps many operations under way at all nodes and measures them.
//!
//! **Closed loop**: a fixed number of operations; each completion starts the next. **Open loop**: operations should
//! start at fixed times; latency counts from when one *should* have started, so a stall of the system cannot hide
//! itself by delaying its own measurement (coordinated omission).
//!
//! An operation that certainly did nothing (`NotLeader`, `Busy` …) is sent again, to the node that the answer names or a little
//! later; its clock runs on. One of unknown outcome is noted as such and never repeated. Nothing is allocated per
//! operation once buffers have grown.
//!
//! Time comes in as a function and nodes as [`NodePort`]s, so the tests run it without either. Next: `flow` moves single
//! operations; [`tally`](Tally) is what comes out.

mod flow;
mod routes;
mod slots;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use raftwerk::{Completion, Consistency};

use crate::ledger::Subject;
use crate::port::NodePort;
use crate::reading::{Reading, Replica};
use crate::workload::Workload;
pub(crate) use flow::group_id;
use routes::Routes;
use slots::Slots;
pub use tally::{Failover, Progress, Tally};

/// How operations are started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many at any time.
    Closed {
        /// Operations under way.
        in_flight: u32,
    },
    /// At fixed times.
    Open {
        /// Operations to start per second.
        per_second: f64,
        /// The most that may be under way; beyond it they wait, and their clocks run.
        in_flight_max: u32,
    },
}

impl Load {
    /// The most operations that can be under way.
    #[must_use]
    pub const fn in_flight_max(&self) -> u32 {
        match *self {
            Self::Closed { in_flight } => in_flight,
            Self::Open { in_flight_max, .. } => in_flight_max,
        }
    }
}

/// The commands to a client while it runs.
pub enum Order<P> {
    /// Measure from now on.
    Measure,
    /// Start nothing more; finish what is under way and return.
    Finish,
    /// The node dies as soon as this is acknowledged: time how long its groups take no writes.
    Killing(usize, Sender<()>),
    /// The node is dead: what it has not answered by now, it never will.
    Gone(usize),
    /// The node is back and is reached thus.
    Back(usize, P),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Only barrier writes are started.
    Barrier,
    /// The workload runs; nothing is measured yet.
    Warm,
    /// Since when.
    Measure { from: u64 },
    /// The measured time is over.
    Finish { from: u64, until: u64 },
}

/// Groups that a dead node led and that have not acknowledged a write since.
struct Outage {
    node: usize,
    at: u64,
    groups: Vec<bool>,
    left: u32,
    /// Whether the node is up again and its acknowledgements count.
    back: bool,
    /// Which entry of the tally's failovers this is.
    number: usize,
}

/// A client. `P` reaches nodes, `C` gives nanoseconds of a monotonic clock.
pub struct Client<P, C> {
    ports: Vec<Option<P>>,
    dirty: Vec<bool>,
    clock: C,
    subject: Subject,
    workload: Workload,
    load: Load,
    slots: Slots,
    routes: Routes,
    progress: Arc<Progress>,
    reading: Reading,
    /// The node of the last read that could go anywhere.
    next_reader: usize,
    orders: Receiver<Order<P>>,
    phase: Phase,
    /// Operations to repeat, and when: those refused once or twice, and those refused more often. Each in order, since
    /// all in one wait equally long.
    waiting: [VecDeque<(u64, u32)>; 2],
    /// Groups that need a barrier write.
    barriers: VecDeque<u32>,
    barriers_left: usize,
    outages: Vec<Outage>,
    /// Open loop: when the first operation starts, and how many have started since.
    opened: u64,
    started: u64,
    counter: u64,
    done: Vec<Completion>,
    tally: Tally,
}

/// The pause before an operation is tried again where no answer named a leader, at first and later on: while a group has
/// no leader, all that is under way soon waits for it.
const RETRY_NANOS: [u64; 2] = [2_000_000, 10_000_000];
/// So many refusals make it "later on".
const RETRIES_SOON: u32 = 3;
/// The longest sleep, so that orders are seen.
const SLEEP_NANOS_MAX: u64 = 20_000_000;

impl<P: NodePort, C: FnMut() -> u64> Client<P, C> {
    /// A client of `groups` groups at `ports`, one per node.
    #[must_use]
    pub fn new(
        ports: Vec<P>,
        clock: C,
        groups: u32,
        subject: Subject,
        workload: Workload,
        load: Load,
        orders: Receiver<Order<P>>,
        progress: Arc<Progress>,
    ) -> Self {
        assert!(ports.len() == progress.led.len(), "one port per node");
        Self {
            dirty: vec![false; ports.len()],
            ports: ports.into_iter().map(Some).collect(),
            clock,
            subject,
            workload,
            slots: Slots::new(load.in_flight_max()),
            load,
            routes: Routes::new(groups, Arc::clone(&progress)),
            progress,
            reading: Reading::new(Consistency::Strong, Replica::Leader),
            next_reader: 0,
            orders,
            phase: Phase::Barrier,
            waiting: [VecDeque::new(), VecDeque::new()],
            barriers: VecDeque::new(),
            barriers_left: 0,
            outages: Vec::new(),
            opened: 0,
            started: 0,
            counter: 0,
            done: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The client, reading otherwise than linearizably at leaders.
    #[must_use]
    pub fn reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// The client; its writes differ from those of an earlier one of the same ledger.
    #[must_use]
    pub fn counting_from(self, counter: u64) -> Self {
        Self { counter, ..self }
    }

    /// Writes once to each of `groups` and waits until all have acknowledged: each has a leader then, and the client
    /// knows it. `false` if that took longer than `at_most`.
    pub fn barrier(&mut self, groups: impl IntoIterator<Item = u32>, at_most: Duration) -> bool {
        self.barriers.extend(groups);
        self.barriers_left = self.barriers.len();
        let deadline = (self.clock)() + at_most.as_nanos() as u64;
        while self.barriers_left > 0 {
            if self.turn() > deadline {
                self.barriers.clear();
                self.barriers_left = 0;
                return false;
            }
        }
        true
    }

    /// Runs the workload until [`Order::Finish`], then waits up to `at_most` for what is under way, and for the groups
    /// of dead nodes to take writes again.
    pub fn run(&mut self, at_most: Duration) {
        self.phase = Phase::Warm;
        self.opened = (self.clock)();
        while !matches!(self.phase, Phase::Finish { .. }) {
            self.turn();
        }
        let deadline = (self.clock)() + at_most.as_nanos() as u64;
        while self.slots.taken() > 0 && self.turn() < deadline {}
        self.tally.unfinished = self.slots.taken() as u64;
        for at in self.slots.matching(|slot| slot.stage != slots::Stage::Free) {
            self.give_up(at);
        }
        let outages = &self.outages;
        let unheard =
            outages.iter().flat_map(|outage| outage.groups.iter().enumerate().filter(|(_, out)| **out));
        let unheard: Vec<u32> = unheard.map(|(group, _)| group as u32).collect();
        self.barrier(unheard, at_most);
    }

    /// What was counted, and the ledger to check replicas against.
    #[must_use]
    pub fn into_results(self) -> (Tally, Subject) {
        (Tally { counter: self.counter, ..self.tally }, self.subject)
    }

    /// One pass: orders, retries, new operations, completions. Gives the time at its end.
    fn turn(&mut self) -> u64 {
        let now = (self.clock)();
        self.obey(now);
        self.retry_due(now);
        self.start_new(now);
        self.flush();
        if self.take() == 0 {
            let at_most = Duration::from_nanos(self.sleep_nanos(now));
            P::wait_any(&mut self.ports, at_most);
            self.take();
        }
        let now = (self.clock)();
        let mut done = std::mem::take(&mut self.done);
        for completion in done.drain(..) {
            self.complete(completion, now);
        }
        self.done = done;
        for node in 0..self.ports.len() {
            if self.ports[node].as_ref().is_some_and(|port| !port.is_open()) {
                self.lose(node, now);
            }
        }
        now
    }

    fn obey(&mut self, now: u64) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Measure => self.phase = Phase::Measure { from: now },
                Order::Finish => self.finish(now),
                Order::Killing(node, ready) => {
                    self.expect_outage(node, now);
                    // A receiver that no longer waits kills without knowing that this client does not measure it yet.
                    let _seen = ready.send(());
                }
                Order::Gone(node) => {
                    self.lose(node, now);
                    self.look_for_lost(node);
                }
                Order::Back(node, port) => {
                    self.ports[node] = Some(port);
                    self.outages
                        .iter_mut()
                        .filter(|outage| outage.node == node)
                        .for_each(|outage| outage.back = true);
                }
            }
        }
    }

    fn finish(&mut self, now: u64) {
        let from = match self.phase {
            Phase::Finish { .. } => return,
            Phase::Measure { from } => from,
            Phase::Barrier | Phase::Warm => now,
        };
        self.start_new(now);
        self.phase = Phase::Finish { from, until: now };
        self.tally.measured_nanos = now - from;
        if let Load::Open { per_second, .. } = self.load {
            let due = ((now - self.opened) as f64 * per_second / 1e9) as u64;
            let before = ((from - self.opened) as f64 * per_second / 1e9) as u64;
            self.tally.shortfall = due.saturating_sub(self.started.max(before));
        }
    }

    fn expect_outage(&mut self, node: usize, now: u64) {
        let mut groups = Vec::new();
        let mut left = 0;
        for group in self.routes.groups_of(node) {
            groups.resize(group as usize + 1, false);
            groups[group as usize] = true;
            left += 1;
        }
        let unavailable_nanos = (left == 0).then_some(0);
        self.tally.failovers.push(Failover {
            node,
            groups: left,
            unavailable_nanos,
            group_nanos: Vec::new(),
        });
        let number = self.tally.failovers.len() - 1;
        self.outages.push(Outage { node, at: now, groups, left, back: false, number });
    }

    /// A write to each of the groups that a node led, before anything else: chance would come upon the last of thousands
    /// seconds after it is back.
    fn look_for_lost(&mut self, node: usize) {
        for outage in self.outages.iter().filter(|outage| outage.node == node) {
            let lost = outage.groups.iter().enumerate().filter(|(_, out)| **out);
            self.barriers.extend(lost.map(|(group, _)| group as u32));
        }
        self.barriers_left = self.barriers_left.max(self.barriers.len());
    }

    /// How long there is nothing to do but wait for completions.
    fn sleep_nanos(&self, now: u64) -> u64 {
        let due = self.waiting.iter().filter_map(VecDeque::front).map(|(due, _)| *due).min();
        let retry = due.map_or(u64::MAX, |due| due.saturating_sub(now));
        let start = match self.load {
            Load::Open { .. } if self.is_issuing() && self.slots.has_free() => {
                self.next_start().saturating_sub(now)
            }
            _ => u64::MAX,
        };
        retry.min(start).min(SLEEP_NANOS_MAX)
    }

    const fn is_issuing(&self) -> bool {
        matches!(self.phase, Phase::Warm | Phase::Measure { .. })
    }

    /// Open loop: when the next operation should start.
    fn next_start(&self) -> u64 {
        match self.load {
            Load::Open { per_second, .. } => self.opened + (self.started as f64 * 1e9 / per_second) as u64,
            Load::Closed { .. } => 0,
        }
    }
}
