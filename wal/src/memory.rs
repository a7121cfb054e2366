//! A disk in memory, for tests and simulation: [`MemoryFiles`] knows what a power cut would leave, and fails on demand;
//! [`StepDisk`] runs a lane's jobs one at a time, when it is told to.
//!
//! What is not here: chance. Whoever cuts the power says, sector by sector, what becomes of unsynced bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::directory::Directory;
use crate::disk::{Access, AppendMode, Completion, Disk, Files, Job};
use crate::execute::{run_appends, run_segment_job};
use crate::map::Mapped;
use crate::snapshot_file::run_snapshot_job;

/// What a device writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What becomes of an unsynced sector when the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorFate {
    /// It was not written.
    Old,
    /// It was written.
    New,
    /// It holds this byte throughout.
    Garbage(u8),
}

/// Files in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, MemoryFile>,
    durable_names: BTreeMap<String, MemoryFile>,
    dirs: BTreeSet<String>,
    locks: BTreeSet<String>,
    capacity: Option<u64>,
    /// Calls that change something, so far.
    changes: u64,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    from: u64,
    to: u64,
    kind: io::ErrorKind,
}

#[derive(Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
}

/// An open file in memory.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    inode: Arc<Mutex<Inode>>,
    _lock: Option<Arc<Lock>>,
}

#[derive(Debug)]
struct Lock {
    path: String,
    state: Arc<Mutex<State>>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        held(&self.state).locks.remove(&self.path);
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryFile {
    fn new(live: Vec<u8>, durable: Vec<u8>) -> Self {
        Self { inode: Arc::new(Mutex::new(Inode { live, durable })), _lock: None }
    }
}

impl State {
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match self.fault {
            Some(fault) if (fault.from..fault.to).contains(&self.changes) => Err(fault.kind.into()),
            _ => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|file| held(&file.inode).live.len() as u64).sum()
    }

    fn has_room(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl MemoryFiles {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes all files together may have; `None` for any number. Lowering it takes nothing away.
    pub fn limit(&self, capacity: Option<u64>) {
        held(&self.0).capacity = capacity;
    }

    /// Calls so far that change files or names or make them durable.
    #[must_use]
    pub fn changes(&self) -> u64 {
        held(&self.0).changes
    }

    /// Makes the `n`th changing call from now on (the next is 1), and the `more` after it, fail.
    pub fn fail_change(&self, n: u64, more: u64, kind: io::ErrorKind) {
        let mut state = held(&self.0);
        let from = state.changes + n;
        state.fault = Some(Fault { from, to: from.saturating_add(1).saturating_add(more), kind });
    }

    /// Ends what [`MemoryFiles::fail_change`] began. What was not synced is still not.
    pub fn heal(&self) {
        held(&self.0).fault = None;
    }

    /// The bytes of a file.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        held(&self.0).names.get(path).map(|file| held(&file.inode).live.clone())
    }

    /// Puts a file there, durably, in place of what was there.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        let mut state = held(&self.0);
        let file = MemoryFile::new(bytes.clone(), bytes);
        state.names.insert(path.to_owned(), file.clone());
        state.durable_names.insert(path.to_owned(), file);
    }

