//! The log's directory: locked by one engine at a time, with a manifest that names the lanes of the log.
//!
//! ```text
//! lock                    held by the engine that has the log open
//! manifest, manifest.2    twice: see `format::manifest`
//! peers, peers.2          twice: what is noted of other nodes: see `format::peers_file`
//! lane-<n>/seg-<sequence>.log      a segment; lane-<n>/spare-<sequence>.old is one waiting to be used again
//! lane-<n>/snapshots/              see `background::snapshots`
//! ```
//! Lanes are numbered from `first lane` on. A log begins with lane 0; lanes that replace others (`relane`)
//! get numbers never used before, behind a gap of one. So the bytes of one set of lanes are never taken for
//! another's, and where the manifest is lost, recovery can tell one set from two.
//!
//! Not here: the lanes' content. Next: `recovery`.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::background::catalog;
use crate::disk::files::{Access, Files};
use crate::error::OpenError;
use crate::format::manifest::{LaneSet, MANIFEST, decode_manifest, encode_manifest};
use crate::format::mirrored_file::CopyState;
use crate::format::peers_file::{self, PeerNote, PeerNotes};
use crate::format::segment::{self, PAGE_BYTES, SegmentHeader, lane_dir};

const LOCK: &str = "lock";

/// A locked log directory. Clones share the lock, which is released when the last one is dropped.
#[derive(Debug)]
pub struct Directory<F: Files>(Arc<Locked<F>>);

#[derive(Debug)]
struct Locked<F: Files> {
    files: F,
    lanes: LaneSet,
    notes: PeerNotes,
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
    /// `fresh_log_id` becomes the id of a new log; it should be random, since it keeps the bytes of one log
    /// from being taken for another's.
    ///
    /// # Errors
    /// [`OpenError::InUse`], [`OpenError::LaneCount`], [`OpenError::Version`], [`OpenError::Corrupt`] where
    /// both copies of the manifest, and everything it could be rebuilt from, are damaged or gone, or where
    /// both copies of the peer notes are; [`OpenError::Io`].
    pub fn open(files: F, lanes: u16, fresh_log_id: u64) -> Result<Self, OpenError> {
        if lanes == 0 {
            return Err(OpenError::Options("a log has at least one lane"));
        }
        let lock = files.lock(LOCK).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse,
            _ => OpenError::Io { file: LOCK.to_owned(), source },
        })?;
        let on_disk = match read_manifest(&files)? {
            Some(manifest) => {
                // A process that ended early may have renamed it without syncing the directory.
                files.sync_dir("").map_err(OpenError::io(MANIFEST.names[0]))?;
                manifest.settle(&files).map_err(OpenError::io(MANIFEST.names[1]))?;
                manifest.set
            }
            None => {
                let set = LaneSet { first: 0, lanes, log_id: fresh_log_id };
                write_manifest(&files, set).map_err(OpenError::io(MANIFEST.names[0]))?;
                set
            }
        };
        if on_disk.lanes != lanes {
            return Err(OpenError::LaneCount { on_disk: on_disk.lanes, wanted: lanes });
        }
        let notes = peers_file::read(&files)?;
        // Best effort: leftovers take space, but are never read as part of the log.
        let _ = clear_others(&files, on_disk);
        Ok(Self(Arc::new(Locked { files, lanes: on_disk, notes, _lock: lock })))
    }

    /// The calls on the directory.
    #[must_use]
    pub fn files(&self) -> &F {
        &self.0.files
    }

    /// The number of lanes.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.0.lanes.lanes
    }

    /// The lane numbers on disk, in order.
    #[must_use]
    pub fn lane_numbers(&self) -> Range<u16> {
        self.0.lanes.numbers()
    }

    /// The log's id, unique to it.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.0.lanes.log_id
    }

    /// Which lanes the log has, for [`Directory::relane`].
    pub(crate) fn set(&self) -> LaneSet {
        self.0.lanes
    }

    /// Replaces the set of lanes, as the manifest now names it. Returns `false`, and changes nothing, if
    /// another clone exists.
    pub(crate) fn replace_lanes(&mut self, lanes: LaneSet) -> bool {
        assert!(lanes.log_id == self.0.lanes.log_id, "the log keeps its identity");
        Arc::get_mut(&mut self.0).map(|locked| locked.lanes = lanes).is_some()
    }

    /// Whether this is the only clone.
    pub(crate) fn is_only_clone(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }

    /// Which log each peer had, as noted when the directory was opened ([`Lane::note`]).
    ///
    /// [`Lane::note`]: crate::Lane::note
    #[must_use]
    pub fn peers(&self) -> &[PeerNote] {
        &self.0.notes.peers
    }

    /// The longest duration for which this node may have supported its peers before the directory was opened;
    /// zero if none was noted.
    #[must_use]
    pub fn support(&self) -> Duration {
        self.0.notes.support
    }

    /// Notes a longer support duration durably, with the peer notes read at opening. Blocks for a few syncs:
    /// for opening only, before the node supports any peer.
    ///
    /// # Errors
    /// [`OpenError::Io`]; the old notes are still valid then.
    pub fn note_support(&self, support: Duration) -> Result<(), OpenError> {
        let notes = PeerNotes { peers: self.0.notes.peers.clone(), support };
        peers_file::write(&self.0.files, &notes).map_err(OpenError::io("peers"))
    }
}

