//! Errors, named by what the caller may do next. Certain and uncertain failure never share a variant.

use std::path::PathBuf;
use std::time::Duration;

use raftwerk_frame::{GroupId, Index, NodeId};
use raftwerk_raft::reconfig::ChangeError;

/// Why a proposal was not acknowledged. Every variant but [`ProposeError::Unknown`] means: it was not and will not be
/// applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// A bounded queue is full. Nothing happened: retry after a pause.
    #[error("busy: nothing happened, try again later")]
    Busy,
    /// This node does not lead the group. Nothing happened: go to the leader.
    #[error("not the leader{}", hint.map(|node| format!(", which may be {node}")).unwrap_or_default())]
    NotLeader {
        /// The leader, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// It may have been, or may yet be, applied. Never retry blindly: look first, or make the payload idempotent.
    #[error("the outcome is unknown: it may yet be applied")]
    Unknown,
    /// The payload is over the configured limit. Nothing happened, and it never will.
    #[error("a payload of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit, [`Config::payload_bytes_max`](crate::Config).
        max: usize,
    },
    /// The disk has no room for the log. Nothing happened; service resumes when there is room.
    #[error("the disk is full")]
    StorageFull,
    /// The log failed to sync and takes no more writes until the engine is opened again. Nothing happened.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// The group's state machine on this node has panicked ([`Quarantine`](crate::Quarantine)). Nothing happened; another node may lead soon.
    #[error("the state machine of group {0} has panicked on this node")]
    Quarantined(GroupId),
    /// This node has no such group.
    #[error("there is no group {0} on this node")]
    NoSuchGroup(GroupId),
    /// The engine is shutting down or has shut down. Nothing happened.
    #[error("the engine is closed")]
    Closed,
}

/// Why a read was not answered. A read changes nothing, so all may be retried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A bounded queue is full, or as many reads wait here as may ([`Config::reads_max`](crate::Config)): retry after a pause.
    #[error("busy, try again later")]
    Busy,
    /// This node does not lead the group, or lost the lead before it could answer; or, where the read was to wait, no
    /// leader has answered in time.
    #[error("not the leader{}", hint.map(|node| format!(", which may be {node}")).unwrap_or_default())]
    NotLeader {
        /// The leader, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// The query is over the configured limit.
    #[error("a query of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The state of this node's replica may be older than the bound allows, and in the given time nobody has said
    /// otherwise. The leader's node can serve the read; so can this one, a moment after it was asked.
    #[error("too stale{}", staleness.map(|age| format!(": {age:?}")).unwrap_or_default())]
    Stale {
        /// What is known of its age; `None`: nothing.
        staleness: Option<Duration>,
    },
    /// This node's replica has not yet seen what the session has. Another may have.
    #[error("behind the session: at {applied}, not {wanted}")]
    Behind {
        /// Its last entry.
        applied: Index,
        /// The session's.
        wanted: Index,
    },
    /// The level is one of a session, and none was given.
    #[error("this level wants a session")]
    NoSession,
    /// The state machine cannot be frozen: see [`StateMachine::freeze`](crate::StateMachine::freeze).
    #[error("the state machine cannot be frozen")]
    NotFreezable,
    /// This node's replica is a witness: it has no state, at any level. Go to another.
    #[error("a witness has no state{}", hint.map(|node| format!("; the leader may be {node}")).unwrap_or_default())]
    Witness {
        /// The leader, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// The state machine panicked at this query, as it said. Its state is taken for untouched; the next query is answered.
    #[error("the state machine panicked at the query: {0}")]
    Panicked(String),
    /// The group's state machine on this node has panicked ([`Quarantine`](crate::Quarantine)): it has no state. Go to another.
    #[error("the state machine of group {0} has panicked on this node")]
    Quarantined(GroupId),
    /// This node has no such group.
    #[error("there is no group {0} on this node")]
    NoSuchGroup(GroupId),
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}

/// The same reason, said of a read. A read has no uncertain outcome: one whose fate was lost was not answered.
impl From<ProposeError> for ReadError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Busy => Self::Busy,
            ProposeError::NotLeader { hint } => Self::NotLeader { hint },
            ProposeError::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            ProposeError::NoSuchGroup(group) => Self::NoSuchGroup(group),
            ProposeError::Quarantined(group) => Self::Quarantined(group),
            ProposeError::Poisoned | ProposeError::StorageFull => Self::NotLeader { hint: None },
            ProposeError::Closed | ProposeError::Unknown => Self::Closed,
        }
    }
}

/// Why a group could not be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The group is here already, with other founders, or as a witness where none is meant, or the other way about; or it was removed a moment ago, and its files are still going.
    #[error("group {0} exists here, with other founders or about to go")]
    Exists(GroupId),
    /// A replica of the group was here and was removed. What it promised binds whoever comes after it in this log: the group
    /// can be joined here, and not founded again.
    #[error("group {0} was here before, and can only be joined")]
    Removed(GroupId),
    /// The log here was damaged, and has lost what nobody can name: a replica of this group may have been among it, with what it
    /// had promised; or one was removed here, and some of its promises are lost. If it is a member elsewhere, take it out there and let it join (joining is always possible, and never founding); if it is new, or nobody has it any longer,
    /// an operator says so: [`Engine::loss`](crate::Engine::loss), [`Engine::accept_loss`](crate::Engine::accept_loss).
    #[error("group {0} may have been here, and been lost")]
    Lost(GroupId),
    /// The 65,537 highest numbers are the log's own.
    #[error("no group can be called {0}")]
    Reserved(GroupId),
    /// More than seven vote, somebody is named twice, or this node is not named.
    #[error("these members make no group: {0}")]
    Voters(&'static str),
    /// Nobody votes, too many take part, or ([`ChangeError::TooManyWitnesses`]) too few voters would hold payloads: fewer than two
    /// beside a witness, or no more than there are witnesses.
    #[error("these members make no group: {0:?}")]
    Founders(ChangeError),
    /// The disk has no room.
    #[error("the disk is full")]
    StorageFull,
    /// The log failed and takes no more writes until the engine is opened again.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}

/// Why a peer's new log could not be noted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// A replica on this node takes the peer for one of its group's first voters still: take it out of the group first, and
    /// let this node hear of that.
    #[error("group {0} has the peer for a first voter")]
    Member(GroupId),
    /// It could not be noted; nothing has changed.
    #[error("the disk refused the note")]
    Disk,
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is outside its bounds.
    #[error("bad configuration: {0}")]
    Config(&'static str),
    /// The directory could not be made or read.
    #[error("{path}: {source}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log could not be opened; the source names file and offset.
    #[error(transparent)]
    Log(#[from] raftwerk_wal::OpenError),
    /// The network could not be started.
    #[error(transparent)]
    Net(#[from] raftwerk_net::NetError),
    /// A group's checkpoint is missing or damaged while its log no longer starts at the beginning.
    #[error("group {group}: {what}")]
    Checkpoint {
        /// Which group.
        group: GroupId,
        /// What is wrong.
        what: String,
    },
    /// The directory belongs to another node or cluster.
    #[error("{path} belongs to node {found}, not {wanted}")]
    WrongNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        wanted: NodeId,
    },
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}
