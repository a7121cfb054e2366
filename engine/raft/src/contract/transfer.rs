//! The outcomes of a leadership transfer.

use raftwerk_frame::NodeId;

/// Why a transfer failed. A change of leader shows that it succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// It was not begun.
    Refused(TransferRefusal),
    /// The target has not taken over in time. This replica takes proposals again, unless the target
    /// still campaigns.
    Abandoned(NodeId),
}

/// Why the leadership is not transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferRefusal {
    /// This replica does not lead.
    NotLeader {
        /// The leader, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// The target is this replica.
    LeadsAlready,
    /// The target is no voter of the configuration in force (its incoming half, if joint).
    NotAVoter,
    /// The target is a witness: it has neither payloads nor a state machine.
    Witness,
    /// No message from the target was received lately.
    Inactive,
    /// The target is so far behind that it is waiting for a snapshot.
    TooFarBehind,
    /// A transfer to this node is under way already.
    InProgress(NodeId),
}
