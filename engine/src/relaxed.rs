//! Relaxed proposals: acknowledged when a quorum has written them, before they are durable.
//!
//! What is not here: how a log delays a sync (`raftwerk_wal::Lane::submit_relaxed`), and how written copies
//! are counted (`worker::relaxed`). The levels side by side: `engine/docs/durability.md`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use raftwerk_frame::{EntryId, GroupId};
use tokio::sync::oneshot;

use crate::error::ProposeError;
use crate::group::Answer;
use crate::inbox::{Inbox, Refused, Request};

/// The receipt of a relaxed proposal: a quorum of the group has written it to its logs, and it need not be
/// durable on any of them. Unlike [`Applied`](crate::Applied) it does not cover the state machine: the entry
/// is applied when it is durable on a quorum, like every other, at most about
/// [`Config::relaxed_sync_interval`] later; a read before that need not show it.
///
/// It survives the end of any number of processes. It may be lost if a machine of that quorum loses its
/// memory (by a power failure, or a kernel crash), or its device fails to sync the entry, before the entry is
/// synced, and the other replicas cannot make up for it. A write that was acknowledged as
/// [`Applied`](crate::Applied) is not affected by that, in this group or any other.
///
/// [`Config::relaxed_sync_interval`]: crate::Config::relaxed_sync_interval
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Its position in the group's log, if it is not lost.
    pub id: EntryId,
}

/// Enqueues a relaxed proposal in the inbox of the group's worker.
pub(crate) fn propose_relaxed(
    inbox: &Inbox,
    bytes_max: usize,
    group: GroupId,
    payload: Bytes,
) -> RelaxedProposal {
    let now = |error| RelaxedProposal(Answer::Now(Some(Err(error))));
    if payload.len() > bytes_max {
        return now(ProposeError::TooLarge { bytes: payload.len(), max: bytes_max });
    }
    let (reply, answer) = oneshot::channel();
    match inbox.request(Request::ProposeRelaxed { group, payload, reply }) {
        Ok(()) => RelaxedProposal(Answer::Later(answer)),
        Err(Refused::Full(_)) => now(ProposeError::Busy),
        Err(Refused::Closed(_)) => now(ProposeError::Closed),
    }
}

/// A pending relaxed proposal. A future; or block on it with [`RelaxedProposal::wait`].
#[must_use = "the outcome of a proposal should be looked at"]
pub struct RelaxedProposal(Answer<Received, ProposeError>);

impl RelaxedProposal {
    /// Blocks until there is a receipt.
    ///
    /// # Errors
    /// [`ProposeError`]; only `Unknown` leaves open whether it is or will be applied.
    pub fn wait(self) -> Result<Received, ProposeError> {
        self.0.wait(ProposeError::Unknown)
    }
}

impl Future for RelaxedProposal {
    type Output = Result<Received, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, ProposeError::Unknown)
    }
}
