//! Terms, votes and campaigns (paper, section 5.2 and 5.4.1; thesis, sections 4.2.3, 6.2 and 9.6).

pub(super) mod promise;
pub(super) mod transfer;

use core::time::Duration;

use raftwerk_frame::{EntryId, Message, NodeId, Term, Time};

use crate::contract::Effects;
use crate::group::role::{Ballot, Campaign, RoleState, Votes};
use crate::group::{Group, PRIORITY_MAX, Role};
use crate::quorum::{self, VoteResult};
use crate::rng::Rng;

/// The deadlines of a replica in every role, and the random numbers that they are drawn with.
#[derive(Clone, Debug)]
pub(crate) struct Timers {
    /// When to campaign; for a leader, when to send the next heartbeats.
    deadline: Time,
    /// When it last received a message from the leader; 0: never, or the leader is not waited for any longer.
    /// See [`Group::note_leader_contact`].
    contact_at: Time,
    /// Before this time the replica grants no vote, and campaigns only on a leader's request: support that
    /// this node gave before a restart, or a join, may stand until then.
    abstains_until: Time,
    rng: Rng,
}

impl Timers {
    /// The timers of a replica that is created now, with its first deadline.
    pub(crate) fn new(deadline: Time, now: Time, abstention: Duration, rng: Rng) -> Self {
        let contact_at = if abstention.is_zero() { Time(0) } else { Time(now.0.max(1)) };
        Self { deadline, contact_at, abstains_until: now + abstention, rng }
    }

    pub(crate) const fn deadline(&self) -> Time {
        self.deadline
    }

    pub(crate) const fn set(&mut self, deadline: Time) {
        self.deadline = deadline;
    }

    /// There is no deadline until another is set.
    pub(crate) const fn stop(&mut self) {
        self.deadline = Time::NEVER;
    }

    /// The deadline comes at `at`, unless it comes sooner.
    pub(crate) fn bring_forward(&mut self, at: Time) {
        self.deadline = self.deadline.min(at);
    }

    pub(crate) fn is_due(&self, now: Time) -> bool {
        now >= self.deadline
    }

    /// Whether support that was given before a restart may still stand.
    pub(crate) fn is_abstaining(&self, now: Time) -> bool {
        now < self.abstains_until
    }

    /// A message from the leader was received. A clock that has just started shows 0, which stands for never.
    pub(crate) fn note_contact(&mut self, now: Time) {
        let at = Time(now.0.max(1));
        assert!(self.contact_at <= at, "a leader's messages are received in the order of time");
        self.contact_at = at;
    }

    /// The leader is not waited for any longer.
    pub(crate) const fn forget_contact(&mut self) {
        self.contact_at = Time(0);
    }

    /// Whether a message from a leader was received within `timeout`, and the leader is still waited for.
    pub(crate) fn has_recent_contact(&self, now: Time, timeout: Duration) -> bool {
        self.contact_at != Time(0) && now < self.contact_at + timeout
    }

    /// A random number below `bound`.
    pub(crate) fn draw(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// A random election timeout.
    pub(crate) fn draw_timeout(&mut self, election_timeout: Duration) -> Duration {
        random_timeout(&mut self.rng, election_timeout)
    }
}

/// A time in [T, 2T) (paper, section 5.2).
pub(crate) fn random_timeout(rng: &mut Rng, election_timeout: Duration) -> Duration {
    let nanos = election_timeout.as_nanos() as u64;
    Duration::from_nanos(nanos + rng.below(nanos))
}

/// How willing a replica is to campaign.
#[derive(Clone, Debug)]
pub(crate) struct Candidacy {
    /// See [`Group::set_priority`].
    priority: u8,
    /// It would have won, and let a voter with a better log campaign first; or it was ordered to campaign at
    /// once. There has been no leader since.
    has_deferred: bool,
    /// Some of its votes and acknowledgements in earlier terms are lost: see [`Group::set_fence`].
    is_fenced: bool,
}

impl Candidacy {
    /// A replica that campaigns as any other.
    pub(crate) const fn new() -> Self {
        Self { priority: PRIORITY_MAX, has_deferred: false, is_fenced: false }
    }

    pub(crate) const fn priority(&self) -> u8 {
        assert!(self.priority <= PRIORITY_MAX, "a priority is bounded when it is set");
        self.priority
    }

    pub(crate) fn set_priority(&mut self, priority: u8) {
        self.priority = priority.min(PRIORITY_MAX);
    }

