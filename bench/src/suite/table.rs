//! The suite as a table for people: the least efficient row first, after those that failed.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::parts::{Parts, PartsUs};
use super::record::{Header, NOISY_CORES, RowReport, SuiteReport};
use crate::report::{thousands, time};

/// Names of the columns, here and on the page.
pub(super) const COLUMNS: [&str; 13] = [
    "row",
    "ops/s",
    "CPU/op",
    "p50",
    "p99",
    "p99.9",
    "copy+CRC",
    "device",
    "QUIC",
    "apply",
    "parts",
    "parts/CPU",
    "others",
];

/// Header, table, and what went wrong.
pub(super) fn text(report: &SuiteReport) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(COLUMNS);
    let rows = report.worst_first();
    for row in &rows {
        table.add_row(cells(row));
    }
    for at in 1..COLUMNS.len() {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in failures(&rows) {
        let _ = writeln!(text, "FAILED: {line}");
    }
    for line in lines(report) {
        let _ = writeln!(text, "{line}");
    }
    let _ = write!(text, "{table}\n{}", notes(report).join("\n"));
    text
}

/// What went wrong, a sentence each.
pub(super) fn failures(rows: &[&RowReport]) -> Vec<String> {
    let failed = rows.iter().filter(|row| !row.is_verified);
    failed.map(|row| format!("{}: {}", row.name, why(row))).collect()
}

fn why(row: &RowReport) -> String {
    if let Some(error) = &row.error {
        return error.clone();
    }
    let figure = |name: &str| row.figure(name).unwrap_or(0.0);
    let report = row.report.as_ref();
    let mut why =
        format!("not verified, {} acknowledged writes lost", thousands(figure("lost_acknowledged")));
    if report.is_some_and(|report| report["replicas_agree"] != true) {
        why.push_str(", replicas differ");
    }
    if figure("stale_reads") > 0.0 {
        let _ = write!(why, ", {} stale reads", thousands(figure("stale_reads")));
    }
    let errors = report.and_then(|report| report["errors"].as_array());
    for error in errors.into_iter().flatten().filter_map(|error| error.as_str()) {
        let _ = write!(why, "; {error}");
    }
    why
}

/// The machine and the moment.
pub(super) fn lines(report: &SuiteReport) -> [String; 4] {
    let header: &Header = &report.header;
    let raw = header.raw_sync_us;
    let disk = if header.is_on_disk { "" } else { " (NOT a disk of this machine)" };
    [
        format!(
            "{}, raftwerk {} {}, commit {}{}, {:.0} s in all",
            header.date,
            header.version,
            header.build,
            header.commit,
            if header.quick { ", --quick" } else { "" },
            header.seconds_in_all,
        ),
        format!(
            "{} cores of {}, {:.1} GiB, Linux {}",
            header.cores,
            header.cpu_model,
            header.memory_bytes as f64 / f64::from(1 << 30),
            header.kernel,
        ),
        format!(
            "data on {}{disk}; raw 4 KiB sync p50 before / after: {} / {}",
            header.file_system,
            time(raw.before),
            time(raw.after)
        ),
        parts_line(&report.parts),
    ]
}

fn parts_line(parts: &Parts) -> String {
    let Parts { others_cores, device, quic, .. } = parts;
    let noise = match others_cores {
        Some(cores) if *cores > NOISY_CORES => format!("{cores:.2}, noisy"),
        Some(cores) => format!("{cores:.2}"),
        None => "unknown".to_owned(),
    };
    format!(
        "alone: a 4 KiB sync {} µs of CPU, 1 MiB {} µs; QUIC {:.2} ns a byte, {:.2} µs a message, {} µs a lone one (others: {noise})",
        micros(device.write_4k_cpu_us),
        micros(device.write_1m_cpu_us),
        quic.byte_ns,
        quic.message_ns / 1000.0,
        micros(quic.lone_message_us),
    )
}

/// One row's cells.
pub(super) fn cells(row: &RowReport) -> [String; COLUMNS.len()] {
    let name = if row.is_verified { row.name.clone() } else { format!("FAILED {}", row.name) };
    let shown =
        |value: Option<f64>, as_text: &dyn Fn(f64) -> String| value.map_or_else(|| "–".into(), as_text);
    let part = |of: fn(&PartsUs) -> f64| shown(row.parts_us.as_ref().map(of), &micros);
    let others = shown(row.others_cores, &|cores| format!("{cores:.2}"));
    [
        name,
        shown(row.operations_per_second, &thousands),
        shown(row.cpu_us_per_operation, &micros),
        shown(row.p50_us, &time),
        shown(row.p99_us, &time),
        shown(row.p999_us, &time),
        part(|parts| parts.copy_crc),
        part(|parts| parts.device),
        part(|parts| parts.quic),
        part(|parts| parts.apply),
        part(|parts| parts.sum),
        shown(row.efficiency, &|share| format!("{:.0} %", share * 100.0)),
        if row.is_noisy { format!("{others} noisy") } else { others },
    ]
}

