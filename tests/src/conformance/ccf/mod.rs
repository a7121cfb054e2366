//! CCF's consensus scenarios, run on groups of `raftwerk_raft`.
//!
//! A scenario is a list of commands, one a line, `name,argument,…`; `#` begins a comment. Nodes come as they are trusted;
//! messages wait in their sender's queue until a command dispatches or drops them; `assert_…` says what should be. What CCF
//! does otherwise than Raft is bridged by the adapter:
//! - **Signatures.** CCF commits up to signatures of the leader's term, and a new leader drops what is not signed. Here
//!   entries wait beside the leader until they are signed, and what counts as committed is the last signature of the leader's
//!   term that the core has committed; followers are told with the messages that bring the core's commit index.
//! - **Openings.** CCF's leaders write nothing of their own when they are elected, so here the driver opens a term, by the first
//!   entry that a scenario wants ([`raftwerk_raft::Opening::Driver`]); if that is a change, which has to come after something
//!   that is committed, by an entry that is not counted. Nor are those that leave a joint configuration.
//! - **Configurations.** One that removes nodes needs both majorities, so it is joint; it is left by `cleanup_nodes`, with
//!   which CCF ends a retirement, or by the next change.
//! - **Appends** are shipped by `periodic`, and when a follower answers that it is behind. Voters listen to all candidates.
//! - **Time.** A leader that has heard no quorum for an election timeout steps down; the core notices at the end of a period
//!   in which it heard none, so it is given the time for that. A candidate that was refused by too many is a follower here,
//!   and a candidate in CCF until its time is over.
//!
//! What is not here: CCF's ledger, snapshots, and keys.

mod network;
mod node;

use std::path::Path;

use network::Network;

use super::{Case, Outcome, SuiteError, files, name_of, read};

/// Every scenario.
pub(super) fn run(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    let mut cases = Vec::new();
    for path in files(&folder.join("ccf/scenarios"), "")? {
        cases.push(Case { name: name_of(&path), outcome: judge(&read(&path)?) });
    }
    Ok(cases)
}

fn judge(text: &str) -> Outcome {
    let (mut network, mut asserted) = (Network::default(), 0);
    for (number, line) in (1..).zip(text.lines()) {
        let command = line.split('#').next().unwrap_or_default().trim();
        if command.starts_with("====") {
            break;
        }
        let words: Vec<&str> = command.split(',').map(str::trim).collect();
        asserted += usize::from(words[0].starts_with("assert_"));
        if command.is_empty() {
            continue;
        }
        let done = network.perform(words[0], &words[1..]);
        if let Err(what) = network.assert_agreement() {
            return Outcome::Failed(format!("line {number}: `{command}`: {what}"));
        }
        if let Err(what) = done {
            return Outcome::Failed(format!("line {number}: `{command}`: {what}"));
        }
    }
    if asserted == 0 { Outcome::Failed("it asserts nothing".to_owned()) } else { Outcome::Passed }
}
