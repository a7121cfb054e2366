//! The admission policy under floods, with time as a number.
use super::super::penalties::PENALTIES_MAX;
use super::*;

const MILLI: u64 = SECOND / 1000;
const LIMITS: AdmissionLimits =
    AdmissionLimits { strangers_max: 64, per_address_max: 4, strangers_per_second: 64, retry_from: 16 };

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn known() -> KnownAddresses {
    [at("10.0.0.1:7400"), at("10.0.0.2:7400"), at("[2001:db8:1:2::1]:7400")].into_iter().collect()
}

/// A policy and its senders, in which every admitted handshake stays silent for ever, except those of
/// legitimate peers.
struct World {
    policy: AdmissionPolicy<SocketAddr>,
    known: KnownAddresses,
    now: u64,
    admitted: u64,
    /// Initial packets that were read.
    read: u64,
}

impl World {
    fn new() -> Self {
        Self { policy: AdmissionPolicy::new(LIMITS, 0), known: known(), now: 0, admitted: 0, read: 0 }
    }

    /// A sender that answers a Retry.
    fn attempt(&mut self, from: SocketAddr) -> Decision<SocketAddr> {
        if let Some(reason) = self.policy.filter_initial(self.now, from, &self.known) {
            return Decision::Ignore(reason);
        }
        self.read += 1;
        let decision =
            match self.policy.decide(self.now, from, AddressValidation::Unvalidated, &self.known, from) {
                Decision::Retry => {
                    self.policy.decide(self.now, from, AddressValidation::Validated, &self.known, from)
                }
                other => other,
            };
        self.admitted += u64::from(matches!(decision, Decision::Admit { .. }));
        assert!(self.policy.handshakes.len() <= LIMITS.strangers_max + 3 * (PER_PEER_MAX + PER_HOST_MAX));
        assert!(self.policy.penalties.len() <= PENALTIES_MAX);
        assert!(self.policy.known_rates.len() <= 2 * self.known.len() + 1);
        decision
    }

    /// `per_second` handshakes a second for `nanos`, from these addresses in turn; then advances the time.
    fn flood(&mut self, per_second: u64, nanos: u64, from: impl Fn(u64) -> SocketAddr) {
        let (began, count) = (self.now, nanos / (SECOND / per_second));
        for n in 0..count {
            self.now = began + n * (SECOND / per_second);
            self.attempt(from(n));
        }
        self.now = began + nanos;
    }

    /// How long a legitimate peer, which repeats its Initial packet as QUIC does, waits for admission during
    /// the flood.
    fn delay(&mut self, peer: SocketAddr, per_second: u64, from: impl Fn(u64) -> SocketAddr) -> u64 {
        let began = self.now;
        for gap in [0, 150, 300, 600, 1_200] {
            self.flood(per_second, gap * MILLI, &from);
            if let Decision::Admit { id, .. } = self.attempt(peer) {
                self.policy.on_handshake_end(self.now, id, HandshakeOutcome::Authenticated);
                return self.now - began;
            }
        }
        u64::MAX
    }
}

/// The n-th of a thousand addresses, with ports that change all the time.
fn one_of_a_thousand(n: u64) -> SocketAddr {
    SocketAddr::from(([198, 51, (n % 1000 / 250) as u8, (n % 250) as u8], 1024 + (n % 50_000) as u16))
}

#[test]
fn peer_is_admitted_at_once_during_a_flood() {
    let one_port = |_| at("203.0.113.9:5555");
    let many_ports = |n| SocketAddr::from(([203, 0, 113, 9], 1024 + (n % 60_000) as u16));
    let beside_the_peer = |n| SocketAddr::from(([10, 0, 0, 1], 8000 + (n % 50_000) as u16));
    let floods: [&dyn Fn(u64) -> SocketAddr; 4] =
        [&one_port, &many_ports, &beside_the_peer, &one_of_a_thousand];
    for (case, from) in floods.into_iter().enumerate() {
        for rate in [200, 500, 2_000, 10_000] {
            let mut world = World::new();
            for second in 0..4 {
                world.flood(rate, SECOND, from);
                let delay = world.delay(at("10.0.0.1:7400"), rate, from);
                assert_eq!(delay, 0, "flood {case} of {rate}/s, second {second}");
            }
        }
    }
}

