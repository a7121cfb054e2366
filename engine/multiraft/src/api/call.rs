//! IMPURE: [`Call`], the one pending operation of this crate, and blocking a thread until it is over.
//!
//! A call is a state and what becomes of its answer. Calls of proposals and reads hold the channel itself and
//! a function: mapping one to another type allocates nothing. What is not here: sending ([`super::group`],
//! [`super::engine`]).

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, ready};
use std::thread;

use raftwerk_frame::GroupId;
use tokio::sync::oneshot;
use tokio::task::unconstrained;

use crate::api::error::{ProposeError, ReadError};
use crate::api::session::Session;
use crate::api::status::{Applied, ReadAnswer};

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

/// A pending operation: a future, which any runtime can poll, or [`Call::wait`] to block until it is over.
///
/// The operation was sent when the call was made, not when it is first polled: many can be in flight at once.
/// Dropping a call withdraws nothing. A call is over once: polling it again panics, as with most futures.
#[must_use = "the outcome of an operation should be looked at"]
pub struct Call<T, E>(State<T, E>);

enum State<T, E> {
    Done(Option<Result<T, E>>),
    Answered { answer: oneshot::Receiver<Result<T, E>>, lost: fn() -> E },
    Proposed(Sent<Applied, ProposeError, T, E>),
    Asked(Sent<ReadAnswer, ReadError, T, E>),
    Staged(Box<dyn Stages<T, E>>),
}

/// A request on its way, and what becomes of its answer.
struct Sent<A, X, T, E> {
    answer: oneshot::Receiver<Result<A, X>>,
    session: Option<(Session, GroupId)>,
    then: fn(Result<A, X>) -> Result<T, E>,
    /// Whether `then` was given by `read_by`, and must not be replaced by another.
    is_read: bool,
}

impl<A, X, T, E> Sent<A, X, T, E> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lost: X,
        note: fn(&(Session, GroupId), &A),
    ) -> Poll<Result<T, E>> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx)).unwrap_or(Err(lost));
        if let (Ok(answer), Some(session)) = (&answer, &self.session) {
            note(session, answer);
        }
        Poll::Ready((self.then)(answer))
    }
}

/// Work for a thread of its own, and where its outcome goes.
struct Work<T, E> {
    work: Box<dyn FnOnce() -> Result<T, E> + Send>,
    reply: oneshot::Sender<Result<T, E>>,
}

/// An operation of several steps.
trait Stages<T, E>: Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, E>>;
    /// The outcome if no answer is waited for.
    fn lose(self: Box<Self>) -> Result<T, E>;
}

// No part of a call is pinned: its state moves with it.
impl<T, E> Unpin for Call<T, E> {}

impl<T, E> Call<T, E> {
    /// A call that is over.
    pub const fn done(outcome: Result<T, E>) -> Self {
        Self(State::Done(Some(outcome)))
    }

    /// Blocks the calling thread until the operation is over. May be called within an asynchronous runtime;
    /// its thread does nothing else meanwhile, so prefer to await there. On a thread that turns workers,
    /// so in a state machine, it does not wait, since the answer might have to come from that very thread:
    /// the outcome is then the error that means "no answer" (`Closed`, or `Unknown` of a proposal).
    ///
    /// # Errors
    /// Those of the operation.
    ///
    /// # Panics
    /// If the call has been polled to its end.
    pub fn wait(self) -> Result<T, E> {
        if turns_workers() {
            return self.lose();
        }
        // The wait must not use up the cooperative budget of the calling task, or the runtime would have to
        // run before the answer is seen.
        pollster::block_on(unconstrained(self))
    }

    /// The outcome for a thread that cannot wait.
    fn lose(self) -> Result<T, E> {
        match self.0 {
            State::Done(outcome) => outcome.expect(OVER),
            State::Answered { lost, .. } => Err(lost()),
            State::Proposed(sent) => (sent.then)(Err(ProposeError::Unknown)),
            State::Asked(sent) => (sent.then)(Err(ReadError::Closed)),
            State::Staged(stages) => stages.lose(),
        }
    }

    /// A call that `answer` ends; `lost` is its error if the other end goes without one.
    pub(crate) const fn answered(answer: oneshot::Receiver<Result<T, E>>, lost: fn() -> E) -> Self {
        Self(State::Answered { answer, lost })
    }

    /// A call of work that blocks, on a thread of its own, which ends with it; on the calling thread if the
    /// system grants none. `lost` is the error if the work panics.
    pub fn on_thread(
        name: &str,
        lost: fn() -> E,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Self
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Handed over when there is a thread: one that is refused would take the work with it.
        let (hand, taken) = mpsc::channel::<Work<T, E>>();
        let run = move || {
            if let Ok(Work { work, reply }) = taken.recv() {
                let _caller_gone = reply.send(work());
            }
        };
        if thread::Builder::new().name(name.to_owned()).spawn(run).is_err() {
            return Self::done(work());
        }
        let handed = hand.send(Work { work: Box::new(work), reply });
        if handed.is_ok() { Self::answered(answer, lost) } else { Self::done(Err(lost())) }
    }

