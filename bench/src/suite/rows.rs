//! The canonical rows: names, options of `cluster`, and how long each is measured.
//!
//! Figures are compared only within one row. `README.md` beside this crate describes them; this list is the one that counts.

use clap::Parser;

use super::SuiteOptions;
use crate::cli::{Cli, ClusterOptions, Command};

/// Seconds that a row is measured, by default and with `--quick`.
const SECONDS: f64 = 8.0;
const QUICK_SECONDS: f64 = 2.0;
/// A node that is killed after 3 s is back for some time.
const FAILOVER_SECONDS_MIN: f64 = 8.0;

/// Whether a row is in the short run, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    NotQuick,
}

/// Name, when it runs, options.
const ROWS: [(&str, When, &str); 20] = [
    ("kv-16", When::Always, ""),
    ("hash-16-25k", When::Always, "--state-machine hash --in-flight 25000"),
    ("hash-16-768", When::Always, "--state-machine hash --in-flight 768"),
    ("one", When::Always, "--in-flight 1"),
    ("hash-128", When::Always, "--state-machine hash --payload 128"),
    ("kv-128", When::Always, "--payload 128"),
    ("hash-1k", When::Always, "--state-machine hash --payload 1024"),
    ("kv-1k", When::Always, "--payload 1024"),
    ("hash-16k", When::Always, "--state-machine hash --payload 16384 --in-flight 1024"),
    ("kv-16k", When::Always, "--payload 16384 --in-flight 1024 --keys 1500"),
    ("groups-1", When::Always, "--groups 1 --state-machine hash --in-flight 25000"),
    ("groups-1000", When::Always, "--groups 1000 --state-machine hash --in-flight 25000"),
    ("groups-10000", When::Always, "--groups 10000 --state-machine hash --in-flight 25000"),
    ("groups-100000", When::NotQuick, "--groups 100000 --state-machine hash --in-flight 25000"),
    ("open-200k", When::Always, "--rate 200000"),
    ("open-50k-1k", When::Always, "--rate 50000 --payload 1024"),
    ("reads-90", When::Always, "--reads 90"),
    ("reads-90-768", When::Always, "--reads 90 --in-flight 768"),
    ("failover", When::NotQuick, FAILOVER),
    ("failover-10k", When::NotQuick, "--processes --kill-leader-after 3s --rate 10000"),
];
const FAILOVER: &str = "--processes --kill-leader-after 3s";

/// The row whose rate in a closed loop the sweep of rates takes its shares of.
pub(super) const BASE: &str = "kv-16";
/// Shares of that rate in percent.
const SHARES: [u32; 4] = [25, 50, 75, 90];
const QUICK_SHARES: [u32; 2] = [50, 90];
/// How the names of the sweep's rows begin.
pub(super) const SWEEP: &str = "load-";

/// One run of `cluster`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    /// As on the command line, without those that every row has.
    pub(super) words: String,
    pub(super) seconds: f64,
}

impl Row {
    fn new(name: &str, words: &str, options: &SuiteOptions) -> Self {
        let default = if options.quick { QUICK_SECONDS } else { SECONDS };
        let seconds = options.seconds.unwrap_or(default);
        let least = if words.contains("--kill-leader-after") { FAILOVER_SECONDS_MIN } else { 0.0 };
        Self { name: name.to_owned(), words: words.to_owned(), seconds: seconds.max(least) }
    }

    /// The arguments of the process that runs it.
    pub(super) fn arguments(&self) -> Vec<String> {
        let own = self.words.split_whitespace().map(str::to_owned);
        let all = ["--seconds".to_owned(), self.seconds.to_string(), "--json".to_owned()];
        ["cluster".to_owned()].into_iter().chain(own).chain(all).collect()
    }

    /// The same, read and checked.
    ///
    /// # Errors
    /// Options that make no run.
    pub(super) fn options(&self) -> Result<ClusterOptions, String> {
        let words = ["raftwerk-bench".to_owned()].into_iter().chain(self.arguments());
        let sentence = |why: String| format!("row {}: {why}", self.name);
        match Cli::try_parse_from(words).map_err(|error| sentence(error.to_string()))?.command {
            Command::Cluster(options) => {
                options.check().map_err(|error| sentence(error.to_string()))?;
                Ok(options)
            }
            _ => unreachable!("the first argument is `cluster`"),
        }
    }
}

