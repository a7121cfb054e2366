//! Two runs beside each other: ratios, and which of them are changes. IMPURE: reads a file.
//!
//! The rule. A figure has changed only if both rows are quiet, ran with the same options for as long on the same kind of
//! machine and build, and the figures differ by more than [`NOISE`]. Rates and latencies count only if, besides, raw
//! synced writes took about as long in both runs; CPU time does not depend on that.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use super::record::{FORMAT, RowReport, SuiteReport};
use super::rows::SWEEP;

/// Ratios up to one plus this, and down to its inverse, are noise: the same run differs by as much.
const NOISE: f64 = 0.15;
/// Raw synced writes that differ by more make rates and latencies of two runs differ.
const DISK_NOISE: f64 = 0.5;

/// Reads what `suite --json` printed: alone, or as the last line of all output.
///
/// # Errors
/// A sentence: there is no such file, or it is something else.
pub(super) fn load(path: &Path) -> Result<SuiteReport, String> {
    let sentence = |why: String| format!("--compare {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| sentence(error.to_string()))?;
    read(&text).map_err(sentence)
}

fn read(text: &str) -> Result<SuiteReport, String> {
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).ok_or("the file is empty")?;
    let value = serde_json::from_str::<Value>(text).or_else(|_| serde_json::from_str(last));
    let value = value.map_err(|error| format!("not JSON, or cut off: {error}"))?;
    match value["suite"].as_u64() {
        Some(version) if version == u64::from(FORMAT) => {}
        Some(version) => return Err(format!("of form {version}; this version reads form {FORMAT}")),
        None => return Err("not the JSON of `raftwerk-bench suite`".to_owned()),
    }
    serde_json::from_value(value).map_err(|error| format!("damaged, or of another version: {error}"))
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Better,
    Worse,
    /// Within the noise, or not to be judged.
    Noise,
}

/// Whether more of a figure is better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    More,
    Less,
}

fn verdict(ratio: f64, wanted: Wanted) -> Verdict {
    if !ratio.is_finite() || (1.0 / (1.0 + NOISE)..=1.0 + NOISE).contains(&ratio) {
        return Verdict::Noise;
    }
    if (ratio > 1.0) == (wanted == Wanted::More) { Verdict::Better } else { Verdict::Worse }
}

/// The figures that are compared: name, which way is better, whether they depend on the disk.
type Figure = (&'static str, Wanted, bool, fn(&RowReport) -> Option<f64>);
const FIGURES: [Figure; 4] = [
    ("rate", Wanted::More, true, |row| row.operations_per_second),
    ("CPU", Wanted::Less, false, |row| row.cpu_us_per_operation),
    ("p50", Wanted::Less, true, |row| row.p50_us),
    ("p99", Wanted::Less, true, |row| row.p99_us),
];

/// Why a pair of rows is not judged.
fn unjudged(old: &RowReport, new: &RowReport) -> Option<&'static str> {
    if !old.is_verified || !new.is_verified {
        return Some("not verified");
    }
    if old.options != new.options {
        return Some("other options");
    }
    match (old.is_noisy, new.is_noisy) {
        (true, true) => return Some("both noisy"),
        (true, false) => return Some("old noisy"),
        (false, true) => return Some("new noisy"),
        (false, false) => {}
    }
    let is_longer = old.figure("seconds").zip(new.figure("seconds")).is_some_and(|(old, new)| {
        let ratio = new / old;
        !(0.5..=2.0).contains(&ratio)
    });
    is_longer.then_some("other length")
}

/// Why two runs as wholes do not compare.
fn differences(old: &SuiteReport, new: &SuiteReport) -> Option<String> {
    let (old, new) = (&old.header, &new.header);
    let pairs = [
        ("cores", old.cores.to_string(), new.cores.to_string()),
        ("CPU", old.cpu_model.clone(), new.cpu_model.clone()),
        ("build", old.build.clone(), new.build.clone()),
        ("file system", old.file_system.clone(), new.file_system.clone()),
    ];
    let other = pairs.into_iter().filter(|(_, old, new)| old != new);
    let other: Vec<String> = other.map(|(what, old, new)| format!("{what}: {old}, now {new}")).collect();
    (!other.is_empty()).then(|| other.join("; "))
}

