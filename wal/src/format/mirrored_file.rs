//! A small file that is kept twice: one flipped bit, refused page or missing name destroys one copy, and not
//! the content.
//!
//! The second copy is written first, and each as a whole: to a temporary file, synced, renamed, directory
//! synced. So the first is never newer than the second, and an acknowledged write is in both. Not here: the
//! meaning of the bytes (`directory`, `format::peers_file`).

use std::io::{self, IoSlice};

use crate::disk::files::{Access, Durability, Files};
use crate::error::OpenError;

/// The names of a file and of its second copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MirroredFile {
    pub(crate) names: [&'static str; 2],
    pub(crate) unfinished: &'static str,
    /// Longer files are invalid: no memory is allocated for them.
    pub(crate) bytes_max: u64,
}

/// The state of a copy.
#[derive(Debug)]
pub(crate) enum CopyState<T> {
    Whole(T),
    Absent,
    /// Why the copy is invalid.
    Bad(OpenError),
}

impl<T> CopyState<T> {
    pub(crate) const fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

impl MirroredFile {
    /// Reads both copies. `decode` gets the file's name and its bytes. A refused read is tried once more.
    pub(crate) fn read<F: Files, T>(
        self,
        files: &F,
        decode: impl Fn(&'static str, &[u8]) -> Result<T, OpenError>,
    ) -> [CopyState<T>; 2] {
        self.names.map(|name| match self.bytes(files, name).or_else(|_| self.bytes(files, name)) {
            Ok(Some(bytes)) => decode(name, &bytes).map_or_else(CopyState::Bad, CopyState::Whole),
            Ok(None) => CopyState::Absent,
            Err(source) => CopyState::Bad(OpenError::Io { file: name.to_owned(), source }),
        })
    }

    fn bytes<F: Files>(self, files: &F, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match files.open(name, Access::Plain) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let length = files.len(&file)?.min(self.bytes_max + 1);
        let mut bytes = vec![0; length as usize];
        let read = files.read_at(&file, 0, &mut bytes)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Replaces both copies: whole and durable when it returns. On an error the first copy is whole: the old
    /// one or the new one.
    pub(crate) fn write<F: Files>(self, files: &F, bytes: &[u8]) -> io::Result<()> {
        self.write_copy(files, 1, bytes)?;
        self.write_copy(files, 0, bytes)
    }

    /// Replaces one copy.
    pub(crate) fn write_copy<F: Files>(self, files: &F, copy: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len() as u64 <= self.bytes_max, "a copy that is written can be read again");
        let file = files.create(self.unfinished, 0)?;
        files.write_at(&file, 0, &[IoSlice::new(bytes)], Durability::Buffered)?;
        files.sync(&file)?;
        files.rename(self.unfinished, self.names[copy])?;
        files.sync_dir("")
    }
}
