//! Support between nodes as a replica sees it, and what follows from it: fortification and leases.

use core::time::Duration;

use raftwerk_frame::{Index, NodeId, Time};

use crate::contract::Effects;
use crate::group::liveness::quiescence::Quiescence;
use crate::group::replication::progress::Progress;
use crate::group::role::RoleState;
use crate::group::{Group, Role};
use crate::quorum::{self, VoteResult};

/// Support is tracked for this many peers, the first in the order of their ids. Usual groups have fewer.
const NODES_MAX: usize = u16::BITS as usize;

/// A set of the first peers, by their places in the order of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerSet(u16);

impl PeerSet {
    pub(crate) const fn contains(self, at: usize) -> bool {
        at < NODES_MAX && self.0 & 1 << at != 0
    }

    const fn insert(&mut self, at: usize) {
        if at < NODES_MAX {
            self.0 |= 1 << at;
        }
    }

    const fn remove(&mut self, at: usize) {
        if at < NODES_MAX {
            self.0 &= !(1 << at);
        }
    }

    /// The peer at `at` is gone: those after it move down.
    const fn close_gap(&mut self, at: usize) {
        if at < NODES_MAX {
            let (below, count) = ((1 << at) - 1, self.len());
            self.0 = self.0 & below | (self.0 >> 1) & !below;
            assert!(self.len() <= count && self.len() + 1 >= count, "one peer goes, and the others stay");
        }
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

/// A replica's view of the support between nodes, and whether it is quiescent by it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Support {
    /// The peers that this node supports. Cleared when the peers change.
    given: PeerSet,
    /// The peers that support this node. Cleared when the peers change.
    pub(super) received: PeerSet,
    /// A message from the leader was received in this term, and no not-leader reply since.
    has_leader_contact: bool,
    /// Its leader's node is no longer supported, and other followers look for a new leader at the same time.
    campaigns_early: bool,
    pub(super) quiescence: Quiescence,
    /// A leader has requested that another replica campaigns in its place, which may happen at any time.
    has_sent_timeout_now: bool,
    /// Replies to this round or later ones show which followers fortify the leader, and which agree to
    /// quiesce.
    pub(super) since: u64,
}

impl Support {
    /// The peers have changed: their support is unknown.
    pub(crate) const fn clear(&mut self) {
        (self.given, self.received) = (PeerSet(0), PeerSet(0));
    }

    /// Another replica was requested to campaign: until this one leads anew, it has no lease.
    pub(crate) const fn note_timeout_now_sent(&mut self) {
        self.has_sent_timeout_now = true;
    }

    /// The peer at `at` is gone.
    pub(crate) const fn remove_peer(&mut self, at: usize) {
        self.given.close_gap(at);
        self.received.close_gap(at);
    }
}

impl Group {
    /// Whether this replica fortifies the leader that it follows: its node supports the leader's.
    #[must_use]
    pub fn is_fortifying(&self) -> bool {
        let leader = self.leader.filter(|_| self.support.has_leader_contact && self.role() == Role::Follower);
        leader.is_some_and(|leader| self.is_supporting(leader))
    }

    /// Whether the support of all peers is tracked.
    pub(super) fn tracks_all_peers(&self) -> bool {
        self.peers.len() <= NODES_MAX
    }

    /// Whether this node supports another, as the driver reported. Nothing is kept of nodes that are no peers,
    /// and of peers nothing from one configuration to the next.
    #[must_use]
    pub fn is_supporting(&self, node: NodeId) -> bool {
        self.peer_at(node).is_some_and(|at| self.support.given.contains(at))
    }

    /// Whether another node supports this one, as the driver reported; kept like [`Group::is_supporting`].
    #[must_use]
    pub fn is_supported_by(&self, node: NodeId) -> bool {
        self.peer_at(node).is_some_and(|at| self.support.received.contains(at))
    }

