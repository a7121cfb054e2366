//! The units of a snapshot transfer: a header (`Head`), and perhaps a chunk of the file.
//!
//! ```text
//! unit body = kind u8 (1 chunk, 2 ack, 3 refusal, 4 log start, 5 bootstrap), flags u8 (1 names the receiver, 2 names the sender, 4 has the
//!             receiver for a witness, 8 start), account u16, crc u32 of the file's body, group u64, leader's term u64,
//!             id.term u64, id.index u64, offset u64, total u64, bytes of the snapshot file; or of log start and bootstrap: the
//!             configuration
//! ```
//! A chunk without bytes requests the offset that the receiver has reached. An acknowledgement covers
//! everything before its offset, as written; with the flag *start*, the next chunk to be sent begins there:
//! the reply to such a request, or to a chunk behind a gap.

use bytes::BytesMut;
use raftwerk_frame::{EntryId, GroupId, Index, Term};

/// Largest chunk, in bytes.
pub(in crate::worker) const CHUNK_BYTES: u64 = 256 << 10;
/// Most chunks of one transfer in flight. Fewer after a loss, until acknowledgements come again.
pub(in crate::worker) const WINDOW_CHUNKS: u64 = 8;
/// Bytes of a unit's header.
pub(in crate::worker) const HEAD_BYTES: usize = 56;

/// The header of a snapshot unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::worker) struct Head {
    pub(in crate::worker) kind: u8,
    /// The sender's configuration names the receiver's log.
    pub(in crate::worker) is_named: bool,
    /// The sender's configuration names the sender's log.
    pub(in crate::worker) names_itself: bool,
    /// The sender's configuration has the receiver as a witness.
    pub(in crate::worker) to_witness: bool,
    /// Of an acknowledgement: the next chunk to be sent begins at its offset.
    pub(in crate::worker) is_start: bool,
    /// Checksum of the file's body. With entry id and length it identifies the file: a node may make several
    /// of one entry.
    pub(in crate::worker) crc: u32,
    /// The leader's progress epoch of the receiver.
    pub(in crate::worker) progress_epoch: u16,
    pub(in crate::worker) group: GroupId,
    pub(in crate::worker) term: Term,
    pub(in crate::worker) id: EntryId,
    pub(in crate::worker) offset: u64,
    pub(in crate::worker) total: u64,
}

pub(in crate::worker) const CHUNK: u8 = 1;
pub(in crate::worker) const ACK: u8 = 2;
pub(in crate::worker) const REFUSAL: u8 = 3;
/// Sent to a witness in place of a snapshot: the entry that the log begins after, and the configuration
/// there.
pub(in crate::worker) const LOG_START: u8 = 4;
/// Sent to an initial member that has lost the record of its bootstrap: the same.
pub(in crate::worker) const BOOTSTRAP: u8 = 5;

impl Head {
    pub(in crate::worker) fn encode(&self, out: &mut BytesMut) {
        let [low, high] = self.progress_epoch.to_le_bytes();
        out.extend_from_slice(&[
            self.kind,
            u8::from(self.is_named)
                | u8::from(self.names_itself) << 1
                | u8::from(self.to_witness) << 2
                | u8::from(self.is_start) << 3,
            low,
            high,
        ]);
        out.extend_from_slice(&self.crc.to_le_bytes());
        let words = [self.group.0, self.term.0, self.id.term.0, self.id.index.0, self.offset, self.total];
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    pub(in crate::worker) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let word = |n: usize| u64::from_le_bytes(head[8 + 8 * n..][..8].try_into().expect("eight bytes"));
        let parsed = Self {
            kind: head[0],
            is_named: head[1] & 1 != 0,
            names_itself: head[1] & 2 != 0,
            to_witness: head[1] & 4 != 0,
            is_start: head[1] & 8 != 0,
            crc: u32::from_le_bytes([head[4], head[5], head[6], head[7]]),
            progress_epoch: u16::from_le_bytes([head[2], head[3]]),
            group: GroupId(word(0)),
            term: Term(word(1)),
            id: EntryId::new(Term(word(2)), Index(word(3))),
            offset: word(4),
            total: word(5),
        };
        let known = matches!(parsed.kind, CHUNK | ACK | REFUSAL | LOG_START | BOOTSTRAP);
        let inside = parsed.offset.checked_add(rest.len() as u64).is_some_and(|end| end <= parsed.total);
        (known && inside && rest.len() as u64 <= CHUNK_BYTES).then_some((parsed, HEAD_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_round_trip_and_nonsense_is_refused() {
        let head = Head {
            kind: CHUNK,
            is_named: true,
            names_itself: false,
            to_witness: true,
            is_start: true,
            crc: 0x0403_0201,
            progress_epoch: 513,
            group: GroupId(3),
            term: Term(4),
            id: EntryId::new(Term(2), Index(90)),
            offset: 10,
            total: 14,
        };
        let mut bytes = BytesMut::new();
        head.encode(&mut bytes);
        bytes.extend_from_slice(b"four");
        assert_eq!(Head::parse(&bytes), Some((head, HEAD_BYTES)));
        bytes.extend_from_slice(b"!");
        assert_eq!(Head::parse(&bytes), None, "beyond the total");
        assert_eq!(Head::parse(&bytes[..HEAD_BYTES - 1]), None, "cut short");
        bytes[0] = 9;
        assert_eq!(Head::parse(&bytes[..HEAD_BYTES]), None, "unknown kind");
    }
}
