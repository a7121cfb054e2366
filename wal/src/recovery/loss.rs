//! Losses of durable frames, and the frame that lists them.

use raftwerk_frame::GroupId;

/// The identity of a loss: the first batch that is not whole, the next one that is found, and a hash of the
/// groups that were hit.
pub(crate) type Loss = [u64; 3];

/// The group id of a fence frame that lists losses: all groups that they hit have been fenced before it.
pub(crate) const EVERY_GROUP: GroupId = GroupId(u64::MAX);

/// The groups that lost frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LossVictims {
    /// Unknown.
    Any,
    /// These.
    Of(Vec<GroupId>),
}
