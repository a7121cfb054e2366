//! Liveness by node: whom this replica is bound to, and groups that have nothing to say and say nothing.
//!
//! Nodes support nodes. Whoever drives the group exchanges one small message per pair of nodes and interval, and tells the
//! group two things of a peer: that this node *supports* it ([`Input::Supports`](crate::Input)), and that it supports this
//! node ([`Input::SupportedBy`](crate::Input)). Support is a promise: while it lasts, a replica that follows a leader on the
//! supported node is *bound* to it. It neither votes for others nor campaigns, unless that leader says itself that it does not
//! lead any longer. Two things follow.
//!
//! - **Rest.** A leader whose followers hold everything and know that it is committed tells them so with a heartbeat. When all
//!   that are supported have agreed, nobody of the group has a deadline, or a message to send, until something is wanted of it,
//!   or support ends. A node that is down keeps nobody awake. A leader without peers rests by itself.
//! - **Leases** (thesis, section 6.4.1). A quorum of bound replicas elects nobody else as long as their nodes' support lasts, so
//!   until then a leader may answer reads by itself: [`Group::lease`].
//!
//! What binds, in order: the follower's node supports the leader's, the follower hears the leader in this term, the leader
//! learns of that by the answer to a heartbeat that left after it knew of the support *and* of the follower's having the
//! configuration in force. Each end of support ends the binding on both sides, so an answer from before it counts for
//! nothing: `Ties::since`. A configuration ends it too: a follower keeps ties to the peers of its own configuration only, so
//! an answer given under an earlier one does not count under this one.
//!
//! A bound replica that misses its leader does not campaign but asks it ([`Message::Doubt`]); a node that does not lead that
//! term answers so ([`Message::Renounce`]), and never leads it again. A follower at rest misses nothing by itself: it asks
//! when something is wanted of it (a proposal; a read asks anyway), when another asks it for its vote, or when a replica that knows of no
//! leader and cannot campaign asks around. A leader that is dropped renounces, once; the questions repair what that loses.
//!
//! What is not here: clocks and promises, which are the driver's; without them, nobody is bound and no group rests.

use core::time::Duration;

use crate::effects::Effects;
use crate::group::{Group, Role};
use crate::progress::{PeerState, Progress};
use crate::quorum::{self, VoteResult};
use raftwerk_frame::{Index, Message, NodeId, Term, Time};

/// So many peers, in the order of their ids, can be supported. Usual groups have fewer.
const NODES_MAX: usize = u16::BITS as usize;
/// A replica that knows no leader and cannot campaign asks around once in so many election timeouts.
const ASKS_AROUND_AFTER: u32 = 4;

/// What a replica knows of nodes, and how much it rests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ties {
    /// A bit for each of the first peers: this node supports it …
    supports: u16,
    /// … and is supported by it.
    supported_by: u16,
    /// The leader was heard in this term, and has not renounced.
    waits: bool,
    /// Its leader's node is supported no longer, and others look for a new one at the same time.
    is_hasty: bool,
    /// Nothing is due until something is wanted.
    is_resting: bool,
    /// A leader has told the others that there is nothing more to say.
    wants_rest: bool,
    /// A leader has told another to campaign in its place, which may do so at any time.
    pub(crate) has_hurried: bool,
    /// Answers to this round or later ones tell who is bound, and who agrees to rest.
    since: u64,
}

impl Ties {
    /// The peers are others, and nothing is known of them.
    pub(crate) const fn forget_nodes(&mut self) {
        (self.supports, self.supported_by) = (0, 0);
    }

    /// The peer at `at` is gone.
    pub(crate) const fn forget_node(&mut self, at: usize) {
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
    /// Whether this replica has promised, by way of its node, to wait for the leader that it follows.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        let leader = self.leader.filter(|_| self.ties.waits && self.role == Role::Follower);
        leader.is_some_and(|leader| self.tie(leader).0)
    }

    /// Whether nothing is due in this group until something is wanted of it.
    #[must_use]
    pub const fn is_resting(&self) -> bool {
        self.ties.is_resting
    }

