//! IMPURE: one connection in use: six streams out, six streams in, until the first of them fails.
//!
//! Each stream is served by its own future, so that a full one holds up nothing else. Priorities are quinn's:
//! control before append before bulk. What is not here: admission (`endpoint.rs`), the layout of bytes
//! (`frames.rs`, `coalesce.rs`).
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use quinn::{RecvStream, SendStream};

use crate::identity::certificate::next_check;
use crate::message::coalesce::Unit;
use crate::message::frames::{self, Decoder, FrameError, HELLO_REST_BYTES, HELLO_START_BYTES, LENGTH_BYTES};
use crate::quic::close::CloseCode;
use crate::quic::credentials;
use crate::quic::net::Net;
use crate::quic::peer::{Peer, PeerError};
use crate::quic::throttle::LogKind;
use crate::stats::add;
use crate::transport::Channel;

/// Chunks (about one packet each) taken from a stream at a time.
const CHUNKS: usize = 32;

/// The streams of a connection that is ready to carry messages, by slot.
pub(crate) struct Streams {
    send: Vec<SendStream>,
    receive: Vec<(usize, RecvStream)>,
}

/// Why a connection is over.
enum SessionEnd {
    /// The connection is lost or was closed, by either side.
    Lost,
    /// The peer broke the stream protocol.
    Violation(FrameError),
    /// The peer ended a stream that lives as long as the connection.
    Finished,
    /// A control write made no progress.
    Stalled,
    /// The peer's certificate has expired.
    Expired,
}

/// Opens this node's streams and waits for the peer's: once they are there both sides have accepted each
/// other, and have the same version. On failure or past the handshake deadline the connection is closed.
///
/// # Errors
/// The reason why not.
pub(crate) async fn establish(net: &Net, connection: &quinn::Connection) -> Result<Streams, PeerError> {
    let both = async {
        let send = open_streams(net, connection).await?;
        let receive = accept_streams(net, connection).await?;
        Ok(Streams { send, receive })
    };
    match net.within(net.config.handshake_deadline, both).await {
        Some(Ok(streams)) => Ok(streams),
        Some(Err(end)) => Err(close(net, connection, end)),
        None => {
            CloseCode::NotReady.close(connection);
            Err(PeerError::Unreachable("no streams in time".to_owned()))
        }
    }
}

