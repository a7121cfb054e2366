//! What a run found: one record, printed as a table for people or as one line of JSON for machines.
//!
//! `README.md` beside this crate describes each figure. Fields are only ever added.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::latency::LatencyUs;

/// The result of a `cluster` run.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "each field is described, as the JSON it becomes, in README.md")]
pub struct ClusterReport {
    pub nodes: usize,
    pub groups: u32,
    pub payload_bytes: usize,
    pub in_flight: u32,
    pub rate: Option<f64>,
    pub seconds: f64,
    pub state_machine: &'static str,
    pub workload: &'static str,
    pub keys: u32,
    pub reads_percent: u32,
    pub workers: usize,
    pub lanes: usize,
    pub processes: bool,
    pub sync: bool,
    pub append_mode: String,
    pub file_system: String,
    pub is_on_disk: bool,
    pub seed: u64,
    pub writes: u64,
    pub writes_per_second: f64,
    pub latency_us: Option<LatencyUs>,
    pub reads: u64,
    pub reads_per_second: f64,
    pub read_latency_us: Option<LatencyUs>,
    pub consistency: String,
    pub any_replica: bool,
    pub staleness_us: Option<LatencyUs>,
    pub cpu_us_per_write: Option<f64>,
    pub cpu_us_per_operation: Option<f64>,
    pub client_cpu_us_per_operation: Option<f64>,
    pub cpu_us_per_write_by_thread: Option<BTreeMap<String, f64>>,
    pub others_cores: Option<f64>,
    pub messages_sent: u64,
    pub message_bytes_sent: u64,
    pub checkpoints: u64,
    pub installs: u64,
    pub snapshot_bytes: u64,
    pub segments_recycled: u64,
    pub syncs: u64,
    pub bytes_per_sync: Option<f64>,
    pub raw_sync_us: BeforeAfter,
    pub resident_bytes: u64,
    pub retries: u64,
    pub unknown_outcomes: u64,
    pub shortfall: u64,
    pub acknowledged: u64,
    pub elections: u64,
    pub lost_acknowledged: u64,
    pub stale_reads: u64,
    pub replicas_agree: bool,
    pub failovers: Vec<FailoverReport>,
    pub power_cut: Option<PowerCutReport>,
    pub errors: Vec<String>,
}

/// A figure taken on both sides of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct BeforeAfter {
    pub before: f64,
    pub after: f64,
}

/// What the death of a node did.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct FailoverReport {
    pub node: u64,
    pub groups_led: u32,
    pub unavailable_ms: Option<f64>,
    pub unavailable_p50_ms: Option<f64>,
    pub unavailable_p99_ms: Option<f64>,
    pub caught_up_ms: Option<f64>,
}

/// What a power cut of all nodes took, and what was there afterwards.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct PowerCutReport {
    pub unsynced: &'static str,
    pub seed: u64,
    pub acknowledged_meanwhile: u64,
    pub under_way: u64,
    pub unsynced_bytes: u64,
    pub sectors_lost: u64,
    pub sectors_kept: u64,
    pub files: u64,
    pub names_lost: u64,
    pub names_kept: u64,
    pub writes_again_ms: Option<f64>,
    pub lost_acknowledged: u64,
    pub replicas_agree: bool,
}

impl PowerCutReport {
    fn is_good(&self) -> bool {
        self.lost_acknowledged == 0 && self.replicas_agree && self.writes_again_ms.is_some()
    }

    fn sentence(&self, nodes: usize, acknowledged: u64) -> String {
        let mut sentence = format!(
            "power cut: of all {nodes} nodes at one instant, {} writes under way; written and not synced were {} B in {} sectors",
            thousands(self.under_way as f64),
            thousands(self.unsynced_bytes as f64),
            thousands((self.sectors_lost + self.sectors_kept) as f64),
        );
        let (lost, kept) = (thousands(self.sectors_lost as f64), thousands(self.sectors_kept as f64));
        let _ = write!(
            sentence,
            " of {} files ({lost} lost, {kept} kept) and {} names ({} lost, {} kept)",
            self.files,
            self.names_lost + self.names_kept,
            self.names_lost,
            self.names_kept,
        );
        if self.unsynced == "torn" {
            let _ = write!(sentence, " (by seed {})", self.seed);
        }
        if self.unsynced == "lying" {
            sentence.push_str(
                "; the devices reported syncs that they had not done, which the verification is to notice",
            );
        }
        let again = match self.writes_again_ms {
            Some(ms) => format!("all groups took writes again after {ms:.0} ms"),
            None => "NOT ALL groups took writes again".to_owned(),
        };
        let _ = write!(
            sentence,
            "\nafter it: opened from what was left, {again}; of {} acknowledged writes {} were lost, {}",
            thousands(acknowledged as f64),
            self.lost_acknowledged,
            if self.replicas_agree { "all replicas are equal" } else { "REPLICAS DIFFER" },
        );
        sentence
    }
}

