//! One group's proposals: queued until the end of the turn, then appended until their entries are applied.
//!
//! Not here: the clients that wait for them ([`super::clients`]).

use std::collections::VecDeque;

use raftwerk_frame::{EntryId, Index};

use crate::worker::calls::waiters::{Pending, QueuedProposal, RelaxedWrites};

/// The proposals of one group.
#[derive(Default)]
pub(in crate::worker) struct Proposals {
    /// Payloads of this turn, in order.
    queued: Vec<QueuedProposal>,
    /// Their bytes, with framing.
    queued_bytes: u64,
    /// Proposals appended in this leadership, in order of their indices.
    pending: VecDeque<Pending>,
    /// The relaxed proposals, while there are any that are not committed.
    relaxed: Option<Box<RelaxedWrites>>,
}

impl Proposals {
    /// How many wait for their outcome or receipt.
    pub(in crate::worker) fn len(&self) -> usize {
        let relaxed = self.relaxed.as_ref().map_or(0, |relaxed| relaxed.pending.len());
        self.queued.len() + self.pending.len() + relaxed
    }

    /// Queues a payload until the end of the turn. `bytes`: of it and its framing.
    pub(super) fn queue(&mut self, proposal: QueuedProposal, bytes: u64) {
        self.queued.push(proposal);
        self.queued_bytes += bytes;
    }

    /// The number of queued payloads.
    pub(in crate::worker) const fn queued(&self) -> usize {
        self.queued.len()
    }

    pub(in crate::worker) const fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Takes the queued payloads.
    pub(in crate::worker) fn take_queued(&mut self) -> Vec<QueuedProposal> {
        self.queued_bytes = 0;
        std::mem::take(&mut self.queued)
    }

    /// Queues payloads again that were not framed, so that their clients can be answered; or returns the
    /// memory of the list.
    pub(in crate::worker) fn put_back(&mut self, queued: Vec<QueuedProposal>) {
        self.queued = queued;
    }

    /// A proposal is appended. Invariant: its index is greater than that of all before.
    pub(in crate::worker) fn push(&mut self, pending: Pending) {
        if pending.waiter.is_relaxed() {
            self.relaxed.get_or_insert_default().pending.push_back(pending);
        } else {
            self.pending.push_back(pending);
        }
    }

    /// How many are appended and wait for their outcome, relaxed ones excepted.
    pub(in crate::worker) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes the first appended proposal, relaxed ones excepted, if its index is at most `last`.
    pub(in crate::worker) fn next_up_to(&mut self, last: Index) -> Option<Pending> {
        self.pending.pop_front_if(|pending| pending.id.index <= last)
    }

    /// Takes the appended proposals from the first one on that has no certain outcome.
    pub(super) fn take_uncertain(&mut self, is_certain: impl Fn(EntryId) -> bool) -> VecDeque<Pending> {
        let kept = self.pending.partition_point(|pending| is_certain(pending.id));
        self.pending.split_off(kept)
    }

    pub(in crate::worker) fn relaxed(&mut self) -> Option<&mut RelaxedWrites> {
        self.relaxed.as_deref_mut()
    }

    pub(in crate::worker) const fn has_relaxed(&self) -> bool {
        self.relaxed.is_some()
    }

    /// Takes the relaxed proposals that wait for their receipts.
    pub(in crate::worker) fn take_relaxed(&mut self) -> VecDeque<Pending> {
        self.relaxed.take().map_or_else(VecDeque::new, |relaxed| relaxed.pending)
    }
}
