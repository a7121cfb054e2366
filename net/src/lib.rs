//! Frames between the nodes of a cluster over QUIC: one connection per pair of nodes, mutual TLS 1.3, six
//! one-way streams per direction.
//!
//! A message is opaque bytes; a peer is a [`PeerId`] proven by its certificate. The [`Transport`] trait is
//! the interface that the simulator may implement instead. Delivery is best effort: a message may be lost
//! with its connection, never corrupted, never attributed to the wrong node, and within one channel of one
//! connection it arrives in order and at most once.
//!
//! What is not here: the meaning of a message, retries of a message, flow control of snapshots (the caller
//! grants credit), any other crate of the project. Next: [`transport`] for the interface, [`quic`] for the
//! implementation, `quic/admission` for admission of connections, [`identity`] for certificates,
//! [`environment`] for other sockets and clocks, `message/frames.rs` for the bytes on a stream.
#![forbid(unsafe_code)]

pub mod config;
pub mod environment;
mod error;
pub mod identity;
mod message;
pub mod quic;
mod stats;
pub mod transport;
mod wake;

pub use config::{PerChannel, QuicConfig};
pub use environment::{Environment, WallClock};
pub use error::NetError;
#[cfg(feature = "issue")]
pub use identity::{ClusterAuthority, Validity, write_cluster};
pub use identity::{Identity, IdentityError};
pub use message::WireVersion;
pub use quic::{PeerError, QuicTransport};
pub use stats::NetStats;
pub use transport::{Channel, Parts, PeerId, Receive, SendError, Transport};
