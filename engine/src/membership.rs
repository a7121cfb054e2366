//! Who takes part in a group, and who leads it: asking for another configuration, and for another leader.
//!
//! What the protocol makes of it is in `raftwerk_raft` (`membership`, `admission`, `transfer`); what a worker does with it
//! in `worker/membership.rs`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use raftwerk_frame::{GroupId, Index, Membership, NodeId};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Newcomers, Refusal, Route, Unfit};
use tokio::sync::oneshot;

use crate::group::{Answer, Group};
use crate::inbox::{Inbox, Order};

/// A wish for another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconfiguration {
    /// What is to become of whom, all in one step. None: leave a joint configuration that is held, or wait for newcomers
    /// no longer.
    pub changes: Vec<Change>,
    /// The index of the configuration that was looked at, from [`GroupStatus`](crate::GroupStatus): if the group has a
    /// later one by now, the wish is refused.
    pub seen: Option<Index>,
    /// By which way.
    pub route: Route,
    /// What is asked of nodes before they may vote.
    pub newcomers: Newcomers,
    /// Only tells what would happen.
    pub dry_run: bool,
}

impl Reconfiguration {
    /// These changes, by the shortest safe way. Nodes that are to vote come in as learners first, and are waited for.
    #[must_use]
    pub fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        Self {
            changes: changes.into_iter().collect(),
            seen: None,
            route: Route::Auto,
            newcomers: Newcomers::Awaited,
            dry_run: false,
        }
    }
}

/// Why a change of the configuration was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The leader refuses it, or this node does not lead. Nothing happened, except that nodes may have come in as learners.
    #[error("the change is refused: {0:?}")]
    Refused(Refusal),
    /// The leader has never heard this node, which is to come in, and does not know which log it has. It has asked: try again
    /// when they are connected. Nothing happened.
    #[error("{0} has not been heard yet")]
    NotIntroduced(NodeId),
    /// This node takes part with another log than it has now: it has lost its disk. Remove it, and when that is done, add it
    /// again. Nothing happened.
    #[error("{0} takes part with a log that it no longer has")]
    OtherLog(NodeId),
    /// It may have happened, or may yet. Look at the configuration before asking again.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// The disk has no room for more than replicas that are let go. Nothing happened.
    #[error("the disk is full")]
    StorageFull,
    /// The log failed and takes no more writes until the engine is opened again.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// This node has no such group, or the engine is closed. Nothing happened.
    #[error("the group is not here")]
    NoSuchGroup,
}

/// Why a transfer of the lead did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// It was not begun.
    #[error("the transfer is refused: {0:?}")]
    Refused(Unfit),
    /// The target did not take over in time. This node leads on, and writes resume.
    #[error("{0} did not take over in time")]
    Abandoned(NodeId),
    /// Nobody knows any more: the log is poisoned, or the replica or the engine is gone.
    #[error("the outcome of the transfer is unknown")]
    Unknown,
    /// This node has no such group, or the engine is closed. Nothing happened.
    #[error("the group is not here")]
    NoSuchGroup,
}

impl Group {
    /// Asks for another configuration (paper, section 6). To be asked of the leader. Ends when the new configuration is
    /// committed and no longer joint, unless it was to be held so; newcomers may take as long as they need to catch up.
    ///
    /// A new node needs an empty replica first: [`Engine::join_group`](crate::Engine::join_group), and must be known to the
    /// others by address: [`Engine::set_address`](crate::Engine::set_address). It comes in with the log that it has now: the
    /// configuration names it, and nobody takes another log under the node's number for it.
    pub fn reconfigure(&self, wish: Reconfiguration) -> Reconfiguring {
        reconfigure(self.inbox(), self.id(), wish)
    }

    /// Asks the leader to hand over to another voter (thesis, section 3.10). Writes are refused as busy meanwhile, for at
    /// most an election timeout. Ends with `Ok` when this node leads no longer.
    pub fn transfer_leadership(&self, to: NodeId) -> Transferring {
        transfer(self.inbox(), self.id(), to)
    }
}

/// Puts a wish into the inbox of the group's worker.
pub(crate) fn reconfigure(inbox: &Inbox, group: GroupId, wish: Reconfiguration) -> Reconfiguring {
    let (reply, answer) = oneshot::channel();
    inbox.order(Order::Reconfigure { group, wish, reply });
    Reconfiguring(Answer::Later(answer))
}

/// Puts a transfer into the inbox of the group's worker.
pub(crate) fn transfer(inbox: &Inbox, group: GroupId, to: NodeId) -> Transferring {
    let (reply, answer) = oneshot::channel();
    inbox.order(Order::Transfer { group, to, reply });
    Transferring(Answer::Later(answer))
}

/// A change on its way. A future; or block on it with [`Reconfiguring::wait`].
#[must_use = "the outcome of a change should be looked at"]
pub struct Reconfiguring(Answer<Membership, ReconfigureError>);

impl Reconfiguring {
    /// Blocks until the outcome is known: the configuration in force; of a dry run, the one that would be next, with the
    /// index of the present one.
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

/// The lead on its way to another node. A future; or block on it with [`Transferring::wait`].
#[must_use = "the outcome of a transfer should be looked at"]
pub struct Transferring(Answer<(), TransferError>);

impl Transferring {
    /// Blocks until the lead is given up, or the transfer.
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
