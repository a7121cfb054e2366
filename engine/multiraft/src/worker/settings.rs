//! The settings of a worker.

use std::time::Duration;

use raftwerk_frame::{Configuration, GroupId, LogId, NodeId};
use raftwerk_raft as raft;

use crate::worker::limits::TurnLimits;

/// The node's settings as far as a worker needs them; [`Config`](crate::Config) explains those that it has,
/// too.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node.
    pub node: NodeId,
    /// The worker's number …
    pub worker: u16,
    /// … of so many.
    pub workers: u16,
    /// The longest payload or query in bytes.
    pub payload_bytes_max: usize,
    /// A follower that receives nothing from a leader for a random time in [T, 2T) campaigns.
    pub election_timeout: Duration,
    /// How often a leader sends a heartbeat when it has nothing else to send.
    pub heartbeat_interval: Duration,
    /// Most bytes of entries in flight to one follower of one group.
    pub window_bytes: u64,
    /// Most appends in flight to one follower of one group.
    pub window_messages: u32,
    /// Bytes of one append; one frame is always allowed.
    pub append_bytes_max: u64,
    /// Most bytes of one group's entries that may wait for a quorum.
    pub uncommitted_bytes_max: u64,
    /// How long a new commit index waits for an entry to be sent with.
    pub commit_delay: Duration,
    /// How long what was written without a sync may wait for one.
    pub relaxed_sync_interval: Duration,
    /// A group is checkpointed when its log holds this many bytes.
    pub checkpoint_log_bytes: u64,
    /// … and so many percent of its last checkpoint, up to a quarter of `lane_bytes_max`.
    pub checkpoint_state_percent: u32,
    /// When a lane's files hold more than this, the groups that pin its oldest are checkpointed.
    pub lane_bytes_max: u64,
    /// Rate at which the worker has its lane read in search of damage; 0: never.
    pub scrub_bytes_per_second: u64,
    /// Least time from the beginning of one such pass to that of the next.
    pub scrub_interval: Duration,
    /// Whether an operator may lift a fence (`Engine::accept_loss`).
    pub accept_losses: bool,
    /// This node's priority as a leader.
    pub priority: u8,
    /// Seeds the election timers.
    pub seed: u64,
    /// This incarnation of the node: any number but 0 that no earlier incarnation had.
    pub incarnation: u64,
    /// Bound on the deviation of each node's clock rate, in parts per million.
    pub clock_drift_ppm: u32,
    /// Reads of all groups that may wait for an answer …
    pub reads_max: usize,
    /// … and bytes of their queries.
    pub read_bytes_max: usize,
    /// Limits of one turn's work.
    pub limits: TurnLimits,
}

impl Settings {
    /// Gives a core the node's priority. The default priority leaves the first election timeout as it is.
    pub(in crate::worker) fn rank(&self, core: &mut raft::Group) {
        if self.priority != raft::PRIORITY_MAX {
            core.set_priority(self.priority);
        }
    }

    /// The settings of one group's core.
    pub(in crate::worker) fn core_config(
        &self,
        group: GroupId,
        log: LogId,
        configuration: &Configuration,
    ) -> raft::Config {
        // A new group's first leader is chosen by its id, so that leaders spread evenly over the voters.
        let may_lead = || configuration.voters.iter().filter(|node| configuration.may_lead(**node));
        let place = group.0.checked_rem(may_lead().count() as u64);
        let preferred = place.is_some_and(|place| may_lead().nth(place as usize) == Some(&self.node));
        raft::Config {
            node: self.node,
            log,
            group,
            seed: self.seed ^ group.0.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            election_timeout: self.election_timeout,
            heartbeat_interval: self.heartbeat_interval,
            first_timeout: preferred.then_some(self.heartbeat_interval / 2),
            window_bytes: self.window_bytes,
            window_messages: self.window_messages,
            append_bytes_max: self.append_bytes_max,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
            commit_delay: self.commit_delay,
            retirement: self.election_timeout,
            abstention: Duration::ZERO,
            opening: raft::Opening::Core,
            pre_vote: true,
            check_quorum: true,
        }
    }
}
