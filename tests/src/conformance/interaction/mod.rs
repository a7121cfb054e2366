//! etcd's interaction scripts, run on groups of `raftwerk_raft`.
//!
//! A script is a list of commands to a small cluster and what etcd's replicas printed. What is compared of that is what
//! any correct Raft shares with it:
//! - **at rest** (suite `etcd-interaction-a`, a case a script): whenever a command lets replicas settle, their role, term,
//!   leader, vote, commit index, log and configuration, as far as the output so far tells them; and, whenever a script looks
//!   at roles, logs on disk, or how far replicas match, what it sees;
//! - **step by step** (suite `etcd-interaction-b`, a case a fact): which entries became durable or were applied by which
//!   command, which votes were given or refused, which snapshots were sent and installed.
//!
//! What is not compared: log lines, the number of empty appends and heartbeats, numbers that only concern flow control, and
//! hints. etcd's configurations count when applied, ours when appended: they are compared at rest.
//!
//! Where to go next: [`cluster`] and [`node`] for how commands become inputs, [`printed`] for how etcd's output is read,
//! [`belief`] for what it tells about replicas.

mod belief;
mod cluster;
mod node;
mod parcel;
mod printed;
mod waiver;

use std::collections::BTreeMap;
use std::path::Path;

use belief::Belief;
use cluster::Cluster;

use super::datadriven::{self, Command};
use super::{Case, Outcome, SuiteError, files, name_of, read};
use waiver::Loose;

/// Every script at rest.
pub(super) fn at_rest(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    let case = |(name, run): (String, Run)| Case { name, outcome: run.outcome_at_rest() };
    Ok(run_all(folder)?.into_iter().map(case).collect())
}

/// Every fact of every script.
pub(super) fn step_by_step(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    Ok(run_all(folder)?.into_iter().flat_map(|(_, run)| run.facts).collect())
}

fn run_all(folder: &Path) -> Result<Vec<(String, Run)>, SuiteError> {
    let mut runs = Vec::new();
    for path in files(&folder.join("etcd-raft/testdata"), ".txt")? {
        let name = name_of(&path);
        let run = Run::of(&name, &read(&path)?);
        runs.push((name, run));
    }
    Ok(runs)
}

/// What came of a script.
#[derive(Debug, Default)]
struct Run {
    /// How many things were compared at rest.
    compared: usize,
    /// Where replicas at rest are not as they should be.
    differences: Vec<String>,
    facts: Vec<Case>,
    /// Facts that are missing, or that should not be.
    loose: Vec<Loose>,
    /// Counts the rests: times at which the whole cluster had settled.
    span: usize,
    /// The spans in which a configuration was being changed.
    changing: Vec<usize>,
}

impl Run {
    fn of(name: &str, text: &str) -> Self {
        let mut run = Self::default();
        let commands = match datadriven::parse(text) {
            Ok(commands) => commands,
            Err(what) => {
                run.differences.push(what.clone());
                run.facts.push(Case { name: name.to_owned(), outcome: Outcome::Failed(what) });
                return run;
            }
        };
        let (mut cluster, mut belief) = (Cluster::default(), Belief::default());
        let mut is_stopped = None;
        for command in &commands {
            if is_stopped.is_none() {
                is_stopped =
                    cluster.perform(command).err().map(|what| format!("line {}: {what}", command.line));
            }
            let (expected, found) = (printed::facts(command, cluster.is_async), cluster.take_facts());
            if !printed::is_look(command) {
                run.compare_facts(name, command, expected.as_deref(), &found, is_stopped.as_deref());
            }
            if cluster.is_changing() && run.changing.last() != Some(&run.span) {
                run.changing.push(run.span);
            }
            belief.learn(command, &cluster);
            if is_stopped.is_none() && (printed::is_look(command) || command.name == "stabilize") {
                run.compare_at_rest(command, expected.as_deref(), &belief, &cluster);
            }
            if command.name == "stabilize" && cluster.is_at_rest() {
                run.span += 1;
            }
        }
        if is_stopped.is_none() {
            run.judge_loose_facts();
        }
        run.facts.extend(run.loose.iter().filter_map(|loose| loose.case(name)));
        run.differences.extend(is_stopped);
        run
    }

    fn outcome_at_rest(&self) -> Outcome {
        if !self.differences.is_empty() {
            Outcome::Failed(self.differences.join("\n  "))
        } else if self.compared == 0 {
            Outcome::Failed("nothing in it could be compared at rest".to_owned())
        } else {
            Outcome::Passed
        }
    }

    /// In the middle of a change the two may differ: then it is put off until all has settled.
    fn compare_at_rest(
        &mut self,
        command: &Command,
        expected: Option<&[String]>,
        belief: &Belief,
        cluster: &Cluster,
    ) {
        let (compared, differences) = differences(command, expected, belief, cluster);
        if differences.is_empty() || !cluster.is_changing() || cluster.is_at_rest() {
            self.compared += compared;
            self.differences.extend(differences);
        }
    }

    /// Facts of a command, each as often as it was seen. Where etcd's output is switched off, there is nothing to compare.
    fn compare_facts(
        &mut self,
        name: &str,
        command: &Command,
        expected: Option<&[String]>,
        found: &[String],
        stopped: Option<&str>,
    ) {
        let Some(expected) = expected else { return };
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for fact in expected {
            counts.entry(fact).or_default().0 += 1;
        }
        for fact in found {
            counts.entry(fact).or_default().1 += 1;
        }
        for (fact, (expected, found)) in counts {
            let case_name = format!("{name}:{}: {fact}", command.line);
            for at in 0..expected.max(found) {
                if at < expected && at < found {
                    self.facts.push(Case { name: case_name.clone(), outcome: Outcome::Passed });
                    continue;
                }
                let missing = || stopped.map_or("is missing".to_owned(), |why| format!("not reached: {why}"));
                let is_missing = at < expected;
                let what = if is_missing { missing() } else { "should not be".to_owned() };
                self.loose.push(Loose {
                    line: command.line,
                    span: self.span,
                    fact: fact.to_owned(),
                    is_missing,
                    outcome: Some(Outcome::Failed(what)),
                });
            }
        }
    }
}

/// Where a cluster is not what is known of it, or a look does not see what it should; and how much was compared.
fn differences(
    command: &Command,
    expected: Option<&[String]>,
    belief: &Belief,
    cluster: &Cluster,
) -> (usize, Vec<String>) {
    let (mut compared, mut differences) = belief.differences(command, cluster);
    if let Some(expected) = expected.filter(|_| printed::is_look(command)) {
        let mut looking = cluster.clone();
        looking.take_facts();
        let found = looking.perform(command).map(|()| looking.take_facts());
        compared += expected.len();
        if found.as_deref() != Ok(expected) {
            differences.push(format!("line {}: expected {expected:?}, found {found:?}", command.line));
        }
    }
    (compared, differences)
}
