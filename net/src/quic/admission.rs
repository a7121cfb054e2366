//! IMPURE: admission of incoming connections: the policy with its inputs, shared by the socket and the
//! endpoint. Reads the clock of the environment.
//!
//! Next: `policy.rs` for the rules, `filter.rs` for the socket that drops Initial packets unread. What is not
//! here: the handshakes (`endpoint.rs`).
mod address;
pub(crate) mod filter;
mod penalties;
pub(crate) mod policy;
mod token_bucket;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use quinn::Runtime;
use tokio::sync::Notify;

use self::address::KnownAddresses;
use self::filter::InitialFilter;
use self::policy::{
    AddressValidation, AdmissionLimits, AdmissionPolicy, Decision, HandshakeOutcome, Refusal,
};
use super::lock;
use crate::config::QuicConfig;
use crate::environment::Environment;

const SECOND: u64 = 1_000_000_000;

/// The admission policy and its inputs: shared by the socket, which drops packets unread, and the endpoint.
pub(crate) struct Admission {
    runtime: Arc<dyn Runtime>,
    /// The runtime's time at which the transport's began.
    origin: Instant,
    policy: Mutex<AdmissionPolicy<Arc<Notify>>>,
    /// The addresses of the peers. Replaced as a whole whenever one of them changes.
    known: ArcSwap<KnownAddresses>,
    /// Initial packets dropped unread, for their address and for the rate.
    dropped: [AtomicU64; 2],
}

impl Admission {
    /// Admission without known peers; its time begins now.
    pub(crate) fn new(config: &QuicConfig, environment: &Environment) -> Self {
        Self {
            runtime: Arc::clone(&environment.runtime),
            origin: environment.runtime.now(),
            policy: Mutex::new(AdmissionPolicy::new(limits(config), 0)),
            known: ArcSwap::default(),
            dropped: Default::default(),
        }
    }

    /// Nanoseconds since the transport was started, by the clock of its environment.
    pub(crate) fn now(&self) -> u64 {
        self.runtime.now().saturating_duration_since(self.origin).as_nanos() as u64
    }

    /// Initial packets dropped unread, for their address and for the rate.
    pub(crate) fn dropped(&self) -> [u64; 2] {
        [0, 1].map(|reason: usize| self.dropped[reason].load(Ordering::Relaxed))
    }

    /// Whether it is a peer's own address.
    pub(crate) fn is_peer(&self, address: SocketAddr) -> bool {
        self.known.load().is_peer(address)
    }

    /// Replaces the addresses of the peers.
    pub(crate) fn set_peer_addresses(&self, addresses: impl Iterator<Item = SocketAddr>) {
        self.known.store(Arc::new(addresses.collect()));
    }

    /// Decides on an incoming handshake. `eviction` is notified if an admitted one must end for another.
    pub(crate) fn decide(
        &self,
        from: SocketAddr,
        validation: AddressValidation,
        eviction: Arc<Notify>,
    ) -> Decision<Arc<Notify>> {
        lock(&self.policy).decide(self.now(), from, validation, &self.known.load(), eviction)
    }

    fn on_handshake_end(&self, id: u64, outcome: HandshakeOutcome) {
        lock(&self.policy).on_handshake_end(self.now(), id, outcome);
    }
}

impl InitialFilter for Admission {
    fn drops(&self, from: SocketAddr, packets: usize) -> bool {
        let Some(reason) = lock(&self.policy).filter_initial(self.now(), from, &self.known.load()) else {
            return false;
        };
        let counter = &self.dropped[usize::from(reason == Refusal::Rate)];
        counter.fetch_add(packets as u64, Ordering::Relaxed);
        true
    }
}

fn limits(config: &QuicConfig) -> AdmissionLimits {
    AdmissionLimits {
        strangers_max: config.half_open_max,
        per_address_max: config.half_open_per_address,
        strangers_per_second: config.strangers_per_second,
        retry_from: config.half_open_retry,
    }
}

/// An admitted handshake's place, given back when it is dropped.
pub(crate) struct HandshakeGuard {
    admission: Arc<Admission>,
    id: u64,
    outcome: HandshakeOutcome,
}

impl HandshakeGuard {
    /// The place of the handshake that was admitted with this id.
    pub(crate) fn new(admission: &Arc<Admission>, id: u64) -> Self {
        Self { admission: Arc::clone(admission), id, outcome: HandshakeOutcome::Failed }
    }

    /// The other side has presented a certificate of the cluster.
    pub(crate) fn authenticated(mut self) {
        self.outcome = HandshakeOutcome::Authenticated;
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        self.admission.on_handshake_end(self.id, self.outcome);
    }
}
