//! The messages between the replicas of one group: headers only, never a payload.

use crate::{EntryId, Index, NodeId, Term};

/// The state that must be durable before any reply that depends on it leaves (paper, Figure 2, "persistent
/// state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// The node that it voted for in that term.
    pub vote: Option<NodeId>,
}

/// A run of entries of one term: what the core sees of the frames that travel with an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The term of all of them.
    pub term: Term,
    /// How many there are; never 0.
    pub count: u64,
}

/// A message of the protocol. Entries travel beside it, as frames; the core receives them as [`Run`]s.
///
/// The sender is not part of it: the transport has authenticated the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// PreVote request for `term`. Changes nothing at the receiver (thesis, section 9.6).
    PreVote {
        /// The term the sender would campaign in: its own plus one.
        term: Term,
        /// The last entry of its log.
        last: EntryId,
    },
    /// The reply to a pre-vote.
    PreVoteReply {
        /// The requested term if granted, else the receiver's own.
        term: Term,
        /// Whether the receiver would grant the vote.
        granted: bool,
    },
    /// RequestVote (paper, section 5.2).
    Vote {
        /// The candidate's term.
        term: Term,
        /// The last entry of its log (paper, section 5.4.1).
        last: EntryId,
        /// Whether the leader requested this election, so that leases do not refuse it (thesis, section
        /// 4.2.3).
        transfer: bool,
    },
    /// The reply to a vote request.
    VoteReply {
        /// The receiver's term.
        term: Term,
        /// Whether the vote was granted.
        granted: bool,
    },
    /// AppendEntries (paper, section 5.3). Empty, it probes or carries the commit index.
    Append {
        /// The leader's term.
        term: Term,
        /// The entry just before those that travel with the message.
        prev: EntryId,
        /// The leader's commit index.
        commit: Index,
        /// The leader's progress epoch of the receiver: a new number each time that the receiver was added.
        progress_epoch: u16,
    },
    /// The log up to `matched` equals the leader's, and is written here, if not yet durable: it survives the
    /// death of the process, perhaps not that of the machine. Sent only for relaxed entries; never counts for a
    /// commit.
    AppendWritten {
        /// The follower's term.
        term: Term,
        /// The highest index known to match and to be written.
        matched: Index,
        /// As in the acknowledgement.
        progress_epoch: u16,
    },
    /// The log up to `matched` equals the leader's, and is durable here.
    AppendAck {
        /// The follower's term.
        term: Term,
        /// The highest index known to match and to be durable.
        matched: Index,
        /// The progress epoch in the append or snapshot that is answered. An acknowledgement of an earlier
        /// epoch proves nothing about the follower's present log: the follower may have been removed in
        /// between, and its log may have begun anew.
        progress_epoch: u16,
    },
    /// The consistency check failed.
    AppendReject {
        /// The follower's term.
        term: Term,
        /// The index of `prev` in the refused append.
        rejected: Index,
        /// The last entry at or before `rejected` whose term is not above that of the rejected `prev`: where
        /// the leader probes next.
        hint: EntryId,
    },
    /// The leader's heartbeat; also the request of a read round (paper, section 8; thesis, section 6.4).
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// Up to where the receiver may commit: never above what it has acknowledged.
        commit: Index,
        /// The number of the leader's latest read round.
        round: u64,
        /// The leader offers to quiesce: the receiver need not expect another message from it.
        quiesce: bool,
    },
    /// The reply to a heartbeat.
    HeartbeatAck {
        /// The follower's term.
        term: Term,
        /// The round of the heartbeat that is answered.
        round: u64,
        /// The follower fortifies this leader: its node supports the leader's node.
        fortifies: bool,
        /// The follower agrees to quiesce, and waits for nothing.
        quiesce: bool,
    },
    /// Campaign at once: leadership transfer (thesis, section 3.10).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
    /// Removal notice: a committed configuration is without the receiver (thesis, section 4.2.2). Changes no
    /// term.
    Removed {
        /// The sender's term.
        term: Term,
        /// The entry of that configuration. A receiver that has a later one ignores the notice.
        configuration: EntryId,
    },
    /// Read-index request: a follower requests the index to read at from its leader (thesis, section 6.4).
    ReadIndex {
        /// The follower's term.
        term: Term,
        /// The follower's own number of the request, which covers all reads that it gathered.
        round: u64,
    },
    /// The reply: a quorum has confirmed the leader since the request arrived.
    ReadIndexReply {
        /// The leader's term.
        term: Term,
        /// The number of the request.
        round: u64,
        /// The reads may be answered once this is applied.
        index: Index,
    },
    /// Leader query: does the receiver lead? Changes no term. A leader answers with a heartbeat, also a
    /// leader of an earlier term, which then learns of the later one; a quiescent follower forwards the query
    /// to its own leader.
    LeaderQuery {
        /// The sender's term.
        term: Term,
        /// The sender follows the receiver in that term, fortifies it, and has received no heartbeat from it.
        /// Otherwise the sender knows of no leader, and cannot campaign itself.
        follows: bool,
    },
    /// Not-leader reply: the sender does not lead that term, and never will again. A leader answers with a
    /// heartbeat instead. Changes no term.
    NotLeader {
        /// The term of the query.
        term: Term,
    },
}

impl Message {
    /// The term the message carries.
    #[must_use]
    pub const fn term(&self) -> Term {
        match *self {
            Self::PreVote { term, .. }
            | Self::PreVoteReply { term, .. }
            | Self::Vote { term, .. }
            | Self::VoteReply { term, .. }
            | Self::Append { term, .. }
            | Self::AppendAck { term, .. }
            | Self::AppendWritten { term, .. }
            | Self::AppendReject { term, .. }
            | Self::Heartbeat { term, .. }
            | Self::HeartbeatAck { term, .. }
            | Self::TimeoutNow { term }
            | Self::LeaderQuery { term, .. }
            | Self::NotLeader { term }
            | Self::Removed { term, .. }
            | Self::ReadIndex { term, .. }
            | Self::ReadIndexReply { term, .. } => term,
        }
    }
}
