//! The bytes between a client and a node in another process: batches of operations one way, of completions the other.
//!
//! ```text
//! operation  = size u32, kind u8, group u64, token u64, bytes
//!              kind 1: a proposal; bytes are the payload
//!              kind 2: a read; bytes are: level u8 (0 strong, 1 bounded, 2 monotonic, 3 read my writes, 4 prefix,
//!              5 eventual), bound in ns or the session's index u64, patience in ns u64 (0: none), query
//! completion = size u32, status u8, token u64, term u64, index u64, bytes
//!              status 0: acknowledged or answered; bytes are the reply
//!              status 1 busy, 2 not the leader (term: the hint, 0 for none), 3 unknown, 4 too large (term: bytes,
//!              index: limit), 5 storage full, 6 poisoned, 7 no such group (term: group), 8 closed
//!              9 too stale (term: age), 10 behind (term: the replica's index, index: the session's)
//!              128 more: of a read; when it is answered, `term` is the age of the state. Ages are in ns plus 1; 0: unknown
//! ```
//! Integers are little-endian; `size` counts what follows it. Records stand one after another in a Unix-domain stream.
//! Pure: no socket here.

use std::time::Duration;

use bytes::Bytes;
use raftwerk::{
    Applied, Completion, Consistency, EntryId, GroupId, Index, NodeId, Outcome, ProposeError, ReadAnswer,
    ReadError, ReadOptions, Session, Term,
};

/// The longest record either side accepts.
pub const RECORD_BYTES_MAX: usize = 32 << 20;
const OPERATION_BYTES: usize = 17;
const DEMAND_BYTES: usize = 17;
const COMPLETION_BYTES: usize = 25;
/// In a status: of a read.
const READ: u8 = 128;

/// What an operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Propose the bytes.
    Propose,
    /// Answer the query.
    Read(ReadDemand),
}

/// What a read asks for, besides its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDemand {
    level: Consistency,
    /// The session's index in the group.
    floor: Index,
    patience: Option<Duration>,
}

impl ReadDemand {
    /// What these options ask for of a group.
    #[must_use]
    pub fn of(options: &ReadOptions<'_>, group: GroupId) -> Self {
        let floor = match (options.consistency, options.session) {
            (Consistency::Monotonic, Some(session)) => session.seen(group),
            (Consistency::ReadMyWrites, Some(session)) => session.written(group),
            _ => Index(0),
        };
        Self { level: options.consistency, floor, patience: options.patience }
    }

    /// A session that has come so far.
    #[must_use]
    pub fn session(&self, group: GroupId) -> Session {
        let session = Session::new();
        if self.floor > Index(0) {
            session.wrote(group, self.floor);
        }
        session
    }

    /// The options that ask for this.
    pub const fn options<'a>(&self, session: &'a Session) -> ReadOptions<'a> {
        ReadOptions { consistency: self.level, patience: self.patience, session: Some(session) }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (level, argument) = match self.level {
            Consistency::Strong => (0, 0),
            Consistency::BoundedStaleness(bound) => (1, nanos(bound)),
            Consistency::Monotonic => (2, self.floor.0),
            Consistency::ReadMyWrites => (3, self.floor.0),
            Consistency::ConsistentPrefix => (4, 0),
            Consistency::Eventual => (5, 0),
        };
        out.push(level);
        out.extend_from_slice(&argument.to_le_bytes());
        out.extend_from_slice(&self.patience.map_or(0, nanos).to_le_bytes());
    }

    fn read(record: &[u8]) -> Result<Self, ProtocolError> {
        let (argument, patience) = (u64_at(record, 1), u64_at(record, 9));
        let level = match record[0] {
            0 => Consistency::Strong,
            1 => Consistency::BoundedStaleness(Duration::from_nanos(argument)),
            2 => Consistency::Monotonic,
            3 => Consistency::ReadMyWrites,
            4 => Consistency::ConsistentPrefix,
            5 => Consistency::Eventual,
            other => return Err(ProtocolError::Kind(other)),
        };
        let floor = if matches!(record[0], 2 | 3) { Index(argument) } else { Index(0) };
        Ok(Self { level, floor, patience: (patience > 0).then(|| Duration::from_nanos(patience)) })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// An age, or none, as one number.
fn age(staleness: Option<Duration>) -> u64 {
    staleness.map_or(0, |staleness| nanos(staleness).saturating_add(1))
}

fn staleness(age: u64) -> Option<Duration> {
    age.checked_sub(1).map(Duration::from_nanos)
}

/// One operation, borrowed from a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationRecord<'a> {
    /// What is asked for.
    pub kind: OperationKind,
    /// Of which group.
    pub group: GroupId,
    /// The client's mark.
    pub token: u64,
    /// Payload or query.
    pub bytes: &'a [u8],
}

