//! Snapshot files: their names, and the calls of each job on them, over any [`Files`].
//!
//! ```text
//! lane-<n>/snapshots/<group>-<index>-<term>.snap     complete, durable; `.part` an incoming one, `.tmp` being written, `.damaged`
//!                                                     one that was complete
//! ```
//! A name without `.tmp` or `.part` is given only to a file that is whole and durable. Not here: their bytes
//! (`format::snapshot`), when to take or send a snapshot.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use crc32fast::Hasher;
use raftwerk_frame::{Configuration, EntryId, GroupId};

use crate::background::SnapshotSource;
use crate::background::catalog::{self, GroupFiles, Kind, SnapshotCatalog};
use crate::background::{BackgroundOutput, SnapshotReader};
use crate::disk::files::{Access, Durability, Files};
use crate::error::SnapshotError;
use crate::format::segment::lane_dir;
use crate::format::snapshot::SnapshotMeta;
use crate::format::snapshot::{HEAD_BYTES_MAX, HEADER_BYTES, decode, encode};

pub(crate) const STEP_BYTES: usize = 256 << 10;
/// An incoming snapshot is synced each time it has grown by this much.
const INCOMING_BYTES: u64 = 1 << 20;
/// The longest chunk.
const CHUNK_BYTES_MAX: usize = 16 << 20;
/// The damage of a file that the device refuses to read.
pub(crate) const REFUSED: &str = "the device refuses to read it";

const _: () = assert!(HEAD_BYTES_MAX <= STEP_BYTES, "a file's first step holds its header");
const _: () =
    assert!(STEP_BYTES as u64 <= INCOMING_BYTES, "an incoming file is synced less often than a save");

pub(super) type Outcome = Result<BackgroundOutput, SnapshotError>;

/// The newest complete snapshot of a group, by its header.
pub(crate) fn latest<F: Files>(
    files: &F,
    lane: u16,
    catalog: &SnapshotCatalog,
    group: GroupId,
) -> Result<Option<SnapshotMeta>, SnapshotError> {
    let snapshots = GroupSnapshots::of(files, lane, catalog, group);
    let Some(id) = catalog.newest(files, &snapshots.dir, group)? else { return Ok(None) };
    snapshots.open(&snapshots.path(id, Kind::Complete)).map(|opened| Some(opened.meta))
}

/// Renames all complete snapshots of a group, so that they are no longer used as snapshots.
pub(crate) fn set_aside<F: Files>(
    files: &F,
    lane: u16,
    catalog: &SnapshotCatalog,
    group: GroupId,
) -> io::Result<()> {
    let snapshots = GroupSnapshots::of(files, lane, catalog, group);
    let complete = snapshots.files_of(|kind| kind == Kind::Complete)?;
    for (id, kind) in &complete {
        files.rename(&snapshots.path(*id, *kind), &snapshots.path(*id, Kind::Damaged))?;
        snapshots.take(*id, *kind)?;
        snapshots.put(*id, Kind::Damaged)?;
    }
    if complete.is_empty() { Ok(()) } else { files.sync_dir(&snapshots.dir) }
}

/// Removes the files of unknown groups, and unfinished ones.
pub(crate) fn drop_strays<F: Files>(
    files: &F,
    lane: u16,
    catalog: &SnapshotCatalog,
    is_known: impl Fn(GroupId) -> bool,
) -> Result<(), SnapshotError> {
    let dir = snapshots_dir(lane);
    let all = catalog.all(files, &dir)?;
    for (group, (id, kind)) in &all {
        if matches!(kind, Kind::Incoming | Kind::Unfinished) || !is_known(*group) {
            files.remove(&format!("{dir}/{}", catalog::name(*group, (*id, *kind))))?;
            catalog.take(files, &dir, *group, (*id, *kind))?;
        }
    }
    if all.is_empty() {
        return Ok(());
    }
    // A process that ended between a rename and its directory sync left a name that a power cut could still
    // undo, and logs will be compacted on the strength of the files found now.
    files.sync_dir(&dir)?;
    Ok(())
}

/// The snapshot files of one group.
pub(crate) struct GroupSnapshots<'a, F: Files> {
    pub(super) files: &'a F,
    pub(super) lane: u16,
    pub(super) dir: String,
    pub(super) group: GroupId,
    pub(super) catalog: &'a SnapshotCatalog,
}

