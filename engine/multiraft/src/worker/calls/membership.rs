//! Membership changes and leadership transfers: requests go into the core, its membership events to the
//! waiting clients.

use raftwerk_frame::{GroupId, Index, LogId, Membership, NodeId};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Group, Input, Recipient, Reconfigure, Reconfigured, Transfer};
use raftwerk_wal::Disk;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::api::error::{ReconfigureError, TransferError};
use crate::api::membership::reconfiguration::Reconfiguration;
use crate::worker::Worker;
use crate::worker::calls::clients::Clients;
use crate::worker::calls::waiters::PendingChange;
use crate::worker::groups::replica::Replica;
use crate::worker::replication::outbox::Outboxes;

impl<D: Disk> Worker<D> {
    /// A client requests a membership change. At most one waits for its end; the core refuses a second.
    pub(in crate::worker) fn reconfigure(
        &mut self,
        group: GroupId,
        wish: &Reconfiguration,
        reply: oneshot::Sender<Result<Membership, ReconfigureError>>,
    ) {
        let refused = match self.groups.slot_of(group) {
            _ if self.is_poisoned => ReconfigureError::Poisoned,
            // A node with a full disk may still remove members.
            _ if self.upkeep.is_full() && brings_anyone_in(&wish.changes) => ReconfigureError::StorageFull,
            None => ReconfigureError::NoSuchGroup,
            Some(slot) => {
                let Some(replica) = self.groups.get_mut(slot) else { return };
                let logs = match logs_of(&replica.core, &self.outboxes, &wish.changes) {
                    Ok(logs) => logs,
                    Err(refused) => {
                        if let ReconfigureError::UnknownPeer(node) = refused {
                            self.outboxes.announce(node, LogId(0));
                        }
                        let _caller_gone = reply.send(Err(refused));
                        return;
                    }
                };
                let Reconfiguration { changes, expected_index, transition, admission, dry_run } = wish;
                let wish = Reconfigure {
                    changes,
                    logs: &logs,
                    expected_index: *expected_index,
                    transition: *transition,
                    admission: *admission,
                    dry_run: *dry_run,
                };
                self.effects.clear();
                replica.core.step(self.now, Input::Reconfigure(wish), &mut self.effects);
                answer_reconfigure(replica, self.effects.reconfigured.take(), reply);
                return self.perform(slot);
            }
        };
        let _caller_gone = reply.send(Err(refused));
    }

    /// A client requests a leadership transfer.
    pub(in crate::worker) fn transfer(
        &mut self,
        group: GroupId,
        to: NodeId,
        reply: oneshot::Sender<Result<(), TransferError>>,
    ) {
        let slot = self.groups.slot_of(group).filter(|_| !self.is_poisoned);
        let Some((slot, replica)) = slot.and_then(|slot| Some((slot, self.groups.get_mut(slot)?))) else {
            let _caller_gone = reply.send(Err(TransferError::NoSuchGroup));
            return;
        };
        self.effects.clear();
        replica.core.step(self.now, Input::Transfer { to }, &mut self.effects);
        match self.effects.transfer.take() {
            Some(Transfer::Refused(refusal)) => drop(reply.send(Err(TransferError::Refused(refusal)))),
            // A transfer has no other immediate answer; and the core refuses a second.
            Some(Transfer::Abandoned(_)) | None => replica.changes.transfer = Some(reply),
        }
        self.perform(slot);
    }
}

fn brings_anyone_in(changes: &[Change]) -> bool {
    changes.iter().any(|change| !matches!(change, Change::Remove(_)))
}

