//! IMPURE: a node's directory: whose it is, and the log in it.
//!
//! ```text
//! node       one line: "raftwerk 1 node <id> cluster <name>"
//! log/       see raftwerk-wal
//! ```

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::Path;

use raftwerk_frame::NodeId;
use raftwerk_wal::{Directory, OsFiles, raise_open_files_limit};

use crate::config::Config;
use crate::error::OpenError;

/// Opens the node's directory, or makes it. It is this engine's alone until it is dropped.
pub(crate) fn open(config: &Config) -> Result<Directory<OsFiles>, OpenError> {
    let log = config.data_dir.join("log");
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Directory { path, source }
    };
    fs::create_dir_all(&log).map_err(at(&log))?;
    let wanted = config.append_mode;
    let files = || OsFiles::new(&log, wanted).map_err(at(&log));
    let lanes = config.lanes.unwrap_or(config.workers) as u16;
    // Random, so that one log's bytes are never taken for another's.
    let fresh_log_id = RandomState::new().hash_one(config.node.0);
    let directory = match Directory::open(files()?, lanes, fresh_log_id) {
        // The number of lanes was fixed when the log was made.
        Err(raftwerk_wal::OpenError::LaneCount { on_disk, .. }) => {
            Directory::open(files()?, on_disk, fresh_log_id)?
        }
        opened => opened?,
    };
    check_open_files(config, directory.lanes());
    // With the lock held, so that nobody else is looking.
    check_owner(config).map_err(|error| match error {
        Owner::Other(found) => {
            OpenError::WrongNode { path: config.data_dir.clone(), found, wanted: config.node }
        }
        Owner::Io(source) => OpenError::Directory { path: config.data_dir.join("node"), source },
    })?;
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
    Ok(directory)
}

/// Descriptors that a lane takes with the default limits, about: a way to read each of 16 segments in use, two ways into the current
/// one and those that are ready, one for a snapshot file.
const FILES_OF_A_LANE: u64 = 24;
/// Descriptors of everything else: connections, threads, what the embedder has open.
const OTHER_FILES: u64 = 256;

/// Raises the limit of open files, and says so where that is not enough.
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

fn check_owner(config: &Config) -> Result<(), Owner> {
    let path = config.data_dir.join("node");
    let line = format!("raftwerk 1 node {} cluster {}\n", config.node.0, config.identity.cluster());
    match fs::read_to_string(&path) {
        Ok(found) if found == line => Ok(()),
        Ok(found) => match found.split(' ').nth(3).and_then(|id| id.parse().ok()) {
            Some(other) if other != config.node.0 => Err(Owner::Other(NodeId(other))),
            _ => {
                let what = format!("expected {line:?}, found {found:?}");
                Err(Owner::Io(io::Error::new(io::ErrorKind::InvalidData, what)))
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(write_owner(&path, &line)?),
        Err(error) => Err(error.into()),
    }
}

fn write_owner(path: &Path, line: &str) -> io::Result<()> {
    let fresh = path.with_extension("tmp");
    let mut file = File::create(&fresh)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