    /// What this replica was told of a node: whether this node supports it, and whether it supports this node. Of nodes that are
    /// no peers it keeps nothing, and of peers nothing from one configuration to the next.
    #[must_use]
    pub fn tie(&self, node: NodeId) -> (bool, bool) {
        let at = self.peers.binary_search(&node).unwrap_or(NODES_MAX);
        (is_set(self.ties.supports, at), is_set(self.ties.supported_by, at))
    }

    /// Until when, at the latest, nobody else leads, and the commit index up to which a read may be answered until then; `None`
    /// if this replica cannot tell. `until` tells the end of a node's support for this one, as this node's clock has it.
    ///
    /// No lease is left in a term in which another was told to take over: that message may arrive at any time. Nor is there
    /// one for a leader that the configuration in force is without: followers that have it are bound to a member only.
    /// Costs a walk over the voters.
    pub fn lease(&self, until: impl Fn(NodeId) -> Time) -> Option<(Index, Time)> {
        let may_hold = self.role == Role::Leader && self.configuration.contains(self.config.node);
        if !may_hold || !self.reads.is_open() || self.ties.has_hurried {
            return None;
        }
        let reached = |node: NodeId| {
            if node == self.config.node {
                return u64::MAX;
            }
            let is_bound = self.peer(node).is_some_and(|progress| progress.is_bound) && self.tie(node).1;
            if is_bound { until(node).0 } else { 0 }
        };
        quorum::reached(&self.configuration, reached).map(|until| (self.commit, Time(until)))
    }

    /// This node begins, or ends, to support another.
    pub(crate) fn supports(&mut self, node: NodeId, yes: bool) {
        if let Ok(at) = self.peers.binary_search(&node) {
            set(&mut self.ties.supports, at, yes);
            if !yes {
                self.unbind(node);
            }
        }
    }

    /// Another node begins, or ends, to support this one.
    pub(crate) fn supported_by(&mut self, node: NodeId, yes: bool) {
        let Ok(at) = self.peers.binary_search(&node) else { return };
        set(&mut self.ties.supported_by, at, yes);
        if self.role == Role::Leader {
            self.ties.since = self.reads.next_round();
            self.progress.iter_mut().skip(at).take(1).for_each(Progress::let_loose);
            if yes || !self.has_supported_quorum() {
                self.wake();
            }
        }
    }

    /// A follower holds the log up to `matched`, and held it up to `before`. If the configuration in force lies between, what
    /// the follower answers to heartbeats from now on is said under it; what is on its way may be older.
    pub(crate) fn note_configured(&mut self, before: Index, matched: Index) {
        if before < self.configuration_at && self.configuration_at <= matched && self.ties.supported_by != 0 {
            self.ties.since = self.reads.next_round();
        }
    }

    /// Whether this replica leads a group that went to rest without one of its peers, or in which one is supported no longer: it
    /// may have missed something, and if it has no vote, it asks nobody. Costs nothing but a look at two words.
    #[must_use]
    pub fn rests_without_a_peer(&self) -> bool {
        self.ties.is_resting
            && self.role == Role::Leader
            && (self.ties.supported_by.count_ones() as usize) < self.peers.len()
    }

    /// A connection to a peer was made. If the group went to rest without it, it hears from its leader now.
    ///
    /// What it has acknowledged does not matter: it may have everything, and not know that it is committed.
    pub(crate) fn reachable(&mut self, node: NodeId) {
        if self.rests_without_a_peer() && self.peers.contains(&node) && !self.tie(node).1 {
            self.wake();
        }
    }

    /// This replica leads from now on, and has been answered by nobody.
    pub(crate) fn begin_binding(&mut self) {
        (self.ties.has_hurried, self.ties.is_hasty) = (false, false);
        // Where nobody is supported, nothing is asked: support that begins begins a round of its own.
        let is_supported = self.ties.supported_by != 0;
        self.ties.since = if is_supported { self.reads.next_round() } else { self.reads.round() };
    }

    /// The leader of this term was heard: from now on this replica waits for it, as long as its node is supported.
    pub(crate) const fn bind(&mut self) {
        (self.ties.waits, self.ties.is_resting, self.ties.is_hasty) = (true, false, false);
    }

