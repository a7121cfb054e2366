//! A small file that is kept twice: one flipped bit, refused page or missing name takes one of the copies, and not what it says.
//!
//! The second copy is written first, and each as a whole: aside, synced, renamed, its name made durable. So the first is never
//! newer than the second, and a write that was acknowledged is in both. What is not here: what the bytes mean (`directory`,
//! `peers_file`).

use std::io::{self, IoSlice};

use crate::disk::{Access, Files};
use crate::error::OpenError;

/// The names of a file and of its second copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Twin {
    pub(crate) names: [&'static str; 2],
    pub(crate) unfinished: &'static str,
    /// What is longer is none: no memory is taken for it.
    pub(crate) bytes_max: u64,
}

/// What became of a copy.
#[derive(Debug)]
pub(crate) enum Found<T> {
    Whole(T),
    Absent,
    /// Why it does not count.
    Bad(OpenError),
}

impl<T> Found<T> {
    pub(crate) const fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

impl Twin {
    /// Reads both. `decode` gets the file's name and its bytes. What is refused is read once more.
    pub(crate) fn read<F: Files, T>(
        self,
        files: &F,
        decode: impl Fn(&'static str, &[u8]) -> Result<T, OpenError>,
    ) -> [Found<T>; 2] {
        self.names.map(|name| match self.bytes(files, name).or_else(|_| self.bytes(files, name)) {
            Ok(Some(bytes)) => decode(name, &bytes).map_or_else(Found::Bad, Found::Whole),
            Ok(None) => Found::Absent,
            Err(source) => Found::Bad(OpenError::Io { file: name.to_owned(), source }),
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

    /// Replaces both: whole and durable when it returns. If it fails, the first is whole, and as it was or as it is to be.
    pub(crate) fn write<F: Files>(self, files: &F, bytes: &[u8]) -> io::Result<()> {
        self.write_copy(files, 1, bytes)?;
        self.write_copy(files, 0, bytes)
    }

    /// Replaces one of them.
    pub(crate) fn write_copy<F: Files>(self, files: &F, copy: usize, bytes: &[u8]) -> io::Result<()> {
        let file = files.create(self.unfinished, 0)?;
        files.write_at(&file, 0, &[IoSlice::new(bytes)], false)?;
        files.sync(&file)?;
        files.rename(self.unfinished, self.names[copy])?;
        files.sync_dir("")
    }
}
