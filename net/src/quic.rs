//! IMPURE: [`QuicTransport`], the transport over QUIC: its thread, its event loop, its table of peers.
//!
//! One thread named `raftwerk-net` per transport runs everything that touches the socket. Senders only push
//! into outboxes. Next: `endpoint.rs` (socket, admission), `dial.rs` (dialling peers),
//! `session.rs` (one connection's streams), `wake.rs` (how senders wake the thread).
pub(crate) mod admission;
mod backoff;
mod credentials;
mod dial;
mod endpoint;
mod peer;
mod session;
mod throttle;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc};

use self::credentials::{Credentials, RENEW_WITHIN_SECONDS};
use self::endpoint::{Admission, CloseCode, LogKind, LogThrottles};
pub use self::peer::PeerError;
use self::peer::{NO_EPOCH, Peer};
use crate::config::QuicConfig;
use crate::environment::{self, Environment};
use crate::error::NetError;
use crate::identity::Identity;
use crate::message::WireVersion;
use crate::stats::{Counters, NetStats, add};
use crate::transport::{Channel, Parts, PeerId, Receive, SendError, Transport};
use crate::wake::Wake;

/// How long a shutdown waits for the close frames to be sent.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

type Peers = FxHashMap<PeerId, Arc<Peer>>;

/// Messages between nodes over QUIC. Share it in an [`Arc`]; dropping it is [`QuicTransport::shutdown`].
pub struct QuicTransport {
    net: Arc<Net>,
    commands: mpsc::UnboundedSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    local: SocketAddr,
}

/// State shared by the net thread's tasks and the senders.
pub(crate) struct Net {
    pub(crate) config: QuicConfig,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) receive: Arc<dyn Receive>,
    pub(crate) counters: Counters,
    pub(crate) wake: Arc<Wake>,
    /// Different for every transport, unless its ground fixes it.
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
    identity_replaced: Notify,
}

/// Commands from any thread to the net thread's main task.
enum Command {
    Dial(Arc<Peer>),
    Stop,
}

impl QuicTransport {
    /// Opens the socket and starts the net thread. Peers with a higher id than this node's are dialled at
    /// once, the others are expected to dial. Further peers may be added later.
    ///
    /// # Errors
    /// [`NetError`]: the configuration or the certificates are invalid, the socket cannot be opened, or the
    /// thread not started.
    pub fn start(
        config: QuicConfig,
        peers: Vec<(PeerId, SocketAddr)>,
        receive: Arc<dyn Receive>,
    ) -> Result<Self, NetError> {
        config.check()?;
        let wake = Arc::new(Wake::default());
        let runtime = runtime(&wake)?;
        let (transport, inbox) = {
            let _inside = runtime.enter();
            let environment = endpoint::environment(&config, &wake)?;
            Self::new(config, receive, environment, wake, None)?
        };
        let shared = Arc::clone(&transport.net);
        let thread = thread::Builder::new()
            .name("raftwerk-net".to_owned())
            .spawn(move || runtime.block_on(serve(shared, inbox)))
            .map_err(NetError::Thread)?;
        *transport.thread() = Some(thread);
        transport.add_peers(peers);
        Ok(transport)
    }

    /// The same in the caller's environment, without a thread: everything runs in tasks of the given runtime,
    /// one at a time. A shutdown does not wait for them.
    ///
    /// # Errors
    /// [`NetError`]: the configuration or the certificates are invalid.
    pub fn start_on(
        environment: Environment,
        config: QuicConfig,
        peers: Vec<(PeerId, SocketAddr)>,
        receive: Arc<dyn Receive>,
    ) -> Result<Self, NetError> {
        config.check()?;
        let runtime = Arc::clone(&environment.runtime);
        let seed = environment.seed;
        let (transport, inbox) = Self::new(config, receive, environment, Arc::default(), Some(seed))?;
        runtime.spawn(Box::pin(serve(Arc::clone(&transport.net), inbox)));
        transport.add_peers(peers);
        Ok(transport)
    }

    fn new(
        config: QuicConfig,
        receive: Arc<dyn Receive>,
        environment: Environment,
        wake: Arc<Wake>,
        quic_seed: Option<u64>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Command>), NetError> {
        let (credentials, server) = Credentials::new(&config, &config.identity)?;
        let admission = Arc::new(Admission::new(&config, &environment));
        let endpoint = endpoint::open(&config, server, &environment, &admission, quic_seed)?;
        let local =
            endpoint.local_addr().map_err(|source| NetError::Listen { address: config.listen, source })?;
        let net = Arc::new(Net {
            endpoint,
            receive,
            counters: Counters::default(),
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
        });
        let (commands, inbox) = mpsc::unbounded_channel();
        Ok((Self { net, commands, thread: Mutex::new(None), local }, inbox))
    }

