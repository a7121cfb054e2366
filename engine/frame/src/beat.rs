//! The node heartbeat. Each worker sends one per interval to every worker of another node that it shares
//! groups with: it shows that the sender is alive, and carries how long the sender supports the receiver.
//! Quiescent groups need no other heartbeat.
//!
//! ```text
//! beat = life u64, your_life u64, sent u64, heard u64, promised_at u64, promise_us u32, promise u32, flags u8, zero u8 × 7
//! ```
//! It is the body of a unit of kind [`Beat`](crate::wire::UnitKind). Times are in nanoseconds, each on the
//! clock of the node that read it; a node never compares a time of another clock with its own, it only
//! subtracts two readings of one clock.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a node heartbeat.
pub const BEAT_BYTES: usize = 56;
const WELL: u8 = 1;

/// One node heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The sender's incarnation: a new number after each restart.
    pub life: u64,
    /// The receiver's incarnation in the last heartbeat that the sender received from it; 0 if it has
    /// received none.
    pub your_life: u64,
    /// The sender's clock when it sent this heartbeat.
    pub sent: u64,
    /// The receiver's clock (`sent`) in the last heartbeat that the sender received from it; 0 for none.
    pub heard: u64,
    /// The receiver's clock in the heartbeat that the sender's support answers; 0 if the sender does not
    /// support the receiver.
    pub promised_at: u64,
    /// For how long the sender supports the receiver, from the receipt of that heartbeat on, in microseconds.
    pub promise_us: u32,
    /// The number of the support: a new one each time that the sender begins to support the receiver again
    /// after it had not.
    pub promise: u32,
    /// Whether the sender's turns and syncs make progress, so that it may be supported.
    pub is_well: bool,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBeat {
    life: U64,
    your_life: U64,
    sent: U64,
    heard: U64,
    promised_at: U64,
    promise_us: U32,
    promise: U32,
    flags: u8,
    zero: [u8; 7],
}

const _: () = assert!(size_of::<RawBeat>() == BEAT_BYTES);

impl Beat {
    /// The bytes of the heartbeat.
    #[must_use]
    pub fn encode(&self) -> [u8; BEAT_BYTES] {
        let raw = RawBeat {
            life: self.life.into(),
            your_life: self.your_life.into(),
            sent: self.sent.into(),
            heard: self.heard.into(),
            promised_at: self.promised_at.into(),
            promise_us: self.promise_us.into(),
            promise: self.promise.into(),
            flags: if self.is_well { WELL } else { 0 },
            zero: [0; 7],
        };
        zerocopy::transmute!(raw)
    }

    /// Decodes a heartbeat; `None` if the length is not that of a heartbeat.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let raw = RawBeat::ref_from_bytes(bytes).ok()?;
        Some(Self {
            life: raw.life.get(),
            your_life: raw.your_life.get(),
            sent: raw.sent.get(),
            heard: raw.heard.get(),
            promised_at: raw.promised_at.get(),
            promise_us: raw.promise_us.get(),
            promise: raw.promise.get(),
            is_well: raw.flags & WELL != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_beat_survives_the_round_trip_and_nothing_shorter_is_one(
            times in any::<(u64, u64, u64, u64, u64)>(),
            promise in any::<(u32, u32, bool)>(),
        ) {
            let (life, your_life, sent, heard, promised_at) = times;
            let (promise_us, promise, is_well) = promise;
            let beat = Beat { life, your_life, sent, heard, promised_at, promise_us, promise, is_well };
            let bytes = beat.encode();
            prop_assert_eq!(Beat::parse(&bytes), Some(beat));
            for cut in 0..BEAT_BYTES {
                prop_assert_eq!(Beat::parse(&bytes[..cut]), None);
            }
        }
    }
}
