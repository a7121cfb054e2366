//! Peers that this node hears for the first time: which log they have is noted before anything they say counts.
//!
//! The first worker does this for all. What they say meanwhile waits, a little of it.

use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::wire::UnitHeader;
use raftwerk_frame::{GroupId, LogId, NodeId};
use raftwerk_wal::{Disk, Notes, PeerNote};
use tokio::sync::oneshot;

use super::Worker;
use super::snapshots::Work;
use crate::error::ReplaceError;
use crate::inbox::Order;

/// Units that wait for their senders to be noted; what comes beyond is lost, as on any network.
const WAITING_MAX: usize = 64;

/// What is to be noted next, and who waits for it.
#[derive(Default)]
pub(super) struct Introductions {
    waiting: Vec<(NodeId, LogId, Bytes)>,
    replacing: Vec<(PeerNote, oneshot::Sender<Result<(), ReplaceError>>)>,
    is_noting: bool,
    /// That earlier support is over was to be noted.
    has_noted_support: bool,
}

/// What a note on its way to the disk says that was not known, and who waits for it.
pub(super) struct Note {
    news: Vec<PeerNote>,
    support: Duration,
    replaced: Vec<oneshot::Sender<Result<(), ReplaceError>>>,
}

impl<D: Disk> Worker<D> {
    /// A unit of somebody who was not known when it came.
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

    /// A peer wants to know which log this node has: any unit tells it.
    pub(super) fn take_question(&mut self, from: NodeId) {
        self.look_up();
        let log = self.outboxes.latest_of(from).unwrap_or_default();
        self.outboxes.greet(from, log);
    }

    /// Whether a group of this worker has the node for a first voter; if not, the next worker is asked, and at last the first one
    /// notes its new log.
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

    /// The support that earlier lives promised is over: what is noted of it may be shorter from now on. Of the first worker
    /// only; tried once, since a later note says the same, and a longer one is safe.
    pub(super) fn note_outwaited(&mut self) {
        let is_due = self.abstention.is_outwaited(self.now) && self.settings.worker == 0;
        if is_due && !std::mem::replace(&mut self.introductions.has_noted_support, true) {
            self.note();
        }
    }

    /// Writes down what is new, unless that is being done.
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
            // Of two logs under one id the first counts.
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
        self.lane.note(token, Notes { peers: list, support });
    }

    /// A note is durable, or it failed; then nothing is known that was not known before.
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
