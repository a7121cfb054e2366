//! What travels between the nodes of a script, and what etcd calls things: entries, messages, roles, snapshots.

use std::fmt;

use raftwerk_frame::{Configuration, EntryId, Index, Membership, Message, NodeId, Run, Term};
use raftwerk_raft::{Role, Transition};

use super::super::confchange;
use super::super::datadriven::Command;

/// An entry with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) content: Content,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing: it opens a leader's term.
    Opening,
    Payload(String),
    /// A change, as etcd words it. Without a configuration, it is one that changes nothing.
    Change {
        kind: &'static str,
        words: String,
        to: Option<Configuration>,
    },
}

/// A change of who takes part, as a script wants it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) is_v1: bool,
    pub(super) route: Transition,
    /// `v1 l2 r3`
    pub(super) words: String,
}

impl Wish {
    /// From a command: how in its first line, what in those that follow.
    pub(super) fn of(command: &Command) -> Result<Self, String> {
        let words = command.body.join(" ");
        let words = words.split_whitespace().collect::<Vec<_>>();
        confchange::changes(words.iter().copied())?;
        let count = words.len();
        let route = match command.list("transition") {
            // etcd takes one change in one step, and several through a joint configuration.
            [] if count < 2 => Transition::Auto,
            [auto] if auto == "auto" && count < 2 => Transition::Auto,
            [] => Transition::Joint,
            [way] if way == "auto" || way == "implicit" => Transition::Joint,
            [way] if way == "explicit" => Transition::JointHeld,
            way => return Err(format!("{way:?} is no transition")),
        };
        let is_v1 = command.list("v1") == ["true"];
        if is_v1 && (count != 1 || route != Transition::Auto) {
            return Err("in the first version a change is about one node".to_owned());
        }
        Ok(Self { is_v1, route, words: words.join(" ") })
    }

    pub(super) const fn kind(&self) -> &'static str {
        if self.is_v1 { "EntryConfChange" } else { "EntryConfChangeV2" }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ", self.id.term.0, self.id.index.0)?;
        match &self.content {
            Content::Opening => f.write_str("EntryNormal \"\""),
            Content::Payload(payload) => write!(f, "EntryNormal {payload:?}"),
            Content::Change { kind, words, .. } if words.is_empty() => f.write_str(kind),
            Content::Change { kind, words, .. } => write!(f, "{kind} {words}"),
        }
    }
}

/// What is on its way to a node.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Message {
        message: Message,
        entries: Vec<Entry>,
    },
    Snapshot {
        term: Term,
        id: EntryId,
        configuration: Configuration,
        /// Which of the leader's accounts of its receiver it belongs to.
        progress_epoch: u16,
    },
    /// A payload that a follower passes on to its leader.
    Proposal(String),
    /// The same with a change of who takes part.
    Wish(Wish),
    /// From the node's own disk.
    Durable(EntryId),
    /// From the node's own state machine.
    Applied(Index),
}

/// What etcd calls it.
pub(super) const fn kind_of(parcel: &Parcel) -> &'static str {
    match parcel {
        Parcel::Message { message, .. } => match message {
            Message::PreVote { .. } => "MsgPreVote",
            Message::PreVoteReply { .. } => "MsgPreVoteResp",
            Message::Vote { .. } => "MsgVote",
            Message::VoteReply { .. } => "MsgVoteResp",
            Message::Append { .. } => "MsgApp",
            Message::AppendAck { .. } | Message::AppendReject { .. } => "MsgAppResp",
            Message::Heartbeat { .. } => "MsgHeartbeat",
            Message::HeartbeatAck { .. } => "MsgHeartbeatResp",
            Message::TimeoutNow { .. } => "MsgTimeoutNow",
            Message::ReadIndex { .. } => "MsgReadIndex",
            Message::ReadIndexReply { .. } => "MsgReadIndexResp",
            // etcd tells nobody, and asks nobody.
            Message::Removed { .. }
            | Message::LeaderQuery { .. }
            | Message::NotLeader { .. }
            | Message::AppendWritten { .. } => "",
        },
        Parcel::Snapshot { .. } => "MsgSnap",
        Parcel::Proposal(_) | Parcel::Wish(_) => "MsgProp",
        Parcel::Durable(_) => "MsgStorageAppendResp",
        Parcel::Applied(_) => "MsgStorageApplyResp",
    }
}

/// Whether it asks for a vote.
pub(super) const fn is_request(parcel: &Parcel) -> bool {
    matches!(parcel, Parcel::Message { message: Message::Vote { .. } | Message::PreVote { .. }, .. })
}

/// What etcd calls it.
pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

/// A snapshot in etcd's words.
pub(super) fn content(id: EntryId, configuration: &Configuration) -> String {
    let list = |nodes: &[NodeId]| nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(" ");
    format!(
        "Index:{} Term:{} ConfState:Voters:[{}] VotersOutgoing:[{}] Learners:[{}] LearnersNext:[{}] AutoLeave:{}",
        id.index.0,
        id.term.0,
        list(&configuration.voters),
        list(&configuration.outgoing),
        list(&configuration.learners),
        list(&configuration.learners_next),
        configuration.auto_leave
    )
}

/// The configurations among entries.
pub(super) fn memberships(entries: &[Entry]) -> Vec<Membership> {
    let configuration = |entry: &Entry| match &entry.content {
        Content::Change { to: Some(to), .. } => {
            Some(Membership { index: entry.id.index, configuration: to.clone() })
        }
        _ => None,
    };
    entries.iter().filter_map(configuration).collect()
}

/// Entries as the core sees them.
pub(super) fn runs(entries: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.term == entry.id.term => run.count += 1,
            _ => runs.push(Run { term: entry.id.term, count: 1 }),
        }
    }
    runs
}