struct Opened<File> {
    file: File,
    meta: SnapshotMeta,
    body_at: u64,
}

fn snapshots_dir(lane: u16) -> String {
    format!("{}/snapshots", lane_dir(lane))
}

impl<'a, F: Files> GroupSnapshots<'a, F> {
    pub(crate) fn of(files: &'a F, lane: u16, catalog: &'a SnapshotCatalog, group: GroupId) -> Self {
        Self { files, lane, dir: snapshots_dir(lane), group, catalog }
    }
}

impl<F: Files> GroupSnapshots<'_, F> {
    pub(crate) fn path(&self, id: EntryId, kind: Kind) -> String {
        format!("{}/{}", self.dir, catalog::name(self.group, (id, kind)))
    }

    /// The group's files of the wanted kinds.
    fn files_of(&self, is_wanted: impl Fn(Kind) -> bool) -> io::Result<GroupFiles> {
        let mut files = self.catalog.of(self.files, &self.dir, self.group)?;
        files.retain(|(_, kind)| is_wanted(*kind));
        Ok(files)
    }

    fn put(&self, id: EntryId, kind: Kind) -> io::Result<()> {
        self.catalog.put(self.files, &self.dir, self.group, (id, kind))
    }

    fn take(&self, id: EntryId, kind: Kind) -> io::Result<()> {
        self.catalog.take(self.files, &self.dir, self.group, (id, kind))
    }

    fn remove(&self, id: EntryId, kind: Kind) -> io::Result<()> {
        match self.files.remove(&self.path(id, kind)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.take(id, kind),
        }
    }

    pub(super) fn save(
        &self,
        id: EntryId,
        configuration: Configuration,
        source: SnapshotSource,
        pause: &mut dyn FnMut(),
    ) -> Outcome {
        self.files.create_dir(&self.dir)?;
        let path = self.path(id, Kind::Unfinished);
        self.put(id, Kind::Unfinished)?;
        let file = self.files.create(&path, 0)?;
        let head_bytes = encode(self.group, id, &configuration, 0, 0).len() as u64;
        let mut writer = BodyWriter {
            files: self.files,
            file: &file,
            at: head_bytes,
            begin: head_bytes,
            buffer: Vec::with_capacity(STEP_BYTES),
            crc: Hasher::new(),
            failed: None,
            pause,
        };
        let written = source(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = written {
            let _ = self.remove(id, Kind::Unfinished); // the next attempt replaces a leftover
            return Err(error.into());
        }
        assert!(writer.buffer.is_empty(), "all of the body is written");
        assert!(writer.at >= head_bytes, "the body lies behind the header");
        let (bytes, crc) = (writer.at, writer.crc.finalize());
        let head = encode(self.group, id, &configuration, bytes - head_bytes, crc);
        assert_eq!(head.len() as u64, head_bytes, "the header fills the space left for it");
        self.files.write_at(&file, 0, &[IoSlice::new(&head)], Durability::Buffered)?;
        self.make_complete(&file, Kind::Unfinished, id)?;
        let group = self.group;
        Ok(BackgroundOutput::Saved(SnapshotMeta { group, id, configuration, bytes, crc }))
    }

    fn make_complete(&self, file: &F::File, from: Kind, id: EntryId) -> io::Result<()> {
        assert!(matches!(from, Kind::Unfinished | Kind::Incoming), "only a new file becomes complete");
        if let Err(error) = self.files.sync(file) {
            // The page cache may hold pages marked clean that the device does not have: the file must not be
            // used any more.
            let _ = self.remove(id, from);
            return Err(error);
        }
        self.files.rename(&self.path(id, from), &self.path(id, Kind::Complete))?;
        self.take(id, from)?;
        self.put(id, Kind::Complete)?;
        self.files.sync_dir(&self.dir)?;
        self.files.sync_dir(self.dir.trim_end_matches("/snapshots"))?; // for a new directory
        for (older, kind) in self.files_of(|kind| matches!(kind, Kind::Complete | Kind::Damaged))? {
            if older.index < id.index || kind == Kind::Damaged {
                self.remove(older, kind)?;
            }
        }
        Ok(())
    }

    /// Opens a file and checks its header and length.
    fn open(&self, path: &str) -> Result<Opened<F::File>, SnapshotError> {
        let corrupt = |offset, what| SnapshotError::Corrupt { file: path.to_owned(), offset, what };
        let file = self.files.open(path, Access::Plain).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SnapshotError::Missing,
            _ => error.into(),
        })?;
        let mut head = [0; HEAD_BYTES_MAX];
        let read = self.files.read_at(&file, 0, &mut head).map_err(|_| corrupt(0, REFUSED))?;
        let (mut meta, body_at) = decode(&head[..read]).map_err(|(offset, what)| corrupt(offset, what))?;
        let bytes = self.files.len(&file)?;
        if bytes != meta.bytes {
            return Err(corrupt(bytes.min(meta.bytes), "the file has the wrong length"));
        }
        if meta.group != self.group {
            return Err(corrupt(16, "the snapshot is of another group"));
        }
        assert!(body_at <= bytes, "a file's body begins in the file");
        assert!(body_at >= HEADER_BYTES as u64, "a file's body follows its header");
        meta.bytes = bytes;
        Ok(Opened { file, meta, body_at })
    }

    /// Opens a file and reads all of it. After a mismatch or a refused read it is read up to twice more:
    /// damage makes a replica drop its state, so it must be the file's, not a transient error.
    fn verified(&self, path: &str) -> Result<Opened<F::File>, SnapshotError> {
        let look = || {
            let opened = self.open(path)?;
            self.verify(&opened, path).map(|()| opened)
        };
        look().or_else(|_| look()).or_else(|_| look())
    }

    fn verify(&self, opened: &Opened<F::File>, path: &str) -> Result<(), SnapshotError> {
        assert_eq!(opened.meta.group, self.group, "a file of this group is verified");
        let mut reader =
            BodyReader { files: self.files, file: &opened.file, at: opened.body_at, end: opened.meta.bytes };
        let step_bytes = (opened.meta.bytes - opened.body_at).clamp(1, STEP_BYTES as u64) as usize;
        let (mut crc, mut step) = (Hasher::new(), vec![0; step_bytes]);
        loop {
            let (offset, what) = (reader.at, REFUSED);
            match reader.read(&mut step) {
                Ok(0) => break,
                Ok(read) => crc.update(&step[..read]),
                Err(_) => return Err(SnapshotError::Corrupt { file: path.to_owned(), offset, what }),
            }
        }
        if reader.at == reader.end && crc.finalize() == opened.meta.crc {
            return Ok(());
        }
        let what = "the body's checksum does not match";
        Err(SnapshotError::Corrupt { file: path.to_owned(), offset: opened.body_at, what })
    }

    pub(super) fn read_chunk(&self, id: EntryId, offset: u64, bytes: usize) -> Outcome {
        let file =
            self.files.open(&self.path(id, Kind::Complete), Access::Plain).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::NotFound => SnapshotError::Missing,
                    _ => error.into(),
                }
            })?;
        let left = self.files.len(&file)?.saturating_sub(offset);
        let mut chunk = vec![0; bytes.min(CHUNK_BYTES_MAX).min(usize::try_from(left).unwrap_or(usize::MAX))];
        let read = self.files.read_at(&file, offset, &mut chunk)?;
        assert!(read <= chunk.len(), "a read returns no more than was asked for");
        chunk.truncate(read);
        Ok(BackgroundOutput::Chunk(chunk.into()))
    }

    pub(super) fn write_chunk(&self, id: EntryId, offset: u64, chunk: &Bytes) -> Outcome {
        let path = self.path(id, Kind::Incoming);
        let file = if offset == 0 {
            self.files.create_dir(&self.dir)?;
            // A new transfer replaces an earlier one: at most one incoming file per group takes space.
            for (id, kind) in self.files_of(|kind| kind == Kind::Incoming)? {
                self.remove(id, kind)?;
            }
            self.put(id, Kind::Incoming)?;
            self.files.create(&path, 0)?
        } else {
            match self.files.open(&path, Access::Plain) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(SnapshotError::Offset { expected: 0 });
                }
                opened => opened?,
            }
        };
        let expected = self.files.len(&file)?;
        if offset != expected {
            return Err(SnapshotError::Offset { expected });
        }
        self.files.write_at(&file, offset, &[IoSlice::new(chunk)], Durability::Buffered)?;
        let end = offset + chunk.len() as u64;
        if end / INCOMING_BYTES != offset / INCOMING_BYTES {
            // Otherwise the end of a large transfer would send all of it to the device at once, and entries
            // would wait behind that.
            if let Err(error) = self.files.sync(&file) {
                // The page cache marks it clean now, and no later sync would report that the device does not
                // have it.
                let _ = self.remove(id, Kind::Incoming);
                return Err(error.into());
            }
        }
        Ok(BackgroundOutput::Written { next_offset: end })
    }

    pub(super) fn finish(&self, id: EntryId, bytes: u64) -> Outcome {
        let part = self.path(id, Kind::Incoming);
        let opened = self.open(&part)?;
        if opened.meta.bytes != bytes || opened.meta.id != id {
            return Err(SnapshotError::Unexpected);
        }
        self.verify(&opened, &part)?;
        self.make_complete(&opened.file, Kind::Incoming, id)?;
        Ok(BackgroundOutput::Finished(opened.meta))
    }

    pub(super) fn load(&self, with: SnapshotReader) -> Outcome {
        let newest = self.catalog.newest(self.files, &self.dir, self.group)?.ok_or(SnapshotError::Missing)?;
        let path = self.path(newest, Kind::Complete);
        let Opened { file, meta, body_at } = self.verified(&path)?;
        assert_eq!(meta.group, self.group, "a snapshot of this group is loaded");
        let body = BodyReader { files: self.files, file: &file, at: body_at, end: meta.bytes };
        let step_bytes = (meta.bytes - body_at).clamp(1, STEP_BYTES as u64) as usize;
        let mut body = io::BufReader::with_capacity(step_bytes, body);
        let value = with(&mut body, &meta)?;
        Ok(BackgroundOutput::Loaded { meta, value })
    }

    pub(super) fn drop_where(&self, is_dropped: impl Fn(Kind) -> bool) -> Outcome {
        let dropped = self.files_of(is_dropped)?;
        for (id, kind) in &dropped {
            self.remove(*id, *kind)?;
        }
        if !dropped.is_empty() {
            self.files.sync_dir(&self.dir)?;
        }
        Ok(BackgroundOutput::Dropped)
    }
}

