//! The environment of a simulated transport: the world runs its tasks, its timers go by a clock that is set, and
//! its socket is two queues. One thread; everything in the order in which it became due.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller};
use raftwerk_frame::Time;

use crate::disk::held;

/// The most datagrams that wait at a socket without a reader; more are lost.
const WAITING_MAX: usize = 1 << 12;
/// Timers fire at whole milliseconds only, rounded up, as tokio's do. With exact ones a pacer that lacks a fraction of a byte asks for a
/// nanosecond's wait again and again, rounds what that brings it down to nothing, and half of a life goes by with that.
const TIMER_TICK_NANOS: u64 = 1_000_000;
/// How often the clock may be read at one moment of the world before it moves. quinn asks it, and not its timer, whether a pacer's wait
/// is over: one that rounds down to nothing would be over, and begin again, for ever.
const READS_AT_ONCE: u64 = 1_000;
/// How far each reading beyond these moves it: enough for a pacer to have earned a byte.
const READ_NANOS: u64 = 1_000;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What tasks and timers share.
#[derive(Default)]
struct Shared {
    /// What the node's clock shows, in nanoseconds. It never goes back.
    now: AtomicU64,
    /// How often the clock was read at this moment of the world.
    reads: AtomicU64,
    spawned: Mutex<Vec<Task>>,
    due: Mutex<VecDeque<Arc<Bell>>>,
    /// The waiting tasks, by time and by number.
    timers: Mutex<BTreeMap<(u64, u64), Waker>>,
    timers_made: AtomicU64,
}

/// Wakes one task.
struct Bell {
    task: usize,
    is_due: AtomicBool,
    /// Not counted: what is due holds bells itself.
    shared: Weak<Shared>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_due.swap(true, Ordering::Relaxed)
            && let Some(shared) = self.shared.upgrade()
        {
            held(&shared.due).push_back(Arc::clone(self));
        }
    }
}

/// The tasks of one transport. Dropping them is the end of its process.
pub(crate) struct Tasks {
    shared: Arc<Shared>,
    /// By number; numbers are not used again.
    tasks: BTreeMap<usize, Task>,
    made: usize,
    /// What quinn's clock shows at the node's time 0: an arbitrary moment.
    origin: Instant,
}

impl Tasks {
    pub(crate) fn new(now: Time) -> Self {
        let shared = Arc::new(Shared { now: AtomicU64::new(now.0), ..Shared::default() });
        // Only ever compared with itself. IMPURE in name: an `Instant` can be had in no other way.
        let origin = Instant::now();
        Self { shared, tasks: BTreeMap::new(), made: 0, origin }
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime { shared: Arc::clone(&self.shared), origin: self.origin })
    }

    /// Sets the time, unless readings have moved the clock beyond it, and lets every task go as far as it can;
    /// the time of the next timer, or never.
    pub(crate) fn run(&mut self, now: Time) -> Time {
        let now = self.shared.now.fetch_max(now.0, Ordering::Relaxed).max(now.0);
        self.shared.reads.store(0, Ordering::Relaxed);
        let mut timers = held(&self.shared.timers);
        let later = timers.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut *timers, later);
        drop(timers);
        due.into_values().for_each(Waker::wake);
        loop {
            self.take_in_spawned();
            let Some(bell) = held(&self.shared.due).pop_front() else { break };
            bell.is_due.store(false, Ordering::Relaxed);
            let Some(task) = self.tasks.get_mut(&bell.task) else { continue };
            let number = bell.task;
            if task.as_mut().poll(&mut Context::from_waker(&Waker::from(bell))).is_ready() {
                self.tasks.remove(&number);
            }
        }
        held(&self.shared.timers).first_key_value().map_or(Time::NEVER, |((at, _), _)| Time(*at))
    }

    fn take_in_spawned(&mut self) {
        for task in std::mem::take(&mut *held(&self.shared.spawned)) {
            self.tasks.insert(self.made, task);
            let bell = Bell {
                task: self.made,
                is_due: AtomicBool::new(false),
                shared: Arc::downgrade(&self.shared),
            };
            Arc::new(bell).wake();
            self.made += 1;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // A task that goes may wake or start others: none is dropped while something is locked.
        self.tasks.clear();
        let spawned = std::mem::take(&mut *held(&self.shared.spawned));
        let timers = std::mem::take(&mut *held(&self.shared.timers));
        drop((spawned, timers));
    }
}

