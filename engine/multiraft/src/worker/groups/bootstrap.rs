//! Initial members that have lost the record of their bootstrap, and their peers that send it again (rules:
//! `raft/src/founding.rs`).
//!
//! Every record carries whether its sender lacks a configuration. A replica that receives a reply of such a
//! member, to a heartbeat or a vote request, sends it once, in one small unit, the configuration that its own
//! log begins with. So no more units are sent than there are replies, and none if no configuration is
//! lacking.
//!
//! Not here: how such a record is lost (`wal/src/recovery/salvage.rs`).

use raftwerk_frame::wire::Record;
use raftwerk_frame::{Configuration, Message};
use raftwerk_raft::{Input, MessageKind, MessageSender};
use raftwerk_wal::{Disk, GroupSlot, Tail};

use crate::api::error::ReadError;
use crate::worker::Worker;
use crate::worker::calls::reads::refuse_reads;
use crate::worker::storage::chunk::{BOOTSTRAP, Head};

impl<D: Disk> Worker<D> {
    /// Sends the initial configuration to a peer that has replied and lacks it, if it is known here.
    pub(in crate::worker) fn send_bootstrap(
        &mut self,
        slot: GroupSlot,
        sender: MessageSender,
        record: &Record,
    ) {
        let is_answer = matches!(
            record.message,
            Message::HeartbeatAck { .. } | Message::PreVoteReply { .. } | Message::VoteReply { .. }
        );
        if !record.lacks_configuration || !is_answer {
            return;
        }
        let Some(replica) = self.groups.get(slot) else { return };
        let Some((id, configuration)) = replica.core.initial_configuration() else { return };
        let mut body = Vec::new();
        configuration.encode(&mut body);
        let (group, term, total) = (replica.id, replica.core.term(), body.len() as u64);
        let head = Head { kind: BOOTSTRAP, group, term, id, total, ..Head::default() };
        let _retried = self.send_snapshot_unit(sender.from, Some(sender), &head, &body);
    }

    /// A peer has sent the configuration that its log begins with. If the core accepts it, it is recorded
    /// where this log begins.
    pub(in crate::worker) fn on_bootstrap(
        &mut self,
        slot: GroupSlot,
        sender: MessageSender,
        head: &Head,
        body: &[u8],
    ) {
        let Ok(configuration) = Configuration::decode(body) else { return self.env.metrics.bad_unit() };
        let Some(replica) = self.groups.get_mut(slot) else { return };
        self.effects.clear();
        let input = Input::InitialConfiguration { id: head.id, configuration: &configuration };
        replica.core.step(self.now, input, &mut self.effects);
        if let Some(configuration) = self.effects.begins_in.take() {
            tracing::warn!(node = self.settings.node.0, group = %replica.id, from = %sender.from,
                "the record of the group's founding was lost, and is there again");
            self.lane.snapshot(slot, replica.core.compacted(), &configuration, Tail::Keep);
        }
        self.perform_for(slot, &[], Some(sender));
    }

    /// Whether a message addresses the replica as a witness, and the replica has no record left that shows
    /// whether it is one.
    pub(in crate::worker) fn is_addressed_as_witness(&self, slot: GroupSlot, record: &Record) -> bool {
        let replica = self.groups.get(slot);
        let may_be = replica.is_some_and(|replica| replica.core.may_be_witness());
        may_be && record.to_witness && MessageKind::of(&record.message) == MessageKind::Request
    }

    /// The replica is a witness from now on, and accepts the messages sent to it as to one.
    pub(in crate::worker) fn become_witness(&mut self, slot: GroupSlot) {
        let Some(replica) = self.groups.get_mut(slot) else { return };
        tracing::warn!(node = self.settings.node.0, group = %replica.id, "the replica was a witness, and is one again");
        replica.core.become_witness();
        replica.machine = None;
        refuse_reads(replica, self.calls.clients(), &ReadError::Witness { hint: replica.core.leader() });
        self.env.metrics.witness_added();
        self.lane.begin_as_witness(slot);
    }
}
