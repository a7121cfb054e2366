//! The inputs of a group.

use raftwerk_frame::{Configuration, EntryId, Index, Membership, Message, NodeId, Run, Term};

use super::reconfigure::Reconfigure;

/// An input of a group.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// [`Group::next_deadline`](crate::Group::next_deadline) may have come. Harmless if it has not.
    Timeout,
    /// Campaign now, whatever the clock says.
    Campaign,
    /// The driver has this many payloads to propose. All become entries, or none.
    Propose {
        /// How many; at least one.
        count: u32,
        /// Their bytes.
        bytes: u64,
    },
    /// A message from a peer. The driver has verified the sender.
    Message {
        /// The sender.
        from: NodeId,
        /// The message.
        message: Message,
        /// For an append: the entries just after its `prev`.
        runs: &'a [Run],
    },
    /// A message from a peer, with configurations among the entries of its append. As [`Input::Message`]
    /// otherwise.
    Memberships {
        /// The sender.
        from: NodeId,
        /// The message.
        message: Message,
        /// The entries just after its `prev`.
        runs: &'a [Run],
        /// Those among them that are configurations, in rising order.
        memberships: &'a [Membership],
    },
    /// A client requests another configuration.
    Reconfigure(Reconfigure<'a>),
    /// A client requests a leadership transfer.
    Transfer {
        /// The node that is to lead.
        to: NodeId,
    },
    /// This replica's log is durable up to this entry, as it was written.
    Durable {
        /// The last of the durable entries.
        id: EntryId,
    },
    /// The state machine has applied the entries up to this one.
    Applied {
        /// The last of them.
        index: Index,
    },
    /// A linearizable read, at the leader only.
    Read {
        /// Comes back in `reads` or `reads_rejected`.
        token: u64,
    },
    /// A linearizable read at any replica: a follower requests the index to read at from its leader, and the
    /// read may be answered when that index is applied.
    FollowerRead {
        /// Comes back in `reads` or `reads_rejected`.
        token: u64,
    },
    /// The driver has dropped the log up to here: at most to the applied index, and to what is durable here.
    Compacted {
        /// The last of the dropped entries.
        to: Index,
    },
    /// A snapshot has been received as a whole, and is durable here.
    SnapshotReceived {
        /// The sender.
        from: NodeId,
        /// Its term as leader.
        term: Term,
        /// The last entry that the snapshot holds.
        id: EntryId,
        /// The configuration there.
        configuration: &'a Configuration,
        /// The sender's progress epoch of this replica: returned in the acknowledgement.
        progress_epoch: u16,
    },
    /// A member of the group has sent the configuration that is in force at an entry. Used only by a replica
    /// that lacks it ([`Group::lacks_configuration`](crate::Group::lacks_configuration)).
    InitialConfiguration {
        /// The entry that the sender's log begins after.
        id: EntryId,
        /// The configuration there.
        configuration: &'a Configuration,
    },
    /// A snapshot did not reach a peer.
    SnapshotFailed {
        /// The peer.
        to: NodeId,
    },
    /// The connection to a peer broke: messages on their way may be lost.
    Unreachable {
        /// The peer.
        node: NodeId,
    },
    /// There is a connection to a peer again. A group that is quiescent without that peer sends it what it
    /// missed.
    Reachable {
        /// The peer.
        node: NodeId,
    },
    /// This node supports another from now on, or supports it no longer: while it does, no replica here acts
    /// against a leader there that it follows. The driver must step this before the other node can know of
    /// the support, and after the support has ended.
    Supports {
        /// The supported node.
        node: NodeId,
        /// Whether it is supported from now on.
        yes: bool,
    },
    /// Another node is known to support this one from now on, or is no longer known to. The driver must step
    /// every end of support, also where support begins anew at once.
    SupportedBy {
        /// The supporting node.
        node: NodeId,
        /// Whether it supports this one from now on.
        yes: bool,
    },
}
