//! One file in memory: its bytes, and which of them a power cut may revert.

use std::collections::BTreeMap;
use std::io::IoSlice;

use crate::format::segment::PAGE_BYTES;

/// The unit that a device writes atomically.
pub const SECTOR_BYTES: usize = 512;

/// The fate of an unsynced sector in a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorFate {
    /// It was not written.
    Old,
    /// It was written.
    New,
    /// It holds this byte throughout.
    Garbage(u8),
}

/// Where a read takes its bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadFrom {
    /// The page cache, where it has them.
    Cache,
    /// The device, past the cache.
    Device,
}

type Sector = [u8; SECTOR_BYTES];

const _: () = assert!(PAGE_BYTES.is_multiple_of(SECTOR_BYTES), "a page is of whole sectors");

/// The bytes of one file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// Its first name, under which calls are passed to a [`Fate`](super::Fate).
    path: String,
    live: Vec<u8>,
    /// The minimum length of the file after a power cut.
    durable_bytes: usize,
    /// Sectors written since the last sync, with their durable content. Those beyond `durable_bytes` hold
    /// zeros.
    unsynced: BTreeMap<usize, Box<Sector>>,
    /// Clean sectors where device and cache differ, because a sync failed or the device lost data. With the
    /// device's content.
    stale: BTreeMap<usize, Box<Sector>>,
    /// Whether sectors from `durable_bytes` on were written; none of them was ever synced.
    grown: bool,
}

