//! Connections that break, peers that restart or move, and networks that lose packets.
use std::time::Duration;

use raftwerk_net::{Channel, PeerId, SendError, Transport};

use crate::cluster::{Cluster, Event, Node, nowhere};
use crate::relay::Relay;

#[test]
fn a_peer_that_restarts_at_a_new_address_is_found_there() {
    let cluster = Cluster::new("moved");
    let (one, two) = cluster.pair(|_| {});
    drop(two);
    one.wait_disconnected(2);
    assert_eq!(one.send(2, Channel::Control, "lost"), Err(SendError::Closed));
    let two = Node::start(cluster.config(2), &[(1, nowhere())]);
    one.transport.set_address(PeerId(2), two.address());
    one.wait_connected(2);
    two.wait_connected(1);
    one.send(2, Channel::Control, "found").unwrap();
    assert_eq!(two.next_message().2, "found");
    assert_eq!(one.transport.stats().reconnects, 1);
}

#[test]
fn a_dialler_that_restarts_is_let_in_again() {
    let cluster = Cluster::new("again");
    let (one, two) = cluster.pair(|_| {});
    drop(one);
    two.wait_disconnected(1);
    let one = Node::start(cluster.config(1), &[(2, two.address())]);
    two.wait_connected(1);
    one.wait_connected(2);
    two.send(1, Channel::Append(0), "welcome back").unwrap();
    assert_eq!(one.next_message().2, "welcome back");
    assert_eq!(two.transport.stats().reconnects, 1);
}

#[test]
fn a_changed_address_gives_up_a_connection_that_still_stands() {
    let cluster = Cluster::new("stands");
    let (one, two) = cluster.pair(|_| {});
    let other = Node::start(cluster.config(2), &[(1, nowhere())]);
    one.transport.set_address(PeerId(2), two.address());
    assert!(one.transport.is_connected(PeerId(2)), "the same address changes nothing");
    one.transport.set_address(PeerId(2), other.address());
    two.wait_disconnected(1);
    other.wait_connected(1);
    assert_eq!(one.next(), Event::Disconnected(PeerId(2)));
    assert_eq!(one.next(), Event::Connected(PeerId(2)));
}

#[test]
fn restarted_peer_is_noticed_at_the_next_probe() {
    let cluster = Cluster::new("killed");
    let mut config = cluster.config(2);
    let key = config.identity.clone();
    // An idle timeout too long to be what detects it.
    config.idle_timeout = Duration::from_secs(3600);
    let two = Node::start(config.clone(), &[(1, nowhere())]);
    let relay = Relay::start(two.address());
    let mut dialler = cluster.config(1);
    dialler.idle_timeout = Duration::from_secs(3600);
    dialler.keep_alive = Duration::from_millis(100);
    let one = Node::start(dialler, &[(2, relay.address())]);
    one.wait_connected(2);
    // No close frame gets through, as if the process had been killed.
    relay.cut(true);
    drop(two);
    let two = Node::start(config, &[(1, nowhere())]);
    relay.move_to(two.address());
    relay.cut(false);
    one.wait_disconnected(2);
    one.wait_connected(2);
    two.wait_connected(1);
    assert_eq!(key.node(), PeerId(2));
}

#[test]
fn cut_connection_ends_by_idle_timeout_and_is_dialled_again() {
    let cluster = Cluster::new("cut");
    let brief = |id| {
        let mut config = cluster.config(id);
        (config.idle_timeout, config.keep_alive) = (Duration::from_millis(800), Duration::from_millis(100));
        config.backoff.1 = Duration::from_millis(200);
        config
    };
    let two = Node::start(brief(2), &[(1, nowhere())]);
    let relay = Relay::start(two.address());
    let one = Node::start(brief(1), &[(2, relay.address())]);
    one.wait_connected(2);
    two.wait_connected(1);
    relay.cut(true);
    one.wait_disconnected(2);
    two.wait_disconnected(1);
    relay.cut(false);
    one.wait_connected(2);
    two.wait_connected(1);
    one.send(2, Channel::Control, "healed").unwrap();
    assert_eq!(two.next_message().2, "healed");
}

#[test]
fn lost_packets_cost_time_but_neither_messages_nor_order() {
    let cluster = Cluster::new("lossy");
    let two = Node::start(cluster.config(2), &[(1, nowhere())]);
    let relay = Relay::start(two.address());
    let one = Node::start(cluster.config(1), &[(2, relay.address())]);
    one.wait_connected(2);
    relay.lose_every(50);
    for number in 0u32..200 {
        let mut message = vec![0; 5000];
        message[..4].copy_from_slice(&number.to_le_bytes());
        one.send(2, Channel::Append(1), message).unwrap();
    }
    for number in 0u32..200 {
        assert_eq!(two.next_message().2[..4], number.to_le_bytes());
    }
    assert_eq!(one.transport.stats().reconnects, 0);
}

#[test]
fn peers_that_start_in_any_order_find_each_other() {
    let cluster = Cluster::new("order");
    let mut config = cluster.config(1);
    config.handshake_deadline = Duration::from_millis(500);
    // The dialler first, with an address without a listener.
    let one = Node::start(config, &[(2, nowhere())]);
    one.stats_until(|stats| stats.dials_failed >= 1);
    let two = Node::start(cluster.config(2), &[(1, nowhere())]);
    one.transport.set_address(PeerId(2), two.address());
    one.wait_connected(2);
    two.wait_connected(1);
}
