//! What replicas of one group say to each other: headers only, never a payload.

use crate::{EntryId, Index, NodeId, Term};

/// What must be durable before any reply that depends on it leaves (paper, Figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// Whom it voted for in that term.
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

/// A message of the protocol. Entries travel beside it, as frames; the core is told of them as [`Run`]s.
///
/// The sender is not in here: the transport has proven it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Would you vote for me in `term`?" Changes nothing at the receiver (thesis, section 9.6).
    PreVote {
        /// The term the sender would campaign in: its own plus one.
        term: Term,
        /// The last entry of its log.
        last: EntryId,
    },
    /// The answer to a pre-vote.
    PreVoteReply {
        /// The term asked about if granted, else the receiver's own.
        term: Term,
        /// Whether the vote would be given.
        granted: bool,
    },
    /// RequestVote (paper, section 5.2).
    Vote {
        /// The candidate's term.
        term: Term,
        /// The last entry of its log (paper, section 5.4.1).
        last: EntryId,
        /// Whether the leader itself asked for this election, so that leases do not refuse it (thesis, section 4.2.3).
        transfer: bool,
    },
    /// The answer to a vote request.
    VoteReply {
        /// The receiver's term.
        term: Term,
        /// Whether the vote was given.
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
        /// Which of the accounts that this leader has kept of the receiver: another one each time that it was added.
        account: u16,
    },
    /// The log up to `matched` equals the leader's, and is written here, if not yet durable: a process that dies keeps it, a
    /// machine that dies may not. Only where a leader's entries ask for no more; never counted for a commit.
    AppendWritten {
        /// The follower's term.
        term: Term,
        /// The highest index known to match and to be written.
        matched: Index,
        /// As in the acknowledgement.
        account: u16,
    },
    /// The log up to `matched` equals the leader's, and is durable here.
    AppendAck {
        /// The follower's term.
        term: Term,
        /// The highest index known to match and to be durable.
        matched: Index,
        /// The account in the append or snapshot that is answered. What belongs into an earlier one says nothing of the log
        /// that the follower has now: it may have been removed in between, and have begun anew.
        account: u16,
    },
    /// The consistency check failed.
    AppendReject {
        /// The follower's term.
        term: Term,
        /// The index of `prev` in the refused append.
        rejected: Index,
        /// The last entry at or before `rejected` whose term is not above the refused one: where to look next.
        hint: EntryId,
    },
    /// The leader lives; also the question of a read round (paper, section 8; thesis, section 6.4).
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// What the receiver may take as committed: never above what it has acknowledged.
        commit: Index,
        /// The number of the leader's latest read round.
        round: u64,
        /// There is nothing more to say, for now: the receiver need not expect to hear this leader.
        rest: bool,
    },
    /// The answer to a heartbeat.
    HeartbeatAck {
        /// The follower's term.
        term: Term,
        /// The round that was answered.
        round: u64,
        /// The follower waits for this leader: its node supports the leader's.
        binds: bool,
        /// The follower agrees, and waits for nothing.
        rest: bool,
    },
    /// "Campaign at once": leadership transfer (thesis, section 3.10).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
    /// "You take no part any longer": a committed configuration is without the receiver (thesis, section 4.2.2). Changes
    /// no term.
    Removed {
        /// The sender's term.
        term: Term,
        /// The entry of that configuration. A receiver that knows a later one is not meant.
        configuration: EntryId,
    },
    /// A follower asks its leader up to where to read (thesis, section 6.4).
    ReadIndex {
        /// The follower's term.
        term: Term,
        /// The follower's own number for all reads that it asks for together.
        round: u64,
    },
    /// The answer: a quorum has confirmed the leader since the question came.
    ReadIndexReply {
        /// The leader's term.
        term: Term,
        /// The number of the question.
        round: u64,
        /// The reads may be answered once this is applied.
        index: Index,
    },
    /// "Do you lead?" Changes no term. A leader answers with a heartbeat, also one of an earlier term, which then learns of the
    /// later one; a follower at rest passes the question on to its own leader.
    Doubt {
        /// The asker's term.
        term: Term,
        /// The asker follows the receiver in that term, has promised to wait for it, and has not heard it. Otherwise the asker
        /// knows no leader, and cannot campaign itself.
        follows: bool,
    },
    /// The answer of a node that does not lead that term, and never will again. A leader answers with a heartbeat. Changes
    /// no term.
    Renounce {
        /// The term in question.
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
            | Self::Doubt { term, .. }
            | Self::Renounce { term }
            | Self::Removed { term, .. }
            | Self::ReadIndex { term, .. }
            | Self::ReadIndexReply { term, .. } => term,
        }
    }
}
