//! The identities that come with a message: whom it is from, and which log it is for.

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

/// Whether a message is a request, which a joined replica accepts only from senders that name its log.
#[must_use]
pub const fn is_request(message: &Message) -> bool {
    matches!(
        message,
        Message::Append { .. }
            | Message::Heartbeat { .. }
            | Message::PreVote { .. }
            | Message::Vote { .. }
            | Message::TimeoutNow { .. }
    )
}
