//! The configurations of a log, and the replica's membership as other members see it.

use raftwerk_frame::{Configuration, Index, Membership};

use crate::thin_vec::ThinVec;

/// The configurations of the log. Invariant: their indices rise, and the first is at or before the log's beginning.
#[derive(Clone, Debug)]
pub(crate) struct Configurations {
    /// The one in force: the latest in the log.
    current: Configuration,
    index: Index,
    /// Those before it, down to the one at the log's beginning.
    earlier: ThinVec<Membership>,
}

impl Configurations {
    pub(crate) const fn new(configuration: Configuration, index: Index) -> Self {
        Self { current: configuration, index, earlier: ThinVec::new() }
    }

    pub(crate) const fn current(&self) -> &Configuration {
        &self.current
    }

    pub(crate) const fn index(&self) -> Index {
        self.index
    }

    /// The one before the one in force, if the log reaches back to it.
    pub(crate) fn previous(&self) -> Option<&Configuration> {
        self.earlier.last().map(|before| &before.configuration)
    }

    /// Those before the one in force, oldest first.
    pub(crate) fn earlier(&self) -> impl Iterator<Item = &Configuration> + '_ {
        self.earlier.iter().map(|membership| &membership.configuration)
    }

    /// A configuration was added to the log.
    pub(crate) fn push(&mut self, next: Membership) {
        assert!(next.index > self.index, "configurations are appended in rising order");
        let configuration = core::mem::replace(&mut self.current, next.configuration);
        self.earlier.push(Membership { index: self.index, configuration });
        self.index = next.index;
    }

    /// The latest configuration is in the log no longer. Returns whether there is one before it.
    pub(crate) fn pop(&mut self) -> bool {
        let before = self.earlier.pop();
        let is_there = before.is_some();
        if let Some(before) = before {
            assert!(before.index < self.index, "configurations are in the log in rising order");
            (self.index, self.current) = (before.index, before.configuration);
        }
        is_there
    }

    /// The log begins after `index`, in this configuration; later ones stay.
    pub(crate) fn rebase(&mut self, index: Index, configuration: &Configuration) {
        assert!(index < self.index, "the configuration in force stays");
        self.earlier.retain(|membership| membership.index > index);
        self.earlier.push_front(Membership { index, configuration: configuration.clone() });
    }

    /// The log begins after `index`, in this configuration, and no other is known. Returns whether another one
    /// was in force.
    pub(crate) fn restart(&mut self, index: Index, configuration: &Configuration) -> bool {
        self.earlier.clear();
        self.index = index;
        let is_another = self.current != *configuration;
        if is_another {
            self.current = configuration.clone();
        }
        is_another
    }

    /// The log begins after `to`: of the configurations up to there, the latest suffices.
    pub(crate) fn compact(&mut self, to: Index) {
        if self.index <= to {
            self.earlier.clear();
        } else if let Some(base) = self.earlier.iter().rposition(|membership| membership.index <= to) {
            self.earlier.drop_front(base);
        }
        let first = self.earlier.first().map_or(self.index, |first| first.index);
        assert!(first <= to, "the configuration where the log begins is known");
    }

    pub(crate) fn up_to(&self, index: Index) -> Option<(Index, &Configuration)> {
        if self.index <= index {
            return Some((self.index, &self.current));
        }
        let found = self.earlier.iter().rfind(|membership| membership.index <= index);
        assert!(found.is_none_or(|found| found.index < self.index), "a later configuration is in force");
        found.map(|membership| (membership.index, &membership.configuration))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Index, &Configuration)> + '_ {
        let earlier = self.earlier.iter().map(|membership| (membership.index, &membership.configuration));
        earlier.chain([(self.index, &self.current)])
    }

    /// Bytes of memory beyond the group itself that few groups need.
    pub(crate) fn bytes(&self) -> usize {
        self.earlier.bytes() + self.current.logs.bytes() + self.current.witnesses.bytes()
    }
}

/// The membership of a replica as other members see it, beyond what its own log shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known.
    Unknown,
    /// The last leader that it received a message from in this term has it as a member.
    Member,
    /// It has received a removal notice from a peer, or a part of its log that is gone contained its removal.
    Removed,
}

/// What is known of this replica's membership: see [`Group::note_standing`](crate::Group::note_standing).
#[derive(Clone, Debug)]
pub(crate) struct MemberStanding {
    pub(super) known: Standing,
    /// The low byte of the latest progress epoch of this replica in this term's leader, as received in
    /// appends.
    pub(super) epoch: u8,
}

impl MemberStanding {
    pub(crate) const fn new() -> Self {
        Self { known: Standing::Unknown, epoch: 0 }
    }

    /// An election may begin: a leader's claim that this replica is a member holds no longer.
    pub(crate) fn forget_claim(&mut self) {
        if self.known == Standing::Member {
            self.known = Standing::Unknown;
        }
    }
}
