//! A node's durable notes about its peers, besides its groups: one small file, replaced as a whole, and kept
//! twice (`format::mirrored_file`).
//!
//! ```text
//! peers, peers.2 = magic "RWPEERS\x01", count u32, support u32, entry × count, crc u32 of all before
//! entry = node u64, log u64
//! ```
//! `support` is in milliseconds; 0 if nothing is noted. Not here: the use of the notes, which is the
//! engine's.

use std::io;
use std::time::Duration;

use raftwerk_frame::{LogId, NodeId};

use crate::disk::files::Files;
use crate::error::OpenError;
use crate::format::mirrored_file::{CopyState, MirroredFile};

const MAGIC: [u8; 8] = *b"RWPEERS\x01";
const HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 16;
/// Far more than the nodes of any cluster; checked before memory is allocated.
const PEERS_MAX: usize = 1 << 16;
const _: () = assert!(PEERS_MAX <= u32::MAX as usize, "the count of peers fits its field");
const _: () = assert!(HEAD_BYTES == MAGIC.len() + 2 * size_of::<u32>(), "magic, count and support");
const PEERS: MirroredFile = MirroredFile {
    names: ["peers", "peers.2"],
    unfinished: "peers.tmp",
    bytes_max: (HEAD_BYTES + PEERS_MAX * ENTRY_BYTES + 4) as u64,
};

/// The note about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerNote {
    /// The peer.
    pub node: NodeId,
    /// The id of its log.
    pub log: LogId,
}

/// All notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNotes {
    /// The log id that each peer had at first contact.
    pub peers: Vec<PeerNote>,
    /// The longest time for which this node may have supported a peer, and so has to abstain from votes after
    /// a restart. Kept in milliseconds, rounded up; zero if nothing is noted.
    pub support: Duration,
}

/// Reads the notes from either copy; default if there is none. Rewrites the other copy if it is not whole:
/// best effort, since the disk may be full.
pub(crate) fn read<F: Files>(files: &F) -> Result<PeerNotes, OpenError> {
    let decoded = |name, bytes: &[u8]| {
        decode(bytes).ok_or_else(|| OpenError::corrupt(name, 0, "its checksum does not match"))
    };
    match PEERS.read(files, decoded) {
        [CopyState::Whole(notes), other] => {
            if !other.is_whole() {
                let _ = PEERS.write_copy(files, 1, &encode(&notes));
            }
            Ok(notes)
        }
        [_, CopyState::Whole(notes)] => {
            let _ = PEERS.write_copy(files, 0, &encode(&notes));
            Ok(notes)
        }
        [CopyState::Absent, CopyState::Absent] => Ok(PeerNotes::default()),
        [CopyState::Bad(error), _] | [_, CopyState::Bad(error)] => Err(error),
    }
}

/// Replaces both copies: whole and durable when it returns. On an error the first copy is whole: the old one
/// or the new one.
pub(crate) fn write<F: Files>(files: &F, notes: &PeerNotes) -> io::Result<()> {
    if notes.peers.len() > PEERS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    PEERS.write(files, &encode(notes))
}

fn encode(PeerNotes { peers, support }: &PeerNotes) -> Vec<u8> {
    assert!(peers.len() <= PEERS_MAX, "the notes that are written are bounded");
    let support_ms = u32::try_from(support.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + peers.len() * ENTRY_BYTES + 4);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(peers.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&support_ms.to_le_bytes());
    for PeerNote { node, log } in peers {
        bytes.extend_from_slice(&node.0.to_le_bytes());
        bytes.extend_from_slice(&log.0.to_le_bytes());
    }
    assert!(
        bytes.len() == HEAD_BYTES + peers.len() * ENTRY_BYTES,
        "the notes have the length of their count"
    );
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<PeerNotes> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let (head, entries) = body.split_first_chunk::<HEAD_BYTES>()?;
    let count = u32::from_le_bytes(*head[8..].first_chunk()?) as usize;
    let is_whole = head[..8] == MAGIC
        && entries.len() == count.checked_mul(ENTRY_BYTES)?
        && crc32fast::hash(body) == u32::from_le_bytes(*crc);
    let word = |entry: &[u8], at: usize| entry[at..].first_chunk().map(|word| u64::from_le_bytes(*word));
    let entry = |entry: &[u8]| Some(PeerNote { node: NodeId(word(entry, 0)?), log: LogId(word(entry, 8)?) });
    if !is_whole {
        return None;
    }
    let support = Duration::from_millis(u64::from(u32::from_le_bytes(*head[12..].first_chunk()?)));
    Some(PeerNotes { peers: entries.chunks_exact(ENTRY_BYTES).map(entry).collect::<Option<_>>()?, support })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::MemoryFiles;

    #[test]
    fn what_was_noted_is_read_and_a_flip_or_a_cut_anywhere_is_refused() {
        let note = |node, log| PeerNote { node: NodeId(node), log: LogId(log) };
        let peers = vec![note(2, 77), note(9, u64::MAX)];
        let notes = PeerNotes { peers, support: Duration::from_millis(700) };
        let bytes = encode(&notes);
        assert_eq!(decode(&bytes), Some(notes.clone()));
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 4;
            assert_eq!(decode(&spoilt), None);
            assert_eq!(decode(&bytes[..at]), None);
        }
        let files = MemoryFiles::new();
        assert_eq!(read(&files).unwrap(), PeerNotes::default());
        write(&files, &notes).unwrap();
        let fewer = PeerNotes { peers: notes.peers[..1].to_vec(), support: Duration::from_micros(10) };
        write(&files, &fewer).unwrap();
        let rounded = PeerNotes { support: Duration::from_millis(1), ..fewer };
        assert_eq!(read(&files).unwrap(), rounded, "support is never noted shorter than it is");
    }
}
