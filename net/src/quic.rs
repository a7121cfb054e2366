//! IMPURE: [`QuicTransport`], the transport over QUIC: its thread, its event loop, its table of peers.
//!
//! One thread named `raftwerk-net` per transport runs everything that touches the socket. Senders only push
//! into outboxes. Next: `net.rs` (the shared state), `endpoint.rs` (the socket), `admission.rs` (incoming
//! connections), `dial.rs` (dialling peers), `session.rs` (one connection's streams), `wake.rs` (how senders
//! wake the thread).
mod admission;
mod backoff;
mod close;
mod credentials;
mod dial;
mod endpoint;
mod net;
mod peer;
mod session;
mod settings;
mod throttle;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc;

use self::admission::Admission;
use self::close::CloseCode;
use self::credentials::{Credentials, RENEW_WITHIN_SECONDS};
use self::net::Net;
pub use self::peer::PeerError;
use self::peer::{NO_EPOCH, Peer};
use crate::config::QuicConfig;
use crate::environment::Environment;
use crate::error::NetError;
use crate::identity::Identity;
use crate::stats::{NetStats, add};
use crate::transport::{Channel, Parts, PeerId, Receive, SendError, Transport};
use crate::wake::Wake;

/// How long a shutdown waits for the close frames to be sent.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Messages between nodes over QUIC. Share it in an [`Arc`]; dropping it is [`QuicTransport::shutdown`].
pub struct QuicTransport {
    net: Arc<Net>,
    commands: mpsc::UnboundedSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    local: SocketAddr,
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
        let net = Net::new(config, endpoint, environment, admission, credentials, receive, wake);
        let net = Arc::new(net);
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
        self.net.peers().values().map(|peer| peer.queued_bytes()).sum()
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
        net.set_credentials(credentials);
        let credentials = net.credentials();
        for peer in net.peers().values() {
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
        if let Some(connection) = self.net.remove_peer(peer).and_then(|peer| peer.remove()) {
            CloseCode::Unwanted.close(&connection);
        }
    }

    /// Closes the connections with notice to the peers, ends the net thread and waits for it; at most about a
    /// second. Nothing is received afterwards. May be called more than once; from within a [`Receive`] call
    /// it does not wait.
    pub fn shutdown(&self) {
        self.net.stop();
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
        let peers = self.net.peers();
        let peer = peers.get(&to).ok_or(SendError::UnknownPeer)?;
        let outbox = peer.outbox(slot);
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
        match self.net.add_peer(peer, address) {
            // An error means shutdown: no peer is dialled any more.
            Some(added) if self.net.config.node < peer => drop(self.commands.send(Command::Dial(added))),
            Some(_) => {}
            None => self.set_address(peer, address),
        }
    }

    fn set_address(&self, peer: PeerId, address: SocketAddr) {
        let Some(peer) = self.net.peer(peer) else { return };
        let connection = peer.set_address(address);
        self.net.on_address_change();
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
    for peer in net.peers().values() {
        net.retire(peer, peer.epoch());
    }
}
