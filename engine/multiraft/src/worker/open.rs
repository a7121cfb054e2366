//! Opening a worker: recovers the lane's log and restores every replica in it.

use std::any::Any;
use std::io::Read;
use std::sync::Arc;

use raftwerk_frame::{EntryId, GroupId, HardState, Index, LogId, Membership, Term, Time};
use raftwerk_net::Transport;
use raftwerk_raft as raft;
use raftwerk_wal::{Disk, Lane, LaneOptions, RecoveredGroup, SnapshotError, SnapshotMeta};

use super::Worker;
use crate::api::error::OpenError;
use crate::api::state_machine::{StateMachine, StateMachines};
use crate::api::stats::WorkerMetrics;
use crate::api::status::ReplicaKind;
use crate::node::dispatch::Dispatch;
use crate::node::events::Condition;
use crate::node::inbox::Inbox;
use crate::node::threads::Clock;
use crate::worker::calls::Calls;
use crate::worker::groups::machines::{as_restored, new_machine, restore_machine, split};
use crate::worker::groups::replica::Replica;
use crate::worker::groups::table::Groups;
use crate::worker::liveness::NodeLiveness;
use crate::worker::liveness::abstention::Abstention;
use crate::worker::liveness::support::SupportTerms;
use crate::worker::log::LaneUpkeep;
use crate::worker::log::group_commit::GroupCommit;
use crate::worker::replication::outbox::{LocalSender, Outboxes};
use crate::worker::replication::receive::Intake;
use crate::worker::settings::Settings;
use crate::worker::storage::checkpointing::Checkpointing;
use crate::worker::storage::snapshots::Transfers;

/// The worker's context: its parts besides the log.
pub(crate) struct WorkerContext {
    pub(crate) machines: Arc<dyn StateMachines>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Of the node's threads; `None` where the owner turns the workers.
    pub(crate) clock: Option<Clock>,
}

/// A machine with a checkpoint's state, or the message of its panic.
type Restored = Result<Box<dyn StateMachine>, String>;

impl<D: Disk> Worker<D> {
    /// Recovers a lane and all replicas in it. Blocks; must be done before the worker's first turn.
    pub(crate) fn open(
        settings: Settings,
        options: LaneOptions,
        disk: D,
        context: WorkerContext,
        now: Time,
    ) -> Result<Self, OpenError> {
        let log = LogId(disk.directory().log_id());
        let abstention = Abstention::open(&disk, settings.worker, settings.election_timeout, now)?;
        let (lane, recovered, report) = Lane::open(disk, options)?;
        tracing::info!(node = settings.node.0, worker = settings.worker, ?report, "log recovered");
        let sender =
            LocalSender { node: settings.node, worker: settings.worker, workers: settings.workers, log };
        for damage in &report.damage {
            let (lane, file, groups) = (settings.worker, damage.file.to_string(), damage.groups.clone());
            context
                .dispatch
                .events()
                .report(now, Condition::Damaged { lane, file, offset: damage.offset, groups });
        }
        let terms = SupportTerms {
            incarnation: settings.incarnation,
            // Two heartbeats may be late or lost before support ends.
            interval: settings.election_timeout * 2 / 5,
            duration: settings.election_timeout,
            drift_ppm: settings.clock_drift_ppm,
        };
        let liveness = NodeLiveness::new(terms, abstention, now);
        let outboxes = Outboxes::new(sender, settings.limits.control_records);
        let mut worker = Self {
            settings,
            env: context,
            now,
            lane,
            effects: raft::Effects::default(),
            groups: Groups::default(),
            log: GroupCommit::default(),
            upkeep: LaneUpkeep::begin_at(now),
            outboxes,
            intake: Intake::default(),
            liveness,
            calls: Calls::default(),
            transfers: Transfers::default(),
            is_poisoned: false,
            is_closing: false,
        };
        let strays = worker.lane.drop_stray_snapshots();
        strays.map_err(|error| OpenError::Checkpoint { group: GroupId(0), what: error.to_string() })?;
        for group in recovered {
            if !worker.recalls_unknown(&group) {
                worker.reopen(group)?;
            }
        }
        if let Some(fence) = report.lost_unknown {
            let noted = worker.note_unknown(fence);
            noted.map_err(|error| OpenError::Checkpoint { group: GroupId(0), what: error.to_string() })?;
        }
        Ok(worker)
    }

