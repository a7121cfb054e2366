//! The settings of one node, with their defaults, units and bounds.

pub(crate) mod machine;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use raftwerk_frame::NodeId;
use raftwerk_net::identity::Identity;
use raftwerk_net::{MTU_MAX, MTU_MIN};
use raftwerk_wal::{AppendMode, FileObserver};

use crate::OpenError;
use crate::api::config::machine::Machine;
use crate::node::events::OnEvent;
use crate::node::placement::LANES_MAX;

/// The rate of an exact clock, in parts per million.
pub(crate) const EXACT_RATE_PPM: u32 = 1_000_000;

/// The settings of one node. Start from [`Config::new`] and change what you must.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node. Must be the node that `identity` names, and the one that `data_dir` belongs to.
    pub node: NodeId,
    /// Where the log and the checkpoints live. Made if absent; owned by one engine at a time.
    pub data_dir: PathBuf,
    /// The UDP address to listen on. Default 127.0.0.1:0, a free port.
    pub listen: SocketAddr,
    /// Where the other nodes are. More can follow by [`Engine::set_address`](crate::Engine::set_address).
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// This node's certificate and key, and the cluster's authority.
    pub identity: Identity,
    /// Threads that own groups. Default: the number of cores that the process may use, but no more than 32,
    /// and no more than one for each 128 MiB of the memory that it may use ([`Config::machine`]). 1 to 256.
    /// May differ each time that a directory is opened: each thread then has some of the directory's lanes;
    /// there are no more threads than lanes.
    pub workers: usize,
    /// Lanes of the log: parts with syncs of their own, at least one to each thread. 1 to 256. Default: as
    /// many as `workers`. More cost more: lanes that share a thread sync separately (eight on one thread,
    /// half the writes).
    ///
    /// A directory with another number is moved when it is opened, before anything else: the live records of
    /// its lanes are copied into as many new ones, which then replace the old ones atomically, whenever the
    /// process or the machine ends. That takes some seconds a GiB, and as much free space on the disk;
    /// checkpoints are not copied. To keep the number that a directory has, give that number here. The number
    /// stays what it is, with a warning ([`EngineStats::lanes_kept`](crate::EngineStats)), if there is no
    /// space, if a lane is damaged or has ever lost something of unknown groups, or if the file system has no
    /// hard links; the next opening tries again.
    pub lanes: Option<usize>,
    /// Memory of the node for the log's batch buffers, its index, and what readers of the log hold: one
    /// budget, in equal parts for the lanes. Not counted: state machines, and for each lane requests that its
    /// worker has not yet accepted (`inbox_max`; as many bytes as the lane has of this budget, at most 64
    /// MiB), units of the network (likewise, and 16 MiB), reads that wait (`reads_max`, `read_bytes_max`),
    /// and callers of proposals that are not committed (`uncommitted_bytes_max` for each group); and for each
    /// peer 84 MiB of units queued to it and 69 MiB of half-received ones.
    /// [`EngineStats::waiting_bytes`](crate::EngineStats::waiting_bytes) and
    /// [`outgoing_bytes`](crate::EngineStats::outgoing_bytes) show how much of it waits at present. When the
    /// budget gets short, first the latest entries are no longer kept for followers, then followers wait,
    /// then proposals are [`Busy`](crate::ProposeError::Busy); compaction frees it. Default: 1 GiB, or 64 MiB
    /// for each of the default's workers if that is more, but no more than a quarter of what the process may
    /// use ([`Config::machine`]). At least 16 MiB and 16 payloads for each worker. A group takes about 400
    /// bytes of it, an entry that came alone 60.
    pub memory_bytes: u64,
    /// Whether the log is synced before anything is acknowledged. Default true. Without syncs a crash of the
    /// machine can lose acknowledged writes: for measuring the cost of syncs, not for data.
    pub sync: bool,
    /// How the log is written. Default [`AppendMode::Direct`], past the page cache. Where the file system
    /// refuses that, writes are buffered instead; the node's log, and
    /// [`EngineStats::append_mode`](crate::EngineStats), show which mode is in use.
    pub append_mode: AppendMode,
    /// The longest payload or query in bytes. Default 1 MiB; at most 8 MiB and a quarter of `segment_bytes`.
    /// Raise it on all nodes before any caller uses the longer limit: a follower refuses a longer entry, logs
    /// an error that names the group, and makes no progress in that group until its node is opened with the
    /// longer limit.
    pub payload_bytes_max: usize,
    /// A callback for events of the node's disk, lanes, groups and peers ([`Event`](crate::Event)), in
    /// addition to the lines of the node's log and to [`Engine::health`](crate::NodeHandle::health). Default:
    /// none.
    pub on_event: Option<OnEvent>,
    /// T, the election timeout: a follower that receives nothing from a leader for a random time in [T, 2T)
    /// campaigns. Default 500 ms. May differ between nodes, and from one opening to the next: a node that is
    /// opened with a shorter one than before grants no vote, after that opening, for the longer time.
    pub election_timeout: Duration,
    /// The heartbeat interval of a leader that has nothing else to send. Default 100 ms; below half of T.
    pub heartbeat_interval: Duration,
    /// Bytes of one log file. Default 64 MiB; at least 64 KiB, a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// A group is checkpointed, and its log compacted, when its log holds this many bytes; not while a
    /// follower is being sent its checkpoint. Default 64 MiB.
    pub checkpoint_log_bytes: u64,
    /// In addition, the log must hold at least this percentage of the bytes of its last checkpoint, up to a
    /// quarter of `lane_bytes_max`: a checkpoint is the whole state, and the larger it is, the less often it
    /// is written. Default 100: as long as states are smaller than that quarter, checkpoints write no more
    /// than entries do. 0: the size of a state does not count.
    pub checkpoint_state_percent: u32,
    /// When a lane's files hold more than this, the groups that pin its oldest segment are checkpointed. A
    /// group with a snapshot in transfer to a follower, or with a follower that catches up after one, is
    /// exempt until they hold half as much again: if that margin holds fewer bytes than are written during
    /// such a transfer, the transfer starts over. Default 1 GiB. A disk for the log needs, for each lane,
    /// half as much again, and up to six segments that are ready or spare; and for checkpoints, which are
    /// kept beside it, twice the states.
    pub lane_bytes_max: u64,
    /// When a file of the log has been full for this long, its live records are relocated, or the groups that
    /// they belong to are checkpointed, so that the file can be freed, however little the log holds. At least
    /// a minute. For files that were there before, counted from opening. A snapshot in transfer may delay it.
    /// Default: none. The cost: live records are written again about once in this time.
    pub log_age_max: Option<Duration>,
    /// The rate at which the node reads its own log, where writing is finished, to search for damage: bytes a
    /// second, over all workers. Default 8 MiB; 0: never. Damage is reported in the node's log and in
    /// [`EngineStats::damaged_bytes`](crate::EngineStats::damaged_bytes), and repaired.
    pub scrub_bytes_per_second: u64,
    /// The minimum interval between the beginnings of two such passes over the log. Default 1 hour.
    pub scrub_interval: Duration,
    /// Bytes of entries in flight to one follower of one group. Default 4 MiB.
    pub window_bytes: u64,
    /// Bytes of one group's entries that may wait for a quorum; beyond it proposals are `Busy`. Default 64
    /// MiB.
    pub uncommitted_bytes_max: u64,
    /// How long a leader withholds a new commit index from followers, at the most, so that it can travel with an
    /// entry, or with those of other groups; a follower of a group without further proposals applies its last
    /// entries up to so much later. Default 5 ms.
    pub commit_delay: Duration,
    /// The maximum delay until relaxed proposals ([`Group::propose_relaxed`](crate::Group::propose_relaxed))
    /// are synced on each node that has written them, counted from the first write; also how much later than
    /// others they are applied. Default 10 ms; zero syncs them at once; at most `heartbeat_interval`.
    pub relaxed_sync_interval: Duration,
    /// Submissions and requests that may wait for one worker; beyond it callers get `Busy`. Default 4,096.
    pub inbox_max: usize,
    /// Reads of all groups that may wait for an answer at one worker: for a round of messages, for entries or
    /// for a leader; beyond it they are refused at once as [`Busy`](crate::ReadError::Busy). A group may hold
    /// as many as it leaves free, so one alone at most half. Each takes about 200 bytes besides its query.
    /// Default 65,536; at least 2.
    pub reads_max: usize,
    /// Bytes of the queries of those reads, likewise; memory for them is at most twice that. Default 64 MiB; at least 4
    /// times `payload_bytes_max`.
    pub read_bytes_max: usize,
    /// How long a worker without work polls for more before it sleeps. Default 0: on few cores, spinning
    /// takes time from threads that have work.
    pub spin: Duration,
    /// The maximum time that [`Engine::shutdown`](crate::NodeHandle::shutdown) waits for the threads to finish
    /// their work: a checkpoint, a write that hangs, an entry that takes long to apply. Default 30 s.
    pub shutdown_patience: Duration,
    /// Largest UDP payload to probe for on paths to peers, 1,200 to 6,500 bytes. Default 6,500: it costs less
    /// CPU where the network carries it, and nothing longer is sent than what a path has proved to carry. A
    /// smaller one saves the probes where it is known what the network carries: 1,452 on Ethernet.
    pub mtu_max: u16,
    /// Whether the kernel may cut large sends into packets (GSO). Default true. Some virtual network devices
    /// do it wrong: the symptom is that peers connect, and long messages are then lost. Without it a byte
    /// costs over three times the CPU.
    pub udp_gso: bool,
    /// Bytes of socket buffer to request, in each direction. Default 4 MiB. The system may grant less without
    /// an error (Linux: `net.core.rmem_max` and `wmem_max`); the node's log then reports how much.
    pub udp_buffer_bytes: usize,
    /// Bytes that may be in flight in one of the six streams between two nodes, 16 KiB to 16 MiB. Default 256
    /// KiB, which at a round trip of 50 ms is 5 MB/s for a stream: raise it for distant peers. A heartbeat
    /// waits behind so many bytes.
    pub stream_window_bytes: u32,
    /// A connection without a packet from the peer for this long is closed; keep-alives are sent five times
    /// as often. Default 5 s; at most an hour. Elections do not wait for it.
    pub peer_idle_timeout: Duration,
    /// Leader priority of this node, from [`PRIORITY_MAX`](crate::PRIORITY_MAX), the default, down to 0. For
    /// each step down it waits one more election timeout before it campaigns, so that the other nodes
    /// campaign first while they are alive; with 0 it leads only by a leadership transfer. Its votes, and its
    /// elections once it campaigns, are like those of any other node.
    pub priority: u8,
    /// The maximum deviation of the rate of each node's clock from the true rate, in parts per million.
    /// Leases, by which leaders answer reads without a message to their followers, are shortened by it.
    /// Default 50,000, which is 5 %. From 1,000,000 on there are no leases.
    ///
    /// What else depends on the rate of a clock: a bound of staleness and the age of an answer, which are
    /// wrong by the deviation of the answering node's clock, and which no setting corrects; and when a node
    /// campaigns, which does not affect safety. The clock is CLOCK_BOOTTIME, which continues while a machine
    /// is suspended. A clock that *stops*, or is set back with the rest of the machine, violates every bound:
    /// that of a virtual machine may, when its host pauses it or restores a snapshot of it. For those
    /// machines: no leases, and no bounded staleness that must hold.
    pub clock_drift_ppm: u32,
    /// For tests of drift: the rate at which this node's clock runs, in parts per million of the right one. Default 1,000,000;
    /// 500,000 to 2,000,000.
    #[doc(hidden)]
    pub clock_rate_ppm: u32,
    /// Whether [`Engine::accept_loss`](crate::NodeHandle::accept_loss) may be called. Default false: it gives up
    /// committed entries. To be set for the one opening in which an operator intends to call it.
    pub accept_losses: bool,
    /// For tests of durability: called with each system call that changes the node's files. Default: none.
    #[doc(hidden)]
    pub file_observer: Option<Arc<dyn FileObserver>>,
    /// The machine from which the defaults were derived. [`Engine::open`](crate::Engine::open) writes it to
    /// the node's log, beside the values that it uses; changing it afterwards changes nothing else.
    pub machine: Machine,
    /// Seeds the election timers. Default: made from the node's id. Two nodes of a group should differ.
    pub seed: u64,
}

