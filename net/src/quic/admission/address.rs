//! Classes of source addresses: peers, hosts of peers, strangers.
//!
//! Pure. What is not here: what a class is granted (`policy.rs`).
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An IP address, or a whole /64 of IPv6: the addresses that one unknown sender is assumed to have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Network(IpAddr);

impl Network {
    pub(super) fn of(address: SocketAddr) -> Self {
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

/// The class of an address; see the head of `policy.rs`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Class {
    Peer(SocketAddr),
    Host(Network),
    Stranger,
}

impl KnownAddresses {
    pub(super) fn class(&self, address: SocketAddr) -> Class {
        let network = Network::of(address);
        if self.peers.contains(&address) {
            Class::Peer(address)
        } else if self.hosts.contains(&network) {
            Class::Host(network)
        } else {
            Class::Stranger
        }
    }

    /// Whether addresses of this class are still known.
    pub(super) fn has(&self, class: &Class) -> bool {
        match class {
            Class::Peer(address) => self.peers.contains(address),
            Class::Host(network) => self.hosts.contains(network),
            Class::Stranger => false,
        }
    }

    /// Whether it is a peer's own address.
    pub(crate) fn is_peer(&self, address: SocketAddr) -> bool {
        self.peers.contains(&canonical(address))
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len() + self.hosts.len()
    }
}

/// The canonical form for comparison: an IPv4 address is the same when an IPv6 socket received its packet.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
