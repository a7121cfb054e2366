//! Damage in the log of a running worker: it is searched for at a bounded rate, and repaired as soon as
//! anything finds it.
//!
//! Nothing but payloads can be lost here: hard states and configurations are in memory, and so is the index
//! of the entries at a damaged place.
//! 1. Facts in a damaged segment are written again; so are a group's entries, if they are few and an intact
//!    copy exists.
//! 2. Entries that this replica has applied are needed by followers only: a checkpoint replaces them, and is
//!    sent to followers that lack them.
//! 3. Entries that it has not applied are lost. The replica is fenced as if the loss had been found at
//!    opening: it drops them, steps into a later term, grants no vote, and receives them from a leader that
//!    was elected without it (`engine/docs/log_format.md`). All other replicas of the worker go on.
//!
//! A checkpoint that is damaged is made anew from the state, which is in memory; a pass reads the checkpoints
//! after the log.
//!
//! Until the repair, damaged entries are neither sent nor applied. Not here: reading
//! (`raftwerk_wal::Lane::scrub`).

use raftwerk_frame::{GroupId, Index, Time};
use raftwerk_wal::{DamagedEntries, DamagedSnapshot, Disk, GroupSlot, Place, Scrubbed, SnapshotsChecked};

use crate::api::error::{ProposeError, ReadError};
use crate::api::status::ReplicaKind;
use crate::node::events::Condition;
use crate::worker::Worker;
use crate::worker::calls::reads::refuse_reads;
use crate::worker::groups::replica::{Damage, Replica};
use crate::worker::storage::background::Work;

/// Bytes read by one job.
const CHUNK_BYTES: u64 = 256 << 10;
/// A repair that failed, for want of room perhaps, is tried again after this.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// What a damaged place contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Damaged frames only.
    Frames,
    /// Bytes that could not be read, intact frames perhaps among them.
    Region,
}

/// Progress of the present pass, and the damage not repaired yet.
#[derive(Debug)]
pub(in crate::worker) struct Scrubbing {
    /// When the next read is due, unless one is under way.
    due: Time,
    is_looking: bool,
    /// The log has been read in this pass; the checkpoints follow.
    is_at_checkpoints: bool,
    /// When this pass began.
    began: Time,
    /// Places that a read has found damaged.
    found: Vec<Place>,
    /// Groups with damaged entries, and when to try their repair again.
    hit: Vec<GroupSlot>,
    mend_at: Time,
    /// Groups whose entries could not be read to be applied, and when to try again. If they are lost, that will
    /// have been noticed; but a read may fail once, and then no other input need ever come.
    stuck: Vec<GroupSlot>,
    apply_at: Time,
}

impl Scrubbing {
    pub(in crate::worker) const fn begin_at(now: Time) -> Self {
        Self {
            due: now,
            is_looking: false,
            is_at_checkpoints: false,
            began: now,
            found: Vec::new(),
            hit: Vec::new(),
            mend_at: Time::NEVER,
            stuck: Vec::new(),
            apply_at: Time::NEVER,
        }
    }
}

impl Replica {
    /// Whether some of these entries are damaged.
    pub(in crate::worker) fn is_damaged_in(&self, first: Index, last: Index) -> bool {
        self.damage.as_deref().is_some_and(|damage| damage.first <= last && first <= damage.last)
    }
}

impl<D: Disk> Worker<D> {
    /// When the worker needs a turn for this.
    pub(in crate::worker) fn scrub_due(&self) -> Time {
        let is_off = self.settings.scrub_bytes_per_second == 0 || self.upkeep.scrubbing.is_looking;
        let due = if is_off { Time::NEVER } else { self.upkeep.scrubbing.due };
        let found = if self.upkeep.scrubbing.found.is_empty() { Time::NEVER } else { self.now };
        due.min(self.upkeep.scrubbing.mend_at).min(self.upkeep.scrubbing.apply_at).min(found)
    }

