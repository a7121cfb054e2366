//! Certificates end, are replaced while connections are up, and an ended one is refused by either side, with
//! its reason. Wall clocks are numbers here.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raftwerk_net::identity::Validity;
use raftwerk_net::{
    Channel, ClusterAuthority, Identity, IdentityError, NetError, PeerError, PeerId, QuicConfig, WallClock,
};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::cluster::{Cluster, Node, nowhere};

const BEGINS: u64 = 1_000_000;
const ENDS: u64 = 2_000_000;
const LATER: u64 = 3_000_000;

/// A wall clock that a test sets.
#[derive(Clone)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn at(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds)))
    }

    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    fn wall(&self) -> WallClock {
        let seconds = Arc::clone(&self.0);
        WallClock::from_fn(move || seconds.load(Ordering::Relaxed))
    }
}

fn issue(authority: &ClusterAuthority, node: u64, not_after: u64) -> Identity {
    authority.issue_for(PeerId(node), Validity { not_before: BEGINS, not_after }).unwrap()
}

fn authority() -> ClusterAuthority {
    ClusterAuthority::new_for("blue", Validity { not_before: BEGINS, not_after: 2 * LATER }).unwrap()
}

fn config(identity: Identity, clock: &Clock) -> QuicConfig {
    let mut config = Cluster::new("blue").config(identity.node().0);
    config.identity = identity;
    config.wall_clock = clock.wall();
    config
}

/// Nodes 1 and 2, whose certificates end at these times, and their clocks.
fn start(ends: [u64; 2], clocks: [&Clock; 2]) -> (ClusterAuthority, Node, Node) {
    let authority = authority();
    let two = Node::start(config(issue(&authority, 2, ends[1]), clocks[1]), &[(1, nowhere())]);
    let one = Node::start(config(issue(&authority, 1, ends[0]), clocks[0]), &[(2, two.address())]);
    (authority, one, two)
}

#[test]
fn expired_certificate_of_the_dialler_is_refused() {
    let (before, after) = (Clock::at(ENDS), Clock::at(ENDS + 1));
    let (_, one, two) = start([ENDS, LATER], [&before, &after]);
    let stats = two.stats_until(|stats| stats.certificates_expired >= 1);
    assert!(stats.strangers_refused >= 1);
    one.stats_until(|stats| stats.certificates_expired >= 1);
    assert_eq!(one.transport.peer_error(PeerId(2)), Some(PeerError::OursExpired));
    assert_eq!((one.received_so_far(), two.received_so_far()), (vec![], vec![]));
}

#[test]
fn expired_certificate_of_the_dialled_peer_is_refused() {
    let (before, after) = (Clock::at(ENDS), Clock::at(ENDS + 1));
    let (_, one, two) = start([LATER, ENDS], [&after, &before]);
    one.stats_until(|stats| stats.certificates_expired >= 1 && stats.dials_failed >= 1);
    let error = one.transport.peer_error(PeerId(2)).unwrap();
    assert!(matches!(&error, PeerError::Expired(why) if why.contains("expired")), "{error}");
    two.stats_until(|stats| stats.certificates_expired >= 1);
    assert_eq!((one.received_so_far(), two.received_so_far()), (vec![], vec![]));
}

#[test]
fn expired_authority_is_trusted_no_more() {
    let clock = Clock::at(ENDS);
    let authority = authority();
    let short = authority.renew(Validity { not_before: BEGINS, not_after: ENDS }).unwrap();
    // Certificates that outlive their authority's.
    let issue = |node| {
        let node = issue(&authority, node, LATER);
        Identity::from_pem(node.chain_pem(), node.key_pem(), short.certificate_pem()).unwrap()
    };
    let two = Node::start(config(issue(2), &clock), &[(1, nowhere())]);
    let one = Node::start(config(issue(1), &clock), &[(2, two.address())]);
    one.wait_connected(2);
    clock.set(ENDS + 1);
    one.transport.remove_peer(PeerId(2));
    two.wait_disconnected(1);
    raftwerk_net::Transport::add_peer(&one.transport, PeerId(2), two.address());
    one.stats_until(|stats| stats.certificates_expired >= 1);
    assert!(matches!(one.transport.peer_error(PeerId(2)), Some(PeerError::Expired(_))));
}

