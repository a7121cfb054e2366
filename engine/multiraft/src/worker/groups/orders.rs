//! The engine's commands to a worker: creating, removing and inspecting replicas.

use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, Message};
use raftwerk_raft as raft;
use raftwerk_wal::{Disk, LogKind};
use tokio::sync::oneshot;

use crate::api::error::{CreateError, ReadError, ReplicaError};
use crate::api::status::{GroupStatus, ReplicaKind};
use crate::node::events::Condition;
use crate::node::request::{Order, Removed};
use crate::worker::Worker;
use crate::worker::calls::reads::refuse_reads;
use crate::worker::groups::machines::{give_up, guarded, new_machine, split};
use crate::worker::groups::replica::Replica;
use crate::worker::storage::checkpointing::Checkpointing;

impl<D: Disk> Worker<D> {
    /// Executes one command.
    pub(in crate::worker) fn execute(&mut self, order: Order) {
        match order {
            Order::Bootstrap { group, initial_members, reply } => {
                let is_witness = initial_members.is_witness(self.settings.node);
                let kind = if is_witness { ReplicaKind::Witness } else { ReplicaKind::Full };
                self.create(group, initial_members, kind, reply);
            }
            Order::Join { group, kind, reply } => {
                self.create(group, Configuration::default(), kind, reply);
            }
            Order::Remove { group, reply } => self.remove(group, reply),
            Order::Reconfigure { group, wish, reply } => self.reconfigure(group, &wish, reply),
            Order::Transfer { group, to, reply } => self.transfer(group, to, reply),
            Order::Status { group, reply } => {
                let _caller_gone = reply.send(self.status(group).ok_or(ReplicaError::NoReplica(group)));
            }
            Order::Digest { group, reply } => {
                let replica = self.groups.find(group).ok_or(ReplicaError::NoReplica(group));
                let digest = |replica: &Replica| {
                    let machine = replica.machine.as_ref().filter(|_| !replica.is_quarantined())?;
                    Some((replica.applied, guarded(|| machine.digest()).ok()?))
                };
                let digest = |replica| digest(replica).ok_or(ReplicaError::NoState(group));
                let _caller_gone = reply.send(replica.and_then(digest));
            }
            Order::Groups { reply } => {
                let mut groups: Vec<GroupId> = self.groups.ids().collect();
                groups.sort_unstable();
                let _caller_gone = reply.send(Ok(groups));
            }
            Order::Loss { group, reply } => {
                let _caller_gone = reply.send(Ok(self.loss(group)));
            }
            Order::AcceptLoss { loss, reply } => self.accept_loss(&loss, reply),
            Order::Revive { group, reply } => self.revive_replica(group, reply),
            Order::ReplacePeer { peer, checked, reply } => self.replace_peer(peer, checked, reply),
            Order::PipelineGone { .. } | Order::Shutdown => unreachable!("taken by take_orders"),
        }
    }

    fn create(
        &mut self,
        group: GroupId,
        configuration: Configuration,
        kind: ReplicaKind,
        reply: oneshot::Sender<Result<(), CreateError>>,
    ) {
        let joins = configuration.is_empty();
        let answer = if self.is_poisoned {
            Err(CreateError::Poisoned)
        } else if self.upkeep.is_full() {
            Err(CreateError::StorageFull)
        } else if let Some(replica) = self.groups.find(group) {
            // A group that has changed its configuration since is the same group; and a request to join does
            // not name the members.
            let core = &replica.core;
            let has_changed = core.configuration_index() > Index(0);
            let same = *core.configuration() == configuration || has_changed || joins;
            if same && (!joins || replica.kind() == kind) {
                // Its creation may still be on its way to the disk.
                return self.log.hold_created(reply);
            }
            Err(CreateError::Exists(group))
        } else if self.transfers.is_leaving(group) {
            Err(CreateError::Exists(group))
        } else if crate::node::placement::is_reserved(group) {
            Err(CreateError::Reserved(group))
        } else if !joins && self.is_past_whole(group) {
            Err(CreateError::Removed(group))
        } else if !joins && self.may_have_lost(group).is_some() {
            Err(CreateError::Lost(group))
        } else {
            // Durable with this turn's batch; the client waits for that.
            self.create_replica(group, configuration, kind);
            return self.log.hold_created(reply);
        };
        let _caller_gone = reply.send(answer);
    }

