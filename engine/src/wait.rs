//! IMPURE: a thread waits for an answer of a worker.

use std::cell::Cell;

use tokio::sync::oneshot;
use tokio::task::unconstrained;

thread_local! {
    /// Whether this thread turns workers.
    static TURNS_WORKERS: Cell<bool> = const { Cell::new(false) };
}

/// From here on this thread turns workers: whatever waits on it for one of them would wait for itself.
pub(crate) fn this_thread_turns_workers() {
    TURNS_WORKERS.set(true);
}

/// Whether this thread turns workers.
pub(crate) fn turns_workers() -> bool {
    TURNS_WORKERS.get()
}

/// Waits for an answer; `None` if there will be none, or if this is a thread of a worker, which may be the one that is asked. Runs
/// within an asynchronous runtime, too, whose thread stands meanwhile: so the answer must not count against what a task of it
/// may do at a time, or the runtime would have to turn before the answer is shown.
pub(crate) fn wait<T>(answer: oneshot::Receiver<T>) -> Option<T> {
    if turns_workers() { None } else { pollster::block_on(unconstrained(answer)).ok() }
}
