//! The policy of the gate: which incoming handshakes are begun, which senders must first prove their address,
//! and which get no answer. Pure: time is a number, and nothing here touches a socket.
//!
//! An address falls into one of three classes:
//! 1. *Peer*: address and port are those where a known peer listens (a node dials from the port that it
//!    listens on), or from which its latest authenticated connection came. It has places of its own, which no
//!    other sender can take.
//! 2. *Host*: the IP address of a known peer, another port: a peer behind a translation of ports, or an
//!    unknown sender beside one. Each such IP address has places of its own.
//! 3. *Stranger*: every unknown address. All of them share the places of [`Limits::strangers_max`], and none
//!    of their IP addresses (for IPv6, /64 networks) has more than [`Limits::per_address_max`].
//!
//! A class counts only for an address that was proven (QUIC Retry); without proof a sender is a stranger, and
//! instead of a refusal it gets a request for proof. Within a class handshakes are admitted at a bounded
//! rate, since each costs a signature. When all places are taken, the oldest handshake of the class is
//! evicted if it has been silent for [`SILENT`]; a peer's newest attempt replaces its older ones at once. An
//! address with a proven handshake that failed waits before its next, 1 s, then four times as long each time
//! up to 64 s (a peer's host: 4 s), so that a thousand flooding addresses soon cost no more than a hundred;
//! first packets of waiting addresses, and those of strangers beyond a bounded rate, are dropped unread. All
//! state is bounded: the places, the known addresses, [`DEBTORS_MAX`].
//!
//! What is not here: handshakes themselves and log lines (`endpoint.rs`).
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const SECOND: u64 = 1_000_000_000;
/// A handshake that needs just one answer of the other side, and has not received it for this long, may be
/// evicted.
pub(crate) const SILENT: u64 = SECOND / 2;
/// The maximum of concurrent handshakes with one address of a known peer: the newest and one before it.
const PER_PEER_MAX: usize = 2;
/// The maximum of concurrent handshakes with one IP address of a known peer, from other ports.
const PER_HOST_MAX: usize = 8;
/// Handshakes a second from one known peer's address; a node that dials without success makes about one.
const PEER_RATE: u64 = 16;
/// Handshakes a second from other ports of a known peer's IP address.
const HOST_RATE: u64 = 32;
/// First packets read for each handshake that may be begun: reading one takes keys derived for it, some
/// twenty microseconds, and a net thread that is late loses packets of peers.
const READ_PER_HANDSHAKE: u64 = 20;
/// The maximum of addresses with a recorded debt.
const DEBTORS_MAX: usize = 4096;
/// How often the wait of a stranger that wastes handshakes is quadrupled, beginning with a second.
const RAISES_MAX: u32 = 3;
/// Likewise for a port of a known peer's host, which may be that peer in trouble.
const HOST_RAISES_MAX: u32 = 1;

/// The configurable limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Places for the handshakes of strangers, that is unknown senders.
    pub(crate) strangers_max: usize,
    /// Of them, for those of one IP address, or one /64 network.
    pub(crate) per_address_max: usize,
    /// Handshakes of strangers begun in a second.
    pub(crate) strangers_per_second: u32,
    /// The number of concurrent handshakes, of all classes, from which on none is admitted without proof of
    /// its address.
    pub(crate) proof_from: usize,
}

/// An IP address, or a whole /64 of IPv6: the addresses that one unknown sender is assumed to have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Network(IpAddr);

impl Network {
    fn of(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 => v4,
        })
    }
}

/// The addresses of known peers. Rebuilt whenever one of them changes.
#[derive(Default, Debug)]
pub(crate) struct KnownAddresses {
    peers: BTreeSet<SocketAddr>,
    hosts: BTreeSet<Network>,
}

impl FromIterator<SocketAddr> for KnownAddresses {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        let peers: BTreeSet<_> = addresses.into_iter().map(canonical).collect();
        let hosts = peers.iter().map(|address| Network::of(*address)).collect();
        Self { peers, hosts }
    }
}

/// The class of an address; see the head of this file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    Peer(SocketAddr),
    Host(Network),
    Stranger,
}

impl KnownAddresses {
    fn class(&self, address: SocketAddr) -> Class {
        let network = Network::of(address);
        if self.peers.contains(&address) {
            Class::Peer(address)
        } else if self.hosts.contains(&network) {
            Class::Host(network)
        } else {
            Class::Stranger
        }
    }

    /// Whether it is a peer's own address.
    pub(crate) fn is_peer(&self, address: SocketAddr) -> bool {
        self.peers.contains(&canonical(address))
    }

    fn len(&self) -> usize {
        self.peers.len() + self.hosts.len()
    }
}

/// The canonical form for comparison: an IPv4 address is the same when an IPv6 socket received its packet.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The unit by which debts are counted. A host's ports are counted separately, so that an unknown sender on a
/// peer's machine pays for its own handshakes only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Debtor {
    Network(Network),
    Port(SocketAddr),
}

