//! Slow peers: queues fill up to their limit and no further, and no other peer is held up.
use bytes::Bytes;
use raftwerk_net::{Channel, Parts, PeerId, SendError, Transport};

use crate::cluster::{Cluster, GUARD, Node};
use crate::rogue;

/// Sends until the queue is full; returns how many messages were taken.
fn fill(node: &Node, to: u64, channel: Channel, size: usize) -> usize {
    let message = Bytes::from(vec![9; size]);
    let start = std::time::Instant::now();
    let mut taken = 0;
    loop {
        match node.send(to, channel, message.clone()) {
            Ok(()) => taken += 1,
            Err(error) => {
                assert_eq!(error, SendError::Full);
                return taken;
            }
        }
        assert!(start.elapsed() < GUARD, "the queue never fills");
    }
}

#[test]
fn a_slow_peer_fills_its_queue_and_memory_stays_bounded() {
    let (one, two) = Cluster::new("slow").pair(|_| {});
    let barrier = two.barrier.shut();
    let taken = fill(&one, 2, Channel::Bulk, 10_000);
    // The queue, what quinn may hold unacknowledged, and the unit being written.
    let bound = (4 << 20) + 2 * 6 * (256 << 10) + (1 << 20);
    assert!(taken * 10_000 <= bound, "{taken} messages were taken");
    assert!(one.transport.stats().dropped_full >= 1);
    // A stream's part of it leaves when the other side reads on; the rest stays queued here, and is reported.
    let waiting = one.transport.queued_bytes();
    assert!((2 << 20..=4 << 20).contains(&waiting), "{waiting} bytes wait");
    drop(barrier);
    for _ in 0..taken {
        assert_eq!(two.next_message().2.len(), 10_000);
    }
    one.send(2, Channel::Bulk, "room again").unwrap();
    assert_eq!(two.next_message().2, "room again");
    // What was received had been written before; only the bookkeeping of the last write may be behind.
    assert!(one.transport.queued_bytes() < 64 << 10, "{} bytes wait", one.transport.queued_bytes());
}

#[test]
fn control_overtakes_bulk_that_was_queued_before_it() {
    let (one, two) = Cluster::new("priority").pair(|_| {});
    let barrier = two.barrier.shut();
    let taken = fill(&one, 2, Channel::Bulk, 10_000);
    one.send(2, Channel::Control, "urgent").unwrap();
    drop(barrier);
    let mut before = 0;
    while two.next_message().1 == Channel::Bulk {
        before += 1;
    }
    // Only what was in flight may come first: a stream's window, not the queue.
    assert!(before < taken / 4, "{before} of {taken} came before control");
}

#[test]
fn one_slow_peer_holds_up_no_other() {
    let nodes = Cluster::new("others").mesh(3, |_| {});
    let barrier = nodes[&3].barrier.shut();
    fill(&nodes[&1], 3, Channel::Append(0), 100_000);
    for number in 0..1_000u32 {
        let message: Parts = std::iter::once(Bytes::copy_from_slice(&number.to_le_bytes())).collect();
        nodes[&1].transport.send(PeerId(2), Channel::Append(0), message).unwrap();
    }
    nodes[&1].transport.flush();
    for number in 0..1_000u32 {
        assert_eq!(nodes[&2].next_message().2, number.to_le_bytes()[..]);
    }
    drop(barrier);
}

#[test]
fn messages_queued_for_a_lost_connection_are_dropped_and_counted() {
    let cluster = Cluster::new("dropped");
    let (one, two) = cluster.pair(|_| {});
    let barrier = two.barrier.shut();
    let taken = fill(&one, 2, Channel::Append(2), 100_000);
    let dropped = one.transport.stats().dropped_disconnected;
    let other = Node::start(cluster.config(2), &[(1, two.address())]);
    one.transport.set_address(PeerId(2), other.address());
    other.wait_connected(1);
    one.wait_connected(2);
    let lost = one.transport.stats().dropped_disconnected - dropped;
    assert!(lost > 0 && lost <= taken as u64);
    one.send(2, Channel::Append(2), "fresh").unwrap();
    assert_eq!(other.next_message().2, "fresh", "nothing of the old connection arrives on the new");
    drop(barrier);
}

#[test]
fn unread_control_stream_closes_the_connection() {
    let cluster = Cluster::new("stalled");
    let runtime = rogue::runtime();
    let _inside = runtime.enter();
    let server = rogue::server(&cluster.identity(2));
    let mut config = cluster.config(1);
    config.control_stall_max = std::time::Duration::from_millis(300);
    let one = Node::start(config, &[(2, server.local_addr().unwrap())]);
    let greeted = runtime.block_on(async {
        let connection = server.accept().await.unwrap().await.unwrap();
        let streams = rogue::greet(&connection).await;
        (connection, streams)
    });
    one.wait_connected(2);
    // Append may wait as long as necessary; that is back-pressure.
    one.send(2, Channel::Append(0), vec![0; 1 << 20]).unwrap();
    one.send(2, Channel::Control, vec![0; 64 << 10]).unwrap();
    assert_eq!(runtime.block_on(rogue::close_code(&greeted.0)), Some(4));
    one.wait_disconnected(2);
    assert_eq!(one.transport.stats().control_stalls, 1);
}