    /// Creates a replica. Without a configuration it joins, and keeps the hard state of an earlier replica.
    /// If that may be lost, in part or without a trace, the replica is fenced: it does not vote until a later
    /// leader has sent it everything.
    fn create_replica(&mut self, group: GroupId, configuration: Configuration, kind: ReplicaKind) {
        let is_witness = kind == ReplicaKind::Witness;
        let log_kind = if is_witness { LogKind::Witness } else { LogKind::Full };
        let fence = self.may_have_lost(group).filter(|_| configuration.is_empty());
        let slot = self.lane.attach(group);
        let (mut hard_state, floor) = self.lane.past(slot).unwrap_or_default();
        let origin = if let Some(fence) = fence {
            if hard_state.term <= fence {
                hard_state = HardState { term: fence.next(), vote: Some(self.settings.node) };
            }
            tracing::warn!(node = self.settings.node.0, %group, fence = fence.0,
                "what joins may have been here, and what it promised been lost: it votes for nobody until a new leader has repaired it");
            if let Err(error) = self.lane.join_fenced(slot, log_kind, fence, hard_state) {
                return self.poison(&error);
            }
            raft::Origin::Joined { floor }
        } else if configuration.is_empty() {
            self.lane.join(slot, log_kind);
            raft::Origin::Joined { floor }
        } else {
            self.lane.bootstrap(slot, &configuration, log_kind);
            raft::Origin::InitialMember
        };
        let mut config = self.settings.core_config(group, self.outboxes.log(), &configuration);
        if configuration.is_empty() {
            // An earlier replica of this group here may have fortified a leader.
            config.abstention = self.liveness.abstention();
        }
        let restored = raft::Restored {
            origin,
            is_witness,
            hard_state,
            compacted: EntryId::default(),
            configuration,
            runs: Vec::new(),
            last: Index(0),
            applied: Index(0),
        };
        let mut core = raft::Group::new(config, restored, self.now);
        self.settings.rank(&mut core);
        if let Some(fence) = fence {
            core.set_fence(fence);
        }
        let machine = if is_witness { None } else { Some(new_machine(&*self.env.machines, group)) };
        let (machine, panicked) = split(machine);
        self.add_replica(Replica::new(group, slot, core, machine, Checkpointing::default()));
        if let Some(what) = panicked {
            self.quarantine(slot, what);
        }
        if fence.is_some() {
            self.groups.note_hard_state(slot);
        }
    }

    /// Adds a replica to the worker and arms its timer.
    pub(in crate::worker) fn add_replica(&mut self, replica: Replica) {
        let (slot, is_witness) = (replica.slot, replica.core.is_witness());
        self.groups.insert(replica);
        self.env.metrics.groups(self.groups.len());
        if is_witness {
            self.env.metrics.witness_added();
        }
        self.liveness.on_peers_changed();
        self.note_leader(slot);
        self.sync_support(slot);
    }

    /// Removes a replica. Once the removal is durable, its files are deleted and the caller is answered.
    fn remove(&mut self, group: GroupId, reply: Removed) {
        let removed = if self.is_poisoned { None } else { self.groups.remove(group) };
        let Some(mut replica) = removed else {
            let error =
                if self.is_poisoned { ReplicaError::Poisoned } else { ReplicaError::NoReplica(group) };
            let _caller_gone = reply.send(Err(error));
            return;
        };
        self.renounce(&mut replica);
        crate::worker::replication::witness::uncount(&self.env.metrics, &replica);
        self.liveness.on_peers_changed();
        self.calls.clients().refuse_queued(&mut replica, &crate::ProposeError::NoSuchGroup(group));
        self.calls.clients().abandon(&mut replica, Index(0));
        crate::worker::calls::membership::abandon_change(&mut replica);
        refuse_reads(&mut replica, self.calls.clients(), &ReadError::NoSuchGroup(group));
        give_up(replica.machine.take());
        self.tally_quarantined();
        self.groups.conditions.forget(group);
        self.resolve(&Condition::Quarantined { group, what: String::new() });
        self.transfers.forget(group);
        self.transfers.leave(group);
        self.env.metrics.groups(self.groups.len());
        self.lane.remove(replica.slot);
        self.log.hold_removed(group, reply);
    }

    /// A replica is about to be dropped, or rebuilt from a part of its log. If it leads, it sends its
    /// followers a not-leader reply (`NotLeader`): quiescent followers would not miss it, since their nodes go
    /// on supporting this one.
    pub(in crate::worker) fn renounce(&mut self, replica: &mut Replica) {
        if !replica.core.is_leader() || !replica.may_send(self.log.durable()) {
            return;
        }
        let message = Message::NotLeader { term: replica.core.term() };
        for peer in replica.core.peers() {
            let to = self.outboxes.recipient(&replica.core, peer, None);
            self.outboxes.control(to, replica.id, message);
        }
    }

    fn status(&self, group: GroupId) -> Option<GroupStatus> {
        let replica = self.groups.find(group)?;
        let core = &replica.core;
        Some(GroupStatus {
            role: core.role(),
            term: core.term(),
            leader: core.leader(),
            compacted: core.compacted(),
            last: core.last(),
            commit: core.commit(),
            applied: replica.applied,
            configuration: core.configuration().clone(),
            configuration_index: core.configuration_index(),
            peers: core.peers().filter_map(|peer| Some((peer, core.progress(peer)?))).collect(),
            new_members: core.new_members().collect(),
            transfer_to: core.transfer_target(),
            is_removed: core.is_removed(),
            is_witness: core.is_witness(),
            is_quiescent: core.is_quiescent(),
            quarantine: replica.quarantine.as_deref().cloned(),
            log_bytes: self.lane.live_bytes(replica.slot),
        })
    }
}
