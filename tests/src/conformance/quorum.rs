//! Votes and commit indices of majorities and joint majorities, against `raftwerk_raft::quorum`.
//!
//! ```text
//! committed cfg=(1,2) idx=(12,_)               what a quorum has reached; `_` is not known yet
//! committed cfg=(1,2) cfgj=(2,3) idx=(9,8,7)   of two halves; numbers in the order in which voters first appear
//! vote cfg=(1,2) cfgj=zero votes=(y,_)         `zero`: joint with nobody
//! ```
//! `committed` prints a table too: for each voter how many others are below it, as a bar, and its number. It is drawn here;
//! the number under it is the core's.

use std::fmt::Write as _;
use std::path::Path;

use raftwerk_frame::{Configuration, NodeId};
use raftwerk_raft::quorum::{self, VoteResult};

use super::datadriven::{self, Command};
use super::{Case, Outcome, SuiteError, cases_of};

/// etcd's files: everything must be the same, to the letter.
pub(super) fn etcd(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    cases_of(&folder.join("etcd-raft/quorum/testdata"), "", |text| judge(text, false))
}

/// raft-rs' files: numbers and votes must be the same. Where that project differs from etcd's, which it was made from,
/// etcd's is right.
pub(super) fn raft_rs(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    cases_of(&folder.join("raft-rs/quorum"), "quorum/", |text| judge(text, true))
}

fn judge(text: &str, is_raft_rs: bool) -> Outcome {
    let commands = match datadriven::parse(text) {
        Ok(commands) => commands,
        Err(what) => return Outcome::Failed(what),
    };
    let (mut differences, mut drawings, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    for command in &commands {
        let line = command.line;
        if is_raft_rs && command.name == "group_committed" {
            foreign.push(line);
            continue;
        }
        match evaluate(command, Ties::AllBarred) {
            Ok(found) if found == command.expected => {}
            Ok(_) if is_raft_rs && evaluate(command, Ties::FirstBarred).as_ref() == Ok(&command.expected) => {
                drawings.push(line);
            }
            Ok(found) => {
                differences.push(format!("line {line}: expected\n{}\nfound\n{found}", command.expected))
            }
            Err(what) => differences.push(format!("line {line}: {what}")),
        }
    }
    if !differences.is_empty() {
        Outcome::Failed(differences.join("\n"))
    } else if !foreign.is_empty() {
        Outcome::Waived(format!(
            "committing by groups of replicas (`group_committed`, {} commands) is a feature of raft-rs that Raft has not",
            foreign.len()
        ))
    } else if !drawings.is_empty() {
        Outcome::Waived(format!(
            "the tables at lines {drawings:?} draw voters with equal numbers differently than etcd does; all numbers agree"
        ))
    } else {
        Outcome::Passed
    }
}

fn evaluate(command: &Command, ties: Ties) -> Result<String, String> {
    let voters = nodes(command.list("cfg"))?;
    let outgoing = match command.list("cfgj") {
        [zero] if zero == "zero" => Vec::new(),
        ids => nodes(ids)?,
    };
    let mut all = Vec::new();
    for node in voters.iter().chain(&outgoing) {
        if !all.contains(node) {
            all.push(*node);
        }
    }
    let configuration = Configuration {
        outgoing: Configuration::of_voters(outgoing).voters,
        ..Configuration::of_voters(voters)
    };
    let answers = match command.name.as_str() {
        "committed" => command.list("idx"),
        "vote" => command.list("votes"),
        other => return Err(format!("`{other}` is no command of this suite")),
    };
    if answers.len() != all.len() {
        return Err(format!("{} voters, {} answers", all.len(), answers.len()));
    }
    let answer_of = |node: NodeId| {
        let at = all.iter().position(|voter| *voter == node);
        at.map(|at| answers[at].as_str()).filter(|answer| *answer != "_")
    };
    if command.name == "vote" {
        let vote = |node| answer_of(node).map(|answer| answer == "y");
        if let Some(odd) = answers.iter().find(|answer| !["y", "n", "_"].contains(&answer.as_str())) {
            return Err(format!("`{odd}` is no vote"));
        }
        return Ok(match quorum::vote_result(&configuration, vote) {
            VoteResult::Won => "VoteWon",
            VoteResult::Lost => "VoteLost",
            VoteResult::Pending => "VotePending",
        }
        .to_owned());
    }
    let mut known = Vec::new();
    for &node in &all {
        let number = answer_of(node).map(str::parse::<u64>).transpose();
        known.push((node, number.map_err(|_| format!("the index of {node} is no number"))?));
    }
    let number_of = |node| known.iter().find(|(voter, _)| *voter == node).and_then(|(_, number)| *number);
    let reached = quorum::reached(&configuration, |node| number_of(node).unwrap_or(0));
    let reached = reached.map_or("∞".to_owned(), |index| index.to_string());
    Ok(if known.is_empty() {
        format!("<empty majority quorum>{reached}")
    } else {
        format!("{}{reached}", table(&known, ties))
    })
}

fn nodes(ids: &[String]) -> Result<Vec<NodeId>, String> {
    ids.iter().map(|id| id.parse().map(NodeId).map_err(|_| format!("`{id}` is no node"))).collect()
}

/// How voters with equal numbers are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ties {
    /// etcd: each with its bar.
    AllBarred,
    /// raft-rs: only the first of them.
    FirstBarred,
}

/// A line for each voter, in rising order, with a bar as long as there are voters below it.
fn table(known: &[(NodeId, Option<u64>)], ties: Ties) -> String {
    let bars = known.len();
    let mut voters: Vec<(NodeId, bool, u64)> =
        known.iter().map(|(node, number)| (*node, number.is_some(), number.unwrap_or(0))).collect();
    voters.sort_unstable();
    let mut text = format!("{:bars$}    idx\n", "");
    for (at, &(node, is_known, index)) in voters.iter().enumerate() {
        let below = voters.iter().filter(|(_, _, other)| *other < index).count();
        let is_first = !voters[..at].iter().any(|(_, _, other)| *other == index);
        let bar = if is_known && (is_first || ties == Ties::AllBarred) { below } else { 0 };
        let drawn = format!("{}{}", "x".repeat(bar), if is_known { '>' } else { '?' });
        _ = writeln!(text, "{drawn:<width$} {index:>5}    (id={})", node.0, width = bars + 1);
    }
    text
}
