//! What a schedule has covered. Next: `schedule`, which requires enough of it.

/// How often events happened: a random test without them has tested nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) leaders: u64,
    pub(crate) committed: u64,
    pub(crate) replaced: u64,
    pub(crate) installed: u64,
    pub(crate) tails_kept: u64,
    pub(crate) reads: u64,
    pub(crate) reads_rejected: u64,
    pub(crate) lost_writes: u64,
    pub(crate) changes: u64,
    pub(crate) settled: u64,
    pub(crate) rolled_back: u64,
    pub(crate) joint_leaders: u64,
    pub(crate) transfers: u64,
    pub(crate) removed: u64,
    pub(crate) sent: u64,
    /// Entries that witnesses have accepted.
    pub(crate) withheld: u64,
}

impl std::ops::Add for Seen {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            leaders: self.leaders + other.leaders,
            committed: self.committed + other.committed,
            replaced: self.replaced + other.replaced,
            installed: self.installed + other.installed,
            tails_kept: self.tails_kept + other.tails_kept,
            reads: self.reads + other.reads,
            reads_rejected: self.reads_rejected + other.reads_rejected,
            lost_writes: self.lost_writes + other.lost_writes,
            changes: self.changes + other.changes,
            settled: self.settled + other.settled,
            rolled_back: self.rolled_back + other.rolled_back,
            joint_leaders: self.joint_leaders + other.joint_leaders,
            transfers: self.transfers + other.transfers,
            removed: self.removed + other.removed,
            sent: self.sent + other.sent,
            withheld: self.withheld + other.withheld,
        }
    }
}
