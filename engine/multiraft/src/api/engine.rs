//! The public handle of a node: one [`Engine`] is one node with threads, a directory and connections.

mod builder;
mod handle;

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

pub use builder::EngineBuilder;
pub use handle::NodeHandle;
use raftwerk_frame::wire::UNIT_VERSION;
use raftwerk_frame::{LogId, NodeId};
use raftwerk_net::identity::Identity;
use raftwerk_net::{NetError, PeerError, PeerId, QuicConfig, QuicTransport, Receive, Transport};
use raftwerk_wal::{LaneOptions, OsDisk, OsDiskOptions};

use crate::api::call::Call;
use crate::api::config::Config;
use crate::api::error::OpenError;
use crate::api::state_machine::StateMachines;
use crate::api::stats::WorkerMetrics;
use crate::node::data_dir;
use crate::node::data_dir::lane_options;
use crate::node::dispatch::Dispatch;
use crate::node::events::Events;
use crate::node::handle::NodeShared;
use crate::node::inbox::Inbox;
use crate::node::peers::Peers;
use crate::node::threads::{Clock, WorkerThread, new_incarnation};
use crate::worker::{Settings, TurnLimits, Worker, WorkerContext};

/// One node: its groups, its log, its connections. A cheap handle; dropping the last one shuts the node down,
/// and waits for that as [`NodeHandle::shutdown`] does.
///
/// The operations on groups are those of [`NodeHandle`], to which it dereferences.
#[derive(Clone)]
pub struct Engine {
    handle: NodeHandle,
    transport: Arc<QuicTransport>,
}

impl Deref for Engine {
    type Target = NodeHandle;

    fn deref(&self) -> &NodeHandle {
        &self.handle
    }
}

impl Engine {
    /// Begins the settings of a node with its log in `data_dir`: everything has a default but its identity.
    /// ```no_run
    /// # use raftwerk_multiraft as raftwerk;
    /// # fn example<Machine: raftwerk::StateMachine + Default>(identity: raftwerk::identity::Identity) -> Result<(), Box<dyn std::error::Error>> {
    /// use raftwerk::{Engine, NodeId};
    ///
    /// let engine = Engine::builder(NodeId(1), "data/n1")
    ///     .identity(identity)
    ///     .listen("10.0.0.1:7001".parse()?)
    ///     .peer(NodeId(2), "10.0.0.2:7001".parse()?)
    ///     .peer(NodeId(3), "10.0.0.3:7001".parse()?)
    ///     .open(|_group| Machine::default())
    ///     .wait()?;
    /// # Ok(()) }
    /// ```
    pub fn builder(node: NodeId, data_dir: impl Into<PathBuf>) -> EngineBuilder {
        EngineBuilder::new(node, data_dir.into())
    }

    /// Opens a node: recovers the log and every group in it, and starts its threads. `machines` makes the
    /// groups' state machines. Takes as long as the log is read, and moved to another number of lanes
    /// ([`Config::lanes`]), on a thread of its own: no runtime is blocked.
    ///
    /// # Errors
    /// [`OpenError`]; it names file and offset where the log is damaged. In that case no entry was changed,
    /// and this node has sent no message.
    pub fn open(config: Config, machines: impl StateMachines) -> Call<Self, OpenError> {
        let name = format!("raftwerk-{}-open", config.node);
        let lost = || OpenError::Thread(std::io::Error::other("the thread that opens the node has panicked"));
        Call::on_thread(&name, lost, move || Self::open_now(&config, Arc::new(machines)))
    }

