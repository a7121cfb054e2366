//! Messages on their way to and from a stream: queued, coalesced into writes, framed.
//!
//! Next: `outbox.rs` for the queue of a peer's channel, `coalesce.rs` for a write's layout, `frames.rs` for
//! the bytes on a stream, `slabs.rs` for the memory of long messages. What is not here: streams and connections (`quic/`).
pub(crate) mod coalesce;
pub(crate) mod frames;
pub(crate) mod outbox;
pub(crate) mod slabs;

pub use frames::WireVersion;
