//! IMPURE: one file: its durable content, in a file, and the writes since, in memory.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{InDoubt, PowerLoss};
use crate::disk::files::Durability;
use crate::disk::simulated::SECTOR_BYTES;
use crate::format::segment::PAGE_BYTES;

const SECTOR: u64 = SECTOR_BYTES as u64;

const _: () = assert!((PAGE_BYTES as u64).is_multiple_of(SECTOR), "a page is of whole sectors");

#[derive(Debug)]
pub(super) struct Content {
    /// The durable content. Its length is the minimum after a power cut.
    device: File,
    device_bytes: u64,
    /// Writes that are not durable, in the order in which they began.
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    /// The number at which it began.
    number: u64,
    /// The number at which it completed; `None`: in progress, or failed.
    done: Option<u64>,
    offset: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Bytes(Vec<u8>),
    /// This many zeros: a new segment is full of them.
    Zeros(u64),
    /// A minimum length of the file.
    Length(u64),
}

impl Pending {
    fn range(&self) -> Range<u64> {
        self.offset
            ..self.offset
                + match &self.what {
                    What::Bytes(bytes) => bytes.len() as u64,
                    What::Zeros(bytes) => *bytes,
                    What::Length(_) => 0,
                }
    }

    /// Splits off the part behind `at`, if there is one.
    fn split_off(&mut self, at: u64) -> Option<Self> {
        let range = self.range();
        if at <= range.start || range.end <= at {
            return None;
        }
        let what = match &mut self.what {
            What::Bytes(bytes) => What::Bytes(bytes.split_off((at - range.start) as usize)),
            What::Zeros(bytes) => {
                What::Zeros(std::mem::replace(bytes, at - range.start) - (at - range.start))
            }
            What::Length(_) => return None,
        };
        let rest = Self { number: self.number, done: self.done, offset: at, what };
        assert_eq!(self.range(), range.start..at, "the first part ends at the border");
        assert_eq!(rest.range(), at..range.end, "the second part has the rest");
        Some(rest)
    }

    /// Takes the bytes of a later write where they overlap, so that the device never reverts to older
    /// content.
    fn yield_to(&mut self, later: &Self) {
        let (own, others) = (self.range(), later.range());
        let both = own.start.max(others.start)..own.end.min(others.end);
        if both.is_empty() {
            return;
        }
        assert!(own.start <= both.start && both.end <= own.end, "what overlaps lies in the earlier write");
        assert!(others.start <= both.start && both.end <= others.end, "and in the later one");
        if let What::Zeros(bytes) = self.what {
            self.what = What::Bytes(vec![0; bytes as usize]);
        }
        let What::Bytes(bytes) = &mut self.what else { return };
        let into = &mut bytes[(both.start - own.start) as usize..(both.end - own.start) as usize];
        match &later.what {
            What::Bytes(bytes) => {
                into.copy_from_slice(&bytes[(both.start - others.start) as usize..][..into.len()]);
            }
            What::Zeros(_) | What::Length(_) => into.fill(0),
        }
    }
}

