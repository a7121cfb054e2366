//! IMPURE: the UDP socket, quinn's settings, and the gate: who may connect to us.
//!
//! A stranger costs a bounded number of half-open connections for a bounded time and learns nothing. What is not
//! here: connecting to others (`quic_dial.rs`), a connection once it is let in (`quic_session.rs`).
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, AsyncTimer, AsyncUdpSocket, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime,
    TokioRuntime, TransportConfig, VarInt, congestion,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::QuicConfig;
use crate::error::NetError;
use crate::ground::Ground;
use crate::identity::node_of;
use crate::peer::Peer;
use crate::quic::Net;
use crate::quic_session;
use crate::stats::add;
use crate::transport::{Channel, PeerId};
use crate::wake::Wake;

/// Why we close a connection, as the peer's log will show it.
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
}

impl CloseCode {
    /// Closes a connection for this reason.
    pub(crate) fn close(self, connection: &quinn::Connection) {
        connection.close(self.into(), format!("{self:?}").as_bytes());
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
pub(crate) fn ground(config: &QuicConfig, wake: &Arc<Wake>) -> Result<Ground, NetError> {
    let runtime = Arc::new(WatchedRuntime { wake: Arc::clone(wake) });
    let socket = socket(config).and_then(|socket| runtime.wrap_udp_socket(socket));
    let socket = socket.map_err(|source| NetError::Listen { address: config.listen, source })?;
    Ok(Ground { runtime, socket, seed: RandomState::new().hash_one(config.node) })
}

/// Opens the endpoint.
///
/// # Errors
/// [`NetError::Listen`].
pub(crate) fn open(
    config: &QuicConfig,
    server: QuicServerConfig,
    ground: &Ground,
    quic_seed: Option<u64>,
) -> Result<quinn::Endpoint, NetError> {
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(transport_config(config)).migration(false).max_incoming(2 * config.half_open_max);
    let (socket, runtime) = (Arc::clone(&ground.socket), Arc::clone(&ground.runtime));
    let mut endpoint = endpoint_config(config);
    if let Some(seed) = quic_seed {
        let mut whole = [0; 32];
        whole[..8].copy_from_slice(&seed.to_le_bytes());
        endpoint.rng_seed(Some(whole));
    }
    quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)
        .map_err(|source| NetError::Listen { address: config.listen, source })
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
    socket.set_nonblocking(true)?;
    socket.bind(&config.listen.into())?;
    Ok(socket.into())
}

/// Reset tokens and connection ids depend on the node's key only, so that a restarted node can tell a peer at once
/// that the old connection is gone, instead of leaving it to its idle timeout.
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

/// The gate: takes incoming connections until the endpoint is closed.
pub(crate) async fn accept(net: Arc<Net>) {
    while let Some(incoming) = net.endpoint.accept().await {
        let half_open = net.half_open.load(Ordering::Relaxed);
        if half_open >= net.config.half_open_max {
            add(&net.counters.half_open_refused, 1);
            incoming.refuse();
        } else if half_open >= net.config.half_open_retry && incoming.may_retry() {
            add(&net.counters.retries_demanded, 1);
            // An error means that the address was proven meanwhile; the newcomer will try again.
            let _ = incoming.retry();
        } else {
            let place = HalfOpen::take(&net);
            net.spawn(admit(Arc::clone(&net), incoming, place));
        }
    }
}

/// A place among the half-open connections.
struct HalfOpen(Arc<Net>);

impl HalfOpen {
    fn take(net: &Arc<Net>) -> Self {
        net.half_open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(net))
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.half_open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn admit(net: Arc<Net>, incoming: quinn::Incoming, place: HalfOpen) {
    let remote = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let connection = match net.within(net.config.handshake_deadline, handshake).await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            add(&net.counters.strangers_refused, 1);
            tracing::warn!(%remote, %error, "connection refused in the handshake");
            return;
        }
        None => {
            add(&net.counters.handshakes_expired, 1);
            return;
        }
    };
    let Some(peer) = known_peer(&net, &connection) else {
        add(&net.counters.strangers_refused, 1);
        tracing::warn!(%remote, "connection refused: not a known node, or it should have been dialled");
        CloseCode::Stranger.close(&connection);
        return;
    };
    if let Some(streams) = quic_session::establish(&net, &connection).await {
        drop(place);
        quic_session::run(net, peer, connection, streams).await;
    }
}

/// The known peer at the other end of an accepted connection, if it is one that dials us.
fn known_peer(net: &Net, connection: &quinn::Connection) -> Option<Arc<Peer>> {
    let node = proven_node(net, connection)?;
    (node < net.config.node).then(|| net.peer(node)).flatten()
}

/// The node of our cluster that the certificate at the other end names.
pub(crate) fn proven_node(net: &Net, connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
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
