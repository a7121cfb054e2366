//! The command itself, as a user runs it, kill -9 included.
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::process::{Command, Output};

fn cluster(arguments: &str) -> (Output, serde_json::Value) {
    let program = env!("CARGO_BIN_EXE_raftwerk-bench");
    let output = Command::new(program).arg("cluster").args(arguments.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    (output, json)
}

fn assert_good(arguments: &str) -> serde_json::Value {
    let (output, json) = cluster(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}\n{json}");
    assert_eq!((&json["lost_acknowledged"], &json["replicas_agree"]), (&0.into(), &true.into()), "{json}");
    assert!(json["acknowledged"].as_u64().unwrap() > 0);
    json
}

#[test]
fn a_leader_killed_by_sigkill_loses_nothing_that_was_acknowledged() {
    for machine in ["kv", "hash"] {
        let options =
            "--processes --seconds 3 --kill-leader-after 500ms --in-flight 256 --json --state-machine ";
        let json = assert_good(&format!("{options}{machine}"));
        assert_eq!(json["failovers"].as_array().unwrap().len(), 1, "{json}");
        assert!(json["failovers"][0]["groups_led"].as_u64().unwrap() > 0, "{json}");
    }
}

#[test]
fn nodes_in_one_process_survive_a_death_and_serve_reads() {
    let options = "--seconds 2 --kill-leader-after 300ms --reads 30 --in-flight 256 --groups 6 --json";
    let json = assert_good(options);
    assert!(json["reads"].as_u64().unwrap() > 0 && json["stale_reads"] == 0, "{json}");
}

#[test]
fn power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    for (machine, unsynced, seed) in
        [("kv", "lost", 1), ("hash", "torn", 1), ("kv", "torn", 2), ("hash", "torn", 3)]
    {
        let load = "--seconds 0.3 --in-flight 512 --groups 6 --json";
        let json =
            assert_good(&format!("{load} --state-machine {machine} --power-cut {unsynced} --seed {seed}"));
        let cut = &json["power_cut"];
        assert_eq!((&cut["unsynced"], &cut["lost_acknowledged"]), (&unsynced.into(), &0.into()), "{json}");
        assert!(cut["under_way"].as_u64().unwrap() > 0, "it was cut under load: {json}");
        assert!(cut["acknowledged_meanwhile"].as_u64().unwrap() > 0, "{json}");
    }
}

#[test]
fn power_cut_after_a_death_finds_what_the_second_life_found() {
    let load = "--seconds 2 --kill-leader-after 300ms --in-flight 256 --groups 6 --json";
    assert_eq!(assert_good(&format!("{load} --power-cut torn"))["power_cut"]["lost_acknowledged"], 0);
}

#[test]
fn devices_that_lie_are_found_out() {
    for machine in ["kv", "hash"] {
        let load = "--seconds 0.3 --in-flight 256 --groups 6 --json";
        let (output, json) = cluster(&format!("{load} --state-machine {machine} --power-cut lying"));
        assert!(!output.status.success(), "{json}");
        assert!(json["power_cut"]["lost_acknowledged"].as_u64().unwrap() > 0, "{json}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("FAILED"), "{json}");
    }
}

#[test]
fn options_that_make_no_run_end_in_a_reason_and_a_failure() {
    let (output, _) = cluster("--nodes 2");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--nodes must be 1, 3 or 5"));
}
