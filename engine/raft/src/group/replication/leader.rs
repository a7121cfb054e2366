//! The leader: opens its term, takes proposals, sends appends, counts acknowledgements (paper, sections 5.3,
//! 5.4.2).

use alloc::boxed::Box;
use alloc::vec::Vec;

use raftwerk_frame::{EntryId, Index, Message, NodeId, Time};

use crate::contract::{Append, AppendPlan, Effects, Opening, Rejected};
use crate::group::replication::progress::{PeerState, Progress, ReplicaKind};
use crate::group::role::{Leadership, RoleState};
use crate::group::{Group, Role};
use crate::quorum::{self, VoteResult};

/// What a leader appends of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OwnEntries {
    /// The empty entry that opens its term.
    Noop,
    /// So many proposals, or one configuration.
    Payloads(u32),
}

/// What the reply to a heartbeat contains besides the term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeartbeatReply {
    pub(crate) round: u64,
    /// The follower fortifies this leader.
    pub(crate) fortifies: bool,
    /// The follower agrees to quiesce.
    pub(crate) quiesce: bool,
}

impl Group {
    /// Becomes leader, and opens the term with an empty entry, unless the driver does: only the commit of an
    /// entry of its own term shows a leader what is committed (paper, section 5.4.2 and 8).
    pub(crate) fn become_leader(&mut self, effects: &mut Effects) {
        assert!(self.role() == Role::Candidate, "only a candidate wins an election");
        assert!(self.hard_state.vote == Some(self.config.node), "a candidate votes for itself");
        assert!(!self.is_witness, "a witness never leads");
        assert!(!self.is_fenced(), "a fenced replica never leads");
        assert!(self.has_reached_floor(), "a leader holds what it once acknowledged");
        assert!(!self.reads.is_open() && self.reads.is_idle(), "only a leader has reads that wait");
        let next = self.log.last().index.next();
        let mut progress = Vec::with_capacity(self.peers.len());
        let kind = |peer: &NodeId| ReplicaKind::in_configuration(self.configuration(), *peer);
        progress.extend(self.peers.iter().map(|peer| Progress::new(next, kind(peer))));
        self.role = RoleState::Leader(Box::new(Leadership::new(progress)));
        self.leader = Some(self.config.node);
        self.candidacy.on_leader_known();
        self.restore_removals();
        self.reset_fortification();
        if self.config.check_quorum {
            self.rearm_quorum_check();
        }
        self.rearm_heartbeat();
        if self.opening == Opening::Core {
            self.append_own(OwnEntries::Noop, effects);
        }
        self.adopt_pending_reads(effects);
        self.send_heartbeats(effects);
    }

    pub(crate) fn append_own(&mut self, entries: OwnEntries, effects: &mut Effects) {
        assert!(self.is_leader(), "only a leader has entries of its own");
        self.unquiesce();
        let id = EntryId::new(self.hard_state.term, self.log.last().index.next());
        let (count, noop) = match entries {
            OwnEntries::Noop => (1, true),
            OwnEntries::Payloads(count) => (count, false),
        };
        self.log.append(id.term, u64::from(count));
        assert!(effects.append.is_none(), "a step appends once");
        assert!(
            self.log.last() == EntryId::new(id.term, id.index.plus(u64::from(count - 1))),
            "and all of it"
        );
        effects.append = Some(Append::Own { id, count, noop });
    }

    /// Takes proposals, all or none.
    pub(crate) fn on_propose(&mut self, count: u32, bytes: u64, effects: &mut Effects) {
        if self.role() != Role::Leader {
            effects.rejected = Some(Rejected::NotLeader { leader: self.leader });
            return self.unquiesce_for_request(effects);
        }
        // Empty payloads count as one byte, so that their number is bounded, too.
        let bytes = bytes.max(u64::from(count));
        let waiting = self.leadership().map_or(0, Leadership::uncommitted_bytes);
        if self.pending_transfer().is_some()
            || waiting > 0 && waiting.saturating_add(bytes) > self.config.uncommitted_bytes_max()
        {
            effects.rejected = Some(Rejected::Busy);
        } else if count > 0 {
            self.append_own(OwnEntries::Payloads(count), effects);
            let last = self.log.last().index;
            if let Some(leadership) = self.leadership_mut() {
                leadership.note_proposed(last, bytes);
            }
        }
    }

