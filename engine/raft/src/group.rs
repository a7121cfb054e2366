//! The group: its state, and the dispatch of each input.

mod election;
pub mod invariant;
mod liveness;
mod membership;
mod reads;
mod replication;
mod role;

use core::time::Duration;

use alloc::boxed::Box;
use raftwerk_frame::{EntryId, HardState, Index, Membership, Message, NodeId, Run, Term, Time};
use smallvec::SmallVec;

use crate::contract::{AppendPlan, Config, Effects, Input, MessageKind, Opening, Origin, Restored, Settings};
use crate::group::election::promise::Promise;
use crate::group::election::{Candidacy, Timers, random_timeout};
use crate::group::liveness::leader_query::QuerySender;
use crate::group::liveness::support::Support;
use crate::group::membership::configurations::{Configurations, MemberStanding};
use crate::group::reads::Reads;
use crate::group::reads::follower::PendingReadIndex;
use crate::group::replication::follower::Heartbeat;
use crate::group::replication::leader::HeartbeatReply;
use crate::group::replication::log::Log;
use crate::group::replication::progress::Progress;
use crate::group::role::{Ballot, RoleState};
use crate::rng::Rng;
pub use membership::admission::NewMemberStatus;
pub use replication::progress::{PeerState, PeerStatus};
pub use role::Role;

/// No replica reaches this number by counting. A larger number in a peer's message is bogus, and adding to it
/// might overflow.
pub(crate) const NUMBER_MAX: u64 = u64::MAX >> 1;

/// A message's term is at most this far beyond this replica's own. Terms rise by one with each election, so
/// no honest peer is ever so far ahead; and a term near [`NUMBER_MAX`], once adopted, would leave the group
/// without terms for further elections.
pub(crate) const TERM_LEAP_MAX: u64 = 1 << 32;

/// The highest, and the usual, priority for elections.
pub const PRIORITY_MAX: u8 = 3;

/// What comes with an append: its entries as runs, and the configurations among them.
pub(crate) type AppendContent<'a> = (&'a [Run], &'a [Membership]);

/// One replica of one group. See the crate's documentation for how it is driven.
#[derive(Clone, Debug)]
pub struct Group {
    config: Settings,
    /// Of a replica that has joined: its floor.
    joined: Option<Box<EntryId>>,
    /// It holds no payloads. Never changes, except by [`Group::become_witness`].
    is_witness: bool,
    /// Which side opens a leader's term.
    opening: Opening,
    configurations: Configurations,
    standing: MemberStanding,
    /// All other members of the configuration, and in a leader the removed peers that it still serves; in
    /// rising order.
    peers: SmallVec<[NodeId; 4]>,
    /// Term and vote.
    hard_state: Promise,
    role: RoleState,
    /// The leader of this term, if it is known. Invariant: this node if and only if it leads.
    leader: Option<NodeId>,
    log: Log,
    /// Up to where the log is known to be committed. Invariant: applied ≤ commit ≤ last. Raised by
    /// [`Group::commit_to`] and by snapshots; never lowered.
    commit: Index,
    /// Up to where the state machine has applied the log, as the driver reported. Raised by
    /// [`Input::Applied`] and by snapshots; never lowered.
    applied: Index,
    /// The time of the last input. Never falls.
    now: Time,
    timers: Timers,
    candidacy: Candidacy,
    /// A leader may send followers a new commit index now, even without an entry. Stays from one term to the
    /// next.
    is_commit_push_due: bool,
    reads: Reads,
    support: Support,
    /// Read-index requests of a follower, and its reads that wait for the replies.
    pending_reads: Option<Box<PendingReadIndex>>,
}

