//! Replica identity: which messages a replica accepts, where a node may come back with another log (or none),
//! and a log with another replica.
//!
//! A member of a group is a log, not a node; the driver supplies the sender's log, and the log that a message
//! is for. Four rules keep the identities apart:
//! 1. **A message from a member is accepted if its log is the one that the configuration names.** Initial
//!    members have no named log: theirs is the first one that was received under the node's id. So no vote
//!    and no acknowledgement counts of a log that replaced the member's.
//! 2. **Members of a configuration that has yet to arrive here may send requests**: a candidate or leader
//!    whose own configuration names its log, whichever log its node has here; and nodes that are no members
//!    here, whatever their log. Their requests are legitimate; replies of unknown peers are ignored. Only a
//!    node that bootstraps its group anew, having lost its disk, is named nowhere, and is not accepted.
//! 3. **A replica that has joined accepts requests only from senders whose configuration names its log.** A
//!    straggler with a configuration that names an earlier log of the node gets neither vote nor
//!    acknowledgement from the new one, not even by mistake.
//!
//! 4. **A witness accepts requests only from senders that have it as a witness, a replica with payloads only
//!    from senders that do not.** A replica is one or the other for its whole life. So a log of headers never
//!    counts for one of entries, whatever the request was.
//!
//! And a message is for one log of the receiving node ([`Recipient`]); a receiver with another log drops it.
//!
//! What is not here: how a driver learns the logs of nodes; which configuration means this replica
//! (`membership`).

use raftwerk_frame::{Configuration, NodeId};

use crate::contract::{MessageKind, MessageSender, Origin, Recipient};
use crate::group::Group;

impl Group {
    /// The log of a node that this replica's messages are for. A removed peer that is still served keeps the
    /// log that it had.
    #[must_use]
    pub fn recipient_of(&self, node: NodeId) -> Recipient {
        if self.configuration().contains(node) {
            return self.configuration().log_of(node).map_or(Recipient::InitialMember, Recipient::Named);
        }
        match self.removals().iter().find(|removal| removal.node() == node) {
            Some(removal) => removal.log().map_or(Recipient::InitialMember, Recipient::Named),
            None => Recipient::Anyone,
        }
    }

    /// Whether to accept a message; any other must be dropped. A snapshot chunk is a request.
    #[must_use]
    pub fn accepts(&self, sender: MessageSender, kind: MessageKind) -> bool {
        let is_request = kind == MessageKind::Request;
        let speaks_for_its_log = match self.recipient_of(sender.from) {
            Recipient::Named(log) => sender.log == log,
            Recipient::InitialMember => sender.is_first,
            Recipient::Anyone => true,
        };
        let may_ask = is_request && sender.names_itself;
        let is_meant = sender.to_witness == self.is_witness && (sender.is_named || self.joined.is_none());
        (speaks_for_its_log || may_ask) && (!is_request || is_meant)
    }

    /// Whether the configuration in force names the log that this replica is in; or the one before it, by
    /// which other members still accept a leader that is being removed.
    #[must_use]
    pub fn names_itself(&self) -> bool {
        let names =
            |of: &Configuration| of.log_of(self.config.node).is_some_and(|log| log == self.config.own_log);
        names(self.configuration()) || self.configurations.previous().is_some_and(names)
    }

    /// A leader's progress epoch of a peer, carried by what is sent to the peer; 0 if there is none.
    #[must_use]
    pub fn progress_epoch_of(&self, peer: NodeId) -> u16 {
        self.peer(peer).map_or(0, |progress| progress.progress_epoch())
    }

    /// Whether it has got back all that it held before it was removed and joined again.
    #[inline]
    pub(crate) fn has_reached_floor(&self) -> bool {
        self.joined.as_deref().is_none_or(|floor| self.log.last() >= *floor)
    }

    /// How this replica was created.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.joined.as_deref().map_or(Origin::InitialMember, |floor| Origin::Joined { floor: *floor })
    }
}
