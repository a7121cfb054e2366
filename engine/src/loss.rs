//! The operator's way out for a replica that has lost something and that nobody can repair.
//!
//! A replica whose log was damaged is fenced: it votes for nobody until a leader that was elected without it has brought it
//! everything (`engine/docs/log_format.md`). Where no such leader can be, as when the only voter or most of them were hit, the
//! group stands still for good. Only a person can know that what is lost will not come back from anywhere; so a person says so,
//! of one replica and of one loss, in a node that was opened for that ([`Config::accept_losses`](crate::Config)).
//!
//! Damage may leave no trace of a group at all. Then it is not on this node any more, and where that may have happened, none is
//! founded here ([`CreateError::Lost`](crate::CreateError)) before somebody says the same of it.

use raftwerk_frame::{EntryId, GroupId, Index, Term};

/// What a replica has lost, as far as that can be said.
///
/// Its log is whole up to `last`. It may have held more: entries after that, of terms up to `fence`, which it had acknowledged,
/// and which may have been committed and answered. It may also have voted in those terms for somebody it does not remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The group.
    pub group: GroupId,
    /// No lost promise was of a later term.
    pub fence: Term,
    /// The last entry that is left here; what is lost came after it.
    pub last: EntryId,
    /// Up to here the state machine has seen them.
    pub applied: Index,
}

/// Why a loss was not accepted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptLossError {
    /// The node was not opened for it: [`Config::accept_losses`](crate::Config).
    #[error("this node accepts no losses")]
    Forbidden,
    /// There is no such replica, or it has lost nothing, or has been brought it.
    #[error("there is no loss to accept")]
    None,
    /// What is lost is something else than what was said.
    #[error("what is lost now is {0:?}")]
    Other(Loss),
    /// The log failed and takes no more writes until the engine is opened again: it may or may not say so then.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}
