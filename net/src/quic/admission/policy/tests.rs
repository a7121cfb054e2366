//! The gate's policy under floods, with time as a number.
use super::*;

const MILLI: u64 = SECOND / 1000;
const LIMITS: Limits =
    Limits { strangers_max: 64, per_address_max: 4, strangers_per_second: 64, proof_from: 16 };

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn known() -> KnownAddresses {
    [at("10.0.0.1:7400"), at("10.0.0.2:7400"), at("[2001:db8:1:2::1]:7400")].into_iter().collect()
}

/// A gate and its senders, in which every admitted handshake stays silent for ever, except those of
/// legitimate peers.
struct World {
    gate: Gate<SocketAddr>,
    known: KnownAddresses,
    now: u64,
    admitted: u64,
    /// First packets that were read.
    read: u64,
}

impl World {
    fn new() -> Self {
        Self { gate: Gate::new(LIMITS, 0), known: known(), now: 0, admitted: 0, read: 0 }
    }

    /// A sender that answers a Retry.
    fn knock(&mut self, from: SocketAddr) -> Verdict<SocketAddr> {
        if let Some(reason) = self.gate.sift(self.now, from, &self.known) {
            return Verdict::Refuse(reason);
        }
        self.read += 1;
        let verdict = match self.gate.judge(self.now, from, false, &self.known, from) {
            Verdict::Prove => self.gate.judge(self.now, from, true, &self.known, from),
            other => other,
        };
        self.admitted += u64::from(matches!(verdict, Verdict::Admit { .. }));
        assert!(self.gate.open.len() <= LIMITS.strangers_max + 3 * (PER_PEER_MAX + PER_HOST_MAX));
        assert!(self.gate.debts.len() <= DEBTORS_MAX);
        assert!(self.gate.known.len() <= 2 * self.known.len() + 1);
        verdict
    }

    /// `per_second` handshakes a second for `nanos`, from these addresses in turn; then advances the time.
    fn flood(&mut self, per_second: u64, nanos: u64, from: impl Fn(u64) -> SocketAddr) {
        let (began, count) = (self.now, nanos / (SECOND / per_second));
        for n in 0..count {
            self.now = began + n * (SECOND / per_second);
            self.knock(from(n));
        }
        self.now = began + nanos;
    }

