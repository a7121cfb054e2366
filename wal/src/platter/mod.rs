//! IMPURE: a model of the device below a directory of [`OsFiles`](crate::OsFiles): what a power cut would leave of it.
//!
//! A page cache survives a killed process, so what a kill leaves cannot show a sync that is missing. A [`Platter`] observes the system
//! calls ([`FileObserver`]) and keeps, in a second directory, what they have made durable and nothing else. When the power is cut, it
//! shows no call as done any more, and [`Platter::leave`] makes a directory of what the device has: all whose sync was reported as
//! done, and of what was in doubt as much as is asked for, sector by sector.
//!
//! What it does not credit, though systems may do it: writeback before a sync, other names than those of the directory that was
//! synced, a failed sync. What it does not model: sectors of garbage, and the lock file, which is not shown to it. What is not here:
//! chance; whoever cuts the power says what becomes of what was in doubt. Next: `names`, `content`.

mod content;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::observe::{FileCall, FileObserver};
use content::Content;
use names::{Names, Node};

/// What was neither certain nor impossible to have reached the device when the power was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDoubt<'a> {
    /// One more write of this sector of a file.
    Sector {
        /// The file's last name.
        file: &'a Path,
        /// Counted from the file's beginning, in [`SECTOR_BYTES`](crate::memory::SECTOR_BYTES).
        sector: u64,
    },
    /// A file's new length.
    Length(&'a Path),
    /// The next change of names in this directory: a file that was made, renamed or removed.
    Names(&'a Path),
}

/// What a power cut took, and what it left although it need not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerLoss {
    /// Bytes that were written, or were being written, and not synced.
    pub unsynced_bytes: u64,
    /// Sectors of them whose last write is gone.
    pub sectors_lost: u64,
    /// Sectors of them whose last write has reached the device all the same.
    pub sectors_kept: u64,
    /// Files with such sectors, lost or kept.
    pub files: u64,
    /// Changes of names that are gone.
    pub names_lost: u64,
    /// Changes of names that have reached the device all the same.
    pub names_kept: u64,
}

/// What a device holds of a directory while a system works on it. See the module.
#[derive(Debug)]
pub struct Platter {
    /// The directory that is worked on.
    root: PathBuf,
    /// Where what is durable is kept, in files named by number.
    store: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    lies: bool,
    /// The number of the last call, or of the end of one.
    last: u64,
    names: Names,
    contents: BTreeMap<u64, Content>,
    /// Files by their inodes, as long as they have a name.
    by_inode: HashMap<u64, u64>,
    /// The first error of the store's: nothing is certain then.
    broken: Option<io::ErrorKind>,
}

/// What a call gets while there is no power.
fn no_power() -> io::Error {
    io::Error::other("the power is cut")
}

impl Platter {
    /// A model of the device below `root`, which must be empty or absent. What is durable is kept in `store`, which is made: best on
    /// the same file system, since all that is written is written there once more, without a sync.
    ///
    /// # Errors
    /// If `store` cannot be made, or `root` has something in it.
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

    /// From now on the device reports syncs that it has not done, and durable writes likewise: for tests of those that should notice.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    /// Cuts the power of all these devices at one instant. From then on no call on them is reported as done: each fails, also one that
    /// was under way.
    pub fn cut<'a>(platters: impl IntoIterator<Item = &'a Self>) {
        let mut states: Vec<_> = platters.into_iter().map(Self::state).collect();
        states.iter_mut().for_each(|state| state.is_cut = true);
    }

    /// Makes the directory `image`, which must be absent, of what the device has after the power was cut. `reached` is asked of each
    /// thing that is in doubt whether it has reached the device, in the order in which they were written: of a sector's writes, and of
    /// a directory's changes, none has after one that has not. May be called once: the image takes the store's files.
    ///
    /// # Errors
    /// The power is on; or a file system's error, also an earlier one, after which what the device has is not known.
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
                Node::File(file) => fs::hard_link(self.stored(file), at)?,
            }
        }
        Ok(loss)
    }

    fn stored(&self, file: u64) -> PathBuf {
        self.store.join(file.to_string())
    }

    /// A path as the model knows it; `None` of what lies elsewhere.
    fn relative<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.root).ok()
    }

    /// A file has got its first name.
    fn create(&self, state: &mut State, path: &Path, file: &File) -> io::Result<()> {
        let Some(path) = self.relative(path) else { return Ok(()) };
        let number = state.next();
        state.contents.insert(number, Content::create(&self.stored(number))?);
        state.by_inode.insert(file.metadata()?.ino(), number);
        state.names.give(number, path, Node::File(number));
        Ok(())
    }

    /// What a call that was made has changed, and what of it is durable.
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
            FileCall::Write { file, durable, .. } => {
                let (now, is_durable) = (state.next(), *durable && !state.lies);
                if let Some(content) = state.content(file)? {
                    content.written(number, now, done, is_durable)?;
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

    /// Files that no name can come back of take no more room.
    fn forget_nameless(&self, state: &mut State) -> io::Result<()> {
        let named = state.names.files();
        let gone: Vec<u64> = state.contents.keys().filter(|file| !named.contains(file)).copied().collect();
        for file in gone {
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

    /// The inode of a file without a name may soon be another file's.
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
        let applied = match (done, call) {
            (Some(done), _) => self.apply(&mut state, number, call, done),
            // The system takes what could not be synced for written, and a later sync has nothing to do.
            (None, FileCall::Sync(file) | FileCall::SyncRange { file, .. }) => state
                .content(file)
                .map(|content| content.into_iter().for_each(|content| content.fail(number))),
            // A write that has failed may have reached the device: it stays in doubt.
            (None, _) => Ok(()),
        };
        if let Err(error) = &applied {
            state.broken.get_or_insert(error.kind());
        }
        applied
    }
}
