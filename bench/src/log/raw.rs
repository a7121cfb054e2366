//! What the device does with nothing of ours in front of it. IMPURE: clock, files.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags};
use serde::Serialize;

use crate::usage::own_cpu_nanos;

const FILE_BYTES: u64 = 64 << 20;
const LARGE: usize = 1 << 20;
const SMALL: usize = 4096;
const PATIENCE: Duration = Duration::from_millis(400);

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
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { write_4k_p50_us, write_4k_p99_us, write_4k_cpu_us, write_1m_mb_per_second } = self;
        write!(
            f,
            "4 KiB synced p50 {write_4k_p50_us:.1} us, p99 {write_4k_p99_us:.1} us, {write_4k_cpu_us:.1} us CPU; 1 MiB synced {write_1m_mb_per_second:.0} MB/s"
        )
    }
}

pub(super) fn measure(folder: &Path) -> io::Result<Raw> {
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
    let open = |flags: OFlags| OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(&path);
    let file = open(OFlags::DIRECT | OFlags::DSYNC).or_else(|_| open(OFlags::DSYNC))?;
    let room = vec![0xA5u8; LARGE + SMALL];
    let start = room.as_ptr().align_offset(SMALL);
    let cpu_before = own_cpu_nanos();
    let mut small = write_for_a_while(&file, &room[start..start + SMALL])?;
    let cpu_nanos = own_cpu_nanos() - cpu_before;
    small.sort_unstable();
    let us = |nanos: u64| nanos as f64 / 1000.0;
    let large = write_for_a_while(&file, &room[start..start + LARGE])?;
    let nanos: u64 = large.iter().sum();
    std::fs::remove_file(&path)?;
    Ok(Raw {
        write_4k_p50_us: us(small[small.len() / 2]),
        write_4k_p99_us: us(small[small.len() * 99 / 100]),
        write_4k_cpu_us: us(cpu_nanos) / small.len() as f64,
        write_1m_mb_per_second: (large.len() * LARGE) as f64 * 1000.0 / nanos.max(1) as f64,
    })
}

/// How long each write took, in nanoseconds; at least one.
fn write_for_a_while(file: &File, bytes: &[u8]) -> io::Result<Vec<u64>> {
    let (started, mut took, mut at) = (Instant::now(), Vec::new(), 0);
    while took.is_empty() || started.elapsed() < PATIENCE {
        let before = Instant::now();
        file.write_all_at(bytes, at)?;
        took.push(before.elapsed().as_nanos() as u64);
        at = (at + bytes.len() as u64) % (FILE_BYTES - bytes.len() as u64 + 1) / SMALL as u64 * SMALL as u64;
    }
    Ok(took)
}

/// Bytes that the device under `path` has written since the system came up, whoever asked for it.
pub(super) fn device_bytes(path: &Path) -> Option<u64> {
    let device = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}
