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
//! use raftwerk::kv::codec;
//!
//! let mut payload = Vec::new();
//! codec::put(&mut payload, b"8 bytes.", b"6 more");
//! assert_eq!(payload.len(), 16);
//! ```

mod operation;
mod query;
mod reply;

pub use operation::{Change, Changes, Operation, batch, compare_and_set, delete, put};
pub use query::{Keys, Query, Scan, get, get_many, scan, version};
pub use reply::{
    Found, INVALID, Item, Page, PageWriter, Swap, existed, found, found_many, found_version, nothing, page,
    swapped,
};
pub(crate) use reply::{found_reply, many_reply, refused_reply, version_reply};

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
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Short,
    /// There are bytes after the end.
    #[error("{bytes} bytes too many")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A number is not in its shortest form, or is over 64 bits.
    #[error("a number is malformed")]
    Varint,
    /// The first byte names no operation, query or reply of this version.
    #[error("tag {0:#04x} is unknown")]
    Tag(u8),
    /// A key or bound is over its limit.
    #[error("a key of {bytes} bytes is over the limit of {KEY_BYTES_MAX}")]
    KeyTooLarge {
        /// Its length.
        bytes: u64,
    },
    /// A scan with a limit of no items, or of more than 32 bits can count; or a query for too many keys.
    #[error("a query's limit is out of bounds")]
    Limit,
    /// The state machine could not decode the operation or query.
    #[error("the state machine refused the bytes as malformed")]
    Refused,
}

/// The overhead of a put over a key of `key_bytes` and its value.
#[must_use]
pub const fn put_overhead_bytes(key_bytes: usize) -> usize {
    1 + varint_bytes(key_bytes as u64)
}

/// How many bytes the varint of `n` takes.
pub(crate) const fn varint_bytes(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `n` in its shortest form.
#[inline]
pub(crate) fn write_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends length and bytes.
#[inline]
pub(crate) fn write_slice(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_optional(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        write_slice(out, value);
    }
}

/// Reads from the front of untrusted bytes; takes no memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All remaining bytes.
    #[inline]
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Checks that nothing is left.
    pub(crate) const fn finish(self) -> Result<(), CodecError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(CodecError::Trailing { bytes }),
        }
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        let (&byte, rest) = self.0.split_first().ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn flag(&mut self) -> Result<bool, CodecError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(CodecError::Tag(other)),
        }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, CodecError> {
        let first = self.byte()?;
        if first < 0x80 { Ok(u64::from(first)) } else { self.long_varint(u64::from(first & 0x7F)) }
    }

    fn long_varint(&mut self, mut n: u64) -> Result<u64, CodecError> {
        for shift in (7..=63).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(CodecError::Varint);
            }
            n |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 { Err(CodecError::Varint) } else { Ok(n) };
            }
        }
        Err(CodecError::Varint)
    }

    #[inline]
    fn slice_of(&mut self, bytes: u64) -> Result<&'a [u8], CodecError> {
        let bytes = usize::try_from(bytes).map_err(|_| CodecError::Short)?;
        let (slice, rest) = self.0.split_at_checked(bytes).ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(slice)
    }

    /// Length and bytes.
    #[inline]
    pub(crate) fn slice(&mut self) -> Result<&'a [u8], CodecError> {
        let bytes = self.varint()?;
        self.slice_of(bytes)
    }

    #[inline]
    pub(crate) fn key(&mut self) -> Result<&'a [u8], CodecError> {
        self.slice_up_to(KEY_BYTES_MAX)
    }

    pub(crate) fn bound(&mut self) -> Result<&'a [u8], CodecError> {
        self.slice_up_to(BOUND_BYTES_MAX)
    }

    #[inline]
    fn slice_up_to(&mut self, max: usize) -> Result<&'a [u8], CodecError> {
        let bytes = self.varint()?;
        if bytes > max as u64 {
            return Err(CodecError::KeyTooLarge { bytes });
        }
        self.slice_of(bytes)
    }

    fn optional(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        Ok(if self.flag()? { Some(self.slice()?) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_survives_the_round_trip_in_as_few_bytes_as_promised(n in any::<u64>(), shift in 0..64u32) {
            let n = n >> shift;
            let mut bytes = Vec::new();
            write_varint(&mut bytes, n);
            prop_assert_eq!(bytes.len(), varint_bytes(n));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(n));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn whatever_is_read_as_a_varint_is_written_back_the_same(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(n) = reader.varint() {
                let mut again = Vec::new();
                write_varint(&mut again, n);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.rest().len()]);
            }
        }
    }

    #[test]
    fn a_varint_in_a_longer_form_than_needed_or_over_64_bits_is_refused() {
        for bad in [&[0x80, 0x00][..], &[0xFF, 0x80, 0x00], &[0xFF; 11]] {
            assert_eq!(Reader::new(bad).varint(), Err(CodecError::Varint), "{bad:x?}");
        }
        let mut over = [0xFF; 10];
        over[9] = 0x02;
        assert_eq!(Reader::new(&over).varint(), Err(CodecError::Varint));
        over[9] = 0x01;
        assert_eq!(Reader::new(&over).varint(), Ok(u64::MAX));
    }
}
