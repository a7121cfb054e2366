//! What one worker sends to one peer in one turn: a *unit* of fixed-size records, and the frames that they
//! announce.
//!
//! ```text
//! unit    = header (48 B), records (48 B each), bodies
//! header  = magic "RWU4", kind u8, zero u8, worker u16, workers u16, to_worker u16, records u32,
//!           from u64, bodies u64, log u64, to_log u64
//! record  = kind u8, flags u8, progress_epoch u16, body_len u32, group u64, term u64, a u64, b u64, c u64
//! flags   = 1 yes, 128 the sender's configuration names the receiver's log, 64 it names the sender's,
//!           32 it has the receiver for a witness, 16 the sender knows of no configuration, and is an initial member,
//!           8 the receiver is no member any more, and is served until it has its removal
//! ```
//! The digit of the magic is [`UNIT_VERSION`]. Nodes compare it when they connect, so units of two versions
//! do not meet; the magic rejects bytes that are no unit at all.
//! A unit without records only announces the sender's log.
//! Bodies are the frames of append records, one after another, in the order of the records; `body_len` gives
//! the length of each. Frames that lie side by side in the leader's batch therefore travel as one slice.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EntryId, GroupId, Index, LogId, Message, NodeId, Term};

/// Bytes of a unit's header.
pub const UNIT_HEADER_BYTES: usize = 48;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 48;
/// The version of units: of their headers, records, node heartbeats and snapshot chunks, and of the frames in
/// their bodies. Must be raised with every change to one of those layouts or to the meaning of a field. Nodes
/// of different versions refuse each other's connections.
pub const UNIT_VERSION: u16 = 4;
const MAGIC: [u8; 4] = *b"RWU4";
const _: () = assert!(MAGIC[3] == b'0' + UNIT_VERSION as u8, "magic and version rise together");

/// What a unit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UnitKind {
    /// Records of groups, and frames.
    Groups = 1,
    /// A chunk of a snapshot, or the outcome of one; its layout belongs to the engine.
    Snapshot = 2,
    /// A node heartbeat: one [`NodeHeartbeat`](crate::NodeHeartbeat).
    NodeHeartbeat = 3,
}

/// A unit's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitHeader {
    /// The kind of unit.
    pub kind: UnitKind,
    /// The number of the sending worker …
    pub worker: u16,
    /// … of the sender's `workers`: if the receiver has as many, all groups of the unit belong to its worker
    /// of the same number.
    pub workers: u16,
    /// The worker that a node heartbeat is for; 0 in other units.
    pub to_worker: u16,
    /// How many records follow.
    pub records: u32,
    /// The sending node. Must equal the node that the transport has authenticated.
    pub from: NodeId,
    /// Bytes of all bodies.
    pub bodies_bytes: u64,
    /// The sender's log: the identity that the unit's messages count for.
    pub log: LogId,
    /// The log that the unit is for: a receiver with another log drops it. 0 if the sender does not know the
    /// receiver's log.
    pub to_log: LogId,
}

/// Why bytes are not a unit or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes are not a unit of this version.
    #[error("not a unit of this version")]
    Magic,
    /// The kind of the unit, or of a record, is unknown.
    #[error("kind {0} is unknown")]
    Kind(u8),
    /// The lengths in the unit do not add up to its length.
    #[error("the unit's lengths do not add up")]
    Length,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawUnitHeader {
    magic: [u8; 4],
    kind: u8,
    zero_a: u8,
    worker: U16,
    workers: U16,
    to_worker: U16,
    records: U32,
    from: U64,
    bodies_bytes: U64,
    log: U64,
    to_log: U64,
}

const _: () = assert!(size_of::<RawUnitHeader>() == UNIT_HEADER_BYTES);

