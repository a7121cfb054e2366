//! Penalties: addresses with failed handshakes, and how long each waits before its next.
//!
//! Pure: time is a number of nanoseconds. Bounded by [`PENALTIES_MAX`]. What is not here: which failures
//! count (`policy.rs`).
use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::SECOND;
use super::address::{Class, Network};

/// The maximum of recorded penalties.
pub(super) const PENALTIES_MAX: usize = 4096;
/// How often the wait of a stranger with failed handshakes is quadrupled, beginning with a second.
const PENALTY_STEPS_MAX: u32 = 3;
/// Likewise for a port of a known peer's host, which may be that peer in trouble.
const HOST_PENALTY_STEPS_MAX: u32 = 1;

/// The unit by which penalties are counted. A host's ports are counted separately, so that an unknown sender
/// on a peer's machine waits for its own failures only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum PenaltyKey {
    Network(Network),
    Port(SocketAddr),
}

impl PenaltyKey {
    pub(super) fn of(class: Class, address: SocketAddr) -> Self {
        match class {
            Class::Peer(_) | Class::Host(_) => Self::Port(address),
            Class::Stranger => Self::Network(Network::of(address)),
        }
    }
}

/// The penalty of one address.
#[derive(Clone, Copy, Debug)]
struct Penalty {
    /// Failed handshakes that each raised the wait.
    failures: u32,
    /// No handshake is admitted before this time.
    until: u64,
}

/// All penalties. Invariant: at most [`PENALTIES_MAX`].
#[derive(Default, Debug)]
pub(super) struct Penalties {
    entries: BTreeMap<PenaltyKey, Penalty>,
    /// Where the next penalty is dropped when there are too many.
    evict_from: Option<PenaltyKey>,
}

impl Penalties {
    /// Whether the address must wait for its next handshake.
    pub(super) fn is_waiting(&self, now: u64, key: PenaltyKey) -> bool {
        self.entries.get(&key).is_some_and(|penalty| now < penalty.until)
    }

    /// Raises the penalty of an address after a failed handshake.
    pub(super) fn add(&mut self, now: u64, key: PenaltyKey) {
        if self.entries.len() >= PENALTIES_MAX && !self.entries.contains_key(&key) {
            self.evict_one();
        }
        let penalty = self.entries.entry(key).or_insert(Penalty { failures: 0, until: 0 });
        if now < penalty.until {
            // Handshakes that were begun together count as one failure.
            return;
        }
        let steps_max =
            if matches!(key, PenaltyKey::Port(_)) { HOST_PENALTY_STEPS_MAX } else { PENALTY_STEPS_MAX };
        let wait = |failures: u32| SECOND << (2 * failures.min(steps_max));
        // A penalty that ended long ago starts over.
        if now.saturating_sub(penalty.until) > wait(penalty.failures) {
            penalty.failures = 0;
        }
        penalty.until = now + wait(penalty.failures);
        penalty.failures += 1;
    }

    /// Removes the penalty of an address.
    pub(super) fn clear(&mut self, key: PenaltyKey) {
        self.entries.remove(&key);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops one penalty, each time another one: an attacker with enough addresses to push others out cannot
    /// choose which of its own is dropped.
    fn evict_one(&mut self) {
        let next = self.evict_from.and_then(|from| self.entries.range(from..).next());
        if let Some((key, _)) = next.or_else(|| self.entries.first_key_value()) {
            let key = *key;
            self.entries.remove(&key);
            self.evict_from = Some(key);
        }
    }
}
