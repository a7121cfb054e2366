//! Which worker owns a group: a function of the group's id and the number of workers, the same on every node.

use raftwerk_frame::{GroupId, NodeId};

/// The maximum of workers of a node, and of lanes of a log.
pub(crate) const LANES_MAX: usize = 256;

/// No group has this id, or a higher one. Each lane has one of them, under which it records the term up to
/// which it may have lost state of unknown groups. The highest id is the log's.
pub(crate) const RESERVED: GroupId = GroupId(u64::MAX - 1 - u16::MAX as u64);

/// Whether an id is reserved for the log's own records.
pub(crate) const fn is_reserved(group: GroupId) -> bool {
    group.0 >= RESERVED.0
}

/// The index, among `workers` workers, of the one that owns a group.
pub(crate) fn worker_of(group: GroupId, workers: usize) -> usize {
    // Multiply-shift: spreads neighbouring ids, and costs a nanosecond.
    let mixed = group.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((u128::from(mixed) * workers as u128) >> 64) as usize
}

/// The lane, of `lanes`, that a group belongs to: that of its worker. `None` for a lane's record of a loss
/// whose groups are unknown: it concerns all groups that would belong to that lane, and no other.
pub(crate) fn lane_of(group: GroupId, lanes: u16) -> Option<u16> {
    (!is_reserved(group)).then(|| worker_of(group, usize::from(lanes)) as u16)
}

/// A worker of another node that has `workers` workers. The groups shared with it are those that it owns
/// there and this worker owns here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerLane {
    pub(crate) node: NodeId,
    pub(crate) worker: u16,
    pub(crate) workers: u16,
}

impl PeerLane {
    /// The worker that owns a group on a node with `workers` workers.
    pub(crate) fn of(node: NodeId, group: GroupId, workers: u16) -> Self {
        Self { node, worker: worker_of(group, usize::from(workers)) as u16, workers }
    }

    /// Whether it owns the group on its node.
    pub(crate) fn has(self, group: GroupId) -> bool {
        worker_of(group, usize::from(self.workers)) == usize::from(self.worker)
    }
}
