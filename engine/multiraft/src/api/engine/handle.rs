//! The operations of a node, whichever driver turns its workers: the engine's threads, or their owner by hand.

use std::sync::Arc;

use raftwerk_frame::{GroupId, LogId, NodeId};
use raftwerk_net::PeerId;
use raftwerk_wal::PeerNote;
use tokio::sync::oneshot;

use crate::api::call::{Call, turns_workers};
use crate::api::error::{
    AcceptLossError, CreateError, ReplaceError, ReplicaError, ReviveError, ShutdownError,
};
use crate::api::group::Group;
use crate::api::membership::initial_members::InitialMembers;
use crate::api::pipeline::Pipeline;
use crate::api::stats::EngineStats;
use crate::api::status::{Loss, ReplicaKind};
use crate::node::events::Condition;
use crate::node::handle::NodeShared;
use crate::node::request::Order;

/// A node, as its callers hold it: what [`Engine`](crate::Engine) and [`drive::Node`](crate::drive::Node)
/// have in common. Cheap to clone; usable from any thread.
///
/// Each operation that takes time is a [`Call`]: a future that can also be waited for.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<NodeShared>,
}

impl NodeHandle {
    pub(crate) fn new(shared: NodeShared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// The number of lanes of its log ([`Config::lanes`](crate::Config)), each of which has a worker.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.shared.inboxes.len()
    }

