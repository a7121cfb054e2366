//! Why a store could not be opened, or a call to it was not answered.

use raftwerk_frame::GroupId;

use crate::codec::{CodecError, KEY_BYTES_MAX, MANY_KEYS_MAX};
use crate::shard_file::ShardFileError;
use raftwerk_multiraft::exactly_once::OnceError;
use raftwerk_multiraft::{CreateError, ProposeError, ReadError};

/// Why a call was not answered. Only [`ProposeError::Unknown`] and [`StoreError::Reply`] to a write leave open whether
/// anything happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The write was not acknowledged; the error states whether it may be retried.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The read was not answered. It may be retried.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A batch's keys are in two shards. Nothing happened.
    #[error("a batch must stay within one shard: groups {first} and {other}")]
    CrossShard {
        /// The group of the first key.
        first: GroupId,
        /// The group of another.
        other: GroupId,
    },
    /// A batch changes nothing.
    #[error("the batch is empty")]
    EmptyBatch,
    /// The key is over the limit. Nothing happened.
    #[error("a key of {bytes} bytes is over the limit of {KEY_BYTES_MAX}")]
    KeyTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The maximum of keys of one shard in one query is exceeded.
    #[error("{keys} keys of group {group} are over the limit of {MANY_KEYS_MAX} for one read")]
    TooManyKeys {
        /// The shard's group.
        group: GroupId,
        /// Their number.
        keys: usize,
    },
    /// The client is not registered in the group: [`Client::register`](crate::Client::register). Nothing
    /// was sent.
    #[error("the client is not registered in group {0}")]
    NotRegistered(GroupId),
    /// The client has so many open writes in the group that it would not keep the answers. Nothing was sent.
    #[error("too many writes are open in group {0}")]
    TooManyOpen(GroupId),
    /// A write that is to be applied once has no answer.
    #[error(transparent)]
    Once(#[from] OnceError),
    /// The reply of the group is not one of a key-value machine of this version.
    #[error("the reply cannot be read: {0}")]
    Reply(#[from] CodecError),
}

impl StoreError {
    pub(super) const fn key_too_large(key: &[u8]) -> Self {
        Self::KeyTooLarge { bytes: key.len() }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreOpenError {
    /// The shard map could not be loaded or saved, or the one on disk is another.
    #[error(transparent)]
    Map(#[from] ShardFileError),
    /// A group could not be created. Creating the store again continues from there.
    #[error("creating group {group}: {source}")]
    Create {
        /// Which group.
        group: GroupId,
        /// The group.
        source: CreateError,
    },
    /// A group of the map is not on this node.
    #[error("there is no group {0} on this node")]
    NoSuchGroup(GroupId),
    /// The engine is shutting down or has shut down.
    #[error("the engine is closed")]
    Closed,
}
