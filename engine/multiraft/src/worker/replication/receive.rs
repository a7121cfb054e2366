//! Receiving: units of peers are parsed, checked, and stepped into the cores as headers and runs.
//!
//! No byte is trusted. A unit, record or frame that does not hold what it claims is dropped and counted; the
//! protocol treats it as lost.

use raftwerk_frame::frame::{self, ENTRY_OVERHEAD_BYTES, Entries, EntryKind, HEADER_BYTES};
use raftwerk_frame::wire::{self, Record, UnitHeader, UnitKind};
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, Membership, Message, NodeId, Run, Term};
use raftwerk_raft::{Input, MessageKind, MessageSender, ReceiverStanding};
use raftwerk_wal::{Disk, GroupSlot};
use smallvec::SmallVec;

use crate::api::status::ReplicaKind;
use crate::node::request::{Arrival, ReceivedUnit};
use crate::worker::Worker;
use crate::worker::replication::frames::{ArrivedFrame, suits};
use crate::worker::replication::outbox::RecordRecipient;

/// Frames of one append; more than a few only while a follower catches up across terms.
type Frames<'a> = SmallVec<[ArrivedFrame<'a>; 4]>;
/// While this many batches are on their way to the disk, no further control unit is taken, since any message
/// may add a fact to the next batch. A disk that is so far behind hangs.
const IN_FLIGHT_MAX: usize = 256;
/// Most bytes of frames in one unit, usually.
pub(in crate::worker) const UNIT_BYTES: u64 = 2 << 20;
type Runs = SmallVec<[Run; 4]>;
/// The configurations among the entries of one append: rare.
type Memberships = Vec<Membership>;

/// When the inbox is backlogged, timers fire only in one turn out of so many: the message that would reset a
/// timer may still be queued, and a needless election would add load to an overloaded node.
const TURNS_BEHIND_MAX: u32 = 8;

/// Which of the inbox's queues is served first.
enum Turn {
    OfAppends,
    OfOthers,
}

/// How a worker takes from its inbox.
#[derive(Debug, Default)]
pub(in crate::worker) struct Intake {
    /// The next arrival taken is an append, if one waits.
    is_append_next: bool,
    /// Consecutive turns that have left arrivals in the inbox.
    turns_behind: u32,
}

impl Intake {
    /// Appends and all others alternate.
    fn next_turn(&mut self) -> Turn {
        self.is_append_next = !self.is_append_next;
        if self.is_append_next { Turn::OfOthers } else { Turn::OfAppends }
    }

    /// The turn has left arrivals in the inbox.
    pub(in crate::worker) const fn fall_behind(&mut self) {
        self.turns_behind += 1;
    }

    /// The turn has taken all arrivals that it might take.
    pub(in crate::worker) const fn catch_up(&mut self) {
        self.turns_behind = 0;
    }

    pub(in crate::worker) fn may_fire_timers(&self) -> bool {
        self.turns_behind.is_multiple_of(TURNS_BEHIND_MAX)
    }
}

impl<D: Disk> Worker<D> {
    /// Takes units from the inbox, a bounded number a turn: appends only while there is room for them,
    /// alternating with all others.
    pub(in crate::worker) fn receive_units(&mut self) {
        let mut records = 0;
        for _ in 0..self.settings.limits.arrivals {
            if records >= self.settings.limits.records {
                return;
            }
            let has_room = self.has_room_for_appends();
            let append = || if has_room { self.env.inbox.next_append() } else { None };
            let control = || {
                if self.log.batches_in_flight() < IN_FLIGHT_MAX {
                    self.env.inbox.next_control()
                } else {
                    None
                }
            };
            let arrival = match self.intake.next_turn() {
                Turn::OfAppends => append().or_else(control),
                Turn::OfOthers => control().or_else(append),
            };
            match arrival {
                None => return,
                Some(Arrival::Unit(received)) => {
                    records = records.saturating_add(self.on_unit(&received));
                }
                Some(Arrival::LogQuery { from }) => self.on_log_query(from),
                Some(Arrival::UnknownPeer { from, log, unit }) => self.on_unknown_peer(from, log, unit),
                Some(Arrival::Disconnected(node)) => self.on_disconnected(node),
                Some(Arrival::Connected(node)) => self.on_connected(node),
            }
            if self.is_poisoned {
                return;
            }
        }
    }

    /// Whether a unit waits that this turn or the next one may take.
    pub(in crate::worker) fn has_arrivals(&self) -> bool {
        self.env.inbox.has_control() && self.log.batches_in_flight() < IN_FLIGHT_MAX
            || self.env.inbox.has_appends() && self.has_room_for_appends()
    }

