//! The admission policy: which incoming handshakes are begun, which senders must first have their address
//! validated, and which get no answer. Pure: time is a number, and nothing here touches a socket.
//!
//! An address falls into one of three classes:
//! 1. *Peer*: address and port are those where a known peer listens (a node dials from the port that it
//!    listens on), or from which its latest authenticated connection came. It has places of its own, which no
//!    other sender can take.
//! 2. *Host*: the IP address of a known peer, another port: a peer behind a translation of ports, or an
//!    unknown sender beside one. Each such IP address has places of its own.
//! 3. *Stranger*: every unknown address. All of them share the places of [`AdmissionLimits::strangers_max`],
//!    and none of their IP addresses (for IPv6, /64 networks) has more than
//!    [`AdmissionLimits::per_address_max`].
//!
//! A class counts only for a validated address (QUIC Retry, RFC 9000 section 8.1); without validation a
//! sender is a stranger, and instead of a refusal it gets a Retry. Within a class handshakes are admitted at
//! a bounded rate, since each costs a signature. When all places are taken, the oldest handshake of the class
//! is evicted if it has been silent for [`SILENT_AFTER`]; a peer's newest attempt replaces its older ones at
//! once. A validated address with a failed handshake waits before its next, 1 s, then four times as long each
//! time up to 64 s (a peer's host: 4 s), so that a thousand flooding addresses soon cost no more than a
//! hundred; Initial packets of waiting addresses, and those of strangers beyond a bounded rate, are dropped
//! unread. All state is bounded: the places, the known addresses, the penalties.
//!
//! What is not here: handshakes themselves and log lines (`endpoint.rs`), the classes (`address.rs`), the
//! waits (`penalties.rs`).
use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::SECOND;
use super::address::{Class, KnownAddresses, Network, canonical};
use super::penalties::{Penalties, PenaltyKey};
use super::token_bucket::TokenBucket;

/// A handshake that needs just one answer of the other side, and has not received it for this long, may be
/// evicted.
pub(crate) const SILENT_AFTER: u64 = SECOND / 2;
/// The maximum of concurrent handshakes with one address of a known peer: the newest and one before it.
const PER_PEER_MAX: usize = 2;
/// The maximum of concurrent handshakes with one IP address of a known peer, from other ports.
const PER_HOST_MAX: usize = 8;
/// Handshakes a second from one known peer's address; a node that dials without success makes about one.
const PEER_RATE: u64 = 16;
/// Handshakes a second from other ports of a known peer's IP address.
const HOST_RATE: u64 = 32;
/// Initial packets read for each handshake that may be begun: reading one takes keys derived for it, some
/// twenty microseconds, and a net thread that is late loses packets of peers.
const READ_PER_HANDSHAKE: u64 = 20;

/// The configurable limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    /// Places for the handshakes of strangers, that is unknown senders.
    pub(super) strangers_max: usize,
    /// Of them, for those of one IP address, or one /64 network.
    pub(super) per_address_max: usize,
    /// Handshakes of strangers begun in a second.
    pub(super) strangers_per_second: u32,
    /// The number of concurrent handshakes, of all classes, from which on none is admitted without validation
    /// of its address.
    pub(super) retry_from: usize,
}

/// Whether a sender has shown that it receives at its address (RFC 9000, section 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AddressValidation {
    Unvalidated,
    Validated,
}

/// Why a handshake is not answered. Its sender repeats its Initial packet some times before it gives up, and
/// each is decided on anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// All places of its class are taken by handshakes that are not yet silent.
    Places,
    /// Its address has its maximum of handshakes, or one has failed and it has to wait.
    Address,
    /// The maximum of handshakes in a second was admitted.
    Rate,
}

/// The decision on an incoming handshake.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Decision<H> {
    /// It is begun, and the evicted one, if any, ended.
    Admit {
        /// To be passed to [`AdmissionPolicy::on_handshake_end`].
        id: u64,
        /// The silent one that was evicted.
        evicted: Option<H>,
    },
    /// Its sender must have its address validated.
    Retry,
    /// It is not answered.
    Ignore(Refusal),
}

/// The outcome of an admitted handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HandshakeOutcome {
    /// The other side presented a certificate of the cluster, whatever happened afterwards.
    Authenticated,
    /// It presented none: it fell silent, or failed.
    Failed,
}

#[derive(Debug)]
struct Handshake<H> {
    address: SocketAddr,
    class: Class,
    is_validated: bool,
    began_at: u64,
    handle: H,
}

impl<H> Handshake<H> {
    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.began_at)
    }
}

/// The handshakes in progress, and the penalties of earlier ones. `H` is the caller's handle of a handshake.
#[derive(Debug)]
pub(crate) struct AdmissionPolicy<H> {
    limits: AdmissionLimits,
    /// By id, so in order of arrival.
    handshakes: BTreeMap<u64, Handshake<H>>,
    last_id: u64,
    stranger_rate: TokenBucket,
    /// Initial packets of strangers, and of hosts, that are read.
    read_rates: [TokenBucket; 2],
    /// Rates of classes of known addresses; made when needed.
    known_rates: BTreeMap<Class, TokenBucket>,
    penalties: Penalties,
}

impl<H> AdmissionPolicy<H> {
    pub(crate) fn new(limits: AdmissionLimits, now: u64) -> Self {
        Self {
            limits,
            handshakes: BTreeMap::new(),
            last_id: 0,
            stranger_rate: TokenBucket::new(u64::from(limits.strangers_per_second), now),
            read_rates: [u64::from(limits.strangers_per_second), HOST_RATE]
                .map(|rate| TokenBucket::new(READ_PER_HANDSHAKE * rate, now)),
            known_rates: BTreeMap::new(),
            penalties: Penalties::default(),
        }
    }