impl Inode {
    /// Its first name.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Its content, as the cache has it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.live
    }

    /// A file with all bytes durable.
    pub(super) fn durable(path: &str, live: Vec<u8>) -> Self {
        let durable_bytes = live.len();
        Self { path: path.to_owned(), live, durable_bytes, ..Self::default() }
    }

    /// A new file of `bytes` zeros, none of them durable.
    pub(super) fn fresh(path: &str, bytes: usize) -> Self {
        Self { path: path.to_owned(), live: vec![0; bytes], grown: bytes > 0, ..Self::default() }
    }

    /// Writes; durable only with the next sync.
    pub(super) fn write(&mut self, at: usize, parts: &[IoSlice<'_>]) {
        let end = at + parts.iter().map(|part| part.len()).sum::<usize>();
        let durable_end = end.min(self.durable_bytes);
        for sector in at / SECTOR_BYTES..durable_end.div_ceil(SECTOR_BYTES) {
            let from = sector * SECTOR_BYTES;
            assert!(from < self.durable_bytes, "only what was durable is kept");
            self.unsynced.entry(sector).or_insert_with(|| {
                if let Some(old) = self.stale.remove(&sector) {
                    return old;
                }
                let mut old = Box::new([0; SECTOR_BYTES]);
                let there = &self.live[from..self.durable_bytes.min(from + SECTOR_BYTES)];
                old[..there.len()].copy_from_slice(there);
                old
            });
        }
        self.grown |= end > self.durable_bytes;
        self.put(at, end, parts);
        assert!(self.durable_bytes <= self.live.len(), "what is durable was written");
    }

    /// Writes durably. Other unsynced writes stay unsynced, except in the rare case below.
    pub(super) fn write_durable(&mut self, at: usize, parts: &[IoSlice<'_>]) {
        let end = at + parts.iter().map(|part| part.len()).sum::<usize>();
        let covered = at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        self.stale.retain(|sector, _| !covered.contains(sector));
        if end > self.durable_bytes || !self.unsynced.is_empty() {
            // Rare: a durable write over unsynced sectors. Syncs the whole file.
            self.put(at, end, parts);
            return self.sync();
        }
        self.put(at, end, parts);
        assert!(end <= self.durable_bytes, "a durable write ends in what is durable");
    }

    fn put(&mut self, mut at: usize, end: usize, parts: &[IoSlice<'_>]) {
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        for part in parts {
            self.live[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        assert_eq!(at, end, "the parts fill what is written");
        assert!(end <= self.live.len(), "what is written lies in the file");
    }

    /// Makes the whole file durable.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_bytes = self.live.len();
        self.grown = false;
    }

    /// Whether all of it is durable.
    pub(super) fn is_synced(&self) -> bool {
        self.unsynced.is_empty() && self.durable_bytes == self.live.len() && !self.grown
    }

    /// A failed sync: the unsynced sectors count as clean from now on, but the device does not have them.
    pub(super) fn fail_sync(&mut self) {
        let stale = self.stale.len() + self.unsynced.len();
        self.stale.append(&mut self.unsynced);
        assert_eq!(self.stale.len(), stale, "a sector is unsynced or stale, not both");
    }

    /// Drops clean pages from the cache: from now on the file's content is the device's.
    pub(super) fn drop_cached(&mut self) {
        for (sector, old) in std::mem::take(&mut self.stale) {
            lay_over(&mut self.live, 0, sector, &old);
        }
    }

    /// Whether the cache holds sectors marked clean that differ from the device's.
    pub(super) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Reads up to the end of the file: through the cache, or past it. Returns the number of bytes.
    pub(super) fn read(&self, at: usize, into: &mut [u8], from: ReadFrom) -> usize {
        let rest = self.live.get(at..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        for (sector, old) in self.stale.iter().filter(|_| from == ReadFrom::Device) {
            lay_over(&mut into[..read], at, *sector, old);
        }
        read
    }

    /// A copy of the file, cache included.
    pub(super) fn copied(&self, path: &str) -> Self {
        let mut copy = Self::durable(path, self.live.clone());
        copy.stale.clone_from(&self.stale);
        assert!(copy.is_synced(), "a copy is durable");
        copy
    }

    /// Flips bits of a byte on the device, below a cache that still holds the old byte.
    pub(super) fn rot_below_cache(&mut self, at: usize, bits: u8) -> bool {
        let sector = at / SECTOR_BYTES;
        if at >= self.live.len() || self.unsynced.contains_key(&sector) {
            return false;
        }
        let from = sector * SECTOR_BYTES;
        let there = &self.live[from..self.live.len().min(from + SECTOR_BYTES)];
        assert!(at - from < there.len(), "the byte lies in its sector");
        let old = self.stale.entry(sector).or_insert_with(|| {
            let mut old = Box::new([0; SECTOR_BYTES]);
            old[..there.len()].copy_from_slice(there);
            old
        });
        old[at - from] ^= bits;
        true
    }

    /// Flips bits of a durable byte, as when a device loses charge.
    pub(super) fn rot(&mut self, at: usize, bits: u8) -> bool {
        let byte = self.live.get_mut(at);
        byte.map(|byte| *byte ^= bits).is_some()
    }

    /// The content that a power cut leaves. The file's length counts as a sector: if the first one beyond the
    /// durable end is old, the file ends before it.
    pub(super) fn survived(&self, fate: &mut dyn FnMut(usize) -> SectorFate) -> Vec<u8> {
        let mut bytes = self.live.clone();
        for (sector, old) in &self.stale {
            lay_over(&mut bytes, 0, *sector, old);
        }
        for (&sector, old) in &self.unsynced {
            let from = sector * SECTOR_BYTES;
            let to = bytes.len().min(from + SECTOR_BYTES);
            assert!(from < to, "an unsynced sector lies in the file");
            match fate(sector) {
                SectorFate::New => {}
                SectorFate::Garbage(byte) => bytes[from..to].fill(byte),
                SectorFate::Old => bytes[from..to].copy_from_slice(&old[..to - from]),
            }
        }
        if self.grown {
            self.lose_growth(&mut bytes, fate);
        }
        assert!(self.durable_bytes <= bytes.len(), "a power cut leaves what was durable");
        assert!(bytes.len() <= self.live.len(), "a power cut adds nothing");
        bytes
    }

    fn lose_growth(&self, bytes: &mut Vec<u8>, fate: &mut dyn FnMut(usize) -> SectorFate) {
        let mut end = bytes.len();
        let mut from = self.durable_bytes;
        while from < bytes.len() {
            let sector = from / SECTOR_BYTES;
            let to = bytes.len().min((sector + 1) * SECTOR_BYTES);
            assert!(from < to && to - from <= SECTOR_BYTES, "sectors lie one after another");
            match fate(sector) {
                SectorFate::New => {}
                SectorFate::Garbage(byte) => bytes[from..to].fill(byte),
                SectorFate::Old => {
                    bytes[from..to].fill(0);
                    end = end.min(from);
                }
            }
            from = to;
        }
        assert!(self.durable_bytes <= end, "only growth is lost");
        bytes.truncate(end);
    }
}

/// Copies a sector to its place in `bytes`, which begin at offset `at` of the file.
fn lay_over(bytes: &mut [u8], at: usize, sector: usize, content: &Sector) {
    let from = (sector * SECTOR_BYTES).max(at);
    let to = ((sector + 1) * SECTOR_BYTES).min(at + bytes.len());
    if from < to {
        let of = from % SECTOR_BYTES;
        assert!(of + (to - from) <= SECTOR_BYTES, "no more than a sector is copied");
        bytes[from - at..to - at].copy_from_slice(&content[of..of + (to - from)]);
    }
}
