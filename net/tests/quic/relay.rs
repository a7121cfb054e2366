//! A UDP relay: a network between clients and one server that can be cut per direction, moved, made lossy, and
//! made to drop long datagrams.
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::cluster::loopback;

pub(crate) struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    front: UdpSocket,
    server: Mutex<SocketAddr>,
    forward_cut: AtomicBool,
    backward_cut: AtomicBool,
    /// The interval, in packets, at which one is lost; zero for none.
    lose_every: AtomicU64,
    count: AtomicU64,
    /// Longer datagrams are lost, either way.
    carries: AtomicUsize,
    /// The maximum length of a datagram that was carried, either way.
    longest: AtomicUsize,
    stop: AtomicBool,
}

impl Shared {
    /// Whether a datagram is lost by chance or by its length.
    fn loses(&self, length: usize) -> bool {
        if length > self.carries.load(Ordering::SeqCst) {
            return true;
        }
        self.longest.fetch_max(length, Ordering::SeqCst);
        let every = self.lose_every.load(Ordering::Relaxed);
        every > 0 && self.count.fetch_add(1, Ordering::Relaxed) % every == every - 1
    }
}

impl Relay {
    pub(crate) fn start(server: SocketAddr) -> Self {
        let front = UdpSocket::bind(loopback()).unwrap();
        let address = front.local_addr().unwrap();
        let shared = Arc::new(Shared {
            front,
            server: Mutex::new(server),
            forward_cut: AtomicBool::new(false),
            backward_cut: AtomicBool::new(false),
            lose_every: AtomicU64::new(0),
            count: AtomicU64::new(0),
            carries: AtomicUsize::new(usize::MAX),
            longest: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let forward = Arc::clone(&shared);
        thread::spawn(move || carry_forward(&forward));
        Self { shared, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut_backward(&self, cut: bool) {
        self.shared.backward_cut.store(cut, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self, cut: bool) {
        self.shared.forward_cut.store(cut, Ordering::SeqCst);
        self.cut_backward(cut);
    }

    pub(crate) fn lose_every(&self, packets: u64) {
        self.shared.lose_every.store(packets, Ordering::SeqCst);
    }

    /// From now on the path loses datagrams that are longer than `bytes`, without notice.
    pub(crate) fn carry_up_to(&self, bytes: usize) {
        self.shared.carries.store(bytes, Ordering::SeqCst);
        self.shared.longest.store(0, Ordering::SeqCst);
    }

    pub(crate) fn longest(&self) -> usize {
        self.shared.longest.load(Ordering::SeqCst)
    }

    pub(crate) fn move_to(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap() = server;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while !stop.load(Ordering::SeqCst) {
        if let Ok(received) = socket.recv_from(buffer) {
            return Some(received);
        }
    }
    None
}

fn carry_forward(shared: &Arc<Shared>) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    while let Some((length, client)) = receive(&shared.front, &shared.stop, &mut buffer) {
        let back = backs.entry(client).or_insert_with(|| {
            let back = Arc::new(UdpSocket::bind(loopback()).unwrap());
            let (shared, from) = (Arc::clone(shared), Arc::clone(&back));
            thread::spawn(move || carry_backward(&shared, &from, client));
            back
        });
        if !shared.forward_cut.load(Ordering::SeqCst) && !shared.loses(length) {
            let server = *shared.server.lock().unwrap();
            // A port without a listener is a lost packet.
            let _ = back.send_to(&buffer[..length], server);
        }
    }
}

fn carry_backward(shared: &Shared, from: &UdpSocket, client: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    while let Some((length, _)) = receive(from, &shared.stop, &mut buffer) {
        if !shared.backward_cut.load(Ordering::SeqCst) && !shared.loses(length) {
            let _ = shared.front.send_to(&buffer[..length], client);
        }
    }
}
