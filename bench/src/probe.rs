//! What the disk alone does: the time of raw 4 KiB synced writes to a pre-written file. IMPURE: clock and files.
//!
//! Taken before and after a run, because the same machine's disk has slow hours and a virtual one has two regimes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

const PAGE_BYTES: usize = 4096;
const PAGES: u64 = 256;
const WRITES: usize = 400;
/// A slow disk gets fewer of them.
const WRITE_FOR: Duration = Duration::from_millis(500);

/// The median time of one synced write in `folder`, in microseconds. Past the page cache where the file system allows.
///
/// # Errors
/// An error of the file system.
pub fn raw_sync_us(folder: &Path) -> io::Result<f64> {
    let path = folder.join("raw-sync-probe");
    std::fs::write(&path, vec![0x5A; PAGE_BYTES * PAGES as usize])?;
    let probed = open(&path, OFlags::DIRECT | OFlags::DSYNC)
        .and_then(|file| write_pages(&file))
        .or_else(|_| open(&path, OFlags::DSYNC).and_then(|file| write_pages(&file)));
    std::fs::remove_file(&path)?;
    probed
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let file = OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path)?;
    file.sync_all()?;
    Ok(file)
}

fn write_pages(file: &File) -> io::Result<f64> {
    let room = vec![0xA5u8; 2 * PAGE_BYTES];
    let start = room.as_ptr().align_offset(PAGE_BYTES);
    let page = &room[start..start + PAGE_BYTES];
    let mut micros = Vec::with_capacity(WRITES);
    let started = Instant::now();
    for at in 0..WRITES {
        if started.elapsed() > WRITE_FOR {
            break;
        }
        let before = Instant::now();
        file.write_all_at(page, at as u64 % PAGES * PAGE_BYTES as u64)?;
        micros.push(before.elapsed().as_nanos() as f64 / 1000.0);
    }
    micros.sort_by(f64::total_cmp);
    Ok((micros[micros.len() / 2] * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_measures_something_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(raw_sync_us(folder.path()).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