/// What the columns are, and what to make of this run.
pub(super) fn notes(report: &SuiteReport) -> Vec<String> {
    let mut notes = vec![
        "CPU and parts in µs an operation, over all nodes; parts/CPU: the share of the CPU time that the parts alone account for. \
         Latencies of reads where most operations are."
            .to_owned(),
    ];
    let is_short = report.rows.iter().any(|row| row.figure("shortfall").is_some_and(|short| short > 0.0));
    if is_short {
        notes.push(
            "Open loops that fell behind their rate, so that latencies are too low: ".to_owned()
                + &short(report),
        );
    }
    notes.extend(report.rows.iter().filter_map(outage));
    let noisy = report.rows.iter().filter(|row| row.is_noisy).count();
    if noisy > 0 {
        notes.push(format!(
            "{noisy} of {} rows are noisy: other processes used more than {NOISY_CORES} cores. Their figures compare to nothing.",
            report.rows.len()
        ));
    }
    let verified = report.rows.iter().filter(|row| row.is_verified).count();
    notes.push(format!(
        "{verified} of {} rows verified: nothing acknowledged was lost, replicas are equal.",
        report.rows.len()
    ));
    notes
}

fn short(report: &SuiteReport) -> String {
    let short = report.rows.iter().filter(|row| row.figure("shortfall").is_some_and(|short| short > 0.0));
    short.map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What the death of a node did, in a row that has one.
fn outage(row: &RowReport) -> Option<String> {
    let failover = row.report.as_ref()?["failovers"].get(0)?;
    let ms = |name: &str| {
        failover[name].as_f64().map_or_else(|| "at no time".to_owned(), |ms| format!("after {ms:.0} ms"))
    };
    Some(format!(
        "{}: a node that led {} groups was killed; its groups took writes again {} (half of them {}), it had caught up {}.",
        row.name,
        failover["groups_led"],
        ms("unavailable_ms"),
        ms("unavailable_p50_ms"),
        ms("caught_up_ms"),
    ))
}

fn micros(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2}"),
        us if us < 100.0 => format!("{us:.1}"),
        us => thousands(us),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{report, row};
    use super::super::rows::Row;
    use super::*;

    #[test]
    fn table_shows_failures_first_and_every_row() {
        let failed = Row { name: "one".into(), words: String::new(), seconds: 1.0 };
        let failed = RowReport::failed(&failed, "no space left".into());
        let text = text(&report(vec![row("kv-16", 123_456.0, 4.0), failed]));
        assert!(text.starts_with("FAILED: one: no space left\n"), "{text}");
        for part in
            ["123,456", "4.00", "250 µs", "1.50 ms", "0.50 noisy", "1 of 2 rows verified", "0123456789ab"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn unverified_row_is_explained_by_its_report() {
        let mut lost = row("kv-16", 1e5, 4.0);
        lost.is_verified = false;
        let report = lost.report.as_mut().unwrap();
        (report["lost_acknowledged"], report["replicas_agree"]) = (7.into(), false.into());
        report["errors"] = serde_json::json!(["a node is gone"]);
        assert_eq!(
            failures(&[&lost]),
            ["kv-16: not verified, 7 acknowledged writes lost, replicas differ; a node is gone"]
        );
    }

    #[test]
    fn outages_are_in_the_notes() {
        let mut killed = row("failover", 1e5, 4.0);
        killed.report.as_mut().unwrap()["failovers"] = serde_json::json!([{
            "groups_led": 16, "unavailable_ms": 612.3, "unavailable_p50_ms": 500.0, "caught_up_ms": null,
        }]);
        let notes = notes(&report(vec![row("kv-16", 1e5, 4.0), killed])).join("\n");
        for part in [
            "failover: a node that led 16 groups",
            "after 612 ms (half of them after 500 ms)",
            "caught up at no time",
        ] {
            assert!(notes.contains(part), "{part} is missing in\n{notes}");
        }
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!([0.123, 12.34, 1234.5].map(micros), ["0.12", "12.3", "1,234"]);
    }
}
