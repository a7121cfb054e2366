//! Removal of replicas: a removed peer counts for nothing any more, and yet is served until it has received
//! its removal.
//!
//! A configuration is in force at its leader before any other replica has it. The leader goes on sending the
//! log to a peer that the configuration removes, up to the commit of that configuration: so the peer learns
//! of its removal from the log, as of any entry. It counts in no quorum, is sent no vote request, and gets no
//! snapshot. The service ends when the peer has acknowledged the commit, or an election timeout after it,
//! since the peer may be gone already; then the leader sends one removal notice ([`Message::Removed`]).
//!
//! What is not here: how a replica handles its own removal (`membership`), leaders that are removed
//! (`transfer`).

use alloc::vec::Vec;

use raftwerk_frame::{EntryId, Index, LogId, Message, NodeId, Time};
use smallvec::SmallVec;

use crate::contract::Effects;
use crate::group::Group;
use crate::group::replication::progress::{Progress, ReplicaKind};

/// At most this many removed peers are served at a time. Further removals end the service of the oldest.
const REMOVALS_MAX: usize = 16;

/// The state of one removal. Its node is among the leader's peers as long as this exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removal {
    node: NodeId,
    /// The log that it was a member with, if the configuration named it.
    log: Option<LogId>,
    /// The configuration that is without it.
    configuration: EntryId,
    /// The last index of the append that carried the commit of its removal.
    told_to: Option<Index>,
    /// When its service ends; never, while its removal is not committed.
    until: Time,
}

impl Removal {
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) const fn log(&self) -> Option<LogId> {
        self.log
    }
}

impl Group {
    /// Another configuration is in force in this leader: new members get a progress, and removed peers keep
    /// theirs for a while.
    pub(crate) fn place_peers(&mut self, before: SmallVec<[NodeId; 4]>, effects: &mut Effects) {
        let next = self.log.last().index.next();
        let progress = self.take_progress();
        assert_eq!(before.len(), progress.len(), "every peer of a leader had progress");
        let mut known: Vec<(NodeId, Progress)> = before.into_iter().zip(progress).collect();
        let mut placed = Vec::with_capacity(known.len().max(self.peers.len()));
        for at in 0..self.peers.len() {
            let peer = self.peers[at];
            // The progress of a peer that was removed and comes back belongs to its earlier membership.
            let stays = |(node, _): &(NodeId, Progress)| *node == peer && !self.is_leaving(peer);
            let at = known.iter().position(stays);
            // A new member counts as active for a first period: it had no chance to reply yet.
            let progress = match at {
                Some(at) => known.swap_remove(at).1,
                None => {
                    let kind = ReplicaKind::in_configuration(self.configuration(), peer);
                    Progress::of_new_member(next, self.next_progress_epoch(), kind)
                }
            };
            placed.push((peer, progress));
        }
        let configuration = self.configuration_id();
        let log_of = |node| self.configurations.previous().and_then(|before| before.log_of(node));
        let gone: Vec<(NodeId, Option<LogId>)> =
            known.iter().map(|(node, _)| (*node, log_of(*node))).collect();
        if let Some((peers, leadership)) = self.peers_and_leadership() {
            leadership.retain_removals(|removal| peers.binary_search(&removal.node).is_err());
        }
        known.retain(|(node, _)| self.peers.binary_search(node).is_err());
        for (node, log) in gone {
            if self.peers.binary_search(&node).is_err() && !self.is_leaving(node) {
                self.leave(node, log, configuration);
            }
        }
        placed.append(&mut known);
        self.set_peers(placed);
        while self.removals().len() > REMOVALS_MAX {
            self.end_removal(0, effects);
        }
        assert!(self.removals().len() <= self.peers.len(), "a removed peer is a peer while it is served");
        assert!(self.is_leader(), "a leader has the progress of its peers");
    }

    /// This replica leads now, with a configuration that may not be committed: the peers that it removes have
    /// not received its commit either.
    pub(crate) fn restore_removals(&mut self) {
        assert!(self.is_leader() && self.removals().is_empty(), "a new leader serves no removed peer yet");
        let Some(before) =
            self.configurations.previous().filter(|_| self.configuration_index() > self.commit)
        else {
            return;
        };
        let me = self.config.node;
        let mut gone = before.replicas();
        gone.retain(|node| *node != me && !self.configuration().contains(*node));
        gone.truncate(REMOVALS_MAX);
        if gone.is_empty() {
            return;
        }
        let of = |node| {
            let kind = ReplicaKind::in_configuration(before, node);
            (node, before.log_of(node), kind)
        };
        let gone: Vec<_> = gone.into_iter().map(of).collect();
        let (next, configuration) = (self.log.last().index.next(), self.configuration_id());
        let progress = self.take_progress();
        let mut placed: Vec<_> = self.peers.iter().copied().zip(progress).collect();
        for (node, log, kind) in gone {
            self.leave(node, log, configuration);
            placed.push((node, Progress::new(next, kind)));
        }
        self.set_peers(placed);
        assert!(self.removals().len() <= REMOVALS_MAX, "a bounded number of removed peers is served");
    }

