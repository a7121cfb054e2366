//! One file in memory: its bytes, and which of them a power cut may take back.

use std::collections::BTreeMap;
use std::io::IoSlice;

/// What a device writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What becomes of an unsynced sector when the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorFate {
    /// It was not written.
    Old,
    /// It was written.
    New,
    /// It holds this byte throughout.
    Garbage(u8),
}

type Sector = [u8; SECTOR_BYTES];

/// The bytes of one file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// Its first name, for whoever decides about calls.
    pub(super) path: String,
    pub(super) live: Vec<u8>,
    /// How long the file is after a power cut, at least.
    durable_bytes: usize,
    /// Sectors written since the last sync, with what was durable there. Those beyond `durable_bytes` hold zeros.
    unsynced: BTreeMap<usize, Box<Sector>>,
    /// Clean sectors of which the device has something else than the cache: a sync failed, or the device has lost what it had. With
    /// what it has.
    stale: BTreeMap<usize, Box<Sector>>,
    /// Sectors from `durable_bytes` on were never synced; those below this may have been written.
    grown: bool,
}

impl Inode {
    /// A file whose bytes are all durable.
    pub(super) fn durable(path: &str, live: Vec<u8>) -> Self {
        let durable_bytes = live.len();
        Self { path: path.to_owned(), live, durable_bytes, ..Self::default() }
    }

    /// A new file of so many zeros, of which nothing is durable.
    pub(super) fn fresh(path: &str, bytes: usize) -> Self {
        Self { path: path.to_owned(), live: vec![0; bytes], grown: bytes > 0, ..Self::default() }
    }

    /// Writes; durable only with the next sync.
    pub(super) fn write(&mut self, at: usize, parts: &[IoSlice<'_>]) {
        let end = at + parts.iter().map(|part| part.len()).sum::<usize>();
        let durable_end = end.min(self.durable_bytes);
        for sector in at / SECTOR_BYTES..durable_end.div_ceil(SECTOR_BYTES) {
            let from = sector * SECTOR_BYTES;
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
    }

    /// Writes what is durable at once. What else is unsynced stays so.
    pub(super) fn write_durable(&mut self, at: usize, parts: &[IoSlice<'_>]) {
        let end = at + parts.iter().map(|part| part.len()).sum::<usize>();
        let covered = at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        self.stale.retain(|sector, _| !covered.contains(sector));
        if end > self.durable_bytes || !self.unsynced.is_empty() {
            // Rare: a durable write over unsynced ones. The device is given all of it.
            self.put(at, end, parts);
            return self.sync();
        }
        self.put(at, end, parts);
    }

    fn put(&mut self, mut at: usize, end: usize, parts: &[IoSlice<'_>]) {
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        for part in parts {
            self.live[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }

    /// All of it becomes durable.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_bytes = self.live.len();
        self.grown = false;
    }

    /// A sync has failed: what was to be written counts as clean from now on, and the device does not have it.
    pub(super) fn fail_sync(&mut self) {
        self.stale.append(&mut self.unsynced);
    }

    /// The cache forgets what is clean: from now on the file is what the device has.
    pub(super) fn drop_cached(&mut self) {
        for (sector, old) in std::mem::take(&mut self.stale) {
            lay_over(&mut self.live, 0, sector, &old);
        }
    }

    /// Whether the cache has something that the device has not, and takes for clean.
    pub(super) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// As many bytes from `at` on as there are: from the cache, or past it.
    pub(super) fn read(&self, at: usize, into: &mut [u8], is_past_cache: bool) -> usize {
        let rest = self.live.get(at..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        for (sector, old) in self.stale.iter().filter(|_| is_past_cache) {
            lay_over(&mut into[..read], at, *sector, old);
        }
        read
    }

    /// The same file, cache and all.
    pub(super) fn copied(&self, path: &str) -> Self {
        let mut copy = Self::durable(path, self.live.clone());
        copy.stale.clone_from(&self.stale);
        copy
    }

    /// Turns a byte of the device's into another, below a cache that has it still.
    pub(super) fn rot_below_cache(&mut self, at: usize, bits: u8) -> bool {
        let sector = at / SECTOR_BYTES;
        if at >= self.live.len() || self.unsynced.contains_key(&sector) {
            return false;
        }
        let from = sector * SECTOR_BYTES;
        let there = &self.live[from..self.live.len().min(from + SECTOR_BYTES)];
        let old = self.stale.entry(sector).or_insert_with(|| {
            let mut old = Box::new([0; SECTOR_BYTES]);
            old[..there.len()].copy_from_slice(there);
            old
        });
        old[at - from] ^= bits;
        true
    }

    /// Turns a durable byte into another, as a device does that loses its charge.
    pub(super) fn rot(&mut self, at: usize, bits: u8) -> bool {
        let byte = self.live.get_mut(at);
        byte.map(|byte| *byte ^= bits).is_some()
    }

    /// What a power cut leaves. The file's length counts as a sector: if the first one beyond the durable end is old,
    /// the file ends before it.
    pub(super) fn survived(&self, fate: &mut dyn FnMut(usize) -> SectorFate) -> Vec<u8> {
        let mut bytes = self.live.clone();
        for (sector, old) in &self.stale {
            lay_over(&mut bytes, 0, *sector, old);
        }
        for (&sector, old) in &self.unsynced {
            let from = sector * SECTOR_BYTES;
            let to = bytes.len().min(from + SECTOR_BYTES);
            match fate(sector) {
                SectorFate::New => {}
                SectorFate::Garbage(byte) => bytes[from..to].fill(byte),
                SectorFate::Old => bytes[from..to].copy_from_slice(&old[..to - from]),
            }
        }
        if self.grown {
            self.lose_growth(&mut bytes, fate);
        }
        bytes
    }

    fn lose_growth(&self, bytes: &mut Vec<u8>, fate: &mut dyn FnMut(usize) -> SectorFate) {
        let mut end = bytes.len();
        let mut from = self.durable_bytes;
        while from < bytes.len() {
            let sector = from / SECTOR_BYTES;
            let to = bytes.len().min((sector + 1) * SECTOR_BYTES);
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
        bytes.truncate(end);
    }
}

/// Puts a sector where it belongs in bytes that begin at `at` of the file.
fn lay_over(bytes: &mut [u8], at: usize, sector: usize, content: &Sector) {
    let from = (sector * SECTOR_BYTES).max(at);
    let to = ((sector + 1) * SECTOR_BYTES).min(at + bytes.len());
    if from < to {
        let of = from % SECTOR_BYTES;
        bytes[from - at..to - at].copy_from_slice(&content[of..of + (to - from)]);
    }
}
