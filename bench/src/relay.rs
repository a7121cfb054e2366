//! A way between two nodes that can be made bad: packets of one node's dialling pass through here, and are lost, or come later,
//! by direction. IMPURE: sockets, threads, and the clock by which what is late is due.
//!
//! What is not here: which ways belong to which node (`failover::relay`, and the tests' processes).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// So often a thread looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);
/// The longest packet.
const PACKET_BYTES_MAX: usize = 65_536;
/// Packets that may be late at one time, each way; what comes beyond them is lost.
const LATE_MAX: usize = 65_536;

/// One direction.
#[derive(Debug, Default)]
pub struct Way {
    is_cut: AtomicBool,
    loss_ppm: AtomicU32,
    lag_us: AtomicU32,
}

impl Way {
    /// Lets nothing pass any more, or everything again. What is on its way is lost, too.
    pub fn cut(&self, cut: bool) {
        self.is_cut.store(cut, Ordering::SeqCst);
    }

    /// Whether nothing passes.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Loses so many packets in a million.
    pub fn lose(&self, ppm: u32) {
        self.loss_ppm.store(ppm, Ordering::SeqCst);
    }

    /// Delays each packet by so much, to the microsecond.
    pub fn lag(&self, by: Duration) {
        self.lag_us.store(u32::try_from(by.as_micros()).unwrap_or(u32::MAX), Ordering::SeqCst);
    }
}

/// Carries what one node sends to another, and its answers. Ends when dropped.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    front: UdpSocket,
    server: Mutex<SocketAddr>,
    there: Way,
    back: Way,
    is_over: AtomicBool,
}

impl Relay {
    /// Begins to carry to `server`, from an address of its own.
    ///
    /// # Errors
    /// An error of sockets or threads.
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        let front = socket()?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            front,
            server: Mutex::new(server),
            there: Way::default(),
            back: Way::default(),
            is_over: AtomicBool::new(false),
        });
        let forward = Arc::clone(&shared);
        thread::Builder::new().name("relay".into()).spawn(move || carry_there(&forward))?;
        Ok(Self { address, shared })
    }

    /// Where to send what is to be carried.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node at the other end is elsewhere now.
    pub fn point(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// The way of the node that dials.
    #[must_use]
    pub fn there(&self) -> &Way {
        &self.shared.there
    }

    /// The way of the answers.
    #[must_use]
    pub fn back(&self) -> &Way {
        &self.shared.back
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

/// What comes from one socket, and what becomes of it.
struct Carrier<'a> {
    source: &'a UdpSocket,
    way: &'a Way,
    is_over: &'a AtomicBool,
    chance: Rng,
    late: VecDeque<(Instant, Vec<u8>, SocketAddr)>,
}

impl<'a> Carrier<'a> {
    fn new(source: &'a UdpSocket, way: &'a Way, is_over: &'a AtomicBool) -> Self {
        let port = source.local_addr().map_or(0, |address| address.port());
        Self { source, way, is_over, chance: Rng::new(port.into()), late: VecDeque::new() }
    }

    /// Carries until it is over. `pass` takes a packet on, to or from the client that is named.
    fn carry(&mut self, mut pass: impl FnMut(&[u8], SocketAddr)) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut patience = LOOK;
        while !self.is_over.load(Ordering::SeqCst) {
            // Nothing for a while; or a port without a listener: a lost packet.
            if let Ok((length, from)) = self.source.recv_from(&mut buffer) {
                self.take(&buffer[..length], from, &mut pass);
            }
            let now = Instant::now();
            while let Some((_, packet, from)) = self.late.pop_front_if(|(due, ..)| *due <= now) {
                if !self.way.is_cut() {
                    pass(&packet, from);
                }
            }
            let due = self.late.front().map_or(LOOK, |(due, ..)| LOOK.min(*due - now));
            if due != patience && self.source.set_read_timeout(Some(due)).is_ok() {
                patience = due;
            }
        }
    }

    fn take(&mut self, packet: &[u8], from: SocketAddr, pass: &mut impl FnMut(&[u8], SocketAddr)) {
        let loss = self.way.loss_ppm.load(Ordering::SeqCst);
        if self.way.is_cut() || loss > 0 && self.chance.below(1_000_000) < u64::from(loss) {
            return;
        }
        let lag = Duration::from_micros(u64::from(self.way.lag_us.load(Ordering::SeqCst)));
        if lag.is_zero() && self.late.is_empty() {
            pass(packet, from);
        } else if self.late.len() < LATE_MAX {
            // In order, also when the delay has just become shorter.
            let last = self.late.back().map(|(due, ..)| *due);
            let due = last.into_iter().fold(Instant::now() + lag, Instant::max);
            self.late.push_back((due, packet.to_vec(), from));
        }
    }
}

