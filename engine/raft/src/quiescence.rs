//! Liveness by node (store liveness): which leader this replica fortifies, and groups that quiesce.
//!
//! Nodes support nodes. The driver exchanges one small message per pair of nodes and interval, and passes two
//! facts about a peer to the group: that this node *supports* it ([`Input::Supports`](crate::Input)), and
//! that it supports this node ([`Input::SupportedBy`](crate::Input)). While a node supports another, a
//! replica that follows a leader there *fortifies* this leader: it neither votes for others nor campaigns,
//! unless the leader itself replies that it does not lead any longer. This allows two things.
//!
//! - **Quiescence.** A leader offers to quiesce, by a heartbeat, when its followers hold everything and know
//!   that it is committed. When all supporting followers have agreed, no replica of the group has a deadline,
//!   or a message to send, until there is a request, or support ends. A node that is down does not prevent
//!   that. A leader without peers quiesces by itself.
//! - **Leases** (thesis, section 6.4.1). A quorum of fortifying replicas elects no other leader as long as
//!   their nodes' support lasts, so until then a leader may answer reads by itself: [`Group::lease`].
//!
//! A leader is fortified in these steps: the follower's node supports the leader's, the follower receives a
//! message from the leader in this term, and the leader learns of that from the reply to a heartbeat that
//! left after it knew of the support *and* of the follower's having the configuration in force. Each end of
//! support ends the fortification on both sides, so a reply from before it does not count: `Support::since`. A
//! configuration ends it too: a follower keeps support only for the peers of its own configuration, so a
//! reply given under an earlier one does not count under this one.
//!
//! A follower that fortifies a leader and misses its heartbeats does not campaign but sends it a query
//! ([`Message::LeaderQuery`]); a node that does not lead that term replies so ([`Message::NotLeader`]), and never
//! leads it again. A quiescent follower misses no heartbeats: it sends the query when it receives a proposal
//! (a read sends a request to the leader anyway), a vote request, or a query of a replica that knows of no
//! leader and cannot campaign. A leader that is dropped sends the not-leader reply by itself, once; queries
//! repair its loss.
//!
//! What is not here: clocks and the duration of support, which are the driver's; without support, no leader
//! is fortified and no group quiesces, except a leader without peers.

use core::time::Duration;

use crate::effects::Effects;
use crate::group::{Group, Role};
use crate::progress::{PeerState, Progress};
use crate::quorum::{self, VoteResult};
use raftwerk_frame::{Index, Message, NodeId, Term, Time};

/// Support is tracked for this many peers, the first in the order of their ids. Usual groups have fewer.
const NODES_MAX: usize = u16::BITS as usize;
/// A replica that knows no leader and cannot campaign sends queries once in this many election timeouts.
const TIMEOUTS_TO_QUERY: u32 = 4;

/// A replica's view of the support between nodes, and its quiescence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Support {
    /// A bit for each of the first peers: this node supports it …
    supports: u16,
    /// … and is supported by it.
    supported_by: u16,
    /// A message from the leader was received in this term, and no not-leader reply since.
    waits: bool,
    /// Its leader's node is no longer supported, and other followers look for a new leader at the same time.
    campaigns_early: bool,
    /// Quiescent: no deadline until there is a request.
    is_quiescent: bool,
    /// A leader has offered to quiesce.
    offers_quiescence: bool,
    /// A leader has requested that another replica campaigns in its place, which may happen at any time.
    pub(crate) has_sent_timeout_now: bool,
    /// Replies to this round or later ones show which followers fortify the leader, and which agree to
    /// quiesce.
    since: u64,
}

impl Support {
    /// The peers have changed: their support is unknown.
    pub(crate) const fn clear(&mut self) {
        (self.supports, self.supported_by) = (0, 0);
    }

    /// The peer at `at` is gone.
    pub(crate) const fn remove_peer(&mut self, at: usize) {
        (self.supports, self.supported_by) = (without(self.supports, at), without(self.supported_by, at));
    }
}

/// The bits without the one at `at`; those above it move down.
const fn without(bits: u16, at: usize) -> u16 {
    if at >= NODES_MAX {
        return bits;
    }
    let below = (1 << at) - 1;
    bits & below | (bits >> 1) & !below
}

const fn is_set(bits: u16, at: usize) -> bool {
    at < NODES_MAX && bits & 1 << at != 0
}

const fn set(bits: &mut u16, at: usize, yes: bool) {
    if at < NODES_MAX {
        *bits = if yes { *bits | 1 << at } else { *bits & !(1 << at) };
    }
}

