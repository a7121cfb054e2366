//! The state of one peer on a node: its address, its outboxes, and its current connection.
//!
//! Shared by senders (outboxes, epoch) and the net thread (everything). What is not here: making connections
//! (`dial.rs`, `endpoint.rs`) and using them (`session.rs`).
mod error;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub use self::error::PeerError;
use crate::config::QuicConfig;
use crate::message::outbox::Outbox;
use crate::quic::throttle::Throttle;
use crate::transport::{Channel, PeerId};

/// Stands for "no connection".
pub(crate) const NO_EPOCH: u64 = 0;

/// One peer.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    /// Number of the current connection, [`NO_EPOCH`] if none. Frames and messages of others are dropped.
    epoch: AtomicU64,
    outboxes: [Arc<Outbox>; Channel::COUNT],
    removed: AtomicBool,
    /// Notified when the address changed or the peer was removed; awaited by the dialler.
    changed: Notify,
    link: Mutex<Link>,
}

/// The connection that a peer had before its current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// It was connected before.
    Connection,
    /// This connection is its first.
    None,
}

/// The cold part: accessed when connections come and go.
struct Link {
    address: SocketAddr,
    connection: Option<quinn::Connection>,
    /// Set by the first connection, for ever.
    earlier: Earlier,
    /// The address of its latest connection, once its certificate was verified.
    last_remote: Option<SocketAddr>,
    /// Why the latest connection ended or did not come about; `None` while there is one.
    error: Option<PeerError>,
    log_throttle: Throttle,
}

impl Peer {
    /// A peer without a connection.
    pub(crate) fn new(id: PeerId, address: SocketAddr, config: &QuicConfig) -> Self {
        Self {
            id,
            epoch: AtomicU64::new(NO_EPOCH),
            outboxes: Channel::ALL.map(|channel| {
                let (queue, message) = (&config.queue_bytes_max, &config.message_bytes_max);
                Arc::new(Outbox::new(queue.of(channel), message.of(channel)))
            }),
            removed: AtomicBool::new(false),
            changed: Notify::new(),
            link: Mutex::new(Link {
                address,
                connection: None,
                earlier: Earlier::None,
                last_remote: None,
                error: None,
                log_throttle: Throttle::default(),
            }),
        }
    }

    /// The number of the current connection, [`NO_EPOCH`] if none.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The address on which the peer listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.link().address
    }

    /// The addresses from which the peer is expected to connect: where it listens, and that of its latest
    /// connection.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let link = self.link();
        std::iter::once(link.address).chain(link.last_remote)
    }

    /// The current connection.
    pub(crate) fn connection(&self) -> Option<quinn::Connection> {
        self.link().connection.clone()
    }

    /// Why there is no connection, if one was tried or lost.
    pub(crate) fn error(&self) -> Option<PeerError> {
        self.link().error.clone()
    }

    /// Records why a connection ended or did not come about, and logs it at a limited rate.
    pub(crate) fn on_failure(&self, now: u64, error: PeerError) {
        let mut link = self.link();
        let permit = if error.needs_operator() { link.log_throttle.pass(now) } else { None };
        let address = link.address;
        tracing::debug!(peer = %self.id, %address, %error, "no connection");
        if let Some(left_out) = permit {
            tracing::warn!(peer = %self.id, %address, %error, left_out, "cannot work with this peer");
        }
        link.error = Some(error);
    }

    /// Sets the address on which the peer listens. Returns the current connection if the address has
    /// changed.
    pub(crate) fn set_address(&self, address: SocketAddr) -> Option<quinn::Connection> {
        let mut link = self.link();
        if link.address == address {
            return None;
        }
        link.address = address;
        let connection = link.connection.clone();
        drop(link);
        self.changed.notify_one();
        connection
    }

    /// Marks the peer as removed: it gets no more connections. Returns the current one.
    pub(crate) fn remove(&self) -> Option<quinn::Connection> {
        let link = self.link();
        self.removed.store(true, Ordering::Release);
        let connection = link.connection.clone();
        drop(link);
        self.changed.notify_one();
        connection
    }

    /// The outbox of a slot of [`Channel::ALL`].
    pub(crate) fn outbox(&self, slot: usize) -> &Arc<Outbox> {
        &self.outboxes[slot]
    }

    /// Ends when the address changes or the peer is removed.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Whether the peer was removed.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Makes a connection the current one under a new epoch; the one before must have been retired. Returns
    /// whether the peer was connected at any time before; `None` if it was removed meanwhile.
    pub(crate) fn install(&self, connection: &quinn::Connection, epoch: u64) -> Option<Earlier> {
        let mut link = self.link();
        assert!(link.connection.is_none() && epoch != NO_EPOCH, "one connection in force at a time");
        if self.is_removed() {
            return None;
        }
        link.connection = Some(connection.clone());
        link.last_remote = Some(connection.remote_address());
        link.error = None;
        self.epoch.store(epoch, Ordering::Release);
        Some(std::mem::replace(&mut link.earlier, Earlier::Connection))
    }

    /// Retires the connection of an epoch and returns it; `None` if it was not the current one.
    pub(crate) fn retire(&self, epoch: u64) -> Option<quinn::Connection> {
        let mut link = self.link();
        if epoch == NO_EPOCH || self.epoch.load(Ordering::Acquire) != epoch {
            return None;
        }
        self.epoch.store(NO_EPOCH, Ordering::Release);
        link.connection.take()
    }

    /// Bytes queued in all outboxes, overhead included.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.outboxes.iter().map(|outbox| outbox.bytes() as u64).sum()
    }

    /// Drops everything queued in all outboxes; returns the number of messages.
    pub(crate) fn clear_outboxes(&self) -> u64 {
        self.outboxes.iter().map(|outbox| outbox.clear()).sum()
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        // Every change under this lock is complete at each step, so a poisoned lock is usable.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