    /// Handles the damage that was found, and starts the next read when it is due.
    pub(in crate::worker) fn scrub(&mut self) {
        for place in self.lane.take_unreadable() {
            if !self.lane.is_known_damage(place) {
                self.upkeep.scrubbing.found.push(place);
            }
        }
        for place in std::mem::take(&mut self.upkeep.scrubbing.found) {
            self.on_damage(place, Extent::Region);
        }
        if self.upkeep.scrubbing.apply_at <= self.now {
            self.upkeep.scrubbing.apply_at = Time::NEVER;
            for slot in std::mem::take(&mut self.upkeep.scrubbing.stuck) {
                self.groups.note_to_apply(slot);
            }
        }
        if self.upkeep.scrubbing.mend_at <= self.now {
            for slot in self.upkeep.scrubbing.hit.clone() {
                self.mend(slot);
            }
            self.tally_damage();
        }
        let rate = self.settings.scrub_bytes_per_second;
        if rate == 0
            || self.upkeep.scrubbing.is_looking
            || self.now < self.upkeep.scrubbing.due
            || self.is_poisoned
        {
            return;
        }
        let token = self.transfers.expect(Work::Scrub);
        self.upkeep.scrubbing.is_looking = true;
        if self.upkeep.scrubbing.is_at_checkpoints || !self.lane.scrub(token, CHUNK_BYTES) {
            self.upkeep.scrubbing.is_at_checkpoints = true;
            self.lane.scrub_snapshots(token, CHUNK_BYTES);
        }
    }

    /// Sets the time of the next read by the rate.
    fn has_looked_at(&mut self, bytes: u64) {
        let nanos =
            u128::from(bytes) * 1_000_000_000 / u128::from(self.settings.scrub_bytes_per_second.max(1));
        self.upkeep.scrubbing.due = self.now + std::time::Duration::from_nanos(nanos as u64);
    }

    /// Some checkpoints were read. After the last one the next pass waits for its time.
    pub(in crate::worker) fn checkpoints_scrubbed(&mut self, seen: &SnapshotsChecked) {
        self.upkeep.scrubbing.is_looking = false;
        self.lane.on_snapshots_scrubbed(seen);
        self.has_looked_at(seen.bytes);
        if let Some(damaged) = &seen.damaged {
            self.renew_checkpoint(damaged);
        }
        if seen.is_pass_over {
            self.upkeep.scrubbing.is_at_checkpoints = false;
            let interval = self.settings.scrub_interval.max(RETRY);
            self.upkeep.scrubbing.due = (self.upkeep.scrubbing.began + interval).max(self.now + RETRY);
            self.upkeep.scrubbing.began = self.upkeep.scrubbing.due;
        }
    }

    /// A checkpoint is damaged. The state that it holds, or a later one, is in memory: it is written again.
    /// If that fails now, the next pass finds the damage again.
    fn renew_checkpoint(&mut self, damaged: &DamagedSnapshot) {
        let worker = self.settings.worker;
        let DamagedSnapshot { group, id, file, offset, what } = damaged;
        tracing::debug!(%id, file, "a checkpoint is damaged: {what}");
        let groups = vec![*group];
        self.report(Condition::Damaged { lane: worker, file: file.clone(), offset: *offset, groups });
        self.env.metrics.checkpoint_damaged();
        let Some(slot) = self.groups.slot_of(*group) else { return };
        let is_latest = |replica: &Replica| {
            !replica.checkpointing.is_saving()
                && replica.checkpointing.latest().is_some_and(|latest| latest.id == *id)
        };
        if self.groups.get(slot).is_some_and(is_latest) {
            self.checkpoint(slot);
        }
    }

    /// A read of a segment is done; `None`: the segment is gone, or could not be opened.
    pub(in crate::worker) fn scrubbed(&mut self, seen: Option<Scrubbed>) {
        self.upkeep.scrubbing.is_looking = false;
        let Some(seen) = seen else {
            self.upkeep.scrubbing.due = self.now + RETRY;
            return;
        };
        self.has_looked_at(seen.bytes);
        for place in self.lane.on_scrubbed(&seen) {
            self.on_damage(place, Extent::Frames);
        }
    }

    /// A read has met damage. It is handled in the next turn, which follows at once.
    pub(in crate::worker) fn found_damage(&mut self, place: Place) {
        if !self.upkeep.scrubbing.found.contains(&place) {
            self.upkeep.scrubbing.found.push(place);
        }
    }

    /// A group's entries could not be read to be applied.
    pub(in crate::worker) fn is_stuck_at(&mut self, slot: GroupSlot, place: Place) {
        self.found_damage(place);
        let scrubbing = &mut self.upkeep.scrubbing;
        if !scrubbing.stuck.contains(&slot) {
            scrubbing.stuck.push(slot);
        }
        scrubbing.apply_at = scrubbing.apply_at.min(self.now + RETRY);
    }

