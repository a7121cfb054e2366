//! Runs scripts: the meaning of every command.

use std::time::Duration;

use raftwerk_frame::{Index, NodeId};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Admission, Input, Reconfigure, Transition};

use super::arguments::{Arguments, parse};
use super::cluster::Cluster;
use super::look;
use super::replica::Beside;
use super::text::Text;
use super::wire::Filter;

/// Why a script could not be run to its end: it is not well formed, or the cluster broke a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Failure {
    /// The command's line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// Runs a script and returns its text with the output as it really is: equal to `text` if and only if every
/// expectation holds and the file is in its normal form.
///
/// Deterministic: the same text gives the same answer. Cost: every replica's log is walked after every step, so keep
/// logs short.
///
/// # Errors
/// [`Failure`] on a command that makes no sense and on a broken rule.
pub fn run(text: &str) -> Result<String, Failure> {
    let no_rule = |line| Failure { line, what: "commands without a line ---- after them".to_owned() };
    let mut text = Text::parse(text).map_err(no_rule)?;
    let mut cluster = Cluster::default();
    for block in &mut text.blocks {
        for (line, command) in block.commands.iter().filter(|(_, command)| !command.starts_with('#')) {
            perform(&mut cluster, command).map_err(|what| Failure { line: *line, what })?;
        }
        block.output = cluster.trace.take();
        if block.output.is_empty() {
            block.output.push("ok".to_owned());
        }
    }
    Ok(text.render())
}

/// Says where a script's text and what [`run`] made of it part, for people.
#[must_use]
pub fn first_difference(expected: &str, told: &str) -> String {
    let (mut expected, mut told) = (expected.lines(), told.lines());
    let mut line = 0;
    loop {
        line += 1;
        match (expected.next(), told.next()) {
            (None, None) => return "they differ in ends of lines".to_owned(),
            (one, other) if one == other => {}
            (one, other) => {
                let show = |line: Option<&str>| line.unwrap_or("the end").to_owned();
                return format!("line {line}\n  expected: {}\n  told:     {}", show(one), show(other));
            }
        }
    }
}

fn perform(cluster: &mut Cluster, line: &str) -> Result<(), String> {
    let mut arguments = Arguments::parse(line);
    cluster.trace.is_quiet = arguments.switch("quiet");
    match arguments.name {
        "cluster" => cluster.start(&mut arguments)?,
        "given" => {
            let node = arguments.need_node()?;
            cluster.give(node, &mut arguments)?;
        }
        "timeout" | "heartbeat" | "advance" | "run" | "wait" => pass_time(cluster, &mut arguments)?,
        "propose" | "read" | "read-anywhere" | "campaign" | "snapshot-failed" | "unreachable"
        | "transfer" => {
            ask(cluster, &mut arguments)?;
        }
        "reconfigure" => reconfigure(cluster, &mut arguments)?,
        "join" => {
            let (node, is_witness) = (arguments.need_node()?, arguments.switch("witness"));
            cluster.join(node, is_witness)?;
        }
        "priority" => {
            let (node, priority) = (arguments.need_node()?, arguments.need_number("a priority")?);
            cluster.group(node)?;
            let group = cluster.replica(node)?.group.as_mut();
            group.into_iter().for_each(|group| group.set_priority(priority.min(255) as u8));
        }
        "deliver" | "drop" | "duplicate" | "hold" | "release" | "partition" | "isolate" | "heal"
        | "stabilize" => {
            use_wire(cluster, &mut arguments)?;
        }
        "durability" => cluster.set_durability(arguments.word().unwrap_or_default())?,
        "durable" | "crash" | "restart" | "compact" => use_disk(cluster, &mut arguments)?,
        "status" | "log" | "progress" | "state" | "messages" | "configuration" => {
            look_at(cluster, &mut arguments)?
        }
        other => return Err(format!("there is no command {other:?}")),
    }
    arguments.done()
}

fn pass_time(cluster: &mut Cluster, arguments: &mut Arguments<'_>) -> Result<(), String> {
    match arguments.name {
        "timeout" => cluster.time_out(arguments.need_node()?),
        "heartbeat" => {
            let node = arguments.need_node()?;
            if !cluster.group(node)?.is_leader() {
                return Err(format!("node {} does not lead", node.0));
            }
            cluster.time_out(node)
        }
        "advance" => cluster.advance(arguments.need_number("milliseconds")?, |_| Ok(())),
        "run" => cluster.advance(arguments.need_number("milliseconds")?, Cluster::stabilize),
        _ => {
            cluster.now = cluster.now + Duration::from_millis(arguments.need_number("milliseconds")?);
            Ok(())
        }
    }
}

