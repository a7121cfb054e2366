//! Quarantine: a panic of a group's state machine costs that replica its machine, and its worker goes on with
//! all others.
//!
//! A replica in quarantine keeps its log and its hard state, which are the protocol's and not the machine's:
//! it votes and acknowledges. It may go on leading until another voter takes over, so that its group makes
//! progress where the other machines do. It applies nothing. Since its log cannot be compacted any more, it
//! takes no entries beyond a bound: then it falls behind, and its leader sends it a snapshot, which ends the
//! quarantine. [`Worker::revive_replica`] makes a new machine from what is here. While that one catches up
//! with what the old one had applied, reads are refused: no reader is to see an older state than before.
//!
//! The machine's other methods are guarded, too: a panic in a query fails that read, one in a checkpoint
//! cancels it.
//!
//! Not here: what an embedder sees of it ([`crate::api::status`]).

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use raftwerk_frame::{GroupId, Index, NodeId, Time};
use raftwerk_raft::{Group, Input};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta};

use crate::api::error::{ProposeError, ReadError, ReviveError};
use crate::api::state_machine::StateMachine;
use crate::api::status::Quarantine;
use crate::node::events::Condition;
use crate::worker::Worker;
use crate::worker::calls::reads::refuse_reads;
use crate::worker::groups::machines::{Broken, as_machine, give_up, new_machine};
use crate::worker::groups::replica::Replica;
use crate::worker::storage::background::{Revived, Work};

/// A leader in quarantine repeats its leadership transfer at intervals of at most this many election
/// timeouts.
const HAND_OVER_EVERY_MAX: u32 = 64;
/// Leaders in quarantine, and when each tries its next leadership transfer.
#[derive(Default)]
pub(in crate::worker) struct Quarantined {
    leads: Vec<Lead>,
}

struct Lead {
    slot: GroupSlot,
    group: GroupId,
    due: Time,
    every: Duration,
}

impl Quarantined {
    pub(in crate::worker) fn next_deadline(&self) -> Time {
        self.leads.iter().map(|lead| lead.due).min().unwrap_or(Time::NEVER)
    }
}

impl Replica {
    /// Whether its machine must not be used. False for a witness, which has no machine.
    pub(in crate::worker) const fn is_quarantined(&self) -> bool {
        self.quarantine.is_some()
    }
}

