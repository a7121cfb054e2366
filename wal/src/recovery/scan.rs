//! Reading one segment file: its first page, a batch at an offset, claims of durability anywhere in the rest.
//!
//! Reads are large and, where the system allows it, past the page cache: a log is read once; pages already in
//! the cache are taken from there. A page that the device refuses is read again by itself; if it is still
//! refused, it is replaced by zeros with [`OnDamage::Fence`], so that it is judged like wrong bytes, and is
//! an error otherwise. Not here: the conclusions (`survey`, `recovery`).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use raftwerk_frame::Term;

use crate::disk::files::{Access, Files};
use crate::error::OpenError;
use crate::format::batch::{ALIGN_BYTES, BATCH_HEADER_BYTES, BatchHeader, BatchPosition};
use crate::format::lsn::Lsn;
use crate::format::segment::{BadHeader, PAGE_BYTES, SegmentHeader, segment_path};
use crate::lane::options::OnDamage;
use crate::pool::{BufferPool, PooledBuffer};
use crate::recovery::report::Damage;

/// Bytes per read.
const WINDOW_BYTES: u64 = 2 << 20;
/// The damage of a first page that the device refuses to read.
const REFUSED: &str = "the device refuses to read it";
/// The damage of a file without its end.
pub(crate) const CUT_SHORT: &str = "the segment is cut short";

const _: () = assert!(WINDOW_BYTES.is_multiple_of(PAGE_BYTES as u64), "a window is of whole pages");
const _: () = assert!(PAGE_BYTES.is_multiple_of(ALIGN_BYTES), "a page begins where a batch may begin");

/// An open segment file, with its decoded first page.
pub(crate) struct Scan<'a, F: Files> {
    files: &'a F,
    pub(super) file: F::File,
    pub(crate) path: String,
    pub(crate) header: SegmentHeader,
    on_damage: OnDamage,
    source: Source,
    /// Reads of single pages that the device refused, and that were replaced by zeros.
    refused: AtomicU64,
}

/// Where bytes are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Cached pages from the page cache, the rest from the device.
    Cached,
    /// The device alone.
    Device,
}

/// Which segment of which log, and the reaction to damage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanTarget {
    pub(crate) lane: u16,
    pub(crate) sequence: u64,
    pub(crate) log_id: u64,
    pub(crate) on_damage: OnDamage,
    pub(crate) source: Source,
}

impl<'a, F: Files> Scan<'a, F> {
    /// Opens the file and checks its first page.
    pub(crate) fn open(files: &'a F, target: ScanTarget) -> Result<Self, OpenError> {
        let ScanTarget { lane, sequence, log_id, on_damage, source } = target;
        let path = segment_path(lane, sequence);
        let file = files.open(&path, Access::Plain).map_err(OpenError::io(&path))?;
        let mut page = vec![0; PAGE_BYTES];
        let read = match files.read_at(&file, 0, &mut page).or_else(|_| files.read_at(&file, 0, &mut page)) {
            Err(_) if on_damage == OnDamage::Fence => return Err(OpenError::corrupt(&path, 0, REFUSED)),
            read => read.map_err(OpenError::io(&path))?,
        };
        if read < PAGE_BYTES {
            return Err(OpenError::corrupt(&path, read as u64, CUT_SHORT));
        }
        let header = SegmentHeader::parse(&page).map_err(|bad| match bad {
            BadHeader::Version(found) => {
                OpenError::Version { file: path.clone(), found, known: crate::format::FORMAT_VERSION }
            }
            BadHeader::Damaged(what) => OpenError::corrupt(&path, 0, what),
        })?;
        if (header.lane, header.sequence, header.log_id) != (lane, sequence, log_id) {
            return Err(OpenError::corrupt(&path, 0, "the segment belongs elsewhere"));
        }
        let bytes = files.len(&file).map_err(OpenError::io(&path))?;
        if bytes != header.bytes || bytes > u64::from(u32::MAX) {
            let what = if bytes < header.bytes { CUT_SHORT } else { "the segment is too long" };
            return Err(OpenError::corrupt(&path, bytes.min(header.bytes), what));
        }
        Ok(Self { files, file, path, header, on_damage, source, refused: AtomicU64::new(0) })
    }

