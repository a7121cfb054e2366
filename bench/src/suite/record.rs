//! What a run of the suite found, as it is kept: one JSON object. Fields are only ever added.
//!
//! What is not here: how it is shown (`table.rs`, `page.rs`), or compared (`compare.rs`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parts::{Parts, PartsUs};
use super::rows::Row;
use crate::report::BeforeAfter;

/// The version of the object's form.
pub(super) const FORMAT: u32 = 1;
/// A row is noisy if other processes used more than this meanwhile, in cores.
pub(super) const NOISY_CORES: f64 = 0.2;

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SuiteReport {
    /// [`FORMAT`].
    pub(super) suite: u32,
    pub(super) header: Header,
    pub(super) parts: Parts,
    /// In the order in which they ran.
    pub(super) rows: Vec<RowReport>,
}

/// Where and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) date: String,
    /// Of the checkout, when the suite ran; `unknown` without one.
    pub(super) commit: String,
    pub(super) version: String,
    pub(super) build: String,
    pub(super) quick: bool,
    pub(super) cores: usize,
    pub(super) cpu_model: String,
    pub(super) kernel: String,
    pub(super) memory_bytes: u64,
    pub(super) file_system: String,
    pub(super) is_on_disk: bool,
    pub(super) raw_sync_us: BeforeAfter,
    pub(super) seconds_in_all: f64,
}

/// One row. What is `None` was not measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RowReport {
    pub(super) name: String,
    /// Options of `cluster`.
    pub(super) options: String,
    /// Why there are no figures.
    pub(super) error: Option<String>,
    /// Whether `cluster` has proved that nothing acknowledged was lost, and that replicas agree.
    pub(super) is_verified: bool,
    pub(super) is_noisy: bool,
    /// What other processes used of the processors in the measured time, in cores.
    pub(super) others_cores: Option<f64>,
    pub(super) operations_per_second: Option<f64>,
    pub(super) cpu_us_per_operation: Option<f64>,
    /// Latencies of reads where most operations are reads, otherwise of writes.
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) p999_us: Option<f64>,
    pub(super) parts_us: Option<PartsUs>,
    /// The sum of the parts over the CPU time of an operation.
    pub(super) efficiency: Option<f64>,
    /// All that `cluster --json` reports.
    pub(super) report: Option<Value>,
}

impl RowReport {
    /// A row that ran to its end.
    pub(super) fn of(row: &Row, is_verified: bool, report: Value, parts: &Parts) -> Self {
        let number = |of: &Value| of.as_f64();
        let reads = report["reads"].as_f64().unwrap_or(0.0);
        let is_reading = reads > report["writes"].as_f64().unwrap_or(0.0);
        let latency = &report[if is_reading { "read_latency_us" } else { "latency_us" }];
        let rate = |of: &str| report[of].as_f64().unwrap_or(0.0);
        let cpu = number(&report["cpu_us_per_operation"]);
        let parts_us = PartsUs::of(&report, parts);
        let others_cores = number(&report["others_cores"]);
        Self {
            name: row.name.clone(),
            options: row.words.clone(),
            error: None,
            is_verified,
            is_noisy: others_cores.is_none_or(|cores| cores > NOISY_CORES),
            others_cores,
            operations_per_second: Some(rate("writes_per_second") + rate("reads_per_second")),
            cpu_us_per_operation: cpu,
            p50_us: number(&latency["p50"]),
            p99_us: number(&latency["p99"]),
            p999_us: number(&latency["p999"]),
            efficiency: parts_us.and_then(|parts| efficiency(parts.sum, cpu?)),
            parts_us,
            report: Some(report),
        }
    }

    /// A row that gave no figures.
    pub(super) fn failed(row: &Row, error: String) -> Self {
        Self {
            name: row.name.clone(),
            options: row.words.clone(),
            error: Some(error),
            is_verified: false,
            is_noisy: false,
            others_cores: None,
            operations_per_second: None,
            cpu_us_per_operation: None,
            p50_us: None,
            p99_us: None,
            p999_us: None,
            parts_us: None,
            efficiency: None,
            report: None,
        }
    }

    /// A figure of the nested report.
    pub(super) fn figure(&self, name: &str) -> Option<f64> {
        self.report.as_ref()?[name].as_f64()
    }
}

