//! Counters of a transport: incremented on the net thread and by senders, read by any thread.
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of a transport since it started. Counters only grow; the fields are read one by one,
        /// so sums over several may be off by what happened in between.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct NetStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> NetStats {
                NetStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Bytes of messages handed to connections, length prefixes included.
    bytes_sent,
    /// Bytes of messages received, length prefixes included.
    bytes_received,
    /// Messages handed to connections.
    messages_sent,
    /// Messages received and passed on.
    messages_received,
    /// Stream writes made for `messages_sent`; their ratio shows how well small messages are coalesced.
    writes,
    /// Messages refused because the queue was full.
    dropped_full,
    /// Messages refused because there was no connection, or lost from a queue with their connection.
    dropped_disconnected,
    /// Connections that became ready for messages.
    connections,
    /// Those of them that were not the first to their peer.
    reconnects,
    /// Failed attempts to dial a peer.
    dials_failed,
    /// Connections refused because the other side is not a known node of this cluster: no certificate,
    /// another authority's, another cluster's, an unknown node, a node that should have waited to be dialled.
    strangers_refused,
    /// Incoming connections that were not complete by the handshake deadline.
    handshakes_expired,
    /// Initial packets not answered because all places for their kind of address were taken.
    half_open_refused,
    /// Initial packets not answered because their address had its maximum of handshakes, or one of its
    /// handshakes had failed before and it had to wait (1 s, at most 64 s).
    address_refused,
    /// Initial packets not answered because the maximum of handshakes in a second was reached.
    rate_refused,
    /// Handshakes evicted because they had been silent for half a second and another needed their place, or
    /// because a peer dialled anew.
    silent_evicted,
    /// Incoming connections answered with a Retry: their address was to be validated first.
    retries_demanded,
    /// Connections that did not come about because the two sides have different wire versions.
    versions_refused,
    /// Connections refused or closed because a certificate, of either side, had expired. Refused ones are
    /// among `strangers_refused` or `dials_failed`, too.
    certificates_expired,
    /// Connections closed because the peer broke the stream protocol: bad hello, message over the limit.
    protocol_violations,
    /// Connections closed because a control write made no progress.
    control_stalls,
    /// Wake-ups of the sleeping net thread (each costs a system call).
    wake_ups,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