fn ask(cluster: &mut Cluster, arguments: &mut Arguments<'_>) -> Result<(), String> {
    let node = arguments.need_node()?;
    let to = arguments.node("to")?;
    let peer = to.ok_or_else(|| format!("{} wants to=", arguments.name));
    match arguments.name {
        "propose" => {
            let payloads = arguments.words();
            let input = Input::Propose { count: payloads.len() as u32, bytes: payloads.len() as u64 };
            let beside = Beside { payloads: &payloads, ..Beside::default() };
            cluster.turn(node, |replica, now, trace| replica.step(now, input, beside, trace))
        }
        "read" | "read-anywhere" => {
            let is_anywhere = arguments.name == "read-anywhere";
            let count = arguments.next_number()?.unwrap_or(1);
            let first = cluster.reads + 1;
            cluster.reads += count;
            cluster.turn(node, |replica, now, trace| {
                for token in first..first + count {
                    let input =
                        if is_anywhere { Input::FollowerRead { token } } else { Input::Read { token } };
                    replica.step(now, input, Beside::default(), trace);
                }
            })
        }
        "campaign" => cluster.input(node, Input::Campaign),
        "transfer" => cluster.input(node, Input::Transfer { to: peer? }),
        "snapshot-failed" => cluster.input(node, Input::SnapshotFailed { to: peer? }),
        _ => cluster.input(node, Input::Unreachable { node: peer? }),
    }
}

fn reconfigure(cluster: &mut Cluster, arguments: &mut Arguments<'_>) -> Result<(), String> {
    let node = arguments.need_node()?;
    let seen = arguments.number("seen")?.map(Index);
    let dry_run = arguments.switch("dry-run");
    let route = match arguments.text("route") {
        None | Some("auto") => Transition::Auto,
        Some("joint") => Transition::Joint,
        Some("held") => Transition::JointHeld,
        Some(other) => return Err(format!("route={other}: auto, joint or held")),
    };
    let newcomers = match arguments.text("newcomers") {
        None | Some("checked") => Admission::Checked,
        Some("unchecked") => Admission::Unchecked,
        Some("awaited") => Admission::Awaited,
        Some(other) => return Err(format!("newcomers={other}: checked, unchecked or awaited")),
    };
    let change = |word: &&str| {
        let (kind, node) = word.split_at_checked(1).ok_or("which change?")?;
        let node = parse(node).map(NodeId)?;
        match kind {
            "v" => Ok(Change::Voter(node)),
            "l" => Ok(Change::Learner(node)),
            "r" => Ok(Change::Remove(node)),
            "w" => Ok(Change::Witness(node)),
            "x" => Ok(Change::WitnessLearner(node)),
            _ => Err(format!("{word}: v, l, r, w or x, and a node")),
        }
    };
    let changes: Result<Vec<Change>, String> = arguments.words().iter().map(change).collect();
    let wish = Reconfigure {
        changes: &changes?,
        logs: &[],
        expected_index: seen,
        transition: route,
        admission: newcomers,
        dry_run,
    };
    cluster.input(node, Input::Reconfigure(wish))
}

fn use_wire(cluster: &mut Cluster, arguments: &mut Arguments<'_>) -> Result<(), String> {
    match arguments.name {
        "stabilize" => return cluster.stabilize(),
        "release" => cluster.wire.release(filter(arguments)?),
        "heal" => cluster.wire.partition(Vec::new()),
        "hold" => cluster.wire.hold(filter(arguments)?),
        "isolate" => {
            let alone = arguments.need_node()?;
            let others = cluster.replicas.keys().copied().filter(|node| *node != alone).collect();
            cut(cluster, vec![vec![alone], others]);
        }
        "partition" => {
            let words = arguments.words();
            let side = |side: &[&str]| side.iter().map(|node| parse(node).map(NodeId)).collect();
            let sides: Result<Vec<Vec<NodeId>>, String> =
                words.split(|word| *word == "/").map(side).collect();
            cut(cluster, sides?);
        }
        name => {
            for number in letters(cluster, arguments)? {
                match name {
                    "deliver" => cluster.deliver(number)?,
                    "drop" => lose(cluster, number)?,
                    _ => double(cluster, number)?,
                }
            }
        }
    }
    Ok(())
}

