//! etcd's output, read as facts.
//!
//! ```text
//! > 1 handling Ready                             whose turn it is, where a command names several nodes
//!   Lead:1 State:StateLeader                     role
//!   HardState Term:1 Vote:1 Commit:2             what is made durable …
//!   Entries:
//!   1/3 EntryNormal "x"                          … term/index, kind, payload
//!   Snapshot Index:11 Term:1 ConfState:…         … or a snapshot in place of the log
//!   CommittedEntries:                            what is applied
//!   Messages:
//!   1->2 MsgVoteResp Term:1 Log:0/0 Rejected …   what is sent; after MsgSnap a line on the snapshot, after `Entries:[` or
//!   …                                            `Responses:[` lines up to `]`
//! > 1 processing append thread                   with asynchronous writes, entries become durable here
//! INFO 1 switched to configuration voters=(1 2)  log lines; of these, only configurations are read, see `belief`
//! ```
//! Facts are sentences, made in one place for both sides: [`Fact`].

use std::fmt;

use super::super::datadriven::Command;

/// Something that a step did, as both etcd's output and our cluster can tell it.
pub(super) enum Fact<'a> {
    /// An entry, as `term/index kind payload`, is durable.
    Durable { node: u64, entry: &'a str },
    /// It is applied.
    Applied { node: u64, entry: &'a str },
    /// A vote, or what would be one, was given or refused.
    Vote { from: u64, to: u64, is_pre: bool, granted: bool, term: u64 },
    /// A snapshot was sent; `what` is its index, term and configuration.
    SnapshotSent { from: u64, to: u64, what: &'a str },
    /// A snapshot took the place of the log.
    Installed { node: u64, what: &'a str },
    /// A line that the command prints.
    Line(&'a str),
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Durable { node, entry } => write!(f, "{node} has durable {entry}"),
            Self::Applied { node, entry } => write!(f, "{node} applies {entry}"),
            Self::Vote { from, to, is_pre, granted, term } => {
                let deed = match (is_pre, granted) {
                    (false, true) => "votes for",
                    (false, false) => "refuses",
                    (true, true) => "would vote for",
                    (true, false) => "would refuse",
                };
                write!(f, "{from} {deed} {to}")?;
                // A refusal carries the refuser's term, which says the same as its state does.
                if *granted { write!(f, " in term {term}") } else { Ok(()) }
            }
            Self::SnapshotSent { from, to, what } => write!(f, "{from} sends {to} a snapshot of {what}"),
            Self::Installed { node, what } => write!(f, "{node} installs a snapshot of {what}"),
            Self::Line(line) => f.write_str(line),
        }
    }
}

/// What a line belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A Ready's own lines, or its messages.
    Ready,
    Entries,
    Applied,
    AppendThread,
    /// Something that tells nothing new: received messages, answers, the apply thread.
    Other,
}

/// The facts that a command's output tells; `None` if output is switched off.
pub(super) fn facts(command: &Command, is_async: bool) -> Option<Vec<String>> {
    if is_silent(command) {
        return None;
    }
    let mut facts: Vec<String> = Vec::new();
    let mut node = first_node(command);
    let mut part = match command.name.as_str() {
        "process-ready" | "send-snapshot" => Part::Ready,
        "process-append-thread" => Part::AppendThread,
        _ => Part::Other,
    };
    let (mut is_responses, mut snapshot_to) = (false, None);
    for line in command.expected.lines().map(str::trim).filter(|line| !is_log_line(line)) {
        if let Some((at, what)) = section(line) {
            (node, is_responses) = (at, false);
            part = match what {
                "handling Ready" => Part::Ready,
                "processing append thread" => Part::AppendThread,
                _ => Part::Other,
            };
            continue;
        }
        match line {
            "Entries:" => part = Part::Entries,
            "CommittedEntries:" => part = Part::Applied,
            "Messages:" => part = Part::Ready,
            "Responses:" => is_responses = true,
            "Processing:" => is_responses = false,
            _ if command.name == "status" => facts.extend(matched(line)),
            _ if is_look(command) || command.name == "compact" => facts.push(Fact::Line(line).to_string()),
            _ if part == Part::Other => {}
            _ => {
                if let Some(what) = line.strip_prefix("Snapshot ") {
                    facts.push(Fact::Installed { node, what }.to_string());
                } else if let Some(what) = line.strip_prefix("Snapshot: ") {
                    facts.extend(
                        snapshot_to.take().map(|to| Fact::SnapshotSent { from: node, to, what }.to_string()),
                    );
                } else if is_entry(line) {
                    let fact = match part {
                        Part::Entries if !is_async => Some(Fact::Durable { node, entry: line }),
                        Part::Applied => Some(Fact::Applied { node, entry: line }),
                        Part::AppendThread if !is_responses => Some(Fact::Durable { node, entry: line }),
                        _ => None,
                    };
                    facts.extend(fact.map(|fact| fact.to_string()));
                } else if let Some((from, to, kind, rest)) = message(line) {
                    if part == Part::Ready {
                        facts.extend(vote(from, to, kind, rest).map(|fact| fact.to_string()));
                    }
                    if kind == "MsgSnap" {
                        snapshot_to = to.parse().ok();
                    }
                    if part == Part::AppendThread && !is_responses && kind == "MsgStorageAppend" {
                        let durable = |entry: &str| Fact::Durable { node, entry }.to_string();
                        facts.extend(bracketed(rest).into_iter().map(durable));
                    }
                }
            }
        }
    }
    Some(facts)
}

/// Whether a command printed nothing but that it is done, since its output is switched off.
pub(super) fn is_silent(command: &Command) -> bool {
    command.expected.trim() == "ok"
}

/// Whether a command only looks.
pub(super) fn is_look(command: &Command) -> bool {
    matches!(command.name.as_str(), "raft-state" | "raft-log" | "status")
}

/// What is compared of `2: StateReplicate match=11 next=12`.
fn matched(line: &str) -> Option<String> {
    let (node, progress) = line.split_once(": ")?;
    let matched = progress.split(' ').find(|word| word.starts_with("match="))?;
    Some(Fact::Line(&format!("{node}: {matched}")).to_string())
}

/// The first node that a command names.
pub(super) fn first_node(command: &Command) -> u64 {
    command.words.first().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// A line that says whose turn it is.
pub(super) fn section(line: &str) -> Option<(u64, &str)> {
    let (node, what) = line.strip_prefix("> ")?.split_once(' ')?;
    Some((node.parse().ok()?, what))
}

pub(super) fn is_log_line(line: &str) -> bool {
    ["DEBUG ", "INFO ", "WARN ", "ERROR ", "FATAL ", "PANIC "].iter().any(|level| line.starts_with(level))
}

/// `term/index Kind …`
pub(super) fn is_entry(line: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((id, kind)) = line.split_once(' ') else { return false };
    id.split_once('/').is_some_and(|(term, index)| is_number(term) && is_number(index))
        && kind.starts_with("Entry")
}

/// `from->to Kind rest`
fn message(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (way, rest) = line.split_once(' ')?;
    let (from, to) = way.split_once("->")?;
    let (kind, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((from, to, kind, rest))
}

/// A vote, unless it is a replica's own.
fn vote<'a>(from: &str, to: &str, kind: &str, rest: &str) -> Option<Fact<'a>> {
    let is_pre = match kind {
        "MsgVoteResp" => false,
        "MsgPreVoteResp" => true,
        _ => return None,
    };
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    let term = rest.strip_prefix("Term:")?.split(' ').next()?.parse().ok()?;
    let granted = !rest.contains("Rejected");
    (from != to).then_some(Fact::Vote { from, to, is_pre, granted, term })
}

/// The entries in `… Entries:[a, b]…`.
fn bracketed(rest: &str) -> Vec<&str> {
    let Some((_, list)) = rest.split_once("Entries:[") else { return Vec::new() };
    let list = list.split(" Responses:[").next().unwrap_or(list);
    let list = list.strip_suffix(']').unwrap_or(list);
    list.split(", ").map(str::trim).filter(|entry| is_entry(entry)).collect()
}
