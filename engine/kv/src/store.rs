//! A key-value store over many groups: routes keys to shards, encodes operations, and decodes the answers.
//! Thin on purpose.
//!
//! Every call goes to this node's replicas: one for a group that another node leads is answered with
//! `NotLeader` and a hint, and the caller turns to that node. What is not here: forwarding, retries,
//! transactions across shards. Next: [`super::codec`] for the encoding, [`super::KvMachine`] for the effect
//! of operations.

mod error;
mod reader;
mod scan;
mod served;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
pub use error::{StoreError, StoreOpenError};
use raftwerk_frame::{GroupId, Index};
pub use reader::Reader;
use rustc_hash::FxHashMap;
pub use scan::Scanner;
pub use served::Served;

use super::codec::{self, Change, Found, KEY_BYTES_MAX, Swap};
use super::shard_map::ShardMap;
use raftwerk_multiraft::{
    Applied, Call, Consistency, Group, InitialMembers, NodeHandle, ProposeError, ReadAnswer, ReadError,
    ReadOptions, ReplicaError, Session,
};

/// A key-value store. Cheap to clone; usable from any thread.
///
/// Writes answer with the version of their keys, which is the index of their entry. They are sent when
/// called, not when first polled: many can be in flight at once. Each operation is a [`Call`], to be awaited or
/// waited for.
///
/// ```no_run
/// # mod raftwerk { pub use raftwerk_multiraft::*; pub use raftwerk_kv as kv; }
/// # fn example(engine: &raftwerk::Engine, node: raftwerk::NodeId) -> Result<(), Box<dyn std::error::Error>> {
/// use raftwerk::GroupId;
/// use raftwerk::kv::{ShardMap, Store, codec::{Change, Swap}};
///
/// let map = ShardMap::uniform((1..=48).map(GroupId))?;
/// let store = Store::create(engine, "shards".as_ref(), map, &[node]).wait()?;
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
/// while let Some(items) = scanner.next_page().wait()? {
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
    /// Creates the store's groups with these members and saves the map to `path`. To be called on every
    /// member, with equal arguments; idempotent, so that it can be repeated after a crash or an error. Takes a
    /// few syncs, on a thread of its own.
    ///
    /// The node's state machines must be [`KvMachine`](super::KvMachine)s.
    ///
    /// # Errors
    /// [`StoreOpenError`]; in particular if `path` holds another map.
    pub fn create(
        node: &NodeHandle,
        path: &Path,
        map: ShardMap,
        initial_members: impl Into<InitialMembers>,
    ) -> Call<Self, StoreOpenError> {
        let (node, path, initial_members) = (node.clone(), path.to_owned(), initial_members.into());
        Call::on_thread(
            "raftwerk-store",
            || StoreOpenError::Closed,
            move || {
                map.save(&path)?;
                let create = |group| (group, node.create_group(group, &initial_members));
                let created: Vec<_> = map.ranges().map(|shard| create(shard.group)).collect();
                for (group, call) in created {
                    call.wait().map_err(|source| StoreOpenError::Create { group, source })?;
                }
                Ok(Self::new(&node, map))
            },
        )
    }

    /// Opens a store whose map was saved to `path`. Reads the file on a thread of its own.
    ///
    /// # Errors
    /// [`StoreOpenError`] if there is no such map, or one of its groups is not on this node.
    pub fn open(node: &NodeHandle, path: &Path) -> Call<Self, StoreOpenError> {
        let (node, path) = (node.clone(), path.to_owned());
        Call::on_thread(
            "raftwerk-store",
            || StoreOpenError::Closed,
            move || {
                let store = Self::new(&node, ShardMap::load(&path)?);
                for shard in store.shards.map.ranges() {
                    match store.shards.groups[&shard.group].status().wait() {
                        Ok(_) => {}
                        Err(ReplicaError::NoReplica(group)) => {
                            return Err(StoreOpenError::NoSuchGroup(group));
                        }
                        Err(_) => return Err(StoreOpenError::Closed),
                    }
                }
                Ok(store)
            },
        )
    }

    /// A store over groups that exist already; touches no file and makes no request. Calls to a group without
    /// a replica on this node end with `NoSuchGroup`.
    #[must_use]
    pub fn new(node: &NodeHandle, map: ShardMap) -> Self {
        let mut groups = FxHashMap::default();
        for shard in map.ranges() {
            groups.entry(shard.group).or_insert_with(|| node.group(shard.group));
        }
        Self { shards: Arc::new(Shards { map, groups }), session: None }
    }

    /// The map from keys to groups.
    #[must_use]
    pub fn shard_map(&self) -> &ShardMap {
        &self.shards.map
    }

    /// Sets a key; answers with its version.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Call<Index, StoreError> {
        let encode = |out: &mut Vec<u8>| codec::put(out, key, value);
        self.write(key, codec::put_overhead_bytes(key.len()) + key.len() + value.len(), encode, version_of)
    }

    /// Removes a key; answers whether it was there.
    pub fn delete(&self, key: &[u8]) -> Call<bool, StoreError> {
        let encode = |out: &mut Vec<u8>| codec::delete(out, key);
        self.write(key, 4 + key.len(), encode, |applied| Ok(codec::existed(&applied?.reply)?))
    }

    /// Sets a key to `new`, or removes it, if it holds exactly what is `expected`; `None` stands for "absent".
    pub fn compare_and_set(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Call<Swap, StoreError> {
        let bytes = 24 + key.len() + expected.map_or(0, <[u8]>::len) + new.map_or(0, <[u8]>::len);
        let encode = |out: &mut Vec<u8>| codec::compare_and_set(out, key, expected, new);
        self.write(key, bytes, encode, |applied| Ok(codec::swapped(&applied?.reply)?))
    }

    /// Makes several changes, all or none, in order; answers with the version of all keys that were set.
    ///
    /// All keys must be of one shard: otherwise it ends with [`StoreError::CrossShard`], and nothing happens.
    pub fn batch(&self, changes: &[Change<'_>]) -> Call<Index, StoreError> {
        match (self.check_batch(changes), changes.first()) {
            (Ok(()), Some(first)) => self.write(first.key(), 0, |out| codec::batch(out, changes), version_of),
            (checked, _) => Call::done(Err(checked.err().unwrap_or(StoreError::EmptyBatch))),
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
    pub(super) fn propose(&self, group: GroupId, payload: impl Into<Bytes>) -> Call<Applied, ProposeError> {
        let group = &self.shards.groups[&group];
        match &self.session {
            Some(session) => group.propose_in(payload, session),
            None => group.propose(payload),
        }
    }

    /// Reads at another consistency level than the store's own calls, which are linearizable; its answers
    /// also state which state they are from.
    /// ```no_run
    /// # mod raftwerk { pub use raftwerk_multiraft::*; pub use raftwerk_kv as kv; }
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
    pub fn get(&self, key: &[u8]) -> Call<Option<Found>, StoreError> {
        let encode = |out: &mut Vec<u8>| codec::get(out, key);
        self.read(key, &self.strong(), encode, |answer| Ok(codec::found(&answer?.reply)?))
    }

    /// The values of several keys, linearizably, in their order: see [`Reader::get_many`].
    pub fn get_many(&self, keys: &[&[u8]]) -> Call<Vec<Served<Option<Found>>>, StoreError> {
        self.at(Consistency::Strong).get_many(keys)
    }

    /// The version of a key, linearizably; `None` if it is absent.
    pub fn version(&self, key: &[u8]) -> Call<Option<Index>, StoreError> {
        let encode = |out: &mut Vec<u8>| codec::version(out, key);
        self.read(key, &self.strong(), encode, |answer| Ok(codec::found_version(&answer?.reply)?))
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

    fn write<T: 'static>(
        &self,
        key: &[u8],
        bytes: usize,
        encode: impl FnOnce(&mut Vec<u8>),
        read: fn(Result<Applied, ProposeError>) -> Result<T, StoreError>,
    ) -> Call<T, StoreError> {
        if key.len() > KEY_BYTES_MAX {
            return Call::done(Err(StoreError::key_too_large(key)));
        }
        let mut payload = Vec::with_capacity(bytes);
        encode(&mut payload);
        self.propose(self.shards.map.route(key), payload).read_by(read)
    }

    fn read<T: 'static>(
        &self,
        key: &[u8],
        options: &ReadOptions<'_>,
        encode: impl FnOnce(&mut Vec<u8>),
        read: fn(Result<ReadAnswer, ReadError>) -> Result<T, StoreError>,
    ) -> Call<T, StoreError> {
        if key.len() > KEY_BYTES_MAX {
            return Call::done(Err(StoreError::key_too_large(key)));
        }
        let mut query = Vec::with_capacity(1 + key.len());
        encode(&mut query);
        self.group_of(key).query(query, *options).read_by(read)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("shards", &self.shards.map.len()).finish_non_exhaustive()
    }
}

pub(super) fn version_of(applied: Result<Applied, ProposeError>) -> Result<Index, StoreError> {
    let applied = applied?;
    codec::nothing(&applied.reply)?;
    Ok(applied.id.index)
}

#[cfg(test)]
mod tests;