/// Why bytes are not records of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A record announces an impossible size.
    #[error("a record of {0} bytes is impossible")]
    Size(usize),
    /// A kind or status is unknown.
    #[error("kind or status {0} is unknown")]
    Kind(u8),
}

/// Appends an operation to `out`.
pub fn write_operation(out: &mut Vec<u8>, operation: &OperationRecord<'_>) {
    let (kind, more) = match operation.kind {
        OperationKind::Propose => (1, 0),
        OperationKind::Read(_) => (2, DEMAND_BYTES),
    };
    out.extend_from_slice(&((OPERATION_BYTES + more + operation.bytes.len()) as u32).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&operation.group.0.to_le_bytes());
    out.extend_from_slice(&operation.token.to_le_bytes());
    if let OperationKind::Read(demand) = operation.kind {
        demand.write(out);
    }
    out.extend_from_slice(operation.bytes);
}

/// Reads the operation at `*at` and moves `*at` behind it; `None`, and nothing moved, if it is not all there yet.
///
/// # Errors
/// [`ProtocolError`]; the stream is then of no more use.
pub fn read_operation<'a>(
    bytes: &'a [u8],
    at: &mut usize,
) -> Result<Option<OperationRecord<'a>>, ProtocolError> {
    let Some(record) = record(bytes, at, OPERATION_BYTES)? else { return Ok(None) };
    let (head, rest) = record.split_at(OPERATION_BYTES);
    let (kind, bytes) = match head[0] {
        1 => (OperationKind::Propose, rest),
        2 => {
            let split = rest.split_at_checked(DEMAND_BYTES).ok_or(ProtocolError::Size(record.len()))?;
            (OperationKind::Read(ReadDemand::read(split.0)?), split.1)
        }
        other => return Err(ProtocolError::Kind(other)),
    };
    let (group, token) = (GroupId(u64_at(head, 1)), u64_at(head, 9));
    Ok(Some(OperationRecord { kind, group, token, bytes }))
}

/// Appends a completion to `out`.
pub fn write_completion(out: &mut Vec<u8>, completion: &Completion) {
    let (status, a, b, reply): (u8, u64, u64, &[u8]) = match &completion.outcome {
        Outcome::Proposal(Ok(applied)) => (0, applied.id.term.0, applied.id.index.0, &applied.reply),
        // A receipt travels as its contents: nothing asks for one over this protocol.
        Outcome::Relaxed(Ok(received)) => (0, received.id.term.0, received.id.index.0, &[]),
        Outcome::Proposal(Err(error)) | Outcome::Relaxed(Err(error)) => {
            let (status, a, b) = of_error(error);
            (status, a, b, &[])
        }
        Outcome::Read(Ok(answer)) => (READ, age(answer.staleness), answer.index.0, &answer.reply),
        Outcome::Read(Err(error)) => {
            let (status, a, b) = of_read_error(error);
            (READ | status, a, b, &[])
        }
    };
    out.extend_from_slice(&((COMPLETION_BYTES + reply.len()) as u32).to_le_bytes());
    out.push(status);
    out.extend_from_slice(&completion.token.to_le_bytes());
    out.extend_from_slice(&a.to_le_bytes());
    out.extend_from_slice(&b.to_le_bytes());
    out.extend_from_slice(reply);
}

