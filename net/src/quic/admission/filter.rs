//! The socket in front of admission: drops Initial packets unread where the policy refuses them.
//!
//! Reading an Initial packet takes keys derived for it alone, some twenty microseconds: at ten thousand
//! Initial packets a second that is half a core, and a net thread that is late lets its socket overflow, for
//! peers, too. What is not here: which packets are dropped (`policy.rs`).
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// The bits of a datagram's first byte that identify the kind of packet it begins with (RFC 9000 section
/// 17.2), which are …
const PACKET_TYPE_MASK: u8 = 0xF0;
/// … these in an Initial packet, which has a long header.
const INITIAL: u8 = 0xC0;

/// Decides whether the Initial packets of an address are read.
pub(crate) trait InitialFilter: Send + Sync {
    /// Whether to drop `packets` Initial packets that came together.
    fn drops(&self, from: SocketAddr, packets: usize) -> bool;
}

/// A socket that discards packets before they are read.
pub(crate) struct FilteredSocket<S> {
    socket: Arc<dyn AsyncUdpSocket>,
    filter: Arc<S>,
}

impl<S> FilteredSocket<S> {
    /// Reads from `socket` what `filter` does not drop.
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>, filter: Arc<S>) -> Self {
        Self { socket, filter }
    }
}

impl<S> fmt::Debug for FilteredSocket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteredSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl<S: InitialFilter + 'static> AsyncUdpSocket for FilteredSocket<S> {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        about: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(context, buffers, about);
        if let Poll::Ready(Ok(count)) = received {
            for (buffer, about) in buffers.iter().zip(about).take(count) {
                let is_first =
                    about.len > 0 && buffer.first().is_some_and(|byte| byte & PACKET_TYPE_MASK == INITIAL);
                // A buffer holds datagrams of one sender and one length.
                let packets = about.len.div_ceil(about.stride.max(1));
                if is_first && self.filter.drops(about.addr, packets) {
                    about.len = 0;
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use super::*;

    /// Receives one datagram of this length and first byte.
    #[derive(Debug)]
    struct Receives(u8, usize);

    impl AsyncUdpSocket for Receives {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing is sent")
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            unreachable!("nothing is sent")
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            buffers: &mut [IoSliceMut<'_>],
            about: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            buffers[0][0] = self.0;
            (about[0].len, about[0].stride) = (self.1, self.1);
            Poll::Ready(Ok(1))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok((Ipv4Addr::LOCALHOST, 1).into())
        }
    }

    /// Drops every packet it is consulted about, and counts the calls.
    #[derive(Default)]
    struct DropsAll(AtomicUsize);

    impl InitialFilter for DropsAll {
        fn drops(&self, _: SocketAddr, _: usize) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            true
        }
    }

    #[test]
    fn only_initial_packets_are_filtered() {
        let received = |first: u8, length: usize| {
            let filter = Arc::new(DropsAll::default());
            let filtered =
                FilteredSocket { socket: Arc::new(Receives(first, length)), filter: Arc::clone(&filter) };
            let mut bytes = [0; 1200];
            let mut about = [RecvMeta::default()];
            let mut context = Context::from_waker(Waker::noop());
            let polled = filtered.poll_recv(&mut context, &mut [IoSliceMut::new(&mut bytes)], &mut about);
            assert!(matches!(polled, Poll::Ready(Ok(1))));
            (about[0].len, filter.0.load(Ordering::Relaxed))
        };
        assert_eq!(received(INITIAL | 3, 1200), (0, 1));
        // Packets of an existing connection, and of a handshake in progress.
        assert_eq!(received(0x40, 1200), (1200, 0));
        assert_eq!(received(0xE0, 1200), (1200, 0));
        // The content of the buffer is that of an earlier datagram.
        assert_eq!(received(INITIAL | 3, 0), (0, 0));
    }
}
