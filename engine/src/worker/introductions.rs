//! The handshake of logs: peers from which this node receives for the first time. The log of each is recorded
//! durably before any of its messages counts.
//!
//! The first worker does this for the node. What the peers send meanwhile waits, up to a bound.

use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::wire::UnitHeader;
use raftwerk_frame::{GroupId, LogId, NodeId};
use raftwerk_wal::{Disk, PeerNote, PeerNotes};
use tokio::sync::oneshot;

use super::Worker;
use super::snapshots::Work;
use crate::error::ReplaceError;
use crate::inbox::Order;

/// Units that wait for their senders' logs to be recorded; units beyond that are dropped, as by a network.
const WAITING_MAX: usize = 64;

/// What is to be recorded next, and the clients that wait for it.
#[derive(Default)]
pub(super) struct Introductions {
    waiting: Vec<(NodeId, LogId, Bytes)>,
    replacing: Vec<(PeerNote, oneshot::Sender<Result<(), ReplaceError>>)>,
    is_noting: bool,
    /// The record of shorter support, due when earlier support has expired, was requested.
    has_noted_support: bool,
}

/// The new content of a record on its way to the disk, and the clients that wait for it.
pub(super) struct Note {
    news: Vec<PeerNote>,
    support: Duration,
    replaced: Vec<oneshot::Sender<Result<(), ReplaceError>>>,
}

impl<D: Disk> Worker<D> {
    /// A unit of a peer that was unknown when it arrived.
    pub(super) fn take_introduction(&mut self, from: NodeId, log: LogId, unit: Bytes) {
        let header = UnitHeader::parse(&unit).map(|(header, ..)| (header.to_log, header.workers));
        let (meant, workers) = header.unwrap_or_default();
        match self.dispatch.peers().hear(from, log, workers) {
            Some(is_first) => {
                if self.dispatch.may_be_meant(meant) {
                    self.dispatch.route(from, is_first, unit);
                }
                if meant != self.outboxes.log() {
                    self.take_question(from);
                }
            }
            None => {
                if self.introductions.waiting.len() < WAITING_MAX {
                    self.introductions.waiting.push((from, log, unit));
                }
                self.note();
            }
        }
    }

    /// A peer requests this node's log: any unit carries it in its header.
    pub(super) fn take_question(&mut self, from: NodeId) {
        self.look_up();
        let log = self.outboxes.latest_of(from).unwrap_or_default();
        self.outboxes.greet(from, log);
    }

    /// Refuses if a group of this worker has the node for an initial member; else passes the command to the
    /// next worker. After the last worker the first one records the peer's new log.
    pub(super) fn replace_peer(
        &mut self,
        peer: PeerNote,
        asked: u16,
        reply: oneshot::Sender<Result<(), ReplaceError>>,
    ) {
        let names =
            |group: &GroupId| self.replica(*group).is_some_and(|replica| replica.has_for_founder(peer.node));
        if asked < self.settings.workers {
            if let Some(group) = self.slots.keys().copied().filter(names).min() {
                let _caller_gone = reply.send(Err(ReplaceError::Member(group)));
                return;
            }
            let next = (usize::from(asked) + 1) % usize::from(self.settings.workers);
            return self.dispatch.order(next, Order::ReplacePeer { peer, asked: asked + 1, reply });
        }
        self.introductions.replacing.push((peer, reply));
        self.note();
    }

    /// The support that earlier incarnations gave has expired: from now on the recorded support may be
    /// shorter. On the first worker only. Tried once, since a later record holds the same, and a longer
    /// support is safe.
    pub(super) fn note_outwaited(&mut self) {
        let is_due = self.abstention.is_outwaited(self.now) && self.settings.worker == 0;
        if is_due && !std::mem::replace(&mut self.introductions.has_noted_support, true) {
            self.note();
        }
    }

    /// Writes the record of what is new, unless one is being written.
    fn note(&mut self) {
        let introductions = &mut self.introductions;
        if introductions.is_noting {
            return;
        }
        let known = self.dispatch.peers().list();
        let mut news: Vec<PeerNote> = Vec::new();
        let mut replaced = Vec::new();
        for (peer, reply) in introductions.replacing.drain(..) {
            news.retain(|note| note.node != peer.node);
            news.push(peer);
            replaced.push(reply);
        }
        for &(node, log, _) in &introductions.waiting {
            // Of two logs under one node id the first counts.
            if !news.iter().any(|note| note.node == node) {
                news.push(PeerNote { node, log });
            }
        }
        if news.is_empty() && !self.abstention.is_outwaited(self.now) {
            return;
        }
        introductions.is_noting = true;
        let mut list = news.clone();
        list.extend(known.into_iter().filter(|note| !news.iter().any(|new| new.node == note.node)));
        let support = self.abstention.worth_noting(self.now);
        let token = self.transfers.expect(Work::Note(Note { news, replaced, support }));
        self.lane.note(token, PeerNotes { peers: list, support });
    }

    /// A record is durable; or it failed, and then the known logs stay as they were.
    pub(super) fn noted(&mut self, note: Note, is_durable: bool) {
        self.introductions.is_noting = false;
        let peers = self.dispatch.peers();
        if is_durable {
            self.abstention.noted(note.support);
            note.news.iter().for_each(|note| peers.learn(note));
        }
        for reply in note.replaced {
            let _caller_gone = reply.send(if is_durable { Ok(()) } else { Err(ReplaceError::Disk) });
        }
        let waiting = std::mem::take(&mut self.introductions.waiting);
        if is_durable {
            for (from, log, unit) in waiting {
                self.take_introduction(from, log, unit);
            }
        } else {
            tracing::warn!(
                node = self.settings.node.0,
                "new peers could not be noted: they are not heard yet"
            );
        }
        if !self.introductions.replacing.is_empty() {
            self.note();
        }
    }
}