/// Whether raw writes took about as long in both runs.
fn is_same_disk(old: &SuiteReport, new: &SuiteReport) -> bool {
    let mean = |report: &SuiteReport| report.header.raw_sync_us.before + report.header.raw_sync_us.after;
    let ratio = mean(new) / mean(old);
    (1.0 / (1.0 + DISK_NOISE)..=1.0 + DISK_NOISE).contains(&ratio)
}

/// The cells of a row that is in both runs: ratios, and what they mean.
fn cells(old: &RowReport, new: &RowReport, is_judged: bool, same_disk: bool) -> [String; 6] {
    let why = unjudged(old, new).or((!is_judged).then_some("another machine or build"));
    let mut changes = Vec::new();
    let ratios = FIGURES.map(|(name, wanted, by_disk, figure)| {
        let Some(ratio) = figure(old).zip(figure(new)).map(|(old, new)| new / old) else {
            return "–".to_owned();
        };
        if why.is_none() && (same_disk || !by_disk) {
            match verdict(ratio, wanted) {
                Verdict::Better => changes.push(format!("{name} better")),
                Verdict::Worse => changes.push(format!("{name} WORSE")),
                Verdict::Noise => {}
            }
        }
        format!("{ratio:.2}")
    });
    let meaning = match why {
        Some(why) => format!("not judged: {why}"),
        None if changes.is_empty() => "within the noise".to_owned(),
        None => changes.join(", "),
    };
    let [rate, cpu, p50, p99] = ratios;
    [new.name.clone(), rate, cpu, p50, p99, meaning]
}

