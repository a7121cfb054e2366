//! The log's directory: one engine at a time, and a manifest that says what the lanes in it are.
//!
//! ```text
//! lock                    held by the engine that has the log open
//! manifest                magic "RWLOG\0\0\1", version u32, lanes u32, log id u64, zero u32, crc u32 of the 28 bytes before
//! peers                   what is noted of other nodes: see `peers_file`
//! lane-<n>/seg-<sequence>.log      a segment; lane-<n>/spare-<sequence>.old is one waiting to be used again
//! lane-<n>/snapshots/              see `snapshot_file`
//! ```
//! What is not here: the lanes' content. Next: `recovery`.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Access, Files};
use crate::error::OpenError;
use crate::peers_file::{self, Notes, PeerNote};

const LOCK: &str = "lock";
const MANIFEST: &str = "manifest";
const MANIFEST_TMP: &str = "manifest.tmp";
const MANIFEST_BYTES: usize = 32;
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
    /// [`OpenError::InUse`], [`OpenError::LaneCount`], [`OpenError::Version`], [`OpenError::Corrupt`] for a damaged
    /// manifest or lanes without one, [`OpenError::Io`].
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
                files.sync_dir("").map_err(OpenError::io(MANIFEST))?;
                manifest
            }
            None => {
                write_manifest(&files, lanes, fresh_log_id).map_err(OpenError::io(MANIFEST))?;
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
        files.create_dir(&crate::segment::lane_dir(lane))?;
    }
    let file = files.create(MANIFEST_TMP, 0)?;
    files.write_at(&file, 0, &[IoSlice::new(&encode_manifest(lanes, log_id))], false)?;
    files.sync(&file)?;
    files.rename(MANIFEST_TMP, MANIFEST)?;
    files.sync_dir("")
}

pub(crate) fn read_manifest<F: Files>(files: &F) -> Result<Option<(u16, u64)>, OpenError> {
    let file = match files.open(MANIFEST, Access::Plain) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return without_manifest(files),
        Err(source) => return Err(OpenError::Io { file: MANIFEST.to_owned(), source }),
    };
    let mut bytes = [0; MANIFEST_BYTES];
    let read = files.read_at(&file, 0, &mut bytes).map_err(OpenError::io(MANIFEST))?;
    if read < MANIFEST_BYTES {
        return Err(OpenError::corrupt(MANIFEST, read as u64, "it is cut short"));
    }
    if bytes[..8] != MAGIC {
        return Err(OpenError::corrupt(MANIFEST, 0, "it does not begin like a manifest"));
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (found, known) = (word(8), FORMAT_VERSION);
    if found != known {
        return Err(OpenError::Version { file: MANIFEST.to_owned(), found, known });
    }
    if word(28) != crc32fast::hash(&bytes[..28]) {
        return Err(OpenError::corrupt(MANIFEST, 0, "its checksum does not match"));
    }
    let lanes = u16::try_from(word(12)).map_err(|_| OpenError::corrupt(MANIFEST, 12, "too many lanes"))?;
    Ok(Some((lanes, u64::from(word(16)) | u64::from(word(20)) << 32)))
}

/// A log whose manifest was lost must not be taken for a new one.
fn without_manifest<F: Files>(files: &F) -> Result<Option<(u16, u64)>, OpenError> {
    let lane = crate::segment::lane_dir(0);
    match files.list(&lane) {
        Ok(names) if names.iter().any(|name| crate::segment::sequence_of(name).is_some()) => {
            Err(OpenError::corrupt(MANIFEST, 0, "it is missing, but there are segments"))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Io { file: lane, source }),
    }
}
