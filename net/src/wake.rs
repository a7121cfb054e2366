//! From senders to the sleeping net thread: the list of outboxes with new messages, and one wake-up
//! for all of them.
//!
//! A wake-up costs a system call, so it is made only when the net thread sleeps. While it is awake it checks
//! the list by itself: every task on it is wrapped by [`Wake::watch`], whose polls start with one load of a
//! flag, and it checks once more before it falls asleep. Three facts make this safe:
//! 1. A sender sets `flushed`, then reads `awake`; the net thread clears `awake`, then reads `flushed`. Both
//!    with sequential consistency, so at least one sees the other.
//! 2. `wakeup_pending` is cleared only by the task that the wake-up starts, so every wake-up is answered.
//! 3. An outbox is taken off the list before its writer looks into it.
//!
//! What is not here: threads and the event loop (`quic.rs` installs the three hooks).
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll};

use crossbeam_queue::SegQueue;
use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

use crate::message::outbox::Outbox;

/// The list of outboxes and the wake-up of one net thread.
#[derive(Default)]
pub(crate) struct Wake {
    listed: SegQueue<Arc<Outbox>>,
    flushed: CachePadded<AtomicBool>,
    awake: CachePadded<AtomicBool>,
    wakeup_pending: AtomicBool,
    wakeup: Notify,
}

impl Wake {
    /// Lists an outbox that requires it. Visible after the next [`Wake::flush`].
    pub(crate) fn list(&self, outbox: &Arc<Outbox>) {
        self.listed.push(Arc::clone(outbox));
    }

    /// Makes everything listed visible to the net thread; true if that took a wake-up.
    pub(crate) fn flush(&self) -> bool {
        if self.listed.is_empty() {
            // Messages queued before this call were seen already, or are being processed.
            return false;
        }
        self.flushed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.awake.load(Ordering::SeqCst) || self.wakeup_pending.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.wakeup.notify_one();
        true
    }

    /// On the net thread: wakes the writers of all outboxes listed by a flush.
    pub(crate) fn drain(&self) {
        // The plain load keeps the cache line shared while the list is empty.
        while self.flushed.load(Ordering::Relaxed) && self.flushed.swap(false, Ordering::SeqCst) {
            while let Some(outbox) = self.listed.pop() {
                outbox.unlist();
            }
        }
    }

    /// Hook: the net thread is about to sleep.
    pub(crate) fn before_sleep(&self) {
        self.awake.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.drain();
    }

    /// Hook: the net thread is awake again.
    pub(crate) fn after_sleep(&self) {
        self.awake.store(true, Ordering::SeqCst);
    }

    /// Answers wake-ups for ever; to be spawned once, wrapped by [`Wake::watch`] like every task.
    pub(crate) async fn serve_wakeups(self: Arc<Self>) {
        loop {
            self.wakeup.notified().await;
            self.wakeup_pending.store(false, Ordering::SeqCst);
            self.drain();
        }
    }

    /// Wraps a task of the net thread so that each of its polls checks the list first.
    pub(crate) fn watch<F: Future>(self: &Arc<Self>, task: F) -> Watched<F> {
        Watched { wake: Arc::clone(self), task: Box::pin(task) }
    }
}

/// A task that checks the list whenever it is polled.
pub(crate) struct Watched<F> {
    wake: Arc<Wake>,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.wake.drain();
        self.task.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::coalesce::Unit;
    use crate::transport::Parts;

    fn listed(wake: &Wake, outbox: &Arc<Outbox>) {
        outbox.push(1, Parts::new()).unwrap();
        if outbox.needs_listing() {
            wake.list(outbox);
        }
    }

    #[test]
    fn flushes_wake_a_sleeping_thread_once_and_an_awake_one_never() {
        let (wake, outbox) = (Wake::default(), Arc::new(Outbox::new(10_000, 100)));
        assert!(!wake.flush(), "nothing is listed");
        listed(&wake, &outbox);
        listed(&wake, &outbox);
        assert!(wake.flush());
        assert!(!wake.flush(), "a wake-up is pending");
        wake.after_sleep();
        wake.drain();
        listed(&wake, &outbox);
        assert!(!wake.flush(), "awake: it looks by itself");
        wake.before_sleep();
        assert!(!outbox.listed_for_test(), "it looked before it slept");
    }

    #[test]
    fn racing_senders_lose_no_wake_up_of_a_dozing_thread() {
        const SENDERS: usize = 2;
        const EACH: usize = 20_000;
        let wake = Arc::new(Wake::default());
        let outbox = Arc::new(Outbox::new(usize::MAX, 100));
        let runtime = {
            let (before, after) = (Arc::clone(&wake), Arc::clone(&wake));
            tokio::runtime::Builder::new_current_thread()
                .on_thread_park(move || before.before_sleep())
                .on_thread_unpark(move || after.after_sleep())
                .build()
                .unwrap()
        };
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (wake, outbox) = (Arc::clone(&wake), Arc::clone(&outbox));
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        listed(&wake, &outbox);
                        if number % 3 == 0 || number == EACH - 1 {
                            wake.flush();
                        }
                        if number % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        // A lost wake-up would leave this waiting for ever.
        runtime.block_on(async {
            tokio::spawn(wake.watch(Arc::clone(&wake).serve_wakeups()));
            let count = wake.watch(async {
                let (mut unit, mut dropped, mut seen) = (Unit::default(), 0, 0);
                while seen < SENDERS * EACH {
                    while outbox.fill(1, &mut unit, &mut dropped).is_some() {
                        seen += unit.messages();
                    }
                    if seen < SENDERS * EACH {
                        outbox.ready().await;
                    }
                }
                seen
            });
            assert_eq!(count.await, SENDERS * EACH);
        });
        for sender in senders {
            sender.join().unwrap();
        }
    }
}