/// The handshakes that an address has wasted.
#[derive(Clone, Copy, Debug)]
struct Debt {
    handshakes: u32,
    /// No handshake is admitted before this time.
    until: u64,
}

/// A token bucket: a burst, and a rate per second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// In billionths of a handshake, so that a rate times nanoseconds gives the increment.
    level: u64,
    at: u64,
    per_second: u64,
}

impl Bucket {
    /// A full one: the amount of a second.
    fn new(per_second: u64, now: u64) -> Self {
        Self { level: per_second * SECOND, at: now, per_second }
    }

    fn take(&mut self, now: u64) -> bool {
        let full = self.per_second * SECOND;
        let gained = now.saturating_sub(self.at).min(SECOND) * self.per_second;
        self.level = (self.level + gained).min(full);
        self.at = self.at.max(now);
        let has_one = self.level >= SECOND;
        self.level -= if has_one { SECOND } else { 0 };
        has_one
    }
}

/// Why a handshake is not answered. Its sender repeats its first packet some times before it gives up, and
/// each is judged anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// All places of its class are taken by handshakes that are not yet silent.
    Places,
    /// Its address has its maximum of handshakes, or has wasted one and has to wait.
    Address,
    /// The maximum of handshakes in a second was admitted.
    Rate,
}

/// The decision on an incoming handshake.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Verdict<H> {
    /// It is begun, and the evicted one, if any, ended.
    Admit {
        /// To be returned by [`Gate::leave`].
        ticket: u64,
        /// The silent one that was evicted.
        gave_way: Option<H>,
    },
    /// Its sender must prove its address.
    Prove,
    /// It is not answered.
    Refuse(Refused),
}

/// The outcome of an admitted handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The other side presented a certificate of the cluster, whatever happened afterwards.
    Certified,
    /// It presented none: it fell silent, or failed.
    Wasted,
}

#[derive(Debug)]
struct Open<H> {
    address: SocketAddr,
    class: Class,
    is_proven: bool,
    since: u64,
    handle: H,
}

/// The handshakes in progress, and the debts of earlier ones. `H` is the caller's handle of a handshake.
#[derive(Debug)]
pub(crate) struct Gate<H> {
    limits: Limits,
    /// By ticket, so in order of arrival.
    open: BTreeMap<u64, Open<H>>,
    tickets: u64,
    strangers: Bucket,
    /// First packets of strangers, and of hosts, that are read.
    read: [Bucket; 2],
    /// Rates of classes of known addresses; made when needed.
    known: BTreeMap<Class, Bucket>,
    debts: BTreeMap<Debtor, Debt>,
    /// Where the next debt is dropped when there are too many.
    forget_from: Option<Debtor>,
}

impl<H> Gate<H> {
    pub(crate) fn new(limits: Limits, now: u64) -> Self {
        Self {
            limits,
            open: BTreeMap::new(),
            tickets: 0,
            strangers: Bucket::new(u64::from(limits.strangers_per_second), now),
            read: [u64::from(limits.strangers_per_second), HOST_RATE]
                .map(|rate| Bucket::new(READ_PER_HANDSHAKE * rate, now)),
            known: BTreeMap::new(),
            debts: BTreeMap::new(),
            forget_from: None,
        }
    }

    /// Decides on an incoming handshake. `handle` is kept only if it is admitted. Costs a scan of the
    /// handshakes in progress, which are few.
    pub(crate) fn judge(
        &mut self,
        now: u64,
        address: SocketAddr,
        is_proven: bool,
        known: &KnownAddresses,
        handle: H,
    ) -> Verdict<H> {
        let address = canonical(address);
        let class = if is_proven { known.class(address) } else { Class::Stranger };
        if !is_proven && self.open.len() >= self.limits.proof_from {
            return Verdict::Prove;
        }
        match self.place(now, address, class, known) {
            Ok(gives_way) => {
                let gave_way = gives_way.and_then(|ticket| self.end(now, ticket, Outcome::Wasted));
                self.tickets += 1;
                self.open.insert(self.tickets, Open { address, class, is_proven, since: now, handle });
                Verdict::Admit { ticket: self.tickets, gave_way }
            }
            Err(_) if !is_proven => Verdict::Prove,
            Err(refused) => Verdict::Refuse(refused),
        }
    }

    /// Why a first packet is dropped unread, if it is: its address must wait for its next handshake, or too
    /// many of its class have come in the last second. A peer's is always read. Costs a lookup of the debts.
    pub(crate) fn sift(&mut self, now: u64, address: SocketAddr, known: &KnownAddresses) -> Option<Refused> {
        let address = canonical(address);
        let class = known.class(address);
        let read = match class {
            Class::Peer(_) => return None,
            Class::Host(_) => &mut self.read[1],
            Class::Stranger => &mut self.read[0],
        };
        if self.debts.get(&debtor(class, address)).is_some_and(|debt| now < debt.until) {
            Some(Refused::Address)
        } else if read.take(now) {
            None
        } else {
            Some(Refused::Rate)
        }
    }

