//! A [`ShardMap`] on disk. IMPURE: reads and writes files. The bytes are the map's own; see [`super::shard_map`].
//!
//! A file appears whole or not at all: it is written under another name, synced, renamed, and the directory synced.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::shard_map::{ShardMap, ShardMapError};

/// No map is longer than this, in bytes: nothing larger is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why a shard map could not be loaded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardFileError {
    /// An I/O error.
    #[error("{path}: {source}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The file does not hold a shard map.
    #[error("{path}: {source}")]
    Map {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ShardMapError,
    },
    /// The file holds another map than the one given: shards are fixed when the map is made.
    #[error("{path} holds another shard map")]
    Mismatch {
        /// Which file.
        path: PathBuf,
    },
}

impl ShardMap {
    /// Reads a map from a file.
    ///
    /// # Errors
    /// [`ShardFileError::Io`] if the file cannot be read, [`ShardFileError::Map`] if it holds no map.
    pub fn load(path: &Path) -> Result<Self, ShardFileError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|source| ShardFileError::Io { path: path.into(), source })?;
        Self::decode(&bytes).map_err(|source| ShardFileError::Map { path: path.into(), source })
    }

    /// Writes the map to a file that does not exist yet; durable when it returns. If the file exists and
    /// holds an equal map, it only syncs the directory. Two callers must not save to one path at once.
    ///
    /// # Errors
    /// [`ShardFileError::Mismatch`] if the file holds another map, [`ShardFileError::Map`] if it holds none: it is
    /// then left as it is. [`ShardFileError::Io`] if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ShardFileError> {
        match Self::load(path) {
            // An earlier save may have crashed between the rename and the sync of the directory.
            Ok(there) if there == *self => return sync_parent(path),
            Ok(_) => return Err(ShardFileError::Mismatch { path: path.into() }),
            Err(ShardFileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.map_err(|source| ShardFileError::Io { path: beside.clone(), source })?;
        fs::rename(&beside, path).map_err(|source| ShardFileError::Io { path: path.into(), source })?;
        sync_parent(path)
    }
}

fn sync_parent(path: &Path) -> Result<(), ShardFileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|source| ShardFileError::Io { path: parent.into(), source })
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::GroupId;

    use super::*;

    #[test]
    fn a_map_is_saved_once_and_never_replaced_by_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shards");
        let map = ShardMap::uniform((1..=5).map(GroupId)).unwrap();
        let other = ShardMap::uniform((1..=6).map(GroupId)).unwrap();

        assert!(matches!(ShardMap::load(&path), Err(ShardFileError::Io { .. })));
        map.save(&path).unwrap();
        map.save(&path).unwrap();
        assert!(matches!(other.save(&path), Err(ShardFileError::Mismatch { .. })));
        assert_eq!(ShardMap::load(&path).unwrap(), map);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_a_crash_left_beside_the_file_is_no_hindrance_but_a_damaged_file_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shards");
        let map = ShardMap::uniform((1..=5).map(GroupId)).unwrap();
        fs::write(directory.path().join("shards.new"), b"half a m").unwrap();
        map.save(&path).unwrap();

        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let damaged =
            |result| matches!(result, Err(ShardFileError::Map { source: ShardMapError::Checksum, .. }));
        assert!(damaged(ShardMap::load(&path).map(drop)));
        assert!(damaged(map.save(&path)));
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no").join("shards");
        let map = ShardMap::uniform([GroupId(1)]).unwrap();
        assert!(
            matches!(map.save(&path), Err(ShardFileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound)
        );
    }
}