    /// A call that continues with a future; `lost` is its outcome for a thread that cannot wait.
    pub fn staged(future: impl Future<Output = Result<T, E>> + Send + 'static, lost: fn() -> E) -> Self
    where
        T: 'static,
        E: 'static,
    {
        Self(State::Staged(Box::new(Steps { future: Box::pin(future), lost })))
    }

    /// The same operation, with another outcome made from this one. Costs an allocation.
    pub fn then<U, F>(self, then: impl FnOnce(Result<T, E>) -> Result<U, F> + Send + 'static) -> Call<U, F>
    where
        T: Send + 'static,
        E: Send + 'static,
        U: 'static,
        F: 'static,
    {
        Call(State::Staged(Box::new(Mapped { call: self, then: Some(then) })))
    }
}

impl<T, E> Future for Call<T, E> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Done(outcome) => Poll::Ready(outcome.take().expect(OVER)),
            State::Answered { answer, lost } => {
                Pin::new(answer).poll(cx).map(|sent| sent.unwrap_or_else(|_| Err(lost())))
            }
            State::Proposed(sent) => sent.poll(cx, ProposeError::Unknown, |(session, group), applied| {
                session.wrote(*group, applied.id.index);
            }),
            State::Asked(sent) => sent.poll(cx, ReadError::Closed, |(session, group), answer| {
                session.saw(*group, answer.index);
            }),
            State::Staged(stages) => stages.poll(cx),
        }
    }
}

impl Call<Applied, ProposeError> {
    pub(crate) const fn proposed(
        answer: oneshot::Receiver<Result<Applied, ProposeError>>,
        session: Option<(Session, GroupId)>,
    ) -> Self {
        Self(State::Proposed(Sent { answer, session, then: |answer| answer, is_read: false }))
    }

    /// The same proposal, with its outcome read by a function: as [`Call::then`], without an allocation.
    pub fn read_by<T: 'static, E: 'static>(
        self,
        read: fn(Result<Applied, ProposeError>) -> Result<T, E>,
    ) -> Call<T, E> {
        Call(match self.0 {
            State::Done(outcome) => State::Done(outcome.map(read)),
            State::Proposed(Sent { answer, session, is_read: false, .. }) => {
                State::Proposed(Sent { answer, session, then: read, is_read: true })
            }
            // Made by `then`, or read before: what became of it so far stays.
            other => return Call(other).then(read),
        })
    }
}

impl Call<ReadAnswer, ReadError> {
    pub(crate) const fn asked(
        answer: oneshot::Receiver<Result<ReadAnswer, ReadError>>,
        session: Option<(Session, GroupId)>,
    ) -> Self {
        Self(State::Asked(Sent { answer, session, then: |answer| answer, is_read: false }))
    }

    /// The same read, with its answer decoded by a function: as [`Call::then`], without an allocation.
    pub fn read_by<T: 'static, E: 'static>(
        self,
        read: fn(Result<ReadAnswer, ReadError>) -> Result<T, E>,
    ) -> Call<T, E> {
        Call(match self.0 {
            State::Done(outcome) => State::Done(outcome.map(read)),
            State::Asked(Sent { answer, session, is_read: false, .. }) => {
                State::Asked(Sent { answer, session, then: read, is_read: true })
            }
            // Made by `then`, or read before: what became of it so far stays.
            other => return Call(other).then(read),
        })
    }
}

/// A call with an outcome that becomes another.
struct Mapped<A, X, F> {
    call: Call<A, X>,
    then: Option<F>,
}

impl<A: Send, X: Send, T, E, F: FnOnce(Result<A, X>) -> Result<T, E> + Send> Stages<T, E>
    for Mapped<A, X, F>
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        let outcome = ready!(Pin::new(&mut self.call).poll(cx));
        Poll::Ready(self.then.take().expect(OVER)(outcome))
    }

    fn lose(self: Box<Self>) -> Result<T, E> {
        let Self { call, then } = *self;
        then.expect(OVER)(call.lose())
    }
}

/// A future of several steps.
struct Steps<T, E> {
    future: Pin<Box<dyn Future<Output = Result<T, E>> + Send>>,
    lost: fn() -> E,
}

impl<T, E> Stages<T, E> for Steps<T, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        self.future.as_mut().poll(cx)
    }

    fn lose(self: Box<Self>) -> Result<T, E> {
        Err((self.lost)())
    }
}

impl<T, E> std::fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_over = matches!(self.0, State::Done(_));
        f.debug_struct("Call").field("is_over", &is_over).finish_non_exhaustive()
    }
}

const OVER: &str = "a call that is over is not polled again";

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(outcome: Result<Applied, ProposeError>) -> Result<Applied, ProposeError> {
        outcome.map(|mut applied| {
            applied.id.index.0 += 1;
            applied
        })
    }

    #[test]
    fn a_call_that_is_read_again_keeps_what_it_became() {
        let (reply, answer) = oneshot::channel();
        let call =
            Call::proposed(answer, None).read_by(counted).read_by(counted).then(counted).read_by(counted);
        reply.send(Ok(Applied::default())).expect("the call waits");
        assert_eq!(call.wait().expect("it was answered").id.index.0, 4);
    }
}
