//! What the device does with nothing of ours in front of it. IMPURE: clock, files.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::fs::{Advice, OFlags};
use serde::Serialize;

use crate::usage::own_cpu_nanos;

const FILE_BYTES: u64 = 64 << 20;
const LARGE: usize = 1 << 20;
const SMALL: usize = 4096;
const LARGE_PAGE: usize = 2 << 20;
const PATIENCE: Duration = Duration::from_millis(400);
/// How long to look at the device before and after a cell.
const GLANCE: Duration = Duration::from_millis(40);

/// What was seen, one write at a time to a file that was written before, past the page cache where that is allowed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Raw {
    /// A synced write of 4 KiB, half of the time.
    pub write_4k_p50_us: f64,
    /// … and 99 % of the time.
    pub write_4k_p99_us: f64,
    /// What it takes of the processors, the mean of all: what any log pays for a write of its own.
    pub write_4k_cpu_us: f64,
    /// Synced writes of 1 MiB, in MB/s.
    pub write_1m_mb_per_second: f64,
    /// The same from memory in large pages, of which the system has fewer to look up.
    pub write_1m_large_pages_mb_per_second: f64,
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { write_4k_p50_us: p50, write_4k_p99_us: p99, write_4k_cpu_us: cpu, .. } = self;
        let (usual, large) = (self.write_1m_mb_per_second, self.write_1m_large_pages_mb_per_second);
        write!(
            f,
            "4 KiB synced p50 {p50:.1} us, p99 {p99:.1} us, {cpu:.1} us CPU; \
             1 MiB synced {usual:.0} MB/s, from large pages {large:.0} MB/s"
        )
    }
}

/// A file on the device. It is removed with the folder that it is in.
pub(crate) struct Device {
    file: File,
    /// Of ordinary pages.
    usual: MmapMut,
    /// Of large ones, if the system has some.
    large: MmapMut,
}

impl Device {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("raw-probe");
        let made = File::create(&path)?;
        let chunk = vec![0x5A; LARGE];
        for at in 0..FILE_BYTES / LARGE as u64 {
            made.write_all_at(&chunk, at * LARGE as u64)?;
        }
        made.sync_all()?;
        // What is in the page cache has to be thrown out by every write past it. It is a wish, not a must.
        let _ = rustix::fs::fadvise(&made, 0, None, Advice::DontNeed);
        drop(made);
        let open =
            |flags: OFlags| OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(&path);
        let file = open(OFlags::DIRECT | OFlags::DSYNC).or_else(|_| open(OFlags::DSYNC))?;
        let (mut usual, mut large) = (MmapMut::map_anon(LARGE)?, MmapMut::map_anon(2 * LARGE_PAGE)?);
        let _ = usual.advise(memmap2::Advice::NoHugePage); // wishes, too
        let _ = large.advise(memmap2::Advice::HugePage);
        usual.fill(0xA5);
        large.fill(0xA5);
        Ok(Self { file, usual, large })
    }

    pub(super) fn measure(&self) -> io::Result<Raw> {
        let cpu_before = own_cpu_nanos();
        let mut small = self.write_for(PATIENCE, &self.usual[..SMALL])?;
        let cpu_nanos = own_cpu_nanos() - cpu_before;
        small.sort_unstable();
        let us = |nanos: u64| nanos as f64 / 1000.0;
        let rate =
            |took: Vec<u64>| (took.len() * LARGE) as f64 * 1000.0 / took.iter().sum::<u64>().max(1) as f64;
        Ok(Raw {
            write_4k_p50_us: us(small[small.len() / 2]),
            write_4k_p99_us: us(small[small.len() * 99 / 100]),
            write_4k_cpu_us: us(cpu_nanos) / small.len() as f64,
            write_1m_mb_per_second: rate(self.write_for(PATIENCE, &self.usual)?),
            write_1m_large_pages_mb_per_second: rate(self.write_for(PATIENCE, self.large())?),
        })
    }

    /// What a synced write of so many bytes, at most 1 MiB from large pages, takes of the processors: the mean, in microseconds, of
    /// those that are made in so long.
    pub(crate) fn cpu_us(&self, bytes: usize, span: Duration) -> io::Result<f64> {
        let before = own_cpu_nanos();
        let took = self.write_for(span, &self.large()[..bytes])?;
        Ok((own_cpu_nanos() - before) as f64 / 1000.0 / took.len() as f64)
    }

    /// The p50 of synced writes of so many bytes, at most 1 MiB, looked at for a moment before and after `meanwhile`; from large
    /// pages, as a log's are.
    pub(super) fn p50_us_around<T>(
        &self,
        bytes: usize,
        meanwhile: impl FnOnce() -> Result<T, String>,
    ) -> Result<(T, f64), String> {
        let glance = || self.write_for(GLANCE, &self.large()[..bytes]).map_err(|error| error.to_string());
        let mut took = glance()?;
        let value = meanwhile()?;
        took.append(&mut glance()?);
        took.sort_unstable();
        Ok((value, took[took.len() / 2] as f64 / 1000.0))
    }

    /// A MiB in a single large page.
    fn large(&self) -> &[u8] {
        let start = self.large.as_ptr().align_offset(LARGE_PAGE);
        &self.large[start..start + LARGE]
    }

    /// How long each write took, in nanoseconds; at least one.
    fn write_for(&self, patience: Duration, bytes: &[u8]) -> io::Result<Vec<u64>> {
        let (started, mut took, mut at) = (Instant::now(), Vec::new(), 0);
        while took.is_empty() || started.elapsed() < patience {
            let before = Instant::now();
            self.file.write_all_at(bytes, at)?;
            took.push(before.elapsed().as_nanos() as u64);
            at = (at + bytes.len() as u64) % (FILE_BYTES - bytes.len() as u64 + 1) / SMALL as u64
                * SMALL as u64;
        }
        Ok(took)
    }
}

/// Bytes that the device under `path` has written since the system came up, for any process.
pub(super) fn device_bytes(path: &Path) -> Option<u64> {
    let device = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}
