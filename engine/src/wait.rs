//! IMPURE: blocks a thread until a worker answers.

use std::cell::Cell;

use tokio::sync::oneshot;
use tokio::task::unconstrained;

thread_local! {
    /// Whether this thread turns workers.
    static TURNS_WORKERS: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one that turns workers: waiting on it for a worker could wait for itself.
pub(crate) fn this_thread_turns_workers() {
    TURNS_WORKERS.set(true);
}

/// Whether this thread turns workers.
pub(crate) fn turns_workers() -> bool {
    TURNS_WORKERS.get()
}

/// Waits for an answer; `None` if there will be none, or if this is a thread that turns workers, among them
/// possibly the one that is to answer. May be called within an asynchronous runtime, and blocks its thread:
/// the wait must not use up the cooperative budget of the calling task, or the runtime would have to run
/// before the answer is seen.
pub(crate) fn wait<T>(answer: oneshot::Receiver<T>) -> Option<T> {
    if turns_workers() { None } else { pollster::block_on(unconstrained(answer)).ok() }
}
