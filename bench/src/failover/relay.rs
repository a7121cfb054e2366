//! What lies between two nodes: packets of one node's dialling pass through here, and may be lost by direction. IMPURE: sockets
//! and threads.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Which packets a cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All of the node's.
    Both,
    /// Those on their way to it.
    Towards,
}

/// Carries what one node sends to another, and its answers. Ends when dropped.
pub(super) struct Relay {
    from: usize,
    to: usize,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    front: UdpSocket,
    forward_cut: AtomicBool,
    backward_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Relay {
    pub(super) fn start(from: usize, to: usize, server: SocketAddr) -> io::Result<Self> {
        let front = socket()?;
        let address = front.local_addr()?;
        let flags = || AtomicBool::new(false);
        let shared =
            Arc::new(Shared { front, forward_cut: flags(), backward_cut: flags(), is_over: flags() });
        let forward = Arc::clone(&shared);
        thread::Builder::new().name("relay".into()).spawn(move || carry_forward(&forward, server))?;
        Ok(Self { from, to, address, shared })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts a node off, or lets it be heard again. Nothing happens if it is at neither end.
    pub(super) fn cut(&self, node: usize, way: Way, cut: bool) {
        let is_cut = |end: usize, other: usize| end == node || other == node && way == Way::Both;
        if is_cut(self.to, self.from) {
            self.shared.forward_cut.store(cut, Ordering::SeqCst);
        }
        if is_cut(self.from, self.to) {
            self.shared.backward_cut.store(cut, Ordering::SeqCst);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // So often a thread looks whether it is over.
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

/// The next packet; `None` when it is over.
fn receive(socket: &UdpSocket, shared: &Shared, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    while !shared.is_over.load(Ordering::SeqCst) {
        // Nothing for a while; or a port that nobody listens on: a lost packet.
        if let Ok(received) = socket.recv_from(buffer) {
            return Some(received);
        }
    }
    None
}

fn carry_forward(shared: &Arc<Shared>, server: SocketAddr) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    while let Some((length, client)) = receive(&shared.front, shared, &mut buffer) {
        let back = match backs.get(&client) {
            Some(back) => Arc::clone(back),
            None => {
                // Without sockets or threads the packet is lost, and the next one tries again.
                let Ok(back) = socket().map(Arc::new) else { continue };
                let (carrier, source) = (Arc::clone(shared), Arc::clone(&back));
                let carry = move || carry_backward(&carrier, &source, client);
                if thread::Builder::new().name("relay".into()).spawn(carry).is_err() {
                    continue;
                }
                backs.insert(client, Arc::clone(&back));
                back
            }
        };
        if !shared.forward_cut.load(Ordering::SeqCst) {
            let _lost = back.send_to(&buffer[..length], server);
        }
    }
}

fn carry_backward(shared: &Shared, source: &UdpSocket, client: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    while let Some((length, _)) = receive(source, shared, &mut buffer) {
        if !shared.backward_cut.load(Ordering::SeqCst) {
            let _lost = shared.front.send_to(&buffer[..length], client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_pass_both_ways_unless_their_way_is_cut() {
        let (client, server) = (socket().unwrap(), socket().unwrap());
        let relay = Relay::start(0, 1, server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 8];
        client.send_to(b"one", relay.address()).unwrap();
        let (length, back) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"one");
        server.send_to(b"two", back).unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap().0, 3);
        // Towards 0 nothing passes; from it everything.
        relay.cut(0, Way::Towards, true);
        client.send_to(b"three", relay.address()).unwrap();
        assert_eq!(server.recv_from(&mut buffer).unwrap().0, 5);
        assert!(
            relay.shared.backward_cut.load(Ordering::SeqCst)
                && !relay.shared.forward_cut.load(Ordering::SeqCst)
        );
        relay.cut(2, Way::Both, true);
        assert!(!relay.shared.forward_cut.load(Ordering::SeqCst), "another's affair");
    }
}
