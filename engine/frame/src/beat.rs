//! What a worker says to one of another node that it shares groups with, once per interval, for all of these: that it lives,
//! and how long it supports that one. The only heartbeat of groups that have nothing to say.
//!
//! ```text
//! beat = life u64, your_life u64, sent u64, heard u64, promised_at u64, promise_us u32, promise u32, flags u8, zero u8 × 7
//! ```
//! It is the body of a unit of kind [`Beat`](crate::wire::UnitKind). Times are the clock of whoever's they are, in nanoseconds;
//! nobody compares them with his own but to subtract two readings of one clock.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a beat.
pub const BEAT_BYTES: usize = 56;
const WELL: u8 = 1;

/// One beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The sender's life: another one after each restart.
    pub life: u64,
    /// The receiver's, as the sender heard of it; 0 if it has not.
    pub your_life: u64,
    /// The sender's clock when it sent this.
    pub sent: u64,
    /// The receiver's clock in the last beat that the sender has heard of it; 0 for none.
    pub heard: u64,
    /// The receiver's clock in the beat that the sender's promise answers; 0 if it promises nothing.
    pub promised_at: u64,
    /// For how long the sender supports the receiver since it got that beat, in microseconds.
    pub promise_us: u32,
    /// Which promise: another one each time that the sender promises after it did not.
    pub promise: u32,
    /// Whether the sender's turns and syncs make progress: it may be supported.
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
    /// The beat's bytes.
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

    /// Reads a beat back; `None` if the bytes are not as many as a beat's.
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
