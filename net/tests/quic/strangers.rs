//! An unknown node is refused and counted; a known node that breaks the protocol is disconnected.
use raftwerk_net::{Channel, ClusterAuthority, Identity, PeerError, PeerId, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::cluster::{Cluster, Event, Node, nowhere};
use crate::relay::Relay;
use crate::rogue;

const ALPN: &[u8] = b"raftwerk/1";
const STRANGER: u64 = 2;
const PROTOCOL: u64 = 3;

/// Tries to send a message to `node` and returns the close code, if the handshake completed at all. No part
/// of it may be received.
fn intrude(node: &Node, identity: Option<&Identity>, alpn: &[u8]) -> Option<u64> {
    let runtime = rogue::runtime();
    let code = runtime.block_on(async {
        let client = rogue::client(identity, alpn);
        let connection = client.connect(node.address(), "whoever").unwrap().await.ok()?;
        if let Ok(mut stream) = connection.open_uni().await {
            // May fail at any point: the other side is about to close.
            let _ = stream.write_all(&[2, 0, 0, 0, 1, 0, 0, 0, 42]).await;
        }
        rogue::close_code(&connection).await
    });
    assert_eq!(node.received_so_far(), [], "a stranger was heard");
    code
}

#[test]
fn handshake_fails_without_a_certificate_of_the_cluster() {
    let ours = Cluster::new("ours");
    let node = Node::start(ours.config(5), &[(1, nowhere())]);
    assert_eq!(intrude(&node, None, ALPN), None);
    node.stats_until(|stats| stats.strangers_refused == 1);
    // The same names, another authority: the name alone proves nothing.
    let twin = Cluster::new("ours");
    assert_eq!(intrude(&node, Some(&twin.identity(1)), ALPN), None);
    node.stats_until(|stats| stats.strangers_refused == 2);
    let other = Cluster::new("other");
    assert_eq!(intrude(&node, Some(&other.identity(1)), ALPN), None);
    node.stats_until(|stats| stats.strangers_refused == 3);
    // The right node of the right cluster, with another version.
    assert_eq!(intrude(&node, Some(&ours.identity(1)), b"raftwerk/0"), None);
    node.stats_until(|stats| stats.strangers_refused == 4);
}

#[test]
fn unknown_node_and_one_to_be_dialled_are_refused() {
    let cluster = Cluster::new("known");
    let node = Node::start(cluster.config(5), &[(1, nowhere()), (7, nowhere())]);
    assert_eq!(intrude(&node, Some(&cluster.identity(2)), ALPN), Some(STRANGER));
    assert_eq!(intrude(&node, Some(&cluster.identity(7)), ALPN), Some(STRANGER), "a higher number waits");
    assert_eq!(intrude(&node, Some(&cluster.identity(5)), ALPN), Some(STRANGER), "we are that one");
    node.stats_until(|stats| stats.strangers_refused == 3);
    node.transport.add_peer(PeerId(2), nowhere());
    let friend = Node::start(cluster.config(2), &[(5, node.address())]);
    friend.wait_connected(5);
    node.wait_connected(2);
    node.transport.remove_peer(PeerId(2));
    friend.wait_disconnected(5);
    node.wait_disconnected(2);
    node.stats_until(|stats| stats.strangers_refused >= 4);
    // Added again, it is accepted again.
    node.transport.add_peer(PeerId(2), nowhere());
    friend.wait_connected(5);
    node.wait_connected(2);
}

#[test]
fn node_of_another_cluster_is_refused_in_both_directions() {
    let (ours, theirs) = (Cluster::new("ours"), Cluster::new("theirs"));
    let node = Node::start(ours.config(2), &[(1, nowhere())]);
    let stranger = Node::start(theirs.config(1), &[(2, node.address())]);
    node.stats_until(|stats| stats.strangers_refused >= 1);
    stranger.stats_until(|stats| stats.strangers_refused >= 1 && stats.dials_failed >= 1);
    assert_eq!((node.received_so_far(), stranger.received_so_far()), (vec![], vec![]));
}

#[test]
fn a_dialled_peer_must_be_the_node_it_was_taken_for() {
    let cluster = Cluster::new("mixup");
    let three = Node::start(cluster.config(3), &[(1, nowhere())]);
    let one = Node::start(cluster.config(1), &[(2, three.address())]);
    one.stats_until(|stats| stats.strangers_refused >= 1);
    assert_eq!((one.received_so_far(), three.received_so_far()), (vec![], vec![]));
}

/// A certificate of the cluster's own authority that names two nodes.
fn of_two_names(authority: &ClusterAuthority) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let names = [2, 3].map(|node| {
        let identity = authority.issue(PeerId(node)).unwrap();
        let chain = CertificateDer::from_pem_slice(identity.chain_pem().as_bytes()).unwrap();
        let certificate = webpki::EndEntityCert::try_from(&chain).unwrap();
        certificate.valid_dns_names().next().unwrap().to_owned()
    });
    let issuer_key = rcgen::KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(authority.certificate_pem(), issuer_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(names.to_vec()).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.der().clone(), PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap())
}

