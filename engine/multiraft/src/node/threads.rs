//! IMPURE: the threads and the clock. A worker's turn has neither; this file provides both.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use crossbeam_utils::sync::{Parker, Unparker};
use raftwerk_frame::Time;
use raftwerk_wal::Disk;
use rustix::time::{ClockId, clock_gettime};

use crate::api::call::{this_thread_turns_workers, turns_workers};
use crate::api::config::EXACT_RATE_PPM;
use crate::worker::{Worker, give_up, guarded};

/// The node's clock: nanoseconds since it was opened. Tests give it another rate ([`crate::Config`]); every
/// decision of a node that depends on time uses this clock.
///
/// It continues while the machine is suspended, as the clock of [`std::time`] does not: a follower's support
/// and the leader's lease that depends on it must end at the same time, and a state gets older, whichever
/// machine is suspended. A *wait* for a time, of a parked thread or a timer of the transport, may use a clock
/// that stops, and so end late; the waiter reads this clock before it acts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Duration,
    rate_ppm: u32,
}

impl Clock {
    pub(crate) fn start(rate_ppm: u32) -> Self {
        Self { start: since_boot(), rate_ppm }
    }

    pub(crate) fn now(self) -> Time {
        Time(scaled(since_boot().saturating_sub(self.start), self.rate_ppm, EXACT_RATE_PPM))
    }

    /// The real time that so much of this clock takes, or a nanosecond less.
    fn real_time(self, span: Duration) -> Duration {
        Duration::from_nanos(scaled(span, EXACT_RATE_PPM, self.rate_ppm))
    }
}

/// Time since the machine was started, suspensions included. No system call where the kernel shares its clock
/// with processes (vDSO).
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A span measured by a clock of rate `from`, as one of rate `to` measures it, in nanoseconds.
fn scaled(span: Duration, to: u32, from: u32) -> u64 {
    if to == from {
        return span.as_nanos() as u64;
    }
    (span.as_nanos() * u128::from(to) / u128::from(from)) as u64
}

/// The number of a new incarnation of a node: 64 random bits, which with high probability no earlier one had.
pub(crate) fn new_incarnation() -> u64 {
    RandomState::new().hash_one(0) | 1
}

/// Awake, and no wake-up has come since the last turn began.
const AWAKE: u8 = 0;
/// A wake-up has come since the last turn began.
const WOKEN: u8 = 1;
/// Asleep, or about to be.
const ASLEEP: u8 = 2;

/// The threads of a node that turn workers: counts the running ones, and waits until there are none.
#[derive(Default)]
pub(crate) struct Threads {
    running: Mutex<usize>,
    ended: Condvar,
}

/// One running thread; dropping it counts the thread as ended.
struct Running(Arc<Threads>);

impl Threads {
    fn begin(self: &Arc<Self>) -> Running {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Running(Arc::clone(self))
    }

    /// Waits until all have ended, but no longer than `at_most`. Returns whether they have. Does not wait on
    /// a worker's own thread, which would wait for itself.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let at_most = if turns_workers() { Duration::ZERO } else { at_most };
        let waited = self.ended.wait_timeout_while(running, at_most, |running| *running > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
    }
}

/// Wakes a worker's thread, with a system call only if it sleeps.
pub(crate) struct ThreadWaker {
    state: AtomicU8,
    unparker: Unparker,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            self.unparker.unpark();
        }
    }
}

/// A worker's thread before it has its worker: its waker works already.
pub(crate) struct WorkerThread {
    parker: Parker,
    waker: Arc<ThreadWaker>,
}

/// One turn of each worker; closed ones are removed. Returns whether there is more to do at once, and if not,
/// the next deadline. A worker that panics is given up: its callers are answered, and the others of this
/// thread go on.
fn turn_all<D: Disk>(workers: &mut Vec<Worker<D>>, clock: Clock) -> (bool, Time) {
    let (mut is_busy, mut deadline, mut at) = (false, Time::NEVER, 0);
    while let Some(worker) = workers.get_mut(at) {
        // Before the clock is read: every request counted now was made before the time given to the turn.
        worker.count_requests();
        match guarded(|| worker.turn(clock.now())) {
            Ok(end) if end.is_closed => give_up(workers.remove(at)),
            Ok(end) => {
                is_busy |= end.is_busy;
                deadline = deadline.min(end.next_deadline);
                at += 1;
            }
            Err(what) => {
                worker.dies(&what);
                give_up(workers.remove(at));
            }
        }
    }
    (is_busy, deadline)
}

impl WorkerThread {
    pub(crate) fn new() -> Self {
        let parker = Parker::new();
        let waker = ThreadWaker { state: AtomicU8::new(AWAKE), unparker: parker.unparker().clone() };
        Self { parker, waker: Arc::new(waker) }
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.waker))
    }

    /// Starts a thread that turns its workers, one after another, until all have closed.
    pub(crate) fn spawn<D: Disk + Send + 'static>(
        self,
        mut workers: Vec<Worker<D>>,
        name: String,
        (clock, spin): (Clock, Duration),
        threads: &Arc<Threads>,
    ) -> std::io::Result<()> {
        let running = threads.begin();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _until_the_end = running;
            this_thread_turns_workers();
            while !workers.is_empty() {
                self.waker.state.store(AWAKE, Ordering::SeqCst);
                let (is_busy, deadline) = turn_all(&mut workers, clock);
                if !is_busy && !workers.is_empty() {
                    self.sleep(clock, spin, deadline);
                }
            }
        })?;
        // `Threads` records whether it has ended; unlike a join, that wait has a timeout.
        drop(thread);
        Ok(())
    }

    /// Polls for a while, then sleeps until the deadline or a wake-up.
    fn sleep(&self, clock: Clock, spin: Duration, deadline: Time) {
        if spin > Duration::ZERO {
            let give_up = (clock.now() + spin).min(deadline);
            while clock.now() < give_up {
                if self.waker.state.load(Ordering::Relaxed) == WOKEN {
                    return;
                }
                // Yields the core to threads with work: on few cores this is what makes polling affordable.
                std::thread::yield_now();
            }
        }
        let asleep = self.waker.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
        if asleep.is_ok() {
            let now = clock.now();
            if deadline == Time::NEVER {
                self.parker.park();
            } else if deadline > now {
                self.parker.park_timeout(clock.real_time(deadline.since(now)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_the_time_in_which_the_machine_was_suspended() {
        let uptime = || -> f64 {
            let shown = std::fs::read_to_string("/proc/uptime").unwrap();
            shown.split(' ').next().unwrap().parse().unwrap()
        };
        // Shown in hundredths of a second, rounded down.
        let (before, read, after) = (uptime(), since_boot().as_secs_f64(), uptime());
        assert!(before <= read && read < after + 0.01, "{before} <= {read} <= {after}");
    }

    #[test]
    fn a_span_is_shown_at_the_rate_of_the_clock_and_a_right_one_shows_it_as_it_is() {
        let second = Duration::from_secs(1);
        assert_eq!(scaled(second, EXACT_RATE_PPM, EXACT_RATE_PPM), 1_000_000_000);
        assert_eq!(scaled(second, 1_050_000, EXACT_RATE_PPM), 1_050_000_000);
        let slow = Clock::start(950_000);
        assert_eq!(slow.real_time(Duration::from_millis(95)), Duration::from_millis(100));
    }
}
