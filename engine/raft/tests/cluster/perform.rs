//! The driver's half of the contract: carries out effects in the order that the crate's documentation
//! prescribes.

use raftwerk_frame::{Configuration, EntryId, Index, LogId, Message, NodeId};
use raftwerk_raft::{Append, AppendPlan, Effects, Input, MessageKind, Recipient};

use super::disk::{Checkpoint, Entry, MEMBERSHIPS, WITHHELD, Write};
use super::{Body, Cluster, ENTRY_BYTES, Packet};

impl Cluster {
    /// One step and its effects.
    pub(crate) fn input(&mut self, node: u64, input: Input<'_>) {
        self.input_with(node, input, None, None);
    }

    /// One step with entries (those after an index) or a snapshot.
    pub(super) fn input_with(
        &mut self,
        node: u64,
        input: Input<'_>,
        frames: Option<(Index, &[Entry])>,
        snapshot: Option<Checkpoint>,
    ) {
        let now = self.now;
        let mut effects = std::mem::take(&mut self.effects);
        let group = self.replica_mut(node).group.as_mut().expect("the replica is up");
        let was_leader = group.is_leader();
        let before = group.configuration_index();
        let counted_by = was_leader.then(|| group.configuration().clone());
        group.step(now, input, &mut effects);
        self.counted_by = counted_by;
        let after = self.group(node);
        let is_rolled_back = after.configuration_index() < before;
        let leads_joint = !was_leader && after.is_leader() && after.configuration().is_joint();
        self.seen.rolled_back += u64::from(is_rolled_back);
        self.seen.joint_leaders += u64::from(leads_joint);
        self.seen.leaders += u64::from(!was_leader && self.group(node).is_leader());
        self.perform(node, &mut effects, frames, snapshot);
        self.effects = effects;
    }

    /// Ends a turn: flush, appends, the applied index; and then all checks.
    pub(crate) fn finish(&mut self, node: u64) {
        if self.is_up(node) {
            let now = self.now;
            let mut effects = std::mem::take(&mut self.effects);
            let group = self.replica_mut(node).group.as_mut().expect("the replica is up");
            group.flush(now, &mut effects);
            self.perform(node, &mut effects, None, None);
            self.effects = effects;
            self.ship(node);
            let index = self.replica(node).applied;
            self.input(node, Input::Applied { index });
        }
        self.check();
        if self.options.syncs_at_once && self.replica(node).disk.pending() > 0 {
            let pending = self.replica(node).disk.pending();
            self.sync_some(node, pending);
        }
    }

    fn perform(
        &mut self,
        node: u64,
        effects: &mut Effects,
        frames: Option<(Index, &[Entry])>,
        snapshot: Option<Checkpoint>,
    ) {
        if let Some(hard_state) = effects.hard_state {
            self.replica_mut(node).disk.write(Write::HardState(hard_state));
        }
        match effects.append {
            Some(Append::Own { id, count, .. }) => {
                self.append_own(node, id, count, effects.membership.take())
            }
            Some(Append::Accept { from, last }) => {
                let (prev, entries) = frames.expect("entries are accepted from a message");
                let (skip, end) = ((from.0 - prev.0 - 1) as usize, (last.0 - prev.0) as usize);
                self.accept(node, from, entries[skip..end].to_vec());
            }
            None => {}
        }
        if let Some(install) = &effects.install {
            let snapshot = snapshot.expect("a snapshot is installed when it was received");
            assert_eq!(snapshot.id, install.id);
            self.seen.installed += 1;
            self.seen.tails_kept += u64::from(install.keep_tail);
            let replica = self.replica_mut(node);
            replica.disk.write(Write::Install { snapshot, keep_tail: install.keep_tail });
            (replica.applied, replica.state) = (snapshot.id.index, snapshot.state);
        }
        if let Some(known) = effects.begins_in.take() {
            let at = self.configurations.iter().position(|configuration| *configuration == known);
            let payload = MEMBERSHIPS + at.expect("nobody invents a configuration") as u64;
            self.replica_mut(node).disk.write(Write::InitialConfiguration(payload));
        }
        let hands_over =
            effects.send.iter().any(|(_, message)| matches!(message, Message::TimeoutNow { .. }));
        self.seen.transfers += u64::from(hands_over);
        self.send(node, effects);
        if let Some((first, last)) = effects.commit {
            self.apply(node, first, last);
        }
        self.take_reads(node, effects);
        for &peer in &effects.snapshot_to {
            self.send_snapshot(node, peer.0);
        }
        if effects.rejected.is_some() {
            self.replica_mut(node).rejected = effects.rejected;
        }
        self.seen.changes +=
            u64::from(matches!(effects.reconfigured, Some(raftwerk_raft::Reconfigured::Started(_))));
        self.seen.settled += u64::from(effects.settled.is_some());
        let replica = self.replica_mut(node);
        replica.reconfigured.extend(effects.reconfigured.take());
        replica.transfers.extend(effects.transfer);
        replica.settled.extend(effects.settled);
        effects.clear();
    }