/// The rows that the options ask for, in the order of the list.
///
/// # Errors
/// A name that no row has, or seconds that make no run.
pub(super) fn chosen(options: &SuiteOptions) -> Result<Vec<Row>, String> {
    if let Some(unknown) = options.only.iter().find(|name| !ROWS.iter().any(|(row, ..)| row == name)) {
        let names: Vec<&str> = ROWS.iter().map(|(name, ..)| *name).collect();
        return Err(format!("there is no row `{unknown}`; the rows are {}", names.join(", ")));
    }
    let is_chosen = |name: &str, when: When| match options.only.is_empty() {
        true => when == When::Always || !options.quick,
        false => options.only.iter().any(|only| only == name),
    };
    let rows = ROWS.iter().filter(|(name, when, _)| is_chosen(name, *when));
    let rows: Vec<Row> = rows.map(|(name, _, words)| Row::new(name, words, options)).collect();
    rows.iter().try_for_each(|row| row.options().map(drop))?;
    Ok(rows)
}

/// How many rows of the sweep follow the others: none if only some rows are asked for.
pub(super) fn sweep_len(options: &SuiteOptions) -> usize {
    if options.only.is_empty() { shares(options).len() } else { 0 }
}

/// Rows at shares of the rate that the closed loop reached.
pub(super) fn sweep(options: &SuiteOptions, closed_loop: f64) -> Vec<Row> {
    let rates =
        shares(options).iter().map(|share| (share, (closed_loop * f64::from(*share) / 100.0).round()));
    rates
        .take(sweep_len(options))
        .filter(|(_, rate)| *rate >= 1.0)
        .map(|(share, rate)| Row::new(&format!("{SWEEP}{share}"), &format!("--rate {rate}"), options))
        .collect()
}

fn shares(options: &SuiteOptions) -> &'static [u32] {
    if options.quick { &QUICK_SHARES } else { &SHARES }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Load;
    use crate::ledger::MachineKind;

    #[test]
    fn every_row_is_a_valid_cluster_with_a_name_of_its_own() {
        let rows = chosen(&SuiteOptions::default()).unwrap();
        assert_eq!(rows.len(), ROWS.len());
        for (at, row) in rows.iter().enumerate() {
            let options = row.options().unwrap();
            assert_eq!(
                (options.nodes, options.seconds, options.json),
                (3, row.seconds, true),
                "{}",
                row.name
            );
            assert!(rows[..at].iter().all(|other| other.name != row.name && other.words != row.words));
        }
    }

    #[test]
    fn names_mean_what_the_options_do() {
        let of = |name: &str| {
            let only = vec![name.to_owned()];
            chosen(&SuiteOptions { only, ..SuiteOptions::default() }).unwrap()[0].options().unwrap()
        };
        assert_eq!(of("hash-16-25k").load(), Load::Closed { in_flight: 25_000 });
        assert_eq!((of("kv-16k").payload, of("kv-16k").keys), (16_384, 1500));
        assert_eq!(
            (of("groups-10000").groups, of("groups-10000").state_machine),
            (10_000, MachineKind::Hash)
        );
        assert_eq!((of("open-50k-1k").rate, of("open-50k-1k").payload), (Some(50_000.0), 1024));
        assert_eq!((of("reads-90").reads, of("one").in_flight), (90, 1));
        assert!(of("failover").processes && of("failover").strike().is_some());
    }

    #[test]
    fn quick_leaves_out_what_takes_long_and_only_brings_it_back() {
        let quick = SuiteOptions { quick: true, ..SuiteOptions::default() };
        let rows = chosen(&quick).unwrap();
        assert!(rows.iter().all(|row| row.name != "groups-100000" && row.seconds == QUICK_SECONDS));
        let only = vec!["failover".to_owned(), "one".to_owned()];
        let rows = chosen(&SuiteOptions { only, seconds: Some(1.0), ..quick }).unwrap();
        let names: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.seconds)).collect();
        assert_eq!(names, [("one", 1.0), ("failover", FAILOVER_SECONDS_MIN)]);
    }

    #[test]
    fn unknown_names_and_seconds_out_of_bounds_are_refused() {
        let only = vec!["kv-17".to_owned()];
        let error = chosen(&SuiteOptions { only, ..SuiteOptions::default() }).unwrap_err();
        assert!(error.contains("kv-17") && error.contains("groups-1000"), "{error}");
        let error = chosen(&SuiteOptions { seconds: Some(0.0), ..SuiteOptions::default() }).unwrap_err();
        assert!(error.contains("--seconds"), "{error}");
    }

    #[test]
    fn sweep_takes_shares_of_a_measured_rate() {
        let quick = SuiteOptions { quick: true, ..SuiteOptions::default() };
        let rows = sweep(&quick, 1001.0);
        let rates: Vec<_> = rows.iter().map(|row| row.options().unwrap().rate).collect();
        assert_eq!(rates, [Some(501.0), Some(901.0)]);
        assert_eq!(sweep(&SuiteOptions::default(), 1e6).len(), 4);
        assert_eq!(sweep(&quick, 0.0), []);
        assert_eq!(sweep(&SuiteOptions { only: vec!["one".into()], ..quick }, 1001.0), []);
    }
}
