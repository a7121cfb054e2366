//! A file system that models the state after a power cut: the kernel's calls, by FUSE, on the simulated disk.
//!
//! Writes that the kernel has passed on but not synced can be read, and are lost, sector by sector, after
//! [`Mounted::power_cut`]; so are names with an unsynced directory. Pages in the kernel's page cache never
//! get here. It supports what a log needs: two levels of folders, no links, no truncation. Only the kernel
//! changes sizes and names, so it may cache them; and contents, also after a file is closed: a page with a
//! failed sync can be read until the kernel drops it from its cache.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use raftwerk_wal::simulated::{MemoryFile, MemoryFiles, SectorFate};
use raftwerk_wal::{Access, Durability, Files};
use rustix::fs::OFlags;

const TTL: Duration = Duration::from_secs(60);

/// The mounted file system; unmounted on drop.
pub(crate) struct Mounted {
    files: MemoryFiles,
    _session: BackgroundSession,
    dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts these files.
    pub(crate) fn new(files: MemoryFiles) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful".to_owned())];
        let layer = Layer { files: files.clone(), nodes: Mutex::new(Nodes::of(&files)) };
        let session = fuser::spawn_mount(layer, dir.path(), &config)?;
        Ok(Self { files, _session: session, dir })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The simulated files below it.
    pub(crate) fn files(&self) -> &MemoryFiles {
        &self.files
    }

    #[allow(dead_code, reason = "not every program that shares this cuts the power")]
    /// The files that a power cut now would leave.
    pub(crate) fn power_cut(&self, fate: impl FnMut(&str, usize) -> SectorFate) -> MemoryFiles {
        self.files.after_power_cut(fate)
    }
}

/// The files and folders of the kernel's inode numbers.
struct Nodes {
    by_path: BTreeMap<String, u64>,
    by_number: BTreeMap<u64, Node>,
}

#[derive(Clone)]
enum Node {
    Folder(String),
    File(MemoryFile),
}

impl Nodes {
    fn of(files: &MemoryFiles) -> Self {
        let (by_path, by_number) = (BTreeMap::new(), BTreeMap::new());
        let mut nodes = Self { by_path, by_number };
        nodes.add("", Node::Folder(String::new()));
        for path in files.paths() {
            if let Some((dir, _)) = path.rsplit_once('/').filter(|(dir, _)| !nodes.by_path.contains_key(*dir))
            {
                nodes.add(dir, Node::Folder(dir.to_owned()));
            }
            // Reads that miss the kernel's cache go to the device.
            if let Ok(file) = files.open(&path, Access::Scan) {
                nodes.add(&path, Node::File(file));
            }
        }
        nodes
    }

    /// Numbers are not reused; the root's is 1.
    fn add(&mut self, path: &str, node: Node) -> u64 {
        let number = self.by_number.len() as u64 + 1;
        self.by_path.insert(path.to_owned(), number);
        self.by_number.insert(number, node);
        number
    }

