//! Errors, named by the action open to the caller. Certain and uncertain failure never share a variant.

use std::path::PathBuf;
use std::time::Duration;

use raftwerk_frame::{GroupId, Index, NodeId};
use raftwerk_raft::reconfig::ChangeError;
use raftwerk_raft::{Refusal, TransferRefusal};

use crate::api::status::Loss;

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
        /// The leader last known to this node, if any.
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
    /// The group's state machine on this node has panicked ([`Quarantine`](crate::Quarantine)). Nothing
    /// happened; another node may lead soon.
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
    /// A bounded queue is full, or the maximum of reads waits here ([`Config::reads_max`](crate::Config)):
    /// retry after a pause.
    #[error("busy, try again later")]
    Busy,
    /// This node does not lead the group, or lost leadership before it could answer; or, where the read was
    /// to wait, no leader has answered in time.
    #[error("not the leader{}", hint.map(|node| format!(", which may be {node}")).unwrap_or_default())]
    NotLeader {
        /// The leader last known to this node, if any.
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
    /// The state of this node's replica may be older than the bound allows, and no newer evidence arrived in
    /// the given time. The leader's node can serve the read; so can this one, soon after the leader has
    /// answered it.
    #[error("too stale{}", staleness.map(|age| format!(": {age:?}")).unwrap_or_default())]
    Stale {
        /// The known bound of its age; `None`: unknown.
        staleness: Option<Duration>,
    },
    /// This node's replica has not yet applied what the session has seen. Another replica may have.
    #[error("behind the session: at {applied}, not {wanted}")]
    Behind {
        /// The last entry that it has applied.
        applied: Index,
        /// The session's position.
        wanted: Index,
    },
    /// The level requires a session, and none was given.
    #[error("this level wants a session")]
    NoSession,
    /// The state machine cannot be frozen: see [`StateMachine::freeze`](crate::StateMachine::freeze).
    #[error("the state machine cannot be frozen")]
    NotFreezable,
    /// This node's replica is a witness: it has no state, at any level. Send the read to another node.
    #[error("a witness has no state{}", hint.map(|node| format!("; the leader may be {node}")).unwrap_or_default())]
    Witness {
        /// The leader last known to this node, if any.
        hint: Option<NodeId>,
    },
    /// The state machine panicked at this query, with this message. Its state is assumed unchanged; the next
    /// query is answered.
    #[error("the state machine panicked at the query: {0}")]
    Panicked(String),
    /// The group's state machine on this node has panicked ([`Quarantine`](crate::Quarantine)): the replica
    /// has no state. Send the read to another node.
    #[error("the state machine of group {0} has panicked on this node")]
    Quarantined(GroupId),
    /// This node has no such group.
    #[error("there is no group {0} on this node")]
    NoSuchGroup(GroupId),
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}

/// The same reason, for a read. A read has no uncertain outcome: one with an unknown outcome was not
/// answered.
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
    /// The group exists here already, with other initial members, or as a witness where none is meant, or the
    /// reverse; or it was removed a moment ago, and its files are still being deleted.
    #[error("group {0} exists here, with other founders or about to go")]
    Exists(GroupId),
    /// A replica of the group existed here and was removed. Its hard state constrains every later replica in
    /// this log: the group can be joined here, and not created again.
    #[error("group {0} was here before, and can only be joined")]
    Removed(GroupId),
    /// The log here was damaged, and has lost something of unknown groups: a replica of this group may have
    /// been among it, with its hard state; or one was removed here, and part of its hard state is lost. If
    /// this node is a member elsewhere, take it out there and let it join (joining is always possible,
    /// creating never); if the group is new, or no node has it any longer, an operator confirms that:
    /// [`NodeHandle::loss`](crate::NodeHandle::loss), [`NodeHandle::accept_loss`](crate::NodeHandle::accept_loss).
    #[error("group {0} may have been here, and been lost")]
    Lost(GroupId),
    /// The 65,537 highest ids are reserved for the log.
    #[error("no group can be called {0}")]
    Reserved(GroupId),
    /// More than seven voters, a node named twice, or this node not named.
    #[error("these members make no group: {0}")]
    Voters(&'static str),
    /// No voter, too many members, or ([`ChangeError::TooManyWitnesses`]) too few voters that would hold
    /// payloads: fewer than two beside a witness, or no more than there are witnesses.
    #[error("these members make no group: {0:?}")]
    InitialMembers(ChangeError),
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

/// Why a peer's new log could not be recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// A replica on this node still has the peer as an initial voter of its group: take it out of the group
    /// first, and wait until this node has received that change.
    #[error("group {0} has the peer for a first voter")]
    Member(GroupId),
    /// It could not be recorded; nothing has changed.
    #[error("the disk refused the note")]
    Disk,
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}

