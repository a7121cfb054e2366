//! Consistency levels of reads: the six levels, what a read does where a replica cannot serve it, and what an
//! answer states about its state.
//!
//! The levels are those of D. Terry, "Replicated Data Consistency Explained Through Baseball" (2011). The
//! cost and use of each: `engine/docs/consistency.md`. What is not here: how a worker serves them
//! (`worker/calls/reads.rs`), and the positions that a session holds ([`crate::Session`]).

use std::time::Duration;

use raftwerk_frame::{GroupId, Index};

use crate::api::error::ReadError;
use crate::api::session::Session;

/// The consistency level of a read. Each level is a guarantee about the answering state. No level relaxes
/// what a state is: the state of the machine after some entry of the group's one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Reflects everything that was acknowledged before the call, by any client: linearizable (thesis,
    /// section 6.4).
    #[default]
    Strong,
    /// Reflects everything that was acknowledged this long before the call. Measured on the clock of the node
    /// that answers, and on no other: if that runs slow or fast by a part ρ, so does the bound. Zero is
    /// [`Consistency::Strong`], [`Duration::MAX`] is [`Consistency::Eventual`].
    BoundedStaleness(Duration),
    /// Nothing older than the session has seen, by its reads and its writes. Requires a [`Session`].
    Monotonic,
    /// Reflects every write of the session. Requires a [`Session`].
    ReadMyWrites,
    /// A state that the group had at some time: all of one query, and all pages of a scan within one group,
    /// are from the same one.
    ConsistentPrefix,
    /// The present state of this replica. Each read by itself; the replica catches up when it can.
    Eventual,
}

/// How to read: the level, the session that the read is part of, and what to do if this node's replica cannot
/// serve it at once.
///
/// Without [`ReadOptions::or_wait`] a replica that cannot serve answers with an error that states why; a
/// leader may always use the round of messages that it needs.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "options do nothing by themselves"]
pub struct ReadOptions<'a> {
    /// The level.
    pub consistency: Consistency,
    /// How long to wait at most, by the node's clock; `None`: not at all.
    pub patience: Option<Duration>,
    /// The session that the level consults, and that the answer advances.
    pub session: Option<&'a Session>,
}

impl<'a> ReadOptions<'a> {
    /// A read at this level, outside a session, that does not wait.
    pub const fn new(consistency: Consistency) -> Self {
        Self { consistency, patience: None, session: None }
    }

    /// A replica that cannot serve at once tries for at most so long: it requests a read index from the
    /// leader, waits for entries to arrive, and waits out an election. After that it answers with an error
    /// that states why.
    pub const fn or_wait(self, at_most: Duration) -> Self {
        Self { patience: Some(at_most), ..self }
    }

    /// The read is part of a session: its answer advances the session, whatever the level.
    pub const fn in_session(self, session: &'a Session) -> Self {
        Self { session: Some(session), ..self }
    }

    /// The demand that the worker serves.
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

/// What a read requires of the state that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All that was committed before the call.
    Latest,
    /// All that was committed this long before the call.
    Within(Duration),
    /// The entries up to this one.
    AtLeast(Index),
    /// No requirement.
    Any,
}

impl Wanted {
    /// Whether it requires evidence of recency from the leader.
    pub(crate) const fn is_of_time(self) -> bool {
        matches!(self, Self::Latest | Self::Within(_))
    }
}

/// What a read requires, and how long it may wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) wanted: Wanted,
    pub(crate) patience: Option<Duration>,
}

impl Demand {
    /// Linearizable, and served by the leader only.
    pub(crate) const STRONG: Self = Self { wanted: Wanted::Latest, patience: None };
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
