//! Frames between the nodes of a cluster over QUIC: one connection per pair of nodes, mutual TLS 1.3, six one-way
//! streams per direction.
//!
//! A message is opaque bytes; a peer is a [`PeerId`] proven by its certificate. The [`Transport`] trait is
//! the interface that the simulator may implement instead. Delivery is best effort: a message may be lost
//! with its connection, never corrupted, never attributed to the wrong node, and within one channel of one
//! connection it arrives in order and at most once.
//!
//! What is not here: the meaning of a message, retries of a message, flow control of snapshots (the caller
//! grants credit), any other crate of the project. Next: [`transport`] for the interface, [`quic`] for the
//! implementation, `gate.rs` for admission of connections, [`identity`] for certificates, [`ground`] for
//! other sockets and clocks, `frames.rs` for the bytes on a stream.
#![forbid(unsafe_code)]

mod backoff;
mod certificate;
mod coalesce;
pub mod config;
mod credentials;
mod error;
mod frames;
mod gate;
pub mod ground;
pub mod identity;
mod identity_files;
#[cfg(feature = "issue")]
mod issue;
mod names;
mod outbox;
mod peer;
mod peer_error;
pub mod quic;
mod quic_dial;
mod quic_endpoint;
mod quic_session;
mod sieve;
mod stats;
mod throttle;
mod tls;
pub mod transport;
mod wake;

pub use config::{PerChannel, QuicConfig};
pub use error::NetError;
pub use frames::WireVersion;
pub use ground::{Ground, WallClock};
#[cfg(feature = "issue")]
pub use identity::{ClusterAuthority, Validity, write_cluster};
pub use identity::{Identity, IdentityError};
pub use peer_error::PeerError;
pub use quic::QuicTransport;
pub use stats::NetStats;
pub use transport::{Channel, Parts, PeerId, Receive, SendError, Transport};