fn of_error(error: &ProposeError) -> (u8, u64, u64) {
    match error {
        ProposeError::Busy => (1, 0, 0),
        ProposeError::NotLeader { hint } => (2, hint.map_or(0, |node| node.0), 0),
        ProposeError::TooLarge { bytes, max } => (4, *bytes as u64, *max as u64),
        ProposeError::StorageFull => (5, 0, 0),
        ProposeError::Poisoned => (6, 0, 0),
        ProposeError::NoSuchGroup(group) => (7, group.0, 0),
        ProposeError::Closed => (8, 0, 0),
        // `Unknown`, and whatever is not known here: the cautious reading.
        _ => (3, 0, 0),
    }
}

fn of_read_error(error: &ReadError) -> (u8, u64, u64) {
    match error {
        ReadError::Busy => (1, 0, 0),
        ReadError::NotLeader { hint } => (2, hint.map_or(0, |node| node.0), 0),
        ReadError::TooLarge { bytes, max } => (4, *bytes as u64, *max as u64),
        ReadError::NoSuchGroup(group) => (7, group.0, 0),
        ReadError::Stale { staleness } => (9, age(*staleness), 0),
        ReadError::Behind { applied, wanted } => (10, applied.0, wanted.0),
        _ => (8, 0, 0),
    }
}

/// Reads the completion at `*at` and moves `*at` behind it; `None`, and nothing moved, if it is not all there yet.
///
/// # Errors
/// [`ProtocolError`]; the stream is then of no more use.
pub fn read_completion(bytes: &[u8], at: &mut usize) -> Result<Option<Completion>, ProtocolError> {
    let Some(record) = record(bytes, at, COMPLETION_BYTES)? else { return Ok(None) };
    let (token, a, b) = (u64_at(record, 1), u64_at(record, 9), u64_at(record, 17));
    let reply = || match &record[COMPLETION_BYTES..] {
        [] => Bytes::new(),
        reply => Bytes::copy_from_slice(reply),
    };
    let hint = (a != 0).then_some(NodeId(a));
    let outcome = if record[0] & READ == 0 {
        Outcome::Proposal(match record[0] {
            0 => Ok(Applied { id: EntryId::new(Term(a), Index(b)), reply: reply() }),
            1 => Err(ProposeError::Busy),
            2 => Err(ProposeError::NotLeader { hint }),
            3 => Err(ProposeError::Unknown),
            4 => Err(ProposeError::TooLarge { bytes: a as usize, max: b as usize }),
            5 => Err(ProposeError::StorageFull),
            6 => Err(ProposeError::Poisoned),
            7 => Err(ProposeError::NoSuchGroup(GroupId(a))),
            8 => Err(ProposeError::Closed),
            other => return Err(ProtocolError::Kind(other)),
        })
    } else {
        Outcome::Read(match record[0] & !READ {
            0 => Ok(ReadAnswer { reply: reply(), index: Index(b), staleness: staleness(a) }),
            1 => Err(ReadError::Busy),
            2 => Err(ReadError::NotLeader { hint }),
            4 => Err(ReadError::TooLarge { bytes: a as usize, max: b as usize }),
            7 => Err(ReadError::NoSuchGroup(GroupId(a))),
            8 => Err(ReadError::Closed),
            9 => Err(ReadError::Stale { staleness: staleness(a) }),
            10 => Err(ReadError::Behind { applied: Index(a), wanted: Index(b) }),
            other => return Err(ProtocolError::Kind(other)),
        })
    };
    Ok(Some(Completion { token, outcome }))
}