    fn append_own(&mut self, node: u64, id: EntryId, count: u32, membership: Option<Configuration>) {
        if let Some(configuration) = membership {
            assert_eq!(count, 1, "a configuration comes alone");
            let payload = MEMBERSHIPS + self.configurations.len() as u64;
            self.configurations.push(configuration);
            let entries = vec![Entry { term: id.term, payload }];
            return self.replica_mut(node).disk.write(Write::Entries { from: id.index, entries });
        }
        let first = self.payload_next;
        self.payload_next += u64::from(count);
        let entries = (first..self.payload_next).map(|payload| Entry { term: id.term, payload }).collect();
        let disk = &mut self.replica_mut(node).disk;
        assert_eq!(disk.written.last().index.next(), id.index, "a leader only appends");
        disk.write(Write::Entries { from: id.index, entries });
    }

    fn accept(&mut self, node: u64, from: Index, entries: Vec<Entry>) {
        let replaces = from <= self.replica(node).disk.written.last().index;
        self.seen.replaced += u64::from(replaces);
        let is_witness = self.options.is_witness(node);
        let is_right =
            |entry: &Entry| if is_witness { *entry == entry.withheld() } else { entry.payload != WITHHELD };
        assert!(entries.iter().all(is_right), "node {node} takes {entries:?}");
        self.seen.withheld += if is_witness { entries.len() as u64 } else { 0 };
        self.replica_mut(node).disk.write(Write::Entries { from, entries });
    }

    fn send(&mut self, node: u64, effects: &Effects) {
        let disk = &self.replica(node).disk;
        let (soon, later) = (disk.hard_state_at(), disk.position());
        let soon = effects.send.iter().map(|one| (soon, one));
        let later = effects.send_durable.iter().map(|one| (later, one));
        let packets: Vec<_> = soon.chain(later).collect();
        for (position, &(to, message)) in packets {
            self.hold(position, node, to.0, Body::Message { message, entries: Vec::new() });
        }
        self.release(node);
    }

    fn hold(&mut self, position: u64, from: u64, to: u64, body: Body) {
        let group = self.group(from);
        // A reply is for the log that sent the request.
        let address = match &body {
            Body::Message { message, .. } if MessageKind::of(message) == MessageKind::Other => {
                // An unknown peer of the test's making has none.
                Recipient::Named(self.replicas.get(to as usize - 1).map_or(LogId(0), |replica| replica.log))
            }
            _ => group.recipient_of(NodeId(to)),
        };
        let to_witness = group.has_for_witness(NodeId(to));
        let logs = Some((self.replica(from).log, address, group.names_itself(), to_witness));
        self.replica_mut(from).held.push_back((position, Packet { from, to, logs, body }));
    }