    /// It campaigns without regard for others.
    pub(crate) const fn insist(&mut self) {
        self.has_deferred = true;
    }

    /// There is a leader.
    pub(crate) const fn on_leader_known(&mut self) {
        self.has_deferred = false;
    }

    pub(crate) const fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    pub(crate) const fn fence(&mut self) {
        self.is_fenced = true;
    }

    pub(crate) const fn lift_fence(&mut self) {
        self.is_fenced = false;
    }
}

impl Group {
    /// Compares a message's term with ours: may change our term and may answer. Returns whether to process
    /// the message.
    pub(crate) fn admit(&mut self, from: NodeId, message: &Message, effects: &mut Effects) -> bool {
        let (term, mine) = (message.term(), self.hard_state.term);
        if term > mine {
            return match *message {
                // While there is a live leader, candidates are rejected, unless the leader requested the
                // election; pre-votes are not answered.
                Message::Vote { transfer: false, .. } | Message::PreVote { .. } if self.waits(from) => {
                    self.announce_leader(effects);
                    false
                }
                // A pre-vote request does not change our term; neither does a granted pre-vote reply.
                Message::PreVote { .. } | Message::PreVoteReply { granted: true, .. } => true,
                Message::Append { .. } | Message::Heartbeat { .. } => {
                    self.become_follower(term, Some(from), effects);
                    true
                }
                Message::Vote { .. } => {
                    self.become_follower(term, None, effects);
                    true
                }
                // Only a leader of that term, or a candidate that our leader chose, ends the fortification.
                _ if self.is_fortifying() => false,
                _ => {
                    self.become_follower(term, None, effects);
                    true
                }
            };
        }
        if term < mine {
            // A peer that fell behind is told the term: a deposed leader steps down, a straggler catches up.
            let answer = match message {
                Message::Append { .. } | Message::Heartbeat { .. } => {
                    Some(Message::HeartbeatAck { term: mine, round: 0, fortifies: false, quiesce: false })
                }
                Message::PreVote { .. } => Some(Message::PreVoteReply { term: mine, granted: false }),
                Message::Vote { .. } => Some(Message::VoteReply { term: mine, granted: false }),
                _ => None,
            };
            effects.send_durable.extend(answer.map(|answer| (from, answer)));
            return false;
        }
        true
    }

    /// Whether the replica knows of a live leader, so that no election is needed; or whether there may be
    /// one, supported before a restart. A candidate that was our leader leads no longer: it is unfortified,
    /// and may be elected again.
    fn waits(&mut self, candidate: NodeId) -> bool {
        assert!(candidate != self.config.node, "a replica receives nothing of its own");
        self.end_fortification(candidate);
        let has_leader = self.config.check_quorum
            && (self.role() == Role::Leader || self.leader.is_some() && self.has_recent_leader_contact());
        has_leader || self.is_fortifying() || self.timers.is_abstaining(self.now)
    }

    /// A candidate does not know that there is a leader. The leader unquiesces and sends heartbeats, or a
    /// quiescent follower sends its leader a query.
    fn announce_leader(&mut self, effects: &mut Effects) {
        if self.role() == Role::Leader {
            self.unquiesce();
        } else if self.is_quiescent() {
            self.query_leader(effects);
        }
    }

    /// Becomes a follower of `leader` in `term`. A vote granted in the same term stands.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>, effects: &mut Effects) {
        assert!(term >= self.hard_state.term, "a replica's term never falls");
        assert!(leader != Some(self.config.node), "a replica follows another node's");
        if self.role() == Role::Leader {
            self.end_all_removals(effects);
        }
        if term > self.hard_state.term {
            self.hard_state.enter(term);
            self.forget_leader_contact();
        }
        self.unquiesce();
        if leader.is_some() {
            self.candidacy.on_leader_known();
        }
        if self.role() != Role::Follower || leader.is_none() {
            self.rearm_election();
        }
        // Returns memory: most replicas that led once will not lead again soon.
        self.role = RoleState::Follower;
        self.leader = leader;
        self.reads.reject_all(effects);
        assert!(self.hard_state.term == term, "a follower is of its leader's term");
        assert!(!self.is_quiescent(), "a change of role or leader ends quiescence");
    }

