//! The key-value state machine: one shard's items, driven by the entries of its group.
//!
//! Deterministic to the byte: equal entries give equal items, versions and replies on every replica,
//! malformed entries included. What is not here: which keys belong to the shard. The [`Store`](super::Store)
//! routes; a key that is proposed to the wrong group is stored there, and the store does not find it.

use std::hash::Hasher;
use std::io;

use bytes::Bytes;
use raftwerk_frame::Index;

use super::codec::{self, Change, INVALID, Operation, PageWriter, Query, Scan};
use super::image;
use super::tree::{Tree, TreeItem};
use raftwerk_multiraft::{Caller, Checkpoint, Committed, CommittedEntry, Frozen, Replies, StateMachine};
use smallvec::SmallVec;

/// The maximum of items that the machine puts on a page, whatever limit a scan has: it must not hold up its
/// worker.
pub const PAGE_ITEMS_MAX: u32 = 4096;
/// The maximum of bytes of keys and values that the machine puts on a page, unless a single item has more.
pub const PAGE_BYTES_MAX: u32 = 1 << 20;

/// How many puts are gathered before they are inserted.
const PUTS_GATHERED: usize = 64;

/// An in-memory, ordered key-value map, driven by committed entries.
///
/// Payloads, queries and replies are those of [`codec`]. A put of a key that is there costs a probe of a hash table and
/// a write to the item's cache line and, for a value of at most 22 bytes, no memory; see [`Tree`].
///
/// ```no_run
/// # mod raftwerk { pub use raftwerk_multiraft::*; pub use raftwerk_kv as kv; }
/// # fn example(config: raftwerk::Config) -> Result<(), raftwerk::OpenError> {
/// use raftwerk::kv::KvMachine;
///
/// let engine = raftwerk::Engine::open(config, |_group| KvMachine::new()).wait()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct KvMachine {
    tree: Tree,
}

impl KvMachine {
    /// A machine without items; takes no memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its items.
    #[must_use]
    pub const fn items(&self) -> &Tree {
        &self.tree
    }

    /// Applies entries in order. Puts are gathered and inserted at once, since their loads overlap then; anything
    /// else is applied after those before it.
    fn apply_all<'a>(&mut self, entries: impl Iterator<Item = CommittedEntry<'a>>, replies: &mut Replies) {
        let caller = replies.caller();
        let mut puts: SmallVec<[TreeItem<'a>; PUTS_GATHERED]> = SmallVec::new();
        for CommittedEntry { index, payload } in entries {
            let reply = match Operation::decode(payload) {
                Ok(Operation::Put { key, value }) => {
                    puts.push(TreeItem { key, value, version: index });
                    if puts.len() == PUTS_GATHERED {
                        self.tree.insert_all(&puts);
                        puts.clear();
                    }
                    continue;
                }
                Ok(operation) => {
                    self.tree.insert_all(&puts);
                    puts.clear();
                    self.apply_rare(index, operation, caller)
                }
                Err(_) => Some(Bytes::from_static(INVALID)),
            };
            if let Some(reply) = reply {
                replies.push(index, reply);
            }
        }
        self.tree.insert_all(&puts);
    }

    fn apply_rare(&mut self, index: Index, operation: Operation<'_>, caller: Caller) -> Option<Bytes> {
        match operation {
            Operation::Put { key, value } => self.change(index, Change::Put { key, value }),
            Operation::Delete { key } => {
                let existed = self.tree.remove(key);
                return Some(Bytes::from_static(if existed { &[1] } else { &[0] }));
            }
            Operation::CompareAndSet { key, expected, new } => {
                let current = self.tree.get(key);
                if current.map(|item| item.value) != expected {
                    let is_waited_for = caller == Caller::Waits;
                    return is_waited_for.then(|| codec::refused_reply(current.map(versioned)));
                }
                let change = new.map_or(Change::Delete { key }, |value| Change::Put { key, value });
                self.change(index, change);
                return Some(Bytes::from_static(&[1]));
            }
            Operation::Batch(changes) => changes.for_each(|change| self.change(index, change)),
        }
        None
    }

    fn change(&mut self, index: Index, change: Change<'_>) {
        match change {
            Change::Put { key, value } => _ = self.tree.insert(key, value, index),
            Change::Delete { key } => _ = self.tree.remove(key),
        }
    }

    fn page(&self, scan: &Scan<'_>) -> Bytes {
        let mut page = PageWriter::new();
        let mut bytes_left = scan.bytes_max.min(PAGE_BYTES_MAX) as usize;
        let items_max = scan.items_max.min(PAGE_ITEMS_MAX) as usize;
        for (nth, item) in self.tree.range(scan.from, scan.to).enumerate() {
            let bytes = item.key.len() + item.value.len();
            if nth == items_max || (nth > 0 && bytes > bytes_left) {
                page.more();
                break;
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            page.push(item.key, item.value, item.version);
        }
        page.finish()
    }
}

const fn versioned(item: TreeItem<'_>) -> (&[u8], Index) {
    (item.value, item.version)
}

impl StateMachine for KvMachine {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        self.apply_all(entries, replies);
    }

    fn query(&self, query: &[u8]) -> Bytes {
        match Query::decode(query) {
            Ok(Query::Get { key }) => codec::found_reply(self.tree.get(key).map(versioned)),
            Ok(Query::Version { key }) => codec::version_reply(self.tree.get(key).map(|item| item.version)),
            Ok(Query::Scan(scan)) => self.page(&scan),
            Ok(Query::GetMany(keys)) => codec::many_reply(keys.map(|key| self.tree.get(key).map(versioned))),
            Err(_) => Bytes::from_static(INVALID),
        }
    }

    /// A copy, which shares everything that is not changed later.
    fn freeze(&self) -> Option<Box<dyn Frozen>> {
        Some(Box::new(FrozenKv(self.clone())))
    }

    fn checkpoint(&self) -> Checkpoint {
        let tree = self.tree.clone();
        Box::new(move |out| image::write(&tree, out))
    }

    /// On an error the state is unchanged.
    fn restore(&mut self, image: &mut dyn io::Read) -> io::Result<()> {
        self.tree = image::read(image)?;
        Ok(())
    }

    /// A function of the items and their versions, in key order, and not of the shape of the tree.
    fn digest(&self) -> u64 {
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write_u64(self.tree.len() as u64);
        for item in &self.tree {
            hasher.write_u64(item.key.len() as u64);
            hasher.write(item.key);
            hasher.write_u64(item.value.len() as u64);
            hasher.write(item.value);
            hasher.write_u64(item.version.0);
        }
        hasher.finish()
    }
}

/// A machine to which no more entries are applied.
struct FrozenKv(KvMachine);

impl Frozen for FrozenKv {
    fn query(&self, query: &[u8]) -> Bytes {
        self.0.query(query)
    }
}

#[cfg(test)]
mod tests;
