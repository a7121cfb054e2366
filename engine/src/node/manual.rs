//! The other driver: a whole node without threads, clock, files or sockets of its own, turned by its owner.
//!
//! [`Engine`](crate::Engine) is what a database embeds. This is the same node for an owner that supplies the
//! environment: the simulator, which runs many nodes in one thread on simulated time; or an embedder with an
//! event loop of its own. Worker, core, log and codec are the same code that the engine's threads run.
//!
//! ```text
//! loop { for each worker whose waker was called, or whose deadline has come: node.turn(worker, now) }
//! ```
//! The handles that a database uses, [`Group`], [`Pipeline`] and [`kv::Store`](crate::kv::Store), work over
//! such a node as well: [`Node::group`], [`Node::pipeline`], [`Node::store`].
//!
//! What is not here: waiting. Every call returns at once, except [`Node::open`], which reads the log.
//! Blocking calls of a handle (`wait`, [`Group::status`], [`Group::digest`]) wait for a turn: on the thread
//! that turns the node they would wait for ever; poll the futures there instead.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{GroupId, LogId, NodeId, Time};
use raftwerk_net::{Channel, PeerId, Receive, Transport};
pub use raftwerk_wal::PeerNote;
use raftwerk_wal::{Disk, LaneOptions};
use tokio::sync::oneshot;

use crate::api::consistency::ReadOptions;
use crate::api::error::{AcceptLossError, CreateError, OpenError, ReplaceError, ReviveError};
use crate::api::group::{
    Freezing, Group, Proposal, Read, RelaxedProposal, ask, freeze, propose, propose_relaxed,
};
use crate::api::membership::initial_members::InitialMembers;
use crate::api::membership::reconfiguration::Reconfiguration;
use crate::api::membership::{Reconfiguring, Transferring, reconfigure, transfer};
use crate::api::pipeline::Pipeline;
use crate::api::state_machine::StateMachines;
use crate::api::stats::{EngineStats, WorkerMetrics};
use crate::api::status::{Loss, ReplicaKind};
use crate::node::dispatch::Dispatch;
use crate::node::events::Events;
use crate::node::handle::NodeHandle;
use crate::node::inbox::Inbox;
use crate::node::peers::Peers;
use crate::node::request::Order;
pub use crate::worker::{Load, ReplicaView, Settings, TurnEnd, TurnLimits};
use crate::worker::{Worker, WorkerContext};

/// The environment of a worker: its lane of the log, and the waker called when its inbox has work.
pub struct Place<D> {
    /// The lane's limits; `lane` must be the worker's number.
    pub lane: LaneOptions,
    /// The lane's disk.
    pub disk: D,
    /// Called when something was put into the worker's inbox.
    pub waker: Waker,
}

/// The lane that a group belongs to in a log of `lanes` lanes, for [`raftwerk_wal::Directory::relane`];
/// `None` for a lane's record of its own, which keeps the log in its present lanes.
#[must_use]
pub fn lane_of(group: GroupId, lanes: u16) -> Option<u16> {
    crate::node::placement::lane_of(group, lanes)
}

/// One node, turned by its owner. Dropping it ends every call made through any of its handles.
pub struct Node<D: Disk> {
    workers: Vec<Worker<D>>,
    shared: Arc<NodeHandle>,
}

impl<D: Disk> Node<D> {
    /// Recovers the log and every group in it: one worker per place. `settings` apply to all workers; their
    /// number is filled in here. `inbox_max`: requests that may wait for one worker. Blocks while the log is
    /// read.
    ///
    /// # Errors
    /// [`OpenError`]; no message was sent in that case.
    pub fn open(
        settings: &Settings,
        inbox_max: usize,
        places: Vec<Place<D>>,
        machines: &Arc<dyn StateMachines>,
        transport: &Arc<dyn Transport>,
        now: Time,
    ) -> Result<Self, OpenError> {
        let count = u16::try_from(places.len()).map_err(|_| OpenError::Config("too many workers"))?;
        let inboxes: Vec<_> =
            places.iter().map(|place| Inbox::new(inbox_max, u64::MAX, place.waker.clone())).collect();
        let metrics: Vec<_> = places.iter().map(|_| Arc::new(WorkerMetrics::default())).collect();
        let noted = places.first().map(|place| place.disk.directory().peers().to_vec());
        let peers = Peers::new(&noted.unwrap_or_default());
        let log = LogId(places.first().map_or(0, |place| place.disk.directory().log_id()));
        let dispatch = Arc::new(Dispatch::new(inboxes.clone(), peers, log, Events::new(settings.node, None)));
        let mut workers = Vec::with_capacity(places.len());
        for (worker, Place { lane, disk, .. }) in places.into_iter().enumerate() {
            let context = WorkerContext {
                machines: Arc::clone(machines),
                transport: Arc::clone(transport),
                inbox: Arc::clone(&inboxes[worker]),
                dispatch: Arc::clone(&dispatch),
                metrics: Arc::clone(&metrics[worker]),
            };
            let settings = Settings { worker: worker as u16, workers: count, ..settings.clone() };
            workers.push(Worker::open(settings, lane, disk, context, now)?);
        }
        let shared = NodeHandle {
            node: settings.node,
            log,
            inboxes,
            payload_bytes_max: settings.payload_bytes_max,
            metrics,
            dispatch,
            pipelines: AtomicU32::new(0),
            transport: None,
            threads: Arc::default(),
            shutdown_patience: Duration::ZERO,
        };
        Ok(Self { workers, shared: Arc::new(shared) })
    }

