//! Writes to a store that may be sent repeatedly, and are applied once: the key-value client of
//! [`raftwerk_multiraft::exactly_once`].
//!
//! The groups' machines must be `ExactlyOnce<KvMachine>`. A client registers once in every group that it
//! writes to; a [`Once`] is one write, which is sent to one node's store after another until it is answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raftwerk_frame::{EntryId, GroupId, Index};
use rustc_hash::FxHashMap;

use super::codec::{self, Change, KEY_BYTES_MAX, Swap};
use super::store::{Store, StoreError, version_of};
use raftwerk_multiraft::exactly_once::{self, Numbered, OnceSession};
use raftwerk_multiraft::{Applied, Call, ProposeError};

/// A client of a store, registered in the groups that it writes to. Cheap to clone; usable from any thread.
/// Clones are the same client. Its state is in memory: after a restart of its process, a new client has no
/// record of its open writes.
///
/// ```no_run
/// # mod raftwerk { pub use raftwerk_multiraft::*; pub use raftwerk_kv as kv; }
/// # fn example(stores: &[raftwerk::kv::Store]) -> Result<(), raftwerk::kv::StoreError> {
/// use raftwerk::kv::{Client, codec::Swap};
///
/// let client = Client::new();
/// // A registration may be repeated, like everything here.
/// while !stores.iter().any(|store| client.register(store, b"apples").wait().is_ok()) {}
/// let sale = client.compare_and_set(&stores[0], b"apples", Some(b"7"), Some(b"6"))?;
/// // Whatever happens to leaders in between, seven become six once.
/// let swap = loop {
///     if let Some(swap) = stores.iter().find_map(|store| sale.send(store).wait().ok()) {
///         break swap;
///     }
/// };
/// assert_eq!(swap, Swap::Applied);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Client {
    groups: Arc<Mutex<FxHashMap<GroupId, OnceSession>>>,
}

impl Client {
    /// A client without registrations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers the client in the group that holds a key. Once is enough for all keys of the group; a second
    /// registration starts a new session there, and open writes of the old one in that group must not be sent
    /// any more.
    ///
    /// # Errors
    /// [`StoreError`]; register again, also after an unknown outcome.
    pub fn register(&self, store: &Store, key: &[u8]) -> Call<(), StoreError> {
        let (client, group) = (self.clone(), store.shard_map().route(key));
        let proposal = store.propose(group, exactly_once::register());
        proposal.then(move |applied| client.registered(group, &applied?))
    }

    /// Whether this client has completed a registration in the group that holds a key.
    #[must_use]
    pub fn is_registered(&self, store: &Store, key: &[u8]) -> bool {
        self.held().contains_key(&store.shard_map().route(key))
    }

    /// Sets a key; its answer is the version that it got.
    ///
    /// # Errors
    /// [`StoreError::NotRegistered`], [`StoreError::KeyTooLarge`], [`StoreError::TooManyOpen`]. Nothing was sent.
    pub fn put(&self, store: &Store, key: &[u8], value: &[u8]) -> Result<Once<Index>, StoreError> {
        self.once(store, key, |applied| version_of(Ok(first(applied)?)), |out| codec::put(out, key, value))
    }

