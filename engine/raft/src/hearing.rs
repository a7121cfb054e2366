//! Whose words count, where a node may come back with another log (or none), and a log with another replica.
//!
//! Who takes part in a group is a log, not a node; the driver knows which log speaks, and which one a message is meant for.
//! Four rules keep apart what must not be mixed up:
//! 1. **A member is heard if it speaks for the log that the configuration names.** Of the first voters no log is named: there
//!    it is the one that was first heard under the node's number. So nobody counts the vote or the acknowledgement of a log
//!    that has promised nothing.
//! 2. **Who is a member of a configuration that has yet to arrive may ask**: a candidate or leader whose own configuration
//!    names its log, whichever log is known of its node here; and who takes no part here, whatever its log. What they ask for
//!    is theirs to ask; answers of strangers are not looked at. Only a node that makes its group anew, having lost its disk,
//!    is named nowhere, and is not heard.
//! 3. **A replica that has joined obeys those only whose configuration names its log.** A straggler whose configuration
//!    means an earlier log of the node gets neither vote nor acknowledgement from the new one, not even by mistake.
//!
//! 4. **A witness hears those only who have it for one, and whoever holds payloads only those who do not.** A replica is one or
//!    the other from its beginning to its end. So nobody counts a log of headers for one of entries, whatever was asked for.
//!
//! And a message is for the log that its sender has in mind ([`Address`]); any other drops it.
//!
//! What is not here: how a driver knows logs; which configuration means this replica (`membership`).

use raftwerk_frame::{Configuration, LogId, Message, NodeId};

use crate::config::Origin;
use crate::group::Group;

/// Which log of a node a group means when it speaks to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The one that the configuration names.
    Named(LogId),
    /// The one that was first heard: the node is one of the first voters.
    Founder,
    /// Whichever the node has: it takes no part.
    Anyone,
}

/// A message, as far as it matters who says it.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// The node that speaks.
    pub from: NodeId,
    /// The log that it speaks for.
    pub log: LogId,
    /// No other log was heard under the node's number before.
    pub is_first: bool,
    /// The sender's configuration names the log that the message is for.
    pub is_named: bool,
    /// The sender's configuration names the sender's log.
    pub names_itself: bool,
    /// The sender's configuration has the one that it speaks to for a witness.
    pub to_witness: bool,
}

impl Group {
    /// Which log of a node is meant by what this replica sends there. One that leaves is still the one that it was.
    #[must_use]
    pub fn address_of(&self, node: NodeId) -> Address {
        if self.configuration.contains(node) {
            return self.configuration.log_of(node).map_or(Address::Founder, Address::Named);
        }
        match self.leaving.iter().find(|departure| departure.node == node) {
            Some(departure) => departure.log.map_or(Address::Founder, Address::Named),
            None => Address::Anyone,
        }
    }

    /// Whether what is said is to be looked at; whatever is not is to be dropped. `is_request`: see [`is_request`]; a piece of a
    /// snapshot is one.
    #[must_use]
    pub fn hears(&self, voice: Voice, is_request: bool) -> bool {
        let speaks_for_its_log = match self.address_of(voice.from) {
            Address::Named(log) => voice.log == log,
            Address::Founder => voice.is_first,
            Address::Anyone => true,
        };
        let may_ask = is_request && voice.names_itself;
        let is_meant = voice.to_witness == self.is_witness && (voice.is_named || self.joined.is_none());
        (speaks_for_its_log || may_ask) && (!is_request || is_meant)
    }

    /// Whether the configuration in force names the log that this replica is in; or the one before, which a leader that is on its
    /// way out is still known by.
    #[must_use]
    pub fn names_itself(&self) -> bool {
        let names = |of: &Configuration| of.log_of(self.config.node).is_some_and(|log| log == self.home);
        names(&self.configuration) || self.earlier.last().is_some_and(|before| names(&before.configuration))
    }

    /// A leader's account of a peer, which goes with what it is sent; 0 if there is none.
    #[must_use]
    pub fn account_of(&self, peer: NodeId) -> u16 {
        self.peer(peer).map_or(0, |progress| progress.account)
    }

    /// How this replica came into being.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.joined.as_deref().map_or(Origin::Founder, |floor| Origin::Joined { floor: *floor })
    }
}

/// Whether a message wants something that a replica which has joined promises to those only that mean it.
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