    fn is_in_debt(&self, now: u64, class: Class, address: SocketAddr) -> bool {
        self.debts.get(&debtor(class, address)).is_some_and(|debt| now < debt.until)
    }

    /// An admitted handshake has ended. Calling it for an evicted one has no effect.
    pub(crate) fn leave(&mut self, now: u64, ticket: u64, outcome: Outcome) {
        self.end(now, ticket, outcome);
    }

    /// Whether there is a place, and which handshake is evicted for it.
    fn place(
        &mut self,
        now: u64,
        address: SocketAddr,
        class: Class,
        known: &KnownAddresses,
    ) -> Result<Option<u64>, Refused> {
        if self.is_in_debt(now, class, address) {
            return Err(Refused::Address);
        }
        let (max, patience) = match class {
            Class::Peer(_) => (PER_PEER_MAX, 0),
            Class::Host(_) => (PER_HOST_MAX, SILENT),
            Class::Stranger => {
                let network = Network::of(address);
                let mut same =
                    self.of(class).map(|(_, open)| open).filter(|open| Network::of(open.address) == network);
                let oldest = same.next().map(|open| (open.is_proven, open.since));
                let others = same.count();
                if let Some((is_proven, since)) = oldest.filter(|_| others + 1 >= self.limits.per_address_max)
                {
                    // It begins more handshakes without continuing those it has.
                    if is_proven && now.saturating_sub(since) >= SILENT {
                        self.charge(now, Debtor::Network(network));
                    }
                    return Err(Refused::Address);
                }
                (self.limits.strangers_max, SILENT)
            }
        };
        let gives_way = if self.of(class).count() < max {
            None
        } else {
            let oldest = self.of(class).next().filter(|(_, open)| now.saturating_sub(open.since) >= patience);
            Some(oldest.ok_or(Refused::Places)?.0)
        };
        if self.bucket(now, class, known).take(now) { Ok(gives_way) } else { Err(Refused::Rate) }
    }

    fn of(&self, class: Class) -> impl Iterator<Item = (u64, &Open<H>)> {
        let all = self.open.iter().map(|(ticket, open)| (*ticket, open));
        all.filter(move |(_, open)| open.class == class)
    }

    fn bucket(&mut self, now: u64, class: Class, known: &KnownAddresses) -> &mut Bucket {
        let rate = match class {
            Class::Peer(_) => PEER_RATE,
            Class::Host(_) => HOST_RATE,
            Class::Stranger => return &mut self.strangers,
        };
        if self.known.len() > 2 * known.len() {
            // Peers have moved since.
            self.known.retain(|class, _| match class {
                Class::Peer(address) => known.peers.contains(address),
                Class::Host(network) => known.hosts.contains(network),
                Class::Stranger => false,
            });
        }
        self.known.entry(class).or_insert_with(|| Bucket::new(rate, now))
    }

    fn end(&mut self, now: u64, ticket: u64, outcome: Outcome) -> Option<H> {
        let open = self.open.remove(&ticket)?;
        let debtor = debtor(open.class, open.address);
        match outcome {
            Outcome::Certified => drop(self.debts.remove(&debtor)),
            // A sender without a proven address may have forged it. A peer's own address has no debts: its
            // handshakes fail by the hundred while its machine is busy or its network bad.
            Outcome::Wasted if open.is_proven && !matches!(open.class, Class::Peer(_)) => {
                self.charge(now, debtor);
            }
            Outcome::Wasted => {}
        }
        Some(open.handle)
    }

    fn charge(&mut self, now: u64, debtor: Debtor) {
        if self.debts.len() >= DEBTORS_MAX && !self.debts.contains_key(&debtor) {
            self.forget_one();
        }
        let debt = self.debts.entry(debtor).or_insert(Debt { handshakes: 0, until: 0 });
        if now < debt.until {
            // Handshakes that were begun together count as one waste.
            return;
        }
        let raises_max = if matches!(debtor, Debtor::Port(_)) { HOST_RAISES_MAX } else { RAISES_MAX };
        let wait = |handshakes: u32| SECOND << (2 * handshakes.min(raises_max));
        // A debt whose wait ended long ago is cleared.
        if now.saturating_sub(debt.until) > wait(debt.handshakes) {
            debt.handshakes = 0;
        }
        debt.until = now + wait(debt.handshakes);
        debt.handshakes += 1;
    }

    /// Drops one debt, each time another one: an attacker with enough addresses to push others out cannot
    /// choose which of its own is dropped.
    fn forget_one(&mut self) {
        let next = self.forget_from.and_then(|from| self.debts.range(from..).next());
        if let Some((debtor, _)) = next.or_else(|| self.debts.first_key_value()) {
            let debtor = *debtor;
            self.debts.remove(&debtor);
            self.forget_from = Some(debtor);
        }
    }
}

fn debtor(class: Class, address: SocketAddr) -> Debtor {
    match class {
        Class::Peer(_) | Class::Host(_) => Debtor::Port(address),
        Class::Stranger => Debtor::Network(Network::of(address)),
    }
}

#[cfg(test)]
mod tests;
