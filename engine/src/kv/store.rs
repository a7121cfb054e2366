//! A key-value store over many groups: routes keys to shards, encodes operations, and decodes the answers.
//! Thin on purpose.
//!
//! Every call goes to this node's replicas: one for a group that another node leads is answered with
//! `NotLeader` and a hint, and the caller turns to that node. What is not here: forwarding, retries,
//! transactions across shards. Next: [`super::codec`] for the encoding, [`super::KvMachine`] for the effect
//! of operations.

mod error;
mod pending;
mod reader;
mod scan;

use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
pub use error::{StoreError, StoreOpenError};
pub use pending::{Answer, Served, Write};
use raftwerk_frame::{GroupId, Index, NodeId};
use raftwerk_wal::Disk;
pub use reader::{Many, Reader};
use rustc_hash::FxHashMap;
pub use scan::Scanner;

use super::codec::{self, Change, Found, KEY_BYTES_MAX, Swap};
use super::shard_map::ShardMap;
use crate::drive::Node;
use crate::{Applied, Consistency, Engine, Group, Proposal, ReadAnswer, ReadOptions, Session};

/// A key-value store. Cheap to clone; usable from any thread.
///
/// Writes answer with the version of their keys, which is the index of their entry. They are sent when
/// called, not when first polled: many can be in flight at once. All can be awaited or waited for.
///
/// ```no_run
/// # fn example(engine: &raftwerk::Engine, node: raftwerk::NodeId) -> Result<(), Box<dyn std::error::Error>> {
/// use raftwerk::GroupId;
/// use raftwerk::kv::{ShardMap, Store, codec::{Change, Swap}};
///
/// let map = ShardMap::uniform((1..=48).map(GroupId))?;
/// let store = Store::create(engine, "shards".as_ref(), map, &[node])?;
///
/// let version = store.put(b"apple", b"red").wait()?;
/// let found = store.get(b"apple").wait()?.expect("it was put");
/// assert_eq!((&found.value[..], found.version), (&b"red"[..], version));
///
/// let swap = store.compare_and_set(b"apple", Some(b"red"), Some(b"green")).wait()?;
/// assert_eq!(swap, Swap::Applied);
/// store.batch(&[Change::Put { key: b"ant", value: b"6" }, Change::Delete { key: b"apple" }]).wait()?;
///
/// let mut scanner = store.scan(b"a", Some(b"b"));
/// while let Some(items) = scanner.next_page_wait()? {
///     for item in items {
///         println!("{:?} = {:?}", item.key, item.value);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Store {
    shards: Arc<Shards>,
    session: Option<Session>,
}

struct Shards {
    map: ShardMap,
    groups: FxHashMap<GroupId, Group>,
}

impl Store {
    /// Creates the store's groups with these voters and saves the map to `path`. To be called on every voter,
    /// with equal arguments; idempotent, so that it can be repeated after a crash or an error.
    ///
    /// The engine's state machines must be [`KvMachine`](super::KvMachine)s.
    ///
    /// # Errors
    /// [`StoreOpenError`]; in particular if `path` holds another map.
    pub fn create(
        engine: &Engine,
        path: &Path,
        map: ShardMap,
        voters: &[NodeId],
    ) -> Result<Self, StoreOpenError> {
        map.save(path)?;
        for shard in map.ranges() {
            engine
                .create_group(shard.group, voters)
                .map_err(|source| StoreOpenError::Create { group: shard.group, source })?;
        }
        Self::new(engine, map)
    }

    /// Opens a store whose map was saved to `path`.
    ///
    /// # Errors
    /// [`StoreOpenError`] if there is no such map, or one of its groups is not on this node.
    pub fn open(engine: &Engine, path: &Path) -> Result<Self, StoreOpenError> {
        Self::new(engine, ShardMap::load(path)?)
    }

    /// A store over groups that exist already; touches no file.
    ///
    /// # Errors
    /// [`StoreOpenError::NoSuchGroup`] if one of the map's groups is not on this node.
    pub fn new(engine: &Engine, map: ShardMap) -> Result<Self, StoreOpenError> {
        Self::over(map, |group| engine.group(group))
    }

    /// A store over the groups of a node, with either driver.
    pub(crate) fn over(
        map: ShardMap,
        find: impl Fn(GroupId) -> Option<Group>,
    ) -> Result<Self, StoreOpenError> {
        let mut groups = FxHashMap::default();
        for shard in map.ranges() {
            if let Entry::Vacant(place) = groups.entry(shard.group) {
                place.insert(find(shard.group).ok_or(StoreOpenError::NoSuchGroup(shard.group))?);
            }
        }
        Ok(Self { shards: Arc::new(Shards { map, groups }), session: None })
    }

    /// The map from keys to groups.
    #[must_use]
    pub fn shard_map(&self) -> &ShardMap {
        &self.shards.map
    }