impl Config {
    /// Default settings for `node`, with its log in `data_dir`, on this machine ([`Machine::here`]).
    #[must_use]
    pub fn new(node: NodeId, data_dir: impl Into<PathBuf>, identity: Identity) -> Self {
        Self::on(Machine::here(), node, data_dir, identity)
    }

    /// … on the described machine.
    #[must_use]
    pub fn on(machine: Machine, node: NodeId, data_dir: impl Into<PathBuf>, identity: Identity) -> Self {
        let workers = machine.workers();
        Self {
            node,
            data_dir: data_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            peers: Vec::new(),
            identity,
            workers,
            lanes: None,
            memory_bytes: machine.memory_for(workers),
            sync: true,
            append_mode: AppendMode::Direct,
            payload_bytes_max: 1 << 20,
            on_event: None,
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(100),
            segment_bytes: 64 << 20,
            checkpoint_log_bytes: 64 << 20,
            checkpoint_state_percent: 100,
            lane_bytes_max: 1 << 30,
            log_age_max: None,
            scrub_bytes_per_second: 8 << 20,
            scrub_interval: Duration::from_secs(3600),
            window_bytes: 4 << 20,
            uncommitted_bytes_max: 64 << 20,
            commit_delay: Duration::from_millis(5),
            relaxed_sync_interval: Duration::from_millis(10),
            inbox_max: 4096,
            reads_max: 64 << 10,
            read_bytes_max: 64 << 20,
            spin: Duration::ZERO,
            shutdown_patience: Duration::from_secs(30),
            mtu_max: MTU_MAX,
            udp_gso: true,
            udp_buffer_bytes: 4 << 20,
            stream_window_bytes: 256 << 10,
            peer_idle_timeout: Duration::from_secs(5),
            priority: raftwerk_raft::PRIORITY_MAX,
            clock_drift_ppm: 50_000,
            accept_losses: false,
            clock_rate_ppm: EXACT_RATE_PPM,
            file_observer: None,
            machine,
            seed: node.0,
        }
    }

