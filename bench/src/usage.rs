//! What a process costs: CPU time and resident memory. IMPURE: process clocks and `/proc`.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::time::{ClockId, clock_gettime};

/// User and system time of this process so far, all threads, in nanoseconds.
#[must_use]
pub fn own_cpu_nanos() -> u64 {
    nanos(ClockId::ProcessCPUTime)
}

/// User and system time of the calling thread so far, in nanoseconds.
#[must_use]
pub fn thread_cpu_nanos() -> u64 {
    nanos(ClockId::ThreadCPUTime)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The same of another process, to a tick of the kernel (10 ms); 0 if it is gone.
#[must_use]
pub fn cpu_nanos_of(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    ticks(&stat).unwrap_or(0) * (1_000_000_000 / clock_ticks_per_second())
}

/// Bytes of this process that are in memory.
#[must_use]
pub fn own_resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * page_size() as u64
}

/// User plus system ticks in a line of `/proc/…/stat`. Its second field may contain anything but a last ')'.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_hostile_name() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 700 30 0 0 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(730));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn work_shows_as_cpu_time_and_memory() {
        let before = own_cpu_nanos();
        let sum = (0..5_000_000u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        assert!(own_cpu_nanos() > before, "{sum}");
        assert!(own_resident_bytes() > 100_000);
        assert_eq!(cpu_nanos_of(u32::MAX), 0);
    }
}
