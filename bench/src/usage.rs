//! What a process costs: CPU time and resident memory. IMPURE: process clocks and `/proc`.

use std::collections::BTreeMap;
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

/// What all processes have used of the processors since the system came up, in nanoseconds, to a tick of the kernel: all but
/// idle time and waits for the disk. Interrupts are in it, and what a hypervisor took. `None` where the system does not count it.
#[must_use]
pub fn system_cpu_nanos() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    Some(busy_ticks(&stat)? * (1_000_000_000 / clock_ticks_per_second()))
}

/// Busy ticks in the first line of `/proc/stat`: user, nice, system, idle, waiting, interrupts hard and soft, stolen.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let fields = fields.map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    let [user, nice, system, _, _, hard, soft, stolen, ..] = fields[..] else { return None };
    Some(user + nice + system + hard + soft + stolen)
}

/// CPU time of this process's threads so far in nanoseconds, by what they do: `worker`, `net`, `client`, `wal-sync`,
/// `wal-files`, `other`. Threads that have ended are missing.
#[must_use]
pub fn cpu_nanos_by_role() -> BTreeMap<String, u64> {
    let mut by_role = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(Result::ok) {
        let path = task.path();
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        // The scheduler's own count is to the nanosecond; where it is not kept, that in ticks is.
        let exact = read("schedstat").split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        let coarse = || ticks(&read("stat")).unwrap_or(0) * (1_000_000_000 / clock_ticks_per_second());
        let nanos: u64 = exact.unwrap_or_else(coarse);
        *by_role.entry(role(read("comm").trim_end()).to_owned()).or_insert(0) += nanos;
    }
    by_role
}

/// What a thread of this name does. Workers are named by node and number, of which the system keeps 15 letters.
fn role(name: &str) -> &'static str {
    let is_worker =
        |rest: &str| rest.split_once('-').is_some_and(|(_, number)| number.parse::<u16>().is_ok());
    match name {
        "raftwerk-net" => "net",
        "client" => "client",
        _ if name.starts_with("wal-sync") => "wal-sync",
        _ if name.starts_with("wal-") => "wal-files",
        _ if name.strip_prefix("raftwerk-").is_some_and(is_worker) => "worker",
        _ => "other",
    }
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

    #[test]
    fn busy_time_is_all_but_idle_and_waiting() {
        assert_eq!(busy_ticks("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2\n"), Some(171));
        assert_eq!((busy_ticks("cpu  1 2 3"), busy_ticks("nonsense")), (None, None));
        assert!(system_cpu_nanos().unwrap() > 0);
    }

    #[test]
    fn threads_are_known_by_their_names() {
        let names = ["raftwerk-n1-0", "raftwerk-net", "client", "wal-sync-0", "wal-snap-1", "raftwerk-bench"];
        let roles = ["worker", "net", "client", "wal-sync", "wal-files", "other"];
        assert_eq!(names.map(role), roles);
        assert_eq!((role("raftwerk-n1-ope"), role("raftwerk-n12-17")), ("other", "worker"));
        assert!(cpu_nanos_by_role().values().sum::<u64>() > 0);
    }
}
