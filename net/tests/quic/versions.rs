//! Nodes with different wire versions refuse each other, and both report the reason.
use raftwerk_net::{Channel, PeerError, PeerId, WireVersion};

use crate::cluster::{Cluster, Event, Node, nowhere};
use crate::rogue;

const VERSION: u64 = 8;

/// Node 1, which dials, and node 2 with these versions of messages.
fn meet(dialling: u16, dialled: u16) {
    let cluster = Cluster::new("mixed");
    let start = |node, version, peers: &[_]| {
        let mut config = cluster.config(node);
        config.messages_version = version;
        Node::start(config, peers)
    };
    let two = start(2, dialled, &[(1, nowhere())]);
    let one = start(1, dialling, &[(2, two.address())]);
    let version = |messages| WireVersion { streams: 2, messages };
    let found_by = |node: &Node, peer, ours, theirs| {
        node.stats_until(|stats| stats.versions_refused >= 1);
        let (ours, theirs) = (version(ours), version(theirs));
        let error = node.transport.peer_error(PeerId(peer)).unwrap();
        assert_eq!(error, PeerError::Version { ours, theirs });
        let text = error.to_string();
        assert!(text.contains(&ours.to_string()) && text.contains(&theirs.to_string()), "{text}");
    };
    found_by(&one, 2, dialling, dialled);
    found_by(&two, 1, dialled, dialling);
    assert_eq!(
        (one.received_so_far(), two.received_so_far()),
        (vec![], vec![]),
        "neither is told of a connection"
    );
}

#[test]
fn newer_node_that_dials_an_older_one_is_refused() {
    meet(4, 3);
}

#[test]
fn older_node_that_dials_a_newer_one_is_refused() {
    meet(3, 4);
}

#[test]
fn equal_versions_connect_whatever_they_are() {
    let (one, two) = Cluster::new("equal").pair(|config| config.messages_version = 77);
    one.send(2, Channel::Control, "hello").unwrap();
    assert_eq!(&two.next_message().2[..], b"hello");
}

#[test]
fn node_from_before_versions_of_messages_is_named_by_its_streams() {
    let cluster = Cluster::new("old");
    let node = Node::start(cluster.config(2), &[(1, nowhere())]);
    rogue::runtime().block_on(async {
        let client = rogue::client(Some(&cluster.identity(1)), b"raftwerk/1");
        let connection = client.connect(node.address(), "whoever").unwrap().await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        // Its hello has two bytes only, and nothing follows.
        stream.write_all(&[1, 0]).await.unwrap();
        assert_eq!(rogue::close_code(&connection).await, Some(VERSION));
    });
    node.stats_until(|stats| stats.versions_refused == 1);
    let theirs = WireVersion { streams: 1, messages: 0 };
    let ours = WireVersion { streams: 2, messages: 0 };
    assert_eq!(node.transport.peer_error(PeerId(1)), Some(PeerError::Version { ours, theirs }));
    assert_eq!(node.transport.stats().protocol_violations, 0);
}

#[test]
fn peer_of_another_protocol_is_reported_as_one() {
    let cluster = Cluster::new("alpn");
    let node = Node::start(cluster.config(2), &[(1, nowhere())]);
    let refusal = rogue::runtime().block_on(async {
        let client = rogue::client(Some(&cluster.identity(1)), b"h3");
        client.connect(node.address(), "whoever").unwrap().await.unwrap_err()
    });
    assert!(matches!(refusal, quinn::ConnectionError::ConnectionClosed(_)), "{refusal}");
    let stats = node.stats_until(|stats| stats.versions_refused == 1);
    assert_eq!(stats.strangers_refused, 1);
    assert!(!node.received_so_far().iter().any(|event| matches!(event, Event::Connected(_))));
}
