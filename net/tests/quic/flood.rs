//! A flood: Initial packets of handshakes that are never finished, from as many addresses as wanted.
//!
//! The packets are made by hand, with TLS's own keys, since a whole client would cost its sender as much as
//! it costs the receiver. Each handshake begins correctly, answers a Retry, so that its address is validated,
//! and then falls silent. One socket sends for all addresses. Used by tests, and by a program that measures
//! (`examples/strangers.rs`).
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Suite, Version};
use rustls::{ClientConfig, Side, version};

/// Bytes of every Initial packet: the minimum that QUIC admits.
const PACKET_BYTES: usize = 1200;
/// The sender's connection id, the same in all handshakes: they need not be distinguished.
const SOURCE_ID: [u8; 8] = *b"stranger";
const TAG_BYTES: usize = 16;
const PACKET_NUMBER_BYTES: usize = 4;

/// How many Initial packets, answers to a Retry included, have been sent.
#[derive(Default)]
struct Sent {
    begun: AtomicU64,
    retries_answered: AtomicU64,
}

/// Unknown senders that begin handshakes until this is dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<Sent>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Begins `per_second` handshakes a second with `target`, from these addresses of this machine in turn.
    pub(crate) fn start(target: SocketAddr, per_second: u32, addresses: Vec<IpAddr>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(Sent::default()));
        let thread = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || Attacker::new(target, addresses).attack(per_second, &stop, &sent))
        };
        Self { stop, sent, thread: Some(thread) }
    }

    /// Handshakes begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.sent.begun.load(Ordering::Relaxed)
    }

    /// Those of them that proved their address.
    pub(crate) fn retries_answered(&self) -> u64 {
        self.sent.retries_answered.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a stranger does not panic");
        }
    }
}

/// Addresses of the loopback network, none of which is 127.0.0.1.
pub(crate) fn loopback_addresses(count: u32) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    (0..count).map(|n| IpAddr::V4(Ipv4Addr::from(first + n))).collect()
}

struct Attacker {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    target: SocketAddr,
    addresses: Vec<IpAddr>,
    suite: Suite,
    /// The first message of TLS, the same in all handshakes.
    client_hello: Vec<u8>,
    made: u64,
}

impl Attacker {
    fn new(target: SocketAddr, addresses: Vec<IpAddr>) -> Self {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let state = UdpSocketState::new((&socket).into()).expect("a socket that tells where packets came in");
        let suite = ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("it is of TLS 1.3");
        let suite = suite.quic_suite().expect("ring speaks QUIC");
        Self { socket, state, target, addresses, suite, client_hello: client_hello(), made: 0 }
    }

    fn attack(&mut self, per_second: u32, stop: &AtomicBool, sent: &Sent) {
        let began = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let due = (began.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
            // Handshakes missed on a busy machine are not made up for in one burst.
            let due = due.min(self.made + u64::from(per_second / 50).max(1));
            while self.made < due {
                self.made += 1;
                let from = self.addresses[(self.made % self.addresses.len() as u64) as usize];
                self.send(from, &self.made.to_be_bytes(), &[]);
                sent.begun.fetch_add(1, Ordering::Relaxed);
            }
            sent.retries_answered.fetch_add(self.answer_retries(), Ordering::Relaxed);
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Sends on behalf of an address; a full socket loses it, as networks do.
    fn send(&self, from: IpAddr, destination_id: &[u8], token: &[u8]) {
        let packet = self.initial(destination_id, token);
        let transmit = Transmit {
            destination: self.target,
            ecn: None,
            contents: &packet,
            segment_size: None,
            src_ip: Some(from),
        };
        let _ = self.state.try_send((&self.socket).into(), &transmit);
    }

    /// Reads the received packets, and answers Retries; everything else is ignored.
    fn answer_retries(&self) -> u64 {
        let mut answered = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut meta = [RecvMeta::default()];
            let mut buffers = [std::io::IoSliceMut::new(&mut buffer)];
            if self.state.recv((&self.socket).into(), &mut buffers, &mut meta).is_err() {
                return answered;
            }
            let RecvMeta { len, stride, dst_ip, .. } = meta[0];
            let Some(at) = dst_ip.filter(|_| len > 0) else { continue };
            for packet in buffer[..len].chunks(stride.max(1)) {
                if let Some((id, token)) = parse_retry(packet) {
                    self.send(at, id, token);
                    answered += 1;
                }
            }
        }
    }

    /// The Initial packet of a handshake: RFC 9000 section 17.2.2, protected as in RFC 9001 section 5.
    fn initial(&self, destination_id: &[u8], token: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xC0 | (PACKET_NUMBER_BYTES as u8 - 1), 0, 0, 0, 1];
        packet.push(destination_id.len() as u8);
        packet.extend_from_slice(destination_id);
        packet.push(SOURCE_ID.len() as u8);
        packet.extend_from_slice(&SOURCE_ID);
        packet.extend_from_slice(&long(token.len()));
        packet.extend_from_slice(token);
        let length = PACKET_BYTES - packet.len() - 2;
        packet.extend_from_slice(&long(length));
        let number_at = packet.len();
        packet.extend_from_slice(&[0; PACKET_NUMBER_BYTES]);
        let payload_at = packet.len();
        packet.extend_from_slice(&[0x06, 0x00]); // a CRYPTO frame from offset 0, then padding
        packet.extend_from_slice(&long(self.client_hello.len()));
        packet.extend_from_slice(&self.client_hello);
        packet.resize(PACKET_BYTES - TAG_BYTES, 0);

        let keys = self.suite.keys(destination_id, Side::Client, Version::V1);
        let (header, payload) = packet.split_at_mut(payload_at);
        let tag = keys.local.packet.encrypt_in_place(0, header, payload).expect("it is short enough");
        packet.extend_from_slice(tag.as_ref());
        let (header, sample) = packet.split_at_mut(number_at + 4);
        let (first, rest) = header.split_at_mut(1);
        let number = &mut rest[number_at - 1..number_at - 1 + PACKET_NUMBER_BYTES];
        keys.local.header.encrypt_in_place(&sample[..16], &mut first[0], number).expect("a whole sample");
        packet
    }
}

/// A number below 16,384 as QUIC writes it in two bytes.
fn long(number: usize) -> [u8; 2] {
    (0x4000 | number as u16).to_be_bytes()
}

/// The connection id and the token of a Retry.
fn parse_retry(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    if packet.first()? & 0xF0 != 0xF0 {
        return None;
    }
    let (length, rest) = packet.get(5..)?.split_first()?;
    let (length, rest) = rest.get(usize::from(*length)..)?.split_first()?;
    let (id, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((id, rest.get(..rest.len().checked_sub(TAG_BYTES)?)?))
}

fn client_hello() -> Vec<u8> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .expect("ring speaks it")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"raftwerk/1".to_vec()];
    let name = ServerName::try_from("n2.blue.raftwerk").expect("a good name");
    // The one parameter that a server requires: initial_source_connection_id.
    let mut parameters = vec![0x0F, SOURCE_ID.len() as u8];
    parameters.extend_from_slice(&SOURCE_ID);
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(tls), Version::V1, name, parameters)
        .expect("a good configuration")
        .write_hs(&mut hello);
    hello
}
