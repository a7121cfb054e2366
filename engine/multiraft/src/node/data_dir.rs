//! IMPURE: a node's directory: its owner, and the log in it.
//!
//! ```text
//! node       one line: "raftwerk 1 node <id> cluster <name> crc <crc32 of what is before it>"
//! node.2     the same once more
//! log/       see raftwerk-wal
//! ```

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::Path;
use std::time::Instant;

use raftwerk_frame::NodeId;
use raftwerk_wal::LaneOptions;
use raftwerk_wal::OnDamage;
use raftwerk_wal::{
    AppendMode, Directory, Durability, FileSystemKind, Files, OsFiles, RelaneError, raise_open_files_limit,
};

use crate::api::config::Config;
use crate::api::error::OpenError;
use crate::node::placement::lane_of;

/// Opens the node's directory, or makes it, with the requested number of lanes. It is locked for this engine
/// until it is dropped. Returns also whether it still has another number of lanes.
pub(crate) fn open(config: &Config) -> Result<(Directory<OsFiles>, bool), OpenError> {
    let log = config.data_dir.join("log");
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Directory { path, source }
    };
    let wanted = config.append_mode;
    let files = || OsFiles::durable(&log, wanted, config.file_observer.clone()).map_err(at(&log));
    let lanes = config.lanes.unwrap_or(config.workers) as u16;
    // Random, so that one log's bytes are never accepted as another's.
    let fresh_log_id = RandomState::new().hash_one(config.node.0);
    let mut directory = match Directory::open(files()?, lanes, fresh_log_id) {
        Err(raftwerk_wal::OpenError::LaneCount { on_disk, .. }) => {
            Directory::open(files()?, on_disk, fresh_log_id)?
        }
        opened => opened?,
    };
    check_open_files(config, directory.lanes().max(lanes));
    // With the lock held, so that no other engine reads it at the same time.
    let owners = OsFiles::new(&config.data_dir, AppendMode::Buffered).map_err(at(&config.data_dir))?;
    let owners = owners.observed_by(config.file_observer.clone());
    let checked = check_owner(&owners, &config.data_dir, config.node, config.identity.cluster());
    checked.map_err(|error| match error {
        Owner::Other(found) => {
            OpenError::WrongNode { path: config.data_dir.clone(), found, wanted: config.node }
        }
        Owner::Io(source) => OpenError::Directory { path: config.data_dir.join("node"), source },
    })?;
    // An unknown file system does not prevent opening.
    if let Some(warning) = directory.files().kind().ok().and_then(FileSystemKind::warning) {
        tracing::warn!(node = config.node.0, warning);
    }
    let has_other_lanes = !relane(config, &mut directory, lanes)?;
    let used = directory.files().mode();
    if used == wanted {
        tracing::info!(node = config.node.0, mode = used.name(), "the log's append mode");
    } else {
        tracing::warn!(
            node = config.node.0,
            mode = used.name(),
            refused = wanted.name(),
            "the file system refuses the log's append mode"
        );
    }
    Ok((directory, has_other_lanes))
}

/// Moves the log to the requested number of lanes, if it has another one. Returns whether it has the
/// requested number. A log that cannot be moved does not prevent opening.
fn relane(config: &Config, directory: &mut Directory<OsFiles>, lanes: u16) -> Result<bool, OpenError> {
    let (node, has, began) = (config.node.0, directory.lanes(), Instant::now());
    if has == lanes {
        return Ok(true);
    }
    tracing::info!(node, has, wanted = lanes, "the log is moved into other lanes");
    match directory.relane(lanes, &lane_options(config, 0), &lane_of) {
        Ok(moved) => {
            let took = began.elapsed();
            tracing::info!(node, ?moved, ?took, "the log has other lanes");
            Ok(true)
        }
        Err(RelaneError::Undecided(error)) => Err(error.into()),
        Err(error) => {
            tracing::warn!(node, has, wanted = lanes, %error, "the log keeps its number of lanes");
            Ok(false)
        }
    }
}

/// The settings of a lane, but for its share of the memory.
pub(crate) fn lane_options(config: &Config, lane: u16) -> LaneOptions {
    LaneOptions {
        lane,
        segment_bytes: config.segment_bytes,
        // A turn accepts at least one full submission and the longest payload.
        batch_bytes_max: (4 << 20).max(4 * config.payload_bytes_max),
        frame_bytes_max: (256 << 10)
            .min(config.segment_bytes as usize / 2)
            .max(config.payload_bytes_max + 1024),
        on_damage: OnDamage::Fence,
        log_bytes_max: config.lane_bytes_max,
        age_max: config.log_age_max,
        ..LaneOptions::default()
    }
}

