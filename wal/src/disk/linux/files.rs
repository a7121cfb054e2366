//! IMPURE: [`Files`] on Linux. Single calls; threads only while a log is opened ([`Files::spread`]).
//!
//! Not here: the order of calls (`execute`), queues (`disk::linux`), the unsafe part of mapping (`map`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZero;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use memmap2::MmapMut;
use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};
use rustix::io::ReadWriteFlags;

use crate::disk::files::{Access, AppendMode, Durability, Files};
use crate::disk::linux::file_system::FileSystemKind;
use crate::disk::linux::map::WritableMap;
use crate::disk::observe::{FileCall, FileObserver};
use crate::format::segment::PAGE_BYTES;

/// Left over by versions that tested their append mode with a file of its own.
const OLD_PROBE: &str = "probe.tmp";
/// Bytes read per call when a file is cached before it is mapped.
const CACHED_AT_ONCE_BYTES: usize = 1 << 20;

const _: () = assert!(CACHED_AT_ONCE_BYTES.is_multiple_of(PAGE_BYTES), "files are cached in whole pages");
const _: () = assert!(may_map(PAGE_BYTES) && !may_map(2 * PAGE_BYTES), "stores dirty one page of the log");

/// Files below one directory of the operating system.
#[derive(Clone, Debug)]
pub struct OsFiles {
    root: Arc<Path>,
    wanted: AppendMode,
    /// The modes that the directory supports, detected when it is locked. Clones share it.
    taken: Arc<OnceLock<Taken>>,
    is_read_only: bool,
    /// Segments that could not be mapped, and are written by calls.
    unmapped: Arc<AtomicU64>,
    /// Receives each call that changes something.
    observer: Option<Arc<dyn FileObserver>>,
}

/// Whether a store through a map dirties at most one of the log's pages.
const fn may_map(page_bytes: usize) -> bool {
    page_bytes <= PAGE_BYTES
}

/// What a file system supports.
#[derive(Clone, Copy, Debug)]
struct Taken {
    mode: AppendMode,
    direct: bool,
}

/// An open file, and its map if appends are stored through one.
#[derive(Debug)]
pub struct OsFile {
    file: File,
    map: Option<WritableMap>,
}

impl From<File> for OsFile {
    fn from(file: File) -> Self {
        Self { file, map: None }
    }
}

