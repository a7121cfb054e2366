//! Why a known peer is not connected, in terms that an operator can act on.
//!
//! Derived from quinn's errors, and from the reason that the other side gave. What is not here: logging
//! (`peer.rs`).
use quinn::ConnectionError;

use crate::message::WireVersion;
use crate::quic::close::CloseCode;

/// TLS alerts (RFC 8446 section 6) as QUIC carries them.
const ALERTS: std::ops::Range<u64> = 0x100..0x200;
const CERTIFICATE_EXPIRED: u64 = 0x100 + 45;
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

/// Why the latest connection with a peer ended, or did not come about ([`crate::QuicTransport::peer_error`]).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// The two nodes run releases with different wire versions. Neither accepts the other until one of them
    /// is upgraded.
    #[error("it speaks wire version {theirs}, this node {ours}: run the same release on both")]
    Version {
        /// This node's version.
        ours: WireVersion,
        /// The peer's; without a version of messages if its streams differ already.
        theirs: WireVersion,
    },
    /// The other side uses QUIC, with a protocol that is not this one's in any version.
    #[error("what answers at its address speaks another protocol: look at the address")]
    Protocol,
    /// The peer's certificate, or the authority behind it, has expired by this node's clock.
    #[error("its certificate has expired: issue it another, or look at both clocks ({0})")]
    Expired(String),
    /// By the peer's clock it is this node's certificate, or the authority behind it, that has expired.
    #[error("it refuses this node's certificate as expired: issue this node another, or look at both clocks")]
    OursExpired,
    /// One of the two refused the other's certificate for another reason: another authority, another cluster,
    /// another node than was meant.
    #[error("a certificate was refused: {0}")]
    Certificate(String),
    /// The peer does not have this node among its known peers, or has it under another id: give it this
    /// node's address.
    #[error("it does not know this node: tell it where this node is")]
    Unknown,
    /// No answer, an answer too late, or the connection was lost or closed.
    #[error("not reached, or lost: {0}")]
    Unreachable(String),
}

impl PeerError {
    /// The error for a quinn error.
    pub(crate) fn of(error: &ConnectionError, ours: WireVersion) -> Self {
        let text = error.to_string();
        match error {
            ConnectionError::TransportError(error) => match u64::from(error.code) {
                CERTIFICATE_EXPIRED => Self::Expired(text),
                NO_APPLICATION_PROTOCOL => Self::Protocol,
                code if ALERTS.contains(&code) => Self::Certificate(text),
                _ => Self::Unreachable(text),
            },
            ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
                CERTIFICATE_EXPIRED => Self::OursExpired,
                NO_APPLICATION_PROTOCOL => Self::Protocol,
                code if ALERTS.contains(&code) => Self::Certificate(text),
                _ => Self::Unreachable(text),
            },
            ConnectionError::ApplicationClosed(close) => {
                let is = |code: CloseCode| close.error_code == code.into();
                match WireVersion::parse(&close.reason) {
                    Some(theirs) if is(CloseCode::Version) => Self::Version { ours, theirs },
                    _ if is(CloseCode::Expired) => Self::OursExpired,
                    _ if is(CloseCode::Stranger) => Self::Unknown,
                    _ => Self::Unreachable(text),
                }
            }
            _ => Self::Unreachable(text),
        }
    }

    /// Whether it persists until an operator acts on it.
    pub(crate) fn needs_operator(&self) -> bool {
        !matches!(self, Self::Unreachable(_))
    }

    pub(crate) fn is_expiry(&self) -> bool {
        matches!(self, Self::Expired(_) | Self::OursExpired)
    }

    pub(crate) fn is_version(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Protocol)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quinn::{ApplicationClose, ConnectionClose, TransportErrorCode};

    use super::*;

    const OURS: WireVersion = WireVersion::with_messages(1);

    #[test]
    fn only_an_alert_is_a_certificate_error() {
        let closed = |error_code| {
            let close = ConnectionClose { error_code, frame_type: None, reason: Bytes::new() };
            PeerError::of(&ConnectionError::ConnectionClosed(close), OURS)
        };
        assert!(matches!(closed(TransportErrorCode::crypto(42)), PeerError::Certificate(_)));
        assert!(matches!(closed(TransportErrorCode::crypto(45)), PeerError::OursExpired));
        assert!(matches!(closed(TransportErrorCode::crypto(120)), PeerError::Protocol));
        assert!(matches!(closed(TransportErrorCode::CONNECTION_REFUSED), PeerError::Unreachable(_)));
    }

    #[test]
    fn close_code_names_the_reason() {
        let closed = |code: CloseCode| {
            let close = ApplicationClose { error_code: code.into(), reason: Bytes::new() };
            PeerError::of(&ConnectionError::ApplicationClosed(close), OURS)
        };
        assert!(matches!(closed(CloseCode::Stranger), PeerError::Unknown));
        assert!(matches!(closed(CloseCode::Expired), PeerError::OursExpired));
        assert!(matches!(closed(CloseCode::Shutdown), PeerError::Unreachable(_)));
        assert!(matches!(closed(CloseCode::Version), PeerError::Unreachable(_)), "without a version");
    }
}
