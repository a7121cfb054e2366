//! IMPURE: the UDP socket, quinn's settings, and admission of incoming connections.
//!
//! An unknown sender costs a bounded number of half-open connections for a bounded time and gets no
//! information. What is not here: connecting to others (`dial.rs`), an admitted connection
//! (`session.rs`).
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, AsyncTimer, AsyncUdpSocket, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime,
    TokioRuntime, TransportConfig, VarInt, congestion,
};
use rustls::pki_types::PrivateKeyDer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Notify;

use crate::config::QuicConfig;
use crate::environment::Environment;
use crate::error::NetError;
use crate::identity::node_of;
use crate::quic::admission::filter::{FilteredSocket, InitialFilter};
use crate::quic::admission::policy::{AdmissionPolicy, Decision, HandshakeOutcome, KnownAddresses, Refusal};
use crate::quic::credentials;
use crate::quic::peer::{Peer, PeerError};
use crate::quic::session;
use crate::quic::throttle::Throttle;
use crate::quic::{Net, lock};
use crate::stats::add;
use crate::transport::{Channel, PeerId};
use crate::wake::Wake;

/// The maximum of first packets queued for the gate, which judges them within a turn of the net thread.
const INCOMING_MAX: usize = 1024;

/// Why this node closes a connection, as the peer's log will show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CloseCode {
    Shutdown,
    Replaced,
    Stranger,
    Protocol,
    Stalled,
    Moved,
    Unwanted,
    NotReady,
    /// The other side has another wire version; the close reason carries this node's.
    Version,
    /// The other side's certificate has expired, or is no longer trusted.
    Expired,
}

impl CloseCode {
    /// Closes a connection for this reason.
    pub(crate) fn close(self, connection: &quinn::Connection) {
        self.close_with_reason(connection, &format!("{self:?}"));
    }

    /// The same with a reason for the other side to read.
    pub(crate) fn close_with_reason(self, connection: &quinn::Connection, reason: &str) {
        connection.close(self.into(), reason.as_bytes());
    }
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        VarInt::from_u32(code as u32)
    }
}

/// The system's socket under tokio; to be called inside the net thread's runtime.
///
/// # Errors
/// [`NetError::Listen`].
pub(crate) fn environment(config: &QuicConfig, wake: &Arc<Wake>) -> Result<Environment, NetError> {
    let runtime = Arc::new(WatchedRuntime { wake: Arc::clone(wake) });
    let socket = socket(config).and_then(|socket| runtime.wrap_udp_socket(socket));
    let socket = socket.map_err(|source| NetError::Listen { address: config.listen, source })?;
    Ok(Environment { runtime, socket, seed: RandomState::new().hash_one(config.node) })
}

/// Opens the endpoint.
///
/// # Errors
/// [`NetError::Listen`].
pub(crate) fn open(
    config: &QuicConfig,
    server: quinn::ServerConfig,
    environment: &Environment,
    admission: &Arc<Admission>,
    quic_seed: Option<u64>,
) -> Result<quinn::Endpoint, NetError> {
    let socket =
        Arc::new(FilteredSocket { socket: Arc::clone(&environment.socket), filter: Arc::clone(admission) });
    let runtime = Arc::clone(&environment.runtime);
    let mut endpoint = endpoint_config(config);
    if let Some(seed) = quic_seed {
        let mut whole = [0; 32];
        whole[..8].copy_from_slice(&seed.to_le_bytes());
        endpoint.rng_seed(Some(whole));
    }
    quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)
        .map_err(|source| NetError::Listen { address: config.listen, source })
}

/// quinn's settings for the accepting side.
pub(crate) fn server_config(config: &QuicConfig, server: QuicServerConfig) -> quinn::ServerConfig {
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    // The gate sees every handshake: quinn refuses by itself only those beyond its queue.
    server.transport_config(transport_config(config)).migration(false).max_incoming(INCOMING_MAX);
    server.incoming_buffer_size(64 << 10).incoming_buffer_size_total(4 << 20);
    server
}

/// quinn's settings for a dialled connection.
pub(crate) fn client_config(config: &QuicConfig, client: QuicClientConfig) -> quinn::ClientConfig {
    let mut client = quinn::ClientConfig::new(Arc::new(client));
    client.transport_config(transport_config(config));
    client
}

fn socket(config: &QuicConfig) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(config.listen), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_send_buffer_size(config.socket_buffer_bytes)?;
    socket.set_recv_buffer_size(config.socket_buffer_bytes)?;
    warn_if_cut(config, "net.core.wmem_max", socket.send_buffer_size()?);
    warn_if_cut(config, "net.core.rmem_max", socket.recv_buffer_size()?);
    socket.set_nonblocking(true)?;
    socket.bind(&config.listen.into())?;
    Ok(socket.into())
}