    /// The identity of this node's log. Differs from that of every other log, including an earlier one of
    /// this node.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.shared.log
    }

    /// A handle of a group. Makes no request: whether this node has a replica of the group is answered by
    /// [`Group::status`], and by each call of the handle.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Group {
        Group::new(group, Arc::clone(&self.shared))
    }

    /// A pipeline of a thread's own, for up to `in_flight_max` operations at a time.
    #[must_use]
    pub fn pipeline(&self, in_flight_max: usize) -> Pipeline {
        Pipeline::open(&self.shared, in_flight_max)
    }

    /// Creates this node's replica of a group, durably (bootstrap). To be called on every initial member,
    /// with the same members everywhere: a list of voters, or [`InitialMembers`] with witnesses and learners
    /// among them. The group works as soon as a majority of the voters has done so. Idempotent. Takes about
    /// one sync.
    ///
    /// # Errors
    /// [`CreateError`]; the group was not created here.
    pub fn create_group(
        &self,
        group: GroupId,
        initial_members: impl Into<InitialMembers>,
    ) -> Call<Group, CreateError> {
        let initial_members = match initial_members.into().configuration(self.shared.node) {
            Ok(initial_members) => initial_members,
            Err(error) => return Call::done(Err(error)),
        };
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Bootstrap { group, initial_members, reply });
        self.made(group, answer)
    }

    /// Creates this node's replicas of many groups with the same initial members, as
    /// [`NodeHandle::create_group`] creates one; all share a few syncs.
    ///
    /// # Errors
    /// The first [`CreateError`]; the groups before and after it may have been created.
    pub fn create_groups(
        &self,
        groups: &[GroupId],
        initial_members: impl Into<InitialMembers>,
    ) -> Call<(), CreateError> {
        let initial_members = match initial_members.into().configuration(self.shared.node) {
            Ok(initial_members) => initial_members,
            Err(error) => return Call::done(Err(error)),
        };
        let ask = |group: &GroupId| {
            let (reply, answer) = oneshot::channel();
            let order = Order::Bootstrap { group: *group, initial_members: initial_members.clone(), reply };
            self.shared.inbox_of(*group).order(order);
            answer
        };
        let answers: Vec<_> = groups.iter().map(ask).collect();
        let all = async move {
            let mut made = Ok(());
            for answer in answers {
                made = made.and(answer.await.unwrap_or(Err(CreateError::Closed)));
            }
            made
        };
        Call::staged(all, || CreateError::Closed)
    }

    /// Creates an empty replica here, without any state of its group, durably: needed before a leader adds
    /// this node ([`Group::reconfigure`]). It is passive until it receives a message of the group.
    /// Idempotent. If damage may have taken a replica of this group without a trace, the new replica grants
    /// no vote until a later leader has brought it everything ([`NodeHandle::loss`] reports it). Takes about
    /// one sync.
    ///
    /// # Errors
    /// [`CreateError`]; the replica was not created.
    pub fn join_group(&self, group: GroupId) -> Call<Group, CreateError> {
        self.join(group, ReplicaKind::Full)
    }

    /// As [`NodeHandle::join_group`], for a replica that is a witness for as long as it exists: it votes and
    /// acknowledges, and holds no payload and no state. A leader adds it by
    /// [`Change::Witness`](crate::Change), and by no other change.
    ///
    /// # Errors
    /// [`CreateError`]; the replica was not created.
    pub fn join_group_as_witness(&self, group: GroupId) -> Call<Group, CreateError> {
        self.join(group, ReplicaKind::Witness)
    }

    fn join(&self, group: GroupId, kind: ReplicaKind) -> Call<Group, CreateError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Join { group, kind, reply });
        self.made(group, answer)
    }

    fn made(
        &self,
        group: GroupId,
        answer: oneshot::Receiver<Result<(), CreateError>>,
    ) -> Call<Group, CreateError> {
        // Weak, so that a call that is never taken keeps no node open.
        let shared = Arc::downgrade(&self.shared);
        Call::answered(answer, || CreateError::Closed).then(move |made| {
            made?;
            let shared = shared.upgrade().ok_or(CreateError::Closed)?;
            Ok(Group::new(group, shared))
        })
    }

    /// The groups with a replica on this node, in ascending order. Takes about one turn of every worker.
    ///
    /// # Errors
    /// [`ReplicaError::Closed`].
    pub fn groups(&self) -> Call<Vec<GroupId>, ReplicaError> {
        let ask = |inbox: &Arc<crate::node::inbox::Inbox>| {
            let (reply, answer) = oneshot::channel();
            inbox.order(Order::Groups { reply });
            answer
        };
        let answers: Vec<_> = self.shared.inboxes.iter().map(ask).collect();
        let all = async move {
            let mut groups = Vec::new();
            for answer in answers {
                groups.append(&mut answer.await.unwrap_or(Err(ReplicaError::Closed))?);
            }
            groups.sort_unstable();
            Ok(groups)
        };
        Call::staged(all, || ReplicaError::Closed)
    }

    /// Deletes this node's replica of a group, its log and its checkpoints.
    ///
    /// The other replicas are not informed: take this one out of the configuration first
    /// ([`Group::reconfigure`]), and wait until it has received that
    /// ([`GroupStatus::is_removed`](crate::GroupStatus)). Its hard state (term and vote) stays on this disk,
    /// some hundred bytes, and constrains a replica that joins here again ([`NodeHandle::join_group`]); the
    /// group cannot be created here again.
    ///
    /// # Errors
    /// [`ReplicaError`]: [`NoReplica`](ReplicaError::NoReplica) if there was none.
    pub fn remove_group(&self, group: GroupId) -> Call<(), ReplicaError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Remove { group, reply });
        Call::answered(answer, || ReplicaError::Closed)
    }

    /// The logs of other nodes, as this one has recorded them. Does not block.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerNote> {
        self.shared.dispatch.peers().list()
    }

    /// Records that a node has another log now, its old one being gone for good: needed for groups that are
    /// to be created with it. From existing groups, the node is taken out and added again
    /// ([`Group::reconfigure`]), and joins them ([`NodeHandle::join_group`]); no other node needs to be
    /// informed. Why: `engine/docs/replica_identity.md`. Takes about one sync.
    ///
    /// # Errors
    /// [`ReplaceError`]; nothing was recorded.
    pub fn replace_peer(&self, node: NodeId, log: LogId) -> Call<(), ReplaceError> {
        let (reply, answer) = oneshot::channel();
        let peer = PeerNote { node, log };
        self.shared.dispatch.order(0, Order::ReplacePeer { peer, checked: 0, reply });
        Call::answered(answer, || ReplaceError::Closed)
    }

    /// What a replica of this node has lost and waits for. Until it is repaired, the replica grants no vote
    /// and does not lead. `None` if it has lost nothing, or has been repaired. For a group without a replica
    /// here: what may have been lost of it, if damage may have left nothing of a replica; then the group
    /// cannot be created here. Takes about one turn of its worker.
    ///
    /// # Errors
    /// [`ReplicaError::Closed`].
    pub fn loss(&self, group: GroupId) -> Call<Option<Loss>, ReplicaError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Loss { group, reply });
        Call::answered(answer, || ReplicaError::Closed)
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
    /// Refused unless the node was opened with [`Config::accept_losses`](crate::Config), and unless `loss`
    /// equals what [`NodeHandle::loss`] returns. To be called on as many voters as it takes to elect a leader.
    /// For a group without a replica here it lets [`NodeHandle::create_group`] create it, as if it had never
    /// existed; that is durable when this completes, and stays in force until the group is here. For a replica
    /// that is here it is in force until the node stops, or the replica holds an entry of a later term, which
    /// happens soon after.
    ///
    /// # Errors
    /// [`AcceptLossError`]; nothing has changed.
    pub fn accept_loss(&self, loss: Loss) -> Call<(), AcceptLossError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(loss.group).order(Order::AcceptLoss { loss, reply });
        Call::answered(answer, || AcceptLossError::Closed)
    }

    /// Makes a new state machine for a replica in [quarantine](crate::Quarantine), from its checkpoint, and
    /// has it apply what the old one had applied. Completes when the machine is made, after the checkpoint is
    /// read; the quarantine ends when it has caught up ([`Group::status`]), or continues if the machine
    /// panics again.
    ///
    /// # Errors
    /// [`ReviveError`]; nothing has changed.
    pub fn revive(&self, group: GroupId) -> Call<(), ReviveError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox_of(group).order(Order::Revive { group, reply });
        Call::answered(answer, || ReviveError::Closed)
    }

    /// The conditions of this node at present: every condition reported by an event
    /// ([`Config::on_event`](crate::Config)) that has not ended, and each peer that was connected before and
    /// has no connection now. Empty: the node is healthy. Does not block. (Of a node that is driven by hand,
    /// those peers count as lost that its transport has reported.)
    #[must_use]
    pub fn health(&self) -> Vec<Condition> {
        let mut conditions = self.shared.dispatch.events().conditions();
        let Some(transport) = &self.shared.transport else { return conditions };
        let is_away = |node: NodeId| transport.peer_error(PeerId(node.0)).is_some();
        // A removed peer is not reported as lost.
        conditions.retain(|condition| match condition {
            Condition::PeerLost { node } | Condition::PeerCertificateEnded { node } => is_away(*node),
            _ => true,
        });
        for note in self.peers() {
            let lost = Condition::PeerLost { node: note.node };
            if is_away(note.node) && !conditions.contains(&lost) {
                conditions.push(lost);
            }
        }
        conditions
    }

    /// The node's counters since it was opened. Does not block.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Shuts the node down: every pending call ends, threads stop. Remaining handles answer `Closed`. Begins
    /// at once, whether or not the call is waited for; completes when all has ended, but no later than
    /// [`Config::shutdown_patience`](crate::Config). May be called again, and by several threads at once:
    /// each call waits. Dropping the last handle does the same, and blocks. A node that is driven by hand
    /// ends with the next turn of each worker; its call is over at once.
    ///
    /// # Errors
    /// [`ShutdownError`]; the node ends all the same, but later.
    pub fn shutdown(&self) -> Call<(), ShutdownError> {
        self.shared.order_shutdown();
        let end = self.shared.end();
        // Neither waits: the one is a thread of its own node, the other has no threads.
        if turns_workers() {
            return Call::done(if end.wait() { Ok(()) } else { Err(ShutdownError::OwnThread) });
        }
        if end.is_by_hand() {
            return Call::done(Ok(()));
        }
        let name = format!("raftwerk-{}-end", self.shared.node);
        Call::on_thread(
            &name,
            || ShutdownError::Unfinished,
            move || {
                if end.wait() { Ok(()) } else { Err(ShutdownError::Unfinished) }
            },
        )
    }
}