    /// The paths of all files, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        held(&self.0).names.keys().cloned().collect()
    }

    /// A copy of everything, as after a clean end.
    #[must_use]
    pub fn copy(&self) -> Self {
        self.image(false, &mut |_, _| SectorFate::New)
    }

    /// What a power cut now would leave, as other files. Every unsynced sector is asked for its fate, by path and
    /// number; names that were not made durable are as they were.
    #[must_use]
    pub fn after_power_cut(&self, mut fate: impl FnMut(&str, usize) -> SectorFate) -> Self {
        self.image(true, &mut fate)
    }

    fn image(&self, durable_names: bool, fate: &mut dyn FnMut(&str, usize) -> SectorFate) -> Self {
        let state = held(&self.0);
        let names = if durable_names { &state.durable_names } else { &state.names };
        let mut image = State { dirs: state.dirs.clone(), capacity: state.capacity, ..State::default() };
        for (path, file) in names {
            let inode = held(&file.inode);
            let bytes = survived(&inode, &mut |sector| fate(path, sector));
            let file = MemoryFile::new(bytes.clone(), bytes);
            image.names.insert(path.clone(), file.clone());
            image.durable_names.insert(path.clone(), file);
        }
        Self(Arc::new(Mutex::new(image)))
    }

    fn find(&self, path: &str) -> io::Result<MemoryFile> {
        held(&self.0).names.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Length counts as one sector: it is old or new with the first unsynced one beyond the durable end.
fn survived(inode: &Inode, fate: &mut dyn FnMut(usize) -> SectorFate) -> Vec<u8> {
    let mut bytes = inode.live.clone();
    let mut end = bytes.len();
    for (sector, piece) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
        let at = sector * SECTOR_BYTES;
        let old = inode.durable.get(at..inode.durable.len().min(at + piece.len())).unwrap_or_default();
        if old == piece {
            continue;
        }
        match fate(sector) {
            SectorFate::New => {}
            SectorFate::Garbage(byte) => piece.fill(byte),
            SectorFate::Old => {
                piece.fill(0);
                piece[..old.len()].copy_from_slice(old);
                if old.is_empty() {
                    end = end.min(inode.durable.len().max(at));
                }
            }
        }
    }
    bytes.truncate(end);
    bytes
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Files for MemoryFiles {
    type File = MemoryFile;

    fn create(&self, path: &str, bytes: u64) -> io::Result<MemoryFile> {
        let mut state = held(&self.0);
        state.change()?;
        if !parent(path).is_empty() && !state.dirs.contains(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.names.remove(path);
        state.has_room(bytes)?;
        let file = MemoryFile::new(vec![0; bytes as usize], Vec::new());
        state.names.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, path: &str, _access: Access) -> io::Result<MemoryFile> {
        self.find(path)
    }

    fn write_at(
        &self,
        file: &MemoryFile,
        offset: u64,
        parts: &[IoSlice<'_>],
        durable: bool,
    ) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        let mut state = held(&self.0);
        let outcome = state.change();
        let more = to.saturating_sub(held(&file.inode).live.len());
        state.has_room(more as u64)?;
        let mut inode = held(&file.inode);
        let end = inode.live.len().max(to);
        inode.live.resize(end, 0);
        inode.live[from..to].copy_from_slice(&bytes);
        outcome?; // a failed write may have reached the device in part: its sectors are there, unsynced
        if durable {
            let end = inode.durable.len().max(to);
            inode.durable.resize(end, 0);
            inode.durable[from..to].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn sync(&self, file: &MemoryFile) -> io::Result<()> {
        held(&self.0).change()?;
        let mut inode = held(&file.inode);
        inode.durable = inode.live.clone();
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        state.change()?;
        let state = &mut *state;
        state.durable_names.retain(|path, _| parent(path) != dir);
        let names = state.names.iter().filter(|(path, _)| parent(path) == dir);
        state.durable_names.extend(names.map(|(path, file)| (path.clone(), file.clone())));
        Ok(())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        held(&self.0).dirs.insert(dir.to_owned());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        state.change()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = held(&self.0);
        state.change()?;
        state.names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_at(&self, file: &MemoryFile, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let inode = held(&file.inode);
        let rest = inode.live.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self, file: &MemoryFile) -> io::Result<u64> {
        Ok(held(&file.inode).live.len() as u64)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = held(&self.0);
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = state.names.keys().filter(|path| parent(path) == dir);
        Ok(paths.map(|path| path[dir.len() + 1..].to_owned()).collect())
    }

    fn map(&self, file: &MemoryFile) -> io::Result<Mapped> {
        Ok(Mapped::new(held(&file.inode).live.clone()))
    }

    fn lock(&self, path: &str) -> io::Result<MemoryFile> {
        if !held(&self.0).locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock = Lock { path: path.to_owned(), state: Arc::clone(&self.0) };
        Ok(MemoryFile { _lock: Some(Arc::new(lock)), ..MemoryFile::new(Vec::new(), Vec::new()) })
    }
}

/// A [`Disk`] without threads: jobs wait until [`StepDisk::run_appends`] and the like run them.
#[derive(Debug)]
pub struct StepDisk<F: Files> {
    directory: Directory<F>,
    /// Whether [`Disk::poll`] runs whatever waits, so that a lane can be used without driving its disk.
    pub runs_by_itself: bool,
    is_dead: bool,
    appends: VecDeque<crate::disk::AppendJob<F::File>>,
    others: VecDeque<Job<F::File>>,
    done: VecDeque<Completion<F::File>>,
}

impl<F: Files> StepDisk<F> {
    /// A disk on that directory that runs by itself.
    #[must_use]
    pub fn new(directory: Directory<F>) -> Self {
        let (appends, others, done) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { directory, runs_by_itself: true, is_dead: false, appends, others, done }
    }

    /// Runs every queued append, as one group commit; whether there was any.
    pub fn run_appends(&mut self) -> bool {
        if self.is_dead || self.appends.is_empty() {
            return false;
        }
        let done = &mut self.done;
        let files = self.directory.files();
        self.is_dead = !run_appends(files, &mut self.appends, true, |completion| done.push_back(completion));
        true
    }

    /// Runs the next job on segments or snapshot files; whether there was one.
    pub fn run_background(&mut self) -> bool {
        let Some(job) = self.others.pop_front() else { return false };
        let files = self.directory.files();
        self.done.push_back(match job {
            Job::Segment(job) => run_segment_job(files, job),
            Job::Snapshot(job) => Completion::Snapshot(run_snapshot_job(files, job)),
            Job::Append(_) => return true, // these wait elsewhere
        });
        true
    }
}

impl<F: Files> Disk for StepDisk<F> {
    type Files = F;

    fn directory(&self) -> &Directory<F> {
        &self.directory
    }

    fn submit(&mut self, job: Job<F::File>) {
        match job {
            Job::Append(job) => self.appends.push_back(job),
            other => self.others.push_back(other),
        }
    }

    fn poll(&mut self) -> Option<Completion<F::File>> {
        if self.runs_by_itself && self.done.is_empty() && !self.run_background() {
            self.run_appends();
        }
        self.done.pop_front()
    }

    fn mode(&self) -> AppendMode {
        AppendMode::Buffered
    }

    fn is_synced(&self) -> bool {
        true
    }
}