    /// Restores one replica: its newest checkpoint, then its log.
    fn reopen(&mut self, mut recovered: RecoveredGroup) -> Result<(), OpenError> {
        let group = recovered.group;
        let damaged = |what: String| OpenError::Checkpoint { group, what };
        let slot = self.lane.attach(group);
        // A read that fails once is no reason to give up the state.
        let loaded = match self.load_checkpoint(group) {
            Ok(Some((_, Err(_)))) => self.load_checkpoint(group),
            loaded => loaded,
        };
        let (checkpoint, restored) = match loaded {
            Ok(Some((meta, restored))) => (Some(meta), Some(restored)),
            Ok(None) => (None, None),
            Err(error @ SnapshotError::Corrupt { .. }) if self.lane.tolerates_damage() => {
                return self.reopen_bare(slot, &error.to_string());
            }
            Err(error) => return Err(damaged(error.to_string())),
        };
        // The record that marks a witness may be damaged; a compacted log without a checkpoint shows it, too.
        let is_bare = checkpoint.is_none() && recovered.compacted != EntryId::default();
        let is_witness =
            recovered.is_witness || is_bare && recovered.configuration.is_witness(self.settings.node);
        if is_witness && !self.lane.is_witness(slot) {
            self.lane.begin_as_witness(slot);
        }
        let made = restored.or_else(|| (!is_witness).then(|| new_machine(&*self.env.machines, group)));
        let (machine, panicked) = split(made);
        let begins_at = if is_witness { recovered.compacted } else { EntryId::default() };
        let checkpointed = checkpoint.as_ref().map_or(begins_at, |meta| meta.id);
        if checkpointed.index < recovered.compacted.index {
            let compacted = recovered.compacted;
            let what = format!("the log starts after {compacted}, its checkpoint is at {checkpointed}");
            if self.lane.tolerates_damage() {
                return self.reopen_bare(slot, &what);
            }
            return Err(damaged(what));
        }
        if let Some(meta) = &checkpoint {
            self.finish_install(slot, &mut recovered, meta);
        }
        let kind = if is_witness { ReplicaKind::Witness } else { ReplicaKind::Full };
        self.restore_replica(
            slot,
            recovered,
            checkpointed.index,
            kind,
            machine,
            Checkpointing::of(checkpoint),
        )?;
        if let Some(what) = panicked {
            self.quarantine(slot, what);
        }
        Ok(())
    }

    /// Loads a group's newest checkpoint, and a machine restored from it or why the restore failed. The file
    /// is verified first: a failed restore is the machine's fault and costs its replica only.
    fn load_checkpoint(&mut self, group: GroupId) -> Result<Option<(SnapshotMeta, Restored)>, SnapshotError> {
        let machines = Arc::clone(&self.env.machines);
        let restore = move |image: &mut dyn Read, _: &SnapshotMeta| {
            Ok(Box::new(restore_machine(&*machines, group, image)) as Box<dyn Any + Send>)
        };
        let loaded = self.lane.load_latest(group, Box::new(restore))?;
        Ok(loaded.map(|(meta, restored)| (meta, as_restored(restored))))
    }

    /// Restores a replica after the loss of its checkpoint: empty and fenced, with the hard state kept. Its
    /// leader sends it everything, as to a new member; all other groups go on.
    fn reopen_bare(&mut self, slot: raftwerk_wal::GroupSlot, what: &str) -> Result<(), OpenError> {
        let recovered = self.lane.recreate_empty(slot);
        let group = self.lane.group(slot);
        tracing::error!(node = self.settings.node.0, %group, "the checkpoint is lost: {what}");
        let recovered =
            recovered.map_err(|error| OpenError::Checkpoint { group, what: error.to_string() })?;
        let (machine, panicked) = split(Some(new_machine(&*self.env.machines, group)));
        self.restore_replica(
            slot,
            recovered,
            Index(0),
            ReplicaKind::Full,
            machine,
            Checkpointing::default(),
        )?;
        if let Some(what) = panicked {
            self.quarantine(slot, what);
        }
        Ok(())
    }

