//! Reads of a store at a consistency level: one key, several, or a range, and the state that the answers are
//! from.
//!
//! At every level one query to one group is answered from one state. Between groups there is no common state:
//! each shard answers from its own. Next: [`super::scan`] for ranges.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index};

use super::pending::{Answer, HeldOptions, Served};
use super::scan::Scanner;
use super::{Store, StoreError};
use crate::kv::codec::{self, Found, KEY_BYTES_MAX, MANY_KEYS_MAX, Query};
use crate::{Freezing, FrozenState, Read, ReadAnswer, ReadOptions};

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

    /// The value of a key.
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

    /// The values of several keys, in their order. Keys of one shard are from one state; the index of each
    /// identifies it. One query for a shard, of at most [`MANY_KEYS_MAX`] keys. If their values take more
    /// than [`MANY_BYTES_MAX`](codec::MANY_BYTES_MAX), the shard's state is frozen at the same level, and all
    /// of them are looked up in that, by the caller: so no reply holds up the shard's worker.
    pub fn get_many(&self, keys: &[&[u8]]) -> Many {
        let mut shards: Vec<(GroupId, Vec<usize>)> = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            if key.len() > KEY_BYTES_MAX {
                return self.failed(StoreError::key_too_large(key));
            }
            let group = self.store.shard_map().route(key);
            match shards.iter_mut().find(|(of, _)| *of == group) {
                Some((_, places)) => places.push(at),
                None => shards.push((group, vec![at])),
            }
        }
        if let Some((group, places)) = shards.iter().find(|(_, places)| places.len() > MANY_KEYS_MAX) {
            return self.failed(StoreError::TooManyKeys { group: *group, keys: places.len() });
        }
        let ask = |(group, places): (GroupId, Vec<usize>)| {
            let mut query = Vec::new();
            codec::get_many(&mut query, places.iter().map(|at| keys[*at]));
            let query = Bytes::from(query);
            let step = Step::Asked(self.store.shards.groups[&group].query(query.clone(), self.options));
            Part { group, query, places, step }
        };
        let parts = shards.into_iter().map(ask).collect();
        let (store, options) = (self.store.clone(), HeldOptions::new(&self.options));
        Many { state: Ok(parts), found: vec![Served::default(); keys.len()], store, options }
    }

    fn failed(&self, error: StoreError) -> Many {
        let (store, options) = (self.store.clone(), HeldOptions::new(&self.options));
        Many { state: Err(Some(error)), found: Vec::new(), store, options }
    }

    /// Scans the keys from `from` on, and below `to` if there is one, in key order, across shards.
    ///
    /// Each page is read at the level of the options. At
    /// [`ConsistentPrefix`](crate::Consistency::ConsistentPrefix) all pages of a shard are from the same
    /// state, which is shared with the live one until the scan leaves the shard.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scanner {
        Scanner::new(self.store.clone(), HeldOptions::new(&self.options), from, to)
    }
}

pub(super) fn served<T>(answer: &ReadAnswer, value: T) -> Result<Served<T>, StoreError> {
    Ok(Served { value, index: answer.index, staleness: answer.staleness })
}

/// The keys of one shard, and their pending step.
struct Part {
    group: GroupId,
    query: Bytes,
    places: Vec<usize>,
    step: Step,
}

/// The pending step of a part.
enum Step {
    /// The answer to one query for all keys …
    Asked(Read),
    /// … or, after an answer that did not cover all of them, a frozen state to look them up in.
    Freezing(Freezing),
}

/// A pending read of several keys. A future; or block on it with [`Many::wait`].
#[must_use = "a read does nothing but answer"]
pub struct Many {
    state: Result<Vec<Part>, Option<StoreError>>,
    found: Vec<Served<Option<Found>>>,
    store: Store,
    options: HeldOptions,
}

impl Many {
    /// Blocks until all shards have answered.
    ///
    /// # Errors
    /// The first [`StoreError`]; a read changes nothing, so it may be retried.
    pub fn wait(mut self) -> Result<Vec<Served<Option<Found>>>, StoreError> {
        let parts = self.state.map_err(|error| error.expect(POLLED_AGAIN))?;
        for Part { group, query, places, step } in parts {
            let freezing = match step {
                Step::Freezing(freezing) => freezing,
                Step::Asked(read) => {
                    if place(&mut self.found, &places, &read.wait()?)? == places.len() {
                        continue;
                    }
                    freeze(&self.store, group, &self.options)
                }
            };
            refresh_peers(&mut self.found, &query, &places, &freezing.wait()?)?;
        }
        Ok(self.found)
    }
}

impl Future for Many {
    type Output = Result<Vec<Served<Option<Found>>>, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { state, found, store, options } = &mut *self;
        let parts = match state {
            Ok(parts) => parts,
            Err(error) => return Poll::Ready(Err(error.take().expect(POLLED_AGAIN))),
        };
        let mut at = 0;
        while let Some(part) = parts.get_mut(at) {
            match &mut part.step {
                Step::Asked(read) => match Pin::new(read).poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(answer) => {
                        if place(found, &part.places, &answer?)? == part.places.len() {
                            parts.swap_remove(at);
                        } else {
                            part.step = Step::Freezing(freeze(store, part.group, options));
                        }
                    }
                },
                Step::Freezing(freezing) => match Pin::new(freezing).poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(state) => {
                        refresh_peers(found, &part.query, &part.places, &state?)?;
                        parts.swap_remove(at);
                    }
                },
            }
        }
        if parts.is_empty() { Poll::Ready(Ok(std::mem::take(found))) } else { Poll::Pending }
    }
}

/// A shard's state, at the level of the read.
fn freeze(store: &Store, group: GroupId, options: &HeldOptions) -> Freezing {
    store.shards.groups[&group].freeze(options.options())
}

/// Stores the values of an answer at their positions; returns how many of the first keys it covers.
fn place(
    found: &mut [Served<Option<Found>>],
    places: &[usize],
    answer: &ReadAnswer,
) -> Result<usize, StoreError> {
    let all = codec::found_many(&answer.reply, places.len())?;
    let count = all.len();
    for (at, value) in places.iter().zip(all) {
        found[*at] = Served { value, index: answer.index, staleness: answer.staleness };
    }
    Ok(count)
}

/// Looks up all keys of a query in a frozen state, on this thread, one reply at a time.
fn refresh_peers(
    found: &mut [Served<Option<Found>>],
    query: &[u8],
    places: &[usize],
    state: &FrozenState,
) -> Result<(), StoreError> {
    let Query::GetMany(keys) = Query::decode(query)? else { return Ok(()) };
    let (keys, mut done) = (keys.collect::<Vec<_>>(), 0);
    while done < keys.len() {
        let mut rest = Vec::new();
        codec::get_many(&mut rest, keys[done..].iter().copied());
        done += place(found, &places[done..], &state.query(&rest))?;
    }
    Ok(())
}

const POLLED_AGAIN: &str = "a finished future is not polled again";