    /// Opens a file that may be damaged. Of a damaged first page, lane, sequence and log id follow from the
    /// file's name; its `floor`, `previous` and `terms` are unknown.
    pub(crate) fn open_damaged(
        files: &'a F,
        target: ScanTarget,
    ) -> Result<(Self, Option<Damage>), OpenError> {
        let ScanTarget { lane, sequence, log_id, on_damage, source } = target;
        let (path, offset, what) = match Self::open(files, target) {
            Ok(scan) => return Ok((scan, None)),
            Err(OpenError::Corrupt { file, offset, what, .. }) => (file, offset, what),
            Err(error) => return Err(error),
        };
        let file = files.open(&path, Access::Plain).map_err(OpenError::io(&path))?;
        let bytes = files.len(&file).map_err(OpenError::io(&path))?;
        let bytes = bytes.min(u64::from(u32::MAX)) / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        let (floor, previous, terms) = (Lsn(0), 0, Term(0));
        let header = SegmentHeader { lane, sequence, log_id, bytes, floor, previous, terms };
        let damage = Damage { file: path.clone(), offset, what, groups: Vec::new() };
        let refused = AtomicU64::new(u64::from(what == REFUSED));
        Ok((Self { files, file, path, header, on_damage, source, refused }, Some(damage)))
    }

    /// Reads of single pages that the device refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A reader of the batches. Allocates a window of memory.
    pub(crate) fn reader(&self) -> Reader<'_, 'a, F> {
        // A file that cannot be opened for direct reads can still be read through the cache.
        let past_cache = self.files.open(&self.path, Access::Scan).ok();
        Reader { scan: self, past_cache, source: self.source, window: None, at: 0, bytes: 0 }
    }

    /// As [`Self::reader`], but from the device only, bypassing the page cache.
    pub(crate) fn reader_past_cache(&self) -> Reader<'_, 'a, F> {
        self.files.drop_cached(&self.file);
        Reader { source: Source::Device, ..self.reader() }
    }
}

/// Reads a segment from front to back, a window at a time.
pub(crate) struct Reader<'s, 'a, F: Files> {
    scan: &'s Scan<'a, F>,
    past_cache: Option<F::File>,
    source: Source,
    window: Option<(PooledBuffer, BufferPool)>,
    /// The window's offset in the file, and how many bytes it holds.
    at: u64,
    bytes: u64,
}

impl<F: Files> Reader<'_, '_, F> {
    /// `bytes` bytes from `offset` on; they must lie in the file.
    pub(crate) fn at(&mut self, offset: u64, bytes: u64) -> Result<&[u8], OpenError> {
        assert!(offset + bytes <= self.scan.header.bytes, "what is read lies in the segment");
        if offset < self.at || offset + bytes > self.at + self.bytes {
            let in_page = offset % PAGE_BYTES as u64;
            self.fill(offset - in_page, in_page + bytes)?;
        }
        assert!(
            self.at <= offset && offset + bytes <= self.at + self.bytes,
            "the window holds what is wanted"
        );
        let from = (offset - self.at) as usize;
        let window = self.window.as_ref().map_or(&[][..], |(window, _)| window);
        Ok(&window[from..from + bytes as usize])
    }

    /// Moves the window to `offset`, a multiple of a page, and keeps the part it already holds.
    fn fill(&mut self, offset: u64, bytes: u64) -> Result<(), OpenError> {
        assert!(offset.is_multiple_of(PAGE_BYTES as u64), "a window begins at a page");
        assert!(offset <= self.scan.header.bytes, "a window begins in the segment");
        let wanted = bytes.next_multiple_of(PAGE_BYTES as u64).max(WINDOW_BYTES);
        let wanted = wanted.min(self.scan.header.bytes - offset) as usize;
        let (have, at) = (self.at + self.bytes, self.at);
        let (mut window, pool) = match self.window.take() {
            Some((window, pool)) if window.len() >= wanted => (window, pool),
            Some((old, mut pool)) => {
                let mut window = pool.take(wanted);
                window[..self.bytes as usize].copy_from_slice(&old[..self.bytes as usize]);
                (window, pool)
            }
            None => {
                let mut pool = BufferPool::new(0);
                let window = pool.take(wanted);
                (window, pool)
            }
        };
        let kept = if (at..have).contains(&offset) { (have - offset) as usize } else { 0 };
        assert!(kept <= wanted && kept as u64 <= self.bytes, "what is kept was held, and is wanted");
        assert!(wanted <= window.len(), "the buffer has space for the window");
        window.copy_within((self.bytes as usize - kept)..self.bytes as usize, 0);
        self.read(offset + kept as u64, &mut window[kept..wanted])?;
        (self.at, self.bytes) = (offset, wanted as u64);
        self.window = Some((window, pool));
        Ok(())
    }

