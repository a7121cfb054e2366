//! IMPURE: the share of the machine that a node may use: the cores and the memory available to this process.

use std::fmt;
use std::thread;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// The maximum of threads that own groups by default: one thread does all of a node's encryption, and cannot
/// keep more of them busy.
const WORKERS_MAX: usize = 32;
/// Memory of a worker by default, …
const WORKER_BYTES: u64 = 64 << 20;
/// … and the minimum where there is little, as required by the defaults of [`Config`](crate::Config).
const WORKER_BYTES_MIN: u64 = 32 << 20;
/// Memory of a node by default, unless its workers need more.
const NODE_BYTES: u64 = 1 << 30;
/// The divisor of the machine's memory that gives the log's share: the other parts of a node, and its state
/// machines, need the rest.
const MEMORY_PARTS: u64 = 4;

/// Cores and memory available to this process, with the limits of a container or other control group taken
/// into account. The defaults of [`Config`](crate::Config) are derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Machine {
    /// Cores that this process may use: those of its affinity, as far as its control group's quota allows.
    pub cores: usize,
    /// Memory in bytes: the machine's, or the limit of this process's control group if that is lower. `None`:
    /// unknown.
    pub memory_bytes: Option<u64>,
    /// Whether the memory is that of a control group's limit.
    pub is_limited: bool,
}

impl Machine {
    /// A machine with `cores` cores, and memory that does not constrain the log.
    #[must_use]
    pub const fn of(cores: usize) -> Self {
        Self { cores, memory_bytes: None, is_limited: false }
    }

    /// … and with so much memory, in bytes.
    #[must_use]
    pub const fn with_memory(self, bytes: u64) -> Self {
        Self { memory_bytes: Some(bytes), ..self }
    }

    /// The machine of this process. Reads some files of `/proc` and `/sys`: about a millisecond.
    #[must_use]
    pub fn here() -> Self {
        let machine = Self::of(thread::available_parallelism().map_or(1, usize::from));
        let Ok(mut system) = System::new() else { return machine };
        system.refresh_memory();
        let all = Some(system.total_memory()).filter(|bytes| *bytes > 0);
        let limit = sysinfo::get_current_pid().ok().and_then(|pid| {
            let wanted = ProcessesToUpdate::Some(&[pid]);
            system.refresh_processes_specifics(wanted, false, ProcessRefreshKind::nothing());
            system.process(pid)?.cgroup_limits()
        });
        let limit = limit.map(|limits| limits.total_memory).filter(|bytes| *bytes > 0);
        let is_limited = limit.is_some_and(|limit| all.is_none_or(|all| limit < all));
        Self { memory_bytes: if is_limited { limit } else { all }, is_limited, ..machine }
    }

    /// The log's share of this machine's memory, in bytes.
    fn part(&self) -> u64 {
        self.memory_bytes.map_or(u64::MAX, |bytes| bytes / MEMORY_PARTS)
    }

    /// The default number of threads that own groups: one a core, as far as there is memory for them.
    pub(crate) fn workers(&self) -> usize {
        let fed = usize::try_from(self.part() / WORKER_BYTES_MIN).unwrap_or(usize::MAX);
        self.cores.min(fed).clamp(1, WORKERS_MAX)
    }

    /// The default memory for `workers` threads.
    pub(crate) fn memory_for(&self, workers: usize) -> u64 {
        let workers = workers as u64;
        let wanted = NODE_BYTES.max(workers * WORKER_BYTES);
        wanted.min(self.part()).max(workers * WORKER_BYTES_MIN)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.cores, if self.cores == 1 { "core" } else { "cores" })?;
        match self.memory_bytes {
            None => f.write_str(", memory unknown"),
            Some(bytes) if self.is_limited => write!(f, ", a memory limit of {} MiB", bytes >> 20),
            Some(bytes) => write!(f, ", {} MiB of memory", bytes >> 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_fits_the_machine() {
        let chosen = |machine: Machine| {
            let workers = machine.workers();
            (workers, machine.memory_for(workers) >> 20)
        };
        assert_eq!(chosen(Machine::of(2).with_memory(24 << 30)), (2, 1024));
        assert_eq!(chosen(Machine::of(64).with_memory(256 << 30)), (32, 2048));
        assert_eq!(chosen(Machine::of(1024)), (32, 2048));
        // A container: a share of its memory, and no more threads than that suffices for.
        assert_eq!(chosen(Machine::of(64).with_memory(256 << 20)), (2, 64));
        assert_eq!(chosen(Machine::of(1).with_memory(1 << 30)), (1, 256));
        assert_eq!(chosen(Machine::of(8).with_memory(16 << 20)), (1, 32));
        assert_eq!(chosen(Machine::of(0).with_memory(0)), (1, 32));
    }

    #[test]
    fn this_machine_has_cores_and_memory_and_says_so() {
        let here = Machine::here();
        assert!(here.cores > 0);
        assert!(here.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{here:?}");
        let limited = Machine { is_limited: true, ..Machine::of(1).with_memory(256 << 20) };
        assert_eq!(limited.to_string(), "1 core, a memory limit of 256 MiB");
        assert_eq!(Machine::of(2).to_string(), "2 cores, memory unknown");
    }
}
