//! For how long a replica that comes to life abstains from votes: earlier lives of the node may have promised support to
//! others, by the election timeout that they had.
//!
//! A directory notes the longest support that any life may have given (`raftwerk_wal::Notes`). A life that gives longer support
//! notes that before it gives any. One that gives shorter support abstains for what is noted; once that time has passed in it,
//! no earlier promise stands, and it notes its own.
//!
//! What is not here: the promises (`crate::liveness`), the abstention (`raftwerk_raft::Config::abstention`).

use std::time::Duration;

use raftwerk_frame::Time;
use raftwerk_wal::{Disk, OpenError};

/// What this node's lives have promised at the most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abstention {
    /// As the directory has it.
    noted: Duration,
    /// This life's support: its election timeout.
    own: Duration,
    /// From then on no promise of an earlier life stands.
    outwaited_at: Time,
}

impl Abstention {
    /// Of a worker that opens. The first worker notes longer support than was noted before. Blocks for that.
    pub(super) fn open<D: Disk>(
        disk: &D,
        is_first: bool,
        own: Duration,
        now: Time,
    ) -> Result<Self, OpenError> {
        let noted = disk.directory().support();
        if own > noted && is_first {
            disk.directory().note_support(own)?;
        }
        Ok(Self { noted: noted.max(own), own, outwaited_at: now + noted })
    }

    /// For how long a replica that comes to life now grants no vote.
    pub(super) fn now(&self) -> Duration {
        self.noted
    }

    /// What is to be noted with whatever else is.
    pub(super) fn worth_noting(&self, now: Time) -> Duration {
        if now >= self.outwaited_at { self.own } else { self.noted }
    }

    /// Whether what is noted is longer than it has to be.
    pub(super) fn is_outwaited(&self, now: Time) -> bool {
        self.worth_noting(now) < self.noted
    }

    /// This is noted, durably.
    pub(super) fn noted(&mut self, support: Duration) {
        self.noted = support.max(self.own);
    }
}
