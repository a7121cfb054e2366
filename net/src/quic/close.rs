//! The codes with which a connection is closed.
use quinn::VarInt;

/// Why this node closes a connection. Number and name go to the peer: append only, and never rename.
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
