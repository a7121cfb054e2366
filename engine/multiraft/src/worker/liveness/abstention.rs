//! For how long a replica abstains from votes after a restart or join: earlier incarnations of the node may
//! have supported peers, for the election timeout that was configured then.
//!
//! The directory records the longest support that any incarnation may have given (`raftwerk_wal::PeerNotes`). An
//! incarnation that gives longer support records that before it gives any. One that gives shorter support
//! abstains for as long as is recorded; once that time has passed since its opening, no earlier support
//! stands, and it records its own.
//!
//! Not here: support itself (`crate::worker::liveness::support`), and abstaining
//! (`raftwerk_raft::Config::abstention`).

use std::time::Duration;

use raftwerk_frame::Time;
use raftwerk_wal::{Disk, OpenError};

/// The longest support that incarnations of this node may have given.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Abstention {
    /// As recorded in the directory.
    noted: Duration,
    /// This incarnation's support: its election timeout.
    own: Duration,
    /// From then on no support of an earlier incarnation stands.
    outwaited_at: Time,
}

impl Abstention {
    /// For a worker that opens. The first worker records its support if that is longer than recorded before.
    /// Blocks for that.
    pub(in crate::worker) fn open<D: Disk>(
        disk: &D,
        worker: u16,
        own: Duration,
        now: Time,
    ) -> Result<Self, OpenError> {
        let noted = disk.directory().support();
        if own > noted && worker == 0 {
            disk.directory().note_support(own)?;
        }
        Ok(Self { noted: noted.max(own), own, outwaited_at: now + noted })
    }

    /// For how long a replica that starts now grants no vote.
    pub(in crate::worker) fn now(&self) -> Duration {
        self.noted
    }

    /// What is to be noted as the longest support, along with the peers' logs.
    pub(in crate::worker) fn worth_noting(&self, now: Time) -> Duration {
        if now >= self.outwaited_at { self.own } else { self.noted }
    }

    /// Whether the recorded support is longer than it needs to be.
    pub(in crate::worker) fn is_outwaited(&self, now: Time) -> bool {
        self.worth_noting(now) < self.noted
    }

    /// This support is recorded durably.
    pub(in crate::worker) fn noted(&mut self, support: Duration) {
        self.noted = support.max(self.own);
    }
}
