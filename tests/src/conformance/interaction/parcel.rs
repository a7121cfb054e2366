//! What travels between the nodes of a script, and what etcd calls things: entries, messages, roles, snapshots.

use std::fmt;

use raftwerk_frame::{Configuration, EntryId, Index, Message, NodeId, Run, Term};
use raftwerk_raft::Role;

/// An entry with its payload; `None` opens a leader's term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) payload: Option<String>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.payload.as_deref().unwrap_or_default();
        write!(f, "{}/{} EntryNormal {payload:?}", self.id.term.0, self.id.index.0)
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
    },
    /// A payload that a follower passes on to its leader.
    Proposal(String),
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
            // etcd tells nobody.
            Message::Removed { .. } => "",
        },
        Parcel::Snapshot { .. } => "MsgSnap",
        Parcel::Proposal(_) => "MsgProp",
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