/// Descriptors that a lane takes with the default limits, approximately: one for reading each of 16 segments
/// in use, two for each of the current one and those that are ready, one for a snapshot file.
const FILES_OF_A_LANE: u64 = 24;
/// Descriptors of everything else: connections, threads, files of the embedder.
const OTHER_FILES: u64 = 256;

/// Raises the limit of open files, and warns where that is not enough.
fn check_open_files(config: &Config, lanes: u16) {
    let limit = raise_open_files_limit();
    let wanted = u64::from(lanes) * FILES_OF_A_LANE + OTHER_FILES;
    if limit.now.is_some_and(|now| now < wanted) {
        tracing::warn!(node = config.node.0, limit = ?limit.now, wanted,
            "few files may be open (RLIMIT_NOFILE): appends may have to wait for descriptors");
    } else {
        tracing::info!(node = config.node.0, before = ?limit.before, now = ?limit.now, "the limit of open files");
    }
}

enum Owner {
    Other(NodeId),
    Io(io::Error),
}

impl From<io::Error> for Owner {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The two files that name the owner of the directory: one of them is enough.
const OWNER_FILES: [&str; 2] = ["node", "node.2"];
const UNFINISHED_OWNER: &str = "node.tmp";

/// The content of one of them.
enum OwnerFile {
    Nothing,
    Ours,
    Other(NodeId),
    Damaged(io::Error),
}

impl OwnerFile {
    /// Takes its damage out.
    fn damage(&mut self) -> Option<io::Error> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Damaged(error) => Some(error),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Checks the owner of the directory. One without an owner becomes this node's; a copy that is damaged or
/// missing is rewritten from the other, and where that fails, on a full disk, the next opening does it.
fn check_owner(files: &OsFiles, directory: &Path, node: NodeId, cluster: &str) -> Result<(), Owner> {
    let line = owner_line(node, cluster);
    let mut content = OWNER_FILES.map(|name| read_owner_file(&directory.join(name), node, &line));
    let other = content
        .iter()
        .find_map(|content| if let OwnerFile::Other(node) = content { Some(*node) } else { None });
    if let Some(other) = other {
        return Err(Owner::Other(other));
    }
    let is_new = content.iter().all(|content| matches!(content, OwnerFile::Nothing));
    let is_ours = content.iter().any(|content| matches!(content, OwnerFile::Ours));
    // No copy names this node as the owner: a missing copy must not be written as if it had.
    if let Some(error) = content.iter_mut().filter(|_| !is_ours).find_map(OwnerFile::damage) {
        return Err(error.into());
    }
    let lacking = OWNER_FILES.iter().zip(content).filter(|(_, content)| !matches!(content, OwnerFile::Ours));
    for (name, _) in lacking {
        let written = write_owner(files, name, &line);
        if is_new {
            written?;
        } else {
            tracing::warn!(node = node.0, file = name, error = ?written.err(), "written anew from its other copy");
        }
    }
    Ok(())
}

fn owner_line(node: NodeId, cluster: &str) -> String {
    let content = format!("raftwerk 1 node {} cluster {cluster}", node.0);
    format!("{content} crc {:08x}\n", crc32fast::hash(content.as_bytes()))
}

/// Directories of earlier versions have one file, without a checksum.
fn read_owner_file(path: &Path, node: NodeId, line: &str) -> OwnerFile {
    let found = match fs::read(path) {
        Ok(found) => String::from_utf8_lossy(&found).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return OwnerFile::Nothing,
        Err(error) => return OwnerFile::Damaged(error),
    };
    let before = |line: &str| line.rsplit_once(" crc ").map(|(content, _)| format!("{content}\n"));
    if found == line || Some(&found) == before(line).as_ref() {
        return OwnerFile::Ours;
    }
    let is_whole = || {
        let content = found.strip_suffix('\n')?;
        let Some((content, crc)) = content.rsplit_once(" crc ") else {
            return Some(content.contains(" cluster "));
        };
        Some(format!("{:08x}", crc32fast::hash(content.as_bytes())) == crc)
    };
    let named = found.split(' ').nth(3).and_then(|id| id.parse().ok()).map(NodeId);
    match named.filter(|named| *named != node && is_whole() == Some(true)) {
        Some(other) => OwnerFile::Other(other),
        None => {
            let what = format!("expected {line:?}, found {found:?}");
            OwnerFile::Damaged(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }
}

fn write_owner(files: &OsFiles, name: &str, line: &str) -> io::Result<()> {
    let file = files.create(UNFINISHED_OWNER, 0)?;
    files.write_at(&file, 0, &[IoSlice::new(line.as_bytes())], Durability::Buffered)?;
    files.sync(&file)?;
    files.rename(UNFINISHED_OWNER, name)?;
    files.sync_dir("")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raftwerk_wal::FileObserver;
    use raftwerk_wal::platter::Platter;

    use super::*;

    const NODE: NodeId = NodeId(23);

    fn check(directory: &Path) -> Result<(), String> {
        check_as(directory, NODE)
    }

    fn check_as(directory: &Path, node: NodeId) -> Result<(), String> {
        let files = OsFiles::new(directory, AppendMode::Buffered).unwrap();
        check_owner(&files, directory, node, "cluster").map_err(|owner| match owner {
            Owner::Other(node) => format!("of {node}"),
            Owner::Io(error) => error.kind().to_string(),
        })
    }

    #[test]
    fn no_bit_and_no_file_of_what_says_whose_directory_it_is_keeps_a_node_from_opening() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(check(directory), Ok(()));
        let whole = fs::read(directory.join("node")).unwrap();
        let copies = || OWNER_FILES.map(|name| fs::read(directory.join(name)).unwrap());
        assert_eq!(copies(), [whole.clone(), whole.clone()]);
        for name in OWNER_FILES {
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(directory.join(name), flipped).unwrap();
                assert_eq!((check(directory), copies()), (Ok(()), [whole.clone(), whole.clone()]), "{bit}");
            }
            for length in 0..whole.len() {
                fs::write(directory.join(name), &whole[..length]).unwrap();
                assert_eq!(
                    (check(directory), copies()),
                    (Ok(()), [whole.clone(), whole.clone()]),
                    "{length}"
                );
            }
            fs::remove_file(directory.join(name)).unwrap();
            assert_eq!((check(directory), copies()), (Ok(()), [whole.clone(), whole.clone()]));
        }
        for name in OWNER_FILES {
            fs::write(directory.join(name), b"neither").unwrap();
        }
        assert_eq!(check(directory), Err("invalid data".to_owned()));
        // A missing copy is not rewritten where no copy names the owner.
        for gone in OWNER_FILES {
            OWNER_FILES.iter().for_each(|name| fs::write(directory.join(name), b"neither").unwrap());
            fs::remove_file(directory.join(gone)).unwrap();
            assert_eq!(check(directory), Err("invalid data".to_owned()), "without {gone}");
            assert!(!directory.join(gone).exists());
        }
    }

    #[test]
    fn what_says_whose_directory_it_is_outlives_a_power_cut() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let platter = Arc::new(Platter::new(at("live"), at("store")).unwrap());
        let observer = Arc::clone(&platter) as Arc<dyn FileObserver>;
        let directory = at("live").join("above").join("n23");
        let files = OsFiles::durable(&directory, AppendMode::Buffered, Some(observer)).unwrap();
        check_owner(&files, &directory, NODE, "cluster").map_err(|_| ()).unwrap();
        Platter::cut([&*platter]);
        platter.leave(&at("left"), |_| false).unwrap();
        for name in OWNER_FILES {
            let left = fs::read_to_string(at("left").join("above").join("n23").join(name));
            assert_eq!(left.unwrap(), owner_line(NODE, "cluster"), "{name}");
        }
    }

    #[test]
    fn directory_of_another_node_is_refused_and_one_of_an_earlier_version_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(check_as(directory, NodeId(5)), Ok(()));
        assert_eq!(check(directory), Err("of n5".to_owned()));
        fs::remove_file(directory.join("node.2")).unwrap();
        fs::write(directory.join("node"), "raftwerk 1 node 5 cluster cluster\n").unwrap();
        assert_eq!(check(directory), Err("of n5".to_owned()));
        fs::write(directory.join("node"), "raftwerk 1 node 23 cluster cluster\n").unwrap();
        assert_eq!(check(directory), Ok(()));
        fs::remove_file(directory.join("node")).unwrap();
        assert_eq!(check(directory), Ok(()), "the copy is enough");
    }
}
