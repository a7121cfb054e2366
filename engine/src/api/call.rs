//! IMPURE: the content of a call's future, and blocking a thread until a worker answers.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

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

/// The content of the futures of this crate: an answer, or the channel on which it will arrive.
pub(crate) enum Answer<T, E> {
    Now(Option<Result<T, E>>),
    Later(oneshot::Receiver<Result<T, E>>),
}

impl<T: Unpin, E: Unpin> Answer<T, E> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, lost: E) -> Poll<Result<T, E>> {
        match self {
            Self::Now(result) => Poll::Ready(result.take().expect("a finished future is not polled again")),
            Self::Later(receiver) => Pin::new(receiver).poll(cx).map(|sent| sent.unwrap_or(Err(lost))),
        }
    }

    pub(crate) fn wait(self, lost: E) -> Result<T, E> {
        match self {
            Self::Now(result) => result.expect("a finished future is not waited for again"),
            Self::Later(receiver) => wait(receiver).unwrap_or(Err(lost)),
        }
    }
}