    /// Removes a key; its answer is whether it was there.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn delete(&self, store: &Store, key: &[u8]) -> Result<Once<bool>, StoreError> {
        let read = |applied: Result<Applied, ProposeError>| Ok(codec::existed(&first(applied)?.reply)?);
        self.once(store, key, read, |out| codec::delete(out, key))
    }

    /// Sets a key to `new`, or removes it, if it holds exactly what is `expected`; `None` stands for "absent".
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn compare_and_set(
        &self,
        store: &Store,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Once<Swap>, StoreError> {
        let read = |applied: Result<Applied, ProposeError>| Ok(codec::swapped(&first(applied)?.reply)?);
        self.once(store, key, read, |out| codec::compare_and_set(out, key, expected, new))
    }

    /// Makes several changes of one shard, all or none; its answer is the version of all keys that were set.
    ///
    /// # Errors
    /// As [`Client::put`], [`StoreError::EmptyBatch`], [`StoreError::CrossShard`].
    pub fn batch(&self, store: &Store, changes: &[Change<'_>]) -> Result<Once<Index>, StoreError> {
        store.check_batch(changes)?;
        let key = changes.first().ok_or(StoreError::EmptyBatch)?.key();
        self.once(store, key, |applied| version_of(Ok(first(applied)?)), |out| codec::batch(out, changes))
    }

    fn once<T>(
        &self,
        store: &Store,
        key: &[u8],
        read: fn(Result<Applied, ProposeError>) -> Result<T, StoreError>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Once<T>, StoreError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(StoreError::KeyTooLarge { bytes: key.len() });
        }
        let group = store.shard_map().route(key);
        let mut inner = Vec::new();
        encode(&mut inner);
        let mut groups = self.held();
        let session = groups.get_mut(&group).ok_or(StoreError::NotRegistered(group))?;
        let number = session.begin().ok_or(StoreError::TooManyOpen(group))?;
        let payload = session.payload(number, &inner);
        let ticket = Ticket { client: self.clone(), group, number, registered: session.id() };
        drop(groups);
        Ok(Once { ticket, payload, read })
    }

    fn held(&self) -> MutexGuard<'_, FxHashMap<GroupId, OnceSession>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn registered(&self, group: GroupId, applied: &Applied) -> Result<(), StoreError> {
        let registered = exactly_once::outcome(&applied.reply)?;
        self.held().insert(group, OnceSession::new(registered.index));
        Ok(())
    }
}

/// The number of a write; dropping it ends the use of the number.
#[derive(Debug)]
struct Ticket {
    client: Client,
    group: GroupId,
    number: Numbered,
    /// The registration that it belongs to.
    registered: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut groups = self.client.held();
        if let Some(session) = groups.get_mut(&self.group).filter(|of| of.id() == self.registered) {
            session.end(self.number);
        }
    }
}

/// One write that is applied once, however often it is sent. Drop it when it has been answered, or when the
/// answer is not wanted any more: the group keeps the answer until then, and keeps few of them.
#[derive(Debug)]
#[must_use = "a write does nothing until it is sent"]
pub struct Once<T> {
    ticket: Ticket,
    payload: Bytes,
    read: fn(Result<Applied, ProposeError>) -> Result<T, StoreError>,
}

impl<T: 'static> Once<T> {
    /// Sends it to this node's replica. After [`ProposeError::Unknown`](raftwerk_multiraft::ProposeError::Unknown), as
    /// after any other transient error, send it again, here or elsewhere. A repetition is answered like the
    /// first one.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Once`] further attempts are useless, except after
    /// [`OnceError::Full`](raftwerk_multiraft::exactly_once::OnceError::Full).
    pub fn send(&self, store: &Store) -> Call<T, StoreError> {
        store.propose(self.ticket.group, self.payload.clone()).read_by(self.read)
    }
}