    /// Until when, at the latest, no other node leads, and the commit index up to which a read may be
    /// answered until then; `None` if the leader has no lease. `until` returns the end of a node's support
    /// for this one, on this node's clock.
    ///
    /// There is no lease in a term in which another replica was requested to campaign: that message may
    /// arrive at any time. Nor is there one for a leader that the configuration in force is without:
    /// followers that have it fortify a member only. Cost: a walk over the voters.
    pub fn lease(&self, until: impl Fn(NodeId) -> Time) -> Option<(Index, Time)> {
        let may_hold = self.role() == Role::Leader && self.configuration().contains(self.config.node);
        if !may_hold || !self.reads.is_open() || self.support.has_sent_timeout_now {
            return None;
        }
        let reached = |node: NodeId| {
            if node == self.config.node {
                return u64::MAX;
            }
            let is_fortifying = self.peer(node).is_some_and(|progress| progress.is_fortifying())
                && self.is_supported_by(node);
            if is_fortifying { until(node).0 } else { 0 }
        };
        assert!(self.commit <= self.log.last().index, "only what is in the log is committed");
        assert!(self.has_committed_in_term(), "a leader with open reads knows what is committed");
        quorum::reached(self.configuration(), reached).map(|until| (self.commit, Time(until)))
    }

    /// This node begins to support another.
    pub(crate) fn on_support_begun(&mut self, node: NodeId) {
        if let Some(at) = self.peer_at(node) {
            self.support.given.insert(at);
        }
    }

    /// This node ends to support another.
    pub(crate) fn on_support_ended(&mut self, node: NodeId) {
        if let Some(at) = self.peer_at(node) {
            self.support.given.remove(at);
            self.end_fortification(node);
            assert!(
                !self.is_fortifying() || self.leader != Some(node),
                "a leader without support is not fortified"
            );
        }
    }

    /// Another node begins to support this one.
    pub(crate) fn on_support_gained(&mut self, node: NodeId) {
        let Some(at) = self.peer_at(node) else { return };
        self.support.received.insert(at);
        if self.role() == Role::Leader {
            self.restart_fortification(at);
            self.unquiesce();
            assert!(!self.is_quiescent(), "a leader with a new supporter sends it heartbeats");
        }
    }

    /// Another node ends to support this one.
    pub(crate) fn on_support_lost(&mut self, node: NodeId) {
        let Some(at) = self.peer_at(node) else { return };
        self.support.received.remove(at);
        if self.role() == Role::Leader {
            self.restart_fortification(at);
            if !self.has_supported_quorum() {
                self.unquiesce();
            }
        }
    }

    /// The support of a peer's node has changed: its replies from before do not count.
    fn restart_fortification(&mut self, at: usize) {
        assert!(self.is_leader(), "followers fortify a leader");
        assert!(at < self.peers.len(), "only the support of peers is tracked");
        self.await_new_replies();
        self.all_progress_mut().iter_mut().skip(at).take(1).for_each(Progress::lose_support);
    }

    /// Only replies to heartbeats from now on count.
    pub(super) fn await_new_replies(&mut self) {
        let before = self.support.since;
        self.support.since = self.reads.next_round();
        assert!(self.support.since > before, "replies that count no longer never count again");
    }

    /// A follower holds the log up to `matched`, and held it up to `before`. If the configuration in force
    /// lies between, the follower's replies to later rounds are given under it; a reply on its way may be
    /// older.
    pub(crate) fn note_configured(&mut self, before: Index, matched: Index) {
        if before < self.configuration_index()
            && self.configuration_index() <= matched
            && !self.support.received.is_empty()
        {
            self.await_new_replies();
        }
    }

    /// This replica leads from now on, and has received no replies yet.
    pub(crate) fn reset_fortification(&mut self) {
        (self.support.has_sent_timeout_now, self.support.campaigns_early) = (false, false);
        // Without support no round is needed: support that begins starts a round of its own.
        let is_supported = !self.support.received.is_empty();
        let before = self.support.since;
        self.support.since = if is_supported { self.reads.next_round() } else { self.reads.round() };
        assert!(self.support.since >= before, "replies that count no longer never count again");
        assert!(self.is_leader(), "followers fortify a leader");
    }