#[test]
fn a_dialled_peer_with_two_names_is_neither_node() {
    let authority = ClusterAuthority::new("two-names").unwrap();
    let runtime = rogue::runtime();
    let _inside = runtime.enter();
    let (certificate, key) = of_two_names(&authority);
    let server = rogue::server_of(vec![certificate], key);
    let mut config = Cluster::new("two-names").config(1);
    config.identity = authority.issue(PeerId(1)).unwrap();
    let one = Node::start(config, &[(2, server.local_addr().unwrap())]);
    // The authority signed it and it has the name that was dialled, but one name too many.
    let refusal = runtime.block_on(async { server.accept().await.unwrap().await.unwrap_err() });
    assert!(refusal.to_string().contains("NotValidForName"), "{refusal}");
    one.stats_until(|stats| stats.strangers_refused >= 1);
    let error = one.transport.peer_error(PeerId(2)).unwrap();
    assert!(matches!(&error, PeerError::Certificate(_)), "{error}");
}

/// Connects as the known node 1, lets `misbehave` write on the streams, and expects to be disconnected for
/// it.
fn break_rules(misbehave: impl AsyncFn(&quinn::Connection)) {
    let cluster = Cluster::new("rules");
    let mut config = cluster.config(2);
    config.message_bytes_max.control = 1000;
    let node = Node::start(config, &[(1, nowhere())]);
    rogue::runtime().block_on(async {
        let client = rogue::client(Some(&cluster.identity(1)), ALPN);
        let connection = client.connect(node.address(), "whoever").unwrap().await.unwrap();
        misbehave(&connection).await;
        assert_eq!(rogue::close_code(&connection).await, Some(PROTOCOL));
    });
    node.stats_until(|stats| stats.protocol_violations == 1);
    let messages = node.received_so_far().into_iter().filter(|event| matches!(event, Event::Message(..)));
    assert_eq!(messages.count(), 0);
}

#[test]
fn a_length_over_the_limit_ends_the_connection_before_memory_is_taken() {
    break_rules(async |connection| {
        let mut streams = rogue::greet(connection).await;
        streams[0].write_all(&1001u32.to_le_bytes()).await.unwrap();
        let _ = connection.closed().await;
    });
    break_rules(async |connection| {
        let mut streams = rogue::greet(connection).await;
        streams[5].write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let _ = connection.closed().await;
    });
}

#[test]
fn wrong_hellos_and_ended_streams_end_the_connection() {
    for hello in [[2, 6, 0, 0], [2, 255, 0, 0]] {
        break_rules(async |connection| {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&hello).await.unwrap();
            let _ = connection.closed().await;
        });
    }
    break_rules(async |connection| {
        let mut streams = Vec::new();
        for _ in 0..2 {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&[2, 0, 0, 0]).await.unwrap();
            streams.push(stream);
        }
        let _ = connection.closed().await;
    });
    break_rules(async |connection| {
        let mut streams = rogue::greet(connection).await;
        streams[1].finish().unwrap();
        let _ = connection.closed().await;
    });
}

#[test]
fn a_newer_connection_of_the_same_node_replaces_the_older() {
    let cluster = Cluster::new("twice");
    let node = Node::start(cluster.config(2), &[(1, nowhere())]);
    rogue::runtime().block_on(async {
        let client = rogue::client(Some(&cluster.identity(1)), ALPN);
        let first = client.connect(node.address(), "whoever").unwrap().await.unwrap();
        let _streams = rogue::greet(&first).await;
        node.wait_connected(1);
        let second = client.connect(node.address(), "whoever").unwrap().await.unwrap();
        let mut streams = rogue::greet(&second).await;
        assert_eq!(rogue::close_code(&first).await, Some(1));
        streams[0].write_all(&[1, 0, 0, 0, 42]).await.unwrap();
        assert_eq!(node.next(), Event::Disconnected(PeerId(1)));
        assert_eq!(node.next(), Event::Connected(PeerId(1)));
        let (from, channel, message) = node.next_message();
        assert_eq!((from, channel, &message[..]), (PeerId(1), Channel::Control, &[42][..]));
    });
    assert_eq!(node.transport.stats().reconnects, 1);
}

#[test]
fn half_open_connections_are_few_and_later_ones_need_validation() {
    let cluster = Cluster::new("half");
    let mut config = cluster.config(2);
    (config.half_open_retry, config.half_open_max) = (2, 3);
    let node = Node::start(config, &[(1, nowhere())]);
    // Nothing comes back through this relay: every client that dials stays half open.
    let relay = Relay::start(node.address());
    relay.cut_backward(true);
    let runtime = rogue::runtime();
    let _inside = runtime.enter();
    let client = rogue::client(Some(&cluster.identity(1)), ALPN);
    let half: Vec<_> = (0..3).map(|_| client.connect(relay.address(), "whoever").unwrap()).collect();
    node.stats_until(|stats| stats.retries_demanded >= 1);
    drop(half);
    // A client that answers the Retry is admitted beyond that number.
    let honest = Node::start(cluster.config(1), &[(2, node.address())]);
    honest.wait_connected(2);
    node.wait_connected(1);
}