    /// Whether batch and log have room for another unit's frames. With a full disk or short memory they never
    /// have; then units are taken all the same, for their messages, and their frames are dropped.
    fn has_room_for_appends(&self) -> bool {
        let has_room = self.lane.turn_budget() as u64 >= UNIT_BYTES && self.lane.reserved_space() > 0;
        has_room || self.upkeep.is_full() || self.is_short_of_memory()
    }

    /// Takes one unit; returns the number of messages in its header.
    fn on_unit(&mut self, &ReceivedUnit { from, is_first, ref unit }: &ReceivedUnit) -> u32 {
        let Ok((header, records, bodies)) = UnitHeader::parse(unit) else {
            self.env.metrics.bad_unit();
            return 0;
        };
        let (log, is_named, names_itself, to_witness) = (header.log, false, false, false);
        let sender = MessageSender { from, log, is_first, is_named, names_itself, to_witness };
        match header.kind {
            _ if header.from != from => self.env.metrics.bad_unit(),
            UnitKind::Groups => self.on_records(sender, records, bodies),
            UnitKind::Snapshot => self.on_snapshot_unit(sender, unit.slice_ref(bodies)),
            // Node heartbeats do not come through this queue.
            UnitKind::NodeHeartbeat => self.env.metrics.bad_unit(),
        }
        header.records
    }

    fn on_records(&mut self, sender: MessageSender, records: &[u8], mut bodies: &[u8]) {
        let mut is_refused = false;
        for record in wire::records(records) {
            let Ok(record) = record else { return self.env.metrics.bad_unit() };
            let Some((body, rest)) = bodies.split_at_checked(record.body_bytes as usize) else {
                return self.env.metrics.bad_unit();
            };
            bodies = rest;
            // Groups of other workers and groups that are not here are skipped.
            if let Some(slot) = self.groups.slot_of(record.group) {
                let Record { is_named, names_itself, to_witness, .. } = record;
                let sender = MessageSender { is_named, names_itself, to_witness, ..sender };
                if self.accepts(slot, sender, MessageKind::of(&record.message)) {
                    self.note_standing(slot, &record);
                    self.on_record(slot, sender, &record, body);
                    self.send_bootstrap(slot, sender, &record);
                } else if self.is_addressed_as_witness(slot, &record) {
                    self.become_witness(slot);
                } else if !std::mem::replace(&mut is_refused, true) {
                    self.env.dispatch.peers().refuse();
                }
            } else {
                self.answer_for_absent(sender, &record);
            }
            if self.is_poisoned {
                return;
            }
        }
    }

    /// A follower takes this node for its leader, but the group's replica here was dropped: replies that this
    /// node does not lead (`NotLeader`). The follower has received a message of this node as leader of that
    /// term; so the term is in the record that the dropped replica left, or below the fence where that record
    /// is lost, and this node never leads it again. It may come to lead a later term: no honest peer asks for
    /// one, and it is not denied.
    fn answer_for_absent(&mut self, sender: MessageSender, record: &Record) {
        let expects_leader =
            matches!(record.message, Message::LeaderQuery { follows: true, .. } | Message::ReadIndex { .. });
        let may_have_led = self.lane.past_term(record.group).max(self.may_have_lost(record.group));
        let is_denied = may_have_led >= Some(record.message.term());
        if expects_leader && is_denied && self.owns(record.group) {
            let MessageSender { from: node, log, .. } = sender;
            let to = RecordRecipient { node, log, ..RecordRecipient::default() };
            self.outboxes.control(to, record.group, Message::NotLeader { term: record.message.term() });
        }
    }

    /// Notes whether the leader has this replica for a member: its configuration may be ahead of what it has
    /// sent.
    fn note_standing(&mut self, slot: GroupSlot, record: &Record) {
        let (term, progress_epoch) = match record.message {
            Message::Append { term, progress_epoch, .. } => (term, Some(progress_epoch)),
            Message::Heartbeat { term, .. } => (term, None),
            _ => return,
        };
        if let Some(replica) = self.groups.get_mut(slot) {
            let is_member = record.is_named && !record.is_leaving;
            let standing = if is_member { ReceiverStanding::Member } else { ReceiverStanding::NotMember };
            replica.core.note_standing(term, progress_epoch, standing);
        }
    }

    /// Whether the group's core accepts a message, by its sender and its recipient.
    pub(in crate::worker) fn accepts(
        &self,
        slot: GroupSlot,
        sender: MessageSender,
        kind: MessageKind,
    ) -> bool {
        let replica = self.groups.get(slot);
        replica.is_some_and(|replica| replica.core.accepts(sender, kind))
    }