impl Group {
    /// A replica as recovery restored it from its log; a follower, whatever its role was. The driver must check
    /// `restored` before, as its fields say: a first step with other numbers panics.
    #[must_use]
    pub fn new(config: Config, restored: Restored, now: Time) -> Self {
        let Restored { origin, is_witness, hard_state, compacted, configuration, runs, last, applied } =
            restored;
        let mut rng = Rng::new(config.seed ^ config.node.0.rotate_left(32));
        let is_new = hard_state == HardState::default() && last == Index(0);
        let timeout = random_timeout(&mut rng, config.election_timeout);
        let timeout = config.first_timeout.filter(|_| is_new).unwrap_or(timeout);
        // A campaign includes a vote for itself.
        let deadline = now + timeout + config.abstention.saturating_sub(config.election_timeout);
        let mut group = Self {
            peers: SmallVec::new(),
            joined: match origin {
                Origin::InitialMember => None,
                Origin::Joined { floor } => Some(Box::new(floor)),
            },
            configurations: Configurations::new(configuration, compacted.index),
            is_witness,
            standing: MemberStanding::new(),
            opening: config.opening,
            hard_state: Promise::new(hard_state),
            role: RoleState::Follower,
            leader: None,
            log: Log::new(compacted, runs, last),
            commit: applied,
            applied,
            now,
            timers: Timers::new(deadline, now, config.abstention, rng),
            candidacy: Candidacy::new(),
            is_commit_push_due: false,
            reads: Reads::default(),
            support: Support::default(),
            pending_reads: None,
            config: Settings::new(&config),
        };
        group.update_peers();
        group
    }

    /// As [`Group::new`], for a log with configurations: `memberships` are those in its entries, in rising
    /// order. The one in `restored` is in force where the log begins.
    #[must_use]
    pub fn restore(
        config: Config,
        restored: Restored,
        memberships: impl IntoIterator<Item = Membership>,
        now: Time,
    ) -> Self {
        let mut group = Self::new(config, restored, now);
        for membership in memberships {
            if membership.index > group.configuration_index() {
                group.put_in_force(membership, &mut Effects::default());
            }
        }
        group
    }

    /// Records that this replica's log has lost votes, and entries that it acknowledged, in terms up to
    /// `fence`.
    ///
    /// The replica neither votes nor campaigns until its log holds an entry of the term that it is in then,
    /// which is a later one. That entry's leader was elected without this replica, by a quorum with intact
    /// logs; so the leader's log had everything that was committed with this replica's help, and now this one
    /// has it, too (leader completeness and log matching, paper sections 5.4.3 and 5.3). Until then it
    /// follows and acknowledges as any other: its acknowledgements of new entries are true. Must be called
    /// before the first step, with a hard state whose term is later than `fence`: in an earlier term it would
    /// accept leaders that it has deposed, and vote twice.
    ///
    /// # Panics
    /// If the term is not later than `fence`.
    pub fn set_fence(&mut self, fence: Term) {
        assert!(self.hard_state.term > fence, "promises of the fenced terms are lost");
        assert!(self.role() == Role::Follower && self.leader.is_none(), "only recovery fences a replica");
        self.candidacy.fence();
        self.lift_fence();
    }

    /// The operator has decided that what is lost will never be brought back, and that this replica shall
    /// vote and lead with what it has. Then no guarantee holds any more that relied on its votes and
    /// acknowledgements in the fenced terms: committed entries may be lost on all replicas, and two leaders
    /// may have been elected in one of those terms.
    pub fn accept_loss(&mut self) {
        self.candidacy.lift_fence();
        if self.role() == Role::Follower {
            self.rearm_election();
        }
    }

