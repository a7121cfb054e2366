//! Membership and leadership of a group: requests for another configuration, and for another leader.
//!
//! The protocol is in `raftwerk_raft` (`membership`, `admission`, `transfer`); the worker's part in
//! `worker/calls/membership.rs`.

pub(crate) mod initial_members;
pub(crate) mod reconfiguration;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use raftwerk_frame::{GroupId, Membership, NodeId};
use tokio::sync::oneshot;

use crate::api::call::Answer;
use crate::api::error::{ReconfigureError, TransferError};
use crate::api::group::Group;
use crate::api::membership::reconfiguration::Reconfiguration;
use crate::node::inbox::Inbox;
use crate::node::request::Order;

impl Group {
    /// Requests another configuration (paper, section 6). To be sent to the leader. Completes when the new
    /// configuration is committed and no longer joint, unless it is to be held joint; new members may take as
    /// long as they need to catch up.
    ///
    /// A new node first needs an empty replica, [`Engine::join_group`](crate::Engine::join_group), and the
    /// others need its address, [`Engine::set_address`](crate::Engine::set_address). It comes in with the log
    /// that it has now: the configuration records that log, and no member accepts another log under the
    /// node's id in its place.
    pub fn reconfigure(&self, wish: Reconfiguration) -> Reconfiguring {
        reconfigure(self.inbox(), self.id(), wish)
    }

    /// Requests a leadership transfer to another voter (thesis, section 3.10). Writes are refused as busy
    /// meanwhile, for at most an election timeout. Completes with `Ok` when this node no longer leads.
    pub fn transfer_leadership(&self, to: NodeId) -> Transferring {
        transfer(self.inbox(), self.id(), to)
    }
}

/// Enqueues a configuration request in the inbox of the group's worker.
pub(crate) fn reconfigure(inbox: &Inbox, group: GroupId, wish: Reconfiguration) -> Reconfiguring {
    let (reply, answer) = oneshot::channel();
    inbox.order(Order::Reconfigure { group, wish, reply });
    Reconfiguring(Answer::Later(answer))
}

/// Enqueues a transfer request in the inbox of the group's worker.
pub(crate) fn transfer(inbox: &Inbox, group: GroupId, to: NodeId) -> Transferring {
    let (reply, answer) = oneshot::channel();
    inbox.order(Order::Transfer { group, to, reply });
    Transferring(Answer::Later(answer))
}

/// A pending change. A future; or block on it with [`Reconfiguring::wait`].
#[must_use = "the outcome of a change should be looked at"]
pub struct Reconfiguring(Answer<Membership, ReconfigureError>);

impl Reconfiguring {
    /// Blocks until the outcome is known: the configuration in force; for a dry run, the one that would be
    /// next, with the index of the present one.
    ///
    /// # Errors
    /// [`ReconfigureError`]; only `Unknown` leaves open what happened.
    pub fn wait(self) -> Result<Membership, ReconfigureError> {
        self.0.wait(ReconfigureError::Unknown)
    }
}

impl Future for Reconfiguring {
    type Output = Result<Membership, ReconfigureError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, ReconfigureError::Unknown)
    }
}

/// A pending leadership transfer. A future; or block on it with [`Transferring::wait`].
#[must_use = "the outcome of a transfer should be looked at"]
pub struct Transferring(Answer<(), TransferError>);

impl Transferring {
    /// Blocks until leadership has moved, or the transfer is abandoned.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn wait(self) -> Result<(), TransferError> {
        self.0.wait(TransferError::Unknown)
    }
}

impl Future for Transferring {
    type Output = Result<(), TransferError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, TransferError::Unknown)
    }
}