    /// Sets a key; answers with its version.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Write<Index> {
        let encode = |out: &mut Vec<u8>| codec::put(out, key, value);
        self.write(key, codec::put_overhead_bytes(key.len()) + key.len() + value.len(), encode, version_of)
    }

    /// Removes a key; answers whether it was there.
    pub fn delete(&self, key: &[u8]) -> Write<bool> {
        let encode = |out: &mut Vec<u8>| codec::delete(out, key);
        self.write(key, 4 + key.len(), encode, |applied| Ok(codec::existed(&applied.reply)?))
    }

    /// Sets a key to `new`, or removes it, if it holds exactly what is `expected`; `None` stands for "absent".
    pub fn compare_and_set(&self, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Write<Swap> {
        let bytes = 24 + key.len() + expected.map_or(0, <[u8]>::len) + new.map_or(0, <[u8]>::len);
        let encode = |out: &mut Vec<u8>| codec::compare_and_set(out, key, expected, new);
        self.write(key, bytes, encode, |applied| Ok(codec::swapped(&applied.reply)?))
    }

    /// Makes several changes, all or none, in order; answers with the version of all keys that were set.
    ///
    /// All keys must be of one shard: otherwise it ends with [`StoreError::CrossShard`], and nothing happens.
    pub fn batch(&self, changes: &[Change<'_>]) -> Write<Index> {
        match (self.check_batch(changes), changes.first()) {
            (Ok(()), Some(first)) => self.write(first.key(), 0, |out| codec::batch(out, changes), version_of),
            (checked, _) => Write::failed(checked.err().unwrap_or(StoreError::EmptyBatch)),
        }
    }

    /// Checks that these are changes of one shard.
    pub(super) fn check_batch(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let first = changes.first().ok_or(StoreError::EmptyBatch)?;
        let home = self.shards.map.route(first.key());
        for change in changes {
            let key = change.key();
            if key.len() > KEY_BYTES_MAX {
                return Err(StoreError::key_too_large(key));
            }
            let group = self.shards.map.route(key);
            if group != home {
                return Err(StoreError::CrossShard { first: home, other: group });
            }
        }
        Ok(())
    }

    /// Proposes to a group of the store's map.
    pub(super) fn propose(&self, group: GroupId, payload: impl Into<Bytes>) -> Proposal {
        let group = &self.shards.groups[&group];
        match &self.session {
            Some(session) => group.propose_in(payload, session),
            None => group.propose(payload),
        }
    }

    /// Reads at another consistency level than the store's own calls, which are linearizable; its answers
    /// also state which state they are from.
    /// ```no_run
    /// # fn example(store: &raftwerk::kv::Store) -> Result<(), raftwerk::kv::StoreError> {
    /// use std::time::Duration;
    /// use raftwerk::{Consistency, ReadOptions};
    ///
    /// let level = Consistency::BoundedStaleness(Duration::from_millis(50));
    /// let nearby = store.at(ReadOptions::new(level).or_wait(Duration::from_secs(1)));
    /// let found = nearby.get(b"apple").wait()?;
    /// println!("{:?}, at most {:?} old", found.value, found.staleness);
    /// # Ok(()) }
    /// ```
    pub fn at<'a>(&'a self, options: impl Into<ReadOptions<'a>>) -> Reader<'a> {
        Reader::new(self, options.into())
    }

    /// The same store, as part of a session: its writes and reads advance the session, and levels that
    /// require a session consult it.
    #[must_use]
    pub fn in_session(&self, session: &Session) -> Self {
        Self { session: Some(session.clone()), ..self.clone() }
    }

    /// The value of a key, linearizably: as of some moment between call and answer.
    pub fn get(&self, key: &[u8]) -> Answer<Option<Found>> {
        let encode = |out: &mut Vec<u8>| codec::get(out, key);
        self.read(key, &self.strong(), encode, |answer| Ok(codec::found(&answer.reply)?))
    }

    /// The values of several keys, linearizably, in their order: see [`Reader::get_many`].
    pub fn get_many(&self, keys: &[&[u8]]) -> Many {
        self.at(Consistency::Strong).get_many(keys)
    }

    /// The version of a key, linearizably; `None` if it is absent.
    pub fn version(&self, key: &[u8]) -> Answer<Option<Index>> {
        let encode = |out: &mut Vec<u8>| codec::version(out, key);
        self.read(key, &self.strong(), encode, |answer| Ok(codec::found_version(&answer.reply)?))
    }

    /// Scans the keys from `from` on, and below `to` if there is one, in key order, across shards.
    ///
    /// Each page is linearizable, the scan as a whole is not: a page does not show writes that came after it.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scanner {
        self.at(Consistency::Strong).scan(from, to)
    }

    fn strong(&self) -> ReadOptions<'_> {
        ReadOptions { session: self.session.as_ref(), ..ReadOptions::default() }
    }

    fn group_of(&self, key: &[u8]) -> &Group {
        &self.shards.groups[&self.shards.map.route(key)]
    }

    fn write<T>(
        &self,
        key: &[u8],
        bytes: usize,
        encode: impl FnOnce(&mut Vec<u8>),
        read: fn(Applied) -> Result<T, StoreError>,
    ) -> Write<T> {
        if key.len() > KEY_BYTES_MAX {
            return Write::failed(StoreError::key_too_large(key));
        }
        let mut payload = Vec::with_capacity(bytes);
        encode(&mut payload);
        Write::sent(self.propose(self.shards.map.route(key), payload), read)
    }

    fn read<T>(
        &self,
        key: &[u8],
        options: &ReadOptions<'_>,
        encode: impl FnOnce(&mut Vec<u8>),
        read: fn(ReadAnswer) -> Result<T, StoreError>,
    ) -> Answer<T> {
        if key.len() > KEY_BYTES_MAX {
            return Answer::failed(StoreError::key_too_large(key));
        }
        let mut query = Vec::with_capacity(1 + key.len());
        encode(&mut query);
        Answer::sent(self.group_of(key).query(query, *options), read)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("shards", &self.shards.map.len()).finish_non_exhaustive()
    }
}

pub(super) fn version_of(applied: Applied) -> Result<Index, StoreError> {
    codec::nothing(&applied.reply)?;
    Ok(applied.id.index)
}

impl<D: Disk> Node<D> {
    /// As [`Store::new`].
    ///
    /// # Errors
    /// [`StoreOpenError::NoSuchGroup`] if one of the map's groups is not on this node.
    pub fn store(&self, map: ShardMap) -> Result<Store, StoreOpenError> {
        Store::over(map, |group| self.group(group))
    }
}

#[cfg(test)]
mod tests;