    /// Whether it has lost votes or entries that have not been brought back: see [`Group::set_fence`].
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        self.candidacy.is_fenced()
    }

    pub(crate) fn lift_fence(&mut self) {
        if self.is_fenced() && self.log.last().term >= self.hard_state.term {
            self.candidacy.lift_fence();
        }
    }

    /// The priority of this replica in elections, from [`PRIORITY_MAX`], the initial one, down to 0. For each
    /// step down it waits one more election timeout before it campaigns; at 0 it never campaigns by itself,
    /// and leads only after a leadership transfer.
    pub fn set_priority(&mut self, priority: u8) {
        self.candidacy.set_priority(priority);
        if self.role() == Role::Follower && self.timers.deadline() != Time::NEVER {
            self.rearm_election();
        }
    }

    /// Processes one input. Never fails, never blocks; allocates nothing in steady state.
    pub fn step(&mut self, now: Time, input: Input<'_>, effects: &mut Effects) {
        self.now = self.now.max(now);
        let before = (self.role(), self.hard_state(), self.leader);
        match input {
            Input::Timeout => self.on_timeout(effects),
            Input::Campaign => {
                self.candidacy.insist();
                self.campaign(self.usual_campaign(), effects);
            }
            Input::Propose { count, bytes } => self.on_propose(count, bytes, effects),
            Input::Message { from, message, runs } => self.take(from, message, (runs, &[]), effects),
            Input::Memberships { from, message, runs, memberships } => {
                self.take(from, message, (runs, memberships), effects);
            }
            Input::Reconfigure(request) => self.on_reconfigure(&request, effects),
            Input::Transfer { to } => self.on_transfer(to, effects),
            Input::Durable { id } => {
                if self.log.set_durable(id) && self.role() == Role::Leader {
                    self.advance_commit(effects);
                }
            }
            Input::Applied { index } => {
                self.applied = self.applied.max(index.min(self.commit));
                assert!(self.applied <= self.commit, "only what is committed is applied");
            }
            Input::Read { token } => self.on_read(token, effects),
            Input::FollowerRead { token } => self.on_follower_read(token, effects),
            Input::Compacted { to } => {
                if to > self.log.compacted().index && to <= self.applied {
                    self.log.compact(to);
                    self.on_compacted(to);
                }
            }
            Input::SnapshotReceived { from, term, id, configuration, progress_epoch } => {
                self.on_snapshot(from, term, id, (configuration, progress_epoch), effects);
            }
            Input::InitialConfiguration { id, configuration } => {
                self.on_initial_configuration(id, configuration, effects)
            }
            Input::SnapshotFailed { to } => self.on_snapshot_failed(to),
            Input::Unreachable { node } => self.on_unreachable(node),
            Input::Reachable { node } => self.on_reachable(node),
            Input::Supports { node, yes: true } => self.on_support_begun(node),
            Input::Supports { node, yes: false } => self.on_support_ended(node),
            Input::SupportedBy { node, yes: true } => self.on_support_gained(node),
            Input::SupportedBy { node, yes: false } => self.on_support_lost(node),
        }
        let (role, hard_state, leader) = before;
        effects.role_changed |= role != self.role() || hard_state.term != self.hard_state.term;
        effects.leader_changed |= leader != self.leader;
        if hard_state != *self.hard_state {
            effects.hard_state = Some(*self.hard_state);
        }
        assert!(invariant::holds_in_brief(self), "after an input: {:?}", invariant::check_in_brief(self));
        debug_assert_eq!(invariant::check(self), Ok(()));
    }

    /// Must be called once after the inputs of a turn: starts a read round for the reads that gathered, and
    /// lists the peers that need a snapshot.
    pub fn flush(&mut self, now: Time, effects: &mut Effects) {
        self.now = self.now.max(now);
        if self.role() == Role::Leader {
            let now = self.now;
            if self.leadership_mut().is_some_and(|leadership| leadership.take_commit_push(now)) {
                self.is_commit_push_due = true;
            }
            self.start_read_round(effects);
            self.request_snapshots(effects);
        } else {
            self.send_read_index(effects);
        }
    }

    /// The next append plan for a peer, if there is one. Only a leader has any.
    #[must_use]
    pub fn next_append(&mut self, to: NodeId) -> Option<AppendPlan> {
        let leadership = self.leadership()?;
        let at = self.peer_at(to)?;
        let progress = leadership.progress().get(at)?;
        // Every second call ends here: the peer was sent all that there is, and that it is committed.
        let is_commit_news = self.is_commit_push_due && progress.commit_sent() < self.commit;
        if progress.next() > self.log.last().index
            && progress.state() == PeerState::Replicate
            && !progress.is_probe_due()
            && !is_commit_news
        {
            return None;
        }
        self.append_plan(at)
    }

    /// Records what was sent of the last append plan to a peer: up to which entry, and how many bytes.
    pub fn note_sent(&mut self, to: NodeId, last: Index, bytes: u64) {
        self.record_sent(to, last, bytes);
    }

    fn take(&mut self, from: NodeId, message: Message, content: AppendContent<'_>, effects: &mut Effects) {
        if from == self.config.node
            || !self.peers.contains(&from) && !may_come_from_anyone(&message)
            || !self.is_plausible_term(message.term())
        {
            return;
        }
        match message {
            // The term of these messages does not matter.
            Message::Removed { configuration, .. } => return self.on_removal_notice(configuration, effects),
            Message::LeaderQuery { term, follows: true } => {
                return self.on_leader_query(from, term, QuerySender::Follower, effects);
            }
            Message::LeaderQuery { term, follows: false } => {
                return self.on_leader_query(from, term, QuerySender::Leaderless, effects);
            }
            Message::NotLeader { term } => return self.on_not_leader(from, term),
            Message::ReadIndex { term, .. }
                if self.role() != Role::Leader || term != self.hard_state.term =>
            {
                return self.reply_not_leader(from, term, effects);
            }
            Message::PreVote { last, .. } | Message::Vote { last, .. }
                if self.reply_removed(from, last, effects) =>
            {
                return;
            }
            _ if !self.admit(from, &message, effects) => return,
            _ => {}
        }
        let is_ahead = message.term() > self.hard_state.term;
        let may_be_ahead = matches!(message, Message::PreVote { .. } | Message::PreVoteReply { .. });
        assert!(!is_ahead || may_be_ahead, "the term of an admitted message is this replica's");
        assert!(message.term() >= self.hard_state.term, "no message of an earlier term is admitted");
        match message {
            Message::PreVote { term, last } => self.on_pre_vote(from, term, last, effects),
            Message::PreVoteReply { term, granted: true } => {
                self.on_pre_vote_reply(from, term, Ballot::Granted, effects);
            }
            Message::PreVoteReply { term, granted: false } => {
                self.on_pre_vote_reply(from, term, Ballot::Rejected, effects);
            }
            Message::Vote { last, .. } => self.on_vote(from, last, effects),
            Message::VoteReply { granted: true, .. } => self.on_vote_reply(from, Ballot::Granted, effects),
            Message::VoteReply { granted: false, .. } => self.on_vote_reply(from, Ballot::Rejected, effects),
            Message::Append { prev, commit, progress_epoch, .. } => {
                self.on_append(from, prev, (commit, progress_epoch), content, effects);
            }
            Message::Heartbeat { commit, round, quiesce, .. } => {
                self.on_heartbeat(from, Heartbeat { commit, round, quiesce }, effects);
            }
            Message::AppendAck { matched, progress_epoch, .. } => {
                self.on_append_ack(from, matched, progress_epoch, effects)
            }
            Message::AppendWritten { matched, progress_epoch, .. } => {
                self.on_append_written(from, matched, progress_epoch)
            }
            Message::AppendReject { rejected, hint, .. } => self.on_append_reject(from, rejected, hint),
            Message::HeartbeatAck { round, fortifies, quiesce, .. } => {
                self.on_heartbeat_ack(from, HeartbeatReply { round, fortifies, quiesce }, effects);
            }
            Message::TimeoutNow { .. } => self.on_timeout_now(from, effects),
            Message::ReadIndex { round, .. } => self.on_read_index(from, round),
            Message::ReadIndexReply { round, index, .. } => {
                self.on_read_index_reply(from, round, index, effects)
            }
            Message::Removed { .. } | Message::LeaderQuery { .. } | Message::NotLeader { .. } => {}
        }
    }

    /// Whether elections may have led from this replica's term to that one.
    pub(crate) fn is_plausible_term(&self, term: Term) -> bool {
        term.0 <= NUMBER_MAX.min(self.hard_state.term.0.saturating_add(TERM_LEAP_MAX))
    }

    /// Records a message from the leader.
    pub(crate) fn note_leader_contact(&mut self) {
        self.timers.note_contact(self.now);
    }

    /// Whether a message from a leader was received within the last T, and the leader is still waited for.
    pub(crate) fn has_recent_leader_contact(&self) -> bool {
        self.timers.has_recent_contact(self.now, self.config.election_timeout())
    }

    /// Raises the commit index, which the caller has proven.
    pub(crate) fn commit_to(&mut self, index: Index, effects: &mut Effects) {
        if index > self.commit {
            assert!(index <= self.log.last().index, "only what is in the log is committed");
            let first = effects.commit.map_or(self.commit.next(), |(first, _)| first);
            assert!(first <= index, "what is newly committed is a range");
            effects.commit = Some((first, index));
            self.commit = index;
        }
    }

    /// A snapshot up to `index` replaces the state.
    pub(crate) fn restart_at(&mut self, index: Index) {
        assert!(index > self.commit, "the commit index never falls");
        assert!(index > self.applied, "only what is committed is applied");
        (self.commit, self.applied) = (index, index);
    }

    pub(crate) fn rearm_election(&mut self) {
        let timeout = self.timers.draw_timeout(self.config.election_timeout());
        self.timers.set(self.now + timeout + self.priority_delay());
    }

    /// How much longer than others this replica waits before it campaigns, by its priority.
    pub(crate) fn priority_delay(&self) -> Duration {
        match PRIORITY_MAX - self.candidacy.priority() {
            0 => Duration::ZERO,
            steps => self.config.election_timeout() * u32::from(steps),
        }
    }

    pub(crate) fn update_peers(&mut self) {
        let me = self.config.node;
        self.peers = self.configuration().replicas().into_iter().filter(|node| *node != me).collect();
        self.support.clear();
    }

    pub(crate) fn progress_of(&mut self, node: NodeId) -> Option<&mut Progress> {
        let at = self.peer_at(node)?;
        self.all_progress_mut().get_mut(at)
    }

    /// Where a node is among the peers, if it is one. There are so few that each is looked at.
    pub(crate) fn peer_at(&self, node: NodeId) -> Option<usize> {
        self.peers.iter().position(|peer| *peer == node)
    }

    /// All other members of the configuration, in rising order; in a leader also removed peers that it still
    /// serves, see [`Group::is_leaving`].
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().copied()
    }

    /// The latest term it has seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Term and vote.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        *self.hard_state
    }

    /// The leader of this term, if the replica knows it; possibly itself.
    #[must_use]
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Up to this index, entries are known to be durable on a quorum.
    #[must_use]
    pub const fn commit(&self) -> Index {
        self.commit
    }

    /// The last entry of the log.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The log is durable here up to this entry, as far as [`Input::Durable`] reports. If a follower's
    /// entries were replaced and came back under the same ids, a notice of the first write may come too early
    /// for the second; nothing relies on it there. A leader counts only its own term's entries for itself,
    /// and these are written once.
    #[must_use]
    pub const fn durable(&self) -> Index {
        self.log.durable()
    }

    /// The applied index, as the driver reported it.
    #[must_use]
    pub const fn applied(&self) -> Index {
        self.applied
    }

    /// The entry just before the log's first.
    #[must_use]
    pub const fn compacted(&self) -> EntryId {
        self.log.compacted()
    }

    /// The terms of the log.
    #[must_use]
    pub fn runs(&self) -> &[crate::contract::TermRun] {
        self.log.runs()
    }

    /// The term of an entry; known from the last compacted one on.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// A leader's progress of a peer.
    #[must_use]
    pub fn progress(&self, peer: NodeId) -> Option<PeerStatus> {
        let at = self.peer_at(peer)?;
        self.all_progress().get(at).map(Progress::status)
    }

    /// The lowest match among the peers that keep up: a leader should not compact the log beyond it yet.
    #[must_use]
    pub fn slowest_live_match(&self) -> Option<Index> {
        let live = self
            .all_progress()
            .iter()
            .filter(|peer| peer.is_active() && peer.state() == PeerState::Replicate);
        live.map(|peer| peer.matched()).min()
    }

    /// Whether it holds no payloads: it accepts only messages to a witness.
    #[must_use]
    pub const fn is_witness(&self) -> bool {
        self.is_witness
    }

    /// Whether a node's replica is a witness: a member that is one here, or one that is removed and still
    /// served by this leader.
    #[must_use]
    pub fn has_for_witness(&self, node: NodeId) -> bool {
        let leaves_as_one =
            || self.is_leaving(node) && self.peer(node).is_some_and(|progress| progress.is_witness());
        self.configuration().is_witness(node) || leaves_as_one()
    }

    /// The node this replica is on.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.config.node
    }
}

/// Leaders and candidates may be of a configuration that has not arrived here yet: their messages are
/// accepted, as in the paper (section 6). Replies are accepted only from peers, to which requests are sent.
const fn may_come_from_anyone(message: &Message) -> bool {
    matches!(MessageKind::of(message), MessageKind::Request)
        || matches!(
            message,
            Message::Removed { .. } | Message::LeaderQuery { .. } | Message::NotLeader { .. }
        )
}
