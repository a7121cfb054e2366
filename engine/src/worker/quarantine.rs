//! A panic of a group's state machine is that replica's: the machine is given up, the replica is put into quarantine, and its
//! worker goes on with all others.
//!
//! A replica in quarantine keeps its log and its promises, which are the protocol's and not the machine's: it votes, acknowledges
//! and, for as long as nobody else is found, leads, so that its group goes on where the others' machines do. It applies nothing.
//! Since its log cannot be compacted any more, it takes in no entries beyond a bound: then it falls behind, and its leader sends
//! it a snapshot, which ends the quarantine. [`Worker::revive`] makes a new machine from what is here. While that one catches up
//! with what the old one had seen, readers are refused: nobody is to see an older state than before.
//!
//! What a machine does elsewhere is guarded, too: a panic in a query is that reader's, one in a checkpoint makes none.
//!
//! What is not here: what an embedder is told ([`crate::quarantine`]).

use std::any::Any;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index, NodeId, Time};
use raftwerk_raft::{Group, Input};
use raftwerk_wal::{Disk, GroupSlot, SnapshotMeta};
use tokio::sync::oneshot;

use super::Worker;
use super::reads::refuse_reads;
use super::replica::Replica;
use super::snapshots::{Work, as_machine};
use crate::error::{ProposeError, ReadError};
use crate::events::Ill;
use crate::quarantine::{Quarantine, ReviveError};
use crate::state_machine::{Checkpoint, Committed, Replies, StateMachine, StateMachines};

/// A leader in quarantine tries to hand over once in so many election timeouts at the most.
const HAND_OVER_EVERY_MAX: u32 = 64;
/// The most of a panic's message that is kept.
const WHAT_CHARS_MAX: usize = 300;

/// Who waits for a replica to be revived.
pub(super) type Revived = oneshot::Sender<Result<(), ReviveError>>;

/// Runs what an embedder wrote; a panic is an error that says what the panic said.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let said = said.unwrap_or("a panic without words").chars().take(WHAT_CHARS_MAX).collect();
        give_up(panic);
        said
    })
}

/// Drops what a panic may have left in pieces: a panic on the way is one too many.
pub(crate) fn give_up<T>(broken: T) {
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(broken)));
    // What cannot even be dropped is left where it is.
    std::mem::forget(dropped);
}

/// An image that is written elsewhere: a panic there is an error of the file.
pub(super) fn guarded_image(image: Checkpoint) -> Checkpoint {
    Box::new(move |out| guarded(|| image(out)).unwrap_or_else(|what| Err(io::Error::other(what))))
}

/// A new machine of a group.
pub(super) fn new_machine(
    machines: &dyn StateMachines,
    group: GroupId,
) -> Result<Box<dyn StateMachine>, String> {
    guarded(|| machines.create(group))
}

/// A machine that was wanted, with one that stands for it where none could be made, and why.
pub(super) fn split(
    made: Option<Result<Box<dyn StateMachine>, String>>,
) -> (Option<Box<dyn StateMachine>>, Option<String>) {
    match made {
        None => (None, None),
        Some(Ok(machine)) => (Some(machine), None),
        Some(Err(what)) => (Some(Box::new(Broken)), Some(what)),
    }
}

/// Stands where a machine was. Nobody calls it: a replica in quarantine applies nothing and answers nothing.
struct Broken;

impl StateMachine for Broken {
    fn apply(&mut self, _: Committed<'_>, _: &mut Replies) {}

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn checkpoint(&self) -> Checkpoint {
        Box::new(|_| Err(io::Error::other("the machine is broken")))
    }

    fn restore(&mut self, _: &mut dyn Read) -> io::Result<()> {
        Err(io::Error::other("the machine is broken"))
    }
}

/// Leaders in quarantine, and when they try next to be none.
#[derive(Default)]
pub(super) struct Quarantined {
    leads: Vec<Lead>,
}

struct Lead {
    slot: GroupSlot,
    group: GroupId,
    due: Time,
    every: Duration,
}

impl Quarantined {
    pub(super) fn next_deadline(&self) -> Time {
        self.leads.iter().map(|lead| lead.due).min().unwrap_or(Time::NEVER)
    }
}

impl Replica {
    /// Whether it has a machine that may be asked. A witness has none, and is not meant.
    pub(super) const fn is_quarantined(&self) -> bool {
        self.quarantine.is_some()
    }
}

impl<D: Disk> Worker<D> {
    /// The machine of a replica has panicked.
    pub(super) fn quarantine(&mut self, slot: GroupSlot, what: String) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        let group = replica.id;
        self.dispatch.events().tell(self.now, Ill::Quarantined { group, what: what.clone() });
        give_up(replica.machine.replace(Box::new(Broken)));
        // One that was on its way back has seen less than the one before it.
        let seen = replica.quarantine.as_ref().map_or(replica.applied, |before| before.applied);
        let applied = seen.max(replica.applied);
        replica.quarantine = Some(Box::new(Quarantine { applied, what, is_replaying: false }));
        (replica.reflects, replica.bytes_since_checkpoint) = (None, 0);
        replica.core.set_priority(0);
        self.clients.refuse_staged(replica, &ProposeError::Quarantined(group));
        self.clients.abandon(replica, Index(0));
        refuse_reads(replica, &mut self.clients, &ReadError::Quarantined(group));
        self.hand_over_lead(slot);
        self.tally_quarantined();
    }