    /// A deadline may have passed.
    pub(crate) fn on_timeout(&mut self, effects: &mut Effects) {
        if self.role() == Role::Leader {
            if self.is_quorum_check_due() && !self.check_quorum_contact() {
                return self.become_follower(self.hard_state.term, None, effects);
            }
            if self.give_up_transfer(effects) {
                return self.become_follower(self.hard_state.term, None, effects);
            }
            if self.timers.is_due(self.now) {
                self.end_due_removals(effects);
                self.send_heartbeats(effects);
                self.retry_timeout_now(effects);
                if !self.quiesce_alone() {
                    self.rearm_heartbeat();
                }
            }
        } else if self.timers.is_due(self.now) && self.is_fortifying() {
            self.query_leader(effects);
            self.rearm_election();
        } else if self.timers.is_due(self.now) {
            self.leader = None;
            self.standing.forget_claim();
            self.reject_pending_reads(effects);
            self.rearm_election();
            if self.is_removed() || self.peers.is_empty() && self.candidacy.priority == 0 {
                // No leader is to be expected; only a message can change that.
                self.timers.stop();
            } else if self.candidacy.priority == 0 || !self.may_campaign() {
                self.query_voters(effects);
            } else {
                self.campaign(self.usual_campaign(), effects);
            }
        }
    }

    /// How a replica campaigns that no leader has requested to.
    pub(crate) const fn usual_campaign(&self) -> Campaign {
        if self.config.pre_vote { Campaign::PreVote } else { Campaign::Vote }
    }

    /// Campaigns. Only voters do.
    pub(crate) fn campaign(&mut self, campaign: Campaign, effects: &mut Effects) {
        let me = self.config.node;
        let has_promised = self.is_fortifying() || self.timers.is_abstaining(self.now);
        if self.role() == Role::Leader
            || !self.may_campaign()
            || has_promised && campaign != Campaign::Transfer
        {
            return;
        }
        assert!(!self.is_witness, "a witness never campaigns");
        assert!(!self.is_fenced(), "a fenced replica never campaigns");
        self.leader = None;
        let votes = Votes::of_candidate(me);
        let last = self.log.last();
        if campaign == Campaign::PreVote {
            self.role = RoleState::PreCandidate(votes);
            let question = Message::PreVote { term: self.hard_state.term.next(), last };
            self.send_to_voters(question, effects);
        } else {
            self.role = RoleState::Candidate(votes);
            let before = self.hard_state.term;
            self.hard_state.enter(self.hard_state.term.next());
            self.hard_state.vote_for(me);
            assert!(self.hard_state.term > before, "every campaign has a term of its own");
            self.rearm_election();
            let transfer = campaign == Campaign::Transfer;
            let request = Message::Vote { term: self.hard_state.term, last, transfer };
            effects.send_durable.extend(self.to_voters(request));
        }
        // A group of one has its quorum at once. Nothing is acknowledged before the no-op is durable, and the
        // hard state is written before it.
        self.count_votes(effects);
    }

    /// Sends a question to all other voters, which depends on nothing that is not durable yet.
    pub(crate) fn send_to_voters(&self, question: Message, effects: &mut Effects) {
        effects.send.extend(self.to_voters(question));
    }

