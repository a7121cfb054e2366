//! One real connection over loopback, between two transports of this process with an engine's settings. IMPURE: clock,
//! threads, sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftwerk::Config;
use raftwerk::NodeId;
use raftwerk_net::identity::ClusterAuthority;
use raftwerk_net::{Channel, Parts, PeerId, QuicConfig, QuicTransport, Receive, Transport};
use serde::{Deserialize, Serialize};

use super::least;
use crate::usage::own_cpu_nanos;

const LARGE_BYTES: usize = 64 << 10;
const SMALL_BYTES: usize = 64;
/// Messages that leave together, at most twice as many are under way: large ones, small ones.
const LARGE_BURST: u64 = 16;
const SMALL_BURST: u64 = 64;
/// The path is probed for longer packets meanwhile.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a round of messages of one kind takes.
const LARGE_FOR: Duration = Duration::from_millis(250);
const SMALL_FOR: Duration = Duration::from_millis(150);
/// For a connection, and for each burst to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// CPU time of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::suite) struct QuicCost {
    /// A message, beside its bytes, where many leave together.
    pub(in crate::suite) message_ns: f64,
    /// A byte of long messages.
    pub(in crate::suite) byte_ns: f64,
    /// A message of 64 B that is alone under way: a packet, its acknowledgement, and all threads woken.
    pub(in crate::suite) lone_message_us: f64,
}

impl QuicCost {
    /// Measures them.
    ///
    /// # Errors
    /// A sentence.
    pub(in crate::suite) fn measure() -> Result<Self, String> {
        let link = Link::open()?;
        link.stream(LARGE_BYTES, LARGE_BURST, WARM_UP)?;
        let large = least(|| link.stream(LARGE_BYTES, LARGE_BURST, LARGE_FOR))?;
        let small = least(|| link.stream(SMALL_BYTES, SMALL_BURST, SMALL_FOR))?;
        let lone = least(|| link.stream(SMALL_BYTES, 1, SMALL_FOR))?;
        Ok(Self::through(small, large, lone))
    }

    /// The line through the CPU times of a small and a large message.
    fn through(small: f64, large: f64, lone: f64) -> Self {
        let byte_ns = ((large - small) / (LARGE_BYTES - SMALL_BYTES) as f64).max(0.0);
        let message_ns = (small - byte_ns * SMALL_BYTES as f64).max(0.0);
        Self { message_ns, byte_ns, lone_message_us: lone / 1000.0 }
    }

    /// Of so many messages, with so many bytes in all.
    pub(in crate::suite) fn cpu_us(&self, messages: f64, bytes: f64, is_lone: bool) -> f64 {
        if is_lone {
            messages * self.lone_message_us
        } else {
            (messages * self.message_ns + bytes * self.byte_ns) / 1000.0
        }
    }
}

/// What has arrived.
struct Arrivals {
    is_connected: AtomicBool,
    count: AtomicU64,
    /// The sender is woken when so many have arrived.
    wanted: AtomicU64,
    sender: Thread,
}

impl Arrivals {
    fn new() -> Arc<Self> {
        let (is_connected, sender) = (AtomicBool::new(false), thread::current());
        Arc::new(Self { is_connected, count: AtomicU64::new(0), wanted: AtomicU64::new(u64::MAX), sender })
    }

    fn wait_for(&self, count: u64) -> Result<(), String> {
        self.wanted.store(count, Ordering::SeqCst);
        self.wait(|| self.count.load(Ordering::SeqCst) >= count)
    }

