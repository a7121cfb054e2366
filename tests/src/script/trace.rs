//! The output of a command: short lines about what replicas do and say.

use std::fmt::Display;

use raftwerk_frame::{Configuration, EntryId, Index, Message, NodeId};
use raftwerk_raft::Role;

use super::image::{Entry, runs};
use super::wire::{Letter, Parcel};

/// Lines, as they come.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: Vec<String>,
    /// Leaves messages out.
    pub(crate) is_quiet: bool,
    /// Whether what comes now is the consequence of a message.
    pub(crate) is_deep: bool,
}

impl Trace {
    /// Something that a replica does.
    pub(crate) fn deed(&mut self, line: impl Display) {
        let indent = if self.is_deep && !self.is_quiet { "  " } else { "" };
        self.lines.push(format!("{indent}{line}"));
    }

    /// A message that leaves (`->`), arrives (`=>`) or is lost (`-x`).
    pub(crate) fn letter(&mut self, arrow: &str, letter: &Letter) {
        if !self.is_quiet {
            self.deed(format_args!("{}{arrow}{} {}", letter.from.0, letter.to.0, parcel(&letter.parcel)));
        }
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

/// A parcel in a few words.
pub(crate) fn parcel(parcel: &Parcel) -> String {
    match parcel {
        Parcel::Message { message, entries } => self::message(message, entries),
        Parcel::Snapshot { term, checkpoint, .. } => format!("snapshot {term} at {}", checkpoint.id),
    }
}

fn message(message: &Message, entries: &[Entry]) -> String {
    let yes = |granted: bool| if granted { "yes" } else { "no" };
    let of_round = |round: u64| if round == 0 { String::new() } else { format!(" round {round}") };
    let of_rest = |rest: bool| if rest { " rest" } else { "" };
    match *message {
        Message::PreVote { term, last } => format!("pre-vote {term} log {last}"),
        Message::PreVoteReply { term, granted } => format!("pre-vote {} {term}", yes(granted)),
        Message::Vote { term, last, transfer } => {
            format!("vote {term} log {last}{}", if transfer { " transfer" } else { "" })
        }
        Message::VoteReply { term, granted } => format!("vote {} {term}", yes(granted)),
        Message::Append { term, prev, commit, .. } => {
            format!("append {term} prev {prev} [{}] commit {commit}", spans(entries))
        }
        Message::AppendWritten { term, matched, .. } => format!("written {term} to {matched}"),
        Message::AppendAck { term, matched, .. } => format!("ack {term} to {matched}"),
        Message::AppendReject { term, rejected, hint } => format!("reject {term} at {rejected} hint {hint}"),
        Message::Heartbeat { term, commit, round, quiesce } => {
            format!("heartbeat {term} commit {commit}{}{}", of_round(round), of_rest(quiesce))
        }
        Message::HeartbeatAck { term, round, quiesce, .. } => {
            format!("heartbeat-ack {term}{}{}", of_round(round), of_rest(quiesce))
        }
        Message::LeaderQuery { term, follows: true } => format!("doubt {term}"),
        Message::LeaderQuery { term, follows: false } => format!("ask who leads {term}"),
        Message::NotLeader { term } => format!("renounce {term}"),
        Message::TimeoutNow { term } => format!("timeout-now {term}"),
        Message::Removed { configuration, .. } => format!("removed by {configuration}"),
        Message::ReadIndex { term, round } => format!("read-index {term} number {round}"),
        Message::ReadIndexReply { term, round, index } => {
            format!("read-index {term} number {round} at {index}")
        }
    }
}

/// `1@1 2..4@2`: entries, a run at a time.
pub(crate) fn spans(entries: &[Entry]) -> String {
    let mut first = entries.first().map_or(Index(0), |entry| entry.id.index);
    let spans = runs(entries).into_iter().map(|run| {
        let last = EntryId::new(run.term, first.plus(run.count - 1));
        let text = if run.count == 1 { last.to_string() } else { format!("{first}..{last}") };
        first = last.index.next();
        text
    });
    spans.collect::<Vec<_>>().join(" ")
}

/// `4` or `4..7`.
pub(crate) fn range(first: Index, last: Index) -> String {
    if first == last { first.to_string() } else { format!("{first}..{last}") }
}

/// What entries say: their payloads, `-` for a no-op, `?` where that is withheld.
pub(crate) fn payloads<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let one = |entry: &'a Entry| match &entry.configuration {
        Some(configuration) => self::configuration(configuration),
        None if entry.is_withheld => "?".to_owned(),
        None => entry.payload.as_deref().unwrap_or("-").to_owned(),
    };
    entries.map(one).collect::<Vec<_>>().join(" ")
}

/// `{1 2 3}`; `{1 2}&{2 3}` while it is joint, new half first; then learners `+4`, and those to be learners `~3`. Witnesses are
/// marked: `3w`.
pub(crate) fn configuration(configuration: &Configuration) -> String {
    let list = |nodes: &[NodeId], mark: &str| {
        let kind = |node: NodeId| if configuration.is_witness(node) { "w" } else { "" };
        nodes.iter().map(|node| format!("{mark}{}{}", node.0, kind(*node))).collect::<Vec<_>>().join(" ")
    };
    let mut text = format!("{{{}}}", list(&configuration.voters, ""));
    if configuration.is_joint() {
        text += &format!("&{{{}}}", list(&configuration.outgoing, ""));
    }
    for (nodes, mark) in [(&configuration.learners, "+"), (&configuration.learners_next, "~")] {
        if !nodes.is_empty() {
            text += &format!(" {}", list(nodes, mark));
        }
    }
    text
}

pub(crate) const fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::Term;

    use super::*;

    #[test]
    fn entries_are_shown_a_run_at_a_time() {
        let entry = |index, term| Entry::with_payload(EntryId::new(Term(term), Index(index)), None);
        assert_eq!(spans(&[entry(3, 1), entry(4, 2), entry(5, 2), entry(6, 4)]), "3@1 4..5@2 6@4");
        assert_eq!(spans(&[]), "");
        assert_eq!(range(Index(2), Index(2)), "2");
    }
}