fn filter(arguments: &mut Arguments<'_>) -> Result<Filter, String> {
    Ok(Filter { from: arguments.node("from")?, to: arguments.node("to")? })
}

/// The letters that a command names: by number, or by their way and how many.
fn letters(cluster: &Cluster, arguments: &mut Arguments<'_>) -> Result<Vec<u64>, String> {
    let (filter, is_last) = (filter(arguments)?, arguments.switch("last"));
    let word = arguments.word();
    if let Some(number) = word.and_then(|word| word.strip_prefix('#')) {
        return Ok(vec![parse(number)?]);
    }
    let mut numbers = cluster.wire.select(filter);
    if numbers.is_empty() {
        return Err("there is no such message".to_owned());
    }
    if is_last {
        numbers.drain(..numbers.len() - 1);
    }
    if let Some(count) = word {
        let count: usize = parse(count)?;
        if numbers.len() < count {
            return Err(format!("there are only {} such messages", numbers.len()));
        }
        numbers.truncate(count);
    }
    Ok(numbers)
}

fn lose(cluster: &mut Cluster, number: u64) -> Result<(), String> {
    let letter = cluster.wire.take(number).ok_or_else(|| format!("there is no message #{number}"))?;
    cluster.trace.letter("-x", &letter);
    Ok(())
}

fn double(cluster: &mut Cluster, number: u64) -> Result<(), String> {
    let letter = cluster.wire.letters().iter().find(|letter| letter.number == number);
    let letter = letter.ok_or_else(|| format!("there is no message #{number}"))?.clone();
    cluster.trace.letter("->", &letter);
    cluster.wire.put(letter.from, letter.to, letter.parcel);
    Ok(())
}

/// Cuts links; what is on them is lost.
fn cut(cluster: &mut Cluster, sides: Vec<Vec<NodeId>>) {
    cluster.wire.partition(sides);
    let on_cut = |letter: &&super::wire::Letter| cluster.wire.is_cut(letter.from, letter.to);
    let lost: Vec<u64> = cluster.wire.letters().iter().filter(on_cut).map(|letter| letter.number).collect();
    for letter in lost.into_iter().filter_map(|number| cluster.wire.take(number)).collect::<Vec<_>>() {
        cluster.trace.letter("-x", &letter);
    }
}

fn use_disk(cluster: &mut Cluster, arguments: &mut Arguments<'_>) -> Result<(), String> {
    let node = arguments.need_node()?;
    match arguments.name {
        "durable" => {
            let count = arguments.next_number()?.unwrap_or(u64::MAX);
            let mut done = 0;
            while done < count && cluster.sync(node)?.is_some() {
                done += 1;
            }
            if done == 0 { Err("nothing waits for the disk".to_owned()) } else { Ok(()) }
        }
        "crash" => {
            cluster.group(node)?;
            cluster.replica(node)?.crash();
            Ok(())
        }
        "restart" => {
            let now = cluster.now;
            let replica = cluster.replica(node)?;
            if replica.group.is_some() {
                return Err(format!("node {} is up", node.0));
            }
            *replica = replica.again(replica.disk.clone(), now);
            look::status(cluster, Some(node));
            Ok(())
        }
        _ => {
            let to = Index(arguments.number("to")?.ok_or("compact wants to=")?);
            let mut result = Ok(());
            cluster.turn(node, |replica, now, trace| result = replica.compact(to, now, trace))?;
            result
        }
    }
}

fn look_at(cluster: &mut Cluster, arguments: &mut Arguments<'_>) -> Result<(), String> {
    let node = arguments.next_number()?.map(NodeId);
    match arguments.name {
        "status" => look::status(cluster, node),
        "log" => look::log(cluster, node),
        "state" => look::state(cluster, node),
        "configuration" => look::configuration(cluster, node),
        "messages" => look::messages(cluster),
        _ => look::progress(cluster, node.ok_or("progress wants a node")?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_put_in_place_and_a_right_one_stays() {
        let told = run("cluster nodes=1\ntimeout 1\n----\n").unwrap();
        assert!(told.contains("1 is leader in t1\n"), "{told}");
        assert_eq!(run(&told).unwrap(), told);
    }

    #[test]
    fn a_command_without_sense_is_named_by_its_line() {
        let failure = run("# head\n\ncluster nodes=2\nsing 1\n----\n").unwrap_err();
        assert_eq!(failure.line, 4);
        assert_eq!(run("cluster\nstatus 1 2\n----\n").unwrap_err().line, 2);
    }
}