/// The logs of the nodes that a request adds: the latest ones received from them. A member keeps the log that
/// it was added with, or that was first received from it; if it has another log by now, it must be removed
/// first.
fn logs_of(
    core: &Group,
    outboxes: &Outboxes,
    changes: &[Change],
) -> Result<SmallVec<[(NodeId, LogId); 2]>, ReconfigureError> {
    let mut logs = SmallVec::new();
    let added = changes.iter().filter(|change| !matches!(change, Change::Remove(_)));
    for node in added.map(|change| change.node()).filter(|node| core.is_leader() && *node != NodeId(0)) {
        // An unreachable node may come back with another log.
        let latest = outboxes.latest_of(node).filter(|_| outboxes.is_here(node));
        let expected = match core.recipient_of(node) {
            _ if !core.configuration().contains(node) => None,
            Recipient::Named(log) => Some(log),
            Recipient::InitialMember | Recipient::Anyone => outboxes.first_of(node).or(latest),
        };
        match (expected, latest) {
            (None, None) => return Err(ReconfigureError::UnknownPeer(node)),
            (None, Some(log)) => logs.push((node, log)),
            (Some(expected), Some(latest)) if expected != latest => {
                return Err(ReconfigureError::OtherLog(node));
            }
            (Some(_), _) => {}
        }
    }
    Ok(logs)
}

fn answer_reconfigure(
    replica: &mut Replica,
    outcome: Option<Reconfigured>,
    reply: oneshot::Sender<Result<Membership, ReconfigureError>>,
) {
    let core = &replica.core;
    let (index, now) = (core.configuration_index(), core.configuration().clone());
    let answer = match outcome {
        Some(Reconfigured::Started(index)) => {
            replica.changes.change = Some(PendingChange { index: Some(index), reply });
            return;
        }
        Some(Reconfigured::Admitting) => {
            replica.changes.change = Some(PendingChange { index: None, reply });
            return;
        }
        Some(Reconfigured::Unchanged(index)) => {
            // An earlier request that waited for new members ends: none is being added any more.
            abandon_change(replica);
            Ok(Membership { index, configuration: now })
        }
        Some(Reconfigured::Planned(configuration)) => Ok(Membership { index, configuration }),
        Some(Reconfigured::Refused(refusal) | Reconfigured::Abandoned(refusal)) => {
            Err(ReconfigureError::Refused(refusal))
        }
        None => Err(ReconfigureError::Unknown),
    };
    let _caller_gone = reply.send(answer);
}

/// This node will not learn the outcome of a membership change; and if the replica leads no longer, a
/// transfer has succeeded.
pub(in crate::worker) fn abandon_change(replica: &mut Replica) {
    if let Some(change) = replica.changes.change.take() {
        let _caller_gone = change.reply.send(Err(ReconfigureError::Unknown));
    }
    if !replica.core.is_leader()
        && let Some(reply) = replica.changes.transfer.take()
    {
        let _caller_gone = reply.send(Ok(()));
    }
}

impl Clients {
    /// Answers the clients of the membership changes and transfers that a step has decided.
    pub(in crate::worker) fn answer_changes(
        &self,
        replica: &mut Replica,
        reconfigured: Option<Reconfigured>,
        settled: Option<Index>,
        transfer: Option<Transfer>,
    ) {
        match reconfigured {
            Some(Reconfigured::Started(index)) => {
                if let Some(change) = &mut replica.changes.change {
                    change.index = Some(index);
                }
            }
            Some(Reconfigured::Abandoned(refusal)) => {
                if let Some(change) = replica.changes.change.take() {
                    let _caller_gone = change.reply.send(Err(ReconfigureError::Refused(refusal)));
                }
            }
            // Immediate answers were taken where the request was made.
            _ => {}
        }
        if let Some(settled) = settled
            && let Some(change) =
                replica.changes.change.take_if(|change| change.index.is_some_and(|index| index <= settled))
            && let Some((index, configuration)) = replica.core.configuration_up_to(settled)
        {
            let configuration = configuration.clone();
            let _caller_gone = change.reply.send(Ok(Membership { index, configuration }));
        }
        if let Some(Transfer::Abandoned(to)) = transfer
            && let Some(reply) = replica.changes.transfer.take()
        {
            let _caller_gone = reply.send(Err(TransferError::Abandoned(to)));
        }
    }
}
