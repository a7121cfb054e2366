//! The bytes between a client and a node in another process: batches of operations one way, of completions the other.
//!
//! ```text
//! operation  = size u32, kind u8 (1 propose, 2 read), group u64, token u64, bytes
//! completion = size u32, status u8, token u64, term u64, index u64, bytes
//!              status 0: acknowledged or answered; bytes are the reply
//!              status 1 busy, 2 not the leader (term: the hint, 0 for none), 3 unknown, 4 too large (term: bytes,
//!              index: limit), 5 storage full, 6 poisoned, 7 no such group (term: group), 8 closed
//! ```
//! Integers are little-endian; `size` counts what follows it. Records stand one after another in a Unix-domain stream.
//! Pure: no socket here.

use bytes::Bytes;
use raftwerk::{Applied, Completion, EntryId, GroupId, Index, NodeId, ProposeError, Term};

/// The longest record either side accepts.
pub const RECORD_BYTES_MAX: usize = 32 << 20;
const OPERATION_BYTES: usize = 17;
const COMPLETION_BYTES: usize = 25;

/// What an operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Propose the bytes.
    Propose,
    /// Answer the query, linearizably.
    Read,
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
    out.extend_from_slice(&((OPERATION_BYTES + operation.bytes.len()) as u32).to_le_bytes());
    out.push(match operation.kind {
        OperationKind::Propose => 1,
        OperationKind::Read => 2,
    });
    out.extend_from_slice(&operation.group.0.to_le_bytes());
    out.extend_from_slice(&operation.token.to_le_bytes());
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
    let kind = match record[0] {
        1 => OperationKind::Propose,
        2 => OperationKind::Read,
        other => return Err(ProtocolError::Kind(other)),
    };
    let (group, token) = (GroupId(u64_at(record, 1)), u64_at(record, 9));
    Ok(Some(OperationRecord { kind, group, token, bytes: &record[OPERATION_BYTES..] }))
}

/// Appends a completion to `out`.
pub fn write_completion(out: &mut Vec<u8>, completion: &Completion) {
    let (status, a, b, reply): (u8, u64, u64, &[u8]) = match &completion.result {
        Ok(applied) => (0, applied.id.term.0, applied.id.index.0, &applied.reply),
        Err(ProposeError::Busy) => (1, 0, 0, &[]),
        Err(ProposeError::NotLeader { hint }) => (2, hint.map_or(0, |node| node.0), 0, &[]),
        Err(ProposeError::TooLarge { bytes, max }) => (4, *bytes as u64, *max as u64, &[]),
        Err(ProposeError::StorageFull) => (5, 0, 0, &[]),
        Err(ProposeError::Poisoned) => (6, 0, 0, &[]),
        Err(ProposeError::NoSuchGroup(group)) => (7, group.0, 0, &[]),
        Err(ProposeError::Closed) => (8, 0, 0, &[]),
        // `Unknown`, and whatever is not known here: the cautious reading.
        Err(_) => (3, 0, 0, &[]),
    };
    out.extend_from_slice(&((COMPLETION_BYTES + reply.len()) as u32).to_le_bytes());
    out.push(status);
    out.extend_from_slice(&completion.token.to_le_bytes());
    out.extend_from_slice(&a.to_le_bytes());
    out.extend_from_slice(&b.to_le_bytes());
    out.extend_from_slice(reply);
}

/// Reads the completion at `*at` and moves `*at` behind it; `None`, and nothing moved, if it is not all there yet.
///
/// # Errors
/// [`ProtocolError`]; the stream is then of no more use.
pub fn read_completion(bytes: &[u8], at: &mut usize) -> Result<Option<Completion>, ProtocolError> {
    let Some(record) = record(bytes, at, COMPLETION_BYTES)? else { return Ok(None) };
    let (token, a, b) = (u64_at(record, 1), u64_at(record, 9), u64_at(record, 17));
    let result = match record[0] {
        0 => {
            let reply = match &record[COMPLETION_BYTES..] {
                [] => Bytes::new(),
                reply => Bytes::copy_from_slice(reply),
            };
            Ok(Applied { id: EntryId::new(Term(a), Index(b)), reply })
        }
        1 => Err(ProposeError::Busy),
        2 => Err(ProposeError::NotLeader { hint: (a != 0).then_some(NodeId(a)) }),
        3 => Err(ProposeError::Unknown),
        4 => Err(ProposeError::TooLarge { bytes: a as usize, max: b as usize }),
        5 => Err(ProposeError::StorageFull),
        6 => Err(ProposeError::Poisoned),
        7 => Err(ProposeError::NoSuchGroup(GroupId(a))),
        8 => Err(ProposeError::Closed),
        other => return Err(ProtocolError::Kind(other)),
    };
    Ok(Some(Completion { token, result }))
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
        (0..9u8, any::<(u64, u32, u32)>(), bytes).prop_map(|(kind, (token, a, b), reply)| {
            let (a, b) = (u64::from(a), u64::from(b));
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
            Completion { token, result }
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
            let kind = |propose| if propose { OperationKind::Propose } else { OperationKind::Read };
            let records: Vec<_> = list.iter().map(|((propose, group, token), bytes)| {
                OperationRecord { kind: kind(*propose), group: GroupId(*group), token: *token, bytes }
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
