//! Which ways between nodes a fault takes. What carries the packets: [`crate::relay`].

use std::io;
use std::net::SocketAddr;

/// Which packets a cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All of the node's.
    Both,
    /// Those on their way to it.
    Towards,
}

/// Carries what one node sends to another, and its answers.
pub(super) struct Relay {
    from: usize,
    to: usize,
    relay: crate::relay::Relay,
}

impl Relay {
    pub(super) fn start(from: usize, to: usize, server: SocketAddr) -> io::Result<Self> {
        Ok(Self { from, to, relay: crate::relay::Relay::start(server)? })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.relay.address()
    }

    /// Cuts a node off, or lets its packets through again. Nothing happens if it is at neither end.
    pub(super) fn cut(&self, node: usize, way: Way, cut: bool) {
        let is_cut = |end: usize, other: usize| end == node || other == node && way == Way::Both;
        if is_cut(self.to, self.from) {
            self.relay.there().cut(cut);
        }
        if is_cut(self.from, self.to) {
            self.relay.back().cut(cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_takes_the_ways_of_its_node_and_no_others() {
        let relay = Relay::start(0, 1, SocketAddr::from(([127, 0, 0, 1], 9))).unwrap();
        let is_cut = || (relay.relay.there().is_cut(), relay.relay.back().is_cut());
        relay.cut(0, Way::Towards, true);
        assert_eq!(is_cut(), (false, true));
        relay.cut(2, Way::Both, true);
        assert_eq!(is_cut(), (false, true), "another's affair");
        relay.cut(1, Way::Both, true);
        assert_eq!(is_cut(), (true, true));
        relay.cut(0, Way::Both, false);
        assert_eq!(is_cut(), (false, false));
    }
}