    /// Checks every bound.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let rules = [
            (self.node.0 != 0, "node ids start at 1"),
            (self.identity.node().0 == self.node.0, "the identity names another node"),
            (self.window_bytes > 0, "window_bytes must not be 0"),
            ((1..=LANES_MAX).contains(&self.workers), "workers must be 1 to 256"),
            (self.lanes.is_none_or(|lanes| (1..=LANES_MAX).contains(&lanes)), "lanes must be 1 to 256"),
            (
                self.memory_bytes / (self.workers.max(1) as u64)
                    >= (16 << 20) + 16 * self.payload_bytes_max as u64,
                "memory_bytes must be at least 16 MiB and 16 payloads for each worker",
            ),
            (self.segment_bytes >= 64 << 10, "segment_bytes must be at least 64 KiB"),
            (self.segment_bytes.is_multiple_of(4096), "segment_bytes must be a multiple of 4 KiB"),
            (
                self.payload_bytes_max as u64 <= self.segment_bytes / 4,
                "payload_bytes_max must be at most a quarter of segment_bytes",
            ),
            (self.payload_bytes_max <= 8 << 20, "payload_bytes_max must be at most 8 MiB"),
            (self.heartbeat_interval > Duration::ZERO, "heartbeat_interval must not be zero"),
            (
                self.heartbeat_interval * 2 < self.election_timeout,
                "heartbeat_interval must be below half of election_timeout",
            ),
            (
                self.relaxed_sync_interval <= self.heartbeat_interval,
                "relaxed_sync_interval must be at most heartbeat_interval",
            ),
            (
                self.log_age_max.is_none_or(|age| age >= Duration::from_secs(60)),
                "log_age_max must be at least a minute",
            ),
            (self.priority <= raftwerk_raft::PRIORITY_MAX, "priority must be at most PRIORITY_MAX"),
            (
                (EXACT_RATE_PPM / 2..=2 * EXACT_RATE_PPM).contains(&self.clock_rate_ppm),
                "clock_rate_ppm must be 500,000 to 2,000,000",
            ),
            (self.inbox_max >= 1, "inbox_max must be at least 1"),
            (self.reads_max >= 2, "reads_max must be at least 2"),
            (
                self.read_bytes_max / 4 >= self.payload_bytes_max,
                "read_bytes_max must be at least 4 times payload_bytes_max",
            ),
            ((MTU_MIN..=MTU_MAX).contains(&self.mtu_max), "mtu_max must be 1,200 to 6,500"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(OpenError::Config(rule)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use raftwerk_net::PeerId;
    use raftwerk_net::identity::ClusterAuthority;

    use super::*;

    #[test]
    fn the_defaults_fit_every_machine() {
        let identity = ClusterAuthority::new("tests").unwrap().issue(PeerId(1)).unwrap();
        for cores in (1..=64).chain([96, 128, 192, 256, 257, 384, 512, 1024]) {
            let memories = [64, 128, 256, 512, 1 << 10, 4 << 10, 64 << 10, 4 << 20].map(|mib: u64| mib << 20);
            for machine in memories
                .map(|bytes| Machine::of(cores).with_memory(bytes))
                .into_iter()
                .chain([Machine::of(cores)])
            {
                let config = Config::on(machine, NodeId(1), "unused", identity.clone());
                assert!(config.check().is_ok(), "{machine}: {:?}", config.check());
                let most = machine.memory_bytes.unwrap_or(u64::MAX);
                assert!(
                    config.memory_bytes <= (most / 4).max(32 << 20),
                    "{machine}: {}",
                    config.memory_bytes
                );
            }
        }
    }
}
