//! Which log each peer had when this node first heard of it.
//!
//! A node that comes back under its id with another log has forgotten its votes and its entries, and does not know it. So
//! a node notes, durably, the first log that it hears a peer speak for, and is deaf to any other under that id until the
//! operator says that the peer has another one now ([`Engine::replace_peer`](crate::Engine::replace_peer)).
//!
//! What is not here: how it is noted (`worker::introductions`). A peer that was never heard is taken as it first comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use raftwerk_frame::{LogId, NodeId};
use raftwerk_wal::PeerNote;
use rustc_hash::FxHashMap;

/// What a peer is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has the log it always had.
    Known,
    /// It was never heard.
    New,
    /// It has another log than it had.
    Replaced,
}

#[derive(Clone, Copy)]
struct Peer {
    log: LogId,
    /// The last other log that was heard under its id.
    stranger: Option<LogId>,
}

/// The table, shared by the net thread, which looks, and the worker that notes.
#[derive(Default)]
pub(crate) struct Peers {
    known: RwLock<FxHashMap<NodeId, Peer>>,
    refused: AtomicU64,
}

impl Peers {
    pub(crate) fn new(noted: &[PeerNote]) -> Self {
        let peers = Self::default();
        noted.iter().for_each(|note| peers.learn(note));
        peers
    }

    /// Who it is that speaks. Counts, and tells once, whom it refuses.
    pub(crate) fn standing(&self, node: NodeId, log: LogId) -> Standing {
        let known = self.read().get(&node).copied();
        match known {
            None => Standing::New,
            Some(peer) if peer.log == log => Standing::Known,
            Some(peer) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                if peer.stranger != Some(log) {
                    tracing::error!(%node, had = %peer.log, has = %log, "a peer has lost its log: it is not heard");
                    self.write().insert(node, Peer { stranger: Some(log), ..peer });
                }
                Standing::Replaced
            }
        }
    }

    /// It is noted durably: from now on it is so.
    pub(crate) fn learn(&self, note: &PeerNote) {
        self.write().insert(note.node, Peer { log: note.log, stranger: None });
    }

    /// All that is noted, by number.
    pub(crate) fn list(&self) -> Vec<PeerNote> {
        let note = |(node, peer): (&NodeId, &Peer)| PeerNote { node: *node, log: peer.log };
        let mut list: Vec<PeerNote> = self.read().iter().map(note).collect();
        list.sort_unstable();
        list
    }

    /// Units that were refused because their sender has another log than it had.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    // Every change under the lock is complete at each step, so a poisoned one is as good as any.
    fn read(&self) -> RwLockReadGuard<'_, FxHashMap<NodeId, Peer>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, FxHashMap<NodeId, Peer>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}
