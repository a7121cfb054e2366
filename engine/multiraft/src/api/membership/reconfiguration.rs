//! A request for another configuration.

use raftwerk_frame::Index;
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Admission, Transition};

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
