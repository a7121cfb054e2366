//! The node heartbeat. Each worker sends one per interval to every worker of another node that it shares
//! groups with: it shows that the sender is alive, and carries how long the sender supports the receiver.
//! Quiescent groups need no other heartbeat.
//!
//! ```text
//! node heartbeat = incarnation u64, your_incarnation u64, sent u64, your_sent u64, supported_at u64,
//!                  support_us u32, support_epoch u32, flags u8, zero u8 × 7
//! ```
//! It is the body of a unit of kind [`NodeHeartbeat`](crate::wire::UnitKind). Times are in nanoseconds, each on the
//! clock of the node that read it; a node never compares a time of another clock with its own, it only
//! subtracts two readings of one clock.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a node heartbeat.
pub const NODE_HEARTBEAT_BYTES: usize = 56;
const HEALTHY: u8 = 1;

/// One node heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeHeartbeat {
    /// The sender's incarnation: a new number after each restart.
    pub incarnation: u64,
    /// The receiver's incarnation in the last heartbeat that the sender received from it; 0 if it has
    /// received none.
    pub your_incarnation: u64,
    /// The sender's clock when it sent this heartbeat.
    pub sent: u64,
    /// The receiver's clock (`sent`) in the last heartbeat that the sender received from it; 0 for none.
    pub your_sent: u64,
    /// The receiver's clock in the heartbeat that the sender's support answers; 0 if the sender does not
    /// support the receiver.
    pub supported_at: u64,
    /// For how long the sender supports the receiver, from the receipt of that heartbeat on, in microseconds.
    pub support_us: u32,
    /// The number of the support: a new one each time that the sender begins to support the receiver again
    /// after it had not.
    pub support_epoch: u32,
    /// Whether the sender's turns and syncs make progress, so that it may be supported.
    pub is_healthy: bool,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawNodeHeartbeat {
    incarnation: U64,
    your_incarnation: U64,
    sent: U64,
    your_sent: U64,
    supported_at: U64,
    support_us: U32,
    support_epoch: U32,
    flags: u8,
    zero: [u8; 7],
}

const _: () = assert!(size_of::<RawNodeHeartbeat>() == NODE_HEARTBEAT_BYTES);

impl NodeHeartbeat {
    /// The bytes of the heartbeat.
    #[must_use]
    pub fn encode(&self) -> [u8; NODE_HEARTBEAT_BYTES] {
        let raw = RawNodeHeartbeat {
            incarnation: self.incarnation.into(),
            your_incarnation: self.your_incarnation.into(),
            sent: self.sent.into(),
            your_sent: self.your_sent.into(),
            supported_at: self.supported_at.into(),
            support_us: self.support_us.into(),
            support_epoch: self.support_epoch.into(),
            flags: if self.is_healthy { HEALTHY } else { 0 },
            zero: [0; 7],
        };
        zerocopy::transmute!(raw)
    }

    /// Decodes a heartbeat; `None` if the length is not that of a heartbeat.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let raw = RawNodeHeartbeat::ref_from_bytes(bytes).ok()?;
        Some(Self {
            incarnation: raw.incarnation.get(),
            your_incarnation: raw.your_incarnation.get(),
            sent: raw.sent.get(),
            your_sent: raw.your_sent.get(),
            supported_at: raw.supported_at.get(),
            support_us: raw.support_us.get(),
            support_epoch: raw.support_epoch.get(),
            is_healthy: raw.flags & HEALTHY != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_node_heartbeat_survives_the_round_trip_and_nothing_shorter_is_one(
            times in any::<(u64, u64, u64, u64, u64)>(),
            support in any::<(u32, u32, bool)>(),
        ) {
            let (incarnation, your_incarnation, sent, your_sent, supported_at) = times;
            let (support_us, support_epoch, is_healthy) = support;
            let node_heartbeat = NodeHeartbeat {
                incarnation, your_incarnation, sent, your_sent, supported_at, support_us, support_epoch,
                is_healthy,
            };
            let bytes = node_heartbeat.encode();
            prop_assert_eq!(NodeHeartbeat::parse(&bytes), Some(node_heartbeat));
            for cut in 0..NODE_HEARTBEAT_BYTES {
                prop_assert_eq!(NodeHeartbeat::parse(&bytes[..cut]), None);
            }
        }
    }
}
