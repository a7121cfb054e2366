//! Newtypes for ids and positions, so that integers of different meanings cannot be mixed up.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One running engine.
    NodeId, "n"
);
id!(
    /// One log, from its first byte on: a node that lost its disk comes back with another log id.
    LogId, "log "
);
id!(
    /// One Raft consensus group.
    GroupId, "g"
);
id!(
    /// A Raft term (paper, section 5.1). Term 0 precedes every election.
    Term, "t"
);
id!(
    /// The position of an entry in a group's log. The first entry has index 1; 0 is "before the log".
    Index, ""
);

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The index `n` entries further on.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

/// The id of an entry: no two entries of a group share term and index (Log Matching, paper section 5.3).
///
/// Orders by term, then index, which is the order in which logs are compared in elections (paper, section 5.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The term in which a leader created the entry.
    pub term: Term,
    /// Its position in the log.
    pub index: Index,
}

impl EntryId {
    /// The id of the entry at `index`, created in `term`.
    #[must_use]
    pub const fn new(term: Term, index: Index) -> Self {
        Self { term, index }
    }
}

/// Prints `7@3`: index 7, term 3.
impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index.0, self.term.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_id_prints_index_at_term_and_orders_like_logs() {
        let old_long = EntryId::new(Term(2), Index(9));
        let new_short = EntryId::new(Term(3), Index(4));
        assert_eq!(std::format!("{old_long} {new_short}"), "9@2 4@3");
        assert!(new_short > old_long);
        assert!(EntryId::new(Term(3), Index(5)) > new_short);
    }
}