    /// The id of the node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared.node
    }

    /// The number of its workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The worker that owns a group.
    #[must_use]
    pub fn worker_of(&self, group: GroupId) -> usize {
        self.shared.worker_of(group)
    }

    /// The worker that owns a group on a node with `workers` workers.
    #[must_use]
    pub fn worker_of_many(group: GroupId, workers: usize) -> usize {
        crate::node::placement::worker_of(group, workers)
    }

    /// One turn of a worker. `now` must not go back, and must have been read after the last call was made:
    /// deadlines of calls are counted from it.
    ///
    /// # Panics
    /// If there is no such worker, and where a state machine panics; the node is lost then.
    pub fn turn(&mut self, worker: usize, now: Time) -> TurnEnd {
        self.workers[worker].count_requests();
        self.workers[worker].turn(now)
    }

    /// Delivers a message from a peer that the transport has authenticated.
    pub fn receive(&self, from: NodeId, channel: Channel, message: Bytes) {
        self.shared.dispatch.receive(PeerId(from.0), channel, message);
    }

    /// The connection to a peer broke: messages in flight may be lost.
    pub fn disconnected(&self, peer: NodeId) {
        self.shared.dispatch.disconnected(PeerId(peer.0));
    }

    /// A connection to a peer was established. To be called for every one: groups that are quiescent without
    /// the peer unquiesce.
    pub fn connected(&self, peer: NodeId) {
        self.shared.dispatch.connected(PeerId(peer.0));
    }

    /// As [`Engine::group`](crate::Engine::group).
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Group> {
        let is_here = self.replicas(self.worker_of(group)).any(|view| view.group == group);
        is_here.then(|| Group::new(group, Arc::clone(&self.shared)))
    }

    /// As [`Engine::pipeline`](crate::Engine::pipeline).
    #[must_use]
    pub fn pipeline(&self, in_flight_max: usize) -> Pipeline {
        Pipeline::open(&self.shared, in_flight_max)
    }

    /// As [`Group::propose`](crate::Group::propose).
    pub fn propose(&self, group: GroupId, payload: Bytes) -> Proposal {
        propose(self.inbox_of(group), self.shared.payload_bytes_max, group, payload)
    }

    /// As [`Group::propose_relaxed`](crate::Group::propose_relaxed).
    pub fn propose_relaxed(&self, group: GroupId, payload: Bytes) -> RelaxedProposal {
        propose_relaxed(self.inbox_of(group), self.shared.payload_bytes_max, group, payload)
    }

    /// As [`Group::query`](crate::Group::query).
    pub fn query<'a>(&self, group: GroupId, query: Bytes, options: impl Into<ReadOptions<'a>>) -> Read {
        ask(self.inbox_of(group), self.shared.payload_bytes_max, group, query, &options.into())
    }

    /// As [`Group::freeze`](crate::Group::freeze).
    pub fn freeze<'a>(&self, group: GroupId, options: impl Into<ReadOptions<'a>>) -> Freezing {
        freeze(self.inbox_of(group), group, &options.into())
    }

    /// As [`Group::reconfigure`](crate::Group::reconfigure).
    pub fn reconfigure(&self, group: GroupId, wish: Reconfiguration) -> Reconfiguring {
        reconfigure(self.inbox_of(group), group, wish)
    }

    /// As [`Group::transfer_leadership`](crate::Group::transfer_leadership).
    pub fn transfer_leadership(&self, group: GroupId, to: NodeId) -> Transferring {
        transfer(self.inbox_of(group), group, to)
    }

    /// As [`Engine::join_group`](crate::Engine::join_group).
    pub fn join_group(&self, group: GroupId) -> Creation {
        let (reply, answer) = oneshot::channel();
        self.inbox_of(group).order(Order::Join { group, kind: ReplicaKind::Full, reply });
        Creation(answer)
    }

    /// As [`Engine::join_group_as_witness`](crate::Engine::join_group_as_witness).
    pub fn join_group_as_witness(&self, group: GroupId) -> Creation {
        let (reply, answer) = oneshot::channel();
        self.inbox_of(group).order(Order::Join { group, kind: ReplicaKind::Witness, reply });
        Creation(answer)
    }

    /// As [`Engine::create_group`](crate::Engine::create_group).
    ///
    /// # Errors
    /// [`CreateError::Voters`] and [`CreateError::InitialMembers`]; all others come with the future.
    pub fn create_group(
        &self,
        group: GroupId,
        initial_members: impl Into<InitialMembers>,
    ) -> Result<Creation, CreateError> {
        let initial_members = initial_members.into().configuration(self.id())?;
        let (reply, answer) = oneshot::channel();
        self.inbox_of(group).order(Order::Bootstrap { group, initial_members, reply });
        Ok(Creation(answer))
    }

    /// As [`Engine::remove_group`](crate::Engine::remove_group).
    pub fn remove_group(&self, group: GroupId) -> Removal {
        let (reply, answer) = oneshot::channel();
        self.inbox_of(group).order(Order::Remove { group, reply });
        Removal(answer)
    }

    /// As [`Engine::revive`](crate::Engine::revive).
    pub fn revive(&self, group: GroupId) -> Reviving {
        let (reply, answer) = oneshot::channel();
        self.inbox_of(group).order(Order::Revive { group, reply });
        Reviving(answer)
    }

    /// As [`Engine::replace_peer`](crate::Engine::replace_peer).
    pub fn replace_peer(&self, node: NodeId, log: LogId) -> Replacing {
        let (reply, answer) = oneshot::channel();
        let peer = PeerNote { node, log };
        self.shared.dispatch.order(0, Order::ReplacePeer { peer, checked: 0, reply });
        Replacing(answer)
    }

    /// As [`Engine::loss`](crate::Engine::loss).
    #[must_use]
    pub fn loss(&self, group: GroupId) -> Option<Loss> {
        self.workers[self.worker_of(group)].loss(group)
    }

    /// As [`Engine::accept_loss`](crate::Engine::accept_loss).
    pub fn accept_loss(&self, loss: Loss) -> Accepting {
        let (reply, answer) = oneshot::channel();
        self.inbox_of(loss.group).order(Order::AcceptLoss { loss, reply });
        Accepting(answer)
    }

    /// The known peers, and the log recorded for each of them.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerNote> {
        self.shared.dispatch.peers().list()
    }

    /// The replicas that a worker owns.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn replicas(&self, worker: usize) -> impl Iterator<Item = ReplicaView<'_>> {
        self.workers[worker].replicas()
    }

    /// The end, by this node's own clock, of its leader lease in a group: until then it answers strong reads
    /// by itself.
    #[must_use]
    pub fn lease_until(&self, group: GroupId) -> Option<Time> {
        self.workers[self.worker_of(group)].lease_until(group)
    }

    /// Whether a worker has yet to notify some of its groups of a change of support or connection: until then
    /// they act on the earlier state.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn has_pending_support_events(&self, worker: usize) -> bool {
        self.workers[worker].has_pending_support_events()
    }

    /// Whether commands are queued for a worker: creation and removal of groups, membership changes,
    /// leadership transfers.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn has_orders(&self, worker: usize) -> bool {
        self.shared.inboxes[worker].has_orders()
    }

    /// Whether a worker's entries wait until its log's next segment is made.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn awaits_segment(&self, worker: usize) -> bool {
        self.workers[worker].awaits_segment()
    }

    /// The resources that a worker holds.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn load(&self, worker: usize) -> Load {
        self.workers[worker].load()
    }

    /// The conditions of the node at present: as [`Engine::health`](crate::Engine::health), except that only
    /// those peers count as lost that the transport has reported.
    #[must_use]
    pub fn health(&self) -> Vec<crate::node::events::Condition> {
        self.shared.dispatch.events().conditions()
    }

    /// The node's counters since it was opened.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Requests every worker to answer every caller and end; their next turn does so.
    pub fn shutdown(&self) {
        self.shared.order_shutdown();
    }

    fn inbox_of(&self, group: GroupId) -> &Inbox {
        self.shared.inbox_of(group)
    }
}

