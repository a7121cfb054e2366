//! What a run does with a node, in this process or another: start it, ask it, kill it, start it again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raftwerk::kv::KvMachine;
use raftwerk::{
    Config, Consistency, Engine, GroupId, NodeId, Outcome, ReadError, StateMachine, StateMachines,
};
use raftwerk_net::identity::Identity;
use raftwerk_wal::FileObserver;
use serde::{Deserialize, Serialize};

use crate::client::group_id;
use crate::hash_machine::HashMachine;
use crate::port::NodePort;
use crate::summed::Summed;

/// What a node needs to know to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSettings {
    /// Its id, from 1.
    pub node: u64,
    /// Where its log lives.
    pub data_dir: PathBuf,
    /// Where its certificate and key are.
    pub identity_dir: PathBuf,
    /// Where it listens for a client, if it is a process of its own.
    pub socket: PathBuf,
    /// Whether the state machine is the hash machine.
    pub is_hash: bool,
    /// Whether the log is synced.
    pub sync: bool,
    /// Worker threads.
    pub workers: usize,
    /// Lanes of its log; as many as workers if `None`.
    pub lanes: Option<usize>,
    /// Bytes of a group's log after which it is checkpointed; 0: never.
    pub checkpoint_log_bytes: u64,
    /// For its election timers.
    pub seed: u64,
    /// The most operations a client may have under way.
    pub in_flight_max: usize,
}

impl NodeSettings {
    /// Opens the engine that these describe. The `observer` is shown each system call that changes its files.
    ///
    /// # Errors
    /// An error of loading the identity, or of opening the engine.
    pub fn open(&self, observer: Option<Arc<dyn FileObserver>>) -> Result<Engine, String> {
        let identity = Identity::load(&self.identity_dir).map_err(|error| error.to_string())?;
        let mut config = Config::new(NodeId(self.node), &self.data_dir, identity);
        (config.workers, config.lanes) = (self.workers, self.lanes);
        config.sync = self.sync;
        if self.checkpoint_log_bytes > 0 {
            config.checkpoint_log_bytes = self.checkpoint_log_bytes;
        } else {
            (config.checkpoint_log_bytes, config.lane_bytes_max) = (u64::MAX, u64::MAX);
        }
        config.seed = self.seed;
        config.file_observer = observer;
        Engine::open(config, Machines { is_hash: self.is_hash })
            .wait()
            .map_err(|error| format!("node n{}: {error}", self.node))
    }
}

/// Makes one of the two state machines.
struct Machines {
    is_hash: bool,
}

impl StateMachines for Machines {
    fn create(&self, _group: GroupId) -> Box<dyn StateMachine> {
        if self.is_hash { Box::new(HashMachine::default()) } else { Box::new(Summed::<KvMachine>::default()) }
    }
}

/// What a node has used and done since its run began, over all its lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUsage {
    /// Times that a replica there began to lead.
    pub leaderships: u64,
    /// Times that another node ended its support of a worker there.
    pub supports_ended: u64,
    /// Synced writes to the log.
    pub syncs: u64,
    /// Their bytes, padding included.
    pub bytes_synced: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Snapshots installed, and bytes of snapshots sent.
    pub installs: u64,
    /// Bytes of snapshots sent.
    pub snapshot_bytes: u64,
    /// Segments made of files that had been segments before.
    pub segments_recycled: u64,
    /// Messages sent to peers.
    pub messages_sent: u64,
    /// Their bytes, length prefixes included.
    pub message_bytes_sent: u64,
    /// How the log is written.
    pub append_mode: String,
    /// CPU time of the node's own process; 0 if it has none.
    pub cpu_nanos: u64,
    /// Memory of the node's own process; 0 if it has none.
    pub resident_bytes: u64,
}

impl NodeUsage {
    /// Of an engine; without what its process costs.
    #[must_use]
    pub fn of(engine: &Engine) -> Self {
        let (stats, net) = (engine.stats(), engine.net_stats());
        let append_mode = stats.append_mode.to_owned();
        Self {
            leaderships: stats.leaderships,
            supports_ended: stats.supports_ended,
            syncs: stats.syncs,
            bytes_synced: stats.bytes_synced,
            checkpoints: stats.checkpoints,
            installs: stats.installs,
            snapshot_bytes: stats.snapshot_bytes,
            segments_recycled: stats.segments_recycled,
            messages_sent: net.messages_sent,
            message_bytes_sent: net.bytes_sent,
            append_mode,
            cpu_nanos: 0,
            resident_bytes: 0,
        }
    }

    /// Adds what an earlier life has used.
    #[must_use]
    pub fn plus(mut self, earlier: &Self) -> Self {
        self.leaderships += earlier.leaderships;
        self.supports_ended += earlier.supports_ended;
        self.syncs += earlier.syncs;
        self.bytes_synced += earlier.bytes_synced;
        self.checkpoints += earlier.checkpoints;
        self.installs += earlier.installs;
        self.snapshot_bytes += earlier.snapshot_bytes;
        self.segments_recycled += earlier.segments_recycled;
        self.messages_sent += earlier.messages_sent;
        self.message_bytes_sent += earlier.message_bytes_sent;
        self.cpu_nanos += earlier.cpu_nanos;
        self
    }
}

