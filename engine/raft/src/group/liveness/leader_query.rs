//! Leader queries: a replica asks a node whether it leads, and the node replies if it does not.

use raftwerk_frame::{Message, NodeId, Term};

use crate::contract::Effects;
use crate::group::{Group, Role};

/// A replica that knows no leader and cannot campaign sends queries once in this many election timeouts.
const TIMEOUTS_TO_QUERY: u32 = 4;

/// What the sender of a leader query knows of leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuerySender {
    /// It follows the receiver.
    Follower,
    /// It knows no leader.
    Leaderless,
}

impl Group {
    /// Sends a leader query: this replica fortifies a leader, and received a vote request, or no
    /// heartbeat.
    pub(crate) fn query_leader(&mut self, effects: &mut Effects) {
        assert!(self.leader != Some(self.config.node), "a leader sends itself no query");
        if let Some(leader) = self.leader {
            effects.send.push((leader, Message::LeaderQuery { term: self.hard_state.term, follows: true }));
        }
    }

    /// Knows no leader, and cannot campaign: sends a query to all voters, since those that could campaign may
    /// be quiescent and fortify a leader that has stepped down. Seldom: where others can campaign, they do so
    /// long before.
    pub(crate) fn query_voters(&mut self, effects: &mut Effects) {
        assert!(self.leader.is_none(), "only a replica without a leader asks all voters");
        self.timers.set(self.now + self.config.election_timeout() * TIMEOUTS_TO_QUERY);
        let question = Message::LeaderQuery { term: self.hard_state.term, follows: false };
        self.send_to_voters(question, effects);
    }

    /// Processes a leader query.
    pub(crate) fn on_leader_query(
        &mut self,
        from: NodeId,
        term: Term,
        sender: QuerySender,
        effects: &mut Effects,
    ) {
        if self.role() == Role::Leader && term >= self.hard_state.term {
            self.unquiesce();
            self.send_heartbeats(effects);
        } else if sender == QuerySender::Follower {
            self.reply_not_leader(from, term, effects);
        } else if self.leader != Some(from) {
            self.unquiesce_for_request(effects);
        } else if term >= self.hard_state.term {
            self.end_fortification(from); // a follower of that term never leads it
        }
    }

    /// Sends the not-leader reply. The sender has received a message from this replica as leader of the term: it
    /// does not lead it now, so it never will again. A term later than its own it has never led and may come to
    /// lead: no honest peer names one.
    pub(crate) fn reply_not_leader(&self, to: NodeId, term: Term, effects: &mut Effects) {
        assert!(to != self.config.node, "a replica receives nothing of its own");
        let leads = self.role() == Role::Leader && term == self.hard_state.term;
        assert!(!leads, "a leader never denies its own term");
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
}
