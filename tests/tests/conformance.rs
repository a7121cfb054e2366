//! The conformance suites as tests: on the data beside the checkout, where it is there, and on small folders made here, to
//! see that a suite notices what is wrong.
#![allow(clippy::print_stdout, reason = "a skipped suite must be seen to be skipped")]

use std::fs;
use std::path::Path;

use raftwerk_tests::conformance::{Case, Outcome, SUITES, SuiteError, default_folder};

fn run(suite: &str, folder: &Path) -> Result<Vec<Case>, SuiteError> {
    let suite = SUITES.iter().find(|known| known.name == suite).expect("a suite of this name");
    (suite.run)(folder)
}

/// Every case passes or is waived, of which there are at most so many, and there are at least so many cases. Without the data it says so, and checks nothing.
fn all_pass(suite: &str, at_least: usize, waived_max: usize) {
    let cases = match run(suite, &default_folder()) {
        Ok(cases) => cases,
        Err(SuiteError::Absent { path }) => {
            println!("SKIPPED: {suite}, {} is not there", path.display());
            return;
        }
        Err(error) => panic!("{suite}: {error}"),
    };
    let failed: Vec<_> = cases.iter().filter(|case| matches!(case.outcome, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    let waived: Vec<_> = cases.iter().filter(|case| matches!(case.outcome, Outcome::Waived(_))).collect();
    assert!(waived.len() <= waived_max, "{waived:#?}");
}

#[test]
fn etcd_quorums() {
    all_pass("etcd-quorum", 4, 0);
}

#[test]
fn etcd_configurations() {
    all_pass("etcd-confchange", 9, 0);
}

#[test]
fn etcd_scripts_at_rest() {
    all_pass("etcd-interaction-a", 28, 0);
}

#[test]
fn etcd_scripts_step_by_step() {
    all_pass("etcd-interaction-b", 331, 12);
}

#[test]
fn raft_rs() {
    all_pass("raft-rs", 13, 9);
}

#[test]
fn ccf() {
    all_pass("ccf", 31, 0);
}

#[test]
fn linearizability() {
    all_pass("linearizability", 108, 0);
}

/// The outcomes of a suite over a folder with one file.
fn outcomes(suite: &str, path: &str, text: &str) -> Vec<Outcome> {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let path = folder.path().join(path);
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("folders can be made");
    fs::write(&path, text).expect("files can be written");
    run(suite, folder.path()).expect("it runs").into_iter().map(|case| case.outcome).collect()
}

fn is_failed(outcomes: &[Outcome], with: &str) -> bool {
    matches!(outcomes, [Outcome::Failed(what)] if what.contains(with))
}

#[test]
fn a_wrong_vote_or_index_in_a_quorum_file_is_found() {
    let etcd = |text: &str| outcomes("etcd-quorum", "etcd-raft/quorum/testdata/x.txt", text);
    assert_eq!(etcd("vote cfg=(7,9,12) votes=(y,_,y)\n----\nVoteWon\n"), [Outcome::Passed]);
    assert!(is_failed(&etcd("vote cfg=(7,9,12) votes=(y,_,n)\n----\nVoteWon\n"), "VotePending"));
    assert!(is_failed(&etcd("vote cfg=(7,9) votes=(y)\n----\nVoteWon\n"), "2 voters, 1 answers"));
    assert!(is_failed(&etcd("fly cfg=(7)\n----\nno\n"), "`fly` is no command"));
    let tables = [
        (
            "committed cfg=(4,6) idx=(8,3)\n----\n      idx\nx>      8    (id=4)\n>       3    (id=6)\n3\n",
            true,
        ),
        (
            "committed cfg=(4,6) idx=(8,3)\n----\n      idx\nx>      8    (id=4)\n>       3    (id=6)\n8\n",
            false,
        ),
        (
            "committed cfg=(4,6) idx=(8,3)\n----\n      idx\n>       8    (id=4)\n>       3    (id=6)\n3\n",
            false,
        ),
    ];
    for (text, is_right) in tables {
        assert_eq!(etcd(text) == [Outcome::Passed], is_right, "{text}");
    }
}

#[test]
fn waiver_of_raft_rs_covers_ties_and_no_number() {
    let raft_rs = |text: &str| outcomes("raft-rs", "raft-rs/quorum/x.txt", text);
    let told = |second: &str, number: u64| {
        let voters = format!("x>       5    (id=1)\n{second}       5    (id=2)\n>        4    (id=3)");
        raft_rs(&format!("committed cfg=(1,2,3) idx=(5,5,4)\n----\n       idx\n{voters}\n{number}\n"))
    };
    assert_eq!(told("x>", 5), [Outcome::Passed]);
    assert!(matches!(&told("> ", 5)[..], [Outcome::Waived(_)]));
    assert!(is_failed(&told("> ", 4), "line 1"));
    assert!(is_failed(&told("xx>", 5), "line 1"));

    let chain = |text: &str| outcomes("raft-rs", "raft-rs/confchange/x.txt", text);
    let numbered = |number| format!("simple\nv3\n----\nvoters=(3)\n3: StateProbe match=0 next={number}\n");
    assert_eq!(chain(&numbered(1)), [Outcome::Passed]);
    assert!(matches!(&chain(&numbered(0))[..], [Outcome::Waived(_)]));
    assert!(is_failed(&chain(&numbered(2)), "line 1"));
}

#[test]
fn a_wrong_configuration_or_refusal_is_found() {
    let etcd = |text: &str| outcomes("etcd-confchange", "etcd-raft/confchange/testdata/x.txt", text);
    let replica = |next: u64| format!("7: StateProbe match=0 next={next}");
    let begin = format!("simple\nv7\n----\nvoters=(7)\n{}\n\n", replica(1));
    assert_eq!(etcd(&begin), [Outcome::Passed]);
    let twice = format!("{begin}simple\nv8 v9\n----\n");
    assert_eq!(
        etcd(&format!("{twice}more than one voter changed without entering joint config\n")),
        [Outcome::Passed]
    );
    assert!(is_failed(&etcd(&format!("{twice}voters=(7 8 9)\n")), "line 7"));
    // One that goes and comes back in a single step is another.
    let back = |number| {
        format!(
            "{begin}leave-joint\n----\ncan't leave a non-joint config\n\nsimple\nl8 r7 v7\n----\nvoters=(7) learners=(8)\n{}\n8: StateProbe match=0 next=2 learner\n",
            replica(number)
        )
    };
    assert_eq!(etcd(&back(2)), [Outcome::Passed]);
    assert!(is_failed(&etcd(&back(1)), "line 11"));
    assert!(is_failed(&etcd("simple\nz7\n----\nvoters=()\n"), "`z7` is no change"));
    assert!(is_failed(&etcd("leap\nv7\n----\nvoters=(7)\n"), "no command"));
}

#[test]
fn suite_reports_a_wrong_verdict_with_its_counterexample() {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let suite = folder.path().join("linearizability");
    fs::create_dir_all(suite.join("test_data/jepsen")).expect("folders can be made");
    let log = "INFO  jepsen.util - 0 :invoke :read nil\nINFO  jepsen.util - 0 :ok :read 7\n";
    fs::write(suite.join("test_data/jepsen/mine.log"), log).expect("files can be written");
    let verdict = |verdict: &str| {
        fs::write(suite.join("EXPECTED_VERDICTS.txt"), format!("mine.log {verdict}\n"))
            .expect("files can be written");
        run("linearizability", folder.path()).map(|cases| cases[0].outcome.clone())
    };
    assert_eq!(verdict("not_linearizable").expect("it runs"), Outcome::Passed);
    let wrong = verdict("linearizable").expect("it runs");
    assert!(matches!(&wrong, Outcome::Failed(what) if what.contains("does not fit: client 0")), "{wrong:?}");
    assert!(matches!(verdict("perhaps"), Err(SuiteError::Malformed { .. })));
    fs::remove_file(suite.join("test_data/jepsen/mine.log")).expect("it is there");
    let gone = verdict("linearizable").expect("it runs");
    assert!(matches!(&gone, Outcome::Failed(what) if what.contains("mine.log: not there")), "{gone:?}");
}

#[test]
fn missing_suite_is_reported_as_absent() {
    let folder = tempfile::tempdir().expect("a folder of its own");
    for suite in SUITES {
        assert!(matches!((suite.run)(folder.path()), Err(SuiteError::Absent { .. })), "{}", suite.name);
    }
}

/// A script of two voters that elect one, in etcd's words, with what they print after it is told to settle.
const ELECTION: &str = "\
add-nodes 2 voters=(1,2) index=6
----
INFO newRaft 1 [peers: [1,2], term: 0, commit: 6, applied: 6, lastindex: 6, lastterm: 1]

campaign 2
----
INFO a word

stabilize
----
> 1 handling Ready
  HardState Term:1 Vote:2 Commit:6
  Messages:
  1->2 MsgVoteResp Term:1 Log:0/0
> 2 handling Ready
  Lead:2 State:StateLeader
  Entries:
  1/7 EntryNormal \"\"
> 1 handling Ready
  Lead:2 State:StateFollower
  Entries:
  1/7 EntryNormal \"\"
> 2 handling Ready
  HardState Term:1 Vote:2 Commit:7
  CommittedEntries:
  1/7 EntryNormal \"\"
> 1 handling Ready
  HardState Term:1 Vote:2 Commit:7
  CommittedEntries:
  1/7 EntryNormal \"\"

raft-log 1
----
1/7 EntryNormal \"\"

raft-state
----
1: StateFollower (Voter) Term:1 Lead:2
2: StateLeader (Voter) Term:1 Lead:2
";

fn interaction(suite: &str, text: &str) -> Vec<Outcome> {
    outcomes(suite, "etcd-raft/testdata/x.txt", text)
}

#[test]
fn script_is_judged_at_rest_by_its_whole_output() {
    assert_eq!(interaction("etcd-interaction-a", ELECTION), [Outcome::Passed]);
    let wrong = [
        ("Lead:2 State:StateFollower", "Lead:1 State:StateFollower", "leader: expected 1, found 2"),
        ("Lead:2 State:StateLeader", "Lead:2 State:StateFollower", "role: expected StateFollower"),
        ("HardState Term:1 Vote:2 Commit:7", "HardState Term:2 Vote:2 Commit:7", "term: expected 2, found 1"),
        ("HardState Term:1 Vote:2 Commit:7", "HardState Term:1 Vote:1 Commit:7", "vote: expected 1, found 2"),
        (
            "HardState Term:1 Vote:2 Commit:7",
            "HardState Term:1 Vote:2 Commit:8",
            "commit: expected 8, found 7",
        ),
        ("1/7 EntryNormal \"\"\n> 1 handling", "1/7 EntryNormal \"x\"\n> 1 handling", "entry: expected 1/7"),
        ("1: StateFollower (Voter)", "1: StateFollower (Non-Voter)", "StateFollower (Non-Voter)"),
        ("----\n1/7", "----\n1/8", "expected [\"1/8"),
        (
            "INFO a word",
            "INFO 2 switched to configuration voters=(1 2 3)",
            "configuration: expected voters=(1 2 3)",
        ),
        ("campaign 2", "levitate 2", "the core cannot do that"),
    ];
    for (right, wrong, told) in wrong {
        let text = ELECTION.replacen(right, wrong, 1);
        assert_ne!(text, ELECTION);
        let found = interaction("etcd-interaction-a", &text);
        assert!(is_failed(&found, told), "{wrong}: {found:?}");
    }
    let silent = "add-nodes 1 voters=(1) index=2\n----\nok\n\nstabilize\n----\nok\n";
    assert!(is_failed(&interaction("etcd-interaction-a", silent), "nothing in it could be compared"));
}

#[test]
fn a_script_is_judged_step_by_step_by_every_fact() {
    let facts = |text: &str| {
        let found = interaction("etcd-interaction-b", text);
        let passed = found.iter().filter(|outcome| **outcome == Outcome::Passed).count();
        (passed, found.len())
    };
    assert_eq!(facts(ELECTION), (5, 5));
    // A fact that is wrong is one that is missing, and another that should not be.
    assert_eq!(
        facts(&ELECTION.replacen(
            "MsgVoteResp Term:1 Log:0/0",
            "MsgVoteResp Term:1 Log:0/0 Rejected (Hint: 0)",
            1
        )),
        (4, 6)
    );
    assert_eq!(facts(&ELECTION.replacen("CommittedEntries:\n  1/7", "CommittedEntries:\n  1/8", 1)), (4, 6));
    assert_eq!(facts(&ELECTION.replacen("Entries:\n  1/7", "Entries:\n  2/7", 1)), (4, 6));
    assert_eq!(facts(&ELECTION.replace("  CommittedEntries:\n  1/7 EntryNormal \"\"\n", "")), (3, 5));
}

/// Two nodes; the second comes with a configuration that is signed, and both hear of it.
const SCENARIO: &str = "\
start_node,n7
emit_signature,2
assert_commit_idx,n7,2
trust_node,2,n9   # the third entry
emit_signature,2
periodic_all,10
dispatch_all
periodic_all,10
dispatch_all
assert_state_sync
replicate,2,never signed
periodic_all,10
dispatch_all
assert_commit_idx,n9,4
assert_commit_safety,n7
assert_detail,n9,leadership_state,Follower
";

#[test]
fn a_scenario_is_judged_by_all_that_it_asserts() {
    let ccf = |text: &str| outcomes("ccf", "ccf/scenarios/mine", text);
    assert_eq!(ccf(SCENARIO), [Outcome::Passed]);
    let wrong = [
        ("idx,n7,2", "idx,n7,3", "line 3: `assert_commit_idx,n7,3`: found 2"),
        ("idx,n9,4", "idx,n9,5", "found 4"),
        ("n9,leadership_state,Follower", "n9,leadership_state,Leader", "n9 is Follower in term 2"),
        ("n9,leadership_state,Follower", "n9,retirement_phase,Signed", "retirement: none"),
        ("dispatch_all\nassert_state_sync", "assert_state_sync", "n7 is Leader"),
        ("replicate,2", "replicate,3", "nobody leads in this term"),
        ("periodic_all,10", "meditate_all,10", "no command"),
        ("trust_node,2,n9", "trust_node,2,n7", "there is a node n7 already"),
    ];
    for (right, wrong, told) in wrong {
        let text = SCENARIO.replacen(right, wrong, 1);
        assert_ne!(text, SCENARIO);
        let found = ccf(&text);
        assert!(is_failed(&found, told), "{wrong}: {found:?}");
    }
    assert!(is_failed(&ccf("start_node,n7\n"), "asserts nothing"));
}

/// A change that is wanted before the leader's term has a committed entry has to wait, and what is proposed after it, too.
#[test]
fn a_change_that_has_to_wait_keeps_its_place() {
    let script = |first: &str, second: &str| {
        format!(
            "add-nodes 1 voters=(1) index=4\n----\nINFO a word\n\ncampaign 1\n----\nINFO a word\n\n\
            propose-conf-change 1 transition=auto\nl1 v1\n----\nok\n\npropose 1 x\n----\nok\n\n\
            propose-conf-change 1\nu1\n----\nok\n\nstabilize\n----\n> 1 handling Ready\n  Entries:\n  1/5 EntryNormal \"\"\n  \
            1/6 {first}\n  1/7 {second}\n"
        )
    };
    let at_rest = |first, second| interaction("etcd-interaction-a", &script(first, second));
    let (change, payload) = ("EntryConfChangeV2 l1 v1", "EntryNormal \"x\"");
    assert!(is_failed(&at_rest(payload, change), "entry: expected 1/6 EntryNormal"));
    let found = at_rest(change, payload);
    // The leader leaves the joint configuration, and the third change is about nothing.
    assert!(is_failed(&found, "last index: expected 7, found 9") && !is_failed(&found, "entry"), "{found:?}");
}

/// A script of three voters, of which the leader removes one, by the change that is given.
fn removal(change: &str, configuration: &str) -> String {
    format!(
        "log-level none\n----\nok\n\nadd-nodes 3 voters=(1,2,3) index=6\n----\nok\n\ncampaign 2\n----\nok\n\n\
        stabilize\n----\nok\n\nlog-level info\n----\nok\n\npropose-conf-change 2 v1=true\n{change}\n----\nok\n\n\
        stabilize\n----\n> 2 handling Ready\n  Entries:\n  1/8 EntryConfChange {change}\n> 1 handling Ready\n  Entries:\n  \
        1/8 EntryConfChange {change}\n> 2 handling Ready\n  HardState Term:1 Vote:2 Commit:8\n  CommittedEntries:\n  \
        1/8 EntryConfChange {change}\n  INFO 2 switched to configuration {configuration}\n> 1 handling Ready\n  HardState \
        Term:1 Vote:2 Commit:8\n  CommittedEntries:\n  1/8 EntryConfChange {change}\n  INFO 1 switched to configuration \
        {configuration}\n"
    )
}

#[test]
fn change_in_a_script_is_judged_in_removed_replicas_too() {
    let at_rest = |text: &str| interaction("etcd-interaction-a", text);
    let right = removal("r3", "voters=(1 2)");
    assert_eq!(at_rest(&right), [Outcome::Passed]);
    assert!(is_failed(&at_rest(&removal("r3", "voters=(2 3)")), "configuration: expected voters=(2 3)"));
    let settled = right.replace("Commit:8", "Commit:9");
    assert!(is_failed(&at_rest(&settled), "commit: expected 9, found 8"));
    // Who is removed learns of it like the others; and of nothing that comes later.
    let entry = |node: u64, index: u64| {
        format!("{right}> {node} handling Ready\n  Entries:\n  1/{index} EntryConfChange r3\n")
    };
    assert_eq!(at_rest(&entry(3, 8)), [Outcome::Passed]);
    assert!(is_failed(&at_rest(&entry(3, 9)), "node 3"));
    assert!(is_failed(&at_rest(&entry(1, 9)), "node 1"));
    assert!(is_failed(
        &at_rest(&entry(3, 7)),
        "entry: expected 1/7 EntryConfChange r3, found 1/7 EntryNormal"
    ));
}
