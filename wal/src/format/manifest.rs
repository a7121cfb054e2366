//! The manifest: which lanes a log has, and the log's identity. Kept twice (`mirrored_file`).
//!
//! ```text
//! manifest, manifest.2    magic "RWLOG\0\0\1", version u32, lanes u32, log id u64, first lane u32, crc u32 of the 28 bytes before
//! ```
//! The version is 4 until the log's lanes are first replaced, then 5: a build that does not support that must
//! refuse the log. Not here: when the manifest is written, and from what it is rebuilt (`directory`).

use std::ops::Range;

use crate::error::OpenError;
use crate::format::FORMAT_VERSION;
use crate::format::mirrored_file::MirroredFile;

const MANIFEST_BYTES: usize = 32;
pub(crate) const MANIFEST: MirroredFile = MirroredFile {
    names: ["manifest", "manifest.2"],
    unfinished: "manifest.tmp",
    bytes_max: MANIFEST_BYTES as u64,
};
const MAGIC: [u8; 8] = *b"RWLOG\0\0\x01";
const _: () = assert!(MOVED_VERSION > FORMAT_VERSION, "a build that moves no lanes refuses moved ones");
const _: () = assert!(MANIFEST_BYTES == 28 + size_of::<u32>(), "the checksum ends the manifest");
/// The manifest version if the first lane is not lane 0.
const MOVED_VERSION: u32 = 5;

/// The set of lanes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneSet {
    /// The number of the first lane; the others follow.
    pub(crate) first: u16,
    pub(crate) lanes: u16,
    pub(crate) log_id: u64,
}

impl LaneSet {
    pub(crate) const fn numbers(self) -> Range<u16> {
        self.first..self.first + self.lanes
    }

    /// The set of `lanes` lanes that can replace this one: numbered behind a gap. `None` if no numbers are
    /// left.
    pub(crate) fn next(self, lanes: u16) -> Option<Self> {
        let first = self.first.checked_add(self.lanes)?.checked_add(1)?;
        assert!(!self.numbers().contains(&first), "a lane's number is never used again");
        first.checked_add(lanes).map(|_| Self { first, lanes, log_id: self.log_id })
    }
}

pub(crate) fn encode_manifest(set: LaneSet) -> [u8; MANIFEST_BYTES] {
    let mut bytes = [0; MANIFEST_BYTES];
    let version = if set.first == 0 { FORMAT_VERSION } else { MOVED_VERSION };
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::from(set.lanes).to_le_bytes());
    bytes[16..24].copy_from_slice(&set.log_id.to_le_bytes());
    bytes[24..28].copy_from_slice(&u32::from(set.first).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) fn decode_manifest(name: &'static str, bytes: &[u8]) -> Result<LaneSet, OpenError> {
    let Ok(bytes) = <&[u8; MANIFEST_BYTES]>::try_from(bytes) else {
        return Err(OpenError::corrupt(name, bytes.len() as u64, "it has the wrong length"));
    };
    if bytes[..8] != MAGIC {
        return Err(OpenError::corrupt(name, 0, "it does not begin like a manifest"));
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (found, known) = (word(8), FORMAT_VERSION);
    if ![FORMAT_VERSION, MOVED_VERSION].contains(&found) {
        return Err(OpenError::Version { file: name.to_owned(), found, known });
    }
    if word(28) != crc32fast::hash(&bytes[..28]) {
        return Err(OpenError::corrupt(name, 0, "its checksum does not match"));
    }
    let lanes = u16::try_from(word(12)).map_err(|_| OpenError::corrupt(name, 12, "too many lanes"))?;
    let first = u16::try_from(word(24)).ok().filter(|first| first.checked_add(lanes).is_some());
    let first = first.ok_or_else(|| OpenError::corrupt(name, 24, "too many lanes"))?;
    Ok(LaneSet { first, lanes, log_id: u64::from(word(16)) | u64::from(word(20)) << 32 })
}
