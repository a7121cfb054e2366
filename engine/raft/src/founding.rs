//! A founder whose log has lost the record of its founding.
//!
//! The first configuration of a group is in no entry: each founder writes it down where its log begins. If damage takes that
//! record, entries alone never bring it back. The replica votes and acknowledges like any other, and cannot campaign, since it
//! does not know whom to ask. So it says with every message that it lacks it ([`Group::lacks_configuration`]), and whoever
//! knows tells: the entry that its own log begins after, and the configuration in force there ([`Group::founding`]).
//!
//! That is a fact of the log, not of a term: whoever holds that entry holds everything before it, too (log matching, paper,
//! section 5.3). A replica that holds it, and knows of no configuration up to there, has had this one in force since its
//! founding. So anybody may tell, a leader or not, whether the entry is known here to be committed or not.
//!
//! What is not here: configurations that are entries (`membership`), and those that come with a snapshot (`snapshot`).

use raftwerk_frame::{Configuration, EntryId, Index};

use crate::effects::Effects;
use crate::group::Group;

impl Group {
    /// Whether this replica has been there since its group was founded, and does not know who takes part.
    #[must_use]
    pub fn lacks_configuration(&self) -> bool {
        self.joined.is_none() && self.configuration.is_empty()
    }

    /// The entry that this log begins after, and the configuration in force there: what one who lacks it is told. `None` if it
    /// is not known here either.
    #[must_use]
    pub fn founding(&self) -> Option<(EntryId, &Configuration)> {
        let id = self.log.compacted();
        let (_, configuration) = self.configuration_up_to(id.index)?;
        Some((id, configuration)).filter(|(_, configuration)| !configuration.is_empty())
    }

    /// Somebody of the group says which configuration is in force at an entry.
    ///
    /// It is taken only where it must be so: by one who lacks it, holds that entry, and is one of those whom it names, as what
    /// it is. One who joined, and has lost the record of that, is not meant by a configuration that takes its node for another
    /// log: an entry will tell it.
    pub(crate) fn take_founding(
        &mut self,
        id: EntryId,
        configuration: &Configuration,
        effects: &mut Effects,
    ) {
        let is_this_one =
            self.is_named_in(configuration) && configuration.is_witness(self.config.node) == self.is_witness;
        if self.lacks_configuration() && self.log.holds(id) && is_this_one {
            self.begin_in(configuration, effects);
            effects.begins_in = Some(configuration.clone());
        }
    }

    /// Of one who lacks a configuration: that it is a witness. The record that says so is lost with that of its founding, and
    /// somebody of the group speaks to it as to one.
    ///
    /// # Panics
    /// If it knows who takes part, or holds entries: their payloads would be gone.
    pub fn become_witness(&mut self) {
        assert!(self.may_be_witness(), "what it is, is known");
        self.is_witness = true;
    }

    /// Whether it holds nothing that could tell whether it is a witness.
    #[must_use]
    pub fn may_be_witness(&self) -> bool {
        self.lacks_configuration() && !self.is_witness && self.log.last().index == Index(0)
    }
}