    fn to_voters(&self, message: Message) -> impl Iterator<Item = (NodeId, Message)> + '_ {
        let voters = self.peers.iter().filter(|node| self.configuration().is_voter(**node));
        voters.map(move |&node| (node, message))
    }

    /// Whether this replica would vote for a candidate with this log. Changes neither term nor vote.
    ///
    /// If its own log is better, and it has received no message from a leader for T, it is about to campaign
    /// itself, and does so soon: there will be an election anyway. Not at once, since other voters may do the
    /// same.
    pub(crate) fn on_pre_vote(&mut self, from: NodeId, term: Term, last: EntryId, effects: &mut Effects) {
        if self.is_fenced() {
            return; // its log may have been better than it knows: it neither grants nor rejects
        }
        let (mine, is_worse) = (self.hard_state.term, last < self.vote_floor());
        let granted = term > mine && !is_worse;
        assert!(!granted || last >= self.log.last(), "no shorter log is granted a pre-vote");
        let answer = Message::PreVoteReply { term: if granted { term } else { mine }, granted };
        effects.send_durable.push((from, answer));
        if granted {
            return self.yield_to_candidate(from, effects);
        }
        let timeout = self.config.election_timeout();
        let is_alone = self.role() == Role::Follower && !self.has_recent_leader_contact() && !self.is_witness;
        if is_worse && is_alone && self.config.pre_vote && self.candidacy.priority == PRIORITY_MAX {
            let soon = self.timers.draw(timeout.as_nanos() as u64 / 4);
            self.timers.bring_forward(self.now + Duration::from_nanos(soon));
        }
    }

    /// Would win, but a voter with a better log has rejected the pre-vote: lets that one campaign first,
    /// once, and for T at most.
    fn defer(&mut self, effects: &mut Effects) {
        assert!(self.role() == Role::PreCandidate, "only a pre-candidate lets others go first");
        assert!(!self.candidacy.has_deferred, "it lets others go first once");
        self.become_follower(self.hard_state.term, None, effects);
        self.candidacy.insist();
        let nanos = self.config.election_timeout().as_nanos() as u64 / 2;
        let wait = Duration::from_nanos(nanos + self.timers.draw(nanos.max(1)));
        self.timers.set(self.now + wait);
    }

    /// The end of this replica's log, or of the log that it had before it was removed and joined again, if
    /// that is later.
    fn vote_floor(&self) -> EntryId {
        self.log.last().max(self.origin().floor())
    }

    /// Grants at most one vote a term, and only to a log that is no older than ours (paper, section 5.4.1).
    ///
    /// Votes are recorded by node: a candidate with the same node id and another log campaigns in a later
    /// term. Its log was added after the other's removal was committed, by a leader of a later term than any
    /// in which the other can have led.
    pub(crate) fn on_vote(&mut self, from: NodeId, last: EntryId, effects: &mut Effects) {
        if self.is_fenced() {
            return;
        }
        let free = match self.hard_state.vote {
            Some(other) => other == from,
            None => self.leader.is_none(),
        };
        let granted = free && last >= self.vote_floor();
        if granted {
            assert!(from != self.config.node, "a replica votes for itself by campaigning");
            let campaigns = matches!(self.role(), Role::Candidate | Role::Leader);
            assert!(!campaigns, "a candidate has spent its vote");
            assert!(last >= self.log.last(), "no shorter log is voted for");
            self.hard_state.vote_for(from);
            self.rearm_election();
        }
        effects.send_durable.push((from, Message::VoteReply { term: self.hard_state.term, granted }));
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        from: NodeId,
        term: Term,
        ballot: Ballot,
        effects: &mut Effects,
    ) {
        // A grant for another term answers an outdated request.
        let is_due = ballot == Ballot::Rejected || term == self.hard_state.term.next();
        if self.role() == Role::PreCandidate && is_due {
            self.note_vote(from, ballot);
            self.count_votes(effects);
        }
    }

    pub(crate) fn on_vote_reply(&mut self, from: NodeId, ballot: Ballot, effects: &mut Effects) {
        if self.role() == Role::Candidate {
            self.note_vote(from, ballot);
            assert!(self.hard_state.vote == Some(self.config.node), "a candidate votes for itself");
            self.count_votes(effects);
        }
    }

    fn note_vote(&mut self, from: NodeId, ballot: Ballot) {
        if let Some(votes) = self.votes_mut() {
            votes.note(from, ballot);
        }
    }

    fn count_votes(&mut self, effects: &mut Effects) {
        let (RoleState::PreCandidate(votes) | RoleState::Candidate(votes)) = &self.role else { return };
        assert!(votes.of(self.config.node) == Some(Ballot::Granted), "a candidate votes for itself");
        assert!(self.leader.is_none(), "a candidate knows no leader");
        let vote = |node| votes.of(node).map(|ballot| ballot == Ballot::Granted);
        let can_go = |node: NodeId| !self.configuration().is_witness(node);
        match (quorum::vote_result(self.configuration(), vote), self.role()) {
            // A pre-vote for a later term is rejected only for the better log. A witness with the better log
            // cannot campaign.
            (VoteResult::Won, Role::PreCandidate)
                if !self.candidacy.has_deferred && votes.rejecting().any(can_go) =>
            {
                self.defer(effects);
            }
            (VoteResult::Won, Role::PreCandidate) => self.campaign(Campaign::Vote, effects),
            (VoteResult::Won, _) => self.become_leader(effects),
            (VoteResult::Lost, _) => {
                self.become_follower(self.hard_state.term, None, effects);
                self.rearm_election_early();
            }
            (VoteResult::Pending, _) => {}
        }
    }

    /// The leader requests that this replica takes over: no pre-vote is needed (thesis, section 3.10).
    pub(crate) fn on_timeout_now(&mut self, from: NodeId, effects: &mut Effects) {
        if self.role() == Role::Follower && self.leader == Some(from) {
            self.campaign(Campaign::Transfer, effects);
        }
    }
}
