//! Callers of relaxed proposals: they get receipts, and what was received must be kept, whichever process dies.
//!
//! | rule | what |
//! |---|---|
//! | `written is written` | what a follower acknowledges as written, its process can no longer lose |
//! | `a receipt is kept` | what was received is applied, at its index, unless a machine's power was cut before it was committed, or its device forgot what it was to sync |
//!
//! Such proposals are of the kind that no client reads, so they are no part of any history. What is not here: the record
//! (`ledger`), and receivers of receipts (`receivers`).

use raftwerk::drive;
use raftwerk_frame::Message;
use raftwerk_frame::frame::FrameKind;
use raftwerk_frame::wire::{UnitHeader, records};
use raftwerk_wal::AppendJob;
use raftwerk_wal::simulated::MemoryFile;
use rustc_hash::FxHashMap;

use super::{World, group_id};
use crate::disk::{SimDisk, held};
use crate::watch::{Checked, Violation};

/// Up to which entry the files of a node have, or had, a group's log, by the group's number; whatever of it is durable. What was
/// replaced since may still be reported to the leader that sent it.
pub(super) type Reach = FxHashMap<u64, u64>;

/// A batch is in its file.
pub(super) fn note_written(reach: &mut Reach, job: &AppendJob<MemoryFile>) {
    job.frames(|header, _| {
        let last = match header.kind {
            FrameKind::Entries | FrameKind::Withheld => header.last_index().0,
            FrameKind::Snapshot => header.index.0,
            _ => return,
        };
        let known = reach.entry(header.group.0).or_default();
        *known = last.max(*known);
    });
}

/// How long what was written without a sync may take to be synced and committed, once the faults are over.
const TO_SYNC: u64 = 5_000_000_000;

impl World<'_> {
    /// A node has opened: what it found is in its files.
    pub(super) fn note_found(&mut self, at: usize, body: &drive::Node<SimDisk>) {
        if self.plan.relaxed > 0 {
            let views = (0..body.lanes()).flat_map(|worker| body.replicas(worker));
            self.written[at] = views.map(|view| (view.group.0, view.core.last().index.0)).collect();
        }
    }

    /// A message leaves: it names nothing that is still in the process's own memory.
    pub(super) fn check_written(&self, from: usize, unit: &[u8]) -> Checked {
        if self.plan.relaxed == 0 {
            return Ok(());
        }
        let Ok((_, heads, _)) = UnitHeader::parse(unit) else { return Ok(()) };
        for record in records(heads).flatten() {
            let Message::AppendWritten { matched, .. } = record.message else { continue };
            let reach = self.written[from].get(&record.group.0).copied().unwrap_or_default();
            if matched.0 > reach {
                let what =
                    format!("n{} {}: says that {matched} is written, and {reach} is", from + 1, record.group);
                return Err(Violation::new("written is written", what));
            }
        }
        Ok(())
    }

    /// A client makes a relaxed proposal at the node that it takes for a group's leader.
    pub(super) fn propose_relaxed(&mut self, group: usize, node: usize) {
        if self.plan.relaxed == 0 || self.chances.clients.below(self.plan.relaxed) > 0 {
            return;
        }
        if !self.nodes[node].is_reachable() {
            return;
        }
        let count = 1 + self.chances.clients.below(3);
        self.propose_besides(group, node, count, true);
    }

    /// How many answers of a node are awaited, besides those of clients.
    pub(super) fn awaited_at(&self, node: usize) -> usize {
        self.nodes[node].receivers.len()
    }

    /// A node dies with its callers. `forgets`: its machine, or its device, loses what was not synced.
    pub(super) fn lose_received(&mut self, node: usize, forgets: bool) {
        self.nodes[node].receivers.clear();
        if !forgets || self.plan.relaxed == 0 {
            return;
        }
        for group in (0..self.plan.groups).map(group_id) {
            let views = self
                .nodes
                .iter()
                .filter_map(|node| node.body.as_ref())
                .filter_map(|body| body.replicas(body.worker_of(group)).find(|view| view.group == group));
            let last = views.map(|view| view.core.last().index.0).max().unwrap_or_default();
            held(&self.ledger).excuse(group, self.watch.committed(group), last);
        }
    }

    /// Everything that was received is applied, or will be when it is synced.
    pub(super) fn judge_receipts(&mut self) -> Checked {
        let all_kept = |world: &mut Self| {
            (0..world.plan.groups).all(|group| held(&world.ledger).keeps_receipts(group_id(group)).is_ok())
        };
        self.run_until(self.now + TO_SYNC, all_kept)?;
        for group in (0..self.plan.groups).map(group_id) {
            held(&self.ledger)
                .keeps_receipts(group)
                .map_err(|what| Violation::new("a receipt is kept", what))?;
        }
        Ok(())
    }
}