    fn wait(&self, is_over: impl Fn() -> bool) -> Result<(), String> {
        let started = Instant::now();
        while !is_over() {
            if started.elapsed() > PATIENCE {
                return Err(format!("a connection over loopback was silent for {} s", PATIENCE.as_secs()));
            }
            thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Receive for Arrivals {
    fn receive(&self, _: PeerId, _: Channel, _: Bytes) {
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.wanted.load(Ordering::SeqCst) {
            self.sender.unpark();
        }
    }

    fn connected(&self, _: PeerId) {
        self.is_connected.store(true, Ordering::SeqCst);
        self.sender.unpark();
    }

    fn disconnected(&self, _: PeerId) {
        self.is_connected.store(false, Ordering::SeqCst);
    }
}

struct Link {
    from: QuicTransport,
    _to: QuicTransport,
    arrivals: Arc<Arrivals>,
}

const FROM: PeerId = PeerId(1);
const TO: PeerId = PeerId(2);

impl Link {
    fn open() -> Result<Self, String> {
        let authority = ClusterAuthority::new("suite").map_err(|error| error.to_string())?;
        let (at_from, arrivals) = (Arrivals::new(), Arrivals::new());
        let start = |node: PeerId, peers: Vec<(PeerId, SocketAddr)>, receive: &Arc<Arrivals>| {
            let identity = authority.issue(node).map_err(|error| error.to_string())?;
            let receive: Arc<dyn Receive> = Arc::<Arrivals>::clone(receive);
            let settings = Config::new(NodeId(node.0), "", identity);
            QuicTransport::start(net_config(&settings), peers, receive).map_err(|error| error.to_string())
        };
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let to = start(TO, vec![(FROM, nowhere)], &arrivals)?;
        let from = start(FROM, vec![(TO, to.local_addr())], &at_from)?;
        to.set_address(FROM, from.local_addr());
        at_from.wait(|| at_from.is_connected.load(Ordering::SeqCst))?;
        arrivals.wait(|| arrivals.is_connected.load(Ordering::SeqCst))?;
        Ok(Self { from, _to: to, arrivals })
    }

    /// Sends bursts of messages for so long, and gives the CPU time of one in nanoseconds.
    fn stream(&self, bytes: usize, burst: u64, span: Duration) -> Result<f64, String> {
        let message = Bytes::from(vec![0xA5; bytes]);
        let first = self.arrivals.count.load(Ordering::SeqCst);
        let (started, cpu, mut sent) = (Instant::now(), own_cpu_nanos(), 0);
        while started.elapsed() < span {
            for _ in 0..burst {
                let parts: Parts = [message.clone()].into_iter().collect();
                self.from.send(TO, Channel::Append(0), parts).map_err(|error| error.to_string())?;
            }
            self.from.flush();
            sent += burst;
            // Two bursts are under way, so that neither end rests; a lone message is alone.
            let wanted = if burst == 1 { sent } else { sent - burst };
            self.arrivals.wait_for(first + wanted)?;
        }
        self.arrivals.wait_for(first + sent)?;
        Ok((own_cpu_nanos() - cpu) as f64 / sent as f64)
    }
}

/// As an engine sets its transport.
fn net_config(engine: &Config) -> QuicConfig {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut net = QuicConfig::new(engine.identity.clone(), listen);
    net.mtu_max = engine.mtu_max;
    net.gso = engine.udp_gso;
    net.socket_buffer_bytes = engine.udp_buffer_bytes;
    net.stream_window_bytes = engine.stream_window_bytes;
    net.idle_timeout = engine.peer_idle_timeout;
    net.keep_alive = engine.peer_idle_timeout / 5;
    net
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_goes_through_both_messages() {
        let cost = QuicCost::through(600.0, 600.0 + 2.0 * (LARGE_BYTES - SMALL_BYTES) as f64, 50_000.0);
        assert_eq!((cost.byte_ns, cost.message_ns, cost.lone_message_us), (2.0, 600.0 - 128.0, 50.0));
        let us = cost.cpu_us(1.0, 64.0, false);
        assert!((us - 0.6).abs() < 1e-9, "{us}");
        assert_eq!(cost.cpu_us(3.0, 64.0, true), 150.0);
        assert_eq!(QuicCost::through(600.0, 500.0, 1.0).byte_ns, 0.0);
    }

    #[test]
    fn messages_arrive_in_bursts_and_alone() {
        let link = Link::open().unwrap();
        for (bytes, burst) in [(LARGE_BYTES, LARGE_BURST), (SMALL_BYTES, SMALL_BURST), (SMALL_BYTES, 1)] {
            assert!(link.stream(bytes, burst, Duration::from_millis(5)).unwrap() > 0.0);
        }
    }
}