/// The entry that was applied, whichever attempt proposed it.
fn first(applied: Result<Applied, ProposeError>) -> Result<Applied, StoreError> {
    let applied = applied?;
    let outcome = exactly_once::outcome(&applied.reply)?;
    Ok(Applied { id: EntryId::new(applied.id.term, outcome.index), reply: outcome.reply })
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{KvMachine, ShardMap};
    use raftwerk_multiraft::exactly_once::{ExactlyOnce, OnceError};
    use raftwerk_multiraft::identity::ClusterAuthority;
    use raftwerk_multiraft::{Config, Engine, NodeId, PeerId, ProposeError};

    fn store(directory: &std::path::Path) -> (Engine, Store) {
        let identity = ClusterAuthority::new("kv").unwrap().issue(PeerId(1)).unwrap();
        let mut config = Config::new(NodeId(1), directory.join("data"), identity);
        config.segment_bytes = 1 << 20;
        config.payload_bytes_max = 1 << 16;
        config.checkpoint_log_bytes = 4 << 10;
        let engine = Engine::open(config, |_group| ExactlyOnce::new(KvMachine::new())).wait().unwrap();
        let map = ShardMap::uniform([GroupId(1), GroupId(2)]).unwrap();
        let store = Store::create(&engine, &directory.join("shards"), map, &[NodeId(1)]).wait().unwrap();
        (engine, store)
    }

    fn registered(client: &Client, store: &Store, key: &[u8]) {
        loop {
            match client.register(store, key).wait() {
                Err(StoreError::Propose(ProposeError::NotLeader { .. })) => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        }
    }

    #[test]
    fn a_write_that_is_sent_again_is_answered_again_and_applied_once() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, store) = store(directory.path());
        let client = Client::new();
        let early = client.put(&store, b"apple", b"red").map(drop);
        assert!(matches!(early, Err(StoreError::NotRegistered(_))));
        registered(&client, &store, b"apple");
        assert!(client.is_registered(&store, b"apple") && !client.is_registered(&store, b"\xFF"));

        let put = client.put(&store, b"apple", b"red").unwrap();
        let version = put.send(&store).wait().unwrap();
        let swap = client.compare_and_set(&store, b"apple", Some(b"red"), Some(b"green")).unwrap();
        assert_eq!(swap.send(&store).wait(), Ok(Swap::Applied));
        // Again, both in a row and after others: the first answer, and nothing else.
        assert_eq!(put.send(&store).wait(), Ok(version));
        assert_eq!(swap.send(&store).wait(), Ok(Swap::Applied));
        assert_eq!(&store.get(b"apple").wait().unwrap().unwrap().value[..], b"green");
        // Plain writes work beside them.
        store.put(b"apple", b"blue").wait().unwrap();
        assert_eq!(swap.send(&store).wait(), Ok(Swap::Applied));
        assert_eq!(&store.get(b"apple").wait().unwrap().unwrap().value[..], b"blue");
        engine.shutdown().wait().unwrap();
    }

    #[test]
    fn answers_are_kept_until_their_write_is_dropped_and_no_longer() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, store) = store(directory.path());
        let client = Client::new();
        registered(&client, &store, b"k");
        let mut open = Vec::new();
        let refusal = loop {
            match client.delete(&store, b"k") {
                Ok(once) => open.push(once),
                Err(error) => break error,
            }
        };
        assert!(matches!(refusal, StoreError::TooManyOpen(_)));
        assert_eq!(open.len(), exactly_once::REPLIES_MAX);
        for once in &open {
            assert_eq!(once.send(&store).wait(), Ok(false));
        }
        open.clear();
        for _ in 0..3 * exactly_once::REPLIES_MAX {
            let once = client.delete(&store, b"k").unwrap();
            assert_eq!(once.send(&store).wait(), Ok(false));
        }
        engine.shutdown().wait().unwrap();
    }

    #[test]
    fn clients_survive_a_restart_of_the_node_by_its_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, store1) = store(directory.path());
        let client = Client::new();
        registered(&client, &store1, b"k");
        let once = client.compare_and_set(&store1, b"k", None, Some(b"1")).unwrap();
        assert_eq!(once.send(&store1).wait(), Ok(Swap::Applied));
        // More than a checkpoint's worth of log.
        for _ in 0..200 {
            store1.put(b"k", &[7; 100]).wait().unwrap();
        }
        engine.shutdown().wait().unwrap();
        drop((engine, store1));
        let (engine, store) = store(directory.path());
        let again = loop {
            match once.send(&store).wait() {
                Err(StoreError::Propose(ProposeError::NotLeader { .. })) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert_eq!(again, Ok(Swap::Applied), "and not refused, although the key is there now");
        assert_eq!(&store.get(b"k").wait().unwrap().unwrap().value[..], [7; 100]);
        engine.shutdown().wait().unwrap();
    }

    #[test]
    fn a_machine_that_remembers_nobody_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let identity = ClusterAuthority::new("kv").unwrap().issue(PeerId(1)).unwrap();
        let config = Config::new(NodeId(1), directory.path().join("data"), identity);
        let engine = Engine::open(config, |_group| KvMachine::new()).wait().unwrap();
        let map = ShardMap::uniform([GroupId(1)]).unwrap();
        let store =
            Store::create(&engine, &directory.path().join("shards"), map, &[NodeId(1)]).wait().unwrap();
        let told = loop {
            match Client::new().register(&store, b"k").wait() {
                Err(StoreError::Propose(ProposeError::NotLeader { .. })) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert_eq!(told, Err(StoreError::Once(OnceError::Unsupported)));
        engine.shutdown().wait().unwrap();
    }
}
