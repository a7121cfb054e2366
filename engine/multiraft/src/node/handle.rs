//! The state that all handles of a node share.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use raftwerk_frame::{GroupId, LogId, NodeId};
use raftwerk_net::QuicTransport;

use crate::api::call::turns_workers;
use crate::api::stats::{EngineStats, WorkerMetrics};
use crate::node::dispatch::Dispatch;
use crate::node::inbox::Inbox;
use crate::node::placement::worker_of;
use crate::node::request::Order;
use crate::node::threads::Threads;

/// State shared by all handles of a node, whether the engine's threads or the embedder (`drive`) turn its
/// workers.
pub(crate) struct NodeShared {
    pub(crate) node: NodeId,
    pub(crate) log: LogId,
    pub(crate) inboxes: Vec<Arc<Inbox>>,
    pub(crate) payload_bytes_max: usize,
    pub(crate) metrics: Vec<Arc<WorkerMetrics>>,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) pipelines: AtomicU32,
    /// Shut down with the last handle. `None` where the embedder supplies the transport.
    pub(crate) transport: Option<Arc<QuicTransport>>,
    pub(crate) threads: Arc<Threads>,
    pub(crate) shutdown_patience: Duration,
}

impl NodeShared {
    /// The worker that owns a group: the same on every node with as many workers.
    pub(crate) fn worker_of(&self, group: GroupId) -> usize {
        worker_of(group, self.inboxes.len())
    }

    pub(crate) fn inbox_of(&self, group: GroupId) -> &Inbox {
        &self.inboxes[self.worker_of(group)]
    }

    /// The node's counters since it was opened.
    pub(crate) fn stats(&self) -> EngineStats {
        let mut sum = EngineStats::default();
        for metrics in &self.metrics {
            sum += &metrics.read();
        }
        sum.refused_units = self.dispatch.peers().refused();
        (sum.unread_units, sum.overflowed_units) = self.dispatch.dropped();
        sum.waiting_bytes = self.inboxes.iter().map(|inbox| inbox.waiting_bytes() as u64).sum();
        sum.outgoing_bytes = self.transport.as_ref().map_or(0, |transport| transport.queued_bytes());
        sum
    }

    /// Requests every worker to answer its callers and end.
    pub(crate) fn order_shutdown(&self) {
        for inbox in &self.inboxes {
            inbox.order(Order::Shutdown);
        }
    }

    /// The end of the node, for a thread that waits for it and keeps no handle.
    pub(crate) fn end(&self) -> NodeEnd {
        NodeEnd {
            node: self.node,
            threads: Arc::clone(&self.threads),
            transport: self.transport.clone(),
            patience: self.shutdown_patience,
        }
    }
}

/// What is left to be done for a node after its workers have been requested to end.
pub(crate) struct NodeEnd {
    node: NodeId,
    threads: Arc<Threads>,
    transport: Option<Arc<QuicTransport>>,
    patience: Duration,
}

impl NodeEnd {
    /// Whether the owner of the node turns its workers, and supplies its transport.
    pub(crate) fn is_by_hand(&self) -> bool {
        self.transport.is_none()
    }

    /// Waits for the threads for at most the shutdown patience, then ends the connections. Returns whether
    /// all threads have ended.
    pub(crate) fn wait(&self) -> bool {
        let have_ended = self.threads.wait(self.patience);
        if !have_ended && !turns_workers() {
            tracing::error!(node = self.node.0, patience = ?self.patience,
                "a thread has not ended: its disk, or a state machine, does not answer");
        }
        if let Some(transport) = &self.transport {
            transport.shutdown();
        }
        have_ended
    }
}

impl Drop for NodeShared {
    fn drop(&mut self) {
        self.order_shutdown();
        self.end().wait();
    }
}