    /// Reads cached pages from the page cache, the rest from the device.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OpenError> {
        let Scan { files, file, .. } = self.scan;
        let cached = match self.source {
            Source::Cached => files.read_cached(file, offset, into),
            Source::Device => Ok(0),
        };
        let mut done = cached.unwrap_or(0) / PAGE_BYTES * PAGE_BYTES;
        if let Some(past_cache) = &self.past_cache
            && done < into.len()
        {
            done += files.read_at(past_cache, offset + done as u64, &mut into[done..]).unwrap_or(0);
        }
        assert!(done <= into.len(), "a read returns no more than was asked for");
        if done < into.len() {
            // `done` is a page boundary, whatever the device has returned.
            let rest = &mut into[done..];
            let read = files.read_at(file, offset + done as u64, rest);
            if !read.is_ok_and(|read| read == rest.len()) {
                self.read_by_page(offset + done as u64, rest)?;
            }
        }
        Ok(())
    }

    /// Reads each page by itself, so that a refused one affects no other.
    fn read_by_page(&self, offset: u64, into: &mut [u8]) -> Result<(), OpenError> {
        let Scan { files, file, path, on_damage, refused, .. } = self.scan;
        for (number, page) in into.chunks_mut(PAGE_BYTES).enumerate() {
            let at = offset + (number * PAGE_BYTES) as u64;
            let mut give = |file: &F::File| match files.read_at(file, at, page) {
                Ok(read) if read == page.len() => Ok(()),
                Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Err(error),
            };
            let given = give(file).or_else(|error| self.past_cache.as_ref().map_or(Err(error), give));
            let Err(source) = given else { continue };
            if *on_damage == OnDamage::Refuse {
                return Err(OpenError::Io { file: path.clone(), source });
            }
            page.fill(0);
            refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The header of a batch at `offset`, if there is a valid one of this incarnation.
    pub(crate) fn batch_header(&mut self, offset: u64) -> Result<Option<BatchHeader>, OpenError> {
        assert!(offset <= self.scan.header.bytes, "a batch is looked for in the segment");
        assert!(offset <= u64::from(u32::MAX), "a segment is shorter than 4 GiB");
        let left = self.scan.header.bytes - offset;
        if left < BATCH_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let position = BatchPosition { incarnation: self.scan.header.incarnation(), offset: offset as u32 };
        let header = BatchHeader::parse(self.at(offset, BATCH_HEADER_BYTES as u64)?, position);
        Ok(header.filter(|header| header.padded_bytes() <= left))
    }

    /// The bytes of a batch, given its header as read at `offset`.
    pub(crate) fn batch(&mut self, offset: u64, header: &BatchHeader) -> Result<&[u8], OpenError> {
        assert!(u64::from(header.bytes) <= header.padded_bytes(), "a batch's padding follows its frames");
        self.at(offset, u64::from(header.bytes))
    }

    /// The offset of a batch header at or after `offset` that claims that batch `lsn` was durable, if there
    /// is one.
    pub(crate) fn claim(&mut self, offset: u64, lsn: Lsn) -> Result<Option<u64>, OpenError> {
        assert!(offset.is_multiple_of(ALIGN_BYTES as u64), "batches are looked for where they may begin");
        for at in (offset..self.scan.header.bytes).step_by(ALIGN_BYTES) {
            if self.batch_header(at)?.is_some_and(|header| header.durable >= lsn) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}