async fn open_streams(net: &Net, connection: &quinn::Connection) -> Result<Vec<SendStream>, SessionEnd> {
    let mut streams = Vec::with_capacity(Channel::COUNT);
    for (slot, channel) in Channel::ALL.into_iter().enumerate() {
        let mut stream = connection.open_uni().await.map_err(|_| SessionEnd::Lost)?;
        stream.set_priority(priority(channel)).map_err(|_| SessionEnd::Lost)?;
        stream
            .write_all(&frames::hello(slot, net.config.messages_version))
            .await
            .map_err(|_| SessionEnd::Lost)?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn accept_streams(
    net: &Net,
    connection: &quinn::Connection,
) -> Result<Vec<(usize, RecvStream)>, SessionEnd> {
    let mut streams: Vec<(usize, RecvStream)> = Vec::with_capacity(Channel::COUNT);
    while streams.len() < Channel::COUNT {
        let mut stream = connection.accept_uni().await.map_err(|_| SessionEnd::Lost)?;
        let mut start = [0; HELLO_START_BYTES];
        stream.read_exact(&mut start).await.map_err(|_| SessionEnd::Lost)?;
        let slot = frames::parse_hello_start(start).map_err(SessionEnd::Violation)?;
        let mut rest = [0; HELLO_REST_BYTES];
        stream.read_exact(&mut rest).await.map_err(|_| SessionEnd::Lost)?;
        frames::parse_hello_rest(rest, net.config.messages_version).map_err(SessionEnd::Violation)?;
        if streams.iter().any(|(taken, _)| *taken == slot) {
            return Err(SessionEnd::Violation(FrameError::Slot(slot as u8)));
        }
        streams.push((slot, stream));
    }
    Ok(streams)
}

const fn priority(channel: Channel) -> i32 {
    match channel {
        Channel::Control => 2,
        Channel::Append(_) => 1,
        Channel::Bulk => 0,
    }
}

/// Carries messages until the connection ends. It replaces an earlier connection with the same peer.
pub(crate) async fn run(net: Arc<Net>, peer: Arc<Peer>, connection: quinn::Connection, streams: Streams) {
    let Some(epoch) = net.install(&peer, &connection) else {
        CloseCode::Unwanted.close(&connection);
        return;
    };
    let mut tasks: FuturesUnordered<Pin<Box<dyn Future<Output = SessionEnd> + Send + '_>>> =
        FuturesUnordered::new();
    for (slot, stream) in streams.send.into_iter().enumerate() {
        tasks.push(Box::pin(write(&net, &peer, epoch, slot, stream)));
    }
    for (slot, stream) in streams.receive {
        tasks.push(Box::pin(read(&net, &peer, epoch, slot, stream)));
    }
    tasks.push(Box::pin(watch_peer_certificate(&net, &connection)));
    let error = match AssertUnwindSafe(tasks.next()).catch_unwind().await {
        Ok(Some(end)) => close(&net, &connection, end),
        Ok(None) | Err(_) => {
            tracing::error!(peer = %peer.id, "the receiver of messages panicked");
            CloseCode::Protocol.close(&connection);
            PeerError::Unreachable("the receiver of messages panicked".to_owned())
        }
    };
    // The other futures end where they are; their charges on the outboxes are returned with them.
    drop(tasks);
    if net.retire(&peer, epoch).is_some() {
        net.on_failure(&peer, error);
    }
}

/// Ends when the peer's certificate does. The wall clock is checked once a minute, since it may be set.
async fn watch_peer_certificate(net: &Net, connection: &quinn::Connection) -> SessionEnd {
    let not_after = credentials::not_after(connection).unwrap_or(u64::MAX);
    while let Some(wait) = next_check(net.config.wall_clock.now().as_secs(), not_after) {
        let _ = net.within(wait, std::future::pending::<()>()).await;
    }
    SessionEnd::Expired
}

/// Closes a connection, and logs the reason if the peer is to blame.
fn close(net: &Net, connection: &quinn::Connection, end: SessionEnd) -> PeerError {
    let remote = connection.remote_address();
    let permit = match &end {
        SessionEnd::Lost => None,
        SessionEnd::Violation(FrameError::Version(_)) | SessionEnd::Expired => None,
        SessionEnd::Violation(_) | SessionEnd::Finished | SessionEnd::Stalled => {
            net.log_permit(LogKind::Violation)
        }
    };
    // The reason that the other side gave when it closed, or the error found before.
    let reason = connection.close_reason().map(|reason| PeerError::of(&reason, net.version()));
    match end {
        SessionEnd::Lost => {
            CloseCode::NotReady.close(connection);
            return reason.unwrap_or_else(|| PeerError::Unreachable("lost".to_owned()));
        }
        SessionEnd::Violation(FrameError::Version(theirs)) => {
            let ours = net.version();
            CloseCode::Version.close_with_reason(connection, &ours.to_string());
            return PeerError::Version { ours, theirs };
        }
        SessionEnd::Expired => {
            CloseCode::Expired.close(connection);
            return PeerError::Expired("while it was connected".to_owned());
        }
        SessionEnd::Stalled => {
            add(&net.counters.control_stalls, 1);
            CloseCode::Stalled.close(connection);
        }
        SessionEnd::Violation(_) | SessionEnd::Finished => {
            add(&net.counters.protocol_violations, 1);
            CloseCode::Protocol.close(connection);
        }
    }
    let what = match end {
        SessionEnd::Violation(error) => error.to_string(),
        SessionEnd::Finished => "a stream was ended".to_owned(),
        _ => "a control write made no progress".to_owned(),
    };
    if let Some(left_out) = permit {
        tracing::warn!(%remote, what, left_out, "connection closed");
    }
    PeerError::Unreachable(what)
}

/// Writes the content of a slot's outbox, unit by unit.
async fn write(net: &Net, peer: &Peer, epoch: u64, slot: usize, mut stream: SendStream) -> SessionEnd {
    let outbox = peer.outbox(slot);
    let stall_max = (Channel::ALL[slot] == Channel::Control).then_some(net.config.control_stall_max);
    let mut unit = Unit::default();
    loop {
        let mut dropped = 0;
        while let Some(charge) = outbox.fill(epoch, &mut unit, &mut dropped) {
            let (messages, bytes) = (unit.messages() as u64, unit.bytes() as u64);
            if let Err(end) = write_slices(net, &mut stream, unit.finish(), stall_max).await {
                return end;
            }
            drop(charge);
            add(&net.counters.messages_sent, messages);
            add(&net.counters.bytes_sent, bytes);
            add(&net.counters.writes, 1);
        }
        add(&net.counters.dropped_disconnected, dropped);
        outbox.ready().await;
    }
}

/// Writes all slices in order. Some progress must be made within every `stall_max`, if there is one.
async fn write_slices(
    net: &Net,
    stream: &mut SendStream,
    mut slices: &mut [Bytes],
    stall_max: Option<Duration>,
) -> Result<(), SessionEnd> {
    while !slices.is_empty() {
        let written = match stall_max {
            Some(limit) => net.within(limit, stream.write_chunks(slices)).await.ok_or(SessionEnd::Stalled)?,
            None => stream.write_chunks(slices).await,
        };
        let written = written.map_err(|_| SessionEnd::Lost)?;
        slices = &mut slices[written.chunks..];
    }
    Ok(())
}

/// Passes on the messages of one incoming stream while their connection is the current one.
async fn read(net: &Net, peer: &Peer, epoch: u64, slot: usize, mut stream: RecvStream) -> SessionEnd {
    let channel = Channel::ALL[slot];
    let mut decoder = Decoder::new(net.config.message_bytes_max.of(channel), Arc::clone(&net.slabs));
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        let count = match stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => count,
            Ok(None) => return SessionEnd::Finished,
            Err(_) => return SessionEnd::Lost,
        };
        let (mut messages, mut bytes) = (0, 0);
        for chunk in &mut chunks[..count] {
            // Taken, not borrowed: a chunk pins the memory of its packet.
            let chunk = mem::take(chunk);
            let mut input = &chunk[..];
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(_)) if peer.epoch() != epoch => return SessionEnd::Lost,
                    Ok(Some(message)) => {
                        messages += 1;
                        bytes += (LENGTH_BYTES + message.len()) as u64;
                        net.receive.receive(peer.id, channel, message);
                    }
                    Ok(None) => break,
                    Err(error) => return SessionEnd::Violation(error),
                }
            }
        }
        add(&net.counters.messages_received, messages);
        add(&net.counters.bytes_received, bytes);
    }
}
