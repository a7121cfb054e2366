//! The public handle of a node: one [`Engine`] is one node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use raftwerk_frame::wire::UNIT_VERSION;
use raftwerk_frame::{GroupId, LogId, NodeId};
use raftwerk_net::identity::Identity;
use raftwerk_net::{NetError, PeerError, PeerId, QuicConfig, QuicTransport, Receive, Transport};
use raftwerk_wal::{LaneOptions, OsDisk, OsDiskOptions, PeerNote};
use tokio::sync::oneshot;

use crate::api::call::wait;
use crate::api::config::Config;
use crate::api::error::{AcceptLossError, CreateError, OpenError, ReplaceError, ReviveError};
use crate::api::group::Group;
use crate::api::membership::initial_members::InitialMembers;
use crate::api::pipeline::Pipeline;
use crate::api::state_machine::StateMachines;
use crate::api::stats::{EngineStats, WorkerMetrics};
use crate::api::status::{Loss, ReplicaKind};
use crate::node::data_dir;
use crate::node::data_dir::lane_options;
use crate::node::dispatch::Dispatch;
use crate::node::events::{Condition, Events};
use crate::node::handle::NodeHandle;
use crate::node::inbox::Inbox;
use crate::node::peers::Peers;
use crate::node::request::Order;
use crate::node::threads::{Clock, WorkerThread, new_incarnation};
use crate::worker::{Settings, TurnLimits, Worker, WorkerContext};

/// One node: its groups, its log, its connections. A cheap handle; dropping the last one shuts the node down.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<NodeHandle>,
    transport: Arc<QuicTransport>,
}

