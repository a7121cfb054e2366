//! Terms, votes and campaigns (paper, section 5.2 and 5.4.1; thesis, sections 4.2.3, 6.2 and 9.6).

use alloc::vec::Vec;
use core::time::Duration;

use raftwerk_frame::{EntryId, Message, NodeId, Term, Time};

use crate::effects::Effects;
use crate::group::{Group, PRIORITY_MAX, Role, Standing};
use crate::quorum::{self, VoteResult};

impl Group {
    /// Compares a message's term with ours: may change it, may answer, and tells whether to go on with the message.
    pub(crate) fn admit(&mut self, from: NodeId, message: &Message, effects: &mut Effects) -> bool {
        let (term, mine) = (message.term(), self.hard_state.term);
        if term > mine {
            return match *message {
                // Whoever hears its leader does not let others disturb it, unless the leader itself wants them to; nor
                // does it answer their questions.
                Message::Vote { transfer: false, .. } | Message::PreVote { .. } if self.waits(from) => {
                    self.show_who_leads(effects);
                    false
                }
                // A question about the future changes nothing; neither does a friendly answer to ours.
                Message::PreVote { .. } | Message::PreVoteReply { granted: true, .. } => true,
                Message::Append { .. } | Message::Heartbeat { .. } => {
                    self.follow(term, Some(from), effects);
                    true
                }
                Message::Vote { .. } => {
                    self.follow(term, None, effects);
                    true
                }
                // Only a leader of that term, or one that ours wants, ends a promise.
                _ if self.is_bound() => false,
                _ => {
                    self.follow(term, None, effects);
                    true
                }
            };
        }
        if term < mine {
            // A peer that fell behind is told the term: a deposed leader steps down, a straggler catches up.
            let answer = match message {
                Message::Append { .. } | Message::Heartbeat { .. } => {
                    Some(Message::HeartbeatAck { term: mine, round: 0, binds: false, rest: false })
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

    /// Whether there is a leader, as far as this replica knows, so that there is no need for another; or may be, as far as it
    /// knew before it restarted. A candidate that leads no longer may well be a leader again.
    fn waits(&mut self, candidate: NodeId) -> bool {
        self.unbind(candidate);
        let hears = self.config.check_quorum
            && (self.role == Role::Leader || self.leader.is_some() && self.has_heard_lately());
        hears || self.is_bound() || self.now < self.abstains_until
    }

    /// Somebody does not know that there is a leader. If there is, it wakes up and tells.
    fn show_who_leads(&mut self, effects: &mut Effects) {
        if self.role == Role::Leader {
            self.wake();
        } else if self.is_resting() {
            self.doubt(effects);
        }
    }

    /// Becomes a follower of `leader` in `term`. A vote given in the same term stays given.
    pub(crate) fn follow(&mut self, term: Term, leader: Option<NodeId>, effects: &mut Effects) {
        if self.role == Role::Leader {
            self.leave_farewells(effects);
        }
        if term > self.hard_state.term {
            self.hard_state.term = term;
            self.hard_state.vote = None;
            self.forget_binding();
        }
        self.wake();
        self.has_deferred &= leader.is_none();
        if self.role != Role::Follower || leader.is_none() {
            self.rearm_election();
        }
        self.role = Role::Follower;
        self.leader = leader;
        // Memory goes back: most replicas that led once will not do so again soon.
        self.votes.clear();
        self.progress = Vec::new();
        self.uncommitted = None;
        self.uncommitted_bytes = 0;
        (self.quorum_deadline, self.news_at) = (Time::NEVER, Time::NEVER);
        (self.admission, self.handover) = (None, None);
        self.reads.reject_all(effects);
    }

    /// A deadline may have come.
    pub(crate) fn time_out(&mut self, effects: &mut Effects) {
        if self.role == Role::Leader {
            if self.now >= self.quorum_deadline && !self.renew_quorum() {
                return self.follow(self.hard_state.term, None, effects);
            }
            if self.give_up_handover(effects) {
                return self.follow(self.hard_state.term, None, effects);
            }
            if self.now >= self.deadline {
                self.end_farewells(effects);
                self.send_heartbeats(effects);
                self.hurry_again(effects);
                if !self.rest_alone() {
                    self.rearm_heartbeat();
                }
            }
        } else if self.now >= self.deadline && self.is_bound() {
            self.doubt(effects);
            self.rearm_election();
        } else if self.now >= self.deadline {
            self.leader = None;
            if self.standing == Standing::Member {
                self.standing = Standing::Unknown;
            }
            self.reject_asked(effects);
            self.rearm_election();
            if self.is_removed() || self.peers.is_empty() && self.priority == 0 {
                // It has no leader to expect; only a message wakes it.
                self.deadline = Time::NEVER;
            } else if self.priority == 0 || !self.may_campaign() {
                self.ask_around(effects);
            } else {
                self.campaign(self.config.pre_vote, false, effects);
            }
        }
    }

    /// Campaigns, or first asks whether it would help. Only voters do.
    pub(crate) fn campaign(&mut self, ask_first: bool, transfer: bool, effects: &mut Effects) {
        let me = self.config.node;
        let has_promised = self.is_bound() || self.now < self.abstains_until;
        if self.role == Role::Leader || !self.may_campaign() || has_promised && !transfer {
            return;
        }
        self.leader = None;
        self.votes.clear();
        self.votes.push((me, true));
        let last = self.log.last();
        if ask_first {
            self.role = Role::PreCandidate;
            let question = Message::PreVote { term: self.hard_state.term.next(), last };
            self.send_to_voters(question, false, effects);
        } else {
            self.role = Role::Candidate;
            self.hard_state.term = self.hard_state.term.next();
            self.hard_state.vote = Some(me);
            self.rearm_election();
            let request = Message::Vote { term: self.hard_state.term, last, transfer };
            self.send_to_voters(request, true, effects);
        }
        // A group of one has its quorum at once. Nothing is acknowledged before the no-op is durable, and the hard
        // state is written before it.
        self.count_votes(effects);
    }

    pub(crate) fn send_to_voters(&self, message: Message, durable: bool, effects: &mut Effects) {
        let list = if durable { &mut effects.send_durable } else { &mut effects.send };
        let voters = self.peers.iter().filter(|node| self.configuration.is_voter(**node));
        list.extend(voters.map(|&node| (node, message)));
    }

    /// Would this replica vote for one whose log ends so? Promises nothing.
    ///
    /// If its own log is better, and it has heard no leader for T, it is about to campaign itself, and does so soon: there will
    /// be an election anyway. Not at once, since it may not be the only one.
    pub(crate) fn answer_pre_vote(&mut self, from: NodeId, term: Term, last: EntryId, effects: &mut Effects) {
        if self.is_fenced() {
            return; // it may have a better log than it knows: neither a yes nor a no
        }
        let (mine, is_worse) = (self.hard_state.term, last < self.has_held());
        let granted = term > mine && !is_worse;
        let answer = Message::PreVoteReply { term: if granted { term } else { mine }, granted };
        effects.send_durable.push((from, answer));
        if granted {
            return self.let_go_first(from, effects);
        }
        let timeout = self.config.election_timeout();
        let is_alone = self.role == Role::Follower && !self.has_heard_lately() && !self.is_witness;
        if is_worse && is_alone && self.config.pre_vote && self.priority == PRIORITY_MAX {
            let soon = self.rng.below(timeout.as_nanos() as u64 / 4);
            self.deadline = self.deadline.min(self.now + Duration::from_nanos(soon));
        }
    }

    /// Would win, but knows of a voter with a better log: lets it go first, once, and for T at most.
    fn defer(&mut self, effects: &mut Effects) {
        self.follow(self.hard_state.term, None, effects);
        self.has_deferred = true;
        let nanos = self.config.election_timeout().as_nanos() as u64 / 2;
        self.deadline = self.now + Duration::from_nanos(nanos + self.rng.below(nanos.max(1)));
    }

    /// Up to where this replica's log reaches, or did before it was removed and joined again.
    fn has_held(&self) -> EntryId {
        self.log.last().max(self.origin().floor())
    }

    /// Gives at most one vote a term, and only to a log that is no older than ours (paper, section 5.4.1).
    ///
    /// By node: whoever campaigns under the same number with another log does so in a later term. Its log was added after the
    /// other's removal was committed, by a leader of a later term than any in which the other can have led.
    pub(crate) fn answer_vote(&mut self, from: NodeId, last: EntryId, effects: &mut Effects) {
        if self.is_fenced() {
            return;
        }
        let free = match self.hard_state.vote {
            Some(other) => other == from,
            None => self.leader.is_none(),
        };
        let granted = free && last >= self.has_held();
        if granted {
            self.hard_state.vote = Some(from);
            self.rearm_election();
        }
        effects.send_durable.push((from, Message::VoteReply { term: self.hard_state.term, granted }));
    }

    pub(crate) fn count_pre_vote(&mut self, from: NodeId, term: Term, granted: bool, effects: &mut Effects) {
        // A grant for another term answers a question that is no longer asked.
        let is_due = !granted || term == self.hard_state.term.next();
        if self.role == Role::PreCandidate && is_due {
            self.note_vote(from, granted);
            self.count_votes(effects);
        }
    }

    pub(crate) fn count_vote(&mut self, from: NodeId, granted: bool, effects: &mut Effects) {
        if self.role == Role::Candidate {
            self.note_vote(from, granted);
            self.count_votes(effects);
        }
    }

    fn note_vote(&mut self, from: NodeId, granted: bool) {
        if !self.votes.iter().any(|(node, _)| *node == from) {
            self.votes.push((from, granted));
        }
    }

    fn count_votes(&mut self, effects: &mut Effects) {
        let vote = |node| self.votes.iter().find(|(voter, _)| *voter == node).map(|(_, granted)| *granted);
        let can_go = |node: NodeId| !self.configuration.is_witness(node);
        match (quorum::vote_result(&self.configuration, vote), self.role) {
            // Who refuses a question about a term of the future does so for the better log. A witness cannot use it.
            (VoteResult::Won, Role::PreCandidate)
                if !self.has_deferred
                    && self.votes.iter().any(|(node, granted)| !granted && can_go(*node)) =>
            {
                self.defer(effects);
            }
            (VoteResult::Won, Role::PreCandidate) => self.campaign(false, false, effects),
            (VoteResult::Won, _) => self.lead(effects),
            (VoteResult::Lost, _) => {
                self.follow(self.hard_state.term, None, effects);
                self.try_again_soon();
            }
            (VoteResult::Pending, _) => {}
        }
    }

    /// The leader wants this replica to take over: no need to ask first (thesis, section 3.10).
    pub(crate) fn take_timeout_now(&mut self, from: NodeId, effects: &mut Effects) {
        if self.role == Role::Follower && self.leader == Some(from) {
            self.campaign(false, true, effects);
        }
    }
}