struct SimRuntime {
    shared: Arc<Shared>,
    origin: Instant,
}

impl std::fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimRuntime")
    }
}

impl Runtime for SimRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let number = self.shared.timers_made.fetch_add(1, Ordering::Relaxed);
        let mut timer =
            SimTimer { shared: Arc::clone(&self.shared), origin: self.origin, at: 0, number, is_set: false };
        timer.aim(at);
        Box::pin(timer)
    }

    fn spawn(&self, task: Task) {
        held(&self.shared.spawned).push(task);
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> Instant {
        let Shared { now, reads, .. } = &*self.shared;
        if reads.fetch_add(1, Ordering::Relaxed) > READS_AT_ONCE {
            now.fetch_add(READ_NANOS, Ordering::Relaxed);
        }
        self.origin + Duration::from_nanos(now.load(Ordering::Relaxed))
    }
}

struct SimTimer {
    shared: Arc<Shared>,
    origin: Instant,
    at: u64,
    number: u64,
    /// It is in the list of timers that tasks wait for.
    is_set: bool,
}

impl std::fmt::Debug for SimTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimTimer")
    }
}

impl SimTimer {
    fn aim(&mut self, at: Instant) {
        self.forget();
        let exact = at.saturating_duration_since(self.origin).as_nanos() as u64;
        self.at = exact.next_multiple_of(TIMER_TICK_NANOS);
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.is_set) {
            held(&self.shared.timers).remove(&(self.at, self.number));
        }
    }
}

impl AsyncTimer for SimTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.aim(at);
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.now.load(Ordering::Relaxed) >= self.at {
            self.forget();
            return Poll::Ready(());
        }
        held(&self.shared.timers).insert((self.at, self.number), context.waker().clone());
        self.is_set = true;
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        self.forget();
    }
}

#[derive(Default)]
struct Waiting {
    datagrams: VecDeque<(SocketAddr, Bytes)>,
    reader: Option<Waker>,
}

/// A socket with datagrams that the world carries.
pub(crate) struct SimSocket {
    address: SocketAddr,
    waiting: Mutex<Waiting>,
    sent: Mutex<Vec<(SocketAddr, Bytes)>>,
}

impl SimSocket {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, waiting: Mutex::default(), sent: Mutex::default() }
    }

    pub(crate) fn deliver(&self, from: SocketAddr, datagram: Bytes) {
        let mut waiting = held(&self.waiting);
        if waiting.datagrams.len() < WAITING_MAX {
            waiting.datagrams.push_back((from, datagram));
        }
        if let Some(reader) = waiting.reader.take() {
            drop(waiting);
            reader.wake();
        }
    }

    pub(crate) fn take_sent(&self) -> Vec<(SocketAddr, Bytes)> {
        std::mem::take(&mut *held(&self.sent))
    }
}

impl std::fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimSocket({})", self.address)
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        held(&self.sent).push((transmit.destination, Bytes::copy_from_slice(transmit.contents)));
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        about: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut waiting = held(&self.waiting);
        let mut count = 0;
        for (buffer, about) in buffers.iter_mut().zip(about) {
            let Some((from, datagram)) = waiting.datagrams.pop_front() else { break };
            let length = datagram.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram[..length]);
            *about = RecvMeta { addr: from, len: length, stride: length, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        waiting.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// There is always room to send: what is too much is lost on its way.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that waits for a later reading of the clock, as quinn does for the end of a short wait, ends.
    #[test]
    fn a_clock_that_is_read_again_and_again_moves() {
        let mut tasks = Tasks::new(Time(5));
        let runtime = tasks.runtime();
        let its_runtime = Arc::clone(&runtime);
        runtime.spawn(Box::pin(async move {
            let begun = its_runtime.now();
            let reads = (0..2 * READS_AT_ONCE).take_while(|_| its_runtime.now() == begun).count() as u64;
            assert_eq!(reads, READS_AT_ONCE, "it stands still for a while, and then moves");
        }));
        assert_eq!(tasks.run(Time(5)), Time::NEVER);
        let origin = tasks.origin;
        let shown = || runtime.now().duration_since(origin).as_nanos() as u64;
        let moved = 5 + 2 * READ_NANOS;
        assert_eq!(shown(), moved);
        for (now, shows) in [(9, moved), (moved, moved), (moved + 1, moved + 1)] {
            assert_eq!(tasks.run(Time(now)), Time::NEVER);
            assert_eq!(shown(), shows, "it goes on from where it was, and never back");
        }
    }
}
