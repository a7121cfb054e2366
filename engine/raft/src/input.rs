//! What can happen to a group.

use raftwerk_frame::{Configuration, EntryId, Index, Membership, Message, NodeId, Run, Term};

use crate::membership::Reconfigure;

/// What can happen to a group.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// [`Group::next_deadline`](crate::Group::next_deadline) may have come. Harmless if it has not.
    Timeout,
    /// Campaign now, whatever the clock says.
    Campaign,
    /// The driver holds this many payloads that want to become entries. All do, or none.
    Propose {
        /// How many; at least one.
        count: u32,
        /// Their bytes.
        bytes: u64,
    },
    /// A peer speaks. The driver has made sure who it is.
    Message {
        /// Who.
        from: NodeId,
        /// What.
        message: Message,
        /// For an append: the entries just after its `prev`.
        runs: &'a [Run],
    },
    /// A peer speaks, and among the entries that come with its append are configurations. As [`Input::Message`] otherwise.
    Memberships {
        /// Who.
        from: NodeId,
        /// What.
        message: Message,
        /// The entries just after its `prev`.
        runs: &'a [Run],
        /// Those among them that are configurations, in rising order.
        memberships: &'a [Membership],
    },
    /// Somebody wants another configuration.
    Reconfigure(Reconfigure<'a>),
    /// Somebody wants another leader.
    Transfer {
        /// Who is to lead.
        to: NodeId,
    },
    /// This replica's log is durable up to this entry, as it was written.
    Durable {
        /// The last of the durable entries.
        id: EntryId,
    },
    /// The state machine has seen the entries up to this one.
    Applied {
        /// The last of them.
        index: Index,
    },
    /// Somebody wants to read, linearizably.
    Read {
        /// Comes back in `reads` or `reads_rejected`.
        token: u64,
    },
    /// The same, at any replica: a follower asks its leader up to where to read, and answers when it has applied that.
    ReadAnywhere {
        /// Comes back in `reads` or `reads_rejected`.
        token: u64,
    },
    /// The driver has dropped the log up to here: at most to the applied index, and to what is durable here.
    Compacted {
        /// The last of the dropped entries.
        to: Index,
    },
    /// A snapshot has arrived whole; it is durable here.
    SnapshotReceived {
        /// From whom.
        from: NodeId,
        /// Its term as leader.
        term: Term,
        /// The last entry that the snapshot holds.
        id: EntryId,
        /// The configuration there.
        configuration: &'a Configuration,
        /// The sender's account of this replica: comes back in the acknowledgement.
        account: u16,
    },
    /// Somebody of the group says which configuration is in force at an entry. Heeded only by one who lacks it
    /// ([`Group::lacks_configuration`](crate::Group::lacks_configuration)).
    Founding {
        /// The entry that the other's log begins after.
        id: EntryId,
        /// The configuration there.
        configuration: &'a Configuration,
    },
    /// A snapshot did not reach a peer.
    SnapshotFailed {
        /// Which peer.
        to: NodeId,
    },
    /// The connection to a peer broke: what was on its way may be lost.
    Unreachable {
        /// Which peer.
        node: NodeId,
    },
    /// There is a connection to a peer again. What a group at rest did not tell it is told now.
    Reachable {
        /// Which peer.
        node: NodeId,
    },
    /// This node promises, or has ceased, to support another: as long as it does, no replica here acts against a leader
    /// there that it follows. To be told before the other can know of the promise, and after the promise has ended.
    Supports {
        /// Which node.
        node: NodeId,
        /// Whether it is supported from now on.
        yes: bool,
    },
    /// Another node is known, or known no longer, to support this one. To be told of every end, also where support begins
    /// anew at once.
    SupportedBy {
        /// Which node.
        node: NodeId,
        /// Whether it supports this one from now on.
        yes: bool,
    },
}