    /// Nobody is known to lead this term: it is new.
    pub(crate) const fn forget_binding(&mut self) {
        self.ties.waits = false;
    }

    /// A leader is waited for no longer. Its followers look for another soon, and not all at once: many groups lose their
    /// leaders together. What an unwilling one waits longer counts from now: a deadline that it had before, since the leader was
    /// last heard, may come before a more willing one, whose node supports the leader's a little longer, looks at all.
    pub(crate) fn unbind(&mut self, leader: NodeId) {
        if self.leader != Some(leader) || self.role == Role::Leader || !self.ties.waits {
            return;
        }
        (self.ties.waits, self.ties.is_resting, self.ties.is_hasty) = (false, false, true);
        self.heard = Time(0);
        let timeout = self.config.election_timeout();
        let soon = Duration::from_nanos(self.rng.below(timeout.as_nanos() as u64 / 2));
        self.deadline = self.now + soon + self.patience();
    }

    /// A pre-vote was granted to `candidate`. Where all followers lost their leader at the same moment, they campaign at nearly
    /// the same moment, and two that do split the votes; so whoever has granted lets the other go first. Of two that ask each
    /// other, the one with the higher id goes on.
    pub(crate) fn let_go_first(&mut self, candidate: NodeId, effects: &mut Effects) {
        let asks_too = self.role == Role::PreCandidate;
        if !self.ties.is_hasty || asks_too && candidate < self.config.node {
            return;
        }
        if asks_too {
            self.follow(self.hard_state.term, None, effects);
        }
        self.try_again_soon();
    }

    /// After an election that nobody won, or for another's sake: sooner than after silence. Only where a try is a question first:
    /// a request for votes makes all others wait anew, and whoever is always sooner than they, with a log that is too short, would
    /// keep them from campaigning for good.
    pub(crate) fn try_again_soon(&mut self) {
        if self.ties.is_hasty && self.config.pre_vote && self.role == Role::Follower {
            let half = self.config.election_timeout().as_nanos() as u64 / 2;
            self.deadline = self.now + Duration::from_nanos(half + self.rng.below(half)) + self.patience();
        }
    }

    /// A bound replica that is asked for its vote, or hears nothing: does that node still lead?
    pub(crate) fn doubt(&mut self, effects: &mut Effects) {
        if let Some(leader) = self.leader {
            effects.send.push((leader, Message::Doubt { term: self.hard_state.term, follows: true }));
        }
    }

    /// Something is wanted of a follower at rest. It expects to hear its leader from now on, and asks it now.
    pub(crate) fn rouse(&mut self, effects: &mut Effects) {
        if self.role == Role::Follower && self.is_resting() {
            self.wake();
            self.rearm_election();
            self.doubt(effects);
        }
    }

    /// Knows no leader, and cannot campaign: asks all voters, since those that could may be at rest, bound to a leader that does
    /// not lead any more. Seldom: where others can campaign, they do so long before.
    pub(crate) fn ask_around(&mut self, effects: &mut Effects) {
        self.deadline = self.now + self.config.election_timeout() * ASKS_AROUND_AFTER;
        let question = Message::Doubt { term: self.hard_state.term, follows: false };
        self.send_to_voters(question, false, effects);
    }

    /// A peer asks whether this replica leads.
    pub(crate) fn take_doubt(&mut self, from: NodeId, term: Term, follows: bool, effects: &mut Effects) {
        if self.role == Role::Leader && term >= self.hard_state.term {
            self.wake();
            self.send_heartbeats(effects);
        } else if follows {
            // A replica that follows this one in that term has heard it lead. It does not now, so it never will again.
            effects.send.push((from, Message::Renounce { term }));
        } else if self.leader != Some(from) {
            self.rouse(effects);
        } else if term >= self.hard_state.term {
            self.unbind(from); // a follower of that term never leads it
        }
    }

    /// The node that this replica waits for does not lead the term.
    pub(crate) fn take_renounce(&mut self, from: NodeId, term: Term) {
        if term == self.hard_state.term {
            self.unbind(from);
        }
    }