    /// Commits what a quorum holds durably, if it is of this term (Figure 8): older entries are committed
    /// with it.
    pub(crate) fn advance_commit(&mut self, effects: &mut Effects) {
        assert!(self.is_leader(), "only a leader commits by counting");
        let reached = |node: NodeId| {
            let at = self.peer_at(node);
            at.map_or(self.log.durable().0, |at| self.all_progress()[at].matched().0)
        };
        let Some(index) = quorum::reached(self.configuration(), reached).map(Index) else { return };
        if index > self.commit && self.log.term_at(index) == Some(self.hard_state.term) {
            let before = self.commit;
            self.commit_to(index, effects);
            self.note_committed(index);
            self.reads.open(index);
            assert!(self.commit > before, "what a quorum reached anew is committed");
            assert!(self.has_committed_in_term(), "a leader counts copies of its own term only");
            self.on_commit_advanced(before, effects);
        }
    }

    /// The log is committed up to `index`: followers are to be sent that, and proposals up to there count no
    /// longer.
    fn note_committed(&mut self, index: Index) {
        let push_at = self.commit_push_at();
        let RoleState::Leader(leadership) = &mut self.role else { return };
        if leadership.note_committed(index, push_at) {
            self.is_commit_push_due = false;
        }
    }

    /// When followers are sent a commit index that is new now, even without an entry: the commit indexes of all
    /// groups of a worker fall due together, so that they leave as one message per peer.
    fn commit_push_at(&self) -> Time {
        match self.config.commit_delay().as_nanos() as u64 {
            0 => self.now,
            delay => Time((self.now.0 / delay + 1) * delay),
        }
    }

    /// Heartbeats of all groups of a worker fall due together, so that they leave as one message per peer.
    pub(crate) fn rearm_heartbeat(&mut self) {
        let interval = self.config.heartbeat_interval().as_nanos() as u64;
        self.timers.set(Time((self.now.0 / interval + 1) * interval));
    }

    pub(crate) fn send_heartbeats(&mut self, effects: &mut Effects) {
        assert!(self.is_leader(), "only a leader sends heartbeats");
        let quiesce = self.offer_quiescence();
        let (term, round) = (self.hard_state.term, self.reads.round());
        assert!(!quiesce || self.commit == self.log.last().index, "a group that quiesces has committed all");
        assert_eq!(self.peers.len(), self.all_progress().len(), "every peer of a leader has progress");
        for (peer, progress) in self.peers.iter().zip(self.all_progress()) {
            // Never beyond what the peer has acknowledged: the rest of its log may differ from ours.
            let commit = self.commit.min(progress.matched());
            effects.send.push((*peer, Message::Heartbeat { term, commit, round, quiesce }));
        }
    }

    /// When to check next that messages were received from a quorum.
    pub(crate) fn rearm_quorum_check(&mut self) {
        let deadline = self.now + self.config.election_timeout();
        if let Some(leadership) = self.leadership_mut() {
            leadership.set_quorum_deadline(deadline);
        }
    }

    pub(crate) fn is_quorum_check_due(&self) -> bool {
        self.leadership().is_some_and(|leadership| leadership.is_quorum_check_due(self.now))
    }

    /// Whether messages from a quorum were received since the last check; then the next period begins.
    pub(crate) fn check_quorum_contact(&mut self) -> bool {
        let heard = |node: NodeId| {
            let at = self.peer_at(node);
            Some(at.is_none_or(|at| self.all_progress()[at].is_active()))
        };
        let alive = quorum::vote_result(self.configuration(), heard) == VoteResult::Won;
        for progress in self.all_progress_mut() {
            progress.begin_period();
        }
        self.rearm_quorum_check();
        let position = self.log.last().index.0.wrapping_add(self.reads.round()) as u32;
        let is_idle = self.leadership_mut().is_some_and(|leadership| leadership.was_idle(position));
        if is_idle {
            self.shrink();
        }
        alive
    }

    /// After a period without proposals and reads, queues that grew under load and are empty now return their
    /// memory: most groups of a node are idle.
    pub(crate) fn shrink(&mut self) {
        self.reads.shrink();
        if let Some(leadership) = self.leadership_mut() {
            leadership.shrink();
        }
    }

