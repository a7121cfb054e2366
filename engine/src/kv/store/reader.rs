//! Reading a store at a level: one key, several, or a range, and what the answers say of themselves.
//!
//! A group's state is one thing, so what one query asks of one group is of one moment at every level. Between groups there
//! is no common moment: each shard answers with a state of its own. Next: [`super::scan`] for ranges.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index};

use super::pending::{Answer, Served};
use super::scan::Scanner;
use super::{Store, StoreError};
use crate::kv::codec::{self, Found, KEY_BYTES_MAX, MANY_KEYS_MAX};
use crate::{Read, ReadAnswer, ReadOptions, Session};

/// A store, read at one level: see [`Store::at`].
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    store: &'a Store,
    options: ReadOptions<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(store: &'a Store, options: ReadOptions<'a>) -> Self {
        let session = options.session.or(store.session.as_ref());
        Self { store, options: ReadOptions { session, ..options } }
    }

    /// What a key holds.
    pub fn get(&self, key: &[u8]) -> Answer<Served<Option<Found>>> {
        let encode = |out: &mut Vec<u8>| codec::get(out, key);
        self.store.read(key, &self.options, encode, |answer| served(&answer, codec::found(&answer.reply)?))
    }

    /// The version of a key; `None` if it is absent.
    pub fn version(&self, key: &[u8]) -> Answer<Served<Option<Index>>> {
        let encode = |out: &mut Vec<u8>| codec::version(out, key);
        self.store
            .read(key, &self.options, encode, |answer| served(&answer, codec::found_version(&answer.reply)?))
    }

    /// What several keys hold, in their order. Keys of one shard are of one moment; each says which by its index.
    /// One query for a shard, of at most [`MANY_KEYS_MAX`] keys.
    pub fn get_many(&self, keys: &[&[u8]]) -> Many {
        let mut shards: Vec<(GroupId, Vec<usize>)> = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            if key.len() > KEY_BYTES_MAX {
                return Many::failed(StoreError::key_too_large(key));
            }
            let group = self.store.shard_map().route(key);
            match shards.iter_mut().find(|(of, _)| *of == group) {
                Some((_, places)) => places.push(at),
                None => shards.push((group, vec![at])),
            }
        }
        if let Some((group, places)) = shards.iter().find(|(_, places)| places.len() > MANY_KEYS_MAX) {
            return Many::failed(StoreError::TooManyKeys { group: *group, keys: places.len() });
        }
        let ask = |(group, places): (GroupId, Vec<usize>)| {
            let mut query = Vec::new();
            codec::get_many(&mut query, places.iter().map(|at| keys[*at]));
            Part { answer: self.store.shards.groups[&group].query(query, self.options), places }
        };
        let parts = shards.into_iter().map(ask).collect();
        Many { state: Ok(parts), found: vec![Served::default(); keys.len()] }
    }

    /// Walks through the keys from `from` on, and below `to` if there is one, in key order, across shards.
    ///
    /// Each page is read at the level of the options. At
    /// [`ConsistentPrefix`](crate::Consistency::ConsistentPrefix) all pages of a shard are from the same state, which is
    /// shared with the live one as long as the walk is in the shard.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scanner {
        Scanner::new(self.store.clone(), HeldOptions::new(&self.options), from, to)
    }
}

pub(super) fn served<T>(answer: &ReadAnswer, value: T) -> Result<Served<T>, StoreError> {
    Ok(Served { value, index: answer.index, staleness: answer.staleness })
}

/// Options that outlive their caller.
#[derive(Clone, Debug)]
pub(super) struct HeldOptions {
    consistency: crate::Consistency,
    patience: Option<Duration>,
    session: Option<Session>,
}

impl HeldOptions {
    fn new(options: &ReadOptions<'_>) -> Self {
        let ReadOptions { consistency, patience, session } = *options;
        Self { consistency, patience, session: session.cloned() }
    }

    pub(super) fn options(&self) -> ReadOptions<'_> {
        ReadOptions { consistency: self.consistency, patience: self.patience, session: self.session.as_ref() }
    }
}

/// The keys of one shard, and the answer that is on its way.
struct Part {
    answer: Read,
    places: Vec<usize>,
}

/// Several keys on their way. A future; or block on it with [`Many::wait`].
#[must_use = "a read does nothing but answer"]
pub struct Many {
    state: Result<Vec<Part>, Option<StoreError>>,
    found: Vec<Served<Option<Found>>>,
}

impl Many {
    fn failed(error: StoreError) -> Self {
        Self { state: Err(Some(error)), found: Vec::new() }
    }

    /// Blocks until all shards have answered.
    ///
    /// # Errors
    /// The first [`StoreError`]; a read changes nothing, so it may be retried.
    ///
    /// # Panics
    /// In an async context, which must not block: await it there.
    pub fn wait(mut self) -> Result<Vec<Served<Option<Found>>>, StoreError> {
        let parts = self.state.map_err(|error| error.expect(POLLED_AGAIN))?;
        for Part { answer, places } in parts {
            place(&mut self.found, &places, &answer.wait()?)?;
        }
        Ok(self.found)
    }
}

impl Future for Many {
    type Output = Result<Vec<Served<Option<Found>>>, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { state, found } = &mut *self;
        let parts = match state {
            Ok(parts) => parts,
            Err(error) => return Poll::Ready(Err(error.take().expect(POLLED_AGAIN))),
        };
        let mut at = 0;
        while let Some(part) = parts.get_mut(at) {
            match Pin::new(&mut part.answer).poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(answer)) => {
                    let part = parts.swap_remove(at);
                    place(found, &part.places, &answer)?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
        if parts.is_empty() { Poll::Ready(Ok(std::mem::take(found))) } else { Poll::Pending }
    }
}

fn place(
    found: &mut [Served<Option<Found>>],
    places: &[usize],
    answer: &ReadAnswer,
) -> Result<(), StoreError> {
    let reply: &Bytes = &answer.reply;
    for (at, value) in places.iter().zip(codec::found_many(reply, places.len())?) {
        found[*at] = Served { value, index: answer.index, staleness: answer.staleness };
    }
    Ok(())
}

const POLLED_AGAIN: &str = "a finished future is not polled again";
