//! The state machines of one replica, alone: payloads of the row's own workload, applied in batches. IMPURE: clock.

use std::time::{Duration, Instant};

use raftwerk::kv::KvMachine;
use raftwerk::{Caller, Committed, CommittedEntry, Index, Replies, StateMachine};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ROUNDS;
use crate::cli::ClusterOptions;
use crate::client::Load;
use crate::hash_machine::HashMachine;
use crate::ledger::{MachineKind, Subject, Write};
use crate::summed::Summed;
use crate::usage::thread_cpu_nanos;
use crate::workload::{KeyNumber, Workload};

/// In a round, so much CPU time is spent on applying, or so much time on everything.
const APPLY_FOR: Duration = Duration::from_millis(35);
const PATIENCE: Duration = Duration::from_millis(700);
/// Entries of a batch, and their bytes.
const BATCH_MIN: usize = 256;
const BATCH_MAX: usize = 25_000;
const BATCH_BYTES_MAX: usize = 16 << 20;
const QUERIES: usize = 20_000;

/// What a state machine takes for an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::suite) struct ApplyCost {
    pub(in crate::suite) state_machine: String,
    pub(in crate::suite) groups: u32,
    pub(in crate::suite) payload_bytes: usize,
    pub(in crate::suite) keys: u32,
    /// One entry at one replica.
    pub(in crate::suite) entry_ns: f64,
    /// One query of a key, where there are any.
    pub(in crate::suite) query_ns: Option<f64>,
}

impl ApplyCost {
    /// Whether it is that of a row with these options.
    pub(in crate::suite) fn is_of(&self, row: &ClusterOptions) -> bool {
        let Self { state_machine, groups, payload_bytes, keys, .. } = self;
        (state_machine.as_str(), *groups, *payload_bytes, *keys)
            == (row.state_machine.name(), row.groups, row.payload, row.keys)
    }

    /// The same, by a row's report.
    pub(in crate::suite) fn is_of_report(&self, report: &Value) -> bool {
        report["state_machine"] == self.state_machine.as_str()
            && report["groups"] == self.groups
            && report["payload_bytes"] == self.payload_bytes
            && report["keys"] == self.keys
    }

    /// Measures one replica of every group of a row.
    pub(in crate::suite) fn measure(row: &ClusterOptions) -> Self {
        let mut replica = Replica::new(row);
        replica.write_everywhere(row);
        let wanted = match row.load() {
            Load::Closed { in_flight } => in_flight as usize,
            Load::Open { per_second, .. } => (per_second / 1000.0) as usize,
        };
        let entries = wanted.clamp(BATCH_MIN, BATCH_MAX).min(BATCH_BYTES_MAX / row.payload);
        let mut workload = Workload::new(row.workload, row.keys, 0, row.seed);
        let mut entry_ns = f64::INFINITY;
        for _ in 0..ROUNDS {
            let (started, mut nanos, mut applied) = (Instant::now(), 0, 0u64);
            while nanos < APPLY_FOR.as_nanos() as u64 && (applied == 0 || started.elapsed() < PATIENCE) {
                nanos += replica.apply_batch(&mut workload, entries, row.payload);
                applied += entries as u64;
            }
            entry_ns = entry_ns.min(nanos as f64 / applied as f64);
        }
        Self {
            state_machine: row.state_machine.name().to_owned(),
            groups: row.groups,
            payload_bytes: row.payload,
            keys: row.keys,
            entry_ns,
            query_ns: (row.state_machine == MachineKind::Kv).then(|| replica.query_nanos(&mut workload)),
        }
    }
}

/// The machines of all groups on one node, and what they are given.
struct Replica {
    machines: Vec<Box<dyn StateMachine>>,
    subject: Subject,
    replies: Replies,
    counter: u64,
}

impl Replica {
    fn new(row: &ClusterOptions) -> Self {
        let make = |_| -> Box<dyn StateMachine> {
            match row.state_machine {
                MachineKind::Kv => Box::new(Summed::<KvMachine>::default()),
                MachineKind::Hash => Box::new(HashMachine::default()),
            }
        };
        let subject = Subject::new(row.state_machine, row.groups, row.keys, row.payload);
        let replies = Replies::new(Caller::Absent);
        Self { machines: (0..row.groups).map(make).collect(), subject, replies, counter: 0 }
    }

    /// Every group and every key of a map has been written when the load is measured.
    fn write_everywhere(&mut self, row: &ClusterOptions) {
        let count = match row.state_machine {
            MachineKind::Kv => row.keys,
            MachineKind::Hash => row.groups,
        };
        for number in 0..count {
            self.counter += 1;
            let key = KeyNumber(number);
            let group = match row.state_machine {
                MachineKind::Kv => self.subject.group_of(key),
                MachineKind::Hash => number,
            };
            let payload = self.subject.payload(&Write { group, key, counter: self.counter });
            apply(&mut self.machines[group as usize], self.counter, payload, &mut self.replies);
        }
    }

    /// The CPU time of a batch, which is made before: group by group, as a node applies what has been committed.
    fn apply_batch(&mut self, workload: &mut Workload, entries: usize, payload_bytes: usize) -> u64 {
        let mut writes: Vec<Write> = Vec::with_capacity(entries);
        for _ in 0..entries {
            let (_, key) = workload.draw();
            self.counter += 1;
            writes.push(Write { group: self.subject.group_of(key), key, counter: self.counter });
        }
        writes.sort_by_key(|write| write.group);
        let mut payloads = Vec::with_capacity(entries * payload_bytes);
        for write in &writes {
            payloads.extend_from_slice(self.subject.payload(write));
        }
        let first = self.counter;
        let before = thread_cpu_nanos();
        for (at, (write, payload)) in writes.iter().zip(payloads.chunks_exact(payload_bytes)).enumerate() {
            let machine = &mut self.machines[write.group as usize];
            apply(machine, first + at as u64, payload, &mut self.replies);
        }
        self.counter += entries as u64;
        thread_cpu_nanos() - before
    }

    /// The mean time of a query of a key.
    fn query_nanos(&mut self, workload: &mut Workload) -> f64 {
        let queries: Vec<(u32, Vec<u8>)> = (0..QUERIES)
            .map(|_| {
                let (_, key) = workload.draw();
                (self.subject.group_of(key), self.subject.query(key).to_vec())
            })
            .collect();
        let before = thread_cpu_nanos();
        for (group, query) in &queries {
            std::hint::black_box(self.machines[*group as usize].query(query));
        }
        (thread_cpu_nanos() - before) as f64 / QUERIES as f64
    }
}

fn apply(machine: &mut Box<dyn StateMachine>, index: u64, payload: &[u8], replies: &mut Replies) {
    machine.apply(Committed::one(CommittedEntry { index: Index(index), payload }), replies);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::SuiteOptions;
    use crate::suite::rows::chosen;

    #[test]
    fn cost_is_known_by_its_row_and_by_the_report_of_it() {
        let only = vec!["kv-16k".to_owned()];
        let rows = chosen(&SuiteOptions { only, ..SuiteOptions::default() }).unwrap();
        let row = ClusterOptions { keys: 100, ..rows[0].options().unwrap() };
        let cost = ApplyCost::measure(&row);
        assert!(cost.entry_ns > 0.0 && cost.query_ns.unwrap() > 0.0, "{cost:?}");
        assert!(cost.is_of(&row) && !cost.is_of(&ClusterOptions { keys: 99, ..row }));
        let report =
            serde_json::json!({"state_machine": "kv", "groups": 48, "payload_bytes": 16_384, "keys": 100});
        assert!(cost.is_of_report(&report));
    }
}
