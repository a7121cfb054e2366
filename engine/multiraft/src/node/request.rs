//! What waits in a worker's inbox: requests of callers, what the net thread received, commands of the engine.
//!
//! What is not here: the queues ([`super::inbox`]).

use bytes::Bytes;
use raftwerk_frame::wire::{self, Record, UnitHeader};
use raftwerk_frame::{Configuration, GroupId, Index, LogId, Membership, Message, NodeHeartbeat, NodeId};
use raftwerk_wal::PeerNote;
use tokio::sync::oneshot;

use crate::api::consistency::Demand;
use crate::api::error::{
    AcceptLossError, CreateError, ProposeError, ReadError, ReconfigureError, ReplaceError, ReplicaError,
    ReviveError, TransferError,
};
use crate::api::membership::reconfiguration::Reconfiguration;
use crate::api::status::{Applied, FrozenState, GroupStatus, Loss, ReadAnswer, Received, ReplicaKind};
use crate::node::placement::PeerLane;
use crate::node::submission::Submission;

/// One call's worth of work for a worker.
pub(crate) enum Request {
    /// Many proposals and reads of one pipeline.
    Submission(Submission),
    /// A single proposal.
    Propose { group: GroupId, payload: Bytes, reply: oneshot::Sender<Result<Applied, ProposeError>> },
    /// A single relaxed proposal.
    ProposeRelaxed { group: GroupId, payload: Bytes, reply: oneshot::Sender<Result<Received, ProposeError>> },
    /// A single read.
    Read {
        group: GroupId,
        query: Bytes,
        demand: Demand,
        reply: oneshot::Sender<Result<ReadAnswer, ReadError>>,
    },
    /// The frozen state, to be read outside the worker.
    Freeze { group: GroupId, demand: Demand, reply: oneshot::Sender<Result<FrozenState, ReadError>> },
}

impl Request {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Submission(submission) => submission.arena.len(),
            Self::Propose { payload, .. } | Self::ProposeRelaxed { payload, .. } => payload.len(),
            Self::Read { query, .. } => query.len(),
            Self::Freeze { .. } => 0,
        }
    }

    /// Answers with an error that is certain: no part of it happened.
    pub(crate) fn refuse(self, error: &ProposeError) {
        match self {
            // A dropped receiver means that the caller no longer wants the answer.
            Self::Propose { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::ProposeRelaxed { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Read { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Self::Freeze { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Self::Submission(submission) => submission.refuse(error),
        }
    }
}

/// Why a request was returned. Nothing happened.
pub(crate) enum Refused {
    /// The queue is full.
    Full(Request),
    /// The engine is closed.
    Closed(Request),
}

/// A unit of a peer whose log is recorded.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedUnit {
    pub(crate) from: NodeId,
    /// Its log is the first one that was recorded for that peer.
    pub(crate) is_first: bool,
    pub(crate) unit: Bytes,
}

/// An event from the net thread.
pub(crate) enum Arrival {
    /// A message from an authenticated peer.
    Unit(ReceivedUnit),
    /// The same, from a peer that has no recorded log yet, with this log.
    UnknownPeer { from: NodeId, log: LogId, unit: Bytes },
    /// A peer has no log recorded for this node, or a wrong one.
    LogQuery { from: NodeId },
    /// The connection to a peer broke.
    Disconnected(NodeId),
    /// A connection to it was established.
    Connected(NodeId),
}

impl Arrival {
    /// Whether it may carry bytes for the log or a snapshot file. An append without entries, which only
    /// carries a commit index, keeps its place among those with entries: ahead of them it would look like a
    /// gap. Units of peers without a recorded log wait for that record, not for space.
    pub(crate) fn is_append(&self) -> bool {
        let Self::Unit(ReceivedUnit { unit, .. }) = self else { return false };
        let Ok((header, records, _)) = UnitHeader::parse(unit) else { return false };
        let begins_with_append = || {
            let first = wire::records(records).next();
            matches!(first, Some(Ok(Record { message: Message::Append { .. }, .. })))
        };
        header.bodies_bytes > 0 || begins_with_append()
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Unit(ReceivedUnit { unit, .. }) | Self::UnknownPeer { unit, .. } => unit.len(),
            Self::LogQuery { .. } | Self::Disconnected(_) | Self::Connected(_) => 0,
        }
    }
}

/// A received node heartbeat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceivedHeartbeat {
    pub(crate) from: PeerLane,
    /// The log of the sender.
    pub(crate) log: LogId,
    pub(crate) heartbeat: NodeHeartbeat,
}

/// Where the outcome of a replica's removal goes.
pub(crate) type Removed = oneshot::Sender<Result<(), ReplicaError>>;

/// Commands of the engine; rare, and never refused.
pub(crate) enum Order {
    /// Create a replica of a group with these initial members.
    Bootstrap {
        group: GroupId,
        initial_members: Configuration,
        reply: oneshot::Sender<Result<(), CreateError>>,
    },
    /// Create an empty replica, which receives its group's state from a leader.
    Join { group: GroupId, kind: ReplicaKind, reply: oneshot::Sender<Result<(), CreateError>> },
    /// Delete a replica and its log.
    Remove { group: GroupId, reply: Removed },
    /// Request another configuration.
    Reconfigure {
        group: GroupId,
        wish: Reconfiguration,
        reply: oneshot::Sender<Result<Membership, ReconfigureError>>,
    },
    /// Request a leadership transfer.
    Transfer { group: GroupId, to: NodeId, reply: oneshot::Sender<Result<(), TransferError>> },
    /// Return the status of a replica.
    Status { group: GroupId, reply: oneshot::Sender<Result<GroupStatus, ReplicaError>> },
    /// Hash a replica's state.
    Digest { group: GroupId, reply: oneshot::Sender<Result<(Index, u64), ReplicaError>> },
    /// List the replicas.
    Groups { reply: oneshot::Sender<Result<Vec<GroupId>, ReplicaError>> },
    /// A peer has another log now. `checked`: the number of workers that have already checked that no group
    /// of theirs depends on the old one.
    ReplacePeer { peer: PeerNote, checked: u16, reply: oneshot::Sender<Result<(), ReplaceError>> },
    /// Return what a replica has lost.
    Loss { group: GroupId, reply: oneshot::Sender<Result<Option<Loss>, ReplicaError>> },
    /// Accept the loss.
    AcceptLoss { loss: Loss, reply: oneshot::Sender<Result<(), AcceptLossError>> },
    /// Make a new machine for a replica in quarantine.
    Revive { group: GroupId, reply: oneshot::Sender<Result<(), ReviveError>> },
    /// A pipeline was dropped.
    PipelineGone { pipeline: u32 },
    /// Answer every caller and stop.
    Shutdown,
}
