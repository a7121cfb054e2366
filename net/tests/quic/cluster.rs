//! Nodes for tests, and a record of everything they receive.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftwerk_net::{
    Channel, ClusterAuthority, Identity, NetStats, Parts, PeerId, QuicConfig, QuicTransport, Receive,
    SendError, Transport,
};

/// The time limit of a wait, after which the test fails.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Connected(PeerId),
    Disconnected(PeerId),
    Message(PeerId, Channel, Bytes),
}

/// Records events; blocks the net thread while its gate is shut.
struct Recorder {
    events: Mutex<Sender<Event>>,
    barrier: Arc<Barrier>,
}

/// Shut, it stops a node's net thread at its next message: the node is then slow.
#[derive(Default)]
pub(crate) struct Barrier(Mutex<()>);

impl Barrier {
    pub(crate) fn shut(&self) -> std::sync::MutexGuard<'_, ()> {
        self.0.lock().unwrap()
    }
}

impl Recorder {
    fn record(&self, event: Event) {
        // A test that has finished may have dropped the receiver.
        let _ = self.events.lock().unwrap().send(event);
    }
}

impl Receive for Recorder {
    fn receive(&self, from: PeerId, channel: Channel, message: Bytes) {
        drop(self.barrier.shut());
        self.record(Event::Message(from, channel, message));
    }

    fn connected(&self, peer: PeerId) {
        self.record(Event::Connected(peer));
    }

    fn disconnected(&self, peer: PeerId) {
        self.record(Event::Disconnected(peer));
    }
}

pub(crate) struct Node {
    pub(crate) transport: QuicTransport,
    pub(crate) barrier: Arc<Barrier>,
    events: Receiver<Event>,
}

impl Node {
    pub(crate) fn start(config: QuicConfig, peers: &[(u64, SocketAddr)]) -> Self {
        let (sender, events) = channel();
        let barrier = Arc::new(Barrier::default());
        let recorder = Recorder { events: Mutex::new(sender), barrier: Arc::clone(&barrier) };
        let peers = peers.iter().map(|(id, address)| (PeerId(*id), *address)).collect();
        let transport = QuicTransport::start(config, peers, Arc::new(recorder)).unwrap();
        Self { transport, barrier, events }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    pub(crate) fn next(&self) -> Event {
        self.events.recv_timeout(GUARD).expect("an event in time")
    }

    /// Skips events up to the one wanted.
    pub(crate) fn wait_for(&self, wanted: &Event) {
        while self.next() != *wanted {}
    }

    pub(crate) fn wait_connected(&self, peer: u64) {
        self.wait_for(&Event::Connected(PeerId(peer)));
    }

    pub(crate) fn wait_disconnected(&self, peer: u64) {
        self.wait_for(&Event::Disconnected(PeerId(peer)));
    }

    /// The next message; other events are skipped.
    pub(crate) fn next_message(&self) -> (PeerId, Channel, Bytes) {
        loop {
            if let Event::Message(from, channel, message) = self.next() {
                return (from, channel, message);
            }
        }
    }

    pub(crate) fn send(&self, to: u64, channel: Channel, message: impl Into<Bytes>) -> Result<(), SendError> {
        let parts: Parts = std::iter::once(message.into()).collect();
        let sent = self.transport.send(PeerId(to), channel, parts);
        self.transport.flush();
        sent
    }

    pub(crate) fn stats_until(&self, holds: impl Fn(&NetStats) -> bool) -> NetStats {
        let start = Instant::now();
        loop {
            let stats = self.transport.stats();
            if holds(&stats) {
                return stats;
            }
            assert!(start.elapsed() < GUARD, "the counters never got there: {stats:?}");
            thread::yield_now();
        }
    }

    /// All events received and not yet read.
    pub(crate) fn received_so_far(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// An address without a listener, for peers that are expected to dial.
pub(crate) fn nowhere() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

/// The certificates of one cluster.
pub(crate) struct Cluster(pub(crate) ClusterAuthority);

impl Cluster {
    pub(crate) fn new(name: &str) -> Self {
        Self(ClusterAuthority::new(name).unwrap())
    }

    pub(crate) fn identity(&self, node: u64) -> Identity {
        self.0.issue(PeerId(node)).unwrap()
    }

    pub(crate) fn config(&self, node: u64) -> QuicConfig {
        let mut config = QuicConfig::new(self.identity(node), loopback());
        // Generous for a busy machine: speed is not tested here.
        config.idle_timeout = Duration::from_secs(30);
        config.handshake_deadline = Duration::from_secs(20);
        config.control_stall_max = Duration::from_secs(30);
        config
    }

    /// A full mesh of nodes 1..=count, all connected; numbered from one.
    pub(crate) fn mesh(&self, count: u64, adjust: impl Fn(&mut QuicConfig)) -> HashMap<u64, Node> {
        let mut nodes: HashMap<u64, Node> = HashMap::new();
        // From the highest down, so that the dialling nodes start last and have the addresses.
        for id in (1..=count).rev() {
            let mut config = self.config(id);
            adjust(&mut config);
            let above: Vec<_> = nodes.iter().map(|(id, node)| (*id, node.address())).collect();
            let below = (1..id).map(|id| (id, nowhere()));
            nodes.insert(id, Node::start(config, &below.chain(above).collect::<Vec<_>>()));
        }
        for node in nodes.values() {
            for _ in 1..count {
                assert!(matches!(node.next(), Event::Connected(_)));
            }
        }
        nodes
    }

    pub(crate) fn pair(&self, adjust: impl Fn(&mut QuicConfig)) -> (Node, Node) {
        let mut nodes = self.mesh(2, adjust);
        (nodes.remove(&1).unwrap(), nodes.remove(&2).unwrap())
    }
}