    /// Makes a replica from its recovered log, with a machine that has applied everything up to `applied`.
    pub(super) fn restore_replica(
        &mut self,
        slot: raftwerk_wal::GroupSlot,
        mut recovered: RecoveredGroup,
        applied: Index,
        kind: ReplicaKind,
        machine: Option<Box<dyn StateMachine>>,
        checkpointing: Checkpointing,
    ) -> Result<(), OpenError> {
        let group = recovered.group;
        let steps_over = recovered.fence.map(|fence| self.step_over(slot, fence, &mut recovered));
        let wrote_hard_state = steps_over.unwrap_or(Ok(false))?;
        let config = self.settings.core_config(group, self.outboxes.log(), &recovered.configuration);
        // The first configuration is in force where the log begins, the others are its entries.
        let mut configurations = recovered.configurations.into_iter();
        let begins_in = configurations.next().map(|(_, configuration)| configuration);
        let state = raft::Restored {
            origin: recovered
                .floor
                .map_or(raft::Origin::InitialMember, |floor| raft::Origin::Joined { floor }),
            is_witness: kind == ReplicaKind::Witness,
            hard_state: recovered.hard_state,
            compacted: recovered.compacted,
            configuration: begins_in.unwrap_or(recovered.configuration),
            runs: recovered.runs.iter().map(|&(term, first)| raft::TermRun { term, first }).collect(),
            last: recovered.last,
            applied: applied.max(recovered.compacted.index),
        };
        let memberships = configurations.map(|(index, configuration)| Membership { index, configuration });
        // It may have fortified a leader before it stopped, so it abstains from votes for as long as that may
        // count.
        let config = raft::Config { first_timeout: None, abstention: self.liveness.abstention(), ..config };
        let mut core = raft::Group::restore(config, state, memberships, self.now);
        self.settings.rank(&mut core);
        if let Some(fence) = recovered.fence {
            core.set_fence(fence);
        }
        self.add_replica(Replica::new(group, slot, core, machine, checkpointing));
        if wrote_hard_state {
            self.groups.note_hard_state(slot);
        }
        Ok(())
    }

    /// Votes and acknowledgements of this replica in terms up to `fence` may be lost from the log, so it must
    /// not vote or acknowledge in those terms any more. It steps into the next term with a vote for itself,
    /// which it does not use: no other candidate gets that vote, a leader of the group in an older term is
    /// deposed, and the leader elected then, without this replica, sends it what it has lost. Returns whether
    /// a hard state was written now.
    fn step_over(
        &mut self,
        slot: raftwerk_wal::GroupSlot,
        fence: Term,
        recovered: &mut RecoveredGroup,
    ) -> Result<bool, OpenError> {
        let (node, group) = (self.settings.node, recovered.group);
        tracing::error!(node = node.0, %group, fence = fence.0, last = recovered.last.0,
            "the replica has lost something, and votes for nobody until a new leader has repaired it");
        let is_due = recovered.hard_state.term <= fence;
        if is_due {
            recovered.hard_state = HardState { term: Term(fence.0 + 1), vote: Some(node) };
            let written = self.lane.hard_state(slot, recovered.hard_state);
            written.map_err(|error| OpenError::Checkpoint { group, what: error.to_string() })?;
        }
        Ok(is_due)
    }

    /// A snapshot was durable, and the node stopped before its log recorded the installation: it is recorded
    /// now. What a snapshot holds is committed, so entries that contradict it are not.
    fn finish_install(
        &mut self,
        slot: raftwerk_wal::GroupSlot,
        recovered: &mut RecoveredGroup,
        meta: &SnapshotMeta,
    ) {
        let id = meta.id;
        let run = recovered.runs.iter().rfind(|(_, first)| *first <= id.index);
        let term_there = run.map(|(term, _)| *term).filter(|_| id.index <= recovered.last);
        if id == recovered.compacted || term_there == Some(id.term) {
            return;
        }
        recovered.compacted = id;
        recovered.configuration = meta.configuration.clone();
        recovered.configurations = vec![(id.index, meta.configuration.clone())];
        recovered.runs.clear();
        recovered.last = id.index;
        self.lane.snapshot(slot, id, &meta.configuration, raftwerk_wal::Tail::Drop);
    }

    /// Restores a new machine from a checkpoint on the disk's background thread.
    pub(super) fn restore_in_background(&mut self, token: u64, group: GroupId) {
        let machines = Arc::clone(&self.env.machines);
        self.lane.load_snapshot(
            token,
            group,
            Box::new(move |image, _| restore_machine(&*machines, group, image)),
        );
    }
}
