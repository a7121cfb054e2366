//! Follower reads (thesis, section 6.4): the follower requests the read index from its leader, once for all
//! reads of a turn, and the reads may be answered here when it has applied that index.
//!
//! A read-index request has a number of the follower's own, and a reply to a later request serves all earlier
//! ones. An unanswered request is sent again with the leader's next heartbeat, and to the next leader; when
//! this replica would campaign itself, its reads are rejected. The leader's half is in `read`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use raftwerk_frame::{Index, Message, NodeId, Time};

use crate::contract::Effects;
use crate::group::reads::WAITING_MAX;
use crate::group::{Group, NUMBER_MAX, Role};

/// Reads that wait for the leader's reply.
#[derive(Clone, Debug)]
pub(crate) struct PendingReadIndex {
    /// The number of the last request. Starts at a random number, so that a reply from before a restart
    /// matches none.
    round: u64,
    /// Whether a request is to be sent at the end of the turn.
    is_due: bool,
    /// When the last request was sent.
    at: Time,
    /// Tokens, and the request that each was in; 0 for none yet.
    waiting: Vec<(u64, u64)>,
}

impl PendingReadIndex {
    /// Whether no read waits any longer.
    pub(crate) const fn is_answered(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Group {
    /// A read at a replica of any role.
    pub(crate) fn on_follower_read(&mut self, token: u64, effects: &mut Effects) {
        if self.role() == Role::Leader {
            return self.on_read(token, effects);
        }
        if self.leader.is_none() || self.is_witness {
            effects.reads_rejected.push(token);
            return;
        }
        if self.pending_reads.is_none() {
            let round = self.timers.draw(NUMBER_MAX) ^ (self.now.0 & (NUMBER_MAX >> 8));
            assert!(round <= NUMBER_MAX, "a first number leaves room to count");
            self.pending_reads =
                Some(Box::new(PendingReadIndex { round, is_due: true, at: self.now, waiting: Vec::new() }));
        }
        if let Some(pending) = &mut self.pending_reads {
            if pending.waiting.len() >= WAITING_MAX {
                effects.reads_rejected.push(token);
                return;
            }
            pending.waiting.push((token, 0));
            pending.is_due = true;
        }
    }

    /// At the end of a turn: one request for all reads that have not been in one.
    pub(crate) fn send_read_index(&mut self, effects: &mut Effects) {
        let term = self.hard_state.term;
        if self.role() == Role::Follower
            && let (Some(pending), Some(leader)) = (&mut self.pending_reads, self.leader)
            && core::mem::take(&mut pending.is_due)
            && !pending.waiting.is_empty()
        {
            assert!(leader != self.config.node, "a follower's leader is another node");
            assert!(pending.at <= self.now, "no request was sent after now");
            assert!(pending.round < u64::MAX, "requests are counted from a number below half the range");
            pending.round += 1;
            pending.at = self.now;
            let round = pending.round;
            let fresh = pending.waiting.iter_mut().rev().take_while(|(_, asked)| *asked == 0);
            fresh.for_each(|(_, asked)| *asked = round);
            effects.send.push((leader, Message::ReadIndex { term, round }));
        }
    }

    /// There is a live leader: the last request may be lost, and is sent again, after a heartbeat interval at
    /// the earliest, since a request makes the leader send heartbeats. A reply to the first request still
    /// counts.
    pub(crate) fn retry_read_index(&mut self) {
        let interval = self.config.heartbeat_interval();
        if let Some(pending) = &mut self.pending_reads {
            assert!(pending.at <= self.now, "no request was sent after now");
            pending.is_due |= self.now >= pending.at + interval;
        }
    }

    /// There is a new leader: the last request is sent again, to this one.
    pub(crate) fn renew_read_index(&mut self) {
        if let Some(pending) = &mut self.pending_reads {
            pending.is_due = true;
        }
    }

    /// Processes the leader's reply.
    pub(crate) fn on_read_index_reply(
        &mut self,
        from: NodeId,
        round: u64,
        index: Index,
        effects: &mut Effects,
    ) {
        if self.role() != Role::Follower || self.leader != Some(from) || index.0 > NUMBER_MAX {
            return;
        }
        let Some(pending) = &mut self.pending_reads else { return };
        if round > pending.round {
            return;
        }
        pending.waiting.retain(|(token, asked_in)| {
            let is_answered = *asked_in != 0 && *asked_in <= round;
            if is_answered {
                effects.reads.push((*token, index));
            }
            !is_answered
        });
    }

    /// This replica leads now, and serves its waiting reads itself.
    pub(crate) fn adopt_pending_reads(&mut self, effects: &mut Effects) {
        assert!(self.is_leader(), "a leader serves its waiting reads itself");
        if let Some(pending) = self.pending_reads.take() {
            pending.waiting.into_iter().for_each(|(token, _)| self.on_read(token, effects));
        }
    }

    /// There is no leader to send a request to.
    pub(crate) fn reject_pending_reads(&mut self, effects: &mut Effects) {
        assert!(!self.is_leader(), "a leader asks no other for a read index");
        if let Some(pending) = self.pending_reads.take() {
            effects.reads_rejected.extend(pending.waiting.into_iter().map(|(token, _)| token));
        }
    }
}
