//! Which configuration follows from another by which changes, against `raftwerk_raft::reconfig`.
//!
//! ```text
//! simple                                the way: `simple`, `enter-joint`, with `autoleave=true` or without, `leave-joint`
//! v1 l2 r3 u4                           the changes: vote, learn, remove; `u` changes nothing
//! ----
//! voters=(1)&&(3) learners=(2)          the configuration, or why there is none, and …
//! 1: StateProbe match=0 next=1          … for each replica, `next` is the number of the command that it came in with
//! ```
//! A file is one chain of configurations, from the empty one. They, and the refusals, are the core's. The numbers are kept
//! here: they show who was replaced rather than changed.
//!
//! What is not here: when a leader may make a change; the interaction scripts are about that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use raftwerk_frame::{Configuration, NodeId};
use raftwerk_raft::reconfig::{self, Change, ChangeError};

use super::datadriven::{self, Command};
use super::{Case, Outcome, SuiteError, cases_of};

/// etcd's files: everything must be the same, to the letter.
pub(super) fn etcd(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    cases_of(&folder.join("etcd-raft/confchange/testdata"), "", |text| judge(text, false))
}

/// raft-rs' files: where they differ from what etcd would print, etcd is right.
pub(super) fn raft_rs(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    cases_of(&folder.join("raft-rs/confchange"), "confchange/", |text| judge(text, true))
}

fn judge(text: &str, is_raft_rs: bool) -> Outcome {
    let commands = match datadriven::parse(text) {
        Ok(commands) => commands,
        Err(what) => return Outcome::Failed(what),
    };
    let (mut chain, mut from_zero) = (Chain::counting_from(1), Chain::counting_from(0));
    let (mut differences, mut other_numbers) = (Vec::new(), Vec::new());
    for command in &commands {
        let (line, expected) = (command.line, &command.expected);
        let found = chain.perform(command);
        let also = from_zero.perform(command);
        if found.as_ref() == Ok(expected) {
        } else if is_raft_rs && also.as_ref() == Ok(expected) {
            other_numbers.push(line);
        } else {
            let found = found.unwrap_or_else(|what| what);
            differences.push(format!("line {line}: expected\n{expected}\nfound\n{found}"));
        }
    }
    if !differences.is_empty() {
        Outcome::Failed(differences.join("\n"))
    } else if commands.is_empty() {
        Outcome::Failed("there is no command in it".to_owned())
    } else if !other_numbers.is_empty() {
        Outcome::Waived(format!(
            "at lines {other_numbers:?} replicas are numbered from 0, and by etcd from 1; all configurations agree"
        ))
    } else {
        Outcome::Passed
    }
}

/// The configuration that a file has come to.
#[derive(Debug)]
struct Chain {
    configuration: Configuration,
    /// The command that each replica came in with.
    came: BTreeMap<NodeId, u64>,
    /// How many commands there were.
    count: u64,
    /// What replicas of the first command are numbered.
    first: u64,
}

impl Chain {
    fn counting_from(first: u64) -> Self {
        Self { configuration: Configuration::default(), came: BTreeMap::new(), count: 0, first }
    }

    /// What a command prints; an error if it is none.
    fn perform(&mut self, command: &Command) -> Result<String, String> {
        let number = self.count.max(self.first);
        self.count += 1;
        let changes = changes(command.body.iter().flat_map(|line| line.split_whitespace()))?;
        let from = &self.configuration;
        let next = match command.name.as_str() {
            "simple" => reconfig::simple(from, &changes),
            "enter-joint" => {
                let auto_leave = match command.list("autoleave") {
                    [] => false,
                    [one] => one.parse().map_err(|_| format!("`{one}` is neither true nor false"))?,
                    _ => return Err("`autoleave` is one word".to_owned()),
                };
                reconfig::enter_joint(
                    from,
                    &changes,
                    if auto_leave { reconfig::Leave::Automatically } else { reconfig::Leave::OnRequest },
                )
            }
            "leave-joint" if changes.is_empty() => reconfig::leave_joint(from),
            other => return Err(format!("`{other}`, so written, is no command of this suite")),
        };
        match next {
            Ok(next) => {
                self.renumber(&changes, &next, number);
                self.configuration = next;
                self.print()
            }
            Err(error) => Ok(in_etcds_words(error).to_owned()),
        }
    }

    /// Notes who has come and gone. One that goes and comes back has come anew, unless it votes all the while in a joint
    /// configuration's old half.
    fn renumber(&mut self, changes: &[Change], next: &Configuration, number: u64) {
        for change in changes.iter().filter(|change| change.node() != NodeId(0)) {
            let node = change.node();
            if !matches!(change, Change::Remove(_)) {
                self.came.entry(node).or_insert(number);
            } else if !next.outgoing.contains(&node) {
                self.came.remove(&node);
            }
        }
        self.came.retain(|node, _| !changes.is_empty() || next.contains(*node));
    }

    /// The configuration and its replicas.
    fn print(&self) -> Result<String, String> {
        let replicas = self.configuration.replicas();
        if !replicas.iter().eq(self.came.keys()) {
            return Err(format!("{:?} came and did not go, {replicas:?} are there", self.came.keys()));
        }
        let mut text = in_words(&self.configuration);
        for (node, number) in &self.came {
            let learner = if self.configuration.learners.contains(node) { " learner" } else { "" };
            _ = write!(text, "\n{}: StateProbe match=0 next={number}{learner}", node.0);
        }
        Ok(text)
    }
}

/// Changes as these files and the interaction scripts write them: `v1 l2 r3 u4`.
pub(super) fn changes<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    for word in words {
        let node = word.get(1..).and_then(|id| id.parse().ok()).map(NodeId);
        let node = node.ok_or_else(|| format!("`{word}` is no change"))?;
        match word.as_bytes()[0] {
            b'v' => changes.push(Change::Voter(node)),
            b'l' => changes.push(Change::Learner(node)),
            b'r' => changes.push(Change::Remove(node)),
            // What etcd keeps for whoever drives it; nothing to Raft.
            b'u' => {}
            _ => return Err(format!("`{word}` is no change")),
        }
    }
    Ok(changes)
}

const fn in_etcds_words(error: ChangeError) -> &'static str {
    match error {
        ChangeError::AlreadyJoint => "config is already joint",
        ChangeError::SimpleInJoint => "can't apply simple config change in joint config",
        ChangeError::NotJoint => "can't leave a non-joint config",
        ChangeError::NoVoters => "can't make a zero-voter config joint",
        ChangeError::AllVotersRemoved => "removed all voters",
        ChangeError::ManyVoters => "more than one voter changed without entering joint config",
        ChangeError::TooMany => "more replicas than a configuration may name",
        ChangeError::OtherLog(_) => "a replica with another log",
        ChangeError::OtherKind(_) => "a witness that was none, or is to be none",
        ChangeError::TooManyWitnesses => "too many witnesses",
    }
}

/// A configuration in etcd's words.
pub(super) fn in_words(configuration: &Configuration) -> String {
    let list = |nodes: &[NodeId]| nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = format!("voters=({})", list(&configuration.voters));
    let mut add = |is_there: bool, more: String| {
        if is_there {
            text.push_str(&more);
        }
    };
    let Configuration { outgoing, learners, learners_next, auto_leave, .. } = configuration;
    add(!outgoing.is_empty(), format!("&&({})", list(outgoing)));
    add(!learners.is_empty(), format!(" learners=({})", list(learners)));
    add(!learners_next.is_empty(), format!(" learners_next=({})", list(learners_next)));
    add(*auto_leave, " autoleave".to_owned());
    text
}
