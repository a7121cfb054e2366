//! The state of a transport that senders and the net thread's tasks share.
//!
//! What is not here: the tasks (`endpoint.rs`, `dial.rs`, `session.rs`), the thread (`quic.rs`).
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::lock;
use crate::config::QuicConfig;
use crate::environment::{self, Environment};
use crate::message::WireVersion;
use crate::message::slabs::Slabs;
use crate::quic::admission::Admission;
use crate::quic::close::CloseCode;
use crate::quic::credentials::Credentials;
use crate::quic::peer::{Earlier, NO_EPOCH, Peer, PeerError};
use crate::quic::throttle::{LogKind, LogThrottles};
use crate::stats::{Counters, add};
use crate::transport::{PeerId, Receive};
use crate::wake::Wake;

/// The known peers.
pub(crate) type Peers = FxHashMap<PeerId, Arc<Peer>>;

/// State shared by the net thread's tasks and the senders.
pub(crate) struct Net {
    pub(crate) config: QuicConfig,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) receive: Arc<dyn Receive>,
    pub(crate) counters: Counters,
    /// Memory of long messages.
    pub(crate) slabs: Arc<Slabs>,
    pub(crate) wake: Arc<Wake>,
    /// Different for every transport, unless its environment fixes it.
    pub(crate) seed: u64,
    runtime: Arc<dyn quinn::Runtime>,
    pub(crate) admission: Arc<Admission>,
    credentials: ArcSwap<Credentials>,
    log_throttles: Mutex<LogThrottles>,
    peers: ArcSwap<Peers>,
    /// Held while the table of peers, or of their addresses, is replaced.
    membership: Mutex<()>,
    epochs: AtomicU64,
    stopping: AtomicBool,
    /// Notified when the identity was replaced.
    pub(crate) identity_replaced: Notify,
}

impl Net {
    /// Without peers and connections.
    pub(crate) fn new(
        config: QuicConfig,
        endpoint: quinn::Endpoint,
        environment: Environment,
        admission: Arc<Admission>,
        credentials: Credentials,
        receive: Arc<dyn Receive>,
        wake: Arc<Wake>,
    ) -> Self {
        Self {
            endpoint,
            receive,
            counters: Counters::default(),
            slabs: Arc::default(),
            wake,
            seed: environment.seed,
            admission,
            runtime: environment.runtime,
            credentials: ArcSwap::from_pointee(credentials),
            log_throttles: Mutex::default(),
            peers: ArcSwap::default(),
            membership: Mutex::new(()),
            epochs: AtomicU64::new(NO_EPOCH),
            stopping: AtomicBool::new(false),
            identity_replaced: Notify::new(),
            config,
        }
    }

    /// The known peers at present.
    pub(crate) fn peers(&self) -> Guard<Arc<Peers>> {
        self.peers.load()
    }

    /// Adds a peer; `None` if it is known already, or this node.
    pub(crate) fn add_peer(&self, peer: PeerId, address: SocketAddr) -> Option<Arc<Peer>> {
        let _membership = self.membership();
        let peers = self.peers.load();
        if peers.contains_key(&peer) || peer == self.config.node {
            return None;
        }
        let added = Arc::new(Peer::new(peer, address, &self.config));
        let mut peers = Peers::clone(&peers);
        peers.insert(peer, Arc::clone(&added));
        self.peers.store(Arc::new(peers));
        self.update_known_addresses();
        Some(added)
    }

    /// Removes a known peer.
    pub(crate) fn remove_peer(&self, peer: PeerId) -> Option<Arc<Peer>> {
        let _membership = self.membership();
        let mut peers = Peers::clone(&self.peers.load());
        let removed = peers.remove(&peer);
        self.peers.store(Arc::new(peers));
        self.update_known_addresses();
        removed
    }

    /// The address of a peer has changed.
    pub(crate) fn on_address_change(&self) {
        let _membership = self.membership();
        self.update_known_addresses();
    }

    /// Marks the transport as shutting down.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Replaces the certificates that this node presents and trusts.
    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        self.credentials.store(Arc::new(credentials));
    }

    /// A known peer.
    pub(crate) fn peer(&self, id: PeerId) -> Option<Arc<Peer>> {
        self.peers.load().get(&id).cloned()
    }

    /// Whether the transport is shutting down.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// On the net thread: makes a connection the current one in place of any earlier one and notifies the
    /// receiver. Returns its epoch, or `None` if the peer has been removed.
    pub(crate) fn install(&self, peer: &Peer, connection: &quinn::Connection) -> Option<u64> {
        if let Some(old) = self.retire(peer, peer.epoch()) {
            CloseCode::Replaced.close(&old);
        }
        let epoch = self.epochs.fetch_add(1, Ordering::Relaxed) + 1;
        let again = peer.install(connection, epoch)? == Earlier::Connection;
        if !self.admission.is_peer(connection.remote_address()) {
            self.on_address_change();
        }
        add(&self.counters.connections, 1);
        add(&self.counters.reconnects, u64::from(again));
        tracing::info!(peer = %peer.id, remote = %connection.remote_address(), again, "connected");
        self.receive.connected(peer.id);
        Some(epoch)
    }

    /// On the net thread: retires the connection of an epoch, drops the messages queued for it and
    /// notifies the receiver. `None` if it was not the current one (any more).
    pub(crate) fn retire(&self, peer: &Peer, epoch: u64) -> Option<quinn::Connection> {
        let connection = peer.retire(epoch)?;
        add(&self.counters.dropped_disconnected, peer.clear_outboxes());
        tracing::info!(peer = %peer.id, "disconnected");
        self.receive.disconnected(peer.id);
        Some(connection)
    }

    /// Nanoseconds since the transport was started, by the clock of its environment.
    pub(crate) fn now(&self) -> u64 {
        self.admission.now()
    }

    /// The wire version of this node.
    pub(crate) fn version(&self) -> WireVersion {
        WireVersion::with_messages(self.config.messages_version)
    }

    /// The certificates that it presents and trusts.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.credentials.load_full()
    }

    /// Whether to write a log line of a kind now, and how many of that kind were suppressed.
    pub(crate) fn log_permit(&self, kind: LogKind) -> Option<u64> {
        lock(&self.log_throttles).pass(kind, self.now())
    }

    /// A connection with a peer has ended, or has not come about.
    pub(crate) fn on_failure(&self, peer: &Peer, error: PeerError) {
        self.count_error(&error);
        let has_ended = matches!(error, PeerError::Expired(_));
        peer.on_failure(self.now(), error);
        if has_ended {
            self.receive.certificate_ended(peer.id);
        }
    }

    /// Counts the errors that an operator has to act on.
    pub(crate) fn count_error(&self, error: &PeerError) {
        add(&self.counters.versions_refused, u64::from(error.is_version()));
        add(&self.counters.certificates_expired, u64::from(error.is_expiry()));
    }

    /// Updates admission's addresses of peers; to be called with the membership lock held.
    fn update_known_addresses(&self) {
        let peers = self.peers.load();
        self.admission.set_peer_addresses(peers.values().flat_map(|peer| peer.addresses()));
    }

    /// On the net thread: starts a task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(Box::pin(task));
    }

    /// Waits for a future for at most `limit`.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        environment::within(&*self.runtime, limit, future).await
    }

    fn membership(&self) -> MutexGuard<'_, ()> {
        lock(&self.membership)
    }
}
