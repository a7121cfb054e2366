//! How long a flood delays a peer: `cargo run --release -p raftwerk-net --example strangers [trials [rate]]`.
//!
//! Unknown senders without a certificate begin handshakes with node 2, have their addresses validated, and
//! fall silent; node 1 then starts and connects. Printed for each rate and number of addresses: the delay
//! until node 1 is connected, with the numbers of node 2's refusals. The flood, both nodes and this program
//! share the machine. In the rows "its address" node 2 has the address of node 1; in "its host", only the
//! right IP address with another port, and one address of the flood is that very one; in "nothing", neither.
//! IMPURE: sockets, threads and the clock.
#![allow(clippy::print_stdout)]

#[path = "../tests/quic/flood.rs"]
mod flood;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftwerk_net::{Channel, ClusterAuthority, PeerId, QuicConfig, QuicTransport, Receive};

use flood::{Flood, loopback_addresses};

/// A peer that is not connected by then counts as kept out.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the flood lasts before the peer starts.
const LEAD: Duration = Duration::from_secs(3);

struct Deaf;

impl Receive for Deaf {
    fn receive(&self, _: PeerId, _: Channel, _: Bytes) {}
    fn connected(&self, _: PeerId) {}
    fn disconnected(&self, _: PeerId) {}
}

/// What node 2 has of node 1's address.
#[derive(Clone, Copy)]
enum Known {
    Address,
    Host,
    Nothing,
}

impl Known {
    fn text(self) -> &'static str {
        match self {
            Self::Address => "its address",
            Self::Host => "its host",
            Self::Nothing => "nothing",
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let trials = std::env::args().nth(1).map_or(Ok(3), |word| word.parse::<usize>())?;
    let only = std::env::args().nth(2).map(|word| word.parse::<u32>()).transpose()?;
    println!("| node 2 knows | addresses | handshakes/s | begun/s | delays, ms | node 2 |");
    println!("|---|---|---|---|---|---|");
    for known in [Known::Address, Known::Host, Known::Nothing] {
        for addresses in [1, 1000] {
            for rate in
                [200, 500, 2_000, 10_000].into_iter().filter(|rate| only.is_none_or(|only| only == *rate))
            {
                row(known, addresses, rate, trials)?;
            }
        }
    }
    Ok(())
}

fn row(known: Known, addresses: u32, rate: u32, trials: usize) -> Result<(), Box<dyn Error>> {
    let mut delays = Vec::new();
    let (mut begun, mut last) = (0, String::new());
    for _ in 0..trials {
        let (delay, per_second, stats) = trial(known, addresses, rate)?;
        delays.push(delay.map_or_else(|| "none".to_owned(), |delay| delay.as_millis().to_string()));
        (begun, last) = (begun.max(per_second), stats);
    }
    println!("| {} | {addresses} | {rate} | {begun} | {} | {last} |", known.text(), delays.join(", "));
    Ok(())
}

/// One peer's connection during the flood: how long it took, and how many handshakes a second there really
/// were.
fn trial(known: Known, addresses: u32, rate: u32) -> Result<(Option<Duration>, u64, String), Box<dyn Error>> {
    let authority = ClusterAuthority::new("blue")?;
    let config = |node, listen| -> Result<QuicConfig, Box<dyn Error>> {
        Ok(QuicConfig::new(authority.issue(PeerId(node))?, listen))
    };
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let one_at = free_address()?;
    let one_is_said_at = match known {
        Known::Address => one_at,
        Known::Host => SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
        Known::Nothing => SocketAddr::from((Ipv4Addr::new(127, 9, 9, 9), 9)),
    };
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let two = QuicTransport::start(config(2, here)?, vec![(PeerId(1), one_is_said_at)], Arc::new(Deaf))?;
    let strangers = match (known, addresses) {
        (Known::Address | Known::Host, 1) => vec![localhost],
        _ => loopback_addresses(addresses),
    };
    let flood = Flood::start(two.local_addr(), rate, strangers);
    let began = Instant::now();
    thread::sleep(LEAD);
    let one = QuicTransport::start(config(1, one_at)?, vec![(PeerId(2), two.local_addr())], Arc::new(Deaf))?;
    let start = Instant::now();
    while !one.is_connected(PeerId(2)) && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    let delay = one.is_connected(PeerId(2)).then(|| start.elapsed());
    let per_second = (flood.begun() as f64 / began.elapsed().as_secs_f64()) as u64;
    let stats = two.stats();
    let text = format!(
        "{} proved their address; not answered: {} for their address, {} for places, {} for the rate; {} ended",
        flood.retries_answered(),
        stats.address_refused,
        stats.half_open_refused,
        stats.rate_refused,
        stats.silent_evicted + stats.handshakes_expired
    );
    Ok((delay, per_second, text))
}

/// An address of this machine that was free a moment ago.
fn free_address() -> Result<SocketAddr, Box<dyn Error>> {
    Ok(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
