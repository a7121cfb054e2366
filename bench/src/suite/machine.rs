//! The machine that a suite runs on, and the moment. IMPURE: asks the system.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::SuiteOptions;
use super::record::Header;
use crate::file_system;
use crate::probe::raw_sync_us;
use crate::report::BeforeAfter;

/// A folder where the data of the rows will be, too.
pub(super) fn folder() -> Result<TempDir, String> {
    let target = Path::new("target");
    let parent = if target.is_dir() { target.to_owned() } else { std::env::temp_dir() };
    let made = tempfile::Builder::new().prefix("raftwerk-suite-").tempdir_in(parent);
    made.map_err(|error| format!("making a folder: {error}"))
}

/// The median time of a raw synced write there.
pub(super) fn raw_sync(folder: &Path) -> Result<f64, String> {
    raw_sync_us(folder).map_err(|error| format!("probing the disk: {error}"))
}

/// The machine; what is known only at the end is as at the beginning.
pub(super) fn header(folder: &Path, options: &SuiteOptions) -> Result<Header, String> {
    let (file_system, is_on_disk) =
        file_system::of(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let before = raw_sync(folder)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Header {
        date: date(now),
        commit: commit(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: if cfg!(debug_assertions) { "with debug assertions" } else { "release" }.to_owned(),
        quick: options.quick,
        cores: std::thread::available_parallelism().map_or(0, Into::into),
        cpu_model: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| unknown(), |release| release.trim().to_owned()),
        memory_bytes: field("/proc/meminfo", "MemTotal").map_or(0, |size| kib(&size) << 10),
        file_system,
        is_on_disk,
        raw_sync_us: BeforeAfter { before, after: before },
        seconds_in_all: 0.0,
    })
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The first line `name : value` of a file.
fn field(path: &str, name: &str) -> Option<String> {
    value(&fs::read_to_string(path).ok()?, name)
}

fn value(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kib(size: &str) -> u64 {
    size.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The commit of the checkout that this program was built in, as it is now.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let ended =
            Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output().ok()?;
        ended.status.success().then(|| String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return unknown() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}, changed"),
    }
}

/// A moment in UTC, as in ISO 8601, from seconds since 1970.
fn date(seconds: u64) -> String {
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // The Gregorian calendar by eras of 400 years that begin in March (Hinnant, `civil_from_days`).
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_767_323_045), "2026-01-02T03:04:05Z");
        assert_eq!(date(4_107_542_399), "2100-02-28T23:59:59Z");
    }

    #[test]
    fn header_describes_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let header = header(folder.path(), &SuiteOptions::default()).unwrap();
        assert!(header.cores > 0 && header.memory_bytes > 1 << 20 && header.raw_sync_us.before > 0.0);
        assert!(!header.kernel.is_empty() && !header.commit.is_empty(), "{header:?}");
    }

    #[test]
    fn fields_of_the_system_are_found() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2:1\nmodel name\t: another\n";
        assert_eq!(value(text, "model name").as_deref(), Some("A CPU @ 2:1"));
        assert_eq!((value(text, "model"), kib("  123 kB")), (None, 123));
    }
}
