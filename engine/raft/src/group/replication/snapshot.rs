//! Replicas that are too far behind for the log (paper, section 7).

use raftwerk_frame::{Configuration, EntryId, Message, NodeId, Term};

use crate::contract::{Effects, Install};
use crate::group::replication::progress::PeerState;
use crate::group::{Group, NUMBER_MAX, Role};

/// What becomes of the log after a snapshot's last entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    Kept,
    Dropped,
}

impl Group {
    /// Lists the peers that need compacted entries. Each once, until its snapshot arrives or fails.
    pub(crate) fn request_snapshots(&mut self, effects: &mut Effects) {
        let (compacted, now) = (self.log.compacted(), self.now);
        let Some((peers, leadership)) = self.peers_and_leadership() else { return };
        let (progress, removals) = leadership.progress_and_removals();
        for (at, progress) in progress.iter_mut().enumerate() {
            // Sending needs the term of the entry before `next`.
            let behind = progress.next() <= compacted.index;
            let is_due = behind && progress.state() != PeerState::Snapshot && !progress.is_paused();
            if is_due && !removals.iter().any(|removal| removal.node() == peers[at]) {
                progress.snapshot(compacted, now);
                assert!(
                    progress.matched() < compacted.index,
                    "a peer that holds the entry needs no snapshot"
                );
                effects.snapshot_to.push(peers[at]);
            }
        }
    }

    pub(crate) fn on_snapshot_failed(&mut self, to: NodeId) {
        let now = self.now;
        if let Some(progress) = self.progress_of(to)
            && progress.state() == PeerState::Snapshot
        {
            progress.probe();
            // Not again before the peer answers a heartbeat.
            progress.pause(now);
        }
    }

    /// A snapshot is durable here. Installs it unless its last entry is committed here already.
    pub(crate) fn on_snapshot(
        &mut self,
        from: NodeId,
        term: Term,
        id: EntryId,
        (configuration, progress_epoch): (&Configuration, u16),
        effects: &mut Effects,
    ) {
        let mine = self.hard_state.term;
        let is_sane = id.term <= term && self.is_plausible_term(term) && id.index.0 <= NUMBER_MAX;
        if !is_sane || from == self.config.node || self.role() == Role::Leader && term == mine {
            return;
        }
        if term < mine {
            // The sender no longer leads; it learns of the later term from this reply.
            effects.send_durable.push((
                from,
                Message::HeartbeatAck { term: mine, round: 0, fortifies: false, quiesce: false },
            ));
            return;
        }
        assert!(term >= mine, "a replica follows no leader of an earlier term");
        self.become_follower(term, Some(from), effects);
        self.note_leader_contact();
        self.fortify();
        self.rearm_election();
        if id.index > self.commit {
            assert!(self.role() == Role::Follower, "a leader only appends");
            let keep_tail = self.log.holds(id);
            if keep_tail {
                self.log.compact(id.index);
            } else {
                self.log.reset(id);
            }
            assert!(self.log.compacted() == id, "the log begins after the snapshot");
            assert!(keep_tail || self.log.last() == id, "a tail that may differ is dropped");
            self.restart_at(id.index);
            let tail = if keep_tail { Tail::Kept } else { Tail::Dropped };
            self.rebase(id.index, tail, configuration, effects);
            let is_known = self.configuration_index() >= id.index;
            assert!(is_known, "the configuration in force where the log begins is the snapshot's, or later");
            self.lift_fence();
            effects.install = Some(Install { id, configuration: configuration.clone(), keep_tail });
        }
        effects.send_durable.push((from, Message::AppendAck { term, matched: self.commit, progress_epoch }));
    }
}