    fn add_peers(&self, peers: Vec<(PeerId, SocketAddr)>) {
        for (peer, address) in peers {
            self.add_peer(peer, address);
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        lock(&self.thread)
    }

    /// The address in use, with the port the system chose if the configuration left it open.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The counters so far.
    pub fn stats(&self) -> NetStats {
        let mut stats = self.net.counters.snapshot();
        let [for_address, for_rate] = self.net.admission.dropped();
        stats.address_refused += for_address;
        stats.rate_refused += for_rate;
        stats
    }

    /// Bytes of memory in messages that are queued for connections, or are being written to them, over all
    /// peers; bounded, for each peer and channel, by [`QuicConfig::queue_bytes_max`]. Costs a visit of every
    /// peer.
    pub fn queued_bytes(&self) -> u64 {
        let peers = self.net.peers.load();
        peers.values().map(|peer| peer.queued_bytes()).sum()
    }

    /// Whether messages for the peer would be queued at present.
    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.net.peer(peer).is_some_and(|peer| peer.epoch() != NO_EPOCH)
    }

    /// Why a known peer is not connected, if an attempt has failed or a connection was lost: for an operator
    /// to act on. `None` while it is connected, and before the first attempt.
    pub fn peer_error(&self, peer: PeerId) -> Option<PeerError> {
        self.net.peer(peer).and_then(|peer| peer.error())
    }

    /// Replaces this node's certificate, key and roots while it runs. Later handshakes use the new ones.
    /// Existing connections continue, except those whose peer's certificate the new roots do not vouch for,
    /// or that has expired meanwhile: they are closed at once, and dialled anew. Costs one verification per
    /// peer, and does not block.
    ///
    /// After a rotation of keys and a subsequent restart, peers detect the loss of the old connection by its
    /// idle timeout instead of at their next packet, once.
    ///
    /// # Errors
    /// [`NetError`]: the identity is of another node or cluster, or its parts do not match; nothing changed.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), NetError> {
        let net = &self.net;
        let (credentials, server) = Credentials::new(&net.config, identity)?;
        net.endpoint.set_server_config(Some(server));
        net.credentials.store(Arc::new(credentials));
        let credentials = net.credentials();
        for peer in net.peers.load().values() {
            let Some(connection) = peer.connection() else { continue };
            if let Err(error) = credentials.verify_again(&connection, &net.config.wall_clock) {
                tracing::warn!(peer = %peer.id, %error, "its certificate holds no more: connection closed");
                CloseCode::Expired.close(&connection);
            }
        }
        tracing::info!(not_after = identity.not_after(), "another identity");
        net.identity_replaced.notify_one();
        Ok(())
    }

    /// Makes a node an unknown peer: its connection is closed and no new one is made or accepted, until
    /// [`Transport::add_peer`] names it again.
    pub fn remove_peer(&self, peer: PeerId) {
        let removed = {
            let _membership = self.net.membership();
            let mut peers = Peers::clone(&self.net.peers.load());
            let removed = peers.remove(&peer);
            self.net.peers.store(Arc::new(peers));
            self.net.update_known_addresses();
            removed
        };
        if let Some(connection) = removed.and_then(|peer| peer.remove()) {
            CloseCode::Unwanted.close(&connection);
        }
    }

    /// Closes the connections with notice to the peers, ends the net thread and waits for it; at most about a
    /// second. Nothing is received afterwards. May be called more than once; from within a [`Receive`] call
    /// it does not wait.
    pub fn shutdown(&self) {
        self.net.stopping.store(true, Ordering::Release);
        // An error means that the thread has ended already.
        let _ = self.commands.send(Command::Stop);
        let thread = self.thread().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the net thread panicked");
        }
    }
}

impl Transport for QuicTransport {
    fn send(&self, to: PeerId, channel: Channel, parts: Parts) -> Result<(), SendError> {
        let slot = channel.slot().ok_or(SendError::UnknownChannel)?;
        let peers = self.net.peers.load();
        let peer = peers.get(&to).ok_or(SendError::UnknownPeer)?;
        let outbox = &peer.outboxes[slot];
        let sent = match peer.epoch() {
            NO_EPOCH => Err(SendError::Closed),
            epoch => outbox.push(epoch, parts),
        };
        match sent {
            Ok(()) if outbox.needs_listing() => self.net.wake.list(outbox),
            Err(SendError::Full) => add(&self.net.counters.dropped_full, 1),
            Err(SendError::Closed) => add(&self.net.counters.dropped_disconnected, 1),
            _ => {}
        }
        sent
    }

    fn flush(&self) {
        if self.net.wake.flush() {
            add(&self.net.counters.wake_ups, 1);
        }
    }

    fn add_peer(&self, peer: PeerId, address: SocketAddr) {
        let added = {
            let _membership = self.net.membership();
            let peers = self.net.peers.load();
            if peers.contains_key(&peer) || peer == self.net.config.node {
                None
            } else {
                let added = Arc::new(Peer::new(peer, address, &self.net.config));
                let mut peers = Peers::clone(&peers);
                peers.insert(peer, Arc::clone(&added));
                self.net.peers.store(Arc::new(peers));
                self.net.update_known_addresses();
                Some(added)
            }
        };
        match added {
            // An error means shutdown: no peer is dialled any more.
            Some(added) if self.net.config.node < peer => drop(self.commands.send(Command::Dial(added))),
            Some(_) => {}
            None => self.set_address(peer, address),
        }
    }

