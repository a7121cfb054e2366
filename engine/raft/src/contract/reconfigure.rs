//! Requests for another configuration, and their outcomes.

use raftwerk_frame::{Configuration, Index, LogId, NodeId};

use crate::reconfig::{Change, ChangeError};

/// A request for a membership change.
#[derive(Clone, Copy, Debug)]
pub struct Reconfigure<'a> {
    /// The changes by node; all in one step. Empty: leave a joint configuration, or stop waiting for new
    /// members.
    pub changes: &'a [Change],
    /// The logs of nodes that are added, if configurations are to name logs.
    pub logs: &'a [(NodeId, LogId)],
    /// The index of the configuration that the client has seen. If the log has a later one, the request is
    /// refused.
    pub expected_index: Option<Index>,
    /// The transition to the new configuration.
    pub transition: Transition,
    /// The conditions on new voters.
    pub admission: Admission,
    /// Only plan the change, and report what would happen.
    pub dry_run: bool,
}

/// The transition to a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// One step if at most one voter changes; otherwise through a joint configuration that is left
    /// automatically.
    Auto,
    /// Through a joint configuration that is left automatically.
    Joint,
    /// Into a joint configuration, which stays until a request without changes leaves it.
    JointHeld,
}

/// The conditions on new voters, and on the new configuration's quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// None: no health check. A group may lose its majority by this.
    Unchecked,
    /// New voters are learners that have caught up, and a majority of the new configuration was active
    /// lately.
    Checked,
    /// The same, but the change waits for new voters: those that are no members yet are added as learners
    /// first.
    Awaited,
}

/// The immediate outcome of a request. [`Effects::settled`](crate::Effects::settled) reports that a change is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconfigured {
    /// Nothing happened.
    Refused(Refusal),
    /// A dry run: the next entry would hold this configuration.
    Planned(Configuration),
    /// The configuration at this index already is the requested one.
    Unchanged(Index),
    /// New members are being added as voters; the change follows when they have caught up.
    Admitting,
    /// The change has begun, with the entry at this index.
    Started(Index),
    /// The change waited for new members, and is refused now. They stay learners.
    Abandoned(Refusal),
}

/// Why a change is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This replica does not lead.
    NotLeader {
        /// The leader, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// No entry of the leader's term is committed yet; one will be soon.
    NotReady,
    /// A leadership transfer is under way.
    Transferring,
    /// Another change is under way; its latest configuration has this index.
    InProgress(Index),
    /// The configuration is later than the one that the client has seen; this is its index.
    Stale(Index),
    /// No configuration follows from these changes.
    Change(ChangeError),
    /// This node has not caught up, or is no member yet.
    NotCaughtUp(NodeId),
    /// No majority of the new configuration was active lately.
    QuorumAtRisk,
    /// Too many replicas were added in this term for further progress epochs: transfer the leadership first.
    TermExhausted,
}