    fn leave(&mut self, node: NodeId, log: Option<LogId>, configuration: EntryId) {
        assert!(node != self.config.node, "a leader is no peer of its own");
        assert!(self.is_leader(), "a leader serves the peers that it removes");
        if let Some(leadership) = self.leadership_mut() {
            leadership.add_removal(Removal { node, log, configuration, told_to: None, until: Time::NEVER });
        }
    }

    /// Removes the progress of all peers, to be placed anew by [`Group::set_peers`].
    fn take_progress(&mut self) -> Vec<Progress> {
        self.leadership_mut().map(|leadership| leadership.take_progress()).unwrap_or_default()
    }

    /// The progress epoch of a peer that is added now.
    fn next_progress_epoch(&mut self) -> u16 {
        self.leadership_mut().map_or(0, |leadership| leadership.next_progress_epoch())
    }

    fn set_peers(&mut self, mut placed: Vec<(NodeId, Progress)>) {
        placed.sort_unstable_by_key(|(node, _)| *node);
        self.support.clear();
        placed.iter_mut().for_each(|(_, progress)| progress.lose_support());
        let (peers, progress) = placed.into_iter().unzip();
        self.peers = peers;
        if let Some(leadership) = self.leadership_mut() {
            leadership.set_progress(progress);
        }
        assert_eq!(self.peers.len(), self.all_progress().len(), "every peer of a leader has progress");
    }

    /// The commit index has risen: removed peers are served for one more election timeout, once their
    /// removal is committed.
    pub(crate) fn start_removal_deadlines(&mut self) {
        let (commit, until) = (self.commit, self.now + self.config.election_timeout());
        for removal in self.removals_mut().iter_mut().filter(|removal| removal.configuration.index <= commit)
        {
            removal.until = removal.until.min(until);
        }
    }

    /// An append up to `last`, which carries the commit index, was sent.
    pub(crate) fn note_removal_sent(&mut self, node: NodeId, last: Index) {
        let told = self.commit.min(last);
        for removal in self.removals_mut().iter_mut().filter(|removal| removal.node == node) {
            if removal.configuration.index <= told {
                removal.told_to.get_or_insert(last);
            }
        }
    }

    /// A peer has acknowledged entries: perhaps the commit of its removal.
    pub(crate) fn end_acknowledged_removal(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(at) = self.removals().iter().position(|removal| removal.node == node) else { return };
        let matched = self.peer(node).map_or(Index(0), |progress| progress.matched());
        assert!(matched <= self.log.last().index, "only what is in the log is acknowledged");
        if self.removals()[at].told_to.is_some_and(|told_to| matched >= told_to) {
            self.end_removal(at, effects);
        }
    }

    /// Ends the service of peers that have reached their deadline.
    pub(crate) fn end_due_removals(&mut self, effects: &mut Effects) {
        for at in (0..self.removals().len()).rev() {
            if self.removals()[at].until <= self.now {
                self.end_removal(at, effects);
            }
        }
    }

    /// This replica leads no longer, and serves no removed peers.
    pub(crate) fn end_all_removals(&mut self, effects: &mut Effects) {
        while !self.removals().is_empty() {
            self.end_removal(self.removals().len() - 1, effects);
        }
    }

    /// Ends the service of a peer. If its removal is committed, the leader sends it the removal notice.
    fn end_removal(&mut self, at: usize, effects: &mut Effects) {
        assert!(self.is_leader(), "a leader serves removed peers");
        let Some((peers, leadership)) = self.peers_and_leadership() else { return };
        let Removal { node, configuration, .. } = leadership.take_removal(at);
        if let Ok(at) = peers.binary_search(&node) {
            peers.remove(at);
            leadership.remove_progress(at);
            assert_eq!(peers.len(), leadership.progress().len(), "every peer of a leader has progress");
            self.support.remove_peer(at);
        }
        if configuration.index <= self.commit {
            let term = self.hard_state.term;
            effects.send.push((node, Message::Removed { term, configuration }));
        }
    }

    /// Whether this replica leads, and serves a peer only because the peer has yet to receive its removal.
    #[must_use]
    pub fn is_leaving(&self, peer: NodeId) -> bool {
        self.removals().iter().any(|removal| removal.node == peer)
    }

    /// Whether this replica leads, and the removal of a peer that it still serves is committed. Before the
    /// commit, the peer is a member: the entry that removes it may be replaced.
    #[must_use]
    pub fn has_left(&self, peer: NodeId) -> bool {
        self.removals()
            .iter()
            .any(|removal| removal.node == peer && removal.configuration.index <= self.commit)
    }

    /// The entry that contains the configuration in force.
    pub(crate) fn configuration_id(&self) -> EntryId {
        let term = self.log.term_at(self.configuration_index()).unwrap_or_default();
        EntryId::new(term, self.configuration_index())
    }
}