    /// How long a legitimate peer, which repeats its first packet as QUIC does, waits for admission during
    /// the flood.
    fn delay(&mut self, peer: SocketAddr, per_second: u64, from: impl Fn(u64) -> SocketAddr) -> u64 {
        let began = self.now;
        for gap in [0, 150, 300, 600, 1_200] {
            self.flood(per_second, gap * MILLI, &from);
            if let Verdict::Admit { ticket, .. } = self.knock(peer) {
                self.gate.leave(self.now, ticket, Outcome::Certified);
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
fn peer_enters_at_once_whoever_else_knocks() {
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
fn flood_begins_no_more_handshakes_than_its_class_has() {
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
fn port_that_nobody_knows_enters_beside_a_stranger_on_the_same_host() {
    let stranger = |_| at("10.0.0.1:5555");
    let mut world = World::new();
    world.flood(10_000, 5 * SECOND, stranger);
    assert_eq!(world.delay(at("10.0.0.1:6666"), 10_000, stranger), 0);
}

#[test]
fn address_that_nobody_knows_enters_once_a_thousand_strangers_have_wasted_theirs() {
    let mut world = World::new();
    world.flood(10_000, 40 * SECOND, one_of_a_thousand);
    let delay = world.delay(at("192.0.2.1:7400"), 10_000, one_of_a_thousand);
    assert!(delay < SECOND, "{} ms", delay / MILLI);
}

#[test]
fn oldest_silent_stranger_gives_way_and_no_other() {
    let mut world = World::new();
    let nth = |n: u64| SocketAddr::from(([198, 51, 100, n as u8], 99));
    for n in 0..64 {
        assert!(matches!(world.knock(nth(n)), Verdict::Admit { gave_way: None, .. }), "{n}");
    }
    world.now = SILENT - 1;
    assert_eq!(world.knock(nth(64)), Verdict::Refuse(Refused::Places));
    world.now = SILENT;
    let Verdict::Admit { ticket, gave_way } = world.knock(nth(64)) else { panic!("there is a silent one") };
    assert_eq!(gave_way, Some(nth(0)));
    world.gate.leave(world.now, ticket, Outcome::Certified);
    assert!(matches!(world.knock(nth(65)), Verdict::Admit { gave_way: None, .. }), "a free place");
}

#[test]
fn peer_that_dials_again_replaces_its_own_attempt() {
    let mut world = World::new();
    let peer = at("10.0.0.1:7400");
    world.flood(10_000, SECOND / 100, one_of_a_thousand);
    for expected in [None, None, Some(peer), Some(peer)] {
        let Verdict::Admit { gave_way, .. } = world.knock(peer) else { panic!("a peer is admitted") };
        assert_eq!(gave_way, expected);
    }
    // Its places are its own, and another's are not taken for it.
    assert!(matches!(world.knock(at("10.0.0.2:7400")), Verdict::Admit { gave_way: None, .. }));
}

#[test]
fn name_of_a_peer_without_proof_is_worth_nothing() {
    let (mut gate, known) = (Gate::new(LIMITS, 0), known());
    let peer = at("10.0.0.1:7400");
    for n in 0..4 {
        assert!(matches!(gate.judge(n, peer, false, &known, ()), Verdict::Admit { .. }));
    }
    assert_eq!(gate.judge(5, peer, false, &known, ()), Verdict::Prove, "one address holds four at most");
    assert!(gate.open.values().all(|open| open.class == Class::Stranger));
    let tickets: Vec<u64> = gate.open.keys().copied().collect();
    for ticket in tickets {
        gate.leave(6, ticket, Outcome::Wasted);
    }
    assert!(gate.debts.is_empty(), "whose name was taken owes nothing");
}

#[test]
fn crowd_must_prove_its_addresses() {
    let (mut gate, known) = (Gate::new(LIMITS, 0), known());
    for n in 0..16 {
        let verdict = gate.judge(n, one_of_a_thousand(n), false, &known, ());
        assert!(matches!(verdict, Verdict::Admit { .. }));
    }
    assert_eq!(gate.judge(17, one_of_a_thousand(17), false, &known, ()), Verdict::Prove);
    assert!(matches!(gate.judge(17, one_of_a_thousand(17), true, &known, ()), Verdict::Admit { .. }));
}

#[test]
fn waste_is_paid_for_by_longer_waits_and_a_certificate_settles_it() {
    let (mut gate, known) = (Gate::new(LIMITS, 0), known());
    let stranger = at("203.0.113.9:5555");
    let mut now = 0;
    for wait in [1, 4, 16, 64, 64] {
        let Verdict::Admit { ticket, .. } = gate.judge(now, stranger, true, &known, ()) else {
            panic!("nothing is owed before the wait of {wait} s")
        };
        gate.leave(now, ticket, Outcome::Wasted);
        let early = gate.judge(now + wait * SECOND - 1, stranger, true, &known, ());
        assert_eq!(early, Verdict::Refuse(Refused::Address), "{wait} s");
        now += wait * SECOND;
    }
    let Verdict::Admit { ticket, .. } = gate.judge(now, stranger, true, &known, ()) else { panic!("paid") };
    gate.leave(now, ticket, Outcome::Certified);
    assert!(gate.debts.is_empty());
}

#[test]
fn network_of_ipv6_is_one_address_and_mapped_ipv4_is_ipv4() {
    let mut world = World::new();
    for n in 0..16 {
        world.knock(SocketAddr::from(([198, 51, 100, n], 1)));
    }
    for host in 1..=4 {
        let from = SocketAddr::from(([0x2001, 0xdb8, 9, 9, 0, 0, 0, host], 1));
        assert!(matches!(world.knock(from), Verdict::Admit { .. }));
    }
    assert_eq!(world.knock(at("[2001:db8:9:9:ffff::1]:7")), Verdict::Refuse(Refused::Address));
    assert!(matches!(world.knock(at("[2001:db8:9:a::1]:7")), Verdict::Admit { .. }));
    let known = known();
    assert_eq!(known.class(canonical(at("[::ffff:10.0.0.1]:7400"))), Class::Peer(at("10.0.0.1:7400")));
    assert!(matches!(known.class(at("[2001:db8:1:2::77]:1")), Class::Host(_)));
}

#[test]
fn what_is_remembered_has_a_bound() {
    let (mut gate, known) = (Gate::new(LIMITS, 0), known());
    for n in 0..3 * DEBTORS_MAX as u64 {
        let now = n * SECOND;
        let from = SocketAddr::from(((n as u32 | 0x6400_0000).to_be_bytes(), 1));
        let Verdict::Admit { ticket, .. } = gate.judge(now, from, true, &known, ()) else { panic!("{n}") };
        gate.leave(now, ticket, Outcome::Wasted);
        assert!(gate.debts.len() <= DEBTORS_MAX);
    }
    assert_eq!(gate.debts.len(), DEBTORS_MAX);
    // Peers that move leave no state behind for good.
    for n in 0..100u32 {
        let peer = SocketAddr::from(((n | 0x0A01_0000).to_be_bytes(), 7400));
        let known: KnownAddresses = [peer].into_iter().collect();
        let now = (u64::from(n) + 100_000) * SECOND;
        let Verdict::Admit { ticket, .. } = gate.judge(now, peer, true, &known, ()) else { panic!("{n}") };
        gate.leave(now, ticket, Outcome::Certified);
        assert!(gate.known.len() <= 5);
    }
}