    /// Decides on an incoming handshake. `handle` is kept only if it is admitted. Costs a scan of the
    /// handshakes in progress, which are few.
    pub(crate) fn decide(
        &mut self,
        now: u64,
        address: SocketAddr,
        validation: AddressValidation,
        known: &KnownAddresses,
        handle: H,
    ) -> Decision<H> {
        let is_validated = validation == AddressValidation::Validated;
        let address = canonical(address);
        let class = if is_validated { known.class(address) } else { Class::Stranger };
        if !is_validated && self.handshakes.len() >= self.limits.retry_from {
            return Decision::Retry;
        }
        match self.find_place(now, address, class, known) {
            Ok(evicts) => {
                let evicted = evicts.and_then(|id| self.remove(now, id, HandshakeOutcome::Failed));
                self.last_id += 1;
                self.handshakes
                    .insert(self.last_id, Handshake { address, class, is_validated, began_at: now, handle });
                Decision::Admit { id: self.last_id, evicted }
            }
            Err(_) if !is_validated => Decision::Retry,
            Err(refusal) => Decision::Ignore(refusal),
        }
    }

    /// Why an Initial packet is dropped unread, if it is: its address must wait for its next handshake, or
    /// too many of its class have come in the last second. A peer's is always read. Costs a lookup of the
    /// penalties.
    pub(crate) fn filter_initial(
        &mut self,
        now: u64,
        address: SocketAddr,
        known: &KnownAddresses,
    ) -> Option<Refusal> {
        let address = canonical(address);
        let class = known.class(address);
        let read = match class {
            Class::Peer(_) => return None,
            Class::Host(_) => &mut self.read_rates[1],
            Class::Stranger => &mut self.read_rates[0],
        };
        if self.penalties.is_waiting(now, PenaltyKey::of(class, address)) {
            Some(Refusal::Address)
        } else if read.take(now) {
            None
        } else {
            Some(Refusal::Rate)
        }
    }

    /// An admitted handshake has ended. Calling it for an evicted one has no effect.
    pub(crate) fn on_handshake_end(&mut self, now: u64, id: u64, outcome: HandshakeOutcome) {
        self.remove(now, id, outcome);
    }

    /// Whether there is a place, and which handshake is evicted for it.
    fn find_place(
        &mut self,
        now: u64,
        address: SocketAddr,
        class: Class,
        known: &KnownAddresses,
    ) -> Result<Option<u64>, Refusal> {
        if self.penalties.is_waiting(now, PenaltyKey::of(class, address)) {
            return Err(Refusal::Address);
        }
        let (max, patience) = match class {
            Class::Peer(_) => (PER_PEER_MAX, 0),
            Class::Host(_) => (PER_HOST_MAX, SILENT_AFTER),
            Class::Stranger => {
                let network = Network::of(address);
                let mut same = self
                    .of(class)
                    .map(|(_, handshake)| handshake)
                    .filter(|handshake| Network::of(handshake.address) == network);
                let oldest = same.next().map(|handshake| (handshake.is_validated, handshake.began_at));
                let others = same.count();
                if let Some((is_validated, began_at)) =
                    oldest.filter(|_| others + 1 >= self.limits.per_address_max)
                {
                    // It begins more handshakes without continuing those it has.
                    if is_validated && now.saturating_sub(began_at) >= SILENT_AFTER {
                        self.penalties.add(now, PenaltyKey::Network(network));
                    }
                    return Err(Refusal::Address);
                }
                (self.limits.strangers_max, SILENT_AFTER)
            }
        };
        let evicts = if self.of(class).count() < max {
            None
        } else {
            let oldest = self.of(class).next().filter(|(_, handshake)| handshake.age(now) >= patience);
            Some(oldest.ok_or(Refusal::Places)?.0)
        };
        if self.class_bucket(now, class, known).take(now) { Ok(evicts) } else { Err(Refusal::Rate) }
    }

    fn of(&self, class: Class) -> impl Iterator<Item = (u64, &Handshake<H>)> {
        let all = self.handshakes.iter().map(|(id, handshake)| (*id, handshake));
        all.filter(move |(_, handshake)| handshake.class == class)
    }

    fn class_bucket(&mut self, now: u64, class: Class, known: &KnownAddresses) -> &mut TokenBucket {
        let rate = match class {
            Class::Peer(_) => PEER_RATE,
            Class::Host(_) => HOST_RATE,
            Class::Stranger => return &mut self.stranger_rate,
        };
        if self.known_rates.len() > 2 * known.len() {
            // Peers have moved since.
            self.known_rates.retain(|class, _| known.has(class));
        }
        self.known_rates.entry(class).or_insert_with(|| TokenBucket::new(rate, now))
    }

    fn remove(&mut self, now: u64, id: u64, outcome: HandshakeOutcome) -> Option<H> {
        let handshake = self.handshakes.remove(&id)?;
        let key = PenaltyKey::of(handshake.class, handshake.address);
        match outcome {
            HandshakeOutcome::Authenticated => self.penalties.clear(key),
            // A sender may have forged an address that is not validated. A peer's own address has no penalty:
            // its handshakes fail by the hundred while its machine is busy or its network bad.
            HandshakeOutcome::Failed
                if handshake.is_validated && !matches!(handshake.class, Class::Peer(_)) =>
            {
                self.penalties.add(now, key);
            }
            HandshakeOutcome::Failed => {}
        }
        Some(handshake.handle)
    }
}

#[cfg(test)]
mod tests;
