//! A key-value store on groups: the state machine, its encoding, the shard map, and the routing store.
//!
//! - [`Store`]: put, get, compare-and-set, batch, scan over many shards. Start here to *use* one; [`Reader`]:
//!   reads at another consistency level.
//! - [`Client`]: writes that may be sent repeatedly, and are applied once.
//! - [`KvMachine`]: the [`StateMachine`](raftwerk_multiraft::StateMachine) of one shard, in memory.
//! - [`Tree`]: the ordered map in it, with near-free copies, from which checkpoints are taken.
//! - [`ShardMap`]: assigns key ranges to groups; fixed when made.
//! - [`codec`]: the encoding of operations, queries and replies, for callers that use groups directly.
//!
//! What is not here: shards that split and move, transactions across shards, forwarding to the leader, items on disk.
//!
//! ```no_run
//! # mod raftwerk { pub use raftwerk_multiraft::*; pub use raftwerk_kv as kv; }
//! # fn example(config: raftwerk::Config, node: raftwerk::NodeId) -> Result<(), Box<dyn std::error::Error>> {
//! use raftwerk::kv::{KvMachine, ShardMap, Store};
//! use raftwerk::{Engine, GroupId};
//!
//! let engine = Engine::open(config, |_group| KvMachine::new()).wait()?;
//! let map = ShardMap::uniform((1..=48).map(GroupId))?;
//! let store = Store::create(&engine, "shards".as_ref(), map, &[node]).wait()?;
//! store.put(b"key", b"value").wait()?;
//! # Ok(()) }
//! ```

mod client;
pub mod codec;
mod image;
mod inline_bytes;
mod key_array;
mod machine;
mod shard_file;
mod shard_map;
mod store;
mod tree;

pub use client::{Client, Once};
pub use image::ImageError;
pub use machine::{KvMachine, PAGE_BYTES_MAX, PAGE_ITEMS_MAX};
pub use shard_file::ShardFileError;
pub use shard_map::{Shard, ShardMap, ShardMapError};
pub use store::{Reader, Scanner, Served, Store, StoreError, StoreOpenError};
pub use tree::{Range, Tree, TreeItem};