    fn set_address(&self, peer: PeerId, address: SocketAddr) {
        let Some(peer) = self.net.peer(peer) else { return };
        let connection = peer.set_address(address);
        {
            let _membership = self.net.membership();
            self.net.update_known_addresses();
        }
        if let Some(connection) = connection {
            CloseCode::Moved.close(&connection);
        }
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicTransport")
            .field("node", &self.net.config.node)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl Net {
    /// A known peer.
    pub(crate) fn peer(&self, id: PeerId) -> Option<Arc<Peer>> {
        self.peers.load().get(&id).cloned()
    }

    /// Whether the transport is shutting down.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// On the net thread: puts a connection in force in place of any earlier one and notifies the receiver.
    /// Returns its epoch, or `None` if the peer has been removed.
    pub(crate) fn install(&self, peer: &Peer, connection: &quinn::Connection) -> Option<u64> {
        if let Some(old) = self.retire(peer, peer.epoch()) {
            CloseCode::Replaced.close(&old);
        }
        let epoch = self.epochs.fetch_add(1, Ordering::Relaxed) + 1;
        let again = peer.install(connection, epoch)?;
        if !self.admission.known.load().is_peer(connection.remote_address()) {
            let _membership = self.membership();
            self.update_known_addresses();
        }
        add(&self.counters.connections, 1);
        add(&self.counters.reconnects, u64::from(again));
        tracing::info!(peer = %peer.id, remote = %connection.remote_address(), again, "connected");
        self.receive.connected(peer.id);
        Some(epoch)
    }

    /// On the net thread: takes the connection of an epoch out of force, drops what is queued for it and
    /// notifies the receiver. `None` if it was not in force (any more).
    pub(crate) fn retire(&self, peer: &Peer, epoch: u64) -> Option<quinn::Connection> {
        let connection = peer.retire(epoch)?;
        add(&self.counters.dropped_disconnected, peer.clear_outboxes());
        tracing::info!(peer = %peer.id, "disconnected");
        self.receive.disconnected(peer.id);
        Some(connection)
    }

    /// Nanoseconds since the transport was started, by its ground's clock.
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
    pub(crate) fn failed(&self, peer: &Peer, error: PeerError) {
        self.count(&error);
        let has_ended = matches!(error, PeerError::Expired(_));
        peer.failed(self.now(), error);
        if has_ended {
            self.receive.certificate_ended(peer.id);
        }
    }

    /// Counts the errors that an operator has to act on.
    pub(crate) fn count(&self, error: &PeerError) {
        add(&self.counters.versions_refused, u64::from(error.is_version()));
        add(&self.counters.certificates_expired, u64::from(error.is_expiry()));
    }

    /// Updates the gate's addresses of peers; to be called with the membership lock held.
    fn update_known_addresses(&self) {
        let peers = self.peers.load();
        self.admission.known.store(Arc::new(peers.values().flat_map(|peer| peer.addresses()).collect()));
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

/// Every change under one of the locks here is complete at each step, so a poisoned lock is usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime(wake: &Arc<Wake>) -> Result<tokio::runtime::Runtime, NetError> {
    let (before, after) = (Arc::clone(wake), Arc::clone(wake));
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(move || before.before_sleep())
        .on_thread_unpark(move || after.after_sleep())
        .build()
        .map_err(NetError::Thread)
}

/// Warns before this node's certificate ends, once a day, and when it has ended.
async fn watch_own_certificate(net: Arc<Net>) {
    loop {
        let left = net.credentials().seconds_left(&net.config.wall_clock);
        let days = left.div_euclid(24 * 60 * 60);
        net.receive.own_certificate((left < RENEW_WITHIN_SECONDS).then_some(left));
        if left <= 0 {
            tracing::error!(
                "this node's certificate has expired: no peer accepts it; give it another identity"
            );
        } else if left < RENEW_WITHIN_SECONDS {
            tracing::warn!(days, "this node's certificate ends soon: give it another identity");
        }
        let _ = net.within(credentials::next_expiry_check(left), net.identity_replaced.notified()).await;
    }
}

/// The net thread's main task: starts the others, executes commands, closes the connections at the end.
async fn serve(net: Arc<Net>, mut commands: mpsc::UnboundedReceiver<Command>) {
    net.spawn(Arc::clone(&net.wake).serve_wakeups());
    net.spawn(endpoint::accept(Arc::clone(&net)));
    net.spawn(watch_own_certificate(Arc::clone(&net)));
    while let Some(Command::Dial(peer)) = commands.recv().await {
        net.spawn(dial::keep_connected(Arc::clone(&net), peer));
    }
    net.endpoint.close(CloseCode::Shutdown.into(), b"shutdown");
    let _ = net.within(CLOSE_WAIT_MAX, net.endpoint.wait_idle()).await;
    for peer in net.peers.load().values() {
        net.retire(peer, peer.epoch());
    }
}