fn write_manifest<F: Files>(files: &F, set: LaneSet) -> io::Result<()> {
    assert!(!set.numbers().is_empty(), "a log that is made has a lane");
    for lane in set.numbers() {
        files.create_dir(&lane_dir(lane))?;
    }
    MANIFEST.write(files, &encode_manifest(set))
}

/// Why the manifest was not switched to other lanes.
#[derive(Debug)]
pub(crate) enum NotSwitched {
    /// It still names the old lanes, and stays so.
    Undone(io::Error),
    /// Which of the two sets it names is known only after the next opening.
    Undecided(io::Error),
}

/// Switches the manifest from the `old` lanes to the `new` ones, durably. Until the first copy is renamed,
/// the old lanes are valid, whatever the second copy contains; from then on both copies agree. Both sets must
/// be whole and durable.
pub(crate) fn switch<F: Files>(files: &F, old: LaneSet, new: LaneSet) -> Result<(), NotSwitched> {
    // What `read_manifest` relies on where the two copies differ, and `from_segments` where both are lost.
    assert!(new.log_id == old.log_id && old.first < new.first, "of two copies, the lower lanes are the old");
    assert!(!new.numbers().is_empty(), "a log that is moved has a lane");
    let written = MANIFEST.write_copy(files, 1, &encode_manifest(new));
    if let Err(error) = written {
        return Err(match take_back(files, old) {
            Ok(()) => NotSwitched::Undone(error),
            Err(error) => NotSwitched::Undecided(error),
        });
    }
    let Err(error) = MANIFEST.write_copy(files, 0, &encode_manifest(new)) else { return Ok(()) };
    let [first, _] = MANIFEST.read(files, decode_manifest);
    let is_untouched = matches!(first, CopyState::Whole(set) if set == old);
    // Otherwise the file was renamed, perhaps not durably: rewrite the first copy with the old lanes.
    let restored = if is_untouched { Ok(()) } else { MANIFEST.write_copy(files, 0, &encode_manifest(old)) };
    Err(match restored.and_then(|()| take_back(files, old)) {
        Ok(()) => NotSwitched::Undone(error),
        Err(error) => NotSwitched::Undecided(error),
    })
}

/// Makes the second copy equal to the first, or removes it, which needs no space.
fn take_back<F: Files>(files: &F, set: LaneSet) -> io::Result<()> {
    if MANIFEST.write_copy(files, 1, &encode_manifest(set)).is_ok() {
        return Ok(());
    }
    match files.remove(MANIFEST.names[1]) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => files.sync_dir(""),
    }
}

/// Removes leftovers of lanes that are not in the log's set: lanes that were replaced, or that were to
/// replace these and never did. Files of unknown names stay.
pub(crate) fn clear_others<F: Files>(files: &F, set: LaneSet) -> io::Result<()> {
    for number in lane_numbers(files)?.into_iter().filter(|number| !set.numbers().contains(number)) {
        clear_lane(files, number)?;
        files.remove_dir(&lane_dir(number))?;
    }
    Ok(())
}

/// Removes all files of a lane, durably; does nothing if the directory is missing.
pub(crate) fn clear_lane<F: Files>(files: &F, number: u16) -> io::Result<()> {
    let dir = lane_dir(number);
    let is_ours = |name: &str| {
        let is_segment = [segment::sequence_of, segment::spare_sequence_of, segment::unfinished_sequence_of];
        is_segment.iter().any(|sequence| sequence(name).is_some())
    };
    let snapshots = format!("{dir}/snapshots");
    if remove_files(files, &snapshots, |name| catalog::parse(name).is_some())? {
        files.remove_dir(&snapshots)?;
    }
    remove_files(files, &dir, is_ours).map(|_| ())
}

/// Removes the matching files; returns whether the directory exists.
fn remove_files<F: Files>(files: &F, dir: &str, is_ours: impl Fn(&str) -> bool) -> io::Result<bool> {
    let names = match files.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        listed => listed?,
    };
    for name in names.iter().filter(|name| is_ours(name)) {
        files.remove(&format!("{dir}/{name}"))?;
    }
    files.sync_dir(dir)?;
    Ok(true)
}

/// The numbers of all lane directories, in order.
fn lane_numbers<F: Files>(files: &F) -> io::Result<Vec<u16>> {
    let dirs = files.list_dirs("")?;
    let number = |dir: &String| dir.strip_prefix("lane-")?.parse().ok();
    let mut numbers: Vec<u16> = dirs.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A log's identity, as far as it can be established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) set: LaneSet,
    /// Which of the two copies are valid.
    is_there: [bool; 2],
    /// The second copy names other lanes, which were to replace these.
    is_undecided: bool,
}

