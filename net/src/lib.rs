//! The transport of Raftwerk: messages between the nodes of a cluster over QUIC, with one connection per pair
//! of nodes, mutual TLS 1.3, and six one-way streams per direction.
//!
//! A message is opaque bytes; a peer is a [`PeerId`] proven by its certificate. The [`Transport`] trait is
//! the interface that the simulator may implement instead. Delivery is best effort: a message may be lost
//! with its connection, never corrupted, never attributed to the wrong node, and within one channel of one
//! connection it arrives in order and at most once.
//!
//! Two nodes with certificates of one authority, and one message (making certificates needs the feature
//! `issue`):
//!
//! ```
//! # #[cfg(feature = "issue")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::{Arc, mpsc};
//!
//! use raftwerk_net::{
//!     Channel, ClusterAuthority, Parts, PeerId, QuicConfig, QuicTransport, Receive, Transport,
//! };
//!
//! /// Passes on what the net thread calls it with.
//! struct Events(mpsc::Sender<(PeerId, Option<bytes::Bytes>)>);
//!
//! impl Receive for Events {
//!     fn receive(&self, from: PeerId, _: Channel, message: bytes::Bytes) {
//!         let _ = self.0.send((from, Some(message)));
//!     }
//!     fn connected(&self, peer: PeerId) {
//!         let _ = self.0.send((peer, None));
//!     }
//!     fn disconnected(&self, _: PeerId) {}
//! }
//!
//! let authority = ClusterAuthority::new("example")?;
//! let start = |node, peers| {
//!     let (sender, events) = mpsc::channel();
//!     let config = QuicConfig::new(authority.issue(node)?, "127.0.0.1:0".parse()?);
//!     let transport = QuicTransport::start(config, peers, Arc::new(Events(sender)))?;
//!     Ok::<_, Box<dyn std::error::Error>>((transport, events))
//! };
//! let (one, two) = (PeerId(1), PeerId(2));
//! let (sender, connected) = start(one, vec![])?;
//! let (receiver, received) = start(two, vec![(one, sender.local_addr())])?;
//! sender.add_peer(two, receiver.local_addr()); // the lower id dials
//!
//! assert_eq!(connected.recv()?, (two, None));
//! sender.send(two, Channel::Control, Parts::from_iter(["hello, ".into(), "two".into()]))?;
//! sender.flush();
//! assert_eq!(received.recv()?, (one, None));
//! assert_eq!(received.recv()?, (one, Some("hello, two".into())));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "issue"))]
//! # fn main() {}
//! ```
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

pub use config::{MTU_MAX, MTU_MIN, PerChannel, QuicConfig};
pub use environment::{Environment, WallClock};
pub use error::NetError;
#[cfg(feature = "issue")]
pub use identity::{ClusterAuthority, Validity, write_cluster};
pub use identity::{Identity, IdentityError};
pub use message::WireVersion;
pub use quic::{PeerError, QuicTransport};
pub use stats::NetStats;
pub use transport::{Channel, Parts, PeerId, Receive, SendError, Transport};
