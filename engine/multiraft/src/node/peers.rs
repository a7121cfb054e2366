//! The logs of each peer: the first one seen, which is recorded durably, and the latest.
//!
//! A node that restarts under its id with another log has lost its votes and its entries, and cannot detect
//! that itself. A group's configuration names the log with which each replica takes part; for the initial
//! members it names none, and means the first log seen of that node. So a node records, durably, the first
//! log that a peer sends with, before it acts on any of the peer's messages. The latest log is the one with
//! which a peer is added to a group, and to which messages are addressed that are for the peer's present
//! incarnation.
//!
//! What is not here: recording (`worker::liveness::handshakes`), and which senders a group accepts
//! (`raftwerk_raft::Group::accepts`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use raftwerk_frame::{LogId, NodeId};
use raftwerk_wal::PeerNote;
use rustc_hash::FxHashMap;

use crate::node::placement::LANES_MAX;

/// The logs of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerLogs {
    /// As recorded.
    pub(crate) first: LogId,
    /// The one last received from.
    pub(crate) latest: LogId,
    /// The number of workers of that one; 0 if it is not known.
    pub(crate) workers: u16,
    /// A unit was received from it since its connection was last lost. Otherwise it may have lost its disk
    /// meanwhile.
    pub(crate) is_here: bool,
}

/// The table, shared by the net thread, which reads it, and the workers.
#[derive(Default)]
pub(crate) struct Peers {
    known: RwLock<FxHashMap<NodeId, PeerLogs>>,
    /// Incremented with every change.
    version: AtomicU64,
    refused: AtomicU64,
}

impl Peers {
    pub(crate) fn new(noted: &[PeerNote]) -> Self {
        let peers = Self::default();
        for note in noted {
            peers.record(note);
            peers.on_disconnected(note.node);
        }
        peers
    }

    /// A unit came from a worker, one of `workers`, of a peer with this log. Returns whether the log is the
    /// peer's first; `None` if the peer has no recorded log.
    pub(crate) fn on_unit(&self, node: NodeId, log: LogId, workers: u16) -> Option<bool> {
        let peer = self.read().get(&node).copied()?;
        if peer.latest != log {
            tracing::warn!(%node, had = %peer.latest, has = %log, "a peer has another log");
        }
        let workers = if usize::from(workers) > LANES_MAX { 0 } else { workers };
        if peer.latest != log || !peer.is_here || peer.workers != workers {
            self.write().insert(node, PeerLogs { latest: log, workers, is_here: true, ..peer });
            self.version.fetch_add(1, Ordering::Release);
        }
        Some(peer.first == log)
    }

    /// The peer's log is recorded durably; from now on the table holds it as the first one.
    pub(crate) fn record(&self, note: &PeerNote) {
        self.write()
            .insert(note.node, PeerLogs { first: note.log, latest: note.log, workers: 0, is_here: true });
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The connection to a peer broke.
    pub(crate) fn on_disconnected(&self, node: NodeId) {
        if let Some(peer) = self.write().get_mut(&node) {
            peer.is_here = false;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// All recorded peers, by id.
    pub(crate) fn list(&self) -> Vec<PeerNote> {
        let note = |(node, peer): (&NodeId, &PeerLogs)| PeerNote { node: *node, log: peer.first };
        let mut list: Vec<PeerNote> = self.read().iter().map(note).collect();
        list.sort_unstable();
        list
    }

    /// Copies the table, if it has changed since `version`; returns its version.
    pub(crate) fn copy_since(&self, version: u64, to: &mut FxHashMap<NodeId, PeerLogs>) -> u64 {
        let now = self.version.load(Ordering::Acquire);
        if now != version {
            to.clone_from(&self.read());
        }
        now
    }

    /// Counts a unit, or a part of it, that was dropped because of its sender's log or the log it was
    /// addressed to.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of those dropped.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    // Every change under the lock is complete at each step, so a poisoned lock is usable.
    fn read(&self) -> RwLockReadGuard<'_, FxHashMap<NodeId, PeerLogs>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, FxHashMap<NodeId, PeerLogs>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}
