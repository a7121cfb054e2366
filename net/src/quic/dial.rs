//! IMPURE: keeping a connection to one peer: dial, use it, wait, dial again.
//!
//! Of two nodes the one with the lower number dials. What is not here: the accepting side (`endpoint.rs`),
//! the length of the waits (`backoff.rs`).
use std::sync::Arc;

use crate::identity::names;
use crate::quic::backoff::Backoff;
use crate::quic::close::CloseCode;
use crate::quic::endpoint::authenticated_node;
use crate::quic::net::Net;
use crate::quic::peer::{Peer, PeerError};
use crate::quic::session;
use crate::stats::add;

/// Keeps the peer connected until it is removed or the transport stops.
pub(crate) async fn keep_connected(net: Arc<Net>, peer: Arc<Peer>) {
    let (first, last) = net.config.backoff;
    // Nodes that lost the same peer must not dial it in step.
    let mut backoff = Backoff::new(first, last, net.seed ^ peer.id.0.rotate_left(32));
    while !peer.is_removed() && !net.is_stopping() {
        let dialled = tokio::select! {
            biased;
            () = peer.changed() => continue,
            dialled = dial(&net, &peer) => dialled,
        };
        match dialled {
            Ok((connection, streams)) => {
                backoff.reset();
                session::run(Arc::clone(&net), Arc::clone(&peer), connection, streams).await;
            }
            Err(error) => {
                add(&net.counters.dials_failed, 1);
                net.on_failure(&peer, error);
            }
        }
        // Either the wait is over, or a change makes an immediate attempt worthwhile.
        let _ = net.within(backoff.next(), peer.changed()).await;
    }
}

/// One attempt, each of its two halves bounded by the handshake deadline.
async fn dial(net: &Net, peer: &Peer) -> Result<(quinn::Connection, session::Streams), PeerError> {
    let name = names::node_name(net.config.identity.cluster(), peer.id);
    let address = peer.address();
    let client = net.credentials().client();
    let connecting = net
        .endpoint
        .connect_with(client, address, &name)
        .map_err(|error| PeerError::Unreachable(error.to_string()))?;
    let connection = match net.within(net.config.handshake_deadline, connecting).await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            // A certificate refused here is this node's own verdict; any other error is the network's or the
            // peer's.
            add(&net.counters.strangers_refused, u64::from(is_crypto_refusal(&error)));
            return Err(PeerError::of(&error, net.version()));
        }
        None => return Err(PeerError::Unreachable("no answer in time".to_owned())),
    };
    match authenticated_node(net, &connection) {
        Some(node) if node == peer.id => {}
        other => {
            add(&net.counters.strangers_refused, 1);
            CloseCode::Stranger.close(&connection);
            return Err(PeerError::Certificate(format!("{other:?} answers at {address}")));
        }
    }
    let streams = session::establish(net, &connection).await?;
    Ok((connection, streams))
}

/// Whether this node ended the handshake with a TLS alert of its own (QUIC error codes 0x100 to 0x1ff).
fn is_crypto_refusal(error: &quinn::ConnectionError) -> bool {
    match error {
        quinn::ConnectionError::TransportError(error) => (0x100..0x200).contains(&u64::from(error.code)),
        _ => false,
    }
}