/// Why a change of the configuration was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The leader refuses it, or this node does not lead. Nothing happened, except that nodes may have come
    /// in as learners.
    #[error("the change is refused: {0:?}")]
    Refused(Refusal),
    /// The leader has never received a message from this node, which is to come in, so it has no log
    /// recorded for it. It has sent a query: try again when they are connected. Nothing happened.
    #[error("{0} has not been heard yet")]
    UnknownPeer(NodeId),
    /// This node is a member with another log than it has now: it has lost its disk. Remove it, and when that
    /// is done, add it again. Nothing happened.
    #[error("{0} takes part with a log that it no longer has")]
    OtherLog(NodeId),
    /// It may have happened, or may happen later. Look at the configuration before trying again.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// The disk has no space except for removals of replicas. Nothing happened.
    #[error("the disk is full")]
    StorageFull,
    /// The log failed and takes no more writes until the engine is opened again.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// This node has no such group, or the engine is closed. Nothing happened.
    #[error("the group is not here")]
    NoSuchGroup,
}

/// Why a leadership transfer did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// It was not begun.
    #[error("the transfer is refused: {0:?}")]
    Refused(TransferRefusal),
    /// The target did not take over in time. This node still leads, and writes resume.
    #[error("{0} did not take over in time")]
    Abandoned(NodeId),
    /// The outcome cannot be determined: the log is poisoned, or the replica or the engine is gone.
    #[error("the outcome of the transfer is unknown")]
    Unknown,
    /// This node has no such group, or the engine is closed. Nothing happened.
    #[error("the group is not here")]
    NoSuchGroup,
}

/// Why a loss was not accepted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptLossError {
    /// The node was not opened with [`Config::accept_losses`](crate::Config).
    #[error("this node accepts no losses")]
    Forbidden,
    /// There is no such replica, or it has lost nothing, or has been repaired.
    #[error("there is no loss to accept")]
    None,
    /// The present loss differs from the given one.
    #[error("what is lost now is {0:?}")]
    Other(Loss),
    /// The log failed and takes no more writes until the engine is opened again: the acceptance may or may
    /// not be in force then.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}

/// Why a node gave no answer about a replica of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// This node has no replica of the group.
    #[error("there is no replica of group {0} on this node")]
    NoReplica(GroupId),
    /// The replica has no state: it is a witness, or its machine has panicked
    /// ([`Quarantine`](crate::Quarantine)). Another node has the state.
    #[error("the replica of group {0} on this node has no state")]
    NoState(GroupId),
    /// The log failed and takes no more writes until the engine is opened again. Nothing happened.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// The engine is shutting down or has shut down; or the caller is a state machine, which cannot wait for
    /// its own worker.
    #[error("the engine is closed")]
    Closed,
}

/// Why a node has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// A thread has not ended within [`Config::shutdown_patience`](crate::Config), because a disk or a state
    /// machine does not return. It ends when that does, and holds the directory until then: call again.
    #[error("a thread of the node has not ended: its disk, or a state machine, does not return")]
    Unfinished,
    /// The caller is a state machine, on a thread that is to end: the node ends when its turn is over.
    #[error("a state machine cannot wait for the end of its own thread")]
    OwnThread,
}

/// Why a replica could not be revived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReviveError {
    /// Its machine has not panicked, or it is already recovering.
    #[error("the replica is not in quarantine")]
    None,
    /// The new machine panicked, or could not take its checkpoint; the replica stays in quarantine.
    #[error("no new machine could be made: {0}")]
    Machine(String),
    /// This node has no such group.
    #[error("there is no such group on this node")]
    NoSuchGroup,
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
        /// The error of the operating system.
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
        /// The node that it belongs to.
        found: NodeId,
        /// The node that is being opened.
        wanted: NodeId,
    },
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}
