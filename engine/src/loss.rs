//! The operator's last resort for a replica that has lost something and cannot be repaired.
//!
//! A replica with a damaged log is fenced: it grants no vote until a leader that was elected without it has
//! brought it everything (`engine/docs/log_format.md`). Where no such leader is possible, as when the only
//! voter or most of them were damaged, the group stands still for good. Only an operator can establish that
//! what is lost will not return from elsewhere; so an operator confirms it, for one replica and one loss, on
//! a node that was opened for that ([`Config::accept_losses`](crate::Config)).
//!
//! Damage may leave no trace of a group at all. Then it is no longer on this node, and where that may have
//! happened, none is created here ([`CreateError::Lost`](crate::CreateError)) before an operator confirms the
//! same for it.

use raftwerk_frame::{EntryId, GroupId, Index, Term};

/// What a replica has lost, as far as it is known.
///
/// Its log is intact up to `last`. It may have held more: entries after that, of terms up to `fence`, which
/// it had acknowledged, and which may have been committed and answered. It may also have granted votes in
/// those terms that it has no record of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The group.
    pub group: GroupId,
    /// Upper bound: no lost hard state or entry had a later term.
    pub fence: Term,
    /// The last entry that is left here; the loss came after it.
    pub last: EntryId,
    /// The last index applied by the state machine.
    pub applied: Index,
}

/// Why a loss was not accepted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptLossError {
    /// The node was not opened with [`Config::accept_losses`](crate::Config).
    #[error("this node accepts no losses")]
    Forbidden,
    /// There is no such replica, or it has lost nothing, or has been repaired.
    #[error("there is no loss to accept")]
    None,
    /// The present loss differs from the given one.
    #[error("what is lost now is {0:?}")]
    Other(Loss),
    /// The log failed and takes no more writes until the engine is opened again: the acceptance may or may
    /// not be in force then.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}