#[test]
fn flood_gets_no_more_handshakes_than_its_class_has() {
    let mut world = World::new();
    world.flood(10_000, 10 * SECOND, one_of_a_thousand);
    assert!(world.admitted <= 64 * 11, "{} of 100,000", world.admitted);
    assert!(world.read <= 64 * 20 * 11, "{} of 100,000 were read", world.read);
    let mut world = World::new();
    world.flood(10_000, 10 * SECOND, |_| at("203.0.113.9:5555"));
    assert!(world.admitted <= 16 + 4 * 5, "one address: {} of 100,000", world.admitted);
    assert!(world.read < 20_000, "one address: {} of 100,000 were read", world.read);
}

#[test]
fn unknown_port_of_a_peers_host_is_admitted_beside_a_stranger() {
    let stranger = |_| at("10.0.0.1:5555");
    let mut world = World::new();
    world.flood(10_000, 5 * SECOND, stranger);
    assert_eq!(world.delay(at("10.0.0.1:6666"), 10_000, stranger), 0);
}

#[test]
fn unknown_address_is_admitted_once_a_thousand_strangers_wait() {
    let mut world = World::new();
    world.flood(10_000, 40 * SECOND, one_of_a_thousand);
    let delay = world.delay(at("192.0.2.1:7400"), 10_000, one_of_a_thousand);
    assert!(delay < SECOND, "{} ms", delay / MILLI);
}

#[test]
fn policy_evicts_the_oldest_silent_stranger_and_no_other() {
    let mut world = World::new();
    let nth = |n: u64| SocketAddr::from(([198, 51, 100, n as u8], 99));
    for n in 0..64 {
        assert!(matches!(world.attempt(nth(n)), Decision::Admit { evicted: None, .. }), "{n}");
    }
    world.now = SILENT_AFTER - 1;
    assert_eq!(world.attempt(nth(64)), Decision::Ignore(Refusal::Places));
    world.now = SILENT_AFTER;
    let Decision::Admit { id, evicted } = world.attempt(nth(64)) else { panic!("there is a silent one") };
    assert_eq!(evicted, Some(nth(0)));
    world.policy.on_handshake_end(world.now, id, HandshakeOutcome::Authenticated);
    assert!(matches!(world.attempt(nth(65)), Decision::Admit { evicted: None, .. }), "a free place");
}

#[test]
fn peer_that_dials_again_replaces_its_own_attempt() {
    let mut world = World::new();
    let peer = at("10.0.0.1:7400");
    world.flood(10_000, SECOND / 100, one_of_a_thousand);
    for expected in [None, None, Some(peer), Some(peer)] {
        let Decision::Admit { evicted, .. } = world.attempt(peer) else { panic!("a peer is admitted") };
        assert_eq!(evicted, expected);
    }
    // Its places are its own, and another's are not taken for it.
    assert!(matches!(world.attempt(at("10.0.0.2:7400")), Decision::Admit { evicted: None, .. }));
}

#[test]
fn unvalidated_address_of_a_peer_counts_as_a_stranger() {
    let (mut policy, known) = (AdmissionPolicy::new(LIMITS, 0), known());
    let peer = at("10.0.0.1:7400");
    for n in 0..4 {
        assert!(matches!(
            policy.decide(n, peer, AddressValidation::Unvalidated, &known, ()),
            Decision::Admit { .. }
        ));
    }
    assert_eq!(
        policy.decide(5, peer, AddressValidation::Unvalidated, &known, ()),
        Decision::Retry,
        "one address holds four at most"
    );
    assert!(policy.handshakes.values().all(|handshake| handshake.class == Class::Stranger));
    let last_id: Vec<u64> = policy.handshakes.keys().copied().collect();
    for id in last_id {
        policy.on_handshake_end(6, id, HandshakeOutcome::Failed);
    }
    assert_eq!(policy.penalties.len(), 0, "the owner of a forged address has no penalty");
}

