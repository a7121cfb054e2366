//! Initial members that lost the record of the group's first configuration.
//!
//! The first configuration of a group is in no entry: each initial member records it where its log begins. If
//! damage takes that record, entries alone never bring it back. The replica votes and acknowledges like any
//! other, but cannot campaign, since it does not know the voters. So its records carry a flag that it lacks a
//! configuration ([`Group::lacks_configuration`]), and a member that has one replies with it: the entry that
//! its own log begins after, and the configuration in force there ([`Group::initial_configuration`]).
//!
//! That is a fact of the log, not of a term: a replica that holds that entry holds everything before it, too
//! (log matching, paper, section 5.3). If it knows of no configuration up to there, this one has been in
//! force since bootstrap. So any member may send it, leader or not, whether the entry is known here to be
//! committed or not.
//!
//! What is not here: configurations that are entries (`membership`), and those that come with a snapshot (`snapshot`).

use raftwerk_frame::{Configuration, EntryId, Index};

use crate::contract::Effects;
use crate::group::Group;

impl Group {
    /// Whether this replica is an initial member, and has no configuration.
    #[must_use]
    pub fn lacks_configuration(&self) -> bool {
        self.joined.is_none() && self.configuration().is_empty()
    }

    /// The entry that this log begins after, and the configuration in force there: the reply to a member that
    /// lacks it. `None` if it is not known here either.
    #[must_use]
    pub fn initial_configuration(&self) -> Option<(EntryId, &Configuration)> {
        let id = self.log.compacted();
        let (_, configuration) = self.configuration_up_to(id.index)?;
        Some((id, configuration)).filter(|(_, configuration)| !configuration.is_empty())
    }

    /// A member of the group has sent the configuration that is in force at an entry.
    ///
    /// It is accepted only where it must be true: by a replica that lacks one, holds that entry, and is a
    /// member in that configuration, in the same kind (witness or not). A replica that joined, and has lost
    /// the record of that, does not count as a member where its node is named with another log: an entry will
    /// bring its configuration.
    pub(crate) fn on_initial_configuration(
        &mut self,
        id: EntryId,
        configuration: &Configuration,
        effects: &mut Effects,
    ) {
        let is_this_one =
            self.is_named_in(configuration) && configuration.is_witness(self.config.node) == self.is_witness;
        if self.lacks_configuration() && self.log.holds(id) && is_this_one {
            self.begin_in(configuration, effects);
            assert!(!self.lacks_configuration(), "a replica that was sent a configuration has one");
            assert!(self.configuration_index() <= id.index, "the configuration is in force at the entry");
            effects.begins_in = Some(configuration.clone());
        }
    }

    /// Makes a replica that lacks a configuration a witness. The record of that is lost with that of its
    /// first configuration, and a member of the group has sent a message to it as to a witness.
    ///
    /// # Panics
    /// If it has a configuration, or holds entries: their payloads would be gone.
    pub fn become_witness(&mut self) {
        assert!(self.may_be_witness(), "what it is, is known");
        self.is_witness = true;
    }

    /// Whether it holds neither a configuration nor entries, which would show whether it is a witness.
    #[must_use]
    pub fn may_be_witness(&self) -> bool {
        self.lacks_configuration() && !self.is_witness && self.log.last().index == Index(0)
    }
}
