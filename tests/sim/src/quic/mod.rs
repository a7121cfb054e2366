//! The real transport in the simulated world: `raftwerk_net::QuicTransport`, quinn and its state machine, TLS and all, on
//! the node's simulated clock, with datagrams that the world carries.
//!
//! A node's end lives as long as its process. It runs when something arrives, when the engine has sent, and when one of its
//! timers is due; what it sends meanwhile, and what it hands up, is taken from it afterwards. What is not here: what becomes
//! of a datagram on its way (`world::wire`).

mod environment;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::Time;
use raftwerk_net::{
    Channel, ClusterAuthority, Environment, Identity, PeerId, QuicConfig, QuicTransport, Receive, Validity,
    WallClock,
};

use self::environment::{SimSocket, Tasks};
use crate::chance::Chance;
use crate::disk::held;
use crate::fault::{FaultKind, FaultSet};

/// How many nodes have certificates.
const NODES_MAX: u64 = 16;

/// What the transports of a run have for limits, drawn from the seed.
#[derive(Clone, Debug)]
pub(crate) struct QuicPlan {
    idle_timeout: Duration,
    backoff_max: Duration,
    stream_window_bytes: u32,
    /// Longer datagrams are lost.
    pub(crate) mtu: usize,
    /// Datagrams in a million that arrive with a flipped bit.
    pub(crate) corrupt_ppm: u32,
}

impl QuicPlan {
    pub(crate) fn draw(seed: u64, kinds: FaultSet) -> Self {
        let mut chance = Chance::of(seed, "quic");
        let corrupt_ppm = chance.one_of(&[1_000, 20_000]);
        Self {
            idle_timeout: Duration::from_millis(chance.one_of(&[1_000, 2_000, 5_000])),
            backoff_max: Duration::from_millis(chance.one_of(&[200, 1_000, 5_000])),
            stream_window_bytes: chance.one_of(&[16 << 10, 64 << 10, 256 << 10]),
            mtu: chance.one_of(&[1_200, 1_280, 1_452, 9_000]),
            corrupt_ppm: if kinds.has(FaultKind::Corrupt) { corrupt_ppm } else { 0 },
        }
    }

    /// The longest that a connection may take to come back over a network that works again: the old one has to be found
    /// dead, a last attempt in vain to end, and the wait after it.
    pub(crate) fn patience(&self) -> u64 {
        let handshake = config(self, 0).handshake_deadline;
        (self.idle_timeout + 2 * handshake + self.backoff_max).as_nanos() as u64
    }
}

fn config(plan: &QuicPlan, at: usize) -> QuicConfig {
    let mut config = QuicConfig::new(identity(at), address(at));
    config.gso = false;
    config.idle_timeout = plan.idle_timeout;
    config.keep_alive = plan.idle_timeout / 4;
    config.backoff = (Duration::from_millis(50), plan.backoff_max);
    config.stream_window_bytes = plan.stream_window_bytes;
    // Certificates go by the day on which the process began: nothing simulated takes long enough for them to end.
    let began = identity(at).not_after() - Validity::NODE.as_secs();
    config.wall_clock = WallClock::from_fn(move || began);
    config
}

/// The identity of the node at a position. The keys are new in every process, and of one length: no time depends on them.
fn identity(at: usize) -> Identity {
    static ALL: OnceLock<Vec<Identity>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let authority = ClusterAuthority::new("sim").expect("a good name");
        let nodes = 1..=NODES_MAX;
        nodes.map(|node| authority.issue(PeerId(node)).expect("a key can be made")).collect()
    });
    all[at].clone()
}

/// Where the node at a position listens.
pub(crate) fn address(at: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, at as u8 + 1)), 7400)
}

/// The position of the node that listens there.
fn place(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => usize::from(ip.octets()[3]).checked_sub(1),
        IpAddr::V6(_) => None,
    }
}

/// What a transport hands up.
pub(crate) enum Heard {
    Message(PeerId, Channel, Bytes),
    Connected(PeerId),
    Disconnected(PeerId),
}

#[derive(Default)]
struct Ears(Mutex<Vec<Heard>>);

impl Receive for Ears {
    fn receive(&self, from: PeerId, channel: Channel, message: Bytes) {
        held(&self.0).push(Heard::Message(from, channel, message));
    }

    fn connected(&self, peer: PeerId) {
        held(&self.0).push(Heard::Connected(peer));
    }

    fn disconnected(&self, peer: PeerId) {
        held(&self.0).push(Heard::Disconnected(peer));
    }
}

/// A node's end of the network in one of its lives.
pub(crate) struct QuicEnd {
    tasks: Tasks,
    socket: Arc<SimSocket>,
    ears: Arc<Ears>,
    pub(crate) transport: Arc<QuicTransport>,
    /// When the world will look after it, in the world's time.
    pub(crate) looked_after_at: u64,
}

impl QuicEnd {
    /// The end of the node at a position, among so many.
    pub(crate) fn start(plan: &QuicPlan, at: usize, nodes: usize, seed: u64, now: Time) -> Self {
        let tasks = Tasks::new(now);
        let socket = Arc::new(SimSocket::new(address(at)));
        let ears: Arc<Ears> = Arc::default();
        let environment = Environment { runtime: tasks.runtime(), socket: socket.clone(), seed };
        let peers =
            (0..nodes).filter(|peer| *peer != at).map(|peer| (PeerId(peer as u64 + 1), address(peer)));
        let transport = QuicTransport::start_on(environment, config(plan, at), peers.collect(), ears.clone())
            .expect("the limits are within their bounds, and the certificates our own");
        Self { tasks, socket, ears, transport: Arc::new(transport), looked_after_at: u64::MAX }
    }

    /// A datagram has come from the node at a position; it waits until the end runs.
    pub(crate) fn deliver(&self, from: usize, datagram: Bytes) {
        self.socket.deliver(address(from), datagram);
    }

    /// Does all that can be done at that time on the node's clock; when there will be more to do.
    pub(crate) fn run(&mut self, now: Time) -> Time {
        self.tasks.run(now)
    }

    /// What it has sent since, and to the node at which position.
    pub(crate) fn take_sent(&self) -> Vec<(usize, Bytes)> {
        let sent = self.socket.take_sent().into_iter();
        sent.filter_map(|(to, datagram)| Some((place(to)?, datagram))).collect()
    }

    /// The messages and events that it has received since.
    pub(crate) fn take_heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *held(&self.ears.0))
    }
}
