//! The log's directory: one engine at a time, and a manifest that says what the lanes in it are.
//!
//! ```text
//! lock                    held by the engine that has the log open
//! manifest, manifest.2    twice: magic "RWLOG\0\0\1", version u32, lanes u32, log id u64, zero u32, crc u32 of the 28 bytes before
//! peers, peers.2          twice: what is noted of other nodes: see `peers_file`
//! lane-<n>/seg-<sequence>.log      a segment; lane-<n>/spare-<sequence>.old is one waiting to be used again
//! lane-<n>/snapshots/              see `snapshot_file`
//! ```
//! What is not here: the lanes' content. Next: `recovery`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Access, Files};
use crate::error::OpenError;
use crate::peers_file::{self, Notes, PeerNote};
use crate::segment::{PAGE_BYTES, SegmentHeader, lane_dir};
use crate::twin::{Found, Twin};

const LOCK: &str = "lock";
const MANIFEST_BYTES: usize = 32;
const MANIFEST: Twin =
    Twin { names: ["manifest", "manifest.2"], unfinished: "manifest.tmp", bytes_max: MANIFEST_BYTES as u64 };
const MAGIC: [u8; 8] = *b"RWLOG\0\0\x01";
/// The version of everything below the directory.
pub(crate) const FORMAT_VERSION: u32 = 4;

/// A locked log directory. Clones share the lock; it is let go with the last one.
#[derive(Debug)]
pub struct Directory<F: Files>(Arc<Locked<F>>);

#[derive(Debug)]
struct Locked<F: Files> {
    files: F,
    lanes: u16,
    log_id: u64,
    notes: Notes,
    _lock: F::File,
}

impl<F: Files> Clone for Directory<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: Files> Directory<F> {
    /// Locks the directory and reads its manifest, or writes one if the directory is new. Blocks.
    ///
    /// `fresh_log_id` names the log if it is new; it should be random, since it keeps the bytes of one log from
    /// being taken for another's.
    ///
    /// # Errors
    /// [`OpenError::InUse`], [`OpenError::LaneCount`], [`OpenError::Version`], [`OpenError::Corrupt`] where both copies of the
    /// manifest, and all that could take their place, are damaged or gone, or both copies of what is noted of peers;
    /// [`OpenError::Io`].
    pub fn open(files: F, lanes: u16, fresh_log_id: u64) -> Result<Self, OpenError> {
        if lanes == 0 {
            return Err(OpenError::Options("a log has at least one lane"));
        }
        let lock = files.lock(LOCK).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse,
            _ => OpenError::Io { file: LOCK.to_owned(), source },
        })?;
        let (on_disk, log_id) = match read_manifest(&files)? {
            Some(manifest) => {
                // Its name may have been given by a life that ended before that was durable.
                files.sync_dir("").map_err(OpenError::io(MANIFEST.names[0]))?;
                manifest.mend(&files);
                (manifest.lanes, manifest.log_id)
            }
            None => {
                write_manifest(&files, lanes, fresh_log_id).map_err(OpenError::io(MANIFEST.names[0]))?;
                (lanes, fresh_log_id)
            }
        };
        if on_disk != lanes {
            return Err(OpenError::LaneCount { on_disk, wanted: lanes });
        }
        let notes = peers_file::read(&files)?;
        Ok(Self(Arc::new(Locked { files, lanes, log_id, notes, _lock: lock })))
    }

    /// The calls on the directory.
    #[must_use]
    pub fn files(&self) -> &F {
        &self.0.files
    }

    /// How many lanes the log has.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.0.lanes
    }

    /// What tells this log from every other.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.0.log_id
    }

    /// Which log each peer had, as it was noted when the directory was opened ([`Lane::note`]).
    ///
    /// [`Lane::note`]: crate::Lane::note
    #[must_use]
    pub fn peers(&self) -> &[PeerNote] {
        &self.0.notes.peers
    }

    /// For how long this node may have promised to support others before the directory was opened; zero if that was never
    /// noted.
    #[must_use]
    pub fn support(&self) -> Duration {
        self.0.notes.support
    }

    /// Notes a longer such time, durably, beside the peers that were noted at opening. Blocks for a few syncs: for opening only,
    /// before the node gives any support.
    ///
    /// # Errors
    /// [`OpenError::Io`]; what was noted before still is.
    pub fn note_support(&self, support: Duration) -> Result<(), OpenError> {
        let notes = Notes { peers: self.0.notes.peers.clone(), support };
        peers_file::write(&self.0.files, &notes).map_err(OpenError::io("peers"))
    }
}

