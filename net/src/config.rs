//! Every limit of the QUIC transport in one place, with units, defaults and the reason for the default.
//!
//! What is not here: quinn's settings (`quic/settings.rs`). Limits that follow from others (connection
//! windows) are computed, not configured.
use std::net::SocketAddr;
use std::time::Duration;

use crate::environment::WallClock;
use crate::error::NetError;
use crate::identity::Identity;
use crate::transport::{Channel, PeerId};

/// One number per kind of channel; every append channel has its own `append` limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerChannel {
    /// For [`Channel::Control`].
    pub control: usize,
    /// For each [`Channel::Append`].
    pub append: usize,
    /// For [`Channel::Bulk`].
    pub bulk: usize,
}

impl PerChannel {
    /// The number for a channel.
    pub const fn of(&self, channel: Channel) -> usize {
        match channel {
            Channel::Control => self.control,
            Channel::Append(_) => self.append,
            Channel::Bulk => self.bulk,
        }
    }
}

/// The settings of a transport. [`QuicConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// This node; must be the node the identity names.
    pub node: PeerId,
    /// The address to listen on; port 0 lets the system choose ([`crate::QuicTransport::local_addr`] returns
    /// the choice).
    pub listen: SocketAddr,
    /// Certificate, key and the cluster's root.
    pub identity: Identity,
    /// Largest UDP payload that a connection probes its path for, in bytes, [`MTU_MIN`] to [`MTU_MAX`]. Default
    /// [`MTU_MAX`]: large packets halve the CPU per byte. Each connection begins with `MTU_MIN`, sends nothing
    /// longer than what a probe has proved (RFC 8899), and goes back to `MTU_MIN` for a minute when a path
    /// starts to lose what it had carried. A receiver announces this bound, too, and at least 1472.
    pub mtu_max: u16,
    /// Whether the kernel may cut large sends into packets (GSO). Default true; without it a byte costs over
    /// three times the CPU, but some virtual devices do it wrong.
    pub gso: bool,
    /// Bytes that may wait for one peer in one channel before [`crate::SendError::Full`]. Each message counts
    /// its length plus a fixed overhead. Defaults: control 1 MiB, append 16 MiB, bulk 4 MiB.
    pub queue_bytes_max: PerChannel,
    /// Longest message in bytes, checked when sending, and when receiving before memory is taken; at most the
    /// queue's limit. All nodes should agree. Defaults: control 1 MiB, append 16 MiB, bulk 4 MiB.
    pub message_bytes_max: PerChannel,
    /// Bytes that may be in flight in one stream, 16 KiB to 16 MiB. Default 256 KiB. This bounds the bytes
    /// that a heartbeat waits behind (0.5 ms at 256 KiB on loopback against 2.6 ms at 1.25 MiB) and, divided
    /// by the round trip, one channel's speed: raise it for distant peers.
    pub stream_window_bytes: u32,
    /// Bytes of socket buffer to request in each direction. Default 4 MiB; the system's own default loses
    /// packets even on loopback. The system may grant less.
    pub socket_buffer_bytes: usize,
    /// A connection is considered lost after this time without a packet from the peer. Default 5 s.
    pub idle_timeout: Duration,
    /// The keep-alive interval of an idle connection; must be below the idle timeout. Default 1 s. A peer
    /// that restarted at its old address is noticed at the first keep-alive.
    pub keep_alive: Duration,
    /// A connection that is not ready to carry messages within this time is given up. Default 2 s.
    pub handshake_deadline: Duration,
    /// A connection is closed if a write to its control stream makes no progress for this time. Default 2 s.
    pub control_stall_max: Duration,
    /// Bounds of the wait before a connection is tried again: uniformly below a ceiling that starts at the
    /// first and doubles up to the second. Defaults 50 ms and 1 s: a peer that comes back is dialled within a
    /// second, and one that stays away costs about one Initial packet a second.
    pub backoff: (Duration, Duration),
    /// The maximum of concurrent handshakes of unknown senders, at least 1. Default 128; each is a connection
    /// with its TLS state. Beyond it the oldest is evicted once it has been silent for half a second. Known
    /// peers do not count: their addresses have places of their own, two each, and eight for other ports of
    /// the same IP address.
    pub half_open_max: usize,
    /// The maximum of those from one IP address (or /64 network of IPv6), at least 1. Default 4.
    pub half_open_per_address: usize,
    /// The number of half-open connections from which on a new sender must first have its address validated
    /// (QUIC Retry). Default 16.
    pub half_open_retry: usize,
    /// Handshakes of unknown senders begun in a second, 1 to 1,000,000; each costs the net thread up to a
    /// millisecond. Default 64. Initial packets beyond it are not answered; legitimate senders repeat theirs.
    pub strangers_per_second: u32,
    /// The maximum delay of an acknowledgement by the receiver. Default 1 ms: this bounds a heartbeat's delay
    /// when packets are lost.
    pub ack_delay_max: Duration,
    /// The round trip assumed before the first is measured. Default 20 ms: an Initial packet that is lost, or
    /// not answered by a node under a flood or one that is only just starting, is repeated after three of
    /// these, then after twice as long each time: five attempts within a second. To a distant peer one or two
    /// packets are sent twice.
    pub initial_rtt: Duration,
    /// The version of the content of messages, chosen by the user of this crate. Nodes connect only if theirs
    /// are equal. Default 0.
    pub messages_version: u16,
    /// The clock by which certificates expire. Default: the system's.
    pub wall_clock: WallClock,
}

