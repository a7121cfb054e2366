//! The identities that come with a message: its sender, and the log that it is for.

use raftwerk_frame::{LogId, Message, NodeId};

/// The log of a node that a group's messages to it are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The log that the configuration names.
    Named(LogId),
    /// The first log that was received of the node: it is an initial member.
    InitialMember,
    /// Any log that the node has: the node is no member.
    Anyone,
}

/// The sender's identity in a received message.
#[derive(Clone, Copy, Debug)]
pub struct MessageSender {
    /// The sending node.
    pub from: NodeId,
    /// The sender's log.
    pub log: LogId,
    /// No other log was received under the node's id before.
    pub is_first: bool,
    /// The sender's configuration names the log that the message is for.
    pub is_named: bool,
    /// The sender's configuration names the sender's log.
    pub names_itself: bool,
    /// The receiver is a witness in the sender's configuration.
    pub to_witness: bool,
}

/// Which senders a message is accepted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A request of a leader or a candidate. A joined replica accepts it only from senders that name its log.
    Request,
    /// Any other: a reply, or a query.
    Other,
}

impl MessageKind {
    /// The kind of a message.
    #[must_use]
    pub const fn of(message: &Message) -> Self {
        match message {
            Message::Append { .. }
            | Message::Heartbeat { .. }
            | Message::PreVote { .. }
            | Message::Vote { .. }
            | Message::TimeoutNow { .. } => Self::Request,
            _ => Self::Other,
        }
    }
}

/// What a leader's message shows of the receiver's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverStanding {
    /// The leader's configuration names the receiver's log, and the leader does not only serve its removal.
    Member,
    /// Otherwise.
    NotMember,
}
