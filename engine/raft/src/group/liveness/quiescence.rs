//! Quiescence: how a group comes to have no deadline and no message to send, and what ends that.

use raftwerk_frame::{Index, NodeId, Time};

use crate::contract::Effects;
use crate::group::replication::leader::HeartbeatReply;
use crate::group::replication::progress::{PeerState, PeerSupport, Progress};
use crate::group::{Group, Role};

/// Whether the group is quiescent at this replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Quiescence {
    /// It has deadlines.
    #[default]
    Active,
    /// It leads, and has offered its followers to quiesce.
    Offered,
    /// It has no deadline until there is a request.
    Quiescent,
}

impl Group {
    /// Whether the group is quiescent here: it has no deadline until there is a request.
    #[must_use]
    pub const fn is_quiescent(&self) -> bool {
        matches!(self.support.quiescence, Quiescence::Quiescent)
    }

    /// Whether this replica leads a group that is quiescent without one of its peers, or
    /// without the support of one: that peer may have missed something, and if it cannot campaign, it may
    /// never ask for it. Cost: a look at two words.
    #[must_use]
    pub fn is_quiescent_without_peer(&self) -> bool {
        assert!(self.support.received.len() <= self.peers.len(), "only peers count as supporters");
        self.is_quiescent() && self.role() == Role::Leader && (self.support.received.len()) < self.peers.len()
    }

    /// A connection to a peer was made. If the group is quiescent without that peer, the leader sends it a
    /// heartbeat now.
    ///
    /// The peer's acknowledgements do not matter: it may have everything, and not know that it is committed.
    pub(crate) fn on_reachable(&mut self, node: NodeId) {
        if self.is_quiescent_without_peer() && self.peers.contains(&node) && !self.is_supported_by(node) {
            self.unquiesce();
        }
    }

    /// A quiescent follower has received a request. It expects heartbeats from now on, and sends its leader a
    /// query at once.
    pub(crate) fn unquiesce_for_request(&mut self, effects: &mut Effects) {
        if self.role() == Role::Follower && self.is_quiescent() {
            self.unquiesce();
            self.rearm_election();
            self.query_leader(effects);
        }
    }

    /// Unquiesces a group, or withdraws the offer to quiesce.
    #[inline]
    pub(crate) fn unquiesce(&mut self) {
        if self.support.quiescence != Quiescence::Active {
            self.end_quiescence();
        }
    }

    fn end_quiescence(&mut self) {
        self.all_progress_mut().iter_mut().for_each(Progress::withdraw_consent);
        let before = core::mem::take(&mut self.support.quiescence);
        let is_leader = self.is_leader();
        assert!(is_leader || before == Quiescence::Quiescent, "only a leader offers to quiesce");
        if before == Quiescence::Quiescent && self.role() == Role::Leader {
            self.rearm_heartbeat();
            if self.config.check_quorum {
                self.rearm_quorum_check();
            }
        }
    }

    /// A leader's heartbeats are about to leave: whether they offer to quiesce.
    pub(crate) fn offer_quiescence(&mut self) -> bool {
        if !self.may_quiesce() {
            self.unquiesce();
        } else if self.support.quiescence == Quiescence::Active {
            self.support.quiescence = Quiescence::Offered;
            self.await_new_replies();
        }
        assert!(self.support.since <= self.reads.round(), "replies to a round that has begun are awaited");
        self.support.quiescence != Quiescence::Active
    }

    fn may_quiesce(&self) -> bool {
        let last = self.log.last().index;
        let is_done = |(at, progress): (usize, &Progress)| {
            if self.support.received.contains(at) {
                progress.state() == PeerState::Replicate && progress.matched() == last
            } else {
                // A peer without support does not matter if it is down; a live one would miss its leader.
                !progress.is_recently_active()
            }
        };
        (!self.support.received.is_empty() || self.peers.is_empty())
            && self.tracks_all_peers()
            && self.role() == Role::Leader
            && self.commit == last
            && self.leadership().is_some_and(|leadership| !leadership.has_commit_to_push())
            && self.reads.is_idle()
            && self.admission().is_none()
            && self.pending_transfer().is_none()
            && self.removals().is_empty()
            && self.all_progress().iter().enumerate().all(is_done)
            && self.has_supported_quorum()
    }

    /// The leader offers to quiesce. Returns whether this follower agrees: then it has no deadline any
    /// longer.
    pub(crate) fn accept_quiescence(&mut self, commit: Index) -> bool {
        assert!(self.role() == Role::Follower, "only a follower agrees to quiesce");
        let last = self.log.last().index;
        let agrees =
            self.is_fortifying() && commit == last && self.commit == last && self.log.durable() == last;
        if agrees && self.pending_reads.as_ref().is_none_or(|pending| pending.is_answered()) {
            assert!(self.leader.is_some(), "a quiescent follower knows its leader");
            self.support.quiescence = Quiescence::Quiescent;
            self.timers.stop();
        }
        self.is_quiescent()
    }

    /// A follower has answered a heartbeat: whether it fortifies this leader, and whether it agrees to
    /// quiesce. When all supporting peers agree, the group quiesces.
    pub(crate) fn on_fortification_reply(&mut self, from: NodeId, reply: HeartbeatReply) {
        let HeartbeatReply { round, fortifies, quiesce } = reply;
        assert!(self.is_leader(), "followers fortify a leader");
        if self.is_quiescent() && !self.is_supported_by(from) {
            // The group quiesced without this peer, which is alive, and would receive no heartbeats.
            self.unquiesce();
        }
        if round < self.support.since {
            return;
        }
        let is_offered = self.support.quiescence != Quiescence::Active;
        let configuration_at = self.configuration_index();
        let Some(progress) = self.progress_of(from) else { return };
        let is_fortifying = fortifies && progress.matched() >= configuration_at;
        progress.set_support(PeerSupport { is_fortifying, is_quiescent: quiesce && is_offered });
        if self.is_quiescent() || !quiesce || !is_offered || !self.may_quiesce() {
            return;
        }
        let received = self.support.received;
        let mut peers = self.all_progress().iter().enumerate();
        if peers.all(|(at, progress)| !received.contains(at) || progress.is_quiescent()) {
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
        assert!(self.is_leader(), "a leader decides that its group quiesces");
        assert!(self.commit == self.log.last().index, "a group that quiesces has committed all");
        assert!(self.reads.is_idle(), "a group that quiesces serves no reads");
        self.support.quiescence = Quiescence::Quiescent;
        self.timers.stop();
        if let Some(leadership) = self.leadership_mut() {
            leadership.set_quorum_deadline(Time::NEVER);
        }
        self.shrink();
        assert!(self.next_deadline() == Time::NEVER, "a quiescent group has no deadline");
    }
}