#[test]
fn policy_demands_validation_of_a_crowd() {
    let (mut policy, known) = (AdmissionPolicy::new(LIMITS, 0), known());
    for n in 0..16 {
        let decision = policy.decide(n, one_of_a_thousand(n), AddressValidation::Unvalidated, &known, ());
        assert!(matches!(decision, Decision::Admit { .. }));
    }
    assert_eq!(
        policy.decide(17, one_of_a_thousand(17), AddressValidation::Unvalidated, &known, ()),
        Decision::Retry
    );
    assert!(matches!(
        policy.decide(17, one_of_a_thousand(17), AddressValidation::Validated, &known, ()),
        Decision::Admit { .. }
    ));
}

#[test]
fn penalty_grows_with_failures_until_a_certificate_clears_it() {
    let (mut policy, known) = (AdmissionPolicy::new(LIMITS, 0), known());
    let stranger = at("203.0.113.9:5555");
    let mut now = 0;
    for wait in [1, 4, 16, 64, 64] {
        let Decision::Admit { id, .. } =
            policy.decide(now, stranger, AddressValidation::Validated, &known, ())
        else {
            panic!("nothing is owed before the wait of {wait} s")
        };
        policy.on_handshake_end(now, id, HandshakeOutcome::Failed);
        let early =
            policy.decide(now + wait * SECOND - 1, stranger, AddressValidation::Validated, &known, ());
        assert_eq!(early, Decision::Ignore(Refusal::Address), "{wait} s");
        now += wait * SECOND;
    }
    let Decision::Admit { id, .. } = policy.decide(now, stranger, AddressValidation::Validated, &known, ())
    else {
        panic!("paid")
    };
    policy.on_handshake_end(now, id, HandshakeOutcome::Authenticated);
    assert_eq!(policy.penalties.len(), 0);
}

#[test]
fn network_of_ipv6_is_one_address_and_mapped_ipv4_is_ipv4() {
    let mut world = World::new();
    for n in 0..16 {
        world.attempt(SocketAddr::from(([198, 51, 100, n], 1)));
    }
    for host in 1..=4 {
        let from = SocketAddr::from(([0x2001, 0xdb8, 9, 9, 0, 0, 0, host], 1));
        assert!(matches!(world.attempt(from), Decision::Admit { .. }));
    }
    assert_eq!(world.attempt(at("[2001:db8:9:9:ffff::1]:7")), Decision::Ignore(Refusal::Address));
    assert!(matches!(world.attempt(at("[2001:db8:9:a::1]:7")), Decision::Admit { .. }));
    let known = known();
    assert_eq!(known.class(canonical(at("[::ffff:10.0.0.1]:7400"))), Class::Peer(at("10.0.0.1:7400")));
    assert!(matches!(known.class(at("[2001:db8:1:2::77]:1")), Class::Host(_)));
}

#[test]
fn penalties_and_rates_have_a_bound() {
    let (mut policy, known) = (AdmissionPolicy::new(LIMITS, 0), known());
    for n in 0..3 * PENALTIES_MAX as u64 {
        let now = n * SECOND;
        let from = SocketAddr::from(((n as u32 | 0x6400_0000).to_be_bytes(), 1));
        let Decision::Admit { id, .. } = policy.decide(now, from, AddressValidation::Validated, &known, ())
        else {
            panic!("{n}")
        };
        policy.on_handshake_end(now, id, HandshakeOutcome::Failed);
        assert!(policy.penalties.len() <= PENALTIES_MAX);
    }
    assert_eq!(policy.penalties.len(), PENALTIES_MAX);
    // Peers that move leave no state behind for good.
    for n in 0..100u32 {
        let peer = SocketAddr::from(((n | 0x0A01_0000).to_be_bytes(), 7400));
        let known: KnownAddresses = [peer].into_iter().collect();
        let now = (u64::from(n) + 100_000) * SECOND;
        let Decision::Admit { id, .. } = policy.decide(now, peer, AddressValidation::Validated, &known, ())
        else {
            panic!("{n}")
        };
        policy.on_handshake_end(now, id, HandshakeOutcome::Authenticated);
        assert!(policy.known_rates.len() <= 5);
    }
}
