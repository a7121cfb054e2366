//! Which logs each peer was heard with: the first one, which is noted durably, and the latest.
//!
//! A node that comes back under its id with another log has forgotten its votes and its entries, and does not know it. Which
//! log takes part in a group is what the group's configuration says; of its first voters it says nothing, and means the one
//! that was first heard. So a node notes, durably, the first log that it hears a peer speak for, before anything that it says
//! counts. The latest is what a peer is added to a group with, and where messages go that may be for whoever it is now.
//!
//! What is not here: how it is noted (`worker::introductions`), who is heard by which group (`raftwerk_raft::Group::hears`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use raftwerk_frame::{LogId, NodeId};
use raftwerk_wal::PeerNote;
use rustc_hash::FxHashMap;

use crate::config::LANES_MAX;

/// The logs of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerLogs {
    /// As noted.
    pub(crate) first: LogId,
    /// As heard last.
    pub(crate) latest: LogId,
    /// How many workers speak for that one; 0 if nobody knows yet.
    pub(crate) workers: u16,
    /// It was heard since it was last out of reach. Whoever was not may have lost its disk meanwhile.
    pub(crate) is_here: bool,
}

/// The table, shared by the net thread, which looks, and the workers.
#[derive(Default)]
pub(crate) struct Peers {
    known: RwLock<FxHashMap<NodeId, PeerLogs>>,
    /// Counts up with every change.
    version: AtomicU64,
    refused: AtomicU64,
}

impl Peers {
    pub(crate) fn new(noted: &[PeerNote]) -> Self {
        let peers = Self::default();
        for note in noted {
            peers.learn(note);
            peers.gone(note.node);
        }
        peers
    }

    /// A worker of so many speaks for a peer's log: whether it is its first. `None` if the peer was never heard.
    pub(crate) fn hear(&self, node: NodeId, log: LogId, workers: u16) -> Option<bool> {
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

    /// It is noted durably: from now on it is so.
    pub(crate) fn learn(&self, note: &PeerNote) {
        self.write()
            .insert(note.node, PeerLogs { first: note.log, latest: note.log, workers: 0, is_here: true });
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The connection to a peer broke.
    pub(crate) fn gone(&self, node: NodeId) {
        if let Some(peer) = self.write().get_mut(&node) {
            peer.is_here = false;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// All that is noted, by number.
    pub(crate) fn list(&self) -> Vec<PeerNote> {
        let note = |(node, peer): (&NodeId, &PeerLogs)| PeerNote { node: *node, log: peer.first };
        let mut list: Vec<PeerNote> = self.read().iter().map(note).collect();
        list.sort_unstable();
        list
    }

    /// Copies the table, if it has changed since `version`; gives its version.
    pub(crate) fn copy_since(&self, version: u64, to: &mut FxHashMap<NodeId, PeerLogs>) -> u64 {
        let now = self.version.load(Ordering::Acquire);
        if now != version {
            to.clone_from(&self.read());
        }
        now
    }

    /// A unit, or a part of it, was dropped because of the log that speaks or the one that is meant.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    // Every change under the lock is complete at each step, so a poisoned one is as good as any.
    fn read(&self) -> RwLockReadGuard<'_, FxHashMap<NodeId, PeerLogs>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, FxHashMap<NodeId, PeerLogs>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}