impl Content {
    /// The content of a new file, kept at `path`.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { device, device_bytes: 0, pending: Vec::new() })
    }

    pub(super) fn allocate(&mut self, number: u64, now: u64, bytes: u64) {
        assert!(number < now, "a call ends after it began");
        self.pending.push(Pending { number, done: Some(now), offset: 0, what: What::Length(bytes) });
    }

    pub(super) fn begin_write(&mut self, number: u64, offset: u64, parts: &[IoSlice<'_>]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let is_zero = length > PAGE_BYTES && parts.iter().all(|part| part.iter().all(|byte| *byte == 0));
        let what = if is_zero {
            What::Zeros(length as u64)
        } else {
            What::Bytes(parts.iter().flat_map(|part| part.iter().copied()).collect())
        };
        assert!(
            self.pending.last().is_none_or(|before| before.number < number),
            "writes are kept in the order in which they began"
        );
        self.pending.push(Pending { number, done: None, offset, what });
    }

    /// Completes write `number` after `bytes` bytes, which may be fewer than intended.
    pub(super) fn written(
        &mut self,
        number: u64,
        now: u64,
        bytes: u64,
        durability: Durability,
    ) -> io::Result<()> {
        assert!(number < now, "a call ends after it began");
        let Some(at) = self.pending.iter().rposition(|pending| pending.number == number) else {
            return Ok(());
        };
        if bytes == 0 {
            self.pending.remove(at);
            return Ok(());
        }
        let pending = &mut self.pending[at];
        let end = pending.offset + bytes;
        assert!(pending.done.is_none(), "a write ends once");
        assert!(end <= pending.range().end, "no more is written than was begun");
        drop(pending.split_off(end));
        pending.done = Some(now);
        match durability {
            Durability::Synced => self.settle(|pending| pending.number == number),
            Durability::Buffered => Ok(()),
        }
    }

    /// Makes durable what completed before sync `number` began: all of it, or the pages that a range touches.
    pub(super) fn sync(&mut self, number: u64, range: Option<Range<u64>>) -> io::Result<()> {
        let Some(range) = range else {
            return self.settle(|pending| pending.done.is_some_and(|done| done < number));
        };
        let page = PAGE_BYTES as u64;
        let pages = range.start / page * page..range.end.next_multiple_of(page);
        assert!(pages.start <= range.start && range.end <= pages.end, "the pages hold the range");
        for border in [pages.start, pages.end] {
            let mut at = 0;
            while at < self.pending.len() {
                if let Some(rest) = self.pending[at].split_off(border) {
                    self.pending.insert(at + 1, rest);
                }
                at += 1;
            }
        }
        self.settle(|pending| {
            let of = pending.range();
            let is_there = !of.is_empty() && pages.start <= of.start && of.end <= pages.end;
            is_there && pending.done.is_some_and(|done| done < number)
        })
    }

    /// Sync `number` failed: what it covered is in the page cache only, and no later sync will write it.
    pub(super) fn fail(&mut self, number: u64) {
        self.pending.retain(|pending| pending.done.is_none_or(|done| done > number));
    }

    /// Applies the covered writes to the device, in order.
    fn settle(&mut self, mut is_covered: impl FnMut(&Pending) -> bool) -> io::Result<()> {
        let mut kept: Vec<Pending> = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if !is_covered(&pending) {
                kept.push(pending);
                continue;
            }
            // All writes kept so far began earlier.
            assert!(
                kept.last().is_none_or(|before| before.number <= pending.number),
                "writes are settled in the order in which they began"
            );
            kept.iter_mut().for_each(|before| before.yield_to(&pending));
            match &pending.what {
                What::Bytes(bytes) => self.put(pending.offset, bytes)?,
                What::Zeros(bytes) => self.put_zeros(pending.offset, *bytes)?,
                What::Length(bytes) => self.reach(*bytes)?,
            }
        }
        assert!(self.pending.is_empty(), "nothing is begun meanwhile");
        self.pending = kept;
        Ok(())
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.device.write_all_at(bytes, offset)?;
        self.device_bytes = self.device_bytes.max(offset + bytes.len() as u64);
        Ok(())
    }

    /// A write of zeros beyond the end only needs the length.
    fn put_zeros(&mut self, mut offset: u64, bytes: u64) -> io::Result<()> {
        let end = offset + bytes;
        let zeros = [0; 64 << 10];
        while offset < end.min(self.device_bytes) {
            let now = (end.min(self.device_bytes) - offset).min(zeros.len() as u64);
            assert!(now > 0, "zeros are written up to their end");
            self.device.write_all_at(&zeros[..now as usize], offset)?;
            offset += now;
        }
        self.reach(end)?;
        assert!(self.device_bytes >= end, "the file reaches to the end of the zeros");
        Ok(())
    }

    fn reach(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.device_bytes {
            self.device.set_len(bytes)?;
            self.device_bytes = bytes;
        }
        Ok(())
    }

    /// Power cut: decides what else reached the device. In each sector, only the writes before the first that
    /// did not.
    pub(super) fn end(
        &mut self,
        path: &Path,
        reached: &mut dyn FnMut(InDoubt<'_>) -> bool,
        loss: &mut PowerLoss,
    ) -> io::Result<()> {
        let (mut lost, mut touched) = (BTreeSet::new(), BTreeSet::new());
        for pending in std::mem::take(&mut self.pending) {
            let range = pending.range();
            loss.unsynced_bytes += range.end - range.start;
            if let What::Length(bytes) = pending.what
                && reached(InDoubt::Length(path))
            {
                self.reach(bytes)?;
            }
            let mut from = range.start;
            while from < range.end {
                let sector = from / SECTOR;
                let to = range.end.min((sector + 1) * SECTOR);
                assert!(from < to && to - from <= SECTOR, "sectors lie one after another");
                touched.insert(sector);
                if lost.contains(&sector) || !reached(InDoubt::Sector { file: path, sector }) {
                    lost.insert(sector);
                } else if let What::Bytes(bytes) = &pending.what {
                    self.put(from, &bytes[(from - range.start) as usize..(to - range.start) as usize])?;
                } else {
                    self.put_zeros(from, to - from)?;
                }
                from = to;
            }
        }
        assert!(lost.len() <= touched.len(), "a sector is lost only if it was written");
        loss.files += u64::from(!touched.is_empty());
        loss.sectors_lost += lost.len() as u64;
        loss.sectors_kept += (touched.len() - lost.len()) as u64;
        Ok(())
    }
}
