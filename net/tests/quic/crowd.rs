//! A flood of unknown senders that begin handshakes and fall silent keeps no peer out.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use raftwerk_net::{NetStats, PeerId};

use crate::cluster::{Cluster, Node, nowhere};
use crate::flood::{Flood, loopback_addresses};

/// The number of Initial packets not answered.
fn unanswered(stats: &NetStats) -> u64 {
    stats.half_open_refused + stats.address_refused + stats.rate_refused
}

/// A peer starts during a flood, with its address, or only its IP address, known to node 2, and its first
/// attempt succeeds.
fn connects_among(strangers: Vec<IpAddr>, address_is_known: bool) {
    let cluster = Cluster::new("blue");
    let one_at = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let said = if address_is_known { one_at } else { nowhere() };
    let node = Node::start(cluster.config(2), &[(1, said)]);
    let flood = Flood::start(node.address(), 10_000, strangers);
    node.stats_until(|stats| unanswered(stats) >= 2_000);
    let mut config = cluster.config(1);
    config.listen = one_at;
    let one = Node::start(config, &[(2, node.address())]);
    one.wait_connected(2);
    node.wait_connected(1);
    assert_eq!(one.transport.stats().dials_failed, 0, "the first attempt");
    assert_eq!(one.transport.peer_error(PeerId(2)), None);
    let stats = node.transport.stats();
    assert!(flood.retries_answered() > 0 && flood.begun() > 2_000);
    assert!(stats.retries_demanded > 0, "the addresses of the crowd had to be validated");
}

#[test]
fn peer_connects_among_strangers_at_its_own_host() {
    connects_among(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], true);
    connects_among(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], false);
}

#[test]
fn peer_connects_among_strangers_at_a_thousand_hosts() {
    connects_among(loopback_addresses(1_000), true);
    connects_among(loopback_addresses(1_000), false);
}

#[test]
fn silent_stranger_gives_its_place_to_the_next() {
    let cluster = Cluster::new("blue");
    let mut config = cluster.config(2);
    (config.half_open_retry, config.half_open_max) = (0, 1);
    let node = Node::start(config, &[(1, SocketAddr::from((Ipv4Addr::new(127, 9, 9, 9), 9)))]);
    let _flood = Flood::start(node.address(), 100, loopback_addresses(200));
    // One is admitted; others are not while it may still answer; it is evicted although its deadline is far.
    let stats = node.stats_until(|stats| stats.silent_evicted >= 2);
    assert!(stats.half_open_refused > 0 && stats.handshakes_expired == 0, "{stats:?}");
}

#[test]
fn address_with_a_failed_handshake_waits_for_its_next() {
    let cluster = Cluster::new("blue");
    let mut config = cluster.config(2);
    (config.half_open_retry, config.half_open_per_address) = (0, 1);
    config.handshake_deadline = std::time::Duration::from_millis(1);
    let node = Node::start(config, &[(1, SocketAddr::from((Ipv4Addr::new(127, 9, 9, 9), 9)))]);
    let _flood = Flood::start(node.address(), 1_000, loopback_addresses(1));
    let stats = node.stats_until(|stats| stats.handshakes_expired >= 1 && stats.address_refused >= 500);
    assert!(stats.handshakes_expired < 10, "{stats:?}");
}
