//! Why a transport did not start. Errors of single messages are [`crate::SendError`]; errors of peers and
//! their bytes end a connection and are counted in [`crate::NetStats`].
use std::io;
use std::net::SocketAddr;

use crate::identity::IdentityError;

/// Why a transport did not start; nothing runs afterwards.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A limit is out of its documented bounds, or two contradict each other.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// The certificates do not match the configuration or each other.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// The TLS library refuses the certificates.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// The socket could not be opened, sized or bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The net thread or its event loop could not be made.
    #[error("cannot start the net thread: {0}")]
    Thread(io::Error),
}