impl ClusterReport {
    /// Whether the run proves what it should: nothing lost, nothing stale, replicas equal, no errors.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let recovered = self.failovers.iter().all(|failover| failover.unavailable_ms.is_some());
        self.lost_acknowledged == 0
            && self.stale_reads == 0
            && self.replicas_agree
            && recovered
            && self.power_cut.as_ref().is_none_or(PowerCutReport::is_good)
            && self.errors.is_empty()
    }

    /// A node was killed, and nothing was synced: that its writes came back is the system's doing.
    fn unproven(&self) -> bool {
        !self.sync && !self.failovers.is_empty()
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a record of numbers and strings has a JSON form")
    }

    /// A table, and a sentence on what was verified.
    #[must_use]
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["figure", "value"]);
        for (name, value) in self.rows() {
            table.add_row([name, value]);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n{}", self.sentence())
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mut rows =
            vec![("cluster".into(), self.describe_cluster()), ("load".into(), self.describe_load())];
        let mut row = |name: &str, value: String| rows.push((name.into(), value));
        row("writes/s", thousands(self.writes_per_second));
        if let Some(latency) = &self.latency_us {
            row("write latency p50 / p90", format!("{} / {}", time(latency.p50), time(latency.p90)));
            row("p99 / p99.9", format!("{} / {}", time(latency.p99), time(latency.p999)));
            row("p99.99 / max", format!("{} / {}", time(latency.p9999), time(latency.max)));
        }
        if let Some(latency) = &self.read_latency_us {
            row("reads/s", thousands(self.reads_per_second));
            row("read latency p50 / p99", format!("{} / {}", time(latency.p50), time(latency.p99)));
            let place = if self.any_replica { "any replica" } else { "the leader" };
            row("reads' level, served by", format!("{}, {place}", self.consistency));
            let age = self.staleness_us.as_ref().filter(|_| self.any_replica);
            if let Some(age) = age {
                row("age where known p50 / max", format!("{} / {}", time(age.p50), time(age.max)));
            }
        }
        if let Some(cpu) = self.cpu_us_per_write {
            row("CPU per write, everything", format!("{cpu:.2} µs"));
        }
        if self.reads > 0
            && let Some(cpu) = self.cpu_us_per_operation
        {
            row("CPU per operation, everything", format!("{cpu:.2} µs"));
        }
        if let Some(cpu) = self.client_cpu_us_per_operation {
            row("of which the client's thread", format!("{cpu:.2} µs"));
        }
        if let Some(cores) = self.others_cores {
            row("CPU of other processes", format!("{cores:.2} cores"));
        }
        if let Some(bytes) = self.bytes_per_sync {
            row(
                "bytes per sync",
                format!(
                    "{} ({} syncs, {}, {})",
                    thousands(bytes),
                    self.syncs,
                    self.append_mode,
                    self.file_system
                ),
            );
        }
        if self.checkpoints > 0 || self.segments_recycled > 0 {
            let (made, recycled) = (self.checkpoints, self.segments_recycled);
            row("checkpoints / recycled segments", format!("{made} / {recycled}"));
        }
        if self.installs > 0 {
            let value = format!("{} of {} MiB in all", self.installs, self.snapshot_bytes >> 20);
            row("snapshots installed", value);
        }
        let raw = self.raw_sync_us;
        row("raw 4 KiB sync before / after", format!("{} / {}", time(raw.before), time(raw.after)));
        row("memory", format!("{} MiB", self.resident_bytes >> 20));
        if self.shortfall > 0 {
            row("behind the rate", format!("{} operations never started", thousands(self.shortfall as f64)));
        }
        for failover in &self.failovers {
            let ms = |ms: Option<f64>| ms.map_or("never".into(), |ms| format!("{ms:.0} ms"));
            let name = format!("n{} killed, led {} groups", failover.node, failover.groups_led);
            let value = format!("no writes for {}", ms(failover.unavailable_ms));
            row(&name, format!("{value}; caught up in {}", ms(failover.caught_up_ms)));
        }
        rows
    }

    fn describe_cluster(&self) -> String {
        let place = if self.processes { "processes" } else { "nodes in one process" };
        let sync = if self.sync { "synced" } else { "not synced" };
        format!("{} {place}, {} groups, {}, {sync}, TLS", self.nodes, self.groups, self.state_machine)
    }

    fn describe_load(&self) -> String {
        let load = match self.rate {
            Some(rate) => format!("{} operations/s", thousands(rate)),
            None => format!("{} in flight", thousands(f64::from(self.in_flight))),
        };
        format!("{} B, {load}, {}, {:.1} s", self.payload_bytes, self.workload, self.seconds)
    }

    fn sentence(&self) -> String {
        let verdict = match (self.is_good(), self.unproven()) {
            (false, _) => "FAILED",
            (true, false) => "verified",
            (true, true) => "NOT PROVEN",
        };
        let agree = if self.replicas_agree { "all replicas are equal" } else { "REPLICAS DIFFER" };
        let mut sentence = format!(
            "{verdict}: of {} acknowledged writes {} were lost, {agree}, {} of unknown outcome, {} stale reads",
            thousands(self.acknowledged as f64),
            self.lost_acknowledged,
            self.unknown_outcomes,
            self.stale_reads,
        );
        sentence.push_str(match self.state_machine {
            "hash" => "\nproven: every acknowledged write was applied once at every node, by sums of all of them",
            _ => "\nproven: every acknowledged write was applied once at every node, by sums of all of them; each key shows its last one",
        });
        sentence.push_str(match &self.power_cut {
            None => ", while the machine ran; not what a power cut leaves",
            Some(_) if self.is_good() => ", while the machine ran and from what a power cut leaves",
            Some(_) => ", while the machine ran; not after the power cut",
        });
        if let Some(power_cut) = &self.power_cut {
            sentence.push('\n');
            sentence.push_str(&power_cut.sentence(self.nodes, self.acknowledged));
            sentence.push_str("\nfigures with a second copy of all writes, by the models of the devices: they compare to nothing else");
        }
        if !self.is_on_disk {
            let _ = write!(sentence, "\nnot on a disk of this machine: {}", self.file_system);
        }
        if self.unproven() {
            sentence.push_str("\nnot proven: a node was killed without syncs, and what the system keeps for a killed process no disk need have");
        }
        for error in &self.errors {
            sentence.push_str("\nerror: ");
            sentence.push_str(error);
        }
        sentence
    }
}

