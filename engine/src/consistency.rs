//! What a read may show: the six levels, what to do where a replica cannot serve, and what an answer says of itself.
//!
//! The levels are those of D. Terry, "Replicated Data Consistency Explained Through Baseball" (2011). What each costs
//! and when to use which: `engine/docs/consistency.md`. What is not here: how a worker serves them (`worker/reads.rs`),
//! and what a session remembers ([`crate::Session`]).

use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index};

use crate::error::ReadError;
use crate::session::Session;

/// What a read may show. Each is a promise about the state that answers; what a state of a group is, no level ever
/// relaxes: it is what the machine was after some entry of the group's one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Everything that was acknowledged before the call, whoever wrote it: linearizable (thesis, section 6.4).
    #[default]
    Strong,
    /// Everything that was acknowledged so long before the call. Measured on the clock of the node that answers, and on
    /// no other: if that runs slow or fast by a part ρ, so does the bound. Zero is [`Consistency::Strong`],
    /// [`Duration::MAX`] is [`Consistency::Eventual`].
    BoundedStaleness(Duration),
    /// Nothing older than what the session has been shown, by its reads and its writes. Wants a [`Session`].
    Monotonic,
    /// Every write of the session. Wants a [`Session`].
    ReadMyWrites,
    /// A state that the group was in at some time: all of one query, and all pages of a scan within one group, are from
    /// the same one.
    ConsistentPrefix,
    /// Whatever this replica has. Every read by itself; it catches up when it can.
    Eventual,
}

/// How to read: the level, the session that it is part of, and what to do if this node's replica cannot serve it at once.
///
/// Without [`ReadOptions::or_wait`] a replica that cannot answers with an error that says why; a leader always may take
/// the round of messages that it needs.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "options do nothing by themselves"]
pub struct ReadOptions<'a> {
    /// What the read may show.
    pub consistency: Consistency,
    /// How long to wait at most, on the node's clock; `None`: not at all.
    pub patience: Option<Duration>,
    /// What the level looks at, and what the answer is noted in.
    pub session: Option<&'a Session>,
}

impl<'a> ReadOptions<'a> {
    /// A read at this level, by itself, that does not wait.
    pub const fn new(consistency: Consistency) -> Self {
        Self { consistency, patience: None, session: None }
    }

    /// Where this replica cannot serve at once, it does what it takes for so long at most: asks the leader up to where
    /// to read, waits for entries that are on their way, outlasts an election. Then it says why it could not.
    pub const fn or_wait(self, at_most: Duration) -> Self {
        Self { patience: Some(at_most), ..self }
    }

    /// The read is part of a session: its answer raises the session, whatever the level.
    pub const fn in_session(self, session: &'a Session) -> Self {
        Self { session: Some(session), ..self }
    }

    /// What a worker needs to know.
    pub(crate) fn demand(&self, group: GroupId) -> Result<Demand, ReadError> {
        let session = || self.session.ok_or(ReadError::NoSession);
        let wanted = match self.consistency {
            Consistency::Strong | Consistency::BoundedStaleness(Duration::ZERO) => Wanted::Latest,
            Consistency::BoundedStaleness(Duration::MAX) => Wanted::Any,
            Consistency::BoundedStaleness(at_most) => Wanted::Within(at_most),
            Consistency::Monotonic => Wanted::AtLeast(session()?.seen(group)),
            Consistency::ReadMyWrites => Wanted::AtLeast(session()?.written(group)),
            Consistency::ConsistentPrefix | Consistency::Eventual => Wanted::Any,
        };
        Ok(Demand { wanted, patience: self.patience })
    }
}

impl From<Consistency> for ReadOptions<'_> {
    fn from(consistency: Consistency) -> Self {
        Self::new(consistency)
    }
}

/// What a read wants of the state that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All that was committed before the call.
    Latest,
    /// All that was committed so long before the call.
    Within(Duration),
    /// The entries up to this one.
    AtLeast(Index),
    /// Nothing in particular.
    Any,
}

impl Wanted {
    /// Whether somebody has to be asked before it can be had.
    pub(crate) const fn is_of_time(self) -> bool {
        matches!(self, Self::Latest | Self::Within(_))
    }
}

/// What a read wants, and how long it may wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) wanted: Wanted,
    pub(crate) patience: Option<Duration>,
}

impl Demand {
    /// Linearizable, and only where the leader is.
    pub(crate) const STRONG: Self = Self { wanted: Wanted::Latest, patience: None };
}

/// An answer, and the state that it is from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadAnswer {
    /// What the state machine answered.
    pub reply: Bytes,
    /// The last entry that the state machine had seen.
    pub index: Index,
    /// The state had everything that was committed anywhere so long before it was asked, or longer; `None`: this replica
    /// does not know.
    pub staleness: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_of_zero_is_strong_and_an_endless_one_eventual() {
        let wanted = |consistency| ReadOptions::new(consistency).demand(GroupId(1)).unwrap().wanted;
        assert_eq!(wanted(Consistency::BoundedStaleness(Duration::ZERO)), wanted(Consistency::Strong));
        assert_eq!(wanted(Consistency::BoundedStaleness(Duration::MAX)), wanted(Consistency::Eventual));
    }

    #[test]
    fn levels_of_a_session_want_one() {
        let session = Session::new();
        session.saw(GroupId(1), Index(7));
        for level in [Consistency::Monotonic, Consistency::ReadMyWrites] {
            let options = ReadOptions::new(level);
            assert_eq!(options.demand(GroupId(1)), Err(ReadError::NoSession));
            assert!(options.in_session(&session).demand(GroupId(1)).is_ok());
        }
        let options = ReadOptions::new(Consistency::Monotonic).in_session(&session);
        assert_eq!(options.demand(GroupId(1)).unwrap().wanted, Wanted::AtLeast(Index(7)));
    }
}