struct BodyWriter<'a, F: Files> {
    files: &'a F,
    file: &'a F::File,
    begin: u64,
    at: u64,
    buffer: Vec<u8>,
    crc: Hasher,
    /// A step has failed, like this. Every later one fails, too: the source may have ignored it, and a later
    /// sync may succeed without the pages that a failed one has lost.
    failed: Option<io::ErrorKind>,
    /// Called between two steps.
    pause: &'a mut dyn FnMut(),
}

impl<F: Files> BodyWriter<'_, F> {
    /// Writes the buffer, after the step before it is synced.
    fn write_step(&mut self) -> io::Result<()> {
        if self.at > self.begin {
            // The last step is covered by the sync of the whole file. A failed sync ends the save, there as
            // here.
            self.files.sync(self.file)?;
            (self.pause)();
        }
        self.crc.update(&self.buffer);
        assert!(self.buffer.len() <= STEP_BYTES, "a step has a bound");
        self.files.write_at(self.file, self.at, &[IoSlice::new(&self.buffer)], Durability::Buffered)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl<F: Files> Write for BodyWriter<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= STEP_BYTES {
            self.flush()?;
        }
        assert!(self.buffer.len() < STEP_BYTES, "a full buffer was written");
        let taken = bytes.len().min(STEP_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(kind) = self.failed {
            return Err(io::Error::new(kind, "an earlier step of the snapshot has failed"));
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.write_step().inspect_err(|error| self.failed = Some(error.kind()))
    }
}

struct BodyReader<'a, F: Files> {
    files: &'a F,
    file: &'a F::File,
    at: u64,
    end: u64,
}

impl<F: Files> Read for BodyReader<'_, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        assert!(self.at <= self.end, "a body is read up to its end");
        let wanted = into.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.files.read_at(self.file, self.at, &mut into[..wanted])?;
        assert!(read <= wanted, "a read returns no more than was asked for");
        self.at += read as u64;
        Ok(read)
    }
}