    fn path_in(&self, folder: INodeNo, name: &OsStr) -> Result<String, Errno> {
        let name = name.to_str().ok_or(Errno::EINVAL)?;
        match self.by_number.get(&folder.0) {
            Some(Node::Folder(path)) if path.is_empty() => Ok(name.to_owned()),
            Some(Node::Folder(path)) => Ok(format!("{path}/{name}")),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

struct Layer {
    files: MemoryFiles,
    nodes: Mutex<Nodes>,
}

impl Layer {
    fn node(&self, number: INodeNo) -> Result<Node, Errno> {
        self.nodes.lock().unwrap().by_number.get(&number.0).cloned().ok_or(Errno::ENOENT)
    }

    fn file(&self, number: INodeNo) -> Result<MemoryFile, Errno> {
        match self.node(number)? {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Errno::EISDIR),
        }
    }

    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        let (kind, size) = match self.node(INodeNo(number))? {
            Node::Folder(_) => (FileType::Directory, 0),
            Node::File(file) => (FileType::RegularFile, self.files.len(&file)?),
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let number = {
            let nodes = self.nodes.lock().unwrap();
            nodes.by_path.get(&nodes.path_in(parent, name)?).copied().ok_or(Errno::ENOENT)?
        };
        self.attributes(number)
    }

    fn make(&self, parent: INodeNo, name: &OsStr, is_folder: bool) -> Result<FileAttr, Errno> {
        let number = {
            let mut nodes = self.nodes.lock().unwrap();
            let path = nodes.path_in(parent, name)?;
            let node = if is_folder {
                self.files.create_dir(&path)?;
                Node::Folder(path.clone())
            } else {
                self.files.create(&path, 0)?;
                Node::File(self.files.open(&path, Access::Scan)?)
            };
            nodes.add(&path, node)
        };
        self.attributes(number)
    }

    fn take_away(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let mut nodes = self.nodes.lock().unwrap();
        let path = nodes.path_in(parent, name)?;
        self.files.remove(&path)?;
        nodes.by_path.remove(&path); // open handles still use its number
        Ok(())
    }

    fn give_name(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Result<(), Errno> {
        let mut nodes = self.nodes.lock().unwrap();
        let (from, to) = (nodes.path_in(from.0, from.1)?, nodes.path_in(to.0, to.1)?);
        self.files.rename(&from, &to)?;
        let number = nodes.by_path.remove(&from).ok_or(Errno::ENOENT)?;
        nodes.by_path.insert(to, number);
        Ok(())
    }

    /// Appends zeros up to `to`: the allocated space.
    fn extend(&self, number: INodeNo, to: u64) -> Result<(), Errno> {
        let file = self.file(number)?;
        let length = self.files.len(&file)?;
        let zeros = vec![0; to.saturating_sub(length) as usize];
        Ok(self.files.write_at(&file, length, &[IoSlice::new(&zeros)], Durability::Buffered)?)
    }

    fn put(&self, number: INodeNo, offset: u64, bytes: &[u8], durability: Durability) -> Result<u32, Errno> {
        self.files.write_at(&self.file(number)?, offset, &[IoSlice::new(bytes)], durability)?;
        Ok(bytes.len() as u32)
    }

    fn get(&self, number: INodeNo, offset: u64, bytes: u32) -> Result<Vec<u8>, Errno> {
        let mut into = vec![0; bytes as usize];
        let read = self.files.read_at(&self.file(number)?, offset, &mut into)?;
        into.truncate(read);
        Ok(into)
    }

    fn entries(&self, number: INodeNo) -> Result<Vec<(u64, FileType, String)>, Errno> {
        let Node::Folder(folder) = self.node(number)? else { return Err(Errno::ENOTDIR) };
        let nodes = self.nodes.lock().unwrap();
        let parent_of = |path: &str| path.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        let below = nodes.by_path.iter().filter(|(path, _)| !path.is_empty() && parent_of(path) == folder);
        let named = below.map(|(path, number)| {
            let is_folder = matches!(nodes.by_number[number], Node::Folder(_));
            let kind = if is_folder { FileType::Directory } else { FileType::RegularFile };
            (*number, kind, path.rsplit('/').next().unwrap_or_default().to_owned())
        });
        Ok(named.collect())
    }
}

macro_rules! answer {
    ($reply:ident, $result:expr) => {
        match $result {
            Ok(()) => $reply.ok(),
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Layer {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number.0) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    /// Times and permissions are not kept; a size may be set to its current value.
    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attributes(number.0) {
            Ok(found) if size.is_none_or(|size| size == found.size) => reply.attr(&TTL, &found),
            Ok(_) => reply.error(Errno::EOPNOTSUPP),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        match self.make(parent, name, true) {
            Ok(made) => reply.entry(&TTL, &made, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.make(parent, name, false) {
            Ok(made) => {
                reply.created(&TTL, &made, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE)
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.node(number) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.take_away(parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer!(reply, self.give_name((parent, name), (new_parent, new_name)));
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.get(number, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let is_synced = flags.0 & OFlags::DSYNC.bits() as i32 != 0;
        let durability = if is_synced { Durability::Synced } else { Durability::Buffered };
        match self.put(number, offset, bytes, durability) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok(); // closing a file guarantees nothing
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.file(number).and_then(|file| Ok(self.files.sync(&file)?)));
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(
            reply,
            match self.node(number) {
                Ok(Node::Folder(path)) => self.files.sync_dir(&path).map_err(Errno::from),
                Ok(Node::File(_)) => Err(Errno::ENOTDIR),
                Err(error) => Err(error),
            }
        );
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.entries(number) {
            Ok(entries) => {
                for (at, (number, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        answer!(reply, self.extend(number, offset + length));
    }
}