    /// Held messages leave when their position is durable.
    pub(super) fn release(&mut self, node: u64) {
        let synced = self.replica(node).disk.synced();
        let held = std::mem::take(&mut self.replica_mut(node).held);
        for (position, packet) in held {
            if position <= synced {
                self.check_departure(&packet);
                self.seen.sent += 1;
                self.network.push_back(packet);
            } else {
                self.replica_mut(node).held.push_back((position, packet));
            }
        }
    }

    fn apply(&mut self, node: u64, first: Index, last: Index) {
        assert_eq!(first, self.replica(node).applied.next(), "commits come without gaps");
        for at in first.0..=last.0 {
            let entry = self.replica(node).disk.written.entry(Index(at)).expect("what is committed is held");
            self.note_committed(node, Index(at), entry);
            // A witness has no state; the state that a state machine would have is used in its place.
            let state = self.state_at(Index(at));
            let is_witness = self.options.is_witness(node);
            let replica = self.replica_mut(node);
            replica.applied = Index(at);
            replica.state = if is_witness { state } else { super::check::state_after(replica.state, entry) };
        }
    }

    fn take_reads(&mut self, node: u64, effects: &Effects) {
        for &(token, index) in &effects.reads {
            let floor = self.reads_open.remove(&token).expect("a read is answered once");
            assert!(index >= floor, "read {token} at {index}, and {floor} was committed before it came");
            self.replica_mut(node).reads.push((token, index));
            self.seen.reads += 1;
        }
        for &token in &effects.reads_rejected {
            self.reads_open.remove(&token).expect("a read is answered once");
            self.replica_mut(node).reads_rejected.push(token);
            self.seen.reads_rejected += 1;
        }
    }

    /// The latest checkpoint is sent; the log may have been compacted further since it left.
    fn send_snapshot(&mut self, node: u64, to: u64) {
        let replica = self.replica(node);
        let (written, is_bare) = (&replica.disk.written, self.group(node).has_for_witness(NodeId(to)));
        let snapshot = if is_bare {
            let (id, membership) = (written.compacted, written.membership);
            Checkpoint { id, state: self.state_at(id.index), membership }
        } else {
            written.checkpoint
        };
        assert!(snapshot.id.index >= replica.disk.written.compacted.index);
        let (term, progress_epoch) =
            (self.group(node).term(), self.group(node).progress_epoch_of(NodeId(to)));
        let position = replica.disk.hard_state_at();
        self.hold(position, node, to, Body::Snapshot { term, snapshot, progress_epoch });
        self.release(node);
    }

    fn ship(&mut self, node: u64) {
        for to in self.nodes().filter(|&to| to != node) {
            let mut rounds = 0;
            loop {
                let group = self.replica_mut(node).group.as_mut().expect("the replica is up");
                let Some(append_plan) = group.next_append(NodeId(to)) else { break };
                let entries = self.cut_shipment(node, &append_plan);
                let last = append_plan.prev.index.plus(entries.len() as u64);
                let bytes = entries.len() as u64 * ENTRY_BYTES;
                let group = self.replica_mut(node).group.as_mut().expect("the replica is up");
                group.note_sent(NodeId(to), last, bytes);
                let AppendPlan { term, prev, commit, progress_epoch, .. } = append_plan;
                let message = Message::Append { term, prev, commit, progress_epoch };
                let position = self.replica(node).disk.hard_state_at();
                self.hold(position, node, to, Body::Message { message, entries });
                rounds += 1;
                assert!(rounds < 1000, "shipments to {to} never end: {append_plan:?}");
            }
        }
        self.release(node);
    }

    /// As many entries as fit; one always does.
    fn cut_shipment(&self, node: u64, append_plan: &AppendPlan) -> Vec<Entry> {
        let AppendPlan { first, last, bytes_max, is_withheld, .. } = *append_plan;
        let count_max = (bytes_max / ENTRY_BYTES).max(1);
        let written = &self.replica(node).disk.written;
        let indices = (first.0..=last.0).take(count_max as usize);
        let entries = indices.map(|at| written.entry(Index(at)).expect("what is shipped is held"));
        entries.map(|entry| if is_withheld { entry.withheld() } else { entry }).collect()
    }
}