impl OsFiles {
    /// Creates the directory if need be. Whether it supports the wanted mode is tested when it is locked
    /// ([`Files::lock`]), on the lock file, which has no other user then: where `O_DIRECT`, or a map for
    /// stores, is refused, appends are [`AppendMode::Buffered`]; likewise where the system's pages are longer
    /// than 4 KiB and a map is wanted, since a store there makes the device rewrite the durable data in the
    /// same page. [`OsFiles::mode`] returns the result. A disk without a free block counts as supporting
    /// both.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn new(root: impl Into<PathBuf>, wanted: AppendMode) -> io::Result<Self> {
        let root: PathBuf = root.into();
        fs::create_dir_all(&root)?;
        let (taken, unmapped) = Default::default();
        Ok(Self { root: root.into(), wanted, taken, is_read_only: false, unmapped, observer: None })
    }

    /// As [`OsFiles::new`], but the directory's name, and those of parents that had to be created, survive a
    /// power cut. The last two names are synced each time: an earlier process may have ended before it synced
    /// them. Every call from here on is passed to the `observer`. Blocks for a sync of each of them.
    ///
    /// # Errors
    /// If a directory cannot be created, or its name cannot be made durable.
    pub fn durable(
        root: impl Into<PathBuf>,
        wanted: AppendMode,
        observer: Option<Arc<dyn FileObserver>>,
    ) -> io::Result<Self> {
        let root: Arc<Path> = root.into().into();
        let (taken, unmapped) = Default::default();
        let files = Self { root: Arc::clone(&root), wanted, taken, is_read_only: false, unmapped, observer };
        let missing =
            root.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).count();
        files.create_dir("")?;
        for made in root.ancestors().take(missing.max(2)) {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty());
            files.sync_dir_at(above.unwrap_or(Path::new(".")))?;
        }
        Ok(files)
    }

    /// The same files, with every call that changes something passed to the `observer`.
    #[must_use]
    pub fn observed_by(self, observer: Option<Arc<dyn FileObserver>>) -> Self {
        Self { observer, ..self }
    }

    /// Files for inspection only: nothing below `root` is created, changed or locked, and a call that would
    /// do so fails.
    #[must_use]
    pub fn read_only(root: impl Into<PathBuf>) -> Self {
        let (taken, unmapped) = Default::default();
        let (root, wanted) = (root.into().into(), AppendMode::Buffered);
        Self { root, wanted, taken, is_read_only: true, unmapped, observer: None }
    }

    /// Makes a call that changes something and passes it to the observer. `made` returns the bytes written,
    /// or 0.
    fn call(&self, call: &FileCall<'_>, made: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
        let Some(observer) = &self.observer else { return made() };
        let number = observer.begin(call)?;
        let done = made();
        observer.end(number, call, done.as_ref().ok().copied())?;
        done
    }

    fn sync_dir_at(&self, path: &Path) -> io::Result<()> {
        self.call(&FileCall::SyncDir(path), || File::open(path)?.sync_all().map(|()| 0)).map(drop)
    }

    fn remove_at(&self, path: &Path) -> io::Result<()> {
        self.call(&FileCall::Remove(path), || fs::remove_file(path).map(|()| 0)).map(drop)
    }

    /// Stores all parts, one after another, through the map. `false` if some could not be stored: all are
    /// then written by a call.
    fn store(
        &self,
        file: &File,
        map: &WritableMap,
        offset: u64,
        parts: &[IoSlice<'_>],
        durability: Durability,
    ) -> io::Result<bool> {
        let durable = durability == Durability::Synced;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let write = FileCall::Write { file, offset, parts, durability: Durability::Buffered };
        let stored =
            self.call(&write, || store(map, offset, parts).map(|all| if all { bytes as u64 } else { 0 }))?;
        assert!(stored == 0 || stored == bytes as u64, "all parts are stored, or they are written by a call");
        if stored == 0 && bytes > 0 {
            return Ok(false);
        }
        if durable {
            let range = FileCall::SyncRange { file, from: offset, to: offset + bytes as u64 };
            self.call(&range, || map.sync(offset as usize, bytes).map(|()| 0))?;
        }
        Ok(true)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.is_read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// How appends are written; before the directory is locked, the wanted mode.
    #[must_use]
    pub fn mode(&self) -> AppendMode {
        self.taken.get().map_or(self.wanted, |taken| taken.mode)
    }

    /// The kind of file system that the directory lies on.
    ///
    /// # Errors
    /// The system's error.
    pub fn kind(&self) -> io::Result<FileSystemKind> {
        FileSystemKind::of(&self.root)
    }

    fn takes_direct(&self) -> bool {
        !self.is_read_only && self.taken.get().is_none_or(|taken| taken.direct)
    }

    /// Segments that the system could not map, for lack of maps, of memory or of a readable page, although
    /// appends are to be stored through maps: they are written by calls.
    #[must_use]
    pub fn unmapped(&self) -> u64 {
        self.unmapped.load(Ordering::Relaxed)
    }

    /// Tests what the file system supports, with a page of a file that has no other user.
    fn find_out(&self, path: &Path) -> Taken {
        let direct = takes_direct(path);
        let is_taken = match self.wanted {
            AppendMode::Direct => direct,
            AppendMode::Buffered => true,
            AppendMode::Mapped => may_map(rustix::param::page_size()) && takes_map(path),
        };
        let mode = if is_taken { self.wanted } else { AppendMode::Buffered };
        assert!(mode != AppendMode::Direct || direct, "direct appends are made where they are accepted");
        Taken { mode, direct }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Files for OsFiles {
    type File = Arc<OsFile>;

    fn create(&self, path: &str, bytes: u64) -> io::Result<Arc<OsFile>> {
        self.check_writable()?;
        let path = self.path(path);
        match self.remove_at(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        self.call(&FileCall::Create { path: &path, file: &file }, || Ok(0))?;
        let allocation = FileCall::Allocate { file: &file, bytes };
        if bytes > 0
            && let Err(error) = self.call(&allocation, || allocate(&file, bytes).map(|()| 0))
        {
            let _ = self.remove_at(&path); // the allocated blocks would fill a full disk further
            return Err(error);
        }
        Ok(Arc::new(file.into()))
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<OsFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Scan && !self.is_read_only);
        let is_direct = match access {
            Access::Scan => true,
            Access::Fill => self.takes_direct(),
            Access::Append => self.mode() == AppendMode::Direct,
            Access::Plain => false,
        };
        if is_direct {
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        let file = options.open(self.path(path))?;
        let is_mapped = access == Access::Append && self.mode() == AppendMode::Mapped;
        // Out of maps, or of memory: then it is written by calls, which write the same bytes to the same
        // place.
        assert!(!(is_direct && is_mapped), "a file is stored to through the page cache");
        let map = if is_mapped { map_for_stores(&file).ok() } else { None };
        self.unmapped.fetch_add(u64::from(is_mapped && map.is_none()), Ordering::Relaxed);
        Ok(Arc::new(OsFile { file, map }))
    }

    fn write_at(
        &self,
        file: &Arc<OsFile>,
        mut offset: u64,
        parts: &[IoSlice<'_>],
        durability: Durability,
    ) -> io::Result<()> {
        let durable = durability == Durability::Synced;
        // A whole page costs less by a call than by the page fault of its first store; a durable write has
        // its range to `msync`, which needs stores.
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if let Some(map) = file.map.as_ref().filter(|_| durable || bytes <= PAGE_BYTES)
            && self.store(&file.file, map, offset, parts, durability)?
        {
            return Ok(());
        }
        let mut left = bytes;
        let is_direct = self.mode() == AppendMode::Direct;
        let flags = if durable && is_direct { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let mut parts = parts.to_vec();
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, 0); // skips empty ones
        while !parts.is_empty() {
            let is_synced = flags.contains(ReadWriteFlags::DSYNC);
            let durability = if is_synced { Durability::Synced } else { Durability::Buffered };
            let write = FileCall::Write { file: &file.file, offset, parts, durability };
            let written = || Ok(rustix::io::pwritev2(&file.file, parts, offset, flags)? as u64);
            match self.call(&write, written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    assert!(written <= left as u64, "a call writes no more than it was given");
                    left -= written as usize;
                    offset += written;
                    IoSlice::advance_slices(&mut parts, written as usize);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        assert_eq!(left, 0, "a write ends behind its last part");
        if durable && !is_direct { self.sync(file) } else { Ok(()) }
    }

    fn appends_through_cache(&self) -> bool {
        self.mode() != AppendMode::Direct
    }

    fn forget_cached(&self, file: &Arc<OsFile>) {
        if self.mode() == AppendMode::Direct {
            let _ = rustix::fs::fadvise(&file.file, 0, None, Advice::DontNeed);
        }
    }

    fn drop_cached(&self, file: &Arc<OsFile>) {
        let _ = rustix::fs::fadvise(&file.file, 0, None, Advice::DontNeed);
    }

    fn sync(&self, file: &Arc<OsFile>) -> io::Result<()> {
        self.call(&FileCall::Sync(&file.file), || file.file.sync_data().map(|()| 0)).map(drop)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.sync_dir_at(&self.path(dir))
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.check_writable()?;
        let path = self.path(dir);
        self.call(&FileCall::CreateDir(&path), || fs::create_dir_all(&path).map(|()| 0)).map(drop)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        let (from, to) = (self.path(from), self.path(to));
        self.call(&FileCall::Rename { from: &from, to: &to }, || fs::rename(&from, &to).map(|()| 0)).map(drop)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.check_writable()?;
        self.remove_at(&self.path(path))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::hard_link(self.path(from), self.path(to))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_dir(self.path(dir))
    }

    fn read_at(&self, file: &Arc<OsFile>, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match file.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        assert!(done <= into.len(), "a read returns no more than was asked for");
        Ok(done)
    }

    fn read_cached(&self, file: &Arc<OsFile>, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len();
        let read =
            rustix::io::preadv2(&file.file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT);
        let read = read.unwrap_or(0); // nothing cached, or a file system without RWF_NOWAIT
        assert!(read <= wanted, "the cache returns no more than was asked for");
        Ok(read)
    }

    fn spread(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        // More threads than cores: some wait for the device while others compute.
        let hands = 2 * thread::available_parallelism().map_or(1, NonZero::get);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(task_number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < count) {
                task(task_number);
            }
        };
        thread::scope(|scope| {
            for _ in 1..hands.min(count) {
                scope.spawn(work);
            }
            work();
        });
        assert!(next.into_inner() >= count, "every task was started");
    }

    fn len(&self, file: &Arc<OsFile>) -> io::Result<u64> {
        Ok(file.file.metadata()?.len())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        names_in(&self.path(dir), |kind| kind.is_file())
    }

    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        names_in(&self.path(dir), |kind| kind.is_dir())
    }

    fn lock(&self, path: &str) -> io::Result<Arc<OsFile>> {
        self.check_writable()?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.path(path))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // From here on this process is the only user.
        self.taken.get_or_init(|| self.find_out(&self.path(path)));
        let _ = fs::remove_file(self.path(OLD_PROBE));
        Ok(Arc::new(file.into()))
    }
}

fn names_in(dir: &Path, is_wanted: impl Fn(fs::FileType) -> bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_wanted(entry.file_type()?)
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a page can be written past the cache; also `true` if the disk is full, so that this cannot be
/// tested.
fn takes_direct(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    let direct = options.read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
    let Ok(page) = MmapMut::map_anon(PAGE_BYTES) else { return false };
    assert_eq!(page.len(), PAGE_BYTES, "a direct write is of a whole page");
    assert!(page.as_ptr().addr().is_multiple_of(PAGE_BYTES), "a direct write begins at a page of memory");
    direct.and_then(|file| file.write_all_at(&page, 0)).map_or_else(|error| is_full(&error), |()| true)
}

/// Whether a page can be stored to through a map; also `true` if the disk is full, so that this cannot be
/// tested: a segment that turns out not to support it is written by calls.
fn takes_map(path: &Path) -> bool {
    let mapped = || {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // All of it is written before it is mapped: a store to an unallocated page would end the process
        // where the disk is full.
        file.write_all_at(&[0; PAGE_BYTES], 0)?;
        file.sync_data()?;
        let map = WritableMap::of(&file)?;
        store(&map, 0, &[IoSlice::new(&[0; PAGE_BYTES])])?;
        map.sync(0, PAGE_BYTES)
    };
    mapped().map_or_else(|error| is_full(&error), |_| true)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Allocates a new file's blocks. A file system without `fallocate` allocates them when the file is filled,
/// which happens before it is used.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        allocated => Ok(allocated?),
    }
}

/// The process's limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFilesLimit {
    /// The limit before.
    pub before: Option<u64>,
    /// The limit now; `None`: unlimited.
    pub now: Option<u64>,
}

/// Raises the process's soft limit of open files to its hard limit (RLIMIT_NOFILE), which needs no
/// privileges: each segment in use takes one descriptor, the current and the next ones of each lane two. To
/// be called by the program that opens the log, since the limit is process-wide.
#[must_use]
pub fn raise_open_files_limit() -> OpenFilesLimit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
    let is_lower = before.is_some_and(|before| maximum.is_none_or(|maximum| before < maximum));
    let raised = is_lower && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    OpenFilesLimit { before, now: if raised { maximum } else { before } }
}

/// Maps a file after reading all of it into the page cache, page by page: a store to a page that is not
/// cached waits until the device has read it, and where large folios are cached a small store makes the
/// device write a large one.
fn map_for_stores(file: &File) -> io::Result<WritableMap> {
    // Both are best effort: without them stores cost more, with the same result.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
    let (mut at, mut piece) = (0, vec![0; CACHED_AT_ONCE_BYTES]);
    loop {
        match file.read_at(&mut piece, at) {
            Ok(0) => return WritableMap::of(file),
            Ok(read) => at += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Stores all parts, one after another, through the map. `false` if some could not be stored: all are then
/// written by a call.
fn store(map: &WritableMap, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<bool> {
    let mut at = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    for part in parts {
        if !map.store(at, part)? {
            return Ok(false);
        }
        at += part.len();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_longer_than_the_logs_are_not_stored_to() {
        assert!(may_map(4 << 10));
        assert!(!may_map(16 << 10) && !may_map(64 << 10));
    }
}