    /// The append plan for the peer at `at`.
    #[inline(never)] // its caller, which often finds nothing to send, saves no registers then
    pub(crate) fn append_plan(&self, at: usize) -> Option<AppendPlan> {
        let progress = self.all_progress().get(at)?;
        let is_withheld = progress.is_witness();
        let last = if is_withheld { self.witness_send_limit() } else { self.log.last().index };
        if progress.state() == PeerState::Snapshot {
            // Asks whether the snapshot has arrived, by an append after it: the acknowledgement of the
            // snapshot may have been lost.
            let (prev, commit, progress_epoch) =
                (progress.snapshot_at(), self.commit, progress.progress_epoch());
            let ask = AppendPlan {
                term: self.hard_state.term,
                prev,
                first: prev.index.next(),
                last: prev.index,
                commit,
                bytes_max: 0,
                progress_epoch,
                is_withheld,
            };
            self.assert_plan(&ask);
            return (!progress.is_paused()).then_some(ask);
        }
        // Usually the commit index is sent only up to the peer's acknowledgement; a retiring leader sends all
        // of it, since it may be gone later.
        let known = if self.is_retiring() { self.commit } else { self.commit.min(progress.matched()) };
        let commit_push = self.is_commit_push_due && known > progress.commit_sent();
        let room = match progress.state() {
            PeerState::Probe if !progress.is_paused() => self.config.append_bytes_max(),
            PeerState::Replicate => {
                let (bytes, messages) = (self.config.window_bytes(), u32::from(self.config.window_messages));
                match progress.room(bytes, messages).filter(|_| progress.next() <= last) {
                    Some(room) => room,
                    None if progress.is_probe_due() || commit_push && progress.next() > last => 0,
                    None => return None,
                }
            }
            PeerState::Probe | PeerState::Snapshot => return None,
        };
        let prev = progress.next().prev();
        // `prev` is compacted: the peer needs a snapshot, see `request_snapshots`.
        let term = self.log.term_at(prev)?;
        let plan = AppendPlan {
            term: self.hard_state.term,
            prev: EntryId::new(term, prev),
            first: progress.next(),
            last: if room == 0 { prev } else { last },
            commit: self.commit,
            bytes_max: room.min(self.config.append_bytes_max()),
            progress_epoch: progress.progress_epoch(),
            is_withheld,
        };
        self.assert_plan(&plan);
        Some(plan)
    }

    /// Before an append plan leaves the core.
    #[inline]
    fn assert_plan(&self, plan: &AppendPlan) {
        let last = self.log.last().index;
        assert!(plan.term == self.hard_state.term, "a leader sends appends of its own term");
        assert!(plan.prev.term <= plan.term, "a log has no entries of a later term than its leader's");
        assert!(plan.first == plan.prev.index.next(), "an append goes on after its prev");
        assert!(plan.prev.index <= last && plan.last <= last, "only what is in the log is sent");
        assert!(plan.commit <= last, "only what is in the log is committed");
        assert!(plan.bytes_max <= self.config.append_bytes_max(), "an append has a bound");
    }

    /// Up to where witnesses are sent entries: what is committed, and what is durable here and with every
    /// voter that holds payloads, keeps up, and has all that is committed.
    ///
    /// A header counts in a quorum only where the payload exists. A witness ahead of the voters with payloads
    /// would hold entries that this leader alone has, and refuse its vote to all others when this leader is
    /// gone; or entries that no replica has, if this leader had not made them durable. A voter that leaves
    /// appends unanswered for an election timeout is not waited for any longer.
    fn witness_send_limit(&self) -> Index {
        let (now, patience) = (self.now, self.config.election_timeout());
        let is_waited_for = |(node, progress): &(&NodeId, &Progress)| {
            !progress.is_witness()
                && progress.matched() >= self.commit
                && self.configuration().is_voter(**node)
                && progress.keeps_up(now, patience)
        };
        // For entries of earlier terms, which may have been replaced here and have come back, a durability
        // notice may come too early.
        let is_own = self.log.term_at(self.log.durable()) == Some(self.hard_state.term);
        let mine = if is_own { self.log.durable() } else { self.commit };
        let waited_for = self.peers.iter().zip(self.all_progress()).filter(is_waited_for);
        let held = waited_for.map(|(_, progress)| progress.matched()).min().unwrap_or(mine);
        let limit = held.min(mine).max(self.commit);
        assert!(limit >= self.commit, "a witness is sent all that is committed");
        assert!(limit <= self.log.last().index, "a witness is sent only what is in the log");
        limit
    }

    pub(crate) fn record_sent(&mut self, to: NodeId, last: Index, bytes: u64) {
        let (now, commit) = (self.now, self.commit);
        let end = self.log.last().index;
        let Some(progress) = self.progress_of(to) else { return };
        let told = commit.min(last);
        assert!(told <= end, "only what is in the log is committed");
        progress.note_commit_sent(told);
        match progress.state() {
            PeerState::Probe | PeerState::Snapshot => progress.pause(now),
            PeerState::Replicate => {
                progress.note_probe_sent(now);
                let last = last.min(end);
                if last >= progress.next() {
                    progress.sent(last, bytes, now);
                }
            }
        }
        assert!(progress.next() <= end.next(), "only what is in the log is sent");
        self.note_commit_sent(to, told);
        self.note_removal_sent(to, last);
    }