impl<D: Disk> Worker<D> {
    /// Puts a replica in quarantine: its machine has panicked.
    pub(in crate::worker) fn quarantine(&mut self, slot: GroupSlot, what: String) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let group = replica.id;
        self.env.dispatch.events().report(self.now, Condition::Quarantined { group, what: what.clone() });
        give_up(replica.machine.replace(Box::new(Broken)));
        // A machine that was still replaying has applied less than the one before it.
        let seen = replica.quarantine.as_ref().map_or(replica.applied, |before| before.applied);
        let applied = seen.max(replica.applied);
        replica.quarantine = Some(Box::new(Quarantine { applied, what, is_replaying: false }));
        replica.reads.forget_age();
        replica.checkpointing.restart_count();
        replica.core.set_priority(0);
        self.calls.clients().refuse_queued(replica, &ProposeError::Quarantined(group));
        self.calls.clients().abandon(replica, Index(0));
        refuse_reads(replica, self.calls.clients(), &ReadError::Quarantined(group));
        self.hand_over_lead(slot);
        self.tally_quarantined();
    }

    /// Counts the replicas in quarantine again, after some may have come or gone.
    pub(in crate::worker) fn tally_quarantined(&self) {
        let count = self.groups.iter().filter(|replica| replica.is_quarantined()).count();
        self.env.metrics.quarantined(count as u64);
    }

    /// Whether a replica in quarantine must take no more entries: its log cannot be compacted. One with a new
    /// machine takes them, since it may need them to catch up: what its log had of them may be lost.
    pub(in crate::worker) fn is_log_of_quarantine_full(&self, slot: GroupSlot) -> bool {
        let quarantine = self.groups.get(slot).and_then(|replica| replica.quarantine.as_deref());
        quarantine.is_some_and(|quarantine| !quarantine.is_replaying)
            && self.lane.live_bytes(slot) >= self.settings.checkpoint_log_bytes.saturating_mul(4)
    }

    /// Has the replica transfer its leadership as soon as another voter can take it; at once, if it leads.
    pub(in crate::worker) fn hand_over_lead(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get(slot) else { return };
        if !self.groups.quarantined.leads.iter().any(|lead| lead.slot == slot && lead.group == replica.id) {
            let every = self.settings.election_timeout;
            self.groups.quarantined.leads.push(Lead { slot, group: replica.id, due: self.now, every });
        }
    }

    /// Leaders in quarantine transfer their leadership, and try again at growing intervals while it fails, or
    /// returns to them.
    pub(in crate::worker) fn tick_quarantined(&mut self) {
        if self.groups.quarantined.next_deadline() > self.now {
            return;
        }
        let every_max = self.settings.election_timeout * HAND_OVER_EVERY_MAX;
        let mut leads = std::mem::take(&mut self.groups.quarantined.leads);
        leads.retain_mut(|lead| {
            let replica = self.groups.get(lead.slot);
            let Some(replica) =
                replica.filter(|replica| replica.id == lead.group && replica.is_quarantined())
            else {
                return false;
            };
            if lead.due <= self.now {
                let successor = successor_of(&replica.core);
                (lead.due, lead.every) = (self.now + lead.every, (lead.every * 2).min(every_max));
                if let Some(to) = successor {
                    self.step(lead.slot, Input::Transfer { to });
                }
            }
            true
        });
        self.groups.quarantined.leads = leads;
    }

    /// An operator requests a new machine for a replica in quarantine. Answered when that is made; it has yet
    /// to catch up then.
    pub(in crate::worker) fn revive_replica(&mut self, group: GroupId, reply: Revived) {
        let refused = match self.groups.find_mut(group) {
            None => ReviveError::NoSuchGroup,
            Some(replica) => match (&replica.quarantine, replica.checkpointing.latest()) {
                (Some(quarantine), _) if quarantine.is_replaying => ReviveError::None,
                (None, _) => ReviveError::None,
                (Some(_), Some(_)) => {
                    let work = Work::Revive { slot: replica.slot, group, reply };
                    let token = self.transfers.expect(work);
                    return self.restore_in_background(token, group);
                }
                (Some(_), None) => {
                    let (slot, machines) = (replica.slot, Arc::clone(&self.env.machines));
                    let made = new_machine(&*machines, group);
                    return self.replay(slot, made.map(|machine| (Index(0), machine)), reply);
                }
            },
        };
        let _caller_gone = reply.send(Err(refused));
    }

    /// The checkpoint has been restored into a new machine.
    pub(in crate::worker) fn revived(
        &mut self,
        (slot, group): (GroupSlot, GroupId),
        loaded: Result<(SnapshotMeta, Box<dyn Any + Send>), String>,
        reply: Revived,
    ) {
        if !self.groups.holds(slot, group) {
            let _caller_gone = reply.send(Err(ReviveError::NoSuchGroup));
            return;
        }
        self.replay(slot, loaded.map(|(meta, machine)| (meta.id.index, as_machine(machine))), reply);
    }

    fn replay(
        &mut self,
        slot: GroupSlot,
        made: Result<(Index, Box<dyn StateMachine>), String>,
        reply: Revived,
    ) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let answer = match (made, &mut replica.quarantine) {
            (Err(what), _) => Err(ReviveError::Machine(what)),
            (Ok((from, machine)), Some(quarantine))
                if !quarantine.is_replaying
                    && from >= replica.core.compacted().index
                    && from <= replica.core.commit() =>
            {
                quarantine.is_replaying = true;
                (replica.machine, replica.applied) = (Some(machine), from);
                self.groups.note_to_apply(slot);
                Ok(())
            }
            // A snapshot, or another revive command, came first.
            (Ok((_, unused)), _) => {
                give_up(unused);
                Err(ReviveError::None)
            }
        };
        let _caller_gone = reply.send(answer);
        self.maybe_end_quarantine(slot);
    }

    /// Ends the quarantine once the new machine has applied what the old one had.
    pub(in crate::worker) fn maybe_end_quarantine(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        let has_caught_up =
            |quarantine: &Quarantine| quarantine.is_replaying && replica.applied >= quarantine.applied;
        if replica.quarantine.as_deref().is_some_and(has_caught_up) {
            self.end_quarantine(slot);
        }
    }

    /// Ends a quarantine: the replica has a state again.
    pub(in crate::worker) fn end_quarantine(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        if replica.quarantine.take().is_none() {
            return;
        }
        self.env
            .dispatch
            .events()
            .resolve(&Condition::Quarantined { group: replica.id, what: String::new() });
        replica.core.set_priority(self.settings.priority);
        self.groups.rearm(slot);
        self.tally_quarantined();
    }
}

/// The voter, witnesses excepted, that has most of the leader's log.
fn successor_of(core: &Group) -> Option<NodeId> {
    let is_voter = |node: &NodeId| core.configuration().is_voter(*node) && !core.has_for_witness(*node);
    let voters = if core.is_leader() { Some(core.peers()) } else { None };
    voters
        .into_iter()
        .flatten()
        .filter(is_voter)
        .max_by_key(|node| core.progress(*node).map(|peer| peer.matched))
}
