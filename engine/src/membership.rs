//! Membership and leadership of a group: requests for another configuration, and for another leader.
//!
//! The protocol is in `raftwerk_raft` (`membership`, `admission`, `transfer`); the worker's part in
//! `worker/membership.rs`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use raftwerk_frame::{GroupId, Index, Membership, NodeId};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Admission, Refusal, Transition, Unfit};
use tokio::sync::oneshot;

use crate::group::{Answer, Group};
use crate::inbox::{Inbox, Order};

/// A request for another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconfiguration {
    /// The changes, all made in one step. Empty: leave a joint configuration that is held, or stop waiting
    /// for new members.
    pub changes: Vec<Change>,
    /// The index of the configuration that the request is based on, from [`GroupStatus`](crate::GroupStatus):
    /// if the group has a later one by now, the request is refused.
    pub expected_index: Option<Index>,
    /// Whether the change is made directly or through a joint configuration.
    pub transition: Transition,
    /// What is required of new members before they may vote.
    pub admission: Admission,
    /// If set, the leader only reports the outcome and changes nothing.
    pub dry_run: bool,
}

impl Reconfiguration {
    /// These changes, by the shortest safe route. Nodes that are to vote come in as learners first, and the
    /// change waits until they have caught up.
    #[must_use]
    pub fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        Self {
            changes: changes.into_iter().collect(),
            expected_index: None,
            transition: Transition::Auto,
            admission: Admission::Awaited,
            dry_run: false,
        }
    }
}

/// Why a change of the configuration was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The leader refuses it, or this node does not lead. Nothing happened, except that nodes may have come
    /// in as learners.
    #[error("the change is refused: {0:?}")]
    Refused(Refusal),
    /// The leader has never received a message from this node, which is to come in, so it has no log
    /// recorded for it. It has sent a query: try again when they are connected. Nothing happened.
    #[error("{0} has not been heard yet")]
    NotIntroduced(NodeId),
    /// This node is a member with another log than it has now: it has lost its disk. Remove it, and when that
    /// is done, add it again. Nothing happened.
    #[error("{0} takes part with a log that it no longer has")]
    OtherLog(NodeId),
    /// It may have happened, or may happen later. Look at the configuration before trying again.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// The disk has no space except for removals of replicas. Nothing happened.
    #[error("the disk is full")]
    StorageFull,
    /// The log failed and takes no more writes until the engine is opened again.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// This node has no such group, or the engine is closed. Nothing happened.
    #[error("the group is not here")]
    NoSuchGroup,
}

/// Why a leadership transfer did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// It was not begun.
    #[error("the transfer is refused: {0:?}")]
    Refused(Unfit),
    /// The target did not take over in time. This node still leads, and writes resume.
    #[error("{0} did not take over in time")]
    Abandoned(NodeId),
    /// The outcome cannot be determined: the log is poisoned, or the replica or the engine is gone.
    #[error("the outcome of the transfer is unknown")]
    Unknown,
    /// This node has no such group, or the engine is closed. Nothing happened.
    #[error("the group is not here")]
    NoSuchGroup,
}

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