/// Microseconds in a unit that reads well.
pub(crate) fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1_000.0),
        us => format!("{:.2} s", us / 1_000_000.0),
    }
}

/// A whole number with separators.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report() -> ClusterReport {
        let latency = LatencyUs { p50: 250.0, p90: 400.0, p99: 1500.0, p999: 2500.0, p9999: 3e6, max: 4e6 };
        ClusterReport {
            nodes: 3,
            groups: 48,
            payload_bytes: 16,
            in_flight: 4096,
            rate: None,
            seconds: 10.0,
            state_machine: "kv",
            workload: "uniform",
            keys: 100_000,
            reads_percent: 0,
            workers: 1,
            lanes: 1,
            processes: false,
            sync: true,
            append_mode: "direct".into(),
            file_system: "ext4".into(),
            is_on_disk: true,
            seed: 1,
            writes: 1_234_567,
            writes_per_second: 123_456.7,
            latency_us: Some(latency),
            reads: 0,
            reads_per_second: 0.0,
            read_latency_us: None,
            consistency: "strong".into(),
            any_replica: false,
            staleness_us: None,
            cpu_us_per_write: Some(3.25),
            cpu_us_per_operation: Some(3.25),
            client_cpu_us_per_operation: Some(0.25),
            cpu_us_per_write_by_thread: Some(BTreeMap::from([("worker".into(), 1.5), ("net".into(), 0.5)])),
            others_cores: Some(0.5),
            messages_sent: 12_345,
            message_bytes_sent: 50_000_000,
            checkpoints: 7,
            installs: 2,
            snapshot_bytes: 5 << 20,
            segments_recycled: 5,
            syncs: 9,
            bytes_per_sync: Some(8192.0),
            raw_sync_us: BeforeAfter { before: 55.0, after: 4000.0 },
            resident_bytes: 100 << 20,
            retries: 0,
            unknown_outcomes: 0,
            shortfall: 0,
            acknowledged: 1_300_000,
            lost_acknowledged: 0,
            stale_reads: 0,
            replicas_agree: true,
            elections: 3,
            failovers: Vec::new(),
            power_cut: None,
            errors: Vec::new(),
        }
    }

    fn power_cut() -> PowerCutReport {
        PowerCutReport {
            unsynced: "torn",
            seed: 7,
            acknowledged_meanwhile: 65_432,
            under_way: 4096,
            unsynced_bytes: 98_765,
            sectors_lost: 150,
            sectors_kept: 50,
            files: 6,
            names_lost: 1,
            names_kept: 2,
            writes_again_ms: Some(812.3),
            lost_acknowledged: 0,
            replicas_agree: true,
        }
    }

    #[test]
    fn power_cut_is_told_in_words_and_in_json() {
        let report = ClusterReport { power_cut: Some(power_cut()), ..report() };
        assert!(report.is_good());
        let table = report.to_table();
        for part in [
            "98,765 B in 200 sectors of 6 files (150 lost, 50 kept) and 3 names (1 lost, 2 kept)",
            "(by seed 7)",
            "812 ms",
        ] {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
        assert!(!table.contains("not what a power cut leaves"));
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(value["power_cut"]["sectors_lost"], 150);
    }

    #[test]
    fn the_json_is_one_line_with_the_promised_names() {
        let json = report().to_json();
        assert_eq!(json.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        for name in
            ["nodes", "groups", "payload_bytes", "in_flight", "seconds", "writes", "writes_per_second"]
        {
            assert!(value[name].is_number(), "{name}");
        }
        for name in ["p50", "p90", "p99", "p999", "p9999", "max"] {
            assert!(value["latency_us"][name].is_number(), "{name}");
        }
        for name in [
            "cpu_us_per_write",
            "syncs",
            "bytes_per_sync",
            "lost_acknowledged",
            "resident_bytes",
            "checkpoints",
        ] {
            assert!(value[name].is_number(), "{name}");
        }
        assert!(value["raw_sync_us"]["before"].is_number() && value["raw_sync_us"]["after"].is_number());
        assert!(value["replicas_agree"].is_boolean() && value["failovers"].is_array());
    }

    #[test]
    fn the_table_says_what_was_measured_and_proven() {
        let table = report().to_table();
        for part in
            ["123,457", "250 µs", "1.50 ms", "3.00 s", "3.25 µs", "verified", "all replicas are equal"]
        {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
    }

    #[test]
    fn any_loss_makes_a_run_bad() {
        assert!(report().is_good());
        let failover = FailoverReport {
            node: 1,
            groups_led: 3,
            unavailable_ms: None,
            unavailable_p50_ms: None,
            unavailable_p99_ms: None,
            caught_up_ms: None,
        };
        let bad = [
            ClusterReport { lost_acknowledged: 1, ..report() },
            ClusterReport { stale_reads: 1, ..report() },
            ClusterReport { replicas_agree: false, ..report() },
            ClusterReport { failovers: vec![failover], ..report() },
            ClusterReport { errors: vec!["x".into()], ..report() },
            ClusterReport {
                power_cut: Some(PowerCutReport { lost_acknowledged: 1, ..power_cut() }),
                ..report()
            },
            ClusterReport {
                power_cut: Some(PowerCutReport { writes_again_ms: None, ..power_cut() }),
                ..report()
            },
        ];
        assert!(bad.iter().all(|report| !report.is_good() && report.to_table().contains("FAILED")));
    }
}
