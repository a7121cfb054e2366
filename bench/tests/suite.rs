//! The suite itself, as a user runs it: two rows, a page, and a comparison with what an earlier run kept.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::path::Path;
use std::process::{Command, Output};

fn suite(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raftwerk-bench")).arg("suite").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(folder: &Path) -> (String, serde_json::Value) {
    let (page, kept) = (folder.join("page.html"), folder.join("kept.json"));
    let only = ["--only", "kv-16,one", "--seconds", "0.5", "--json"];
    let output = suite(&[&only[..], &["--html", page.to_str().unwrap()]].concat());
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}\n{out}", text(&output.stderr));
    std::fs::write(kept, &out).unwrap();
    let json = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    (out, json)
}

#[test]
fn two_rows_are_measured_verified_shown_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (out, json) = run(folder.path());
    assert!(out.contains("2 of 2 rows verified"), "{out}");
    assert_eq!((&json["suite"], json["rows"].as_array().unwrap().len()), (&1.into(), 2), "{json}");
    for row in json["rows"].as_array().unwrap() {
        assert_eq!(
            (&row["is_verified"], &row["report"]["lost_acknowledged"]),
            (&true.into(), &0.into()),
            "{row}"
        );
        for name in ["operations_per_second", "cpu_us_per_operation", "p50_us", "efficiency", "others_cores"]
        {
            assert!(row[name].as_f64().is_some(), "{name}: {row}");
        }
        for part in ["copy_crc", "device", "quic", "apply", "sum"] {
            assert!(row["parts_us"][part].as_f64().unwrap() >= 0.0, "{part}: {row}");
        }
        let by_thread = row["report"]["cpu_us_per_write_by_thread"].as_object().unwrap();
        assert!(
            ["worker", "net", "client", "wal-sync"].iter().all(|role| by_thread.contains_key(*role)),
            "{row}"
        );
    }
    assert!(json["header"]["cores"].as_u64().unwrap() > 0 && json["parts"]["quic"]["byte_ns"].is_number());
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("kv-16") && page.contains("<svg"));

    let kept = folder.path().join("kept.json");
    let output = suite(&["--only", "one", "--seconds", "0.2", "--compare", kept.to_str().unwrap()]);
    let out = text(&output.stdout);
    assert!(output.status.success() && out.contains("new over old"), "{out}");
    assert!(out.contains("only in the old run: kv-16"), "{out}");
}

#[test]
fn what_makes_no_suite_ends_in_a_reason_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("foreign.json");
    std::fs::write(&foreign, "{\"writes\": 1}").unwrap();
    for (arguments, reason) in [
        (["--only", "no-such-row"], "there is no row `no-such-row`"),
        (["--compare", foreign.to_str().unwrap()], "not the JSON of `raftwerk-bench suite`"),
        (["--seconds", "0"], "--seconds must be"),
    ] {
        let output = suite(&arguments);
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(text(&output.stderr).contains(reason), "{}", text(&output.stderr));
    }
}