impl Group {
    /// Whether this replica fortifies the leader that it follows: its node supports the leader's.
    #[must_use]
    pub fn is_fortifying(&self) -> bool {
        let leader = self.leader.filter(|_| self.support.waits && self.role == Role::Follower);
        leader.is_some_and(|leader| self.is_supporting(leader))
    }

    /// Whether the group is quiescent here: it has no deadline until there is a request.
    #[must_use]
    pub const fn is_quiescent(&self) -> bool {
        self.support.is_quiescent
    }

    /// Whether this node supports another, as the driver reported. Nothing is kept of nodes that are no peers,
    /// and of peers nothing from one configuration to the next.
    #[must_use]
    pub fn is_supporting(&self, node: NodeId) -> bool {
        self.peers.binary_search(&node).is_ok_and(|at| is_set(self.support.supports, at))
    }

    /// Whether another node supports this one, as the driver reported; kept like [`Group::is_supporting`].
    #[must_use]
    pub fn is_supported_by(&self, node: NodeId) -> bool {
        self.peers.binary_search(&node).is_ok_and(|at| is_set(self.support.supported_by, at))
    }

    /// Until when, at the latest, no other node leads, and the commit index up to which a read may be
    /// answered until then; `None` if the leader has no lease. `until` returns the end of a node's support
    /// for this one, on this node's clock.
    ///
    /// There is no lease in a term in which another replica was requested to campaign: that message may
    /// arrive at any time. Nor is there one for a leader that the configuration in force is without:
    /// followers that have it fortify a member only. Cost: a walk over the voters.
    pub fn lease(&self, until: impl Fn(NodeId) -> Time) -> Option<(Index, Time)> {
        let may_hold = self.role == Role::Leader && self.configuration.contains(self.config.node);
        if !may_hold || !self.reads.is_open() || self.support.has_sent_timeout_now {
            return None;
        }
        let reached = |node: NodeId| {
            if node == self.config.node {
                return u64::MAX;
            }
            let is_fortifying =
                self.peer(node).is_some_and(|progress| progress.is_fortifying) && self.is_supported_by(node);
            if is_fortifying { until(node).0 } else { 0 }
        };
        quorum::reached(&self.configuration, reached).map(|until| (self.commit, Time(until)))
    }

    /// This node begins, or ends, to support another.
    pub(crate) fn supports(&mut self, node: NodeId, yes: bool) {
        if let Ok(at) = self.peers.binary_search(&node) {
            set(&mut self.support.supports, at, yes);
            if !yes {
                self.end_fortification(node);
            }
        }
    }

    /// Another node begins, or ends, to support this one.
    pub(crate) fn supported_by(&mut self, node: NodeId, yes: bool) {
        let Ok(at) = self.peers.binary_search(&node) else { return };
        set(&mut self.support.supported_by, at, yes);
        if self.role == Role::Leader {
            self.support.since = self.reads.next_round();
            self.progress.iter_mut().skip(at).take(1).for_each(Progress::lose_support);
            if yes || !self.has_supported_quorum() {
                self.unquiesce();
            }
        }
    }

    /// A follower holds the log up to `matched`, and held it up to `before`. If the configuration in force
    /// lies between, the follower's replies to later rounds are given under it; a reply on its way may be
    /// older.
    pub(crate) fn note_configured(&mut self, before: Index, matched: Index) {
        if before < self.configuration_at
            && self.configuration_at <= matched
            && self.support.supported_by != 0
        {
            self.support.since = self.reads.next_round();
        }
    }

    /// Whether this replica leads a group that is quiescent without one of its peers, or
    /// without the support of one: that peer may have missed something, and if it cannot campaign, it may
    /// never ask for it. Cost: a look at two words.
    #[must_use]
    pub fn is_quiescent_without_peer(&self) -> bool {
        self.support.is_quiescent
            && self.role == Role::Leader
            && (self.support.supported_by.count_ones() as usize) < self.peers.len()
    }

    /// A connection to a peer was made. If the group is quiescent without that peer, the leader sends it a
    /// heartbeat now.
    ///
    /// The peer's acknowledgements do not matter: it may have everything, and not know that it is committed.
    pub(crate) fn reachable(&mut self, node: NodeId) {
        if self.is_quiescent_without_peer() && self.peers.contains(&node) && !self.is_supported_by(node) {
            self.unquiesce();
        }
    }

    /// This replica leads from now on, and has received no replies yet.
    pub(crate) fn reset_fortification(&mut self) {
        (self.support.has_sent_timeout_now, self.support.campaigns_early) = (false, false);
        // Without support no round is needed: support that begins starts a round of its own.
        let is_supported = self.support.supported_by != 0;
        self.support.since = if is_supported { self.reads.next_round() } else { self.reads.round() };
    }

