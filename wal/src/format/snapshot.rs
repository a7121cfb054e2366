//! A snapshot file's header. The body is the state machine's.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "RWSNAP\0\1"
//!      8     4  header_crc         CRC32 of the header from byte 12 on, and of the configuration
//!     12     4  body_crc
//!     16     8  group
//!     24     8  term
//!     32     8  index
//!     40     8  body length
//!     48     4  configuration length; 0 for none
//!     52     4  zero
//!     56        configuration, then the body
//! ```
//! Not here: the calls on such files, and their names (`background`).

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, Term};

const MAGIC: [u8; 8] = *b"RWSNAP\0\x01";
pub(crate) const HEADER_BYTES: usize = 56;
const _: () =
    assert!(HEADER_BYTES == MAGIC.len() + 2 * size_of::<u32>() + 5 * size_of::<u64>(), "all fields");
/// The longest header, configuration included.
pub(crate) const HEAD_BYTES_MAX: usize = HEADER_BYTES + Configuration::BYTES_MAX;

/// The header of a complete snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The group.
    pub group: GroupId,
    /// The last entry it covers.
    pub id: EntryId,
    /// The configuration at that entry.
    pub configuration: Configuration,
    /// Length of the whole file, header included, as transferred.
    pub bytes: u64,
    /// CRC32 of the body.
    pub crc: u32,
}

pub(crate) fn encode(
    group: GroupId,
    id: EntryId,
    configuration: &Configuration,
    body_bytes: u64,
    body_crc: u32,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&body_crc.to_le_bytes());
    for word in [group.0, id.term.0, id.index.0, body_bytes, 0] {
        head.extend_from_slice(&word.to_le_bytes());
    }
    assert!(head.len() == HEADER_BYTES, "the configuration follows the header's fields");
    if *configuration != Configuration::default() {
        configuration.encode(&mut head);
    }
    let configuration_bytes =
        u32::try_from(head.len() - HEADER_BYTES).expect("a configuration names few replicas");
    head[48..52].copy_from_slice(&configuration_bytes.to_le_bytes());
    let crc = crc32fast::hash(&head[12..]);
    head[8..12].copy_from_slice(&crc.to_le_bytes());
    assert!(head.len() <= HEAD_BYTES_MAX, "a header is read back whole");
    head
}

/// Decodes the head of a file; returns the header and the body's offset, or the damage's offset and
/// description.
pub(crate) fn decode(head: &[u8]) -> Result<(SnapshotMeta, u64), (u64, &'static str)> {
    if head.len() < HEADER_BYTES {
        return Err((head.len() as u64, "the header is cut short"));
    }
    if head[..8] != MAGIC {
        return Err((0, "it does not begin like a snapshot"));
    }
    let half = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
    let end = HEADER_BYTES + half(48) as usize;
    let Some(covered) = head.get(12..end) else { return Err((48, "the header is cut short")) };
    if half(8) != crc32fast::hash(covered) {
        return Err((0, "the header's checksum does not match"));
    }
    let configuration = match &head[HEADER_BYTES..end] {
        [] => Configuration::default(),
        bytes => Configuration::decode(bytes).map_err(|_| (HEADER_BYTES as u64, "no configuration"))?,
    };
    let bytes = word(40).checked_add(end as u64).ok_or((40, "the body is too long"))?;
    let id = EntryId::new(Term(word(24)), Index(word(32)));
    Ok((SnapshotMeta { group: GroupId(word(16)), id, configuration, bytes, crc: half(12) }, end as u64))
}