/// The system reduces the requested size to its own limit without an error.
fn warn_if_cut(config: &QuicConfig, limit: &str, granted: usize) {
    // Linux keeps its bookkeeping in the same buffer, and grants and reports twice the requested size.
    let usable = if cfg!(target_os = "linux") { granted / 2 } else { granted };
    let asked = config.socket_buffer_bytes;
    if usable < asked {
        tracing::warn!(
            asked,
            usable,
            "the system granted a smaller socket buffer: bursts lose packets; raise {limit} to {asked}"
        );
    }
}

/// Reset tokens and connection ids depend on the node's key only, so that a peer of a restarted node detects
/// at once that the old connection is gone, instead of by its idle timeout.
fn endpoint_config(config: &QuicConfig) -> EndpointConfig {
    let key = config.identity.key();
    let reset_key = derive(&key, b"raftwerk stateless reset");
    let id_key = derive(&key, b"raftwerk connection ids");
    let id_key = u64::from_le_bytes(*id_key.as_ref().first_chunk().expect("a SHA-256 value has 32 bytes"));
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_key.as_ref());
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(move || Box::new(quinn_ids(id_key)));
    endpoint
        .max_udp_payload_size(config.mtu_max.max(1472))
        .expect("the configuration was checked: a size above 1200");
    endpoint
}

fn quinn_ids(key: u64) -> quinn_proto::HashedConnectionIdGenerator {
    quinn_proto::HashedConnectionIdGenerator::from_key(key)
}

fn derive(key: &PrivateKeyDer<'_>, purpose: &[u8]) -> ring::hmac::Tag {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.secret_der());
    ring::hmac::sign(&key, purpose)
}

fn transport_config(config: &QuicConfig) -> Arc<TransportConfig> {
    let window = config.connection_window_bytes();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(config.mtu_max);
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(config.ack_delay_max));
    let idle =
        IdleTimeout::try_from(config.idle_timeout).expect("the configuration was checked: at most an hour");
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(Channel::COUNT as u32))
        .stream_receive_window(VarInt::from_u32(config.stream_window_bytes))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(window))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(config.keep_alive))
        .initial_rtt(config.initial_rtt)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion::CubicConfig::default()))
        .enable_segmentation_offload(config.gso);
    Arc::new(transport)
}

/// Log lines that unknown senders can cause, rate-limited.
#[derive(Default)]
pub(crate) struct LogThrottles {
    ignored: Throttle,
    handshake_failed: Throttle,
    unknown_peer: Throttle,
    violation: Throttle,
}

/// The gate and its inputs: shared by the socket, which drops packets unread, and the endpoint.
pub(crate) struct Admission {
    runtime: Arc<dyn Runtime>,
    /// The runtime's time at which the transport's began.
    origin: Instant,
    policy: Mutex<AdmissionPolicy<Arc<Notify>>>,
    /// The addresses of the peers.
    pub(crate) known: ArcSwap<KnownAddresses>,
    /// First packets dropped unread, for their address and for the rate.
    dropped: [AtomicU64; 2],
}

impl Admission {
    pub(crate) fn new(config: &QuicConfig, environment: &Environment) -> Self {
        Self {
            runtime: Arc::clone(&environment.runtime),
            origin: environment.runtime.now(),
            policy: Mutex::new(AdmissionPolicy::new(config.admission_limits(), 0)),
            known: ArcSwap::default(),
            dropped: Default::default(),
        }
    }

    /// Nanoseconds since the transport was started, by its ground's clock.
    pub(crate) fn now(&self) -> u64 {
        self.runtime.now().saturating_duration_since(self.origin).as_nanos() as u64
    }

    /// First packets dropped unread, for their address and for the rate.
    pub(crate) fn dropped(&self) -> [u64; 2] {
        [0, 1].map(|reason: usize| self.dropped[reason].load(Ordering::Relaxed))
    }

    fn decide(&self, from: SocketAddr, is_validated: bool, handle: Arc<Notify>) -> Decision<Arc<Notify>> {
        lock(&self.policy).decide(self.now(), from, is_validated, &self.known.load(), handle)
    }

    fn on_handshake_end(&self, id: u64, outcome: HandshakeOutcome) {
        lock(&self.policy).on_handshake_end(self.now(), id, outcome);
    }
}

impl InitialFilter for Admission {
    fn drops(&self, from: SocketAddr, packets: usize) -> bool {
        let Some(reason) = lock(&self.policy).filter_initial(self.now(), from, &self.known.load()) else {
            return false;
        };
        let counter = &self.dropped[usize::from(reason == Refusal::Rate)];
        counter.fetch_add(packets as u64, Ordering::Relaxed);
        true
    }
}

/// A kind of log line.
#[derive(Clone, Copy)]
pub(crate) enum LogKind {
    /// A first packet was not answered.
    Ignored,
    /// A handshake failed.
    HandshakeFailed,
    /// A node of the cluster is not a known peer.
    UnknownPeer,
    /// A peer broke the stream protocol or made no progress.
    Violation,
}