impl Manifest {
    /// Rewrites the copies that are not valid. Best effort: on a full disk the log opens all the same. But a
    /// second copy that names other lanes must go: once these lanes are written to, those are stale.
    fn settle<F: Files>(&self, files: &F) -> io::Result<()> {
        assert!(!self.is_undecided || self.is_there == [true; 2], "two whole copies name different lanes");
        if self.is_undecided {
            return take_back(files, self.set);
        }
        for copy in (0..2).filter(|copy| !self.is_there[*copy]) {
            let _ = MANIFEST.write_copy(files, copy, &encode_manifest(self.set));
        }
        Ok(())
    }
}

/// Reads the manifest: from either copy, or, where both are gone, from the segments' first pages. `None` if
/// there is no log.
///
/// # Errors
/// Where the identity is unknown: nothing is left that contains the log's id, or what is left is
/// contradictory.
pub(crate) fn read_manifest<F: Files>(files: &F) -> Result<Option<Manifest>, OpenError> {
    let found = MANIFEST.read(files, decode_manifest);
    let is_there = [found[0].is_whole(), found[1].is_whole()];
    let (mut whole, mut bad) = (Vec::new(), None);
    for copy in found {
        match copy {
            CopyState::Whole(said) => whole.push(said),
            // An unknown version: this error is more useful than that of a damaged or missing copy.
            CopyState::Bad(error @ OpenError::Version { .. }) => bad = Some(error),
            CopyState::Bad(error) => bad = bad.or(Some(error)),
            CopyState::Absent => {}
        }
    }
    let manifest = |set, is_undecided| Ok(Some(Manifest { set, is_there, is_undecided }));
    match (&whole[..], bad) {
        // A process ended between the two writes of a switch to other lanes: the switch did not happen.
        ([old, new], _) if old.log_id == new.log_id && old.first < new.first => manifest(*old, true),
        ([one, other], _) if one != other => {
            Err(OpenError::corrupt(MANIFEST.names[0], 0, "its two copies contradict each other"))
        }
        ([set, ..], _) => manifest(*set, false),
        ([], Some(error @ OpenError::Version { .. })) => Err(error),
        ([], bad) => from_segments(files, bad),
    }
}

/// Rebuilds the manifest: each segment's first page contains the log id, and each lane's directory exists
/// since before the manifest did. A lost log must not be taken for a new one, nor two sets of lanes for one.
fn from_segments<F: Files>(files: &F, bad: Option<OpenError>) -> Result<Option<Manifest>, OpenError> {
    let (mut log_id, mut has_segments) = (None, false);
    let numbers = lane_numbers(files).map_err(OpenError::io(MANIFEST.names[0]))?;
    let mut sets: Vec<&[u16]> = Vec::new();
    for run in numbers.chunk_by(|lane, next| lane.checked_add(1) == Some(*next)) {
        let mut has_some = false;
        for &lane in run {
            for sequence in list_lane(files, lane)?.iter().filter_map(|name| segment::sequence_of(name)) {
                has_some = true;
                let path = segment::segment_path(lane, sequence);
                let Some(header) = first_page(files, &path).filter(|header| header.lane == lane) else {
                    continue;
                };
                if log_id.is_some_and(|log_id| log_id != header.log_id) {
                    let what = "the segment is of another log, and there is no manifest";
                    return Err(OpenError::corrupt(&path, 0, what));
                }
                log_id = Some(header.log_id);
            }
        }
        has_segments |= has_some;
        sets.extend(has_some.then_some(run));
    }
    match (&sets[..], log_id, bad) {
        ([run], Some(log_id), _) => {
            let lanes = u16::try_from(run.len()).ok().filter(|lanes| run[0].checked_add(*lanes).is_some());
            let what = "it is missing, and there are lanes with numbers that no log has";
            let lanes = lanes.ok_or_else(|| OpenError::corrupt(MANIFEST.names[0], 0, what))?;
            let set = LaneSet { first: run[0], lanes, log_id };
            Ok(Some(Manifest { set, is_there: [false; 2], is_undecided: false }))
        }
        ([_, _, ..], ..) => {
            Err(OpenError::corrupt(MANIFEST.names[0], 0, "it is missing, and there are lanes of two sets"))
        }
        (_, _, Some(error)) => Err(error),
        (_, _, None) if has_segments => {
            Err(OpenError::corrupt(MANIFEST.names[0], 0, "it is missing, but there are segments"))
        }
        _ => Ok(None),
    }
}

fn list_lane<F: Files>(files: &F, lane: u16) -> Result<Vec<String>, OpenError> {
    let dir = lane_dir(lane);
    files.list(&dir).map_err(OpenError::io(&dir))
}

fn first_page<F: Files>(files: &F, path: &str) -> Option<SegmentHeader> {
    let mut page = vec![0; PAGE_BYTES];
    let file = files.open(path, Access::Plain).ok()?;
    files.read_at(&file, 0, &mut page).ok().filter(|read| *read == PAGE_BYTES)?;
    SegmentHeader::parse(&page).ok()
}
