//! The handshake of logs: peers from which this node receives for the first time. The log of each is recorded
//! durably before any of its messages counts.
//!
//! The first worker does this for the node. What the peers send meanwhile waits, up to a bound.

use bytes::Bytes;
use raftwerk_frame::wire::UnitHeader;
use raftwerk_frame::{GroupId, LogId, NodeId};
use raftwerk_wal::{Disk, PeerNote, PeerNotes, SnapshotError};
use tokio::sync::oneshot;

use crate::api::error::ReplaceError;
use crate::node::request::{Order, ReceivedUnit};
use crate::worker::Worker;
use crate::worker::storage::background::{Note, Work};

/// Units that wait for their senders' logs to be recorded; units beyond that are dropped, as by a network.
const WAITING_MAX: usize = 64;

/// What is to be recorded next, and the clients that wait for it.
#[derive(Default)]
pub(in crate::worker) struct Handshakes {
    waiting: Vec<(NodeId, LogId, Bytes)>,
    replacing: Vec<(PeerNote, oneshot::Sender<Result<(), ReplaceError>>)>,
    is_noting: bool,
    /// The record of shorter support, due when earlier support has expired, was requested.
    has_noted_support: bool,
}

impl<D: Disk> Worker<D> {
    /// A unit of a peer that was unknown when it arrived.
    pub(in crate::worker) fn on_unknown_peer(&mut self, from: NodeId, log: LogId, unit: Bytes) {
        let header = UnitHeader::parse(&unit).map(|(header, ..)| (header.to_log, header.workers));
        let (meant, workers) = header.unwrap_or_default();
        match self.env.dispatch.peers().on_unit(from, log, workers) {
            Some(is_first) => {
                if self.env.dispatch.may_be_addressed_here(meant) {
                    self.env.dispatch.route(ReceivedUnit { from, is_first, unit });
                }
                if meant != self.outboxes.log() {
                    self.on_log_query(from);
                }
            }
            None => {
                if self.liveness.handshakes.waiting.len() < WAITING_MAX {
                    self.liveness.handshakes.waiting.push((from, log, unit));
                }
                self.note();
            }
        }
    }

    /// A peer requests this node's log: any unit carries it in its header.
    pub(in crate::worker) fn on_log_query(&mut self, from: NodeId) {
        self.refresh_peers();
        let log = self.outboxes.latest_of(from).unwrap_or_default();
        self.outboxes.announce(from, log);
    }

    /// Refuses if a group of this worker has the node for an initial member; else passes the command to the
    /// next worker. After the last worker the first one records the peer's new log.
    pub(in crate::worker) fn replace_peer(
        &mut self,
        peer: PeerNote,
        checked: u16,
        reply: oneshot::Sender<Result<(), ReplaceError>>,
    ) {
        let names = |group: &GroupId| {
            self.groups.find(*group).is_some_and(|replica| replica.is_initial_member(peer.node))
        };
        if checked < self.settings.workers {
            if let Some(group) = self.groups.ids().filter(names).min() {
                let _caller_gone = reply.send(Err(ReplaceError::Member(group)));
                return;
            }
            let next = (usize::from(checked) + 1) % usize::from(self.settings.workers);
            return self.env.dispatch.order(next, Order::ReplacePeer { peer, checked: checked + 1, reply });
        }
        self.liveness.handshakes.replacing.push((peer, reply));
        self.note();
    }

    /// The support that earlier incarnations gave has expired: from now on the recorded support may be
    /// shorter. On the first worker only. Tried once, since a later record holds the same, and a longer
    /// support is safe.
    pub(in crate::worker) fn note_outwaited(&mut self) {
        let is_due = self.liveness.abstention.is_outwaited(self.now) && self.settings.worker == 0;
        if is_due && !std::mem::replace(&mut self.liveness.handshakes.has_noted_support, true) {
            self.note();
        }
    }

    /// Writes the record of what is new, unless one is being written.
    fn note(&mut self) {
        let handshakes = &mut self.liveness.handshakes;
        if handshakes.is_noting {
            return;
        }
        let known = self.env.dispatch.peers().list();
        let mut new_notes: Vec<PeerNote> = Vec::new();
        let mut replaced = Vec::new();
        for (peer, reply) in handshakes.replacing.drain(..) {
            new_notes.retain(|note| note.node != peer.node);
            new_notes.push(peer);
            replaced.push(reply);
        }
        for &(node, log, _) in &handshakes.waiting {
            // Of two logs under one node id the first counts.
            if !new_notes.iter().any(|note| note.node == node) {
                new_notes.push(PeerNote { node, log });
            }
        }
        if new_notes.is_empty() && !self.liveness.abstention.is_outwaited(self.now) {
            return;
        }
        handshakes.is_noting = true;
        let mut list = new_notes.clone();
        list.extend(known.into_iter().filter(|note| !new_notes.iter().any(|new| new.node == note.node)));
        let support = self.liveness.abstention.worth_noting(self.now);
        let token = self.transfers.expect(Work::Note(Note { new_notes, replaced, support }));
        self.lane.note(token, PeerNotes { peers: list, support });
    }

    /// A record is durable; or it failed, and then the known logs stay as they were.
    pub(in crate::worker) fn noted(&mut self, note: Note, outcome: Result<(), SnapshotError>) {
        self.liveness.handshakes.is_noting = false;
        let is_durable = outcome.is_ok();
        let peers = self.env.dispatch.peers();
        if is_durable {
            self.liveness.abstention.noted(note.support);
            note.new_notes.iter().for_each(|note| peers.record(note));
        }
        for reply in note.replaced {
            let _caller_gone = reply.send(if is_durable { Ok(()) } else { Err(ReplaceError::Disk) });
        }
        let waiting = std::mem::take(&mut self.liveness.handshakes.waiting);
        if is_durable {
            for (from, log, unit) in waiting {
                self.on_unknown_peer(from, log, unit);
            }
        } else {
            tracing::warn!(
                node = self.settings.node.0,
                "new peers could not be noted: they are not heard yet"
            );
        }
        if !self.liveness.handshakes.replacing.is_empty() {
            self.note();
        }
    }
}