    /// A follower holds the log durably up to `matched`. If it was removed and added again since it sent
    /// this, its log may have begun anew in between; then the progress epoch is an earlier one. Its other
    /// replies of that time are harmless: rejections move only `next`, and a follower that has answered a
    /// heartbeat has kept its term.
    pub(crate) fn on_append_ack(
        &mut self,
        from: NodeId,
        matched: Index,
        progress_epoch: u16,
        effects: &mut Effects,
    ) {
        if self.role() != Role::Leader || matched > self.log.last().index {
            return;
        }
        let Some(progress) =
            self.progress_of(from).filter(|progress| progress.progress_epoch() == progress_epoch)
        else {
            return;
        };
        progress.note_active();
        let before = progress.matched();
        let news = progress.acknowledged(matched);
        assert!(progress.matched() >= before, "what a peer holds durably stays");
        assert!(news == (progress.matched() > before), "news is a match that rises");
        match progress.state() {
            PeerState::Probe => progress.replicate(),
            PeerState::Snapshot if progress.matched() >= progress.snapshot_at().index => progress.replicate(),
            PeerState::Replicate | PeerState::Snapshot => {}
        }
        if news {
            self.note_configured(before, matched);
            self.advance_commit(effects);
            self.continue_admission(effects);
            self.consider_target(from, effects);
        }
        self.end_acknowledged_removal(from, effects);
    }

    /// A follower has written the log up to `matched`, and will acknowledge it when it is durable. This
    /// counts only for [`Group::written_by_quorum`], and for the window: a follower that is behind is not
    /// limited to one window per sync.
    pub(crate) fn on_append_written(&mut self, from: NodeId, matched: Index, progress_epoch: u16) {
        if self.role() != Role::Leader || matched > self.log.last().index {
            return;
        }
        if let Some(progress) =
            self.progress_of(from).filter(|progress| progress_epoch == progress.progress_epoch())
        {
            progress.note_active();
            progress.note_written(matched);
            assert!(progress.written() >= matched, "what a peer has written counts from then on");
        }
    }

    /// In a leader: up to where a quorum of the configuration in force has written the log, durably or not.
    /// `own`: up to where this replica has. What is durable is written. Entries of this leader's term up to
    /// there are lost only if machines of that quorum lose what they have not synced; nothing else relies on
    /// it, above all no commit.
    #[must_use]
    pub fn written_by_quorum(&self, own: EntryId) -> Index {
        let own = if self.log.holds(own) { own.index.max(self.log.durable()) } else { self.log.durable() };
        let written = |node: NodeId| {
            let at = self.peer_at(node);
            at.map_or(own.0, |at| self.all_progress()[at].matched().max(self.all_progress()[at].written()).0)
        };
        if self.role() != Role::Leader {
            return self.commit;
        }
        let reached = quorum::reached(self.configuration(), written).map_or(self.commit, Index);
        assert!(reached <= self.log.last().index, "a quorum holds no more than the leader's log");
        reached.max(self.commit)
    }

    /// A follower's log does not agree at `rejected`. Skips back over a whole conflicting term at once, by the
    /// follower's hint and by our own log (paper, section 5.3, last paragraphs).
    pub(crate) fn on_append_reject(&mut self, from: NodeId, rejected: Index, hint: EntryId) {
        if self.role() != Role::Leader {
            return;
        }
        let (common, last) = (self.log.last_at_most(hint.index, hint.term).index, self.log.last().index);
        assert!(common <= last, "logs have in common what both hold");
        let Some(progress) = self.progress_of(from) else { return };
        progress.note_active();
        match progress.state() {
            PeerState::Replicate if rejected > progress.matched() => {
                progress.probe();
                progress.probe_from(common.min(rejected.prev()).next().max(progress.next()));
            }
            PeerState::Probe if rejected == progress.next().prev() => {
                progress.probe_from(common.min(rejected.prev()).max(progress.matched()).next());
            }
            // A reply to an older append: its content is already known.
            _ => {}
        }
        assert!(progress.next() <= last.next(), "only what is in the log is sent");
    }

    pub(crate) fn on_heartbeat_ack(&mut self, from: NodeId, reply: HeartbeatReply, effects: &mut Effects) {
        if self.role() != Role::Leader {
            return;
        }
        let interval = self.config.heartbeat_interval();
        let (now, known) = (self.now, self.reads.round());
        let Some(progress) = self.progress_of(from) else { return };
        progress.on_heartbeat_reply(now, interval);
        progress.note_round(reply.round.min(known));
        assert!(progress.round() <= known, "no peer answers a round before it begins");
        self.on_fortification_reply(from, reply);
        self.answer_reads(effects);
    }

    /// The connection to a peer broke: appends on their way count as lost.
    pub(crate) fn on_unreachable(&mut self, node: NodeId) {
        // In a quiescent group, nothing was on its way.
        if !self.is_quiescent()
            && let Some(progress) = self.progress_of(node)
            && progress.state() == PeerState::Replicate
        {
            progress.probe();
        }
    }
}