    /// Opens a node on the calling thread.
    fn open_now(config: &Config, machines: Arc<dyn StateMachines>) -> Result<Self, OpenError> {
        config.check()?;
        let net = net_config(config);
        net.check()?;
        let (directory, has_other_lanes) = data_dir::open(config)?;
        let workers = directory.lanes();
        let threads = config.workers.min(usize::from(workers));
        tracing::info!(
            node = config.node.0,
            machine = %config.machine,
            workers = threads,
            lanes = workers,
            memory_mib = config.memory_bytes >> 20,
            "what the node works with"
        );
        let lane_memory = (config.memory_bytes / u64::from(workers)).max(LANE_MEMORY_MIN);
        let worker_threads: Vec<WorkerThread> = (0..threads).map(|_| WorkerThread::new()).collect();
        let thread_of = |lane: u16| &worker_threads[usize::from(lane) % threads];
        let clock = Clock::start(config.clock_rate_ppm);
        let inboxes: Vec<Arc<Inbox>> = (0..workers)
            .map(|lane| Inbox::new(config.inbox_max, lane_memory, thread_of(lane).waker(), Some(clock)))
            .collect();
        let (peers, log) = (Peers::new(directory.peers()), LogId(directory.log_id()));
        let events = Events::new(config.node, config.on_event.clone());
        let dispatch = Arc::new(Dispatch::new(inboxes.clone(), peers, log, events));
        let receive = Arc::clone(&dispatch) as Arc<dyn Receive>;
        let transport = Arc::new(QuicTransport::start(net, net_peers(config), receive)?);
        let metrics: Vec<_> = (0..workers).map(|_| Arc::new(WorkerMetrics::default())).collect();
        if has_other_lanes {
            metrics[0].keeps_lanes();
        }
        let incarnation = new_incarnation();
        let engine = Self {
            handle: NodeHandle::new(NodeShared {
                node: config.node,
                log,
                payload_bytes_max: config.payload_bytes_max,
                metrics: metrics.clone(),
                transport: Some(Arc::clone(&transport)),
                pipelines: AtomicU32::new(0),
                threads: Arc::default(),
                shutdown_patience: config.shutdown_patience,
                inboxes: inboxes.clone(),
                dispatch: Arc::clone(&dispatch),
            }),
            transport: Arc::clone(&transport),
        };
        let mut opened: Vec<Vec<_>> = worker_threads.iter().map(|_| Vec::new()).collect();
        for number in 0..usize::from(workers) {
            let context = WorkerContext {
                machines: Arc::clone(&machines),
                transport: Arc::clone(&transport) as Arc<dyn Transport>,
                inbox: Arc::clone(&inboxes[number]),
                dispatch: Arc::clone(&dispatch),
                metrics: Arc::clone(&metrics[number]),
                clock: Some(clock),
            };
            let lane = number as u16;
            let options =
                OsDiskOptions { lane, sync: config.sync, spin: config.spin, ..OsDiskOptions::default() };
            let disk =
                OsDisk::open(&directory, &options, thread_of(lane).waker()).map_err(OpenError::Thread)?;
            let settings = settings(config, lane, workers, incarnation);
            let options = LaneOptions { memory_bytes: lane_memory, ..lane_options(config, lane) };
            let worker = Worker::open(settings, options, disk, context, clock.now())?;
            opened[number % threads].push(worker);
        }
        for (number, (worker_thread, workers)) in worker_threads.into_iter().zip(opened).enumerate() {
            let name = format!("raftwerk-{}-{number}", config.node);
            let threads = &engine.handle.shared().threads;
            worker_thread.spawn(workers, name, (clock, config.spin), threads).map_err(OpenError::Thread)?;
        }
        Ok(engine)
    }

    /// The address on which this node listens, with the port that was found if port 0 was requested.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    /// Sets the address of another node. May be called again when the node has moved. Makes a node that was
    /// removed ([`Engine::remove_peer`]) a known peer again.
    pub fn set_address(&self, node: NodeId, address: SocketAddr) {
        self.transport.add_peer(PeerId(node.0), address);
    }

