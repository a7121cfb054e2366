//! What waits in a worker for the outcome of a call, and where the answer goes.
//!
//! What is not here: reads ([`super::waiting`]), and answering ([`super::clients`]).

use std::collections::VecDeque;

use raftwerk_frame::{EntryId, Index, Membership};
use tokio::sync::oneshot;

use crate::api::error::{ProposeError, ReconfigureError, TransferError};
use crate::api::status::{Applied, Received};

/// Where a queued payload lies until the core accepts or rejects it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QueuedProposal {
    /// An operation of one of the turn's submissions.
    Operation { submission: u32, operation: u32 },
    /// One of the turn's single proposals.
    Single { request: u32 },
}

/// The client that waits for a proposal's outcome.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A pipeline, and its token.
    Pipeline { number: u32, token: u64 },
    /// A single caller.
    Single(oneshot::Sender<Result<Applied, ProposeError>>),
    /// A pipeline, and its token, for a receipt.
    RelaxedPipeline { number: u32, token: u64 },
    /// A single caller, for a receipt.
    RelaxedSingle(oneshot::Sender<Result<Received, ProposeError>>),
}

impl Waiter {
    /// Whether a receipt is enough.
    pub(crate) const fn is_relaxed(&self) -> bool {
        matches!(self, Self::RelaxedPipeline { .. } | Self::RelaxedSingle(_))
    }
}

/// An appended proposal, until its client is answered.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Its entry. The term matters: another leader's entry may take the index, and its outcome is not this caller's.
    pub(crate) id: EntryId,
    pub(crate) waiter: Waiter,
}

/// A leader's relaxed proposals.
#[derive(Debug, Default)]
pub(crate) struct RelaxedWrites {
    /// Those that wait for their receipts, in order of their indices.
    pub(crate) pending: VecDeque<Pending>,
    /// The last entry of this node's log that is written. It proves nothing about an entry that was replaced.
    pub(in crate::worker) written: EntryId,
}

/// One group's clients that wait for a change of its configuration or leader.
#[derive(Default)]
pub(in crate::worker) struct PendingChanges {
    /// The client that waits for a membership change …
    pub(super) change: Option<PendingChange>,
    /// … and the one that waits for a leadership transfer.
    pub(super) transfer: Option<oneshot::Sender<Result<(), TransferError>>>,
}

impl PendingChanges {
    /// The outcome of a leadership transfer will not be known.
    pub(super) fn drop_transfer(&mut self) {
        self.transfer = None;
    }
}

/// A client that waits for a membership change.
pub(super) struct PendingChange {
    /// The index of its configuration entry; `None` while new members are still learners.
    pub(super) index: Option<Index>,
    pub(super) reply: oneshot::Sender<Result<Membership, ReconfigureError>>,
}
