//! Quiescence: how a group comes to have no deadline and no message to send, and what ends that.

use raftwerk_frame::{Index, NodeId, Time};

use super::support::{NODES_MAX, is_set};
use crate::contract::Effects;
use crate::group::replication::progress::{PeerState, Progress};
use crate::group::{Group, Role};

impl Group {
    /// Whether the group is quiescent here: it has no deadline until there is a request.
    #[must_use]
    pub const fn is_quiescent(&self) -> bool {
        self.support.is_quiescent
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

    /// A quiescent follower has received a request. It expects heartbeats from now on, and sends its leader a
    /// query at once.
    pub(crate) fn unquiesce_for_request(&mut self, effects: &mut Effects) {
        if self.role == Role::Follower && self.is_quiescent() {
            self.unquiesce();
            self.rearm_election();
            self.query_leader(effects);
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