/// The record at `*at`, without its size; at least `least` bytes long.
fn record<'a>(bytes: &'a [u8], at: &mut usize, least: usize) -> Result<Option<&'a [u8]>, ProtocolError> {
    let Some((size, rest)) = bytes[*at..].split_first_chunk::<4>() else { return Ok(None) };
    let size = u32::from_le_bytes(*size) as usize;
    if !(least..=RECORD_BYTES_MAX).contains(&size) {
        return Err(ProtocolError::Size(size));
    }
    let Some(record) = rest.get(..size) else { return Ok(None) };
    *at += 4 + size;
    Ok(Some(record))
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*record[at..].first_chunk().expect("the record's least size was checked"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn completion() -> impl Strategy<Value = Completion> {
        let bytes = prop::collection::vec(any::<u8>(), 0..40);
        (0..14u8, any::<(u64, u32, u32)>(), bytes).prop_map(|(kind, (token, a, b), reply)| {
            let (a, b) = (u64::from(a), u64::from(b));
            let answer = ReadAnswer { reply: reply.clone().into(), index: Index(b), staleness: staleness(a) };
            let read = match kind {
                9 => Some(Ok(answer)),
                10 => Some(Err(ReadError::NotLeader { hint: (a != 0).then_some(NodeId(a)) })),
                11 => Some(Err(ReadError::Stale { staleness: staleness(a) })),
                12 => Some(Err(ReadError::Behind { applied: Index(a), wanted: Index(b) })),
                13 => Some(Err(ReadError::Busy)),
                _ => None,
            };
            if let Some(read) = read {
                return Completion { token, outcome: Outcome::Read(read) };
            }
            let result = match kind {
                0 => Ok(Applied { id: EntryId::new(Term(a), Index(b)), reply: reply.into() }),
                1 => Err(ProposeError::Busy),
                2 => Err(ProposeError::NotLeader { hint: (a != 0).then_some(NodeId(a)) }),
                3 => Err(ProposeError::Unknown),
                4 => Err(ProposeError::TooLarge { bytes: a as usize, max: b as usize }),
                5 => Err(ProposeError::StorageFull),
                6 => Err(ProposeError::Poisoned),
                7 => Err(ProposeError::NoSuchGroup(GroupId(a))),
                _ => Err(ProposeError::Closed),
            };
            Completion { token, outcome: Outcome::Proposal(result) }
        })
    }

    proptest! {
        #[test]
        fn completions_survive_the_stream_however_it_is_cut(list in prop::collection::vec(completion(), 0..20), cut in any::<usize>()) {
            let mut stream = Vec::new();
            list.iter().for_each(|completion| write_completion(&mut stream, completion));
            let cut = cut % (stream.len() + 1);
            let (mut at, mut read) = (0, Vec::new());
            while let Some(completion) = read_completion(&stream[..cut], &mut at).unwrap() {
                read.push(completion);
            }
            while let Some(completion) = read_completion(&stream, &mut at).unwrap() {
                read.push(completion);
            }
            prop_assert_eq!(at, stream.len());
            prop_assert_eq!(read, list);
        }

        #[test]
        fn operations_survive_the_stream(list in prop::collection::vec((any::<(bool, u64, u64)>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let levels = [
                Consistency::Strong, Consistency::BoundedStaleness(Duration::from_millis(50)), Consistency::Monotonic,
                Consistency::ReadMyWrites, Consistency::ConsistentPrefix, Consistency::Eventual,
            ];
            let session = Session::new();
            session.wrote(GroupId(1), Index(9));
            let kind = |propose, group: u64, token: u64| if propose {
                OperationKind::Propose
            } else {
                let options = ReadOptions::new(levels[group as usize % levels.len()]).in_session(&session);
                let options = if token.is_multiple_of(2) { options } else { options.or_wait(Duration::from_secs(1)) };
                OperationKind::Read(ReadDemand::of(&options, GroupId(token % 3)))
            };
            let records: Vec<_> = list.iter().map(|((propose, group, token), bytes)| {
                OperationRecord { kind: kind(*propose, *group, *token), group: GroupId(*group), token: *token, bytes }
            }).collect();
            let mut stream = Vec::new();
            records.iter().for_each(|record| write_operation(&mut stream, record));
            let (mut at, mut read) = (0, Vec::new());
            while let Some(operation) = read_operation(&stream, &mut at).unwrap() {
                read.push(operation);
            }
            prop_assert_eq!(read, records);
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut at = 0;
            while let Ok(Some(_)) = read_operation(&bytes, &mut at) {}
            at = 0;
            while let Ok(Some(_)) = read_completion(&bytes, &mut at) {}
        }
    }

    #[test]
    fn an_impossible_size_is_refused_before_anything_is_waited_for() {
        assert_eq!(read_completion(&[0xFF; 4], &mut 0), Err(ProtocolError::Size(u32::MAX as usize)));
        assert_eq!(read_operation(&[1, 0, 0, 0], &mut 0), Err(ProtocolError::Size(1)));
    }
}
