//! Simulated files: names that are durable only when their directory is synced, bytes that are durable only
//! when synced.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::inode::{Inode, ReadFrom, SectorFate};
use super::names::{Names, Shared, parent};
use crate::disk::files::{Access, Durability, Files};

/// A call that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// An empty file is created, or bytes are reserved.
    Create(&'a str),
    /// Bytes are written.
    Write {
        /// The file, by its first name.
        path: &'a str,
        /// The offset of the first byte.
        offset: u64,
        /// How many.
        bytes: usize,
        /// Where they are to be when the call returns.
        durability: Durability,
    },
    /// A file becomes durable.
    Sync(&'a str),
    /// Names in a directory become durable.
    SyncDir(&'a str),
    /// A file is renamed.
    Rename(&'a str, &'a str),
    /// A name is removed.
    Remove(&'a str),
    /// A file gets a second name.
    Link(&'a str, &'a str),
    /// Bytes are read.
    Read {
        /// The file, by its first name.
        path: &'a str,
        /// The offset of the first byte.
        offset: u64,
        /// How many.
        bytes: usize,
    },
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeds.
    Done,
    /// It fails. A write may have reached the device all the same: its sectors are written, unsynced.
    Fail(io::ErrorKind),
    /// A write or sync fails; its sectors did not reach the device, but count as clean: they can be read from
    /// the cache until it drops them ([`Files::drop_cached`]), and a later sync does nothing. As on Linux.
    /// Any other call just fails.
    FailStale(io::ErrorKind),
    /// It reports success, but does nothing.
    Lost,
    /// A write succeeds, but at another offset in the file.
    Misdirected(u64),
    /// The bytes read have this bit flipped, counted from the call's offset.
    Flipped(u64),
}

/// Decides the outcome of every call. Must not call the files it decides about.
pub trait Fate: Send {
    /// The outcome of `call`.
    fn decide(&mut self, call: Call<'_>) -> Outcome;
}

/// Simulated files. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryFiles(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: Names,
    dirs: BTreeSet<String>,
    locks: BTreeSet<String>,
    capacity: Option<u64>,
    /// Calls so far that change something.
    changes: u64,
    /// Directories listed so far.
    listings: u64,
    fault: Option<Fault>,
    fate: Option<Box<dyn Fate>>,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    from: u64,
    to: u64,
    kind: io::ErrorKind,
}

/// An open file in memory.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    inode: Shared,
    reads: ReadFrom,
    _lock: Option<Arc<Lock>>,
}

struct Lock {
    path: String,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lock").field(&self.path).finish()
    }
}

impl std::fmt::Debug for MemoryFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MemoryFiles").field(&self.paths()).finish()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let was_held = held(&self.state).locks.remove(&self.path);
        assert!(was_held, "a lock is held until it is dropped");
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryFile {
    fn of(inode: Shared) -> Self {
        Self { inode, reads: ReadFrom::Cache, _lock: None }
    }
}

fn shared(inode: Inode) -> Shared {
    Arc::new(Mutex::new(inode))
}

impl State {
    /// Counts a call that changes something, and decides its outcome.
    fn change(&mut self, call: Call<'_>) -> io::Result<Outcome> {
        self.changes += 1;
        match self.fault {
            Some(fault) if (fault.from..fault.to).contains(&self.changes) => Err(fault.kind.into()),
            _ => self.decide(call),
        }
    }

    fn decide(&mut self, call: Call<'_>) -> io::Result<Outcome> {
        match self.fate.as_mut().map_or(Outcome::Done, |fate| fate.decide(call)) {
            Outcome::Fail(kind) => Err(kind.into()),
            Outcome::FailStale(kind) if !matches!(call, Call::Write { .. } | Call::Sync(_)) => {
                Err(kind.into())
            }
            outcome => Ok(outcome),
        }
    }

    fn used(&self) -> u64 {
        // A file with two names takes its space once.
        let mut counted = BTreeSet::new();
        let files = self.names.now().values().filter(|file| counted.insert(Arc::as_ptr(file)));
        files.map(|file| held(file).bytes().len() as u64).sum()
    }

    fn has_room(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl MemoryFiles {
    /// An empty file system.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the total bytes of all files; `None`: unlimited. Lowering the limit removes nothing.
    pub fn limit(&self, capacity: Option<u64>) {
        held(&self.0).capacity = capacity;
    }

    /// The total bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        held(&self.0).used()
    }

    /// Calls so far that change files or names or make them durable.
    #[must_use]
    pub fn changes(&self) -> u64 {
        held(&self.0).changes
    }

    /// Directories listed so far.
    #[must_use]
    pub fn listings(&self) -> u64 {
        held(&self.0).listings
    }

    /// Makes the `n`th changing call from now on (the next is 1), and the `more` after it, fail.
    pub fn fail_change(&self, n: u64, more: u64, kind: io::ErrorKind) {
        let mut state = held(&self.0);
        let from = state.changes + n;
        let to = from.saturating_add(1).saturating_add(more);
        assert!(from < to, "a fault hits at least one call");
        state.fault = Some(Fault { from, to, kind });
    }

    /// Ends the failures of [`MemoryFiles::fail_change`]. Unsynced writes remain unsynced.
    pub fn heal(&self) {
        held(&self.0).fault = None;
    }

    /// Lets `fate` decide about every call from now on; `None`: all calls succeed.
    pub fn decided_by(&self, fate: Option<Box<dyn Fate>>) {
        held(&self.0).fate = fate;
    }

    /// The bytes of a file.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        held(&self.0).names.now().get(path).map(|file| held(file).bytes().to_vec())
    }

    /// Adds a file durably, replacing one of that name.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        let mut state = held(&self.0);
        state.names.put(path, shared(Inode::durable(path, bytes)));
    }

    /// Flips bits of one byte of a file, as on a device that loses data; `false` if there is no such byte.
    pub fn rot(&self, path: &str, offset: u64, bits: u8) -> bool {
        self.find(path).is_ok_and(|file| held(&file.inode).rot(offset as usize, bits))
    }

    /// Flips bits of one byte on the device, below an intact copy in the cache; `false` if there is no such
    /// byte, or it was not synced.
    pub fn rot_below_cache(&self, path: &str, offset: u64, bits: u8) -> bool {
        self.find(path).is_ok_and(|file| held(&file.inode).rot_below_cache(offset as usize, bits))
    }

    /// Overwrites bytes of a file, durably, bypassing the lane. Bytes beyond its end are omitted.
    pub fn overwrite(&self, path: &str, offset: u64, bytes: &[u8]) {
        if let Ok(file) = self.find(path) {
            let mut inode = held(&file.inode);
            let room = inode.bytes().len().saturating_sub(offset as usize).min(bytes.len());
            if room > 0 {
                inode.write_durable(offset as usize, &[IoSlice::new(&bytes[..room])]);
            }
        }
    }

    /// A durable copy of the files at `paths` only; unlocked.
    #[must_use]
    pub fn with_only(&self, paths: impl Iterator<Item = String>) -> Self {
        let copy = self.copy();
        let kept: BTreeSet<String> = paths.collect();
        held(&copy.0).names.retain(|path| kept.contains(path));
        copy
    }

    /// The paths of all files, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        held(&self.0).names.now().keys().cloned().collect()
    }

    /// The current paths that a power cut now would remove.
    #[must_use]
    pub fn paths_not_durable(&self) -> Vec<String> {
        let state = held(&self.0);
        let is_fleeting = |path: &&String| !state.names.durable().contains_key(*path);
        state.names.now().keys().filter(is_fleeting).cloned().collect()
    }

    /// Whether there is a file that a power cut now would leave, with a path that `is_it` accepts.
    #[must_use]
    pub fn has_durable(&self, is_it: impl FnMut(&str) -> bool) -> bool {
        held(&self.0).names.durable().keys().map(String::as_str).any(is_it)
    }

    /// A copy of everything, as after a clean shutdown.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = held(&self.0);
        let mut copy = State { dirs: state.dirs.clone(), capacity: state.capacity, ..State::default() };
        for (path, file) in state.names.now() {
            copy.names.put(path, shared(held(file).copied(path)));
        }
        assert_eq!(copy.names.in_doubt(), 0, "a copy's names are durable");
        Self(Arc::new(Mutex::new(copy)))
    }

    /// The files that a power cut now would leave, as a copy. `fate` decides for every unsynced sector, by
    /// path and number; unsynced changes of names are undone.
    #[must_use]
    pub fn after_power_cut(&self, fate: impl FnMut(&str, usize) -> SectorFate) -> Self {
        self.after_power_cut_with_names(|| false, fate)
    }

    /// As [`Self::after_power_cut`], but every change of names has reached the device, though unsynced.
    #[must_use]
    pub fn after_power_cut_with_all_names(&self, fate: impl FnMut(&str, usize) -> SectorFate) -> Self {
        self.after_power_cut_with_names(|| true, fate)
    }

    /// As [`Self::after_power_cut`], but `is_there` decides for each unsynced change of names, in order,
    /// whether it has reached the device: [`MemoryFiles::names_in_doubt`] calls.
    #[must_use]
    pub fn after_power_cut_with_names(
        &self,
        mut is_there: impl FnMut() -> bool,
        mut fate: impl FnMut(&str, usize) -> SectorFate,
    ) -> Self {
        let state = held(&self.0);
        let mut image = State { dirs: state.dirs.clone(), capacity: state.capacity, ..State::default() };
        for (path, file) in &state.names.survived(&mut is_there) {
            let bytes = held(file).survived(&mut |sector| fate(path, sector));
            image.names.put(path, shared(Inode::durable(path, bytes)));
        }
        assert_eq!(image.names.in_doubt(), 0, "after a power cut no name is in doubt");
        Self(Arc::new(Mutex::new(image)))
    }

    /// How many changes of names a power cut now may undo: files created, renamed and removed since the last
    /// sync of their directory.
    #[must_use]
    pub fn names_in_doubt(&self) -> usize {
        held(&self.0).names.in_doubt()
    }

    fn find(&self, path: &str) -> io::Result<MemoryFile> {
        let found = held(&self.0).names.now().get(path).cloned();
        found.map(MemoryFile::of).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for MemoryFiles {
    type File = MemoryFile;

    fn create(&self, path: &str, bytes: u64) -> io::Result<MemoryFile> {
        let mut state = held(&self.0);
        state.change(Call::Create(path))?;
        if !parent(path).is_empty() && !state.dirs.contains(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.names.take(path);
        state.has_room(bytes)?;
        let file = shared(Inode::fresh(path, bytes as usize));
        state.names.give(path, Shared::clone(&file));
        assert_eq!(held(&file).bytes().len() as u64, bytes, "a new file has the length allocated to it");
        Ok(MemoryFile::of(file))
    }

    fn open(&self, path: &str, access: Access) -> io::Result<MemoryFile> {
        let reads = if access == Access::Scan { ReadFrom::Device } else { ReadFrom::Cache };
        Ok(MemoryFile { reads, ..self.find(path)? })
    }

    fn write_at(
        &self,
        file: &MemoryFile,
        offset: u64,
        parts: &[IoSlice<'_>],
        durability: Durability,
    ) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert!(offset.checked_add(bytes as u64).is_some(), "a write ends where an offset can point");
        let mut state = held(&self.0);
        let (path, length) = {
            let inode = held(&file.inode);
            (inode.path().to_owned(), inode.bytes().len())
        };
        let outcome = state.change(Call::Write { path: &path, offset, bytes, durability });
        state.has_room((offset as usize + bytes).saturating_sub(length) as u64)?;
        let mut inode = held(&file.inode);
        match outcome {
            Ok(Outcome::Lost) => {}
            Ok(Outcome::FailStale(kind)) => {
                inode.write(offset as usize, parts);
                inode.fail_sync();
                return Err(kind.into());
            }
            Ok(Outcome::Misdirected(other)) if other as usize + bytes <= length => {
                inode.write_durable(other as usize, parts);
            }
            Ok(_) if durability == Durability::Synced => inode.write_durable(offset as usize, parts),
            Ok(_) => inode.write(offset as usize, parts),
            Err(error) => {
                inode.write(offset as usize, parts);
                return Err(error);
            }
        }
        Ok(())
    }

    fn sync(&self, file: &MemoryFile) -> io::Result<()> {
        let mut state = held(&self.0);
        let mut inode = held(&file.inode);
        match state.change(Call::Sync(inode.path()))? {
            Outcome::Lost => {}
            Outcome::FailStale(kind) => {
                inode.fail_sync();
                return Err(kind.into());
            }
            _ => {
                inode.sync();
                assert!(inode.is_synced(), "a sync leaves nothing in doubt");
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        if state.change(Call::SyncDir(dir))? == Outcome::Lost {
            return Ok(());
        }
        state.names.sync(dir);
        Ok(())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        held(&self.0).dirs.insert(dir.to_owned());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        state.change(Call::Rename(from, to))?;
        if state.names.rename(from, to) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        state.change(Call::Remove(path))?;
        if state.names.take(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        state.change(Call::Link(from, to))?;
        let file = state.names.now().get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        if state.names.now().contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.give(to, file);
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        let is_in_use = state.names.now().keys().any(|path| parent(path) == dir)
            || state.dirs.iter().any(|below| parent(below) == dir);
        if is_in_use {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.dirs.remove(dir).then_some(()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_at(&self, file: &MemoryFile, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = held(&self.0);
        let inode = held(&file.inode);
        let outcome = state.decide(Call::Read { path: inode.path(), offset, bytes: into.len() })?;
        let read = inode.read(offset as usize, into, file.reads);
        assert!(read <= into.len(), "a read returns no more than was asked for");
        if let Outcome::Flipped(bit) = outcome {
            flip(&mut into[..read], bit);
        }
        Ok(read)
    }

    fn read_cached(&self, file: &MemoryFile, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        // If no sector is stale, cache and device are equal, and a read from either gives the same.
        let inode = held(&file.inode);
        Ok(if inode.is_stale() { inode.read(offset as usize, into, ReadFrom::Cache) } else { 0 })
    }

    fn drop_cached(&self, file: &MemoryFile) {
        let mut inode = held(&file.inode);
        inode.drop_cached();
        assert!(!inode.is_stale(), "what is read next is the device's");
    }

    fn len(&self, file: &MemoryFile) -> io::Result<u64> {
        Ok(held(&file.inode).bytes().len() as u64)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = held(&self.0);
        state.listings += 1;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        assert!(!dir.is_empty(), "files are listed by the directory that they lie in");
        let paths = state.names.now().keys().filter(|path| parent(path) == dir);
        Ok(paths.map(|path| path[dir.len() + 1..].to_owned()).collect())
    }

    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = held(&self.0);
        let dirs = state.dirs.iter().filter(|path| !path.is_empty() && parent(path) == dir);
        Ok(dirs.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
    }

    fn lock(&self, path: &str) -> io::Result<MemoryFile> {
        if !held(&self.0).locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock = Lock { path: path.to_owned(), state: Arc::clone(&self.0) };
        Ok(MemoryFile { _lock: Some(Arc::new(lock)), ..MemoryFile::of(Shared::default()) })
    }
}

fn flip(bytes: &mut [u8], bit: u64) {
    if !bytes.is_empty() {
        let at = (bit / 8) as usize % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_overwritten_keeps_its_length() {
        let files = MemoryFiles::new();
        files.put("file", vec![1; 8]);
        for (offset, expected) in
            [(6, [1, 1, 1, 1, 1, 1, 2, 2]), (8, [1; 8]), (20, [1; 8]), (u64::MAX, [1; 8])]
        {
            let copy = files.copy();
            copy.overwrite("file", offset, &[2; 4]);
            assert_eq!(copy.content("file").unwrap(), expected, "{offset}");
        }
    }
}
