//! How a client reaches a node: a [`NodePort`], in the same process or through a socket.
//!
//! A port submits and completes in bulk and decides nothing: routing, retries and bookkeeping are the
//! [`client`](crate::client)'s.

mod local;
mod remote;

use std::time::Duration;

pub use local::LocalPort;
pub use remote::RemotePort;

use raftwerk::{Completion, GroupId, ReadOptions};

/// Why a port did not take an operation. Nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many operations are in flight as the port allows, or its buffer is full.
    Busy,
    /// The node is gone, or will never take such an operation.
    Closed,
}

/// One client thread's way to one node.
pub trait NodePort {
    /// Takes a proposal in; it leaves with the next flush. The payload is copied.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken.
    fn submit(&mut self, group: GroupId, token: u64, payload: &[u8]) -> Result<(), Refused>;

    /// Takes a read in, likewise.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken.
    fn read(
        &mut self,
        group: GroupId,
        token: u64,
        query: &[u8],
        options: ReadOptions<'_>,
    ) -> Result<(), Refused>;

    /// Sends what was taken in on its way.
    fn flush(&mut self);

    /// Appends what has completed to `out` and gives its number. Never blocks.
    fn take(&mut self, out: &mut Vec<Completion>) -> usize;

    /// Operations taken in and not yet completed.
    fn in_flight(&self) -> usize;

    /// Whether operations that are in flight can still complete. A closed port stays closed.
    fn is_open(&self) -> bool;

    /// Sleeps until one of the open ports may have completions, or so long; it may wake early.
    fn wait_any(ports: &mut [Option<Self>], at_most: Duration)
    where
        Self: Sized;
}