impl UnitHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; UNIT_HEADER_BYTES] {
        let raw = RawUnitHeader {
            magic: MAGIC,
            kind: self.kind as u8,
            zero_a: 0,
            worker: self.worker.into(),
            workers: self.workers.into(),
            to_worker: self.to_worker.into(),
            records: self.records.into(),
            from: self.from.0.into(),
            bodies_bytes: self.bodies_bytes.into(),
            log: self.log.0.into(),
            to_log: self.to_log.0.into(),
        };
        zerocopy::transmute!(raw)
    }

    /// Splits a unit into header, records and bodies. Every length is checked against the bytes at hand.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not a unit.
    pub fn parse(unit: &[u8]) -> Result<(Self, &[u8], &[u8]), WireError> {
        let (raw, rest) = RawUnitHeader::ref_from_prefix(unit).map_err(|_| WireError::Length)?;
        if raw.magic != MAGIC {
            return Err(WireError::Magic);
        }
        let kind = match raw.kind {
            1 => UnitKind::Groups,
            2 => UnitKind::Snapshot,
            3 => UnitKind::NodeHeartbeat,
            other => return Err(WireError::Kind(other)),
        };
        let header = Self {
            kind,
            worker: raw.worker.get(),
            workers: raw.workers.get(),
            to_worker: raw.to_worker.get(),
            records: raw.records.get(),
            from: NodeId(raw.from.get()),
            bodies_bytes: raw.bodies_bytes.get(),
            log: LogId(raw.log.get()),
            to_log: LogId(raw.to_log.get()),
        };
        let records_bytes = (header.records as usize).checked_mul(RECORD_BYTES).ok_or(WireError::Length)?;
        let (records, bodies) = rest.split_at_checked(records_bytes).ok_or(WireError::Length)?;
        if bodies.len() as u64 != header.bodies_bytes {
            return Err(WireError::Length);
        }
        Ok((header, records, bodies))
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    kind: u8,
    flags: u8,
    progress_epoch: U16,
    body_len: U32,
    group: U64,
    term: U64,
    a: U64,
    b: U64,
    c: U64,
}

const _: () = assert!(size_of::<RawRecord>() == RECORD_BYTES);

/// One group's message, and how many bytes of frames go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The group of the message.
    pub group: GroupId,
    /// The message.
    pub message: Message,
    /// Bytes of frames in the unit's bodies that belong to it; 0 unless it is an append.
    pub body_bytes: u32,
    /// The sender's configuration names the receiver, with the log that the unit is addressed to.
    pub is_named: bool,
    /// The sender's configuration names the sender, with its log.
    pub names_itself: bool,
    /// The receiver is a witness in the sender's configuration.
    pub to_witness: bool,
    /// The sender is an initial member of its group, and has lost the record of the first configuration: it
    /// requests that configuration.
    pub lacks_configuration: bool,
    /// The sender leads, a committed configuration is without the receiver, and the receiver is only being
    /// sent its own removal.
    pub is_leaving: bool,
}

/// Flags of a record.
const YES: u8 = 1;
const IS_LEAVING: u8 = 8;
const LACKS_CONFIGURATION: u8 = 16;
const TO_WITNESS: u8 = 32;
const NAMES_ITSELF: u8 = 64;
const IS_NAMED: u8 = 128;