    /// Handles damage at a place of the log.
    fn on_damage(&mut self, place: Place, extent: Extent) {
        self.lane.damaged(place);
        let hits = match extent {
            Extent::Region => self.lane.unreadable_entries(place),
            Extent::Frames => self.lane.damaged_entries(place),
        };
        let groups: Vec<GroupId> = hits.iter().map(|hit| hit.group).collect();
        let error = self.lane.damage_at(place);
        if let raftwerk_wal::LogError::Damaged { file, offset, .. } = &error {
            let (lane, file) = (self.settings.worker, file.clone());
            self.report(Condition::Damaged { lane, file, offset: *offset, groups });
        }
        if !self.lane.tolerates_damage() {
            return self.poison(&error);
        }
        for hit in hits {
            self.hit(&hit, extent);
        }
        self.tally_damage();
    }

    fn hit(&mut self, hit: &DamagedEntries, extent: Extent) {
        if extent == Extent::Frames && self.lane.rewrite(hit.slot) {
            return;
        }
        let Some(replica) = self.groups.get_mut(hit.slot) else { return };
        let damage = replica
            .damage
            .get_or_insert_with(|| Box::new(Damage { first: hit.first, last: hit.last, bytes: 0 }));
        damage.first = damage.first.min(hit.first);
        damage.last = damage.last.max(hit.last);
        damage.bytes = damage.bytes.max(hit.bytes);
        if !self.upkeep.scrubbing.hit.contains(&hit.slot) {
            self.upkeep.scrubbing.hit.push(hit.slot);
        }
        self.mend(hit.slot);
    }

    /// Does what can be done now to repair a replica with damaged entries.
    pub(in crate::worker) fn mend(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let Some(damage) = replica.damage.as_deref().copied() else { return };
        let applied = replica.applied;
        if damage.first > applied {
            return self.lose_entries(slot, damage.first);
        }
        let checkpointed = match replica.checkpointing.latest() {
            _ if replica.machine.is_none() => applied, // it has none, and needs none
            Some(meta) => meta.id.index,
            None => Index(0),
        };
        if checkpointed < damage.last.min(applied) {
            if !replica.checkpointing.is_saving() {
                self.checkpoint(slot); // continued when it is written
            }
            return;
        }
        if replica.machine.is_none() {
            self.cut_log(slot)
        } else {
            self.compact(slot)
        }
        if damage.last > applied {
            return self.lose_entries(slot, applied.next());
        }
        let Some(replica) = self.groups.get_mut(slot) else { return };
        if replica.core.compacted().index >= damage.last {
            replica.damage = None;
            tracing::warn!(
                node = self.settings.node.0,
                group = replica.id.0,
                "a checkpoint has taken the place of damaged entries"
            );
        }
    }

    /// Entries that are not applied are lost, with all that follow them: the replica is rebuilt from what is
    /// left, fenced.
    fn lose_entries(&mut self, slot: GroupSlot, from: Index) {
        let Some(recovered) = self.lane.lose(slot, from) else { return };
        let Some(mut old) = self.groups.take(slot) else { return };
        self.renounce(&mut old);
        crate::worker::replication::witness::uncount(&self.env.metrics, &old);
        let hint = None;
        self.calls.clients().refuse_queued(&mut old, &ProposeError::NotLeader { hint });
        self.calls.clients().abandon(&mut old, Index(0));
        crate::worker::calls::membership::abandon_change(&mut old);
        refuse_reads(&mut old, self.calls.clients(), &ReadError::NotLeader { hint });
        self.transfers.forget(old.id);
        self.env.metrics.fenced();
        let kind = if old.machine.is_none() { ReplicaKind::Witness } else { ReplicaKind::Full };
        let Replica { machine, quarantine, checkpointing, applied, .. } = *old;
        if let Err(error) = self.restore_replica(slot, recovered, applied, kind, machine, checkpointing) {
            return self.poison(&error);
        }
        if let Some(replica) = self.groups.get_mut(slot) {
            if quarantine.is_some() {
                replica.core.set_priority(0);
            }
            replica.quarantine = quarantine;
        }
    }

    fn tally_damage(&mut self) {
        let damage =
            |slot: &GroupSlot| self.groups.get(*slot).and_then(|replica| replica.damage.as_deref().copied());
        self.upkeep.scrubbing.hit.retain(|slot| damage(slot).is_some());
        self.env
            .metrics
            .at_risk(self.upkeep.scrubbing.hit.iter().filter_map(damage).map(|damage| damage.bytes).sum());
        self.upkeep.scrubbing.mend_at =
            if self.upkeep.scrubbing.hit.is_empty() { Time::NEVER } else { self.now + RETRY };
    }
}
