//! Whose log each peer had when it was first heard: one small file, replaced as a whole.
//!
//! ```text
//! peers = magic "RWPEERS\x01", count u32, zero u32, entry × count, crc u32 of all before
//! entry = node u64, log u64
//! ```
//! What is not here: what is done with it; that is the engine's.

use std::io::{self, IoSlice};

use raftwerk_frame::{LogId, NodeId};

use crate::disk::{Access, Files};
use crate::error::OpenError;

const PEERS: &str = "peers";
const PEERS_TMP: &str = "peers.tmp";
const MAGIC: [u8; 8] = *b"RWPEERS\x01";
const HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 16;
/// Far more than the nodes of any cluster; checked before memory is taken.
const PEERS_MAX: usize = 1 << 16;

/// What is noted of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerNote {
    /// The peer.
    pub node: NodeId,
    /// Its log.
    pub log: LogId,
}

/// What the file says; nothing if there is none.
pub(crate) fn read<F: Files>(files: &F) -> Result<Vec<PeerNote>, OpenError> {
    let file = match files.open(PEERS, Access::Plain) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(OpenError::Io { file: PEERS.to_owned(), source }),
    };
    let length = files.len(&file).map_err(OpenError::io(PEERS))?;
    if length > (HEAD_BYTES + PEERS_MAX * ENTRY_BYTES + 4) as u64 {
        return Err(OpenError::corrupt(PEERS, 0, "it is too long"));
    }
    let mut bytes = vec![0; length as usize];
    let read = files.read_at(&file, 0, &mut bytes).map_err(OpenError::io(PEERS))?;
    bytes.truncate(read);
    decode(&bytes).ok_or_else(|| OpenError::corrupt(PEERS, 0, "its checksum does not match"))
}

/// Replaces the file: whole and durable when it returns, or as it was.
pub(crate) fn write<F: Files>(files: &F, peers: &[PeerNote]) -> io::Result<()> {
    if peers.len() > PEERS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = files.create(PEERS_TMP, 0)?;
    files.write_at(&file, 0, &[IoSlice::new(&encode(peers))], false)?;
    files.sync(&file)?;
    files.rename(PEERS_TMP, PEERS)?;
    files.sync_dir("")
}

fn encode(peers: &[PeerNote]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + peers.len() * ENTRY_BYTES + 4);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(peers.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for PeerNote { node, log } in peers {
        bytes.extend_from_slice(&node.0.to_le_bytes());
        bytes.extend_from_slice(&log.0.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<PeerNote>> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let (head, entries) = body.split_first_chunk::<HEAD_BYTES>()?;
    let count = u32::from_le_bytes(*head[8..].first_chunk()?) as usize;
    let is_whole = head[..8] == MAGIC
        && entries.len() == count.checked_mul(ENTRY_BYTES)?
        && crc32fast::hash(body) == u32::from_le_bytes(*crc);
    let word = |entry: &[u8], at: usize| entry[at..].first_chunk().map(|word| u64::from_le_bytes(*word));
    let entry = |entry: &[u8]| Some(PeerNote { node: NodeId(word(entry, 0)?), log: LogId(word(entry, 8)?) });
    if is_whole { entries.chunks_exact(ENTRY_BYTES).map(entry).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryFiles;

    #[test]
    fn what_was_noted_is_read_and_a_flip_or_a_cut_anywhere_is_refused() {
        let note = |node, log| PeerNote { node: NodeId(node), log: LogId(log) };
        let peers = vec![note(2, 77), note(9, u64::MAX)];
        let bytes = encode(&peers);
        assert_eq!(decode(&bytes), Some(peers.clone()));
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 4;
            assert_eq!(decode(&spoilt), None);
            assert_eq!(decode(&bytes[..at]), None);
        }
        let files = MemoryFiles::new();
        assert_eq!(read(&files).unwrap(), []);
        write(&files, &peers).unwrap();
        write(&files, &peers[..1]).unwrap();
        assert_eq!(read(&files).unwrap(), peers[..1]);
    }
}
