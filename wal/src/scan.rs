//! Reading one segment file: its first page, a batch at a place, claims of durability anywhere in the rest.
//!
//! What is not here: what follows from them (`recovery`).

use std::io;

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, Life};
use crate::disk::{Access, Files, Lsn};
use crate::error::OpenError;
use crate::segment::{BadHeader, PAGE_BYTES, SegmentHeader, segment_path};

/// Bytes read at once.
const WINDOW_BYTES: u64 = 1 << 20;

/// A segment file being read.
pub(crate) struct Scan<'a, F: Files> {
    files: &'a F,
    pub(crate) file: F::File,
    pub(crate) path: String,
    pub(crate) header: SegmentHeader,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a, F: Files> Scan<'a, F> {
    /// Opens the file and checks its first page.
    pub(crate) fn open(files: &'a F, lane: u16, sequence: u64, log_id: u64) -> Result<Self, OpenError> {
        let path = segment_path(lane, sequence);
        let file = files.open(&path, Access::Plain).map_err(OpenError::io(&path))?;
        let mut page = vec![0; PAGE_BYTES];
        let read = files.read_at(&file, 0, &mut page).map_err(OpenError::io(&path))?;
        if read < PAGE_BYTES {
            return Err(OpenError::corrupt(&path, read as u64, "the segment is cut short"));
        }
        let header = SegmentHeader::parse(&page).map_err(|bad| match bad {
            BadHeader::Version(found) => {
                OpenError::Version { file: path.clone(), found, known: crate::directory::FORMAT_VERSION }
            }
            BadHeader::Damaged(what) => OpenError::corrupt(&path, 0, what),
        })?;
        if (header.lane, header.sequence, header.log_id) != (lane, sequence, log_id) {
            return Err(OpenError::corrupt(&path, 0, "the segment belongs elsewhere"));
        }
        let bytes = files.len(&file).map_err(OpenError::io(&path))?;
        if bytes != header.bytes || bytes > u64::from(u32::MAX) {
            let what =
                if bytes < header.bytes { "the segment is cut short" } else { "the segment is too long" };
            return Err(OpenError::corrupt(&path, bytes.min(header.bytes), what));
        }
        Ok(Self { files, file, path, header, window: Vec::new(), window_at: 0 })
    }

    /// `bytes` bytes from `offset` on, which must lie in the file.
    fn at(&mut self, offset: u64, bytes: u64) -> Result<&[u8], OpenError> {
        let end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + bytes > end {
            let wanted = bytes.max(WINDOW_BYTES).min(self.header.bytes - offset);
            self.window.resize(wanted as usize, 0);
            self.window_at = offset;
            let read = self.files.read_at(&self.file, offset, &mut self.window);
            if read.map_err(OpenError::io(&self.path))? < self.window.len() {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(OpenError::Io { file: self.path.clone(), source });
            }
        }
        let from = (offset - self.window_at) as usize;
        Ok(&self.window[from..from + bytes as usize])
    }

    /// The header of a batch at `offset`, if there is one of this segment's life.
    pub(crate) fn batch_header(&mut self, offset: u64) -> Result<Option<BatchHeader>, OpenError> {
        let left = self.header.bytes - offset;
        if left < PAGE_BYTES as u64 {
            return Ok(None);
        }
        let life = Life { incarnation: self.header.incarnation(), offset: offset as u32 };
        let header = BatchHeader::parse(self.at(offset, BATCH_HEADER_BYTES as u64)?, life);
        Ok(header.filter(|header| header.padded_bytes() <= left))
    }

    /// The bytes of a batch whose header was read at `offset`.
    pub(crate) fn batch(&mut self, offset: u64, header: &BatchHeader) -> Result<&[u8], OpenError> {
        self.at(offset, u64::from(header.bytes))
    }

    /// Where a batch header at or after `offset` claims that batch `lsn` was durable, if one does.
    pub(crate) fn claim(&mut self, offset: u64, lsn: Lsn) -> Result<Option<u64>, OpenError> {
        for at in (offset..self.header.bytes).step_by(PAGE_BYTES) {
            if self.batch_header(at)?.is_some_and(|header| header.durable >= lsn) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}
