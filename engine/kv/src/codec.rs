//! The encoding of the key-value machine: operations that are proposed, queries that are read, and the
//! replies to both.
//!
//! ```text
//! varint     = LEB128 of a u64 in its shortest form; u64 = 8 bytes, little-endian
//! key        = varint length (at most KEY_BYTES_MAX), bytes
//! value      = varint length, bytes                    optional = 0x00 | 0x01 value
//!
//! operation  = 0x01 key, value bytes to the end                              put
//!            | 0x02 key                                                      delete
//!            | 0x03 key, optional (expected), optional (new)                 compare and set
//!            | 0x04 varint count, count × { 0x01 key value | 0x02 key }      batch
//! query      = 0x01 key bytes to the end                                     get
//!            | 0x02 key bytes to the end                                     version
//!            | 0x03 bound (from), 0x00 | 0x01 bound (to), varint items_max, varint bytes_max    scan [from, to)
//!            | 0x04 varint count, count × key                                get many
//! bound      = as key, but up to BOUND_BYTES_MAX long, so that "just after this key" is always a bound
//!
//! put, batch → nothing                     delete → 0x00 (was absent) | 0x01
//! compare    → 0x01 (applied) | 0x00 found                            get     → found
//! found      = 0x00 (absent) | 0x01 u64 version, value bytes to the end
//! get many   → for each key, up to MANY_BYTES_MAX of them all: { 0x00 (absent) | 0x01 u64 version, value }
//! version    → 0x00 (absent) | 0x01 u64 version
//! scan       → 0x00 (complete) | 0x01 (more), then items to the end: { key, value, u64 version }
//! anything malformed → 0xFF
//! ```
//! The version of a key is the index of the entry that last wrote it. Every value has exactly one encoding,
//! so equal operations are equal bytes. What is not here: the effect of operations, which is in
//! [`KvMachine`](super::KvMachine).
//! ```
//! # mod raftwerk { pub use raftwerk_multiraft::*; pub use raftwerk_kv as kv; }
//! use raftwerk::kv::codec;
//!
//! let mut payload = Vec::new();
//! codec::put(&mut payload, b"8 bytes.", b"6 more");
//! assert_eq!(payload.len(), 16);
//! ```

mod operation;
mod query;
mod reply;

pub use self::operation::{Change, Changes, Operation, batch, compare_and_set, delete, put};
pub use self::query::{Keys, Query, Scan, get, get_many, scan, version};
pub use self::reply::{
    Found, INVALID, Item, Page, PageWriter, Swap, existed, found, found_many, found_version, nothing, page,
    swapped,
};
pub(crate) use self::reply::{found_reply, many_reply, refused_reply, version_reply};
use raftwerk_frame::codec::{DecodeError, Reader, varint_bytes, write_slice};

/// The longest key, in bytes. Part of the format: replicas with different values would diverge.
pub const KEY_BYTES_MAX: usize = 4096;
/// The longest bound of a scan, in bytes: one more than a key.
pub const BOUND_BYTES_MAX: usize = KEY_BYTES_MAX + 1;
/// The maximum of keys of one query for many.
pub const MANY_KEYS_MAX: usize = 1024;
/// The maximum of bytes of a reply to a query for many, unless the first value alone is longer.
pub const MANY_BYTES_MAX: usize = 1 << 20;
/// Overhead of a put over its key and value when the key is shorter than [`SHORT_KEY_BYTES`].
pub const PUT_OVERHEAD_BYTES: usize = 2;
/// Keys shorter than this, in bytes, have a length prefix of one byte.
pub const SHORT_KEY_BYTES: usize = 128;

/// Why bytes are not an operation, a query or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// They cannot be decoded: also where a tag names no operation, query or reply of this version, a scan asks
    /// for no items or for more than 32 bits can count, or a query has too many keys.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A key or bound is over its limit.
    #[error("a key of {bytes} bytes is over the limit of {KEY_BYTES_MAX}")]
    KeyTooLarge {
        /// Its length.
        bytes: u64,
    },
    /// The state machine could not decode the operation or query.
    #[error("the state machine refused the bytes as malformed")]
    Refused,
}

/// The overhead of a put over a key of `key_bytes` and its value.
#[must_use]
pub const fn put_overhead_bytes(key_bytes: usize) -> usize {
    1 + varint_bytes(key_bytes as u64)
}

fn write_optional(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        write_slice(out, value);
    }
}

/// Keys and values, as a [`Reader`] reads them.
trait ReadKeys<'a> {
    fn key(&mut self) -> Result<&'a [u8], CodecError>;
    fn bound(&mut self) -> Result<&'a [u8], CodecError>;
    fn slice_up_to(&mut self, max: usize) -> Result<&'a [u8], CodecError>;
    fn optional(&mut self) -> Result<Option<&'a [u8]>, CodecError>;
}

impl<'a> ReadKeys<'a> for Reader<'a> {
    #[inline]
    fn key(&mut self) -> Result<&'a [u8], CodecError> {
        self.slice_up_to(KEY_BYTES_MAX)
    }

    fn bound(&mut self) -> Result<&'a [u8], CodecError> {
        self.slice_up_to(BOUND_BYTES_MAX)
    }

    #[inline]
    fn slice_up_to(&mut self, max: usize) -> Result<&'a [u8], CodecError> {
        let bytes = self.varint()?;
        if bytes > max as u64 {
            return Err(CodecError::KeyTooLarge { bytes });
        }
        Ok(self.slice_of(bytes)?)
    }

    fn optional(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        Ok(if self.flag()? { Some(self.slice()?) } else { None })
    }
}