    /// A message from the leader of this term was received: from now on this replica fortifies it, as long as
    /// its node is supported.
    pub(crate) const fn fortify(&mut self) {
        assert!(matches!(self.role, RoleState::Follower), "a replica fortifies the leader that it follows");
        (self.support.has_leader_contact, self.support.campaigns_early) = (true, false);
        self.support.quiescence = Quiescence::Active;
    }

    /// The term is new: it has no known leader.
    pub(crate) const fn forget_leader_contact(&mut self) {
        self.support.has_leader_contact = false;
    }

    /// Ends the fortification of a leader. Its followers campaign soon, at random times within T/2: many
    /// groups lose their leaders together. The extra wait of a lower priority counts from now: a deadline
    /// from the last message of the leader may come before that of a replica with a higher priority, if that
    /// one's node supports the leader's a little longer.
    pub(crate) fn end_fortification(&mut self, leader: NodeId) {
        if self.leader != Some(leader) || self.role() == Role::Leader || !self.support.has_leader_contact {
            return;
        }
        (self.support.has_leader_contact, self.support.campaigns_early) = (false, true);
        self.support.quiescence = Quiescence::Active;
        self.timers.forget_contact();
        let timeout = self.config.election_timeout();
        let soon = Duration::from_nanos(self.timers.draw(timeout.as_nanos() as u64 / 2));
        self.timers.set(self.now + soon + self.priority_delay());
    }

    pub(super) fn has_supported_quorum(&self) -> bool {
        assert!(self.support.received.len() <= self.peers.len(), "only peers count as supporters");
        let me = self.config.node;
        let is_supported = |node| Some(node == me || self.is_supported_by(node));
        quorum::vote_result(self.configuration(), is_supported) == VoteResult::Won
    }

    /// A pre-vote was granted to `candidate`. Where all followers lost their leader at the same moment, they
    /// campaign at nearly the same moment, and two that do split the votes; so a replica that has granted
    /// lets the candidate go first. Of two that request pre-votes of each other, the one with the higher id
    /// continues.
    pub(crate) fn yield_to_candidate(&mut self, candidate: NodeId, effects: &mut Effects) {
        assert!(candidate != self.config.node, "a replica lets others go first, not itself");
        let asks_too = self.role() == Role::PreCandidate;
        if !self.support.campaigns_early || asks_too && candidate < self.config.node {
            return;
        }
        if asks_too {
            self.become_follower(self.hard_state.term, None, effects);
        }
        self.rearm_election_early();
    }

    /// After an election without a winner, or in favour of another candidate: campaigns again sooner than
    /// after a silence. Only with pre-vote: a vote request makes all others rearm their timeouts, and a
    /// replica that is always sooner than they, with a log that is too short, would keep them from
    /// campaigning for good.
    pub(crate) fn rearm_election_early(&mut self) {
        if self.support.campaigns_early && self.config.pre_vote && self.role() == Role::Follower {
            let half = self.config.election_timeout().as_nanos() as u64 / 2;
            let early = Duration::from_nanos(half + self.timers.draw(half));
            self.timers.set(self.now + early + self.priority_delay());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn without(bits: u16, at: usize) -> u16 {
        let mut peers = PeerSet(bits);
        peers.close_gap(at);
        peers.0
    }

    #[test]
    fn bits_above_one_that_goes_move_down() {
        assert_eq!(without(0b1101_1010, 3), 0b0110_1010);
        assert_eq!(without(0b1, 0), 0);
        assert_eq!(without(u16::MAX, 15), u16::MAX >> 1);
        assert_eq!(without(0b101, NODES_MAX), 0b101);
    }
}
