//! Messages arrive complete, in order per channel, attributed to the true sender.
use std::collections::HashMap;

use bytes::Bytes;
use raftwerk_net::{Channel, Parts, PeerId, QuicConfig, SendError, Transport};

use crate::cluster::{Cluster, Node, nowhere};
use crate::relay::Relay;

const EACH: u32 = 500;

fn numbered(number: u32, size: usize) -> Vec<u8> {
    let mut message = number.to_le_bytes().to_vec();
    message.resize(4 + size, number as u8);
    message
}

#[test]
fn three_nodes_receive_on_every_channel_in_order() {
    let nodes = Cluster::new("mesh").mesh(3, |_| {});
    for (id, node) in &nodes {
        for number in 0..EACH {
            for to in nodes.keys().filter(|to| *to != id) {
                for channel in Channel::ALL {
                    let size = if number % 100 == 99 { 40_000 } else { number as usize % 300 };
                    let parts: Parts = std::iter::once(numbered(number, size).into()).collect();
                    // A full queue is no failure of delivery: wait for space.
                    while let Err(error) = node.transport.send(PeerId(*to), channel, parts.clone()) {
                        assert_eq!(error, SendError::Full);
                        node.transport.flush();
                    }
                }
            }
        }
        node.transport.flush();
    }
    for (id, node) in &nodes {
        let mut next: HashMap<(PeerId, Channel), u32> = HashMap::new();
        for _ in 0..(2 * Channel::COUNT as u32 * EACH) {
            let (from, channel, message) = node.next_message();
            assert!(from != PeerId(*id) && nodes.contains_key(&from.0));
            let expected = next.entry((from, channel)).or_default();
            let number = u32::from_le_bytes(*message.first_chunk().unwrap());
            assert_eq!(number, *expected, "{from} {channel:?}");
            assert!(message[4..].iter().all(|byte| *byte == number as u8));
            *expected += 1;
        }
        assert!(next.values().all(|count| *count == EACH) && next.len() == 2 * Channel::COUNT);
    }
    for node in nodes.values() {
        let all = 2 * Channel::COUNT as u64 * u64::from(EACH);
        let stats = node.stats_until(|stats| stats.messages_sent == all && stats.messages_received == all);
        assert_eq!((stats.connections, stats.reconnects, stats.strangers_refused), (2, 0, 0));
    }
}

#[test]
fn a_message_is_the_concatenation_of_its_parts_and_may_be_empty() {
    let (one, two) = Cluster::new("parts").pair(|_| {});
    let parts: Parts = [10, 20_000, 0, 16_384, 5, 70_000].iter().map(|n| Bytes::from(vec![7; *n])).collect();
    one.transport.send(PeerId(2), Channel::Bulk, parts).unwrap();
    one.transport.send(PeerId(2), Channel::Bulk, Parts::new()).unwrap();
    one.transport.flush();
    assert_eq!(two.next_message().2, vec![7; 106_399]);
    assert_eq!(two.next_message().2, Bytes::new());
}

#[test]
fn a_message_of_eight_mebibytes_arrives_whole() {
    let (one, two) = Cluster::new("big").pair(|_| {});
    let message: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
    one.send(2, Channel::Append(3), message.clone()).unwrap();
    let (from, channel, received_so_far) = two.next_message();
    assert_eq!((from, channel), (PeerId(1), Channel::Append(3)));
    assert!(received_so_far == message);
}

#[test]
fn large_packets_and_no_offload_carry_the_same_bytes() {
    for (mtu_max, gso) in [(6500, true), (1452, false), (1200, true)] {
        let (one, two) = Cluster::new("mtu").pair(|config| {
            config.mtu_max = mtu_max;
            config.gso = gso;
        });
        let message = vec![5; 3 << 20];
        two.send(1, Channel::Bulk, message.clone()).unwrap();
        assert!(one.next_message().2 == message, "mtu {mtu_max} gso {gso}");
    }
}