impl Engine {
    /// Opens a node: recovers the log and every group in it, and starts its threads. `machines` makes the
    /// groups' state machines. Blocks while the log is read, and while it is moved to another number of lanes
    /// ([`Config::lanes`]).
    ///
    /// # Errors
    /// [`OpenError`]; it names file and offset where the log is damaged. In that case no entry was changed,
    /// and this node has sent no message.
    pub fn open(config: Config, machines: impl StateMachines) -> Result<Self, OpenError> {
        config.check()?;
        let net = net_config(&config);
        net.check()?;
        let (directory, has_other_lanes) = data_dir::open(&config)?;
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
        let inboxes: Vec<Arc<Inbox>> = (0..workers)
            .map(|lane| Inbox::new(config.inbox_max, lane_memory, thread_of(lane).waker()))
            .collect();
        let (peers, log) = (Peers::new(directory.peers()), LogId(directory.log_id()));
        let events = Events::new(config.node, config.on_event.clone());
        let dispatch = Arc::new(Dispatch::new(inboxes.clone(), peers, log, events));
        let receive = Arc::clone(&dispatch) as Arc<dyn Receive>;
        let transport = Arc::new(QuicTransport::start(net, net_peers(&config), receive)?);
        let metrics: Vec<_> = (0..workers).map(|_| Arc::new(WorkerMetrics::default())).collect();
        if has_other_lanes {
            metrics[0].keeps_lanes();
        }
        let clock = Clock::start(config.clock_rate_ppm);
        let incarnation = new_incarnation();
        let machines: Arc<dyn StateMachines> = Arc::new(machines);
        let engine = Self {
            shared: Arc::new(NodeHandle {
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
            };
            let lane = number as u16;
            let options =
                OsDiskOptions { lane, sync: config.sync, spin: config.spin, ..OsDiskOptions::default() };
            let disk =
                OsDisk::open(&directory, &options, thread_of(lane).waker()).map_err(OpenError::Thread)?;
            let settings = settings(&config, lane, workers, incarnation);
            let options = LaneOptions { memory_bytes: lane_memory, ..lane_options(&config, lane) };
            let worker = Worker::open(settings, options, disk, context, clock.now())?;
            opened[number % threads].push(worker);
        }
        for (number, (worker_thread, workers)) in worker_threads.into_iter().zip(opened).enumerate() {
            let name = format!("raftwerk-{}-{number}", config.node);
            let threads = &engine.shared.threads;
            worker_thread.spawn(workers, name, (clock, config.spin), threads).map_err(OpenError::Thread)?;
        }
        Ok(engine)
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// The number of lanes of its log ([`Config::lanes`](crate::Config)).
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.shared.inboxes.len()
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
    /// ([`Group::reconfigure`]). A node with a stolen key must be removed on all nodes; its certificate can
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

    /// The conditions of this node at present: every condition reported by an event ([`Config::on_event`])
    /// that has not ended, and each peer that was connected before and has no connection now. Empty: the node
    /// is healthy. Does not block.
    #[must_use]
    pub fn health(&self) -> Vec<Condition> {
        let mut conditions = self.shared.dispatch.events().conditions();
        // A removed peer is not reported as lost.
        conditions.retain(|condition| match condition {
            Condition::PeerLost { node } | Condition::PeerCertificateEnded { node } => {
                self.peer_error(*node).is_some()
            }
            _ => true,
        });
        for note in self.shared.dispatch.peers().list() {
            let lost = Condition::PeerLost { node: note.node };
            if self.peer_error(note.node).is_some() && !conditions.contains(&lost) {
                conditions.push(lost);
            }
        }
        conditions
    }

    /// Creates this node's replica of a group, durably (bootstrap). To be called on every initial member,
    /// with the same members everywhere: a list of voters, or [`InitialMembers`] with witnesses and learners
    /// among them. The group works as soon as a majority of the voters has done so. Idempotent. Blocks for
    /// about one sync.
    ///
    /// # Errors
    /// [`CreateError`]; the group was not created here.
    pub fn create_group(
        &self,
        group: GroupId,
        initial_members: impl Into<InitialMembers>,
    ) -> Result<Group, CreateError> {
        self.create_groups(&[group], initial_members)?;
        Ok(Group::new(group, Arc::clone(&self.shared)))
    }

    /// Creates this node's replicas of many groups with the same initial members, as [`Engine::create_group`]
    /// creates one; all share a few syncs.
    ///
    /// # Errors
    /// The first [`CreateError`]; the groups before and after it may have been created.
    pub fn create_groups(
        &self,
        groups: &[GroupId],
        initial_members: impl Into<InitialMembers>,
    ) -> Result<(), CreateError> {
        let initial_members = initial_members.into().configuration(self.shared.node)?;
        let ask = |group: &GroupId| {
            let (reply, answer) = oneshot::channel();
            let order = Order::Bootstrap { group: *group, initial_members: initial_members.clone(), reply };
            self.shared.inbox_of(*group).order(order);
            answer
        };
        let answers: Vec<_> = groups.iter().map(ask).collect();
        let mut made = Ok(());
        for answer in answers {
            made = made.and(wait(answer).unwrap_or(Err(CreateError::Closed)));
        }
        made
    }

    /// Creates an empty replica here, without any state of its group, durably: needed before a leader adds
    /// this node ([`Group::reconfigure`]). It is passive until it receives a message of the group.
    /// Idempotent. If damage may have taken a replica of this group without a trace, the new replica grants
    /// no vote until a later leader has brought it everything ([`Engine::loss`] reports it). Blocks for about
    /// one sync.
    ///
    /// # Errors
    /// [`CreateError`]; the replica was not created.
    pub fn join_group(&self, group: GroupId) -> Result<Group, CreateError> {
        self.join(group, ReplicaKind::Full)
    }

    fn join(&self, group: GroupId, kind: ReplicaKind) -> Result<Group, CreateError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Join { group, kind, reply });
        wait(answer).unwrap_or(Err(CreateError::Closed))?;
        Ok(Group::new(group, Arc::clone(&self.shared)))
    }

    /// As [`Engine::join_group`], for a replica that is a witness for as long as it exists: it votes and
    /// acknowledges, and holds no payload and no state. A leader adds it by
    /// [`Change::Witness`](crate::Change), and by no other change.
    ///
    /// # Errors
    /// [`CreateError`]; the replica was not created.
    pub fn join_group_as_witness(&self, group: GroupId) -> Result<Group, CreateError> {
        self.join(group, ReplicaKind::Witness)
    }