    /// A message from the leader of this term was received: from now on this replica fortifies it, as long as
    /// its node is supported.
    pub(crate) const fn bind(&mut self) {
        (self.support.waits, self.support.is_quiescent, self.support.campaigns_early) = (true, false, false);
    }

    /// The term is new: it has no known leader.
    pub(crate) const fn forget_leader_contact(&mut self) {
        self.support.waits = false;
    }

    /// Ends the fortification of a leader. Its followers campaign soon, at random times within T/2: many
    /// groups lose their leaders together. The extra wait of a lower priority counts from now: a deadline
    /// from the last message of the leader may come before that of a replica with a higher priority, if that
    /// one's node supports the leader's a little longer.
    pub(crate) fn end_fortification(&mut self, leader: NodeId) {
        if self.leader != Some(leader) || self.role == Role::Leader || !self.support.waits {
            return;
        }
        (self.support.waits, self.support.is_quiescent, self.support.campaigns_early) = (false, false, true);
        self.contact_at = Time(0);
        let timeout = self.config.election_timeout();
        let soon = Duration::from_nanos(self.rng.below(timeout.as_nanos() as u64 / 2));
        self.deadline = self.now + soon + self.priority_delay();
    }

    /// A pre-vote was granted to `candidate`. Where all followers lost their leader at the same moment, they
    /// campaign at nearly the same moment, and two that do split the votes; so a replica that has granted
    /// lets the candidate go first. Of two that request pre-votes of each other, the one with the higher id
    /// continues.
    pub(crate) fn yield_to_candidate(&mut self, candidate: NodeId, effects: &mut Effects) {
        let asks_too = self.role == Role::PreCandidate;
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
        if self.support.campaigns_early && self.config.pre_vote && self.role == Role::Follower {
            let half = self.config.election_timeout().as_nanos() as u64 / 2;
            self.deadline =
                self.now + Duration::from_nanos(half + self.rng.below(half)) + self.priority_delay();
        }
    }

    /// Sends a leader query: this replica fortifies a leader, and received a vote request, or no
    /// heartbeat.
    pub(crate) fn query_leader(&mut self, effects: &mut Effects) {
        if let Some(leader) = self.leader {
            effects.send.push((leader, Message::LeaderQuery { term: self.hard_state.term, follows: true }));
        }
    }

    /// A quiescent follower has received a request. It expects heartbeats from now on, and sends its leader a
    /// query at once.
    pub(crate) fn unquiesce_for_request(&mut self, effects: &mut Effects) {
        if self.role == Role::Follower && self.is_quiescent() {
            self.unquiesce();
            self.rearm_election();
            self.query_leader(effects);
        }
    }

    /// Knows no leader, and cannot campaign: sends a query to all voters, since those that could campaign may
    /// be quiescent and fortify a leader that has stepped down. Seldom: where others can campaign, they do so
    /// long before.
    pub(crate) fn query_voters(&mut self, effects: &mut Effects) {
        self.deadline = self.now + self.config.election_timeout() * TIMEOUTS_TO_QUERY;
        let question = Message::LeaderQuery { term: self.hard_state.term, follows: false };
        self.send_to_voters(question, false, effects);
    }

    /// Processes a leader query.
    pub(crate) fn on_leader_query(&mut self, from: NodeId, term: Term, follows: bool, effects: &mut Effects) {
        if self.role == Role::Leader && term >= self.hard_state.term {
            self.unquiesce();
            self.send_heartbeats(effects);
        } else if follows {
            self.answer_not_leader(from, term, effects);
        } else if self.leader != Some(from) {
            self.unquiesce_for_request(effects);
        } else if term >= self.hard_state.term {
            self.end_fortification(from); // a follower of that term never leads it
        }
    }

    /// Sends the not-leader reply. The sender has received a message from this replica as leader of the term: it
    /// does not lead it now, so it never will again. A term later than its own it has never led and may come to
    /// lead: no honest peer names one.
    pub(crate) fn answer_not_leader(&self, to: NodeId, term: Term, effects: &mut Effects) {
        if term <= self.hard_state.term {
            effects.send.push((to, Message::NotLeader { term }));
        }
    }

    /// The node that this replica fortifies does not lead the term.
    pub(crate) fn on_not_leader(&mut self, from: NodeId, term: Term) {
        if term == self.hard_state.term {
            self.end_fortification(from);
        }
    }