    fn on_record(&mut self, slot: GroupSlot, sender: MessageSender, record: &Record, body: &[u8]) {
        if matches!(record.message, Message::ReadIndex { .. }) && self.lease_of(slot).is_some() {
            return self.on_read_index(slot, record.group, sender.from, record.message);
        }
        let from = sender.from;
        let (mut frames, mut runs, mut memberships) = (Frames::new(), Runs::new(), Memberships::new());
        if let Message::Append { prev, .. } = record.message
            && !body.is_empty()
        {
            // No room: dropped, as if the network had lost it. The leader sends it again.
            if body.len() > self.lane.turn_budget() || self.is_log_of_quarantine_full(slot) {
                return self.env.metrics.no_room();
            }
            let frame_bytes_max = HEADER_BYTES + ENTRY_OVERHEAD_BYTES + self.lane.payload_bytes_max();
            let is_witness = self.lane.is_witness(slot);
            let kind = if is_witness { ReplicaKind::Witness } else { ReplicaKind::Full };
            let filter = FrameFilter { group: record.group, kind };
            if parse_frames(filter, prev, body, &mut frames, &mut runs, &mut memberships).is_none() {
                return self.env.metrics.bad_unit();
            }
            if let Some((header, _)) = frames.iter().find(|(_, bytes)| bytes.len() > frame_bytes_max) {
                tracing::error!(node = self.settings.node.0, group = %record.group, leader = %from, index = header.index.0,
                    payload_bytes_max = self.settings.payload_bytes_max,
                    "an entry is longer than this node takes: its payload_bytes_max must be raised to the leader's");
                return self.env.metrics.bad_unit();
            }
        }
        let Some(replica) = self.groups.get_mut(slot) else { return };
        self.effects.clear();
        let message = record.message;
        let input = if memberships.is_empty() {
            Input::Message { from, message, runs: &runs }
        } else {
            Input::Memberships { from, message, runs: &runs, memberships: &memberships }
        };
        replica.core.step(self.now, input, &mut self.effects);
        self.perform_for(slot, &frames, Some(sender));
    }

    fn on_disconnected(&mut self, node: NodeId) {
        self.lose_transfers(node);
        for slot in (0..self.groups.slots_end()).map(GroupSlot) {
            if self.groups.get(slot).is_some_and(|replica| replica.core.is_leader()) {
                self.step(slot, Input::Unreachable { node });
            }
        }
    }
}

/// The log that frames are for.
#[derive(Clone, Copy)]
struct FrameFilter {
    group: GroupId,
    /// A witness takes no frame with payloads, any other replica none without.
    kind: ReplicaKind,
}

