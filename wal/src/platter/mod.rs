//! IMPURE: a model of the device below a directory of [`OsFiles`](crate::OsFiles): the state that a power cut
//! would leave.
//!
//! A page cache survives a killed process, so a kill cannot reveal a missing sync. A [`Platter`] observes the
//! system calls ([`FileObserver`]) and keeps, in a second directory, what they made durable and nothing else.
//! After a power cut it reports no call as done any more, and [`Platter::leave`] builds a directory with the
//! device's content: everything with a completed sync, and as much of what was in doubt as requested, sector
//! by sector.
//!
//! It does not credit, though systems may do it: writeback before a sync, names outside the synced directory,
//! a failed sync. It does not model: sectors of garbage, and the lock file, which it does not observe. Not
//! here: randomness; the caller that cuts the power decides the fate of what was in doubt. Next: `names`,
//! `content`.

mod content;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disk::files::Durability;
use crate::disk::observe::{FileCall, FileObserver};
use content::Content;
use names::{Names, Node};

/// A change that may or may not have reached the device when the power was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDoubt<'a> {
    /// One more write of this sector of a file.
    Sector {
        /// The file's last name.
        file: &'a Path,
        /// Its number in the file, in units of [`SECTOR_BYTES`](crate::disk::simulated::SECTOR_BYTES).
        sector: u64,
    },
    /// A file's new length.
    Length(&'a Path),
    /// The next change of names in this directory: a file created, renamed or removed.
    Names(&'a Path),
}

/// The losses in a power cut, and the unsynced changes that survived it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerLoss {
    /// Bytes that were written, or being written, and not synced.
    pub unsynced_bytes: u64,
    /// Sectors of them that lost a write.
    pub sectors_lost: u64,
    /// Sectors of them that lost no write.
    pub sectors_kept: u64,
    /// Files with such sectors, lost or kept.
    pub files: u64,
    /// Changes of names that were lost.
    pub names_lost: u64,
    /// Unsynced changes of names that reached the device.
    pub names_kept: u64,
}

/// The device below a directory in use. See the module.
#[derive(Debug)]
pub struct Platter {
    /// The directory in use.
    root: PathBuf,
    /// Where the durable content is kept, in files named by number.
    store: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    lies: bool,
    /// The number last assigned, to a call or to the end of one.
    last: u64,
    names: Names,
    contents: BTreeMap<u64, Content>,
    /// Files by inode number, as long as they have a name.
    by_inode: HashMap<u64, u64>,
    /// The first error of the store: the model is unreliable from then on.
    broken: Option<io::ErrorKind>,
}

/// The error of every call after the power was cut.
fn no_power() -> io::Error {
    io::Error::other("the power is cut")
}

