//! The rules that a cluster must always keep. `invariant::ClusterChecker` has those that the cores alone show
//! (1 to 17); here are those that need payloads, disks and sent messages. All are checked after every turn; a
//! failure panics with the violated rule.
//!
//! - One payload for each entry id, and one entry for each committed index.
//! - What is committed is durable on a quorum, from then on for ever, and with its payload on a replica that
//!   is no witness.
//! - A vote is granted once a term, in spite of crashes; term, commit and applied never go back.
//! - A leader only appends (paper, Figure 3). It holds everything that is committed, payload by payload.
//! - The core's state of the log matches the log.
//! - No message leaves a node that depends on state which is not durable there.

use std::collections::BTreeMap;

use raftwerk_frame::{Configuration, EntryId, HardState, Index, Message, NodeId, Term};
use raftwerk_raft::invariant::ClusterChecker;
use raftwerk_raft::quorum::{self, VoteResult};

use super::disk::Entry;
use super::{Body, Cluster, Packet};

/// The facts that must hold for ever.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    checker: ClusterChecker,
    committed: Vec<Committed>,
    payloads: BTreeMap<EntryId, u64>,
    /// Votes that have left their node.
    votes: BTreeMap<(u64, Term), u64>,
    before: BTreeMap<u64, Before>,
}

/// An entry that is committed.
#[derive(Clone, Debug)]
struct Committed {
    entry: Entry,
    /// The state of a state machine that has applied everything up to it.
    state: u64,
    /// The term of the leader that committed it.
    term: Term,
    /// The configuration that the leader counted by.
    by: Configuration,
}

/// The state of a replica after the last turn.
#[derive(Clone, Copy, Debug)]
struct Before {
    hard_state: HardState,
    commit: Index,
    last: EntryId,
    is_leader: bool,
}

impl Ledger {
    pub(super) fn len(&self) -> u64 {
        self.committed.len() as u64
    }

    /// A replica restarts: state that was not durable may be lost.
    pub(super) fn forget(&mut self, node: u64) {
        self.before.remove(&node);
    }
}

/// The state of a state machine after an entry: it depends on the order and on each payload.
pub(super) fn state_after(state: u64, entry: Entry) -> u64 {
    (state ^ entry.payload).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) ^ entry.term.0
}

impl Cluster {
    pub(super) fn note_committed(&mut self, node: u64, index: Index, entry: Entry) {
        let at = index.0 as usize - 1;
        if let Some(known) = self.ledger.committed.get(at) {
            let known = if self.options.is_witness(node) { known.entry.withheld() } else { known.entry };
            return assert_eq!(known, entry, "node {node} has another entry committed at {index}");
        }
        assert_eq!(at, self.ledger.committed.len(), "entries are committed in order");
        let by = self.counted_by.clone().expect("a leader is the first to know");
        let before = self.ledger.committed.last().map_or(0, |last| last.state);
        let term = self.group(node).term();
        let committed = Committed { entry, state: state_after(before, entry), term, by };
        self.ledger.committed.push(committed);
        self.seen.committed += 1;
    }

    /// The state of a state machine that has applied everything up to here.
    pub(super) fn state_at(&self, index: Index) -> u64 {
        index.0.checked_sub(1).map_or(0, |at| self.ledger.committed[at as usize].state)
    }

    /// Checks all rules.
    pub(super) fn check(&mut self) {
        let groups = self.replicas.iter().filter_map(|replica| replica.group.as_ref());
        if let Err(violation) = self.ledger.checker.check(groups) {
            panic!("{violation:?}");
        }
        for node in self.nodes() {
            self.check_payloads(node);
            if self.is_up(node) {
                self.check_picture(node);
                self.check_history(node);
            }
        }
        self.check_committed();
    }

    fn check_payloads(&mut self, node: u64) {
        let Self { replicas, ledger, options, .. } = self;
        let is_witness = options.is_witness(node);
        let image = &replicas[node as usize - 1].disk.written;
        for (at, entry) in image.entries.iter().enumerate() {
            let id = EntryId::new(entry.term, image.compacted.index.plus(at as u64 + 1));
            // Logs that a test starts with contain payloads.
            assert!(
                !is_witness || *entry == entry.withheld() || entry.payload < 1_000_000,
                "node {node}: {id}"
            );
            if is_witness && *entry == entry.withheld() && !entry.is_membership() {
                continue;
            }
            let first = *ledger.payloads.entry(id).or_insert(entry.payload);
            assert_eq!(first, entry.payload, "node {node} has another payload at {id}");
        }
    }

