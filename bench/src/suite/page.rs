//! The suite as one page: the table, and charts. It needs no other file and no script, and is light or dark as the reader's
//! system is.

use std::fmt::Write as _;

use super::chart::{Scale, Series, Titles, escape, lines, shares};
use super::record::{RowReport, SuiteReport};
use super::rows::{BASE, SWEEP};
use super::table::{COLUMNS, cells, failures, lines as header_lines, notes};

/// Lines of the charts: name, rows.
type Line = (&'static str, &'static [&'static str]);
const BY_PAYLOAD: [Line; 2] = [
    ("kv", &["kv-16", "kv-128", "kv-1k", "kv-16k"]),
    ("hash", &["hash-16-25k", "hash-128", "hash-1k", "hash-16k"]),
];
const BY_GROUPS: [Line; 1] =
    [("hash", &["groups-1", "hash-16-25k", "groups-1000", "groups-10000", "groups-100000"])];
const BY_DEPTH: [Line; 2] = [("kv", &["one", "kv-16"]), ("hash", &["hash-16-768", "hash-16-25k"])];

/// Threads, in the order of the bars.
const THREADS: [&str; 6] = ["worker", "net", "client", "wal-sync", "wal-files", "other"];

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --back: #fff; --rule: #dde2e8; --bad: #b3261e; --noisy: #8a5a00;
  --s0: #2563b8; --s1: #c2571a; --s2: #2f8553; --s3: #8b46a8; --s4: #a08a12; --s5: #7a828c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --back: #14181f; --rule: #2c3440; --bad: #ff8a80;
  --noisy: #ffc766; --s0: #74a9f7; --s1: #f2975c; --s2: #6cc890; --s3: #c58fe0; --s4: #d8c452; --s5: #9aa3ad; } }
body { margin: 0 auto; max-width: 1080px; padding: 24px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0 0 8px; } h2 { font-size: 17px; margin: 32px 0 8px; }
p { margin: 4px 0; } .soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; width: 100%; }
caption { text-align: left; color: var(--soft); padding: 4px 0; }
th, td { padding: 4px 8px; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; } .noisy td:last-child { color: var(--noisy); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 16px; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 13px; } svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--rule); } .mark { stroke: var(--soft); stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 2; } .dot { stroke: var(--back); }
.line.s1 { stroke-dasharray: 7 4; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); }
.dot.s0, .bar.s0 { fill: var(--s0); } .dot.s1, .bar.s1 { fill: var(--s1); } .bar.s2 { fill: var(--s2); }
.bar.s3 { fill: var(--s3); } .bar.s4 { fill: var(--s4); } .bar.s5 { fill: var(--s5); } .bar { stroke: none; }
";

/// The whole page.
pub(super) fn page(report: &SuiteReport) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <title>Raftwerk: benchmark suite</title><style>{STYLE}</style></head>\n<body><main><h1>Raftwerk: benchmark suite</h1>\n"
    );
    let rows = report.worst_first();
    for line in failures(&rows) {
        paragraph(&mut page, "bad", &format!("FAILED: {line}"));
    }
    for line in header_lines(report) {
        paragraph(&mut page, "soft", &line);
    }
    table(&mut page, &rows);
    for line in notes(report) {
        paragraph(&mut page, "soft", &line);
    }
    charts(&mut page, report);
    page.push_str("</main></body></html>\n");
    page
}

fn paragraph(page: &mut String, class: &str, line: &str) {
    let _ = writeln!(page, "<p class=\"{class}\">{}</p>", escape(line));
}