fn encode_manifest(lanes: u16, log_id: u64) -> [u8; MANIFEST_BYTES] {
    let mut bytes = [0; MANIFEST_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::from(lanes).to_le_bytes());
    bytes[16..24].copy_from_slice(&log_id.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn write_manifest<F: Files>(files: &F, lanes: u16, log_id: u64) -> io::Result<()> {
    for lane in 0..lanes {
        files.create_dir(&lane_dir(lane))?;
    }
    MANIFEST.write(files, &encode_manifest(lanes, log_id))
}

/// What a log is, as far as it can be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) lanes: u16,
    pub(crate) log_id: u64,
    /// Which of the copies say so.
    is_there: [bool; 2],
}

impl Manifest {
    /// Writes again the copies that are not whole. A wish: where there is no room for it, the log opens all the same.
    fn mend<F: Files>(&self, files: &F) {
        for copy in (0..2).filter(|copy| !self.is_there[*copy]) {
            let _ = MANIFEST.write_copy(files, copy, &encode_manifest(self.lanes, self.log_id));
        }
    }
}

/// What the log's manifest says: either copy, or, where both are gone, what the segments' first pages say. `None` if there is no
/// log.
///
/// # Errors
/// Where it cannot be told: nothing is left that says which log this is, or what is left contradicts itself.
pub(crate) fn read_manifest<F: Files>(files: &F) -> Result<Option<Manifest>, OpenError> {
    let found = MANIFEST.read(files, decode_manifest);
    let is_there = [found[0].is_whole(), found[1].is_whole()];
    let (mut whole, mut bad) = (Vec::new(), None);
    for copy in found {
        match copy {
            Found::Whole(said) => whole.push(said),
            // Of another version: that is worth more than that the other one is gone.
            Found::Bad(error @ OpenError::Version { .. }) => bad = Some(error),
            Found::Bad(error) => bad = bad.or(Some(error)),
            Found::Absent => {}
        }
    }
    match (&whole[..], bad) {
        ([one, other], _) if one != other => {
            Err(OpenError::corrupt(MANIFEST.names[0], 0, "its two copies contradict each other"))
        }
        ([(lanes, log_id), ..], _) => Ok(Some(Manifest { lanes: *lanes, log_id: *log_id, is_there })),
        ([], Some(error @ OpenError::Version { .. })) => Err(error),
        ([], bad) => from_segments(files, bad),
    }
}

fn decode_manifest(name: &'static str, bytes: &[u8]) -> Result<(u16, u64), OpenError> {
    let Ok(bytes) = <&[u8; MANIFEST_BYTES]>::try_from(bytes) else {
        return Err(OpenError::corrupt(name, bytes.len() as u64, "it has the wrong length"));
    };
    if bytes[..8] != MAGIC {
        return Err(OpenError::corrupt(name, 0, "it does not begin like a manifest"));
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (found, known) = (word(8), FORMAT_VERSION);
    if found != known {
        return Err(OpenError::Version { file: name.to_owned(), found, known });
    }
    if word(28) != crc32fast::hash(&bytes[..28]) {
        return Err(OpenError::corrupt(name, 0, "its checksum does not match"));
    }
    let lanes = u16::try_from(word(12)).map_err(|_| OpenError::corrupt(name, 12, "too many lanes"))?;
    Ok((lanes, u64::from(word(16)) | u64::from(word(20)) << 32))
}

/// Each segment's first page says which log it is of, and there is a directory for each lane since before there was a manifest. A
/// log that was lost must not be taken for a new one.
fn from_segments<F: Files>(files: &F, bad: Option<OpenError>) -> Result<Option<Manifest>, OpenError> {
    let (mut lanes, mut log_id, mut has_segments) = (0, None, false);
    while let Some(names) = list_lane(files, lanes)? {
        for sequence in names.iter().filter_map(|name| crate::segment::sequence_of(name)) {
            has_segments = true;
            let path = crate::segment::segment_path(lanes, sequence);
            let Some(header) = first_page(files, &path).filter(|header| header.lane == lanes) else {
                continue;
            };
            if log_id.is_some_and(|log_id| log_id != header.log_id) {
                return Err(OpenError::corrupt(
                    &path,
                    0,
                    "the segment is of another log, and there is no manifest",
                ));
            }
            log_id = Some(header.log_id);
        }
        lanes = lanes.checked_add(1).ok_or(OpenError::Options("too many lanes"))?;
    }
    match (log_id, bad) {
        (Some(log_id), _) => Ok(Some(Manifest { lanes, log_id, is_there: [false; 2] })),
        (None, Some(error)) => Err(error),
        (None, None) if has_segments => {
            Err(OpenError::corrupt(MANIFEST.names[0], 0, "it is missing, but there are segments"))
        }
        (None, None) => Ok(None),
    }
}

fn list_lane<F: Files>(files: &F, lane: u16) -> Result<Option<Vec<String>>, OpenError> {
    let dir = lane_dir(lane);
    match files.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        listed => listed.map(Some).map_err(OpenError::io(&dir)),
    }
}

fn first_page<F: Files>(files: &F, path: &str) -> Option<SegmentHeader> {
    let mut page = vec![0; PAGE_BYTES];
    let file = files.open(path, Access::Plain).ok()?;
    files.read_at(&file, 0, &mut page).ok().filter(|read| *read == PAGE_BYTES)?;
    SegmentHeader::parse(&page).ok()
}
