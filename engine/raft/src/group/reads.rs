//! Linearizable reads by read index (thesis, section 6.4): one heartbeat round for all reads of a turn.

pub(super) mod follower;

use alloc::collections::VecDeque;

use raftwerk_frame::{Index, Message, NodeId};

use crate::contract::Effects;
use crate::group::{Group, NUMBER_MAX, Role};
use crate::quorum;

/// A leader drops read-index requests of followers while this many reads wait, since it cannot bound their
/// number. Its own reads, one for each turn with reads in it, are rejected from twice this number on. A follower
/// rejects reads while this many wait for the leader's reply.
pub(crate) const WAITING_MAX: usize = 64 * 1024;

/// A read that waits for a quorum to confirm its leader.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The driver's token; or the number of a follower's request.
    token: u64,
    /// The follower that sent the request.
    asker: Option<NodeId>,
    /// The commit index when the read arrived, once that is known to be up to date.
    index: Option<Index>,
    /// The round that a quorum must answer; `None` until the turn's flush.
    round: Option<u64>,
}

/// The waiting reads of a leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    round: u64,
    /// Whether an entry of this term is committed: before, a leader does not know what is committed.
    is_open: bool,
    waiting: VecDeque<Waiting>,
}

impl Reads {
    pub(crate) const fn round(&self) -> u64 {
        self.round
    }

    /// Begins a round: replies to it were sent after this moment.
    pub(crate) const fn next_round(&mut self) -> u64 {
        assert!(self.round < NUMBER_MAX, "rounds are counted");
        self.round += 1;
        self.round
    }

    /// Whether the leader knows what is committed.
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether no read waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// An entry of this term is committed: reads that arrived before may be answered at its index.
    pub(crate) fn open(&mut self, commit: Index) {
        if !self.is_open {
            self.is_open = true;
            for read in &mut self.waiting {
                read.index = Some(commit);
            }
        }
    }

    fn push(&mut self, read: Waiting) {
        let last = self.waiting.back();
        assert!(last.is_none_or(|last| last.index <= read.index), "read indices rise with the commit index");
        assert!(read.index.is_some() == self.is_open, "a read index is known as soon as reads are open");
        assert!(read.round.is_none(), "a read waits for the turn's round");
        self.waiting.push_back(read);
    }

    pub(crate) fn shrink(&mut self) {
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<Waiting>()
    }

    pub(crate) fn reject_all(&mut self, effects: &mut Effects) {
        self.is_open = false;
        // Only own reads are rejected: a follower sends its request to the next leader.
        let own = self.waiting.drain(..).filter(|read| read.asker.is_none());
        effects.reads_rejected.extend(own.map(|read| read.token));
        self.shrink();
        assert!(self.is_idle() && !self.is_open, "a replica that does not lead has no reads that wait");
    }
}

impl Group {
    pub(crate) fn on_read(&mut self, token: u64, effects: &mut Effects) {
        if self.role() != Role::Leader || self.reads.waiting.len() >= 2 * WAITING_MAX {
            effects.reads_rejected.push(token);
            return;
        }
        self.unquiesce();
        let index = self.reads.is_open.then_some(self.commit);
        self.reads.push(Waiting { token, asker: None, index, round: None });
    }

    /// A follower requests a read index. It repeats the request if this one is lost, or dropped because too
    /// many wait.
    pub(crate) fn on_read_index(&mut self, from: NodeId, round: u64) {
        let is_known = self.peer_at(from).is_some();
        if self.role() == Role::Leader && is_known && self.reads.waiting.len() < WAITING_MAX {
            self.unquiesce();
            let index = self.reads.is_open.then_some(self.commit);
            assert!(from != self.config.node, "own reads have no asker");
            self.reads.push(Waiting { token: round, asker: Some(from), index, round: None });
        }
    }

    /// Starts a round for the reads that gathered in this turn.
    pub(crate) fn start_read_round(&mut self, effects: &mut Effects) {
        if self.reads.waiting.back().is_some_and(|read| read.round.is_none()) {
            let round = self.reads.next_round();
            let gathered = self.reads.waiting.iter_mut().rev().take_while(|read| read.round.is_none());
            gathered.for_each(|read| read.round = Some(round));
            assert!(self.is_leader(), "only a leader begins a read round");
            assert!(self.reads.round == round, "the heartbeats of a round carry its number");
            self.send_heartbeats(effects);
        }
        self.answer_reads(effects);
    }

    /// Answers the reads of all rounds that a quorum has answered.
    #[inline]
    pub(crate) fn answer_reads(&mut self, effects: &mut Effects) {
        if !self.reads.is_idle() {
            self.answer_waiting_reads(effects);
        }
    }

    fn answer_waiting_reads(&mut self, effects: &mut Effects) {
        let round_of = |node| {
            let at = self.peer_at(node);
            at.map_or(self.reads.round, |at| self.all_progress()[at].round())
        };
        let Some(reached) = quorum::reached(self.configuration(), round_of) else { return };
        assert!(reached <= self.reads.round, "no round is answered before it begins");
        let term = self.hard_state.term;
        while let Some(&Waiting { token, asker, index: Some(index), round: Some(round) }) =
            self.reads.waiting.front()
            && round <= reached
        {
            assert!(self.reads.is_open, "a read is answered when the commit index is known to be current");
            self.reads.waiting.pop_front();
            assert!(index <= self.commit, "a read index was the commit index");
            match asker {
                None => effects.reads.push((token, index)),
                Some(asker) => {
                    effects.send.push((asker, Message::ReadIndexReply { term, round: token, index }));
                }
            }
        }
    }
}