fn table(page: &mut String, rows: &[&RowReport]) {
    page.push_str(
        "<h2>Rows</h2>\n<div class=\"scroll\"><table><caption>The least efficient first</caption><thead><tr>",
    );
    for column in COLUMNS {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escape(column));
    }
    page.push_str("</tr></thead><tbody>\n");
    for row in rows {
        let class = match (row.is_verified, row.is_noisy) {
            (false, _) => " class=\"bad\"",
            (true, true) => " class=\"noisy\"",
            (true, false) => "",
        };
        let [name, figures @ ..] = cells(row);
        let options = if row.options.is_empty() { "the defaults" } else { &row.options };
        let (name, options) = (escape(&name), escape(options));
        let _ = write!(page, "<tr{class}><th scope=\"row\" title=\"{options}\">{name}</th>");
        for figure in figures {
            let _ = write!(page, "<td>{}</td>", escape(&figure));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

/// A figure of a row, by the row.
type Of = fn(&RowReport) -> Option<f64>;

const RATE: (&str, Of) = ("operations a second", |row| row.operations_per_second);
const CPU: (&str, Of) = ("CPU in µs an operation", |row| row.cpu_us_per_operation);

fn charts(page: &mut String, report: &SuiteReport) {
    let over: [(&str, &str, &str, &[Line], Of); 3] = [
        (
            "Payload",
            "payload in bytes",
            "4,096 in flight; 1,024 with 16 KiB, and 25,000 with 16 B and hash.",
            &BY_PAYLOAD,
            |row| row.figure("payload_bytes"),
        ),
        ("Groups", "groups", "16 B, hash, 25,000 in flight.", &BY_GROUPS, |row| row.figure("groups")),
        ("Depth", "operations in flight", "16 B, 48 groups.", &BY_DEPTH, |row| row.figure("in_flight")),
    ];
    for (title, x_title, caption, chosen, x) in over {
        let drawn = [RATE, CPU].map(|(y_title, y)| {
            let chart = format!("{title}: {y_title}");
            lines(
                &Titles { chart: &chart, x: x_title, y: y_title },
                Scale::Log,
                &series(report, chosen, x, y),
                None,
            )
        });
        section(page, title, caption, &drawn);
    }
    section(
        page,
        "Load",
        "kv, 16 B, open loop, at shares of what the closed loop reached; latency counts from the intended start.",
        &[load(report)],
    );
    section(
        page,
        "CPU time by thread",
        "Of all three nodes and the client, nodes in one process; hover for figures.",
        &[threads(report)],
    );
}

fn section(page: &mut String, title: &str, caption: &str, charts: &[String]) {
    if charts.iter().all(String::is_empty) {
        return;
    }
    let _ = write!(page, "<h2>{}</h2>\n<div class=\"charts\">", escape(title));
    for chart in charts.iter().filter(|chart| !chart.is_empty()) {
        let _ = write!(page, "<figure>{chart}</figure>");
    }
    let _ = writeln!(page, "</div><p class=\"soft\">{}</p>", escape(caption));
}

fn series(report: &SuiteReport, chosen: &[Line], x: Of, y: Of) -> Vec<Series> {
    let line = |(name, rows): &Line| {
        let rows = rows.iter().filter_map(|row| report.row(row));
        let points: Vec<(f64, f64)> = rows.filter_map(|row| x(row).zip(y(row))).collect();
        Series { name: (*name).to_owned(), points }
    };
    chosen.iter().map(line).filter(|series| !series.points.is_empty()).collect()
}

/// Latency against load, up to where the closed loop is.
fn load(report: &SuiteReport) -> String {
    let mut rows: Vec<&RowReport> = report.rows.iter().filter(|row| row.name.starts_with(SWEEP)).collect();
    rows.sort_by(|a, b| {
        a.operations_per_second.partial_cmp(&b.operations_per_second).unwrap_or(std::cmp::Ordering::Equal)
    });
    let line = |name: &str, y: Of| {
        let points = rows.iter().filter_map(|row| row.operations_per_second.zip(y(row))).collect();
        Series { name: name.to_owned(), points }
    };
    let both = [line("p50", |row| Some(row.p50_us? / 1000.0)), line("p99", |row| Some(row.p99_us? / 1000.0))];
    let closed = report.row(BASE).and_then(|row| row.operations_per_second);
    let titles = Titles { chart: "Latency against load", x: "writes a second", y: "latency in ms" };
    lines(&titles, Scale::Linear, &both, closed.map(|rate| (rate, "closed loop")))
}

fn threads(report: &SuiteReport) -> String {
    let bars = report.rows.iter().filter_map(|row| {
        let by_thread = row.report.as_ref()?["cpu_us_per_write_by_thread"].as_object()?;
        let values: Vec<f64> = THREADS
            .iter()
            .map(|name| by_thread.get(*name).and_then(|us| us.as_f64()).unwrap_or(0.0))
            .collect();
        let sum: f64 = values.iter().sum();
        Some((row.name.clone(), format!("{sum:.2} µs"), values))
    });
    let titles =
        Titles { chart: "CPU time by thread", x: "share of the CPU time; at the right: µs a write", y: "" };
    shares(&titles, &THREADS, &bars.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{report, row};
    use super::super::rows::Row;
    use super::*;

    /// Fails at the first tag that closes another than the last that was opened.
    fn assert_balanced(page: &str) {
        let (mut open, mut rest) = (Vec::new(), page.strip_prefix("<!DOCTYPE html>").unwrap());
        while let Some(at) = rest.find('<') {
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            let name = tag.split_whitespace().next().unwrap();
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "before {}", &rest[at..]),
                None if !tag.ends_with('/') => open.push(name),
                None => {}
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn page_is_well_formed_names_every_row_and_escapes_text() {
        let names = ["kv-16", "kv-1k", "hash-16-25k", "groups-1", "load-50", "load-90", "one"];
        let mut rows: Vec<RowReport> =
            names.iter().enumerate().map(|(at, name)| row(name, 1e5 * (at + 1) as f64, 4.0)).collect();
        let failed = Row { name: "failover".into(), words: "--x <y>".into(), seconds: 1.0 };
        rows.push(RowReport::failed(&failed, "no <space> & no \"time\"".into()));
        let page = page(&report(rows));
        assert_balanced(&page);
        for name in
            names.into_iter().chain(["failover", "a &lt;fast&gt; one &amp; so on", "no &lt;space&gt;"])
        {
            assert!(page.contains(name), "{name} is missing");
        }
        for chart in
            ["Payload: operations", "Groups: CPU", "Depth: ", "Latency against load", "CPU time by thread"]
        {
            assert!(page.contains(chart), "{chart} is missing");
        }
        assert!(!page.contains("<script") && !page.contains("http") && !page.contains("NaN"));
    }

    #[test]
    fn page_without_figures_has_no_charts() {
        let failed = Row { name: "one".into(), words: String::new(), seconds: 1.0 };
        let page = page(&report(vec![RowReport::failed(&failed, "no disk".into())]));
        assert_balanced(&page);
        assert!(page.contains("FAILED: one: no disk") && !page.contains("<svg"));
    }
}