    /// Makes a node an unknown peer: its connection ends, and its handshakes are refused until
    /// [`Engine::set_address`] names it again. Not persistent: when the node is opened again, the nodes of
    /// [`Config::peers`] are known.
    ///
    /// This is no change of membership: where that node is a voter, this node counts it as unreachable, while
    /// it still communicates with every node that has not removed it. Take its replicas out first
    /// ([`Group::reconfigure`](crate::Group::reconfigure)). A node with a stolen key must be removed on all nodes; its certificate can
    /// be used until it ends, or until the authority is replaced ([`Engine::set_identity`]). Does not block.
    pub fn remove_peer(&self, node: NodeId) {
        self.transport.remove_peer(PeerId(node.0));
    }

    /// Replaces this node's certificate, its key and the roots that it trusts, while it runs: before the
    /// certificate ends, and to move a cluster to another authority (first trust both on all nodes, then have
    /// all nodes use the new one, then trust it alone). New connections use the new identity. Existing ones
    /// continue, unless the new roots do not vouch for their peer, or its certificate has ended: those are
    /// closed and established anew. Does not block; costs about a tenth of a millisecond per peer.
    ///
    /// # Errors
    /// [`NetError`]: it is the identity of another node or cluster, or its parts do not match. Nothing
    /// changed.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), NetError> {
        self.transport.set_identity(identity)
    }

    /// Why there is no connection to another node, if an attempt has failed or a connection was lost: another
    /// wire version, an expired certificate, no answer. `None` while it is connected, and for unknown peers.
    #[must_use]
    pub fn peer_error(&self, node: NodeId) -> Option<PeerError> {
        self.transport.peer_error(PeerId(node.0))
    }

    /// Counters of the node's connections.
    #[must_use]
    pub fn net_stats(&self) -> raftwerk_net::NetStats {
        self.transport.stats()
    }
}

/// The minimum memory of a lane: in a directory with many lanes and few workers the budget may not suffice
/// for it.
const LANE_MEMORY_MIN: u64 = 8 << 20;

fn net_config(config: &Config) -> QuicConfig {
    let mut net = QuicConfig::new(config.identity.clone(), config.listen);
    net.mtu_max = config.mtu_max;
    net.gso = config.udp_gso;
    net.socket_buffer_bytes = config.udp_buffer_bytes;
    net.stream_window_bytes = config.stream_window_bytes;
    net.idle_timeout = config.peer_idle_timeout;
    net.keep_alive = config.peer_idle_timeout / 5;
    net.messages_version = UNIT_VERSION;
    // All groups' heartbeats fall due together.
    net.queue_bytes_max.control = 16 << 20;
    net
}

fn net_peers(config: &Config) -> Vec<(PeerId, SocketAddr)> {
    config.peers.iter().map(|(node, address)| (PeerId(node.0), *address)).collect()
}

fn settings(config: &Config, worker: u16, workers: u16, incarnation: u64) -> Settings {
    Settings {
        node: config.node,
        worker,
        workers,
        payload_bytes_max: config.payload_bytes_max,
        election_timeout: config.election_timeout,
        heartbeat_interval: config.heartbeat_interval,
        window_bytes: config.window_bytes,
        window_messages: 256,
        append_bytes_max: 1 << 20,
        uncommitted_bytes_max: config.uncommitted_bytes_max,
        commit_delay: config.commit_delay,
        relaxed_sync_interval: config.relaxed_sync_interval,
        checkpoint_log_bytes: config.checkpoint_log_bytes,
        checkpoint_state_percent: config.checkpoint_state_percent,
        lane_bytes_max: config.lane_bytes_max,
        scrub_bytes_per_second: config.scrub_bytes_per_second.div_ceil(u64::from(workers.max(1))),
        scrub_interval: config.scrub_interval,
        accept_losses: config.accept_losses,
        priority: config.priority,
        seed: config.seed,
        incarnation,
        clock_drift_ppm: config.clock_drift_ppm,
        reads_max: config.reads_max,
        read_bytes_max: config.read_bytes_max,
        limits: TurnLimits::default(),
    }
}
