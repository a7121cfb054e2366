//! The other driver: a whole node without threads, clock, files or sockets of its own, turned by its owner.
//!
//! [`Engine`](crate::Engine) is what a database embeds. This is the same node for an owner that supplies the
//! environment: the simulator, which runs many nodes in one thread on simulated time; or an embedder with an
//! event loop of its own. Worker, core, log and codec are the same code that the engine's threads run.
//!
//! ```text
//! loop { for each worker whose waker was called, or whose deadline has come: node.turn(worker, now) }
//! ```
//! A node dereferences to [`NodeHandle`], as an engine does: groups, pipelines and
//! the key-value store are the same over both.
//!
//! What is not here: waiting. Every call is sent at once, except [`Node::open`], which reads the log. A call
//! that is waited for ([`Call::wait`](crate::Call::wait)) waits for a turn: on the thread that turns the node
//! it would wait for ever; poll it there instead.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{GroupId, LogId, NodeId, Time};
use raftwerk_net::{Channel, PeerId, Receive, Transport};
pub use raftwerk_wal::PeerNote;
use raftwerk_wal::{Disk, LaneOptions};

use crate::api::engine::NodeHandle;
use crate::api::error::OpenError;
use crate::api::state_machine::StateMachines;
use crate::api::stats::WorkerMetrics;
use crate::api::status::Loss;
use crate::node::dispatch::Dispatch;
use crate::node::events::Events;
use crate::node::handle::NodeShared;
use crate::node::inbox::Inbox;
use crate::node::peers::Peers;
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
    handle: NodeHandle,
}

impl<D: Disk> Deref for Node<D> {
    type Target = NodeHandle;

    fn deref(&self) -> &NodeHandle {
        &self.handle
    }
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
            places.iter().map(|place| Inbox::new(inbox_max, u64::MAX, place.waker.clone(), None)).collect();
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
                clock: None,
            };
            let settings = Settings { worker: worker as u16, workers: count, ..settings.clone() };
            workers.push(Worker::open(settings, lane, disk, context, now)?);
        }
        let shared = NodeShared {
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
        Ok(Self { workers, handle: NodeHandle::new(shared) })
    }

    /// The worker that owns a group.
    #[must_use]
    pub fn worker_of(&self, group: GroupId) -> usize {
        self.handle.shared().worker_of(group)
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
        self.handle.shared().dispatch.receive(PeerId(from.0), channel, message);
    }

    /// The connection to a peer broke: messages in flight may be lost.
    pub fn disconnected(&self, peer: NodeId) {
        self.handle.shared().dispatch.disconnected(PeerId(peer.0));
    }

    /// A connection to a peer was established. To be called for every one: groups that are quiescent without
    /// the peer unquiesce.
    pub fn connected(&self, peer: NodeId) {
        self.handle.shared().dispatch.connected(PeerId(peer.0));
    }

    /// What a replica has lost at present, without a turn: [`NodeHandle::loss`] requests the same.
    #[must_use]
    pub fn present_loss(&self, group: GroupId) -> Option<Loss> {
        self.workers[self.handle.shared().worker_of(group)].loss(group)
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
        self.handle.shared().inboxes[worker].has_orders()
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
}