#[test]
fn connection_ends_with_its_peers_certificate() {
    // In its last second the next check of the clock is a second away.
    let clock = Clock::at(ENDS);
    let (authority, one, two) = start([ENDS, LATER], [&clock, &clock]);
    one.wait_connected(2);
    two.wait_connected(1);
    clock.set(ENDS + 1);
    two.wait_disconnected(1);
    one.wait_disconnected(2);
    one.stats_until(|stats| stats.certificates_expired >= 1);
    // With another identity it connects again.
    one.transport.set_identity(&issue(&authority, 1, LATER)).unwrap();
    one.wait_connected(2);
    two.wait_connected(1);
    assert_eq!(one.transport.peer_error(PeerId(2)), None);
}

#[test]
fn another_identity_is_used_by_the_next_handshake_and_live_connections_go_on() {
    let clock = Clock::at(BEGINS);
    let (authority, one, two) = start([ENDS, ENDS], [&clock, &clock]);
    one.wait_connected(2);
    two.wait_connected(1);
    for (node, id) in [(&one, 1), (&two, 2)] {
        node.transport.set_identity(&issue(&authority, id, LATER)).unwrap();
    }
    one.send(2, Channel::Control, "still here").unwrap();
    assert_eq!(&two.next_message().2[..], b"still here");
    // By now the first certificates have ended, and a new connection needs the second ones.
    clock.set(ENDS + 1);
    two.transport.set_identity(&issue(&authority, 2, LATER)).unwrap();
    two.wait_disconnected(1);
    two.wait_connected(1);
    one.send(2, Channel::Control, "again").ok();
}

#[test]
fn authority_is_replaced_while_nodes_run() {
    let clock = Clock::at(BEGINS);
    let (old, one, two) = start([ENDS, ENDS], [&clock, &clock]);
    one.wait_connected(2);
    two.wait_connected(1);
    let new = authority();
    let both = format!("{}{}", old.certificate_pem(), new.certificate_pem());
    let renewed = |node| {
        let by_new = issue(&new, node, ENDS);
        Identity::from_pem(by_new.chain_pem(), by_new.key_pem(), &both).unwrap()
    };
    one.transport.set_identity(&renewed(1)).unwrap();
    two.transport.set_identity(&renewed(2)).unwrap();
    assert_eq!((one.received_so_far(), two.received_so_far()), (vec![], vec![]), "both trust both");
    // The old authority is removed: so is the connection it vouched for, and the next one uses the new
    // authority.
    two.transport.set_identity(&issue(&new, 2, ENDS)).unwrap();
    two.wait_disconnected(1);
    two.wait_connected(1);
    one.wait_disconnected(2);
    one.wait_connected(2);
    one.transport.set_identity(&issue(&new, 1, ENDS)).unwrap();
    one.send(2, Channel::Control, "by the new").unwrap();
    assert_eq!(&two.next_message().2[..], b"by the new");
}

#[test]
fn identity_of_another_node_is_refused_and_changes_nothing() {
    let clock = Clock::at(BEGINS);
    let (authority, one, two) = start([ENDS, ENDS], [&clock, &clock]);
    one.wait_connected(2);
    two.wait_connected(1);
    let refused = one.transport.set_identity(&issue(&authority, 3, ENDS)).unwrap_err();
    assert!(matches!(refused, NetError::Identity(IdentityError::AnotherNode { .. })), "{refused}");
    let green = ClusterAuthority::new("green").unwrap().issue(PeerId(1)).unwrap();
    assert!(one.transport.set_identity(&green).is_err());
    one.send(2, Channel::Control, "as before").unwrap();
    assert_eq!(&two.next_message().2[..], b"as before");
}

/// Where a cluster has several authorities of one name, a verifier finds the one that signed a certificate.
#[test]
fn a_certificate_names_the_key_of_its_authority() {
    let identity = issue(&authority(), 1, ENDS);
    let mut chain = CertificateDer::pem_slice_iter(identity.chain_pem().as_bytes());
    let certificate = chain.next().unwrap().unwrap();
    // The extension's object identifier, 2.5.29.35, as it is encoded.
    let names_authority = certificate.windows(5).any(|bytes| bytes == [0x06, 0x03, 0x55, 0x1d, 0x23]);
    assert!(names_authority);
}