/// The comparison as text.
pub(super) fn text(old: &SuiteReport, new: &SuiteReport) -> String {
    let (differences, same_disk) = (differences(old, new), is_same_disk(old, new));
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["row", "rate", "CPU", "p50", "p99", "new over old"]);
    let (mut only_new, mut sweep) = (Vec::new(), 0);
    for row in &new.rows {
        match old.row(&row.name) {
            // At shares of each run's own rate.
            Some(_) if row.name.starts_with(SWEEP) => sweep += 1,
            Some(before) => _ = table.add_row(cells(before, row, differences.is_none(), same_disk)),
            None => only_new.push(row.name.as_str()),
        }
    }
    for at in 1..5 {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let only_old: Vec<&str> =
        old.rows.iter().map(|row| row.name.as_str()).filter(|name| new.row(name).is_none()).collect();
    let mut lines = vec![
        format!("compared with {}, commit {}", old.header.date, old.header.commit),
        table.to_string(),
        format!(
            "noise: ratios from {:.2} to {:.2}, and every figure of a row that was noisy in either run",
            1.0 / (1.0 + NOISE),
            1.0 + NOISE
        ),
    ];
    if let Some(differences) = differences {
        lines.push(format!("nothing is judged, since the runs do not compare: {differences}"));
    }
    if !same_disk {
        lines.push("rates and latencies are not judged: raw synced writes took another time".to_owned());
    }
    if sweep > 0 {
        lines.push(format!("{sweep} rows of the sweep are not compared: each run has rates of its own"));
    }
    for (which, names) in [("in the new run", only_new), ("in the old run", only_old)] {
        if !names.is_empty() {
            lines.push(format!("only {which}: {}", names.join(", ")));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{report, row};
    use super::*;

    fn quiet(name: &str, rate: f64, cpu: f64) -> RowReport {
        RowReport { is_noisy: false, ..row(name, rate, cpu) }
    }

    fn meaning(old: &RowReport, new: &RowReport) -> String {
        cells(old, new, true, true)[5].clone()
    }

    #[test]
    fn changes_are_those_beyond_the_noise() {
        let old = quiet("kv-16", 1e5, 4.0);
        assert_eq!(meaning(&old, &quiet("kv-16", 1.14e5, 4.5)), "within the noise");
        assert_eq!(meaning(&old, &quiet("kv-16", 1.2e5, 5.0)), "rate better, CPU WORSE");
        assert_eq!(meaning(&old, &quiet("kv-16", 0.8e5, 3.0)), "rate WORSE, CPU better");
        assert_eq!(cells(&old, &quiet("kv-16", 2e5, 4.0), true, true)[1], "2.00");
    }

    #[test]
    fn noise_other_options_and_failures_are_never_changes() {
        let (old, new) = (quiet("kv-16", 1e5, 4.0), quiet("kv-16", 3e5, 1.0));
        let noisy = |row: &RowReport| RowReport { is_noisy: true, ..row.clone() };
        assert_eq!(meaning(&old, &noisy(&new)), "not judged: new noisy");
        assert_eq!(meaning(&noisy(&old), &new), "not judged: old noisy");
        assert_eq!(meaning(&noisy(&old), &noisy(&new)), "not judged: both noisy");
        let other = RowReport { options: "--groups 7".into(), ..new.clone() };
        assert_eq!(meaning(&old, &other), "not judged: other options");
        let lost = RowReport { is_verified: false, ..new.clone() };
        assert_eq!(meaning(&old, &lost), "not judged: not verified");
        let mut longer = new.clone();
        longer.report.as_mut().unwrap()["seconds"] = 60.0.into();
        assert_eq!(meaning(&old, &longer), "not judged: other length");
        assert_eq!(cells(&old, &new, false, true)[5], "not judged: another machine or build");
        assert_eq!(cells(&old, &new, true, false)[5], "CPU better");
    }

    #[test]
    fn missing_rows_are_listed_and_the_sweep_is_left_out() {
        let old = report(vec![quiet("a", 1e5, 4.0), quiet("b", 1e5, 4.0), quiet("load-50", 1e5, 4.0)]);
        let mut new = report(vec![quiet("b", 2e5, 4.0), quiet("c", 1e5, 4.0), quiet("load-50", 2e5, 4.0)]);
        let compared = text(&old, &new);
        for part in ["only in the new run: c", "only in the old run: a", "rate better", "1 rows of the sweep"]
        {
            assert!(compared.contains(part), "{part} is missing in\n{compared}");
        }
        new.header.cores = 64;
        new.header.raw_sync_us.after = 9000.0;
        let compared = text(&old, &new);
        assert!(
            compared.contains("cores: 2, now 64") && compared.contains("took another time"),
            "{compared}"
        );
        assert!(!compared.contains("better"), "{compared}");
    }

    #[test]
    fn kept_files_are_read_and_others_are_refused_with_a_reason() {
        let kept = report(vec![quiet("a", 1e5, 4.0)]);
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(read(&json).unwrap(), kept);
        assert_eq!(read(&format!("a table\nand notes\n{json}\n\n")).unwrap(), kept);
        assert_eq!(read(&serde_json::to_string_pretty(&kept).unwrap()).unwrap(), kept);
        let why = |text: &str| read(text).unwrap_err();
        assert!(why("").contains("empty") && why("nonsense").contains("not JSON"));
        assert!(why(&json[..json.len() - 9]).contains("cut off"));
        assert!(why("{\"writes\": 3}").contains("not the JSON of"));
        assert!(why("{\"suite\": 99}").contains("form 99"));
        assert!(why("{\"suite\": 1, \"rows\": 7}").contains("damaged"));
        let error = load(Path::new("/nowhere/kept.json")).unwrap_err();
        assert!(error.contains("/nowhere/kept.json"), "{error}");
    }
}
