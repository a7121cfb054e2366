//! The interface between the engine and a transport: [`Transport`] to send, [`Receive`] to be called.
//!
//! What is not here: an implementation. [`crate::quic`] is the one for production; the simulator has its own.
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use smallvec::SmallVec;

/// The id of a node in this crate: the number in its certificate. Never reused for another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// The parts of one message in order. Best are few and large ones: the writer copies parts below 16 KiB
/// together and sends larger ones as they are, without a copy.
pub type Parts = SmallVec<[Bytes; 4]>;

/// A stream of messages from one node to another. Messages of one channel keep their order, those of two
/// channels do not; a lost packet holds up its own channel only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Channel {
    /// Votes, liveness, acknowledgements, commit indices: sent before anything else.
    Control,
    /// Entries; the number is below [`Channel::APPEND_COUNT`]. Choose it by group or worker, so that a
    /// group's messages keep their order.
    Append(u8),
    /// Snapshots and other large transfers: sent when no other channel has anything to send.
    Bulk,
}

impl Channel {
    /// The number of append channels between two nodes: a lost packet holds up one of them.
    pub const APPEND_COUNT: u8 = 4;
    /// The number of channels.
    pub const COUNT: usize = 2 + Self::APPEND_COUNT as usize;
    /// Every channel, in the order of its slot on the wire.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Control, Self::Append(0), Self::Append(1), Self::Append(2), Self::Append(3), Self::Bulk];

    /// The append channel for a group or worker number (or a hash of it).
    pub const fn append_for(number: u64) -> Self {
        Self::Append((number % Self::APPEND_COUNT as u64) as u8)
    }

    /// The channel's position in [`Channel::ALL`]; `None` for an append number out of range.
    pub const fn slot(self) -> Option<usize> {
        match self {
            Self::Control => Some(0),
            Self::Append(n) if n < Self::APPEND_COUNT => Some(1 + n as usize),
            Self::Append(_) => None,
            Self::Bulk => Some(Self::COUNT - 1),
        }
    }
}

/// Why a message was dropped by [`Transport::send`]. In every case it certainly never leaves this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The peer is slower than the sender: the channel's queue holds its limit of bytes. Try again later.
    #[error("the queue to this peer is full")]
    Full,
    /// The node is not among the known peers.
    #[error("not a known peer")]
    UnknownPeer,
    /// There is no connection to the peer at the moment, or the transport was shut down.
    #[error("no connection to this peer")]
    Closed,
    /// The message is longer than the channel admits; it will never fit.
    #[error("the message is longer than the channel admits")]
    TooLarge,
    /// An append number at or above [`Channel::APPEND_COUNT`].
    #[error("no such channel")]
    UnknownChannel,
}

/// Sends messages to peers. All methods may be called from any thread and never wait.
pub trait Transport: Send + Sync {
    /// Queues one message, the concatenation of `parts`, for a peer. It need not leave before
    /// [`Transport::flush`].
    ///
    /// # Errors
    /// The message was dropped; see [`SendError`]. The protocol above tolerates that, as it does a lost
    /// packet. `Ok` does not guarantee delivery.
    fn send(&self, to: PeerId, channel: Channel, parts: Parts) -> Result<(), SendError>;

    /// Releases everything queued so far. Call it once after a turn's sends: it costs at most one wake-up of
    /// the net thread, and none if that thread is already awake.
    fn flush(&self);

    /// Adds a node to the known peers. For a node that is already known this is [`Transport::set_address`].
    fn add_peer(&self, peer: PeerId, address: SocketAddr);

    /// Sets the address on which a known peer now listens. A connection to another address is closed at once
    /// and the new address tried without delay. Unknown peers are ignored.
    fn set_address(&self, peer: PeerId, address: SocketAddr);
}

/// The callbacks of a transport. Called on the net thread, one call at a time: must not block, and may call
/// [`Transport::send`] and [`Transport::flush`].
pub trait Receive: Send + Sync + 'static {
    /// A message from the node that the connection's certificate names. The bytes are the message's own
    /// memory, not a slice of a packet: they may be kept.
    fn receive(&self, from: PeerId, channel: Channel, message: Bytes);

    /// A connection to the peer now works in both directions. Nothing sent earlier will arrive any more.
    fn connected(&self, peer: PeerId);

    /// The connection is gone; messages queued or in flight may or may not have arrived. Always follows a
    /// [`Receive::connected`].
    fn disconnected(&self, peer: PeerId);

    /// This node's own certificate ends within 30 days, in so many seconds; from 0 down it has ended. `None`:
    /// neither. Called at the start, with each new identity, once a day, and when one of the three states
    /// becomes another.
    fn own_certificate(&self, _ends_in_seconds: Option<i64>) {}

    /// By this node's clock the peer's certificate has ended, or that of the authority behind it: connections
    /// with it are refused, or the existing one is closed. Called each time; it is over when the peer is
    /// [`Receive::connected`].
    fn certificate_ended(&self, _peer: PeerId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_sits_in_its_own_slot() {
        for (slot, channel) in Channel::ALL.into_iter().enumerate() {
            assert_eq!(channel.slot(), Some(slot));
        }
        assert_eq!(Channel::Append(4).slot(), None);
        assert_eq!(Channel::append_for(7), Channel::Append(3));
    }
}
