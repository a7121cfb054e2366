//! Reads of a store at a consistency level: one key, several, or a range, and the state that the answers are
//! from.
//!
//! At every level one query to one group is answered from one state. Between groups there is no common state:
//! each shard answers from its own. Next: [`super::scan`] for ranges.

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index};

use super::scan::Scanner;
use super::served::{HeldOptions, Served};
use super::{Store, StoreError};
use crate::codec::{self, Found, KEY_BYTES_MAX, MANY_KEYS_MAX, Query};
use raftwerk_multiraft::{Call, FrozenState, ReadAnswer, ReadError, ReadOptions};

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
    pub fn get(&self, key: &[u8]) -> Call<Served<Option<Found>>, StoreError> {
        let encode = |out: &mut Vec<u8>| codec::get(out, key);
        self.store.read(key, &self.options, encode, |answer| {
            let answer = answer?;
            served(&answer, codec::found(&answer.reply)?)
        })
    }

    /// The version of a key; `None` if it is absent.
    pub fn version(&self, key: &[u8]) -> Call<Served<Option<Index>>, StoreError> {
        let encode = |out: &mut Vec<u8>| codec::version(out, key);
        self.store.read(key, &self.options, encode, |answer| {
            let answer = answer?;
            served(&answer, codec::found_version(&answer.reply)?)
        })
    }

    /// The values of several keys, in their order. Keys of one shard are from one state; the index of each
    /// identifies it. One query for a shard, of at most [`MANY_KEYS_MAX`] keys. If their values take more
    /// than [`MANY_BYTES_MAX`](codec::MANY_BYTES_MAX), the shard's state is frozen at the same level, and all
    /// of them are looked up in that, by the caller: so no reply holds up the shard's worker.
    pub fn get_many(&self, keys: &[&[u8]]) -> Call<Vec<Served<Option<Found>>>, StoreError> {
        let mut shards: Vec<(GroupId, Vec<usize>)> = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            if key.len() > KEY_BYTES_MAX {
                return Call::done(Err(StoreError::key_too_large(key)));
            }
            let group = self.store.shard_map().route(key);
            match shards.iter_mut().find(|(of, _)| *of == group) {
                Some((_, places)) => places.push(at),
                None => shards.push((group, vec![at])),
            }
        }
        if let Some((group, places)) = shards.iter().find(|(_, places)| places.len() > MANY_KEYS_MAX) {
            return Call::done(Err(StoreError::TooManyKeys { group: *group, keys: places.len() }));
        }
        let ask = |(group, places): (GroupId, Vec<usize>)| {
            let mut query = Vec::new();
            codec::get_many(&mut query, places.iter().map(|at| keys[*at]));
            let query = Bytes::from(query);
            let answer = self.store.shards.groups[&group].query(query.clone(), self.options);
            Part { group, query, places, answer }
        };
        let parts: Vec<_> = shards.into_iter().map(ask).collect();
        let found = vec![Served::default(); keys.len()];
        let all = gather(self.store.clone(), HeldOptions::new(&self.options), parts, found);
        Call::staged(all, || ReadError::Closed.into())
    }

    /// Scans the keys from `from` on, and below `to` if there is one, in key order, across shards.
    ///
    /// Each page is read at the level of the options. At
    /// [`ConsistentPrefix`](raftwerk_multiraft::Consistency::ConsistentPrefix) all pages of a shard are from the same
    /// state, which is shared with the live one until the scan leaves the shard.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scanner {
        Scanner::new(self.store.clone(), HeldOptions::new(&self.options), from, to)
    }
}

fn served<T>(answer: &ReadAnswer, value: T) -> Result<Served<T>, StoreError> {
    Ok(Served { value, index: answer.index, staleness: answer.staleness })
}

/// The keys of one shard, and the query for all of them.
struct Part {
    group: GroupId,
    query: Bytes,
    places: Vec<usize>,
    answer: Call<ReadAnswer, ReadError>,
}

/// Collects the answers of all shards. Where one does not cover all its keys, the shard's state is frozen at
/// the level of the read; all such states are requested before the first of them is waited for.
async fn gather(
    store: Store,
    options: HeldOptions,
    parts: Vec<Part>,
    mut found: Vec<Served<Option<Found>>>,
) -> Result<Vec<Served<Option<Found>>>, StoreError> {
    let mut long = Vec::new();
    for Part { group, query, places, answer } in parts {
        if place(&mut found, &places, &answer.await?)? < places.len() {
            let frozen = store.shards.groups[&group].freeze(options.options());
            long.push((query, places, frozen));
        }
    }
    for (query, places, frozen) in long {
        look_up(&mut found, &query, &places, &frozen.await?)?;
    }
    Ok(found)
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
fn look_up(
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
