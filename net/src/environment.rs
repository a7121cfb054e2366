//! The environment of a transport: the runtime for its tasks and its time, and its socket.
//!
//! In production that is tokio on a thread of its own ([`crate::QuicTransport::start`]). Another
//! [`Environment`] runs the same transport on another time and network: the simulator does. What is not here:
//! tokio's (`quic.rs`, `endpoint.rs`).
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use quinn::{AsyncUdpSocket, Runtime};
use rustls::pki_types::UnixTime;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

/// Tasks, time, datagrams and randomness for one transport. With equal inputs from all four a transport
/// behaves the same: what else is random (keys of a handshake, connection ids) affects bytes, and no lengths
/// or times.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Runs the transport's tasks, on one thread at a time, and provides its time. Its sockets are not used.
    pub runtime: Arc<dyn Runtime>,
    /// Carries the datagrams.
    pub socket: Arc<dyn AsyncUdpSocket>,
    /// For the lengths of waits, and for the randomness of QUIC.
    pub seed: u64,
}

/// The seconds since 1970, by which certificates expire. The system's, unless a test provides another
/// ([`crate::QuicConfig::wall_clock`]); used for certificates only, since it may be set back or forward.
#[derive(Clone)]
pub struct WallClock(Arc<dyn TimeProvider>);

impl WallClock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(DefaultTimeProvider))
    }

    /// Another clock: `seconds` returns the seconds since 1970 at each call.
    pub fn from_fn(seconds: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(Seconds(seconds)))
    }

    pub(crate) fn now(&self) -> UnixTime {
        // Without a clock this crate considers nothing expired or not yet valid; a handshake fails by itself
        // then.
        self.0.current_time().unwrap_or_else(|| UnixTime::since_unix_epoch(Duration::ZERO))
    }

    pub(crate) fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

struct Seconds<F>(F);

impl<F> fmt::Debug for Seconds<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seconds")
    }
}

impl<F: Fn() -> u64 + Send + Sync> TimeProvider for Seconds<F> {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs((self.0)())))
    }
}

/// Waits for a future for at most `limit`; `None` if it did not complete. The cost is negligible unless it
/// waits.
pub(crate) async fn within<F: Future>(
    runtime: &dyn Runtime,
    limit: Duration,
    future: F,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = None;
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        let timer = timer.get_or_insert_with(|| runtime.new_timer(runtime.now() + limit));
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}
