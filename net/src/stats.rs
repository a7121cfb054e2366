//! Counters of a transport: bumped on the net thread and by senders, read by anyone.
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a transport has done since it started. Counters only grow; the fields are read one by one, so sums
        /// over several may be off by what happened in between.
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
    /// Stream writes made for `messages_sent`; their ratio is how well small messages are coalesced.
    writes,
    /// Messages refused because the queue was full.
    dropped_full,
    /// Messages refused for want of a connection, or lost from a queue with their connection.
    dropped_disconnected,
    /// Connections that came to carry messages.
    connections,
    /// Those of them that were not the first to their peer.
    reconnects,
    /// Attempts to dial a peer that came to nothing.
    dials_failed,
    /// Connections refused because the other side is not a known node of this cluster: no certificate, another
    /// authority's, another cluster's, an unknown node, a node that should have waited to be dialled.
    strangers_refused,
    /// Incoming connections that were not complete by the handshake deadline.
    handshakes_expired,
    /// First packets not answered because all places for their kind of address were taken.
    half_open_refused,
    /// First packets not answered because their address held all it may hold, or had wasted a handshake before and had to
    /// wait (1 s, at most 64 s).
    address_refused,
    /// First packets not answered because so many handshakes had been begun in the last second.
    rate_refused,
    /// Handshakes ended because they had been silent for half a second and another wanted their place, or because a peer
    /// dialled anew.
    silent_evicted,
    /// Incoming connections told to prove their address first.
    retries_demanded,
    /// Connections that did not come about because the two sides speak different versions of the wire.
    versions_refused,
    /// Connections refused or closed because a certificate, of either side, had expired. Refused ones are among
    /// `strangers_refused` or `dials_failed`, too.
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
