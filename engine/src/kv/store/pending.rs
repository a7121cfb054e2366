//! Pending writes and reads: futures that can also be waited for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use raftwerk_frame::Index;

use super::StoreError;
use crate::{Applied, Consistency, Proposal, Read, ReadAnswer, ReadOptions, Session};

/// A pending write. Dropping it does not withdraw the write.
#[must_use = "the outcome of a write should be looked at"]
pub struct Write<T>(Result<Sent<T>, Option<StoreError>>);

struct Sent<T> {
    proposal: Proposal,
    read: fn(Applied) -> Result<T, StoreError>,
}

impl<T> Write<T> {
    pub(super) fn sent(proposal: Proposal, read: fn(Applied) -> Result<T, StoreError>) -> Self {
        Self(Ok(Sent { proposal, read }))
    }

    pub(super) const fn failed(error: StoreError) -> Self {
        Self(Err(Some(error)))
    }

    /// Blocks until the outcome is known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn wait(self) -> Result<T, StoreError> {
        match self.0 {
            Ok(Sent { proposal, read }) => read(proposal.wait()?),
            Err(error) => Err(error.expect(POLLED_AGAIN)),
        }
    }
}

impl<T> Future for Write<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(Sent { proposal, read }) => Poll::Ready(read(ready!(Pin::new(proposal).poll(cx))?)),
            Err(error) => Poll::Ready(Err(error.take().expect(POLLED_AGAIN))),
        }
    }
}

/// A value, and the state of its shard that it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served<T> {
    /// The value.
    pub value: T,
    /// The last entry that the shard's replica had applied.
    pub index: Index,
    /// The maximum age of that state; `None`: unknown. See [`ReadAnswer::staleness`].
    pub staleness: Option<Duration>,
}

/// A pending read.
#[must_use = "a read does nothing but answer"]
pub struct Answer<T>(State<T>);

enum State<T> {
    Asked(Asked<T>),
    Known(Option<Result<T, StoreError>>),
}

struct Asked<T> {
    answer: Read,
    read: fn(ReadAnswer) -> Result<T, StoreError>,
}

impl<T> Answer<T> {
    pub(super) fn sent(answer: Read, read: fn(ReadAnswer) -> Result<T, StoreError>) -> Self {
        Self(State::Asked(Asked { answer, read }))
    }

    pub(super) const fn known(value: T) -> Self {
        Self(State::Known(Some(Ok(value))))
    }

    pub(super) const fn failed(error: StoreError) -> Self {
        Self(State::Known(Some(Err(error))))
    }

    /// Blocks until there is an answer.
    ///
    /// # Errors
    /// [`StoreError`]; a read changes nothing, so it may be retried.
    pub fn wait(self) -> Result<T, StoreError> {
        match self.0 {
            State::Asked(Asked { answer, read }) => read(answer.wait()?),
            State::Known(known) => known.expect(POLLED_AGAIN),
        }
    }
}

impl<T: Unpin> Future for Answer<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Asked(Asked { answer, read }) => Poll::Ready(read(ready!(Pin::new(answer).poll(cx))?)),
            State::Known(known) => Poll::Ready(known.take().expect(POLLED_AGAIN)),
        }
    }
}

const POLLED_AGAIN: &str = "a finished future is not polled again";

/// Options that own their session.
#[derive(Clone, Debug)]
pub(super) struct HeldOptions {
    consistency: Consistency,
    patience: Option<Duration>,
    session: Option<Session>,
}

impl HeldOptions {
    pub(super) fn new(options: &ReadOptions<'_>) -> Self {
        let ReadOptions { consistency, patience, session } = *options;
        Self { consistency, patience, session: session.cloned() }
    }

    pub(super) fn options(&self) -> ReadOptions<'_> {
        ReadOptions { consistency: self.consistency, patience: self.patience, session: self.session.as_ref() }
    }
}
