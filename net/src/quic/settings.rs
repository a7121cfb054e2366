//! quinn's settings, computed from the configuration.
//!
//! What is not here: the limits themselves (`config.rs`), TLS (`identity/tls.rs`).
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt, congestion,
};
use rustls::pki_types::PrivateKeyDer;

use crate::config::QuicConfig;
use crate::transport::Channel;

/// The maximum of Initial packets queued for admission, which decides on them within a turn of the net
/// thread.
const INCOMING_MAX: usize = 1024;

/// quinn's settings for the accepting side.
pub(crate) fn server_config(config: &QuicConfig, server: QuicServerConfig) -> quinn::ServerConfig {
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    // Admission sees every handshake: quinn refuses by itself only those beyond its queue.
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

/// Reset tokens and connection ids depend on the node's key only, so that a peer of a restarted node detects
/// at once that the old connection is gone, instead of by its idle timeout.
pub(crate) fn endpoint_config(config: &QuicConfig) -> EndpointConfig {
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