    /// Counts them, where some may have come or gone.
    pub(super) fn tally_quarantined(&self) {
        let count = self.replicas.iter().flatten().filter(|replica| replica.is_quarantined()).count();
        self.metrics.quarantined(count as u64);
    }

    /// Whether a replica in quarantine is to take in no more entries: its log cannot be made shorter.
    pub(super) fn is_log_of_quarantine_full(&self, slot: GroupSlot) -> bool {
        let replica = self.replicas[slot.0 as usize].as_ref();
        replica.is_some_and(|replica| replica.is_quarantined())
            && self.lane.live_bytes(slot) >= self.settings.checkpoint_log_bytes.saturating_mul(4)
    }

    /// Has it hand its lead over as soon as somebody can take it; now, if it leads.
    pub(super) fn hand_over_lead(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        if !self.quarantined.leads.iter().any(|lead| lead.slot == slot && lead.group == replica.id) {
            let every = self.settings.election_timeout;
            self.quarantined.leads.push(Lead { slot, group: replica.id, due: self.now, every });
        }
    }

    /// Leaders in quarantine hand over, and try again later and later where nobody takes the lead, or it comes back.
    pub(super) fn tick_quarantined(&mut self) {
        if self.quarantined.next_deadline() > self.now {
            return;
        }
        let every_max = self.settings.election_timeout * HAND_OVER_EVERY_MAX;
        let mut leads = std::mem::take(&mut self.quarantined.leads);
        leads.retain_mut(|lead| {
            let replica = self.replicas.get(lead.slot.0 as usize).and_then(Option::as_ref);
            let Some(replica) =
                replica.filter(|replica| replica.id == lead.group && replica.is_quarantined())
            else {
                return false;
            };
            if lead.due <= self.now {
                let heir = heir_of(&replica.core);
                (lead.due, lead.every) = (self.now + lead.every, (lead.every * 2).min(every_max));
                if let Some(to) = heir {
                    self.step(lead.slot, Input::Transfer { to });
                }
            }
            true
        });
        self.quarantined.leads = leads;
    }

    /// An operator wants a new machine for a replica in quarantine. Answered when it is made; it has yet to catch up then.
    pub(super) fn revive_replica(&mut self, group: GroupId, reply: Revived) {
        let refused = match self.slot_of(group).and_then(|slot| self.replicas[slot.0 as usize].as_mut()) {
            None => ReviveError::NoSuchGroup,
            Some(replica) => match (&replica.quarantine, &replica.checkpoint) {
                (Some(quarantine), _) if quarantine.is_replaying => ReviveError::None,
                (None, _) => ReviveError::None,
                (Some(_), Some(_)) => {
                    let work = Work::Revive { slot: replica.slot, group, reply };
                    let token = self.transfers.expect(work);
                    return self.restore_in_background(token, group);
                }
                (Some(_), None) => {
                    let (slot, machines) = (replica.slot, Arc::clone(&self.machines));
                    let made = new_machine(&*machines, group);
                    return self.replay(slot, made.map(|machine| (Index(0), machine)), reply);
                }
            },
        };
        let _caller_gone = reply.send(Err(refused));
    }

    /// The checkpoint is in a new machine.
    pub(super) fn revived(
        &mut self,
        (slot, group): (GroupSlot, GroupId),
        loaded: Result<(SnapshotMeta, Box<dyn Any + Send>), String>,
        reply: Revived,
    ) {
        if !self.holds(slot, group) {
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
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        let answer = match (made, &mut replica.quarantine) {
            (Err(what), _) => Err(ReviveError::Machine(what)),
            (Ok((from, machine)), Some(quarantine))
                if !quarantine.is_replaying
                    && from >= replica.core.compacted().index
                    && from <= replica.core.commit() =>
            {
                quarantine.is_replaying = true;
                (replica.machine, replica.applied) = (Some(machine), from);
                if !std::mem::replace(&mut replica.is_to_apply, true) {
                    self.to_apply.push(slot);
                }
                Ok(())
            }
            // A snapshot, or somebody else's order, came first.
            (Ok((_, unused)), _) => {
                give_up(unused);
                Err(ReviveError::None)
            }
        };
        let _caller_gone = reply.send(answer);
        self.maybe_end_quarantine(slot);
    }

    /// The new machine has seen what the old one had.
    pub(super) fn maybe_end_quarantine(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        let has_caught_up =
            |quarantine: &Quarantine| quarantine.is_replaying && replica.applied >= quarantine.applied;
        if replica.quarantine.as_deref().is_some_and(has_caught_up) {
            self.end_quarantine(slot);
        }
    }

    /// It has a state again.
    pub(super) fn end_quarantine(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        if replica.quarantine.take().is_none() {
            return;
        }
        self.dispatch.events().is_over(&Ill::Quarantined { group: replica.id, what: String::new() });
        replica.core.set_priority(self.settings.priority);
        replica.timer_at = Time::NEVER;
        Self::arm(&mut self.timers, replica);
        self.tally_quarantined();
    }
}

/// The voter with a state that has the most of the leader's log.
fn heir_of(core: &Group) -> Option<NodeId> {
    let is_voter = |node: &NodeId| core.configuration().is_voter(*node) && !core.has_for_witness(*node);
    let voters = if core.is_leader() { Some(core.peers()) } else { None };
    voters
        .into_iter()
        .flatten()
        .filter(is_voter)
        .max_by_key(|node| core.progress(*node).map(|peer| peer.matched))
}