    /// A handle of a group that has a replica on this node. Blocks for about one turn of its worker.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Group> {
        let handle = Group::new(group, Arc::clone(&self.shared));
        handle.status().is_some().then_some(handle)
    }

    /// The groups with a replica on this node, in ascending order.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let ask = |inbox: &Arc<Inbox>| {
            let (reply, answer) = oneshot::channel();
            inbox.order(Order::Groups { reply });
            wait(answer).unwrap_or_default()
        };
        let mut groups: Vec<GroupId> = self.shared.inboxes.iter().flat_map(ask).collect();
        groups.sort_unstable();
        groups
    }

    /// Deletes this node's replica of a group, its log and its checkpoints. `false` if there was none, or the
    /// engine is closed.
    ///
    /// The other replicas are not informed: take this one out of the configuration first
    /// ([`Group::reconfigure`]), and wait until it has received that
    /// ([`GroupStatus::is_removed`](crate::GroupStatus)). Its hard state (term and vote) stays on this disk,
    /// some hundred bytes, and constrains a replica that joins here again ([`Engine::join_group`]); the group
    /// cannot be created here again.
    pub fn remove_group(&self, group: GroupId) -> bool {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Remove { group, reply });
        wait(answer).unwrap_or(false)
    }

    /// The identity of this node's log. Differs from that of every other log, including an earlier one of
    /// this node.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.shared.log
    }

    /// Records that a node has another log now, its old one being gone for good: needed for groups that are
    /// to be created with it. From existing groups, the node is taken out and added again
    /// ([`Group::reconfigure`]), and joins them ([`Engine::join_group`]); no other node needs to be informed.
    /// Why: `engine/docs/replica_identity.md`. Blocks for about one sync.
    ///
    /// # Errors
    /// [`ReplaceError`]; nothing was recorded.
    pub fn replace_peer(&self, node: NodeId, log: LogId) -> Result<(), ReplaceError> {
        let (reply, answer) = oneshot::channel();
        let peer = PeerNote { node, log };
        self.shared.dispatch.order(0, Order::ReplacePeer { peer, checked: 0, reply });
        wait(answer).unwrap_or(Err(ReplaceError::Closed))
    }

    /// What a replica of this node has lost and waits for. Until it is repaired, the replica grants no vote
    /// and does not lead. `None` if it has lost nothing, or has been repaired. For a group without a replica
    /// here: what may have been lost of it, if damage may have left nothing of a replica; then the group
    /// cannot be created here. Blocks for about one turn of its worker.
    #[must_use]
    pub fn loss(&self, group: GroupId) -> Option<Loss> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Loss { group, reply });
        wait(answer).flatten()
    }

    /// Lets a replica vote and lead with what it has, although it has lost something: for a group that stands
    /// still because its only voter, or too many of its voters, were damaged, and their disks cannot be
    /// recovered.
    ///
    /// **What is given up**: writes of the group that were acknowledged may be gone, on all nodes; and in a
    /// group of several voters replicas may diverge for good, if one that was thought gone comes back with
    /// them. Try first to repair it: a group that has a leader repairs its replicas by itself, and a damaged
    /// voter can be taken out ([`Group::reconfigure`]) and join again.
    ///
    /// Refused unless the node was opened with [`Config::accept_losses`], and unless `loss` equals what
    /// [`Engine::loss`] returns. To be called on as many voters as it takes to elect a leader. For a group
    /// without a replica here it lets [`Engine::create_group`] create it, as if it had never existed; that is
    /// durable when this returns, and stays in force until the group is here. For a replica that is here it
    /// is in force until the node stops, or the replica holds an entry of a later term, which happens soon
    /// after.
    ///
    /// # Errors
    /// [`AcceptLossError`]; nothing has changed.
    pub fn accept_loss(&self, loss: Loss) -> Result<(), AcceptLossError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(loss.group).order(Order::AcceptLoss { loss, reply });
        wait(answer).unwrap_or(Err(AcceptLossError::Closed))
    }

    /// Makes a new state machine for a replica in [quarantine](crate::Quarantine), from its checkpoint, and
    /// has it apply what the old one had applied. Returns when the machine is made; the quarantine ends when
    /// it has caught up ([`Group::status`]), or continues if the machine panics again. Blocks while the
    /// checkpoint is read.
    ///
    /// # Errors
    /// [`ReviveError`]; nothing has changed.
    pub fn revive(&self, group: GroupId) -> Result<(), ReviveError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Revive { group, reply });
        wait(answer).unwrap_or(Err(ReviveError::Closed))
    }

    /// A pipeline of a thread's own, for up to `in_flight_max` operations at a time.
    #[must_use]
    pub fn pipeline(&self, in_flight_max: usize) -> Pipeline {
        Pipeline::open(&self.shared, in_flight_max)
    }

    /// The node's counters since it was opened.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Counters of the node's connections.
    #[must_use]
    pub fn net_stats(&self) -> raftwerk_net::NetStats {
        self.transport.stats()
    }

    /// Shuts the node down: every pending call ends, threads stop. Remaining handles answer `Closed`. Waits
    /// until all has ended, but no longer than [`Config::shutdown_patience`] for the threads that own groups;
    /// `false` if some have not ended by then, because a disk or a state machine does not answer: they end
    /// when it does, and hold the directory until then. May be called again, and by several threads at once:
    /// each waits. Called from a state machine it does not wait, and returns `false`, because the calling
    /// thread is among those that are to end. Dropping the last handle does the same.
    pub fn shutdown(&self) -> bool {
        self.shared.close()
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