/// Parses the frames that follow `prev`. They must be valid, of this group and of the kind that its log
/// holds, without gaps and with terms that do not decrease, and each configuration must decode. The runs
/// begin just after `prev`, even if the first frame begins before it.
fn parse_frames<'a>(
    FrameFilter { group, kind }: FrameFilter,
    prev: EntryId,
    mut body: &'a [u8],
    frames: &mut Frames<'a>,
    runs: &mut Runs,
    memberships: &mut Memberships,
) -> Option<()> {
    let mut next: Option<Index> = None;
    let mut term = Term(0);
    if prev.index.0 == u64::MAX {
        return None;
    }
    while !body.is_empty() {
        let (header, entries) = frame::parse(body).ok()?;
        for entry in Entries::new(&header, entries).filter(|entry| entry.kind == EntryKind::Membership) {
            let configuration = Configuration::decode(entry.payload).ok()?;
            if entry.id.index > prev.index {
                memberships.push(Membership { index: entry.id.index, configuration });
            }
        }
        let (bytes, rest) = body.split_at(header.frame_bytes());
        let follows = match next {
            None => header.index <= prev.index.next(),
            Some(next) => header.index == next,
        };
        let is_kept = header.group == group && suits(&header, entries, kind);
        if !is_kept || !follows || header.term < term {
            return None;
        }
        let last = header.last_index();
        let first = header.index.max(prev.index.next());
        if last >= first {
            runs.push(Run {
                term: header.term,
                count: crate::worker::replication::frames::span(first, last),
            });
        }
        (next, term, body) = (Some(last.next()), header.term, rest);
        frames.push((header, bytes));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::frame::FrameWriter;

    use super::*;

    const WHOLE: FrameFilter = FrameFilter { group: GroupId(1), kind: ReplicaKind::Full };

    fn framed(group: u64, term: u64, first: u64, count: u64) -> Vec<u8> {
        let mut out = vec![0; 4096];
        let id = EntryId::new(Term(term), Index(first));
        let mut writer = FrameWriter::new(&mut out, GroupId(group), id).unwrap();
        for _ in 0..count {
            assert!(writer.push(EntryKind::Payload, b"payload"));
        }
        let bytes = writer.finish().unwrap().frame_bytes();
        out.truncate(bytes);
        out
    }

    fn parsed(prev: (u64, u64), body: &[u8]) -> Option<Vec<(u64, u64)>> {
        let (mut frames, mut runs, mut memberships) = (Frames::new(), Runs::new(), Memberships::new());
        let prev = EntryId::new(Term(prev.1), Index(prev.0));
        parse_frames(WHOLE, prev, body, &mut frames, &mut runs, &mut memberships)?;
        Some(runs.iter().map(|run| (run.term.0, run.count)).collect())
    }

    #[test]
    fn frames_that_begin_before_prev_are_clipped_to_what_is_new() {
        let body = [framed(1, 2, 3, 5), framed(1, 4, 8, 2)].concat();
        assert_eq!(parsed((2, 2), &body), Some(vec![(2, 5), (4, 2)]));
        assert_eq!(parsed((5, 2), &body), Some(vec![(2, 2), (4, 2)]));
        assert_eq!(parsed((7, 2), &body), Some(vec![(4, 2)]));
    }

    #[test]
    fn configurations_are_found_behind_prev_and_must_be_some() {
        let two = Configuration::of_voters([NodeId(1), NodeId(2)]);
        let mut payload = Vec::new();
        two.encode(&mut payload);
        let framed = |payload: &[u8]| {
            let mut out = vec![0; 4096];
            let first = EntryId::new(Term(2), Index(3));
            let mut writer = FrameWriter::new(&mut out, GroupId(1), first).unwrap();
            assert!(
                writer.push(EntryKind::Payload, b"payload") && writer.push(EntryKind::Membership, payload)
            );
            let bytes = writer.finish().unwrap().frame_bytes();
            out.truncate(bytes);
            out
        };
        let found = |prev: u64, body: &[u8]| {
            let (mut frames, mut runs, mut memberships) = (Frames::new(), Runs::new(), Memberships::new());
            let prev = EntryId::new(Term(2), Index(prev));
            parse_frames(WHOLE, prev, body, &mut frames, &mut runs, &mut memberships)?;
            Some(memberships)
        };
        let membership = Membership { index: Index(4), configuration: two };
        assert_eq!(found(2, &framed(&payload)), Some(vec![membership]));
        assert_eq!(found(4, &framed(&payload)), Some(Vec::new()), "known already");
        assert_eq!(found(2, &framed(&payload[1..])), None, "not a configuration");
        assert_eq!(found(2, &framed(&[])), None, "nothing at all");
    }

    #[test]
    fn who_keeps_payloads_refuses_to_be_told_of_them_only_and_a_witness_refuses_them() {
        let told = frame::withheld(GroupId(1), EntryId::new(Term(2), Index(3)), 5).unwrap();
        let read = |kind: ReplicaKind, body: &[u8]| {
            let (mut frames, mut runs, mut memberships) = (Frames::new(), Runs::new(), Memberships::new());
            let filter = FrameFilter { kind, ..WHOLE };
            let prev = EntryId::new(Term(2), Index(2));
            parse_frames(filter, prev, body, &mut frames, &mut runs, &mut memberships)?;
            Some(runs.iter().map(|run| run.count).sum::<u64>())
        };
        assert_eq!((read(ReplicaKind::Witness, &told), read(ReplicaKind::Full, &told)), (Some(5), None));
        let whole = framed(1, 2, 3, 5);
        assert_eq!((read(ReplicaKind::Witness, &whole), read(ReplicaKind::Full, &whole)), (None, Some(5)));
        let both = [&told[..], &framed(1, 2, 8, 1)].concat();
        assert_eq!((read(ReplicaKind::Witness, &both), read(ReplicaKind::Full, &both)), (None, None));
    }

    #[test]
    fn gaps_foreign_groups_falling_terms_and_damage_are_refused() {
        assert_eq!(parsed((1, 2), &framed(1, 2, 3, 5)), None, "gap after prev");
        assert_eq!(parsed((2, 2), &framed(9, 2, 3, 5)), None, "another group");
        let gap = [framed(1, 2, 3, 5), framed(1, 2, 9, 2)].concat();
        assert_eq!(parsed((2, 2), &gap), None, "gap between frames");
        let falling = [framed(1, 3, 3, 5), framed(1, 2, 8, 2)].concat();
        assert_eq!(parsed((2, 2), &falling), None, "falling terms");
        let mut damaged = framed(1, 2, 3, 5);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(parsed((2, 2), &damaged), None, "flipped bit");
        assert_eq!(parsed((2, 2), &damaged[..60]), None, "cut short");
    }
}