    /// The core's state of the log matches the log.
    fn check_picture(&self, node: u64) {
        let (group, replica) = (self.group(node), self.replica(node));
        let written = &replica.disk.written;
        assert_eq!((group.last(), group.compacted()), (written.last(), written.compacted), "node {node}");
        assert_eq!(group.runs(), written.term_runs(), "node {node}");
        assert_eq!(group.hard_state(), written.hard_state, "node {node}");
        assert_eq!(group.applied(), replica.applied, "node {node}");
        let mut told: Vec<_> = written.memberships().collect();
        told.insert(0, (Index(0), written.membership));
        let told = told.into_iter().map(|(_, payload)| self.configuration_of(payload));
        assert!(told.eq(group.memberships().map(|(_, known)| known.clone())), "node {node}: configurations");
        let state = self.state_at(replica.applied);
        assert_eq!(replica.state, state, "node {node}: states at {}", replica.applied);
        let durable = EntryId::new(group.term(), group.durable());
        // Entries of earlier terms may be replaced and come back, and then an old durability notice may be
        // about the first write; a leader counts itself only for entries of its own term.
        if group.is_leader() && group.term_at(durable.index) == Some(durable.term) {
            assert!(
                replica.disk.durable.covers(durable),
                "node {node} counts {durable}, which is not durable"
            );
        }
    }

    fn check_history(&mut self, node: u64) {
        let group = self.group(node);
        let now = Before {
            hard_state: group.hard_state(),
            commit: group.commit(),
            last: group.last(),
            is_leader: group.is_leader(),
        };
        if let Some(before) = self.ledger.before.insert(node, now) {
            let (old, new) = (before.hard_state, now.hard_state);
            assert!(new.term >= old.term, "node {node}: terms go back");
            assert!(
                new.term > old.term || old.vote.is_none() || new.vote == old.vote,
                "node {node}: a vote is kept"
            );
            assert!(now.commit >= before.commit, "node {node}: commit goes back");
            if before.is_leader && now.is_leader && old.term == new.term {
                let kept = self.group(node).term_at(before.last.index) == Some(before.last.term);
                let compacted = before.last.index <= self.group(node).compacted().index;
                assert!(kept || compacted, "node {node}: a leader only appends");
            }
        }
        if now.is_leader {
            self.check_leader_completeness(node);
        }
    }

    /// Leader completeness (paper, section 5.4.3), payload by payload: a leader holds what its term and those before it
    /// have committed.
    fn check_leader_completeness(&self, node: u64) {
        let (written, term) = (&self.replica(node).disk.written, self.group(node).term());
        for at in written.compacted.index.0..self.ledger.len() {
            let known = &self.ledger.committed[at as usize];
            let held = written.entry(Index(at + 1)) == Some(known.entry);
            assert!(held || known.term > term, "leader {node} of {term} lacks {}, {known:?}", at + 1);
        }
    }

    /// What is committed is durable on a quorum, also while replicas are down. By log matching, checking the
    /// last entry suffices.
    fn check_committed(&self) {
        let Some(last) = self.ledger.committed.last() else { return };
        let id = EntryId::new(last.entry.term, Index(self.ledger.len()));
        let is_lost = |node| self.replica(node).has_lost;
        let holds = |node: NodeId| Some(self.replica(node.0).disk.durable.covers(id) || is_lost(node.0));
        let result = quorum::vote_result(&last.by, holds);
        assert_eq!(result, VoteResult::Won, "{id} is committed, and not durable on a quorum");
        let holds_whole = |node: &NodeId| !last.by.is_witness(*node) && holds(*node) == Some(true);
        assert!(last.by.replicas().iter().any(holds_whole), "{id} is committed, and nobody holds it whole");
    }

    /// No message leaves that depends on state which is not durable.
    pub(super) fn check_departure(&mut self, packet: &Packet) {
        let durable = &self.replica(packet.from).disk.durable;
        let (mine, last) = (durable.hard_state, durable.last().index);
        let message = match &packet.body {
            Body::Snapshot { term, .. } => return assert!(mine.term >= *term, "{packet:?}"),
            Body::Message { message, .. } => *message,
        };
        let candidate = match message {
            Message::Vote { .. } => Some(packet.from),
            Message::VoteReply { granted: true, .. } => Some(packet.to),
            _ => None,
        };
        if let Some(candidate) = candidate {
            let first = *self.ledger.votes.entry((packet.from, message.term())).or_insert(candidate);
            assert_eq!(first, candidate, "node {} voted twice: {packet:?}", packet.from);
        }
        match message {
            Message::PreVote { .. } | Message::PreVoteReply { .. } => {}
            Message::VoteReply { term, granted: true } => {
                let given = mine.term > term || mine.vote == Some(NodeId(packet.to));
                assert!(mine.term >= term && given, "{packet:?} from {mine:?}");
            }
            Message::AppendAck { matched, .. } => {
                let has = last >= matched || mine.term > message.term();
                assert!(has, "{packet:?} and only {last} is durable");
            }
            _ => assert!(mine.term >= message.term(), "{packet:?} from {mine:?}"),
        }
    }
}