const MIB: usize = 1 << 20;
/// Largest UDP payload for which segmentation offload was seen to work: longer ones are lost silently.
pub const MTU_MAX: u16 = 6500;
/// Smallest UDP payload that QUIC allows a path to carry (RFC 9000, section 14).
pub const MTU_MIN: u16 = 1200;
/// The maximum length of a message, so that lengths fit 32 bits with room to spare.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

impl QuicConfig {
    /// The defaults for the node an identity names.
    pub fn new(identity: Identity, listen: SocketAddr) -> Self {
        Self {
            node: identity.node(),
            listen,
            identity,
            mtu_max: MTU_MAX,
            gso: true,
            queue_bytes_max: PerChannel { control: MIB, append: 16 * MIB, bulk: 4 * MIB },
            message_bytes_max: PerChannel { control: MIB, append: 16 * MIB, bulk: 4 * MIB },
            stream_window_bytes: 256 << 10,
            socket_buffer_bytes: 4 * MIB,
            idle_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            handshake_deadline: Duration::from_secs(2),
            control_stall_max: Duration::from_secs(2),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            half_open_max: 128,
            half_open_per_address: 4,
            half_open_retry: 16,
            strangers_per_second: 64,
            ack_delay_max: Duration::from_millis(1),
            initial_rtt: Duration::from_millis(20),
            messages_version: 0,
            wall_clock: WallClock::system(),
        }
    }

    /// Whether every limit is within its bounds and fits the others.
    ///
    /// # Errors
    /// [`NetError::Config`] naming the first rule broken.
    pub fn check(&self) -> Result<(), NetError> {
        let rules = [
            (self.node == self.identity.node(), "the identity names another node"),
            ((MTU_MIN..=MTU_MAX).contains(&self.mtu_max), "mtu_max must be from 1200 to 6500"),
            (
                (16 << 10..=16 << 20).contains(&self.stream_window_bytes),
                "stream_window_bytes must be from 16 KiB to 16 MiB",
            ),
            (self.messages_fit(), "message_bytes_max must be from 1 byte to queue_bytes_max and 1 GiB"),
            (!self.keep_alive.is_zero(), "keep_alive must not be zero"),
            (self.keep_alive < self.idle_timeout, "keep_alive must be below idle_timeout"),
            (self.idle_timeout <= Duration::from_secs(3600), "idle_timeout must be at most an hour"),
            (!self.handshake_deadline.is_zero(), "handshake_deadline must not be zero"),
            (!self.control_stall_max.is_zero(), "control_stall_max must not be zero"),
            (
                self.backoff.0 <= self.backoff.1 && !self.backoff.0.is_zero(),
                "backoff must be rising and not zero",
            ),
            (self.half_open_max > 0, "half_open_max must not be zero"),
            (self.half_open_per_address > 0, "half_open_per_address must not be zero"),
            (
                (1..=1_000_000).contains(&self.strangers_per_second),
                "strangers_per_second must be from 1 to 1,000,000",
            ),
            (!self.initial_rtt.is_zero(), "initial_rtt must not be zero"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(NetError::Config(rule)),
            None => Ok(()),
        }
    }

    /// The window of a whole connection: twice the sum of its streams, so that no stream can starve another
    /// of the connection's budget.
    pub(crate) fn connection_window_bytes(&self) -> u32 {
        2 * Channel::COUNT as u32 * self.stream_window_bytes
    }

    fn messages_fit(&self) -> bool {
        Channel::ALL.into_iter().all(|channel| {
            let message = self.message_bytes_max.of(channel);
            (1..=MESSAGE_BYTES_MAX).contains(&message) && message <= self.queue_bytes_max.of(channel)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClusterAuthority;

    fn config() -> QuicConfig {
        let identity = ClusterAuthority::new("cfg").unwrap().issue(PeerId(1)).unwrap();
        QuicConfig::new(identity, "127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn the_defaults_are_accepted() {
        config().check().unwrap();
    }

    #[test]
    fn each_limit_is_held_to_its_bounds() {
        let broken: [fn(&mut QuicConfig); 10] = [
            |c| c.node = PeerId(2),
            |c| c.mtu_max = 6501,
            |c| c.mtu_max = 1199,
            |c| c.stream_window_bytes = 1,
            |c| c.message_bytes_max.bulk = c.queue_bytes_max.bulk + 1,
            |c| c.keep_alive = c.idle_timeout,
            |c| c.backoff.0 = Duration::from_secs(6),
            |c| c.half_open_max = 0,
            |c| c.half_open_per_address = 0,
            |c| c.strangers_per_second = 0,
        ];
        for (case, spoil) in broken.into_iter().enumerate() {
            let mut config = config();
            spoil(&mut config);
            assert!(matches!(config.check(), Err(NetError::Config(_))), "case {case}");
        }
    }

    #[test]
    fn all_streams_together_fill_half_of_the_connection_window() {
        let mut config = config();
        config.stream_window_bytes = 16 << 20;
        assert_eq!(config.connection_window_bytes() as usize, 2 * Channel::COUNT * (16 << 20));
    }
}