impl Record {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let (kind, flags, a, b, c) = match self.message {
            Message::PreVote { last, .. } => (1, 0, last.index.0, last.term.0, 0),
            Message::PreVoteReply { granted, .. } => (2, u8::from(granted), 0, 0, 0),
            Message::Vote { last, transfer, .. } => (3, u8::from(transfer), last.index.0, last.term.0, 0),
            Message::VoteReply { granted, .. } => (4, u8::from(granted), 0, 0, 0),
            Message::Append { prev, commit, .. } => (5, 0, prev.index.0, prev.term.0, commit.0),
            Message::AppendAck { matched, .. } => (6, 0, matched.0, 0, 0),
            Message::AppendReject { rejected, hint, .. } => (7, 0, rejected.0, hint.index.0, hint.term.0),
            Message::Heartbeat { commit, round, quiesce, .. } => (8, u8::from(quiesce), commit.0, round, 0),
            Message::HeartbeatAck { round, fortifies, quiesce, .. } => {
                (9, u8::from(quiesce) | u8::from(fortifies) << 1, round, 0, 0)
            }
            Message::TimeoutNow { .. } => (10, 0, 0, 0, 0),
            Message::Removed { configuration, .. } => (11, 0, configuration.index.0, configuration.term.0, 0),
            Message::ReadIndex { round, .. } => (12, 0, round, 0, 0),
            Message::ReadIndexReply { round, index, .. } => (13, 0, round, index.0, 0),
            Message::LeaderQuery { follows, .. } => (14, u8::from(follows), 0, 0, 0),
            Message::NotLeader { .. } => (15, 0, 0, 0, 0),
            Message::AppendWritten { matched, .. } => (16, 0, matched.0, 0, 0),
        };
        let progress_epoch = match self.message {
            Message::Append { progress_epoch, .. }
            | Message::AppendAck { progress_epoch, .. }
            | Message::AppendWritten { progress_epoch, .. } => progress_epoch,
            _ => 0,
        };
        let raw = RawRecord {
            kind,
            flags: flags
                | if self.is_named { IS_NAMED } else { 0 }
                | if self.names_itself { NAMES_ITSELF } else { 0 }
                | if self.to_witness { TO_WITNESS } else { 0 }
                | if self.lacks_configuration { LACKS_CONFIGURATION } else { 0 }
                | if self.is_leaving { IS_LEAVING } else { 0 },
            progress_epoch: progress_epoch.into(),
            body_len: self.body_bytes.into(),
            group: self.group.0.into(),
            term: self.message.term().0.into(),
            a: a.into(),
            b: b.into(),
            c: c.into(),
        };
        zerocopy::transmute!(raw)
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`WireError`] on a kind that this version does not know, or a body with a message that is no append.
    pub fn parse(bytes: &[u8; RECORD_BYTES]) -> Result<Self, WireError> {
        let raw: &RawRecord = zerocopy::transmute_ref!(bytes);
        let term = Term(raw.term.get());
        let (a, b, c) = (raw.a.get(), raw.b.get(), raw.c.get());
        let a_at_b = EntryId::new(Term(b), Index(a));
        let (flag, progress_epoch) = (raw.flags & YES != 0, raw.progress_epoch.get());
        let message = match raw.kind {
            1 => Message::PreVote { term, last: a_at_b },
            2 => Message::PreVoteReply { term, granted: flag },
            3 => Message::Vote { term, last: a_at_b, transfer: flag },
            4 => Message::VoteReply { term, granted: flag },
            5 => Message::Append { term, prev: a_at_b, commit: Index(c), progress_epoch },
            6 => Message::AppendAck { term, matched: Index(a), progress_epoch },
            7 => {
                let hint = EntryId::new(Term(c), Index(b));
                Message::AppendReject { term, rejected: Index(a), hint }
            }
            8 => Message::Heartbeat { term, commit: Index(a), round: b, quiesce: flag },
            9 => Message::HeartbeatAck {
                term,
                round: a,
                fortifies: raw.flags & 2 != 0,
                quiesce: raw.flags & 1 != 0,
            },
            10 => Message::TimeoutNow { term },
            11 => Message::Removed { term, configuration: a_at_b },
            12 => Message::ReadIndex { term, round: a },
            13 => Message::ReadIndexReply { term, round: a, index: Index(b) },
            14 => Message::LeaderQuery { term, follows: flag },
            15 => Message::NotLeader { term },
            16 => Message::AppendWritten { term, matched: Index(a), progress_epoch },
            other => return Err(WireError::Kind(other)),
        };
        let (is_named, names_itself) = (raw.flags & IS_NAMED != 0, raw.flags & NAMES_ITSELF != 0);
        let to_witness = raw.flags & TO_WITNESS != 0;
        let lacks_configuration = raw.flags & LACKS_CONFIGURATION != 0;
        let is_leaving = raw.flags & IS_LEAVING != 0;
        let record = Self {
            group: GroupId(raw.group.get()),
            message,
            body_bytes: raw.body_len.get(),
            is_named,
            names_itself,
            to_witness,
            lacks_configuration,
            is_leaving,
        };
        if record.body_bytes > 0 && !matches!(message, Message::Append { .. }) {
            return Err(WireError::Length);
        }
        Ok(record)
    }
}