/// A pending creation of a replica. A future.
#[must_use = "the replica may not have been made"]
pub struct Creation(oneshot::Receiver<Result<(), CreateError>>);

impl Future for Creation {
    type Output = Result<(), CreateError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|sent| sent.unwrap_or(Err(CreateError::Closed)))
    }
}

/// A pending removal of a replica: `false` if there was none. A future.
#[must_use = "the replica may not have been removed"]
pub struct Removal(oneshot::Receiver<bool>);

impl Future for Removal {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|sent| sent.unwrap_or(false))
    }
}

/// A pending revival of a state machine. A future.
#[must_use = "the replica may not have been revived"]
pub struct Reviving(oneshot::Receiver<Result<(), ReviveError>>);

impl Future for Reviving {
    type Output = Result<(), ReviveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|sent| sent.unwrap_or(Err(ReviveError::Closed)))
    }
}

/// A pending acceptance of a loss. A future.
#[must_use = "it may not have been accepted"]
pub struct Accepting(oneshot::Receiver<Result<(), AcceptLossError>>);

impl Future for Accepting {
    type Output = Result<(), AcceptLossError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|sent| sent.unwrap_or(Err(AcceptLossError::Closed)))
    }
}

/// A pending record of a peer's new log. A future.
#[must_use = "it may not have been noted"]
pub struct Replacing(oneshot::Receiver<Result<(), ReplaceError>>);

impl Future for Replacing {
    type Output = Result<(), ReplaceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|sent| sent.unwrap_or(Err(ReplaceError::Closed)))
    }
}