#[test]
fn no_packet_is_longer_than_it_may_be() {
    let cluster = Cluster::new("short");
    let short = |node| QuicConfig { mtu_max: 1200, ..cluster.config(node) };
    let two = Node::start(short(2), &[(1, nowhere())]);
    let relay = Relay::start(two.address());
    let one = Node::start(short(1), &[(2, relay.address())]);
    one.wait_connected(2);
    two.wait_connected(1);
    for _ in 0..4 {
        one.send(2, Channel::Bulk, vec![5; 256 << 10]).unwrap();
        assert_eq!(two.next_message().2.len(), 256 << 10);
        two.send(1, Channel::Bulk, vec![5; 256 << 10]).unwrap();
        assert_eq!(one.next_message().2.len(), 256 << 10);
    }
    assert_eq!(relay.longest(), 1200);
}

/// Both ways through `relay`, until datagrams of the length that `holds` were seen.
fn carry_until(relay: &Relay, one: &Node, two: &Node, holds: impl Fn(usize) -> bool) {
    loop {
        one.send(2, Channel::Bulk, vec![5; 256 << 10]).unwrap();
        assert_eq!(two.next_message().2.len(), 256 << 10);
        two.send(1, Channel::Bulk, vec![6; 256 << 10]).unwrap();
        assert_eq!(one.next_message().2.len(), 256 << 10);
        if holds(relay.longest()) {
            return;
        }
    }
}

/// Long packets are sent only where the path has proved that it carries them, and a path that does so no longer
/// costs the connection nothing but time.
#[test]
fn a_connection_goes_by_what_its_path_carries_at_any_time() {
    let cluster = Cluster::new("path");
    let two = Node::start(cluster.config(2), &[(1, nowhere())]);
    let relay = Relay::start(two.address());
    relay.carry_up_to(1_452);
    let one = Node::start(cluster.config(1), &[(2, relay.address())]);
    one.wait_connected(2);
    two.wait_connected(1);
    // What is longer is lost, so these arrive only because of probes that told so.
    carry_until(&relay, &one, &two, |longest| longest > 1_400);
    drop((one, two, relay));

    let two = Node::start(cluster.config(2), &[(1, nowhere())]);
    let relay = Relay::start(two.address());
    let one = Node::start(cluster.config(1), &[(2, relay.address())]);
    one.wait_connected(2);
    two.wait_connected(1);
    carry_until(&relay, &one, &two, |longest| longest > 6_400);
    relay.carry_up_to(1_300);
    carry_until(&relay, &one, &two, |longest| longest <= 1_300);
    let stats = one.transport.stats();
    assert_eq!((stats.connections, stats.reconnects), (1, 0), "the same connection went on: {stats:?}");
}

#[test]
fn small_messages_of_a_turn_share_writes_and_wake_ups() {
    let (one, two) = Cluster::new("turns").pair(|_| {});
    for _ in 0..100 {
        for _ in 0..100 {
            let parts: Parts = std::iter::once(Bytes::from_static(&[1; 200])).collect();
            one.transport.send(PeerId(2), Channel::Append(0), parts).unwrap();
        }
        one.transport.flush();
    }
    for _ in 0..10_000 {
        two.next_message();
    }
    let stats = one.stats_until(|stats| stats.messages_sent == 10_000);
    assert!(stats.wake_ups <= 100, "{stats:?}");
    // A writer may catch a turn half way, but not message by message.
    assert!(stats.writes <= 1_000, "{stats:?}");
}

#[test]
fn transport_refuses_a_message_with_the_reason() {
    let cluster = Cluster::new("refusal");
    let (one, two) = cluster.pair(|config| config.message_bytes_max.control = 1000);
    one.transport.add_peer(PeerId(3), nowhere());
    assert_eq!(one.send(9, Channel::Control, "x"), Err(SendError::UnknownPeer));
    assert_eq!(one.send(3, Channel::Control, "x"), Err(SendError::Closed));
    assert_eq!(one.send(2, Channel::Append(4), "x"), Err(SendError::UnknownChannel));
    assert_eq!(one.send(2, Channel::Control, vec![0; 1001]), Err(SendError::TooLarge));
    one.send(2, Channel::Control, vec![0; 1000]).unwrap();
    assert_eq!(two.next_message().2.len(), 1000);
    one.transport.shutdown();
    one.transport.shutdown();
    assert_eq!(one.send(2, Channel::Control, "x"), Err(SendError::Closed));
    two.wait_disconnected(1);
}
