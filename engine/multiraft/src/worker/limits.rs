//! How much one turn of a worker does before it leaves the rest to the next.
//!
//! A turn is to be short even if thousands of groups send at once, since node heartbeats are sent in turns.
//! What a turn leaves over is done by the turns that follow, so any delay of a few turns must be safe: the
//! simulator draws these limits from 1 upwards.

use crate::worker::storage::chunk::CHUNK_BYTES;

/// The limits of one turn. [`Default`] is what an engine uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnLimits {
    /// Group deadlines that fire. At least 1.
    pub deadlines: usize,
    /// Units taken from the network's inbox. At least 1.
    pub arrivals: usize,
    /// Messages in those units, counted after each unit: the last unit may exceed it.
    pub records: u32,
    /// Commands of the engine. At least 1.
    pub orders: usize,
    /// Replicas that receive a change of support between nodes. At least 1.
    pub notifications: usize,
    /// Messages of one control unit; a full unit leaves at once. 1 to 4,096, which is 768 KiB: the transport carries at most
    /// 1 MiB.
    pub control_records: u32,
    /// Bytes of committed entries that one group applies; one entry is always allowed.
    pub apply_bytes: u64,
    /// Bytes of a snapshot file in one chunk, 1 to 256 KiB (larger values count as that).
    pub chunk_bytes: u64,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            deadlines: 1024,
            arrivals: 256,
            records: 4096,
            orders: 512,
            notifications: 8192,
            control_records: 4 << 10,
            apply_bytes: 4 << 20,
            chunk_bytes: CHUNK_BYTES,
        }
    }
}