impl SuiteReport {
    /// Whether every row ran and was verified.
    pub(super) fn is_good(&self) -> bool {
        self.rows.iter().all(|row| row.is_verified)
    }

    /// As they are shown: what is not verified first, then the least efficient.
    pub(super) fn worst_first(&self) -> Vec<&RowReport> {
        let mut rows: Vec<&RowReport> = self.rows.iter().collect();
        let rank = |row: &RowReport| row.efficiency.unwrap_or(f64::INFINITY);
        rows.sort_by(|a, b| a.is_verified.cmp(&b.is_verified).then(rank(a).total_cmp(&rank(b))));
        rows
    }

    /// The row of this name.
    pub(super) fn row(&self, name: &str) -> Option<&RowReport> {
        self.rows.iter().find(|row| row.name == name)
    }
}

/// The share of `cpu_us` that the parts account for; `None` if there is no such time.
pub(super) fn efficiency(parts_us: f64, cpu_us: f64) -> Option<f64> {
    (cpu_us > 0.0 && parts_us.is_finite()).then(|| parts_us / cpu_us)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::suite) fn row(name: &str, rate: f64, cpu: f64) -> RowReport {
        let row = Row { name: name.to_owned(), words: "--in-flight 4096".to_owned(), seconds: 2.0 };
        let mut report: Value = serde_json::from_str(&crate::report::tests::report().to_json()).unwrap();
        (report["writes_per_second"], report["cpu_us_per_operation"]) = (rate.into(), cpu.into());
        RowReport::of(&row, true, report, &super::super::parts::tests::parts())
    }

    pub(in crate::suite) fn report(rows: Vec<RowReport>) -> SuiteReport {
        let header = Header {
            date: "2026-01-02T03:04:05Z".into(),
            commit: "0123456789ab".into(),
            version: "0.1.0".into(),
            build: "optimised".into(),
            quick: true,
            cores: 2,
            cpu_model: "a <fast> one & so on".into(),
            kernel: "6.1".into(),
            memory_bytes: 8 << 30,
            file_system: "ext4".into(),
            is_on_disk: true,
            raw_sync_us: BeforeAfter { before: 100.0, after: 120.0 },
            seconds_in_all: 170.0,
        };
        SuiteReport { suite: FORMAT, header, parts: super::super::parts::tests::parts(), rows }
    }

    #[test]
    fn report_survives_json() {
        let failed = RowReport::failed(
            &Row { name: "one".into(), words: String::new(), seconds: 1.0 },
            "no disk".into(),
        );
        let report = report(vec![row("kv-16", 1e5, 4.0), failed]);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(json.lines().count(), 1);
        assert_eq!(serde_json::from_str::<SuiteReport>(&json).unwrap(), report);
    }

    #[test]
    fn row_takes_its_figures_from_the_cluster_report() {
        let row = row("kv-16", 2e5, 4.0);
        assert_eq!(
            (row.operations_per_second, row.p50_us, row.p999_us),
            (Some(2e5), Some(250.0), Some(2500.0))
        );
        assert_eq!(row.efficiency, Some(row.parts_us.unwrap().sum / 4.0));
        assert_eq!((row.others_cores, row.is_noisy), (Some(0.5), true));
        assert_eq!(row.figure("payload_bytes"), Some(16.0));
    }

    #[test]
    fn efficiency_is_parts_over_cpu_and_nothing_without_cpu() {
        assert_eq!(efficiency(1.0, 4.0), Some(0.25));
        assert_eq!(efficiency(6.0, 4.0), Some(1.5));
        assert_eq!(efficiency(1.0, 0.0), None);
        assert_eq!(efficiency(f64::NAN, 4.0), None);
    }

    #[test]
    fn failed_rows_come_first_then_the_least_efficient() {
        let failed = RowReport::failed(
            &Row { name: "x".into(), words: String::new(), seconds: 1.0 },
            "no disk".into(),
        );
        let unverified = RowReport { is_verified: false, ..row("lost", 1e5, 1.0) };
        let report = report(vec![row("good", 1e5, 2.0), row("bad", 1e5, 9.0), failed, unverified]);
        let names: Vec<_> = report.worst_first().iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["lost", "x", "bad", "good"]);
        assert!(!report.is_good());
    }
}