    /// Something is wanted of a group that may be at rest.
    #[inline]
    pub(crate) fn wake(&mut self) {
        if self.ties.wants_rest || self.ties.is_resting {
            self.end_rest();
        }
    }

    fn end_rest(&mut self) {
        self.ties.wants_rest = false;
        self.progress.iter_mut().for_each(|progress| progress.is_resting = false);
        if core::mem::take(&mut self.ties.is_resting) && self.role == Role::Leader {
            self.rearm_heartbeat();
            if self.config.check_quorum {
                self.quorum_deadline = self.now + self.config.election_timeout();
            }
        }
    }

    /// A leader's heartbeats are about to leave: whether they may say that there is nothing more to say.
    pub(crate) fn offer_rest(&mut self) -> bool {
        if !self.may_rest() {
            self.wake();
        } else if !self.ties.wants_rest {
            self.ties.wants_rest = true;
            self.ties.since = self.reads.next_round();
        }
        self.ties.wants_rest
    }

    fn may_rest(&self) -> bool {
        let last = self.log.last().index;
        let is_done = |(at, progress): (usize, &Progress)| {
            if is_set(self.ties.supported_by, at) {
                progress.state == PeerState::Replicate && progress.matched == last
            } else {
                // It is down; or it lives and is not supported, and would miss its leader.
                !progress.was_heard()
            }
        };
        (self.ties.supported_by != 0 || self.peers.is_empty())
            && self.peers.len() <= NODES_MAX
            && self.role == Role::Leader
            && self.commit == last
            && self.news_at == Time::NEVER
            && self.reads.is_idle()
            && self.admission.is_none()
            && self.handover.is_none()
            && self.leaving.is_empty()
            && self.progress.iter().enumerate().all(is_done)
            && self.has_supported_quorum()
    }

    fn has_supported_quorum(&self) -> bool {
        let me = self.config.node;
        let is_supported = |node| Some(node == me || self.tie(node).1);
        quorum::vote_result(&self.configuration, is_supported) == VoteResult::Won
    }

    /// A follower is told that there is nothing more to say. Whether it agrees: then it has no deadline any longer.
    pub(crate) fn accept_rest(&mut self, commit: Index) -> bool {
        let last = self.log.last().index;
        let agrees = self.is_bound() && commit == last && self.commit == last && self.log.durable() == last;
        if agrees && self.asked.as_ref().is_none_or(|asked| asked.is_answered()) {
            self.ties.is_resting = true;
            self.deadline = Time::NEVER;
        }
        self.ties.is_resting
    }

    /// A follower has answered a heartbeat: whether it is bound, and whether it agrees to rest. When all that are supported
    /// do, the group rests.
    pub(crate) fn take_standing(&mut self, from: NodeId, round: u64, binds: bool, rests: bool) {
        if self.ties.is_resting && !self.tie(from).1 {
            // It was taken to be down; it lives, and nobody would tell it anything.
            self.wake();
        }
        if round < self.ties.since {
            return;
        }
        let (wants_rest, configuration_at) = (self.ties.wants_rest, self.configuration_at);
        let Some(progress) = self.progress_of(from) else { return };
        progress.is_bound = binds && progress.matched >= configuration_at;
        progress.is_resting = rests && wants_rest;
        if self.ties.is_resting || !rests || !wants_rest || !self.may_rest() {
            return;
        }
        let supported_by = self.ties.supported_by;
        let mut peers = self.progress.iter().enumerate();
        if peers.all(|(at, progress)| !is_set(supported_by, at) || progress.is_resting) {
            self.rest();
        }
    }

    /// A leader without peers has nobody to ask. Whether it rests.
    pub(crate) fn rest_alone(&mut self) -> bool {
        let may_rest = self.peers.is_empty() && self.may_rest();
        if may_rest {
            self.rest();
        }
        may_rest
    }

    fn rest(&mut self) {
        self.ties.is_resting = true;
        (self.deadline, self.quorum_deadline) = (Time::NEVER, Time::NEVER);
        self.give_back();
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