    /// Unquiesces a group, or withdraws the offer to quiesce.
    #[inline]
    pub(crate) fn unquiesce(&mut self) {
        if self.support.offers_quiescence || self.support.is_quiescent {
            self.end_quiescence();
        }
    }

    fn end_quiescence(&mut self) {
        self.support.offers_quiescence = false;
        self.progress.iter_mut().for_each(|progress| progress.is_quiescent = false);
        if core::mem::take(&mut self.support.is_quiescent) && self.role == Role::Leader {
            self.rearm_heartbeat();
            if self.config.check_quorum {
                self.quorum_deadline = self.now + self.config.election_timeout();
            }
        }
    }

    /// A leader's heartbeats are about to leave: whether they offer to quiesce.
    pub(crate) fn offer_quiescence(&mut self) -> bool {
        if !self.may_quiesce() {
            self.unquiesce();
        } else if !self.support.offers_quiescence {
            self.support.offers_quiescence = true;
            self.support.since = self.reads.next_round();
        }
        self.support.offers_quiescence
    }

    fn may_quiesce(&self) -> bool {
        let last = self.log.last().index;
        let is_done = |(at, progress): (usize, &Progress)| {
            if is_set(self.support.supported_by, at) {
                progress.state == PeerState::Replicate && progress.matched == last
            } else {
                // A peer without support does not matter if it is down; a live one would miss its leader.
                !progress.is_recently_active()
            }
        };
        (self.support.supported_by != 0 || self.peers.is_empty())
            && self.peers.len() <= NODES_MAX
            && self.role == Role::Leader
            && self.commit == last
            && self.commit_push_at == Time::NEVER
            && self.reads.is_idle()
            && self.admission.is_none()
            && self.handover.is_none()
            && self.leaving.is_empty()
            && self.progress.iter().enumerate().all(is_done)
            && self.has_supported_quorum()
    }

    fn has_supported_quorum(&self) -> bool {
        let me = self.config.node;
        let is_supported = |node| Some(node == me || self.is_supported_by(node));
        quorum::vote_result(&self.configuration, is_supported) == VoteResult::Won
    }

    /// The leader offers to quiesce. Returns whether this follower agrees: then it has no deadline any
    /// longer.
    pub(crate) fn accept_quiescence(&mut self, commit: Index) -> bool {
        let last = self.log.last().index;
        let agrees =
            self.is_fortifying() && commit == last && self.commit == last && self.log.durable() == last;
        if agrees && self.asked.as_ref().is_none_or(|asked| asked.is_answered()) {
            self.support.is_quiescent = true;
            self.deadline = Time::NEVER;
        }
        self.support.is_quiescent
    }

    /// A follower has answered a heartbeat: whether it fortifies this leader, and whether it agrees to
    /// quiesce. When all supporting peers agree, the group quiesces.
    pub(crate) fn on_fortification_reply(&mut self, from: NodeId, round: u64, fortifies: bool, rests: bool) {
        if self.support.is_quiescent && !self.is_supported_by(from) {
            // The group quiesced without this peer, which is alive, and would receive no heartbeats.
            self.unquiesce();
        }
        if round < self.support.since {
            return;
        }
        let (offers_quiescence, configuration_at) = (self.support.offers_quiescence, self.configuration_at);
        let Some(progress) = self.progress_of(from) else { return };
        progress.is_fortifying = fortifies && progress.matched >= configuration_at;
        progress.is_quiescent = rests && offers_quiescence;
        if self.support.is_quiescent || !rests || !offers_quiescence || !self.may_quiesce() {
            return;
        }
        let supported_by = self.support.supported_by;
        let mut peers = self.progress.iter().enumerate();
        if peers.all(|(at, progress)| !is_set(supported_by, at) || progress.is_quiescent) {
            self.quiesce();
        }
    }

    /// A leader without peers quiesces by itself. Returns whether it does.
    pub(crate) fn quiesce_alone(&mut self) -> bool {
        let may_quiesce = self.peers.is_empty() && self.may_quiesce();
        if may_quiesce {
            self.quiesce();
        }
        may_quiesce
    }

    fn quiesce(&mut self) {
        self.support.is_quiescent = true;
        (self.deadline, self.quorum_deadline) = (Time::NEVER, Time::NEVER);
        self.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_above_one_that_goes_move_down() {
        assert_eq!(without(0b1101_1010, 3), 0b0110_1010);
        assert_eq!(without(0b1, 0), 0);
        assert_eq!(without(u16::MAX, 15), u16::MAX >> 1);
        assert_eq!(without(0b101, NODES_MAX), 0b101);
    }
}