impl LogThrottles {
    /// Whether to write it now, and how many were suppressed.
    pub(crate) fn pass(&mut self, kind: LogKind, now: u64) -> Option<u64> {
        let throttle = match kind {
            LogKind::Ignored => &mut self.ignored,
            LogKind::HandshakeFailed => &mut self.handshake_failed,
            LogKind::UnknownPeer => &mut self.unknown_peer,
            LogKind::Violation => &mut self.violation,
        };
        throttle.pass(now)
    }
}

/// Accepts incoming connections until the endpoint is closed, as admitted by the gate.
pub(crate) async fn accept(net: Arc<Net>) {
    while let Some(incoming) = net.endpoint.accept().await {
        let (remote, is_validated) = (incoming.remote_address(), incoming.remote_address_validated());
        let eviction = Arc::new(Notify::new());
        let decision = net.admission.decide(remote, is_validated, Arc::clone(&eviction));
        match decision {
            Decision::Admit { id, evicted } => {
                if let Some(other) = evicted {
                    add(&net.counters.silent_evicted, 1);
                    other.notify_one();
                }
                let guard = HandshakeGuard { net: Arc::clone(&net), id, outcome: HandshakeOutcome::Failed };
                net.spawn(admit(Arc::clone(&net), incoming, guard, eviction));
            }
            Decision::Retry => {
                add(&net.counters.retries_demanded, 1);
                // An error means that it has proven its address already, which is not the case here.
                let _ = incoming.retry();
            }
            Decision::Ignore(reason) => {
                // No answer, not even a refusal: it would end the sender's attempt, while a peer among
                // unknown senders is admitted when it repeats its first packet.
                incoming.ignore();
                ignored(&net, remote, reason);
            }
        }
    }
}

fn ignored(net: &Net, remote: SocketAddr, reason: Refusal) {
    let counters = &net.counters;
    let counter = match reason {
        Refusal::Places => &counters.half_open_refused,
        Refusal::Address => &counters.address_refused,
        Refusal::Rate => &counters.rate_refused,
    };
    add(counter, 1);
    if let Some(left_out) = net.log_permit(LogKind::Ignored) {
        tracing::warn!(%remote, ?reason, left_out, "too many handshakes that come to nothing: not answered");
    }
}

/// A place among the half-open connections.
struct HandshakeGuard {
    net: Arc<Net>,
    id: u64,
    outcome: HandshakeOutcome,
}

impl HandshakeGuard {
    /// The other side has presented a certificate of the cluster.
    fn authenticated(mut self) {
        self.outcome = HandshakeOutcome::Authenticated;
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        self.net.admission.on_handshake_end(self.id, self.outcome);
    }
}

async fn admit(net: Arc<Net>, incoming: quinn::Incoming, guard: HandshakeGuard, eviction: Arc<Notify>) {
    let remote = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let handshake = net.within(net.config.handshake_deadline, handshake);
    let handshake = tokio::select! {
        biased;
        handshake = handshake => handshake,
        () = eviction.notified() => return,
    };
    let connection = match handshake {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => return refused(&net, remote, &error),
        None => {
            add(&net.counters.handshakes_expired, 1);
            return;
        }
    };
    guard.authenticated();
    let Some(peer) = known_peer(&net, &connection) else {
        add(&net.counters.strangers_refused, 1);
        if let Some(left_out) = net.log_permit(LogKind::UnknownPeer) {
            let node = authenticated_node(&net, &connection);
            tracing::warn!(%remote, ?node, left_out, "not a known peer, or one that is to be dialled: refused");
        }
        CloseCode::Stranger.close(&connection);
        return;
    };
    match session::establish(&net, &connection).await {
        Ok(streams) => session::run(net, peer, connection, streams).await,
        Err(error) => net.failed(&peer, error),
    }
}

fn refused(net: &Net, remote: SocketAddr, error: &quinn::ConnectionError) {
    add(&net.counters.strangers_refused, 1);
    let kind = PeerError::of(error, net.version());
    net.count(&kind);
    if let Some(left_out) = net.log_permit(LogKind::HandshakeFailed) {
        tracing::warn!(%remote, %error, left_out, "connection refused in the handshake");
    }
}

/// The known peer at the other end of an accepted connection, if it is one that dials this node.
fn known_peer(net: &Net, connection: &quinn::Connection) -> Option<Arc<Peer>> {
    let node = authenticated_node(net, connection)?;
    (node < net.config.node).then(|| net.peer(node)).flatten()
}

/// The node of this cluster that the certificate at the other end names.
pub(crate) fn authenticated_node(net: &Net, connection: &quinn::Connection) -> Option<PeerId> {
    let chain = credentials::chain(connection)?;
    let (cluster, node) = node_of(chain.first()?).ok()?;
    (cluster == net.config.identity.cluster()).then_some(node)
}

/// tokio for quinn, with every task watched (see [`Wake`]).
#[derive(Clone)]
struct WatchedRuntime {
    wake: Arc<Wake>,
}

impl std::fmt::Debug for WatchedRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WatchedRuntime")
    }
}

impl Runtime for WatchedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(self.wake.watch(task));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}