impl Platter {
    /// A model of the device below `root`, which must be empty or absent. Durable content is kept in `store`,
    /// which is created: best on the same file system, since every write is repeated there, without a sync.
    ///
    /// # Errors
    /// If `store` cannot be created, or `root` is not empty.
    pub fn new(root: impl Into<PathBuf>, store: impl Into<PathBuf>) -> io::Result<Self> {
        let (root, store) = (root.into(), store.into());
        if fs::read_dir(&root).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        fs::create_dir_all(&store)?;
        Ok(Self { root, store, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the device reports syncs and durable writes as done without doing them: for tests that
    /// must detect this.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    /// Cuts the power of all these devices at one instant. From then on no call on them is reported as done:
    /// each fails, including calls in progress.
    pub fn cut<'a>(platters: impl IntoIterator<Item = &'a Self>) {
        let mut states: Vec<_> = platters.into_iter().map(Self::state).collect();
        states.iter_mut().for_each(|state| state.is_cut = true);
    }

    /// Creates the directory `image`, which must be absent, with the device's content after the power cut.
    /// `reached` decides for each change in doubt, in the order of writing, whether it reached the device:
    /// once one write of a sector, or one change of a directory, has not, no later one has. May be called
    /// once: the image takes the store's files.
    ///
    /// # Errors
    /// If the power is on; or a file system's error, also an earlier one, after which the device's content is
    /// unknown.
    pub fn leave(&self, image: &Path, mut reached: impl FnMut(InDoubt<'_>) -> bool) -> io::Result<PowerLoss> {
        let mut state = self.state();
        if !state.is_cut {
            return Err(io::Error::other("the power is on"));
        }
        if let Some(kind) = state.broken {
            return Err(io::Error::new(kind, "the model of the device could not be kept"));
        }
        let mut loss = PowerLoss::default();
        let State { names, contents, .. } = &mut *state;
        for (file, content) in contents.iter_mut() {
            let path = names.path_of(*file).map(Path::to_owned).unwrap_or_default();
            content.end(&path, &mut reached, &mut loss)?;
        }
        names.end(&mut reached, &mut loss);
        fs::create_dir_all(image)?;
        for (path, node) in names.left() {
            let at = image.join(path);
            match node {
                Node::Dir => fs::create_dir(at)?,
                Node::File(file) => {
                    assert!(contents.contains_key(&file), "a file with a name has content");
                    fs::hard_link(self.stored(file), at)?;
                }
            }
        }
        Ok(loss)
    }

    fn stored(&self, file: u64) -> PathBuf {
        self.store.join(file.to_string())
    }

    /// A path relative to the root; `None` if it lies elsewhere.
    fn relative<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.root).ok()
    }

    /// A file was created.
    fn create(&self, state: &mut State, path: &Path, file: &File) -> io::Result<()> {
        let Some(path) = self.relative(path) else { return Ok(()) };
        let number = state.next();
        let replaced = state.contents.insert(number, Content::create(&self.stored(number))?);
        assert!(replaced.is_none(), "each file has a number of its own");
        state.by_inode.insert(file.metadata()?.ino(), number);
        state.names.give(number, path, Node::File(number));
        Ok(())
    }

    /// Applies the changes of a completed call, and what it made durable.
    fn apply(&self, state: &mut State, number: u64, call: &FileCall<'_>, done: u64) -> io::Result<()> {
        match call {
            FileCall::CreateDir(path) => {
                let missing = self.relative(path).into_iter().flat_map(Path::ancestors);
                let missing: Vec<&Path> = missing.take_while(|path| !path.as_os_str().is_empty()).collect();
                for dir in missing.into_iter().rev().filter(|dir| !state.names.has(dir)).collect::<Vec<_>>() {
                    let number = state.next();
                    state.names.give(number, dir, Node::Dir);
                }
            }
            FileCall::Create { path, file } => self.create(state, path, file)?,
            FileCall::Allocate { file, bytes } => {
                let now = state.next();
                if let Some(content) = state.content(file)? {
                    content.allocate(number, now, *bytes);
                }
            }
            FileCall::Write { file, durability, .. } => {
                let (now, lies) = (state.next(), state.lies);
                let durability = if lies { Durability::Buffered } else { *durability };
                if let Some(content) = state.content(file)? {
                    content.written(number, now, done, durability)?;
                }
            }
            FileCall::Sync(file) if !state.lies => {
                if let Some(content) = state.content(file)? {
                    content.sync(number, None)?;
                }
            }
            FileCall::SyncRange { file, from, to } if !state.lies => {
                if let Some(content) = state.content(file)? {
                    content.sync(number, Some(*from..*to))?;
                }
            }
            FileCall::SyncDir(path) if !state.lies => {
                if let Some(path) = self.relative(path) {
                    state.names.sync(number, path);
                    self.forget_nameless(state)?;
                }
            }
            FileCall::Rename { from, to } => {
                if let (Some(from), Some(to)) = (self.relative(from), self.relative(to)) {
                    let number = state.next();
                    let replaced = state.names.rename(number, from, to);
                    state.lose_inode(replaced);
                }
            }
            FileCall::Remove(path) => {
                if let Some(path) = self.relative(path) {
                    let number = state.next();
                    let removed = state.names.take(number, path);
                    state.lose_inode(removed);
                }
            }
            FileCall::Sync(_) | FileCall::SyncRange { .. } | FileCall::SyncDir(_) => {}
        }
        Ok(())
    }

    /// Frees files that have no name and cannot get one back.
    fn forget_nameless(&self, state: &mut State) -> io::Result<()> {
        let named = state.names.files();
        let gone: Vec<u64> = state.contents.keys().filter(|file| !named.contains(file)).copied().collect();
        for file in gone {
            assert!(file <= state.last, "a file has a number given before");
            state.contents.remove(&file);
            state.lose_inode(Some(Node::File(file)));
            fs::remove_file(self.stored(file))?;
        }
        Ok(())
    }
}

impl State {
    const fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn content(&mut self, file: &File) -> io::Result<Option<&mut Content>> {
        let number = self.by_inode.get(&file.metadata()?.ino());
        Ok(number.and_then(|number| self.contents.get_mut(number)))
    }

    /// The inode number of a file without a name may soon be reused.
    fn lose_inode(&mut self, node: Option<Node>) {
        if let Some(Node::File(gone)) = node {
            self.by_inode.retain(|_, file| *file != gone);
        }
    }
}

impl FileObserver for Platter {
    fn begin(&self, call: &FileCall<'_>) -> io::Result<u64> {
        let mut state = self.state();
        if state.is_cut {
            return Err(no_power());
        }
        let number = state.next();
        if let FileCall::Write { file, offset, parts, .. } = call
            && let Some(content) = state.content(file)?
        {
            content.begin_write(number, *offset, parts);
        }
        Ok(number)
    }

    fn end(&self, number: u64, call: &FileCall<'_>, done: Option<u64>) -> io::Result<()> {
        let mut state = self.state();
        if state.is_cut {
            return Err(no_power());
        }
        assert!(0 < number && number <= state.last, "a call ends after it began");
        let applied = match (done, call) {
            (Some(done), _) => self.apply(&mut state, number, call, done),
            // The system marks pages clean that could not be synced, and a later sync does nothing.
            (None, FileCall::Sync(file) | FileCall::SyncRange { file, .. }) => state
                .content(file)
                .map(|content| content.into_iter().for_each(|content| content.fail(number))),
            // A failed write may have reached the device: it stays in doubt.
            (None, _) => Ok(()),
        };
        if let Err(error) = &applied {
            state.broken.get_or_insert(error.kind());
        }
        applied
    }
}