fn carry_there(shared: &Arc<Shared>) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    Carrier::new(&shared.front, &shared.there, &shared.is_over).carry(|packet, client| {
        let back = match backs.get(&client) {
            Some(back) => back,
            None => {
                // Without sockets or threads the packet is lost, and the next one tries again.
                let Some(back) = way_back(shared, client) else { return };
                backs.entry(client).or_insert(back)
            }
        };
        let server = *shared.server.lock().unwrap_or_else(PoisonError::into_inner);
        let _lost = back.send_to(packet, server);
    });
}

/// A socket for what one client sends, and a thread that carries the answers to it.
fn way_back(shared: &Arc<Shared>, client: SocketAddr) -> Option<Arc<UdpSocket>> {
    let back = socket().map(Arc::new).ok()?;
    let (carrier, source) = (Arc::clone(shared), Arc::clone(&back));
    let carry = move || {
        Carrier::new(&source, &carrier.back, &carrier.is_over).carry(|packet, _| {
            let _lost = carrier.front.send_to(packet, client);
        });
    };
    thread::Builder::new().name("relay".into()).spawn(carry).ok()?;
    Some(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_pass_both_ways_unless_their_way_is_cut_and_go_where_it_points() {
        let (client, server) = (socket().unwrap(), socket().unwrap());
        let relay = Relay::start(server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 8];
        client.send_to(b"one", relay.address()).unwrap();
        let (length, back) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"one");
        server.send_to(b"two", back).unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap().0, 3);
        // Of two, the first is lost: the second would not have overtaken it.
        relay.back().cut(true);
        client.send_to(b"three", relay.address()).unwrap();
        let (length, back) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(length, 5);
        let late = Duration::from_millis(1);
        relay.there().lag(late);
        let other = socket().unwrap();
        relay.point(other.local_addr().unwrap());
        let sent = Instant::now();
        client.send_to(b"four", relay.address()).unwrap();
        assert_eq!(other.recv_from(&mut buffer).unwrap().0, 4);
        assert!(sent.elapsed() >= late);
        assert!(relay.back().is_cut() && back.port() > 0);
    }

    #[test]
    fn what_is_lost_or_cut_off_does_not_pass_and_what_is_late_waits_its_turn() {
        let (source, way, is_over) = (socket().unwrap(), Way::default(), AtomicBool::new(false));
        let mut carrier = Carrier::new(&source, &way, &is_over);
        let mut take = |from: SocketAddr| {
            let mut passed = 0;
            carrier.take(b"packet", from, &mut |_, _| passed += 1);
            (passed, carrier.late.len())
        };
        let from = source.local_addr().unwrap();
        assert_eq!(take(from), (1, 0));
        way.lose(1_000_000);
        assert_eq!(take(from), (0, 0));
        way.lose(0);
        way.cut(true);
        assert_eq!(take(from), (0, 0));
        way.cut(false);
        way.lag(LOOK);
        assert_eq!(take(from), (0, 1));
        way.lag(Duration::ZERO);
        assert_eq!(take(from), (0, 2), "behind the one before it");
    }
}