/// What a run asks of a node. Groups are counted from 0. Errors are sentences for the report.
pub trait NodeControl: Sized + Send {
    /// How a client reaches it.
    type Port: NodePort + Send;

    /// Starts a node.
    ///
    /// # Errors
    /// Why it does not start.
    fn start(settings: NodeSettings) -> Result<Self, String>;

    /// Where other nodes reach it.
    fn address(&self) -> SocketAddr;

    /// Gives it the address of another node.
    ///
    /// # Errors
    /// The node is gone.
    fn set_address(&mut self, node: u64, address: SocketAddr) -> Result<(), String>;

    /// Makes groups `0..count`, with nodes `1..=voters`.
    ///
    /// # Errors
    /// Why it could not.
    fn create_groups(&mut self, count: u32, voters: u64) -> Result<(), String>;

    /// A way in for a client.
    ///
    /// # Errors
    /// The node is gone.
    fn port(&mut self) -> Result<Self::Port, String>;

    /// The applied index of each of the groups `0..count`.
    ///
    /// # Errors
    /// A group is missing, or the node is gone.
    fn applied(&mut self, count: u32) -> Result<Vec<u64>, String>;

    /// The applied index and the state's hash of each of the groups `0..count`.
    ///
    /// # Errors
    /// A group is missing, or the node is gone.
    fn digests(&mut self, count: u32) -> Result<Vec<(u64, u64)>, String>;

    /// Asks this node's replica of a group as it is.
    ///
    /// # Errors
    /// The group is missing, or the node is gone.
    fn query(&mut self, group: u32, query: &[u8]) -> Result<Bytes, String>;

    /// What it has used so far.
    ///
    /// # Errors
    /// The node is gone.
    fn usage(&mut self) -> Result<NodeUsage, String>;

    /// Ends it without grace.
    ///
    /// # Errors
    /// It could not be ended.
    fn kill(&mut self) -> Result<(), String>;

    /// Starts it again on the same data, at a new address.
    ///
    /// # Errors
    /// Why it does not start.
    fn restart(&mut self) -> Result<(), String>;

    /// Ends it properly.
    fn stop(self);
}

/// Makes groups `0..count`.
///
/// # Errors
/// Why the first that failed did.
pub fn create_groups(engine: &Engine, count: u32, voters: u64) -> Result<(), String> {
    let voters: Vec<NodeId> = (1..=voters).map(NodeId).collect();
    let groups: Vec<GroupId> = (0..count).map(group_id).collect();
    engine.create_groups(&groups, &voters).wait().map_err(|error| error.to_string())
}

/// Groups that are asked at one time.
const ASKED_AT_ONCE: usize = 1024;

/// The applied index of each of the groups `0..count`. Many are asked in a turn: a turn for each would keep a node busy with
/// answering, when it should be catching up.
///
/// # Errors
/// A group is missing.
pub fn applied(engine: &Engine, count: u32) -> Result<Vec<u64>, String> {
    let mut applied = vec![0; count as usize];
    let mut pipeline = engine.pipeline(ASKED_AT_ONCE);
    let (mut done, mut next, mut left) = (Vec::new(), 0, count);
    while left > 0 {
        while next < count && pipeline.in_flight() < ASKED_AT_ONCE {
            match pipeline.query(group_id(next), next.into(), b"", Consistency::Eventual.into()) {
                Ok(()) => next += 1,
                Err(ReadError::Busy) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        pipeline.flush();
        pipeline.wait(Duration::from_millis(10));
        pipeline.take(&mut done);
        for completion in done.drain(..) {
            match completion.outcome {
                Outcome::Read(Ok(answer)) => applied[completion.token as usize] = answer.index.0,
                Outcome::Read(Err(ReadError::Busy)) => {
                    return Err("the node is too busy to answer".to_owned());
                }
                _ => return Err(missing(completion.token as u32)),
            }
            left -= 1;
        }
    }
    Ok(applied)
}

/// Applied index and hash of each of the groups `0..count`.
///
/// # Errors
/// A group is missing.
pub fn digests(engine: &Engine, count: u32) -> Result<Vec<(u64, u64)>, String> {
    let one = |group| {
        engine.group(group_id(group)).digest().wait().ok().map(|(applied, digest)| (applied.0, digest))
    };
    (0..count).map(|group| one(group).ok_or_else(|| missing(group))).collect()
}

/// Asks a replica as it is.
///
/// # Errors
/// The group is missing, or the engine closed.
pub fn query(engine: &Engine, group: u32, query: &[u8]) -> Result<Bytes, String> {
    let replica = engine.group(group_id(group));
    let answer = replica.query(query.to_vec(), Consistency::Eventual).wait();
    answer.map(|answer| answer.reply).map_err(|error| error.to_string())
}

fn missing(group: u32) -> String {
    format!("{} is missing", group_id(group))
}