/// The records of a unit, in order.
pub fn records(bytes: &[u8]) -> impl ExactSizeIterator<Item = Result<Record, WireError>> + '_ {
    bytes.as_chunks::<RECORD_BYTES>().0.iter().map(Record::parse)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        let n = any::<u64>;
        (0..16u8, (n(), n(), n(), n()), any::<bool>()).prop_map(|(kind, (term, a, b, c), flag)| {
            let progress_epoch = (a ^ c) as u16;
            let (term, id) = (Term(term), EntryId::new(Term(b), Index(a)));
            match kind {
                0 => Message::PreVote { term, last: id },
                1 => Message::PreVoteReply { term, granted: flag },
                2 => Message::Vote { term, last: id, transfer: flag },
                3 => Message::VoteReply { term, granted: flag },
                4 => Message::Append { term, prev: id, commit: Index(c), progress_epoch },
                5 => Message::AppendAck { term, matched: Index(a), progress_epoch },
                6 => Message::AppendReject { term, rejected: Index(c), hint: id },
                7 => Message::Heartbeat { term, commit: Index(a), round: b, quiesce: flag },
                8 => Message::HeartbeatAck { term, round: a, fortifies: b % 2 == 0, quiesce: flag },
                9 => Message::Removed { term, configuration: id },
                10 => Message::ReadIndex { term, round: a },
                11 => Message::ReadIndexReply { term, round: a, index: Index(b) },
                12 => Message::LeaderQuery { term, follows: flag },
                13 => Message::NotLeader { term },
                14 => Message::AppendWritten { term, matched: Index(a), progress_epoch },
                _ => Message::TimeoutNow { term },
            }
        })
    }

    proptest! {
        #[test]
        fn every_message_survives_the_round_trip(message in message(), group in any::<u64>(), flags in any::<[bool; 4]>()) {
            let [is_named, to_witness, lacks_configuration, is_leaving] = flags;
            let record = Record {
                group: GroupId(group), message, body_bytes: 0, is_named, names_itself: !is_named, to_witness,
                lacks_configuration, is_leaving };
            prop_assert_eq!(Record::parse(&record.encode()), Ok(record));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((_, records_bytes, _)) = UnitHeader::parse(&bytes) {
                prop_assert!(records(records_bytes).count() > 0 || records_bytes.is_empty());
            }
        }
    }

    #[test]
    fn a_unit_splits_into_records_and_bodies_and_a_cut_anywhere_is_refused() {
        let append =
            Message::Append { term: Term(2), prev: EntryId::default(), commit: Index(0), progress_epoch: 9 };
        let record = Record {
            group: GroupId(4),
            message: append,
            body_bytes: 3,
            is_named: true,
            names_itself: false,
            to_witness: true,
            lacks_configuration: false,
            is_leaving: true,
        };
        let header = UnitHeader {
            kind: UnitKind::Groups,
            worker: 1,
            workers: 2,
            to_worker: 3,
            records: 1,
            from: NodeId(7),
            bodies_bytes: 3,
            log: LogId(5),
            to_log: LogId(6),
        };
        let mut unit = header.encode().to_vec();
        unit.extend_from_slice(&record.encode());
        unit.extend_from_slice(b"abc");
        let (read, records_bytes, bodies) = UnitHeader::parse(&unit).unwrap();
        assert_eq!((read, bodies), (header, &b"abc"[..]));
        assert_eq!(records(records_bytes).collect::<Vec<_>>(), [Ok(record)]);
        for at in 0..unit.len() {
            assert!(UnitHeader::parse(&unit[..at]).is_err());
        }
        let stray = Record { message: Message::TimeoutNow { term: Term(1) }, ..record };
        assert_eq!(Record::parse(&stray.encode()), Err(WireError::Length));
    }
}
