//! Founders that have lost the record of their founding, and those who tell them (`raft/src/founding.rs` has the rules).
//!
//! Every record says whether its sender lacks a configuration. Whoever gets an answer from such a one, to a heartbeat or when it
//! asks for votes, says once what its own log begins with, in one small unit. So nothing more is sent than there are answers,
//! and nothing at all where nothing is lacking.
//!
//! What is not here: how such a record is lost (`wal/src/salvage.rs`).

use raftwerk_frame::wire::Record;
use raftwerk_frame::{Configuration, Message};
use raftwerk_raft::{Input, Voice, is_request};
use raftwerk_wal::{Disk, GroupSlot};

use super::Worker;
use super::piece::{FOUNDING, Head};
use super::reads::refuse_reads;
use crate::error::ReadError;

impl<D: Disk> Worker<D> {
    /// Tells somebody who has answered, and lacks it, who takes part; if that is known here.
    pub(super) fn tell_founding(&mut self, slot: GroupSlot, voice: Voice, record: &Record) {
        let is_answer = matches!(
            record.message,
            Message::HeartbeatAck { .. } | Message::PreVoteReply { .. } | Message::VoteReply { .. }
        );
        if !record.lacks_configuration || !is_answer {
            return;
        }
        let Some(replica) = self.replicas[slot.0 as usize].as_ref() else { return };
        let Some((id, configuration)) = replica.core.founding() else { return };
        let mut body = Vec::new();
        configuration.encode(&mut body);
        let (group, term, total) = (replica.id, replica.core.term(), body.len() as u64);
        let head = Head { kind: FOUNDING, group, term, id, total, ..Head::default() };
        let _retried = self.send_snapshot_unit(voice.from, Some(voice), &head, &body);
    }

    /// Somebody says with what its log begins. Where it is taken, it is written to where this one begins.
    pub(super) fn take_founding(&mut self, slot: GroupSlot, voice: Voice, head: &Head, body: &[u8]) {
        let Ok(configuration) = Configuration::decode(body) else { return self.metrics.bad_unit() };
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        self.effects.clear();
        let input = Input::Founding { id: head.id, configuration: &configuration };
        replica.core.step(self.now, input, &mut self.effects);
        if let Some(configuration) = self.effects.begins_in.take() {
            tracing::warn!(node = self.settings.node.0, group = %replica.id, from = %voice.from,
                "the record of the group's founding was lost, and is there again");
            self.lane.snapshot(slot, replica.core.compacted(), &configuration, true);
        }
        self.perform_for(slot, &[], Some(voice));
    }

    /// Whether somebody speaks to a replica as to a witness, of which nothing is left that could tell what it is.
    pub(super) fn is_told_what_it_is(&self, slot: GroupSlot, record: &Record) -> bool {
        let replica = self.replicas[slot.0 as usize].as_ref();
        let may_be = replica.is_some_and(|replica| replica.core.may_be_witness());
        may_be && record.to_witness && is_request(&record.message)
    }

    /// It is a witness from now on, and hears what is said to it next.
    pub(super) fn become_witness(&mut self, slot: GroupSlot) {
        let Some(replica) = self.replicas[slot.0 as usize].as_mut() else { return };
        tracing::warn!(node = self.settings.node.0, group = %replica.id, "the replica was a witness, and is one again");
        replica.core.become_witness();
        replica.machine = None;
        refuse_reads(replica, &mut self.clients, &ReadError::Witness { hint: replica.core.leader() });
        self.metrics.came(true);
        self.lane.begin_as_witness(slot);
    }
}
