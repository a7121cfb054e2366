//! IMPURE: the UDP socket, and accepting connections as admission decides.
//!
//! An unknown sender costs a bounded number of half-open connections for a bounded time and gets no
//! information. What is not here: the decisions (`admission.rs`), quinn's settings (`settings.rs`),
//! connecting to others (`dial.rs`), an admitted connection (`session.rs`).
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Notify;

use crate::config::QuicConfig;
use crate::environment::Environment;
use crate::error::NetError;
use crate::identity::node_of;
use crate::quic::admission::filter::FilteredSocket;
use crate::quic::admission::policy::{AddressValidation, Decision, Refusal};
use crate::quic::admission::{Admission, HandshakeGuard};
use crate::quic::close::CloseCode;
use crate::quic::credentials;
use crate::quic::net::Net;
use crate::quic::peer::{Peer, PeerError};
use crate::quic::session;
use crate::quic::settings;
use crate::quic::throttle::LogKind;
use crate::stats::add;
use crate::transport::PeerId;
use crate::wake::Wake;

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
    let socket = Arc::new(FilteredSocket::new(Arc::clone(&environment.socket), Arc::clone(admission)));
    let runtime = Arc::clone(&environment.runtime);
    let mut endpoint = settings::endpoint_config(config);
    if let Some(seed) = quic_seed {
        let mut whole = [0; 32];
        whole[..8].copy_from_slice(&seed.to_le_bytes());
        endpoint.rng_seed(Some(whole));
    }
    quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)
        .map_err(|source| NetError::Listen { address: config.listen, source })
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

/// Accepts incoming connections until the endpoint is closed, as admission decides.
pub(crate) async fn accept(net: Arc<Net>) {
    while let Some(incoming) = net.endpoint.accept().await {
        let remote = incoming.remote_address();
        let validation = match incoming.remote_address_validated() {
            true => AddressValidation::Validated,
            false => AddressValidation::Unvalidated,
        };
        let eviction = Arc::new(Notify::new());
        let decision = net.admission.decide(remote, validation, Arc::clone(&eviction));
        match decision {
            Decision::Admit { id, evicted } => {
                if let Some(other) = evicted {
                    add(&net.counters.silent_evicted, 1);
                    other.notify_one();
                }
                let guard = HandshakeGuard::new(&net.admission, id);
                net.spawn(admit(Arc::clone(&net), incoming, guard, eviction));
            }
            Decision::Retry => {
                add(&net.counters.retries_demanded, 1);
                // An error means that its address was validated already, which is not the case here.
                let _ = incoming.retry();
            }
            Decision::Ignore(reason) => {
                // No answer, not even a refusal: it would end the sender's attempt, while a peer among
                // unknown senders is admitted when it repeats its Initial packet.
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
        Err(error) => net.on_failure(&peer, error),
    }
}

fn refused(net: &Net, remote: SocketAddr, error: &quinn::ConnectionError) {
    add(&net.counters.strangers_refused, 1);
    let kind = PeerError::of(error, net.version());
    net.count_error(&kind);
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
