//! Queries: reads of a shard's group that do not change it. Pure; see [`super`] for the encoding.

use super::{CodecError, KEY_BYTES_MAX, MANY_KEYS_MAX, ReadKeys};
use raftwerk_frame::codec::{DecodeError, Reader, write_slice, write_varint};

const GET: u8 = 1;
const VERSION: u8 = 2;
const SCAN: u8 = 3;
const GET_MANY: u8 = 4;

/// One query, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// A key's value and version.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// A key's version alone.
    Version {
        /// The key.
        key: &'a [u8],
    },
    /// The items of a range.
    Scan(Scan<'a>),
    /// The values and versions of several keys, all from the same state.
    GetMany(Keys<'a>),
}

/// The keys of a query for many; all decoded once already, and within their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let key = reader.key().expect("the keys were read when the query was");
        self.bytes = reader.rest();
        Some(key)
    }
}

/// A range `from..to` in key order, a page at a time.
///
/// A page ends before the item that would exceed a limit, but holds at least one item if the range does. The
/// machine has limits of its own; the next page begins just after the last key of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// The lowest key.
    pub from: &'a [u8],
    /// The key to stop before; `None`: no end.
    pub to: Option<&'a [u8]>,
    /// The maximum of items of a page; not 0.
    pub items_max: u32,
    /// The most bytes of keys and values of a page.
    pub bytes_max: u32,
}

impl<'a> Query<'a> {
    /// Reads a query. Takes no memory.
    ///
    /// # Errors
    /// [`CodecError`] unless the bytes are exactly one query.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            GET => Ok(Self::Get { key: whole_key(reader)? }),
            VERSION => Ok(Self::Version { key: whole_key(reader)? }),
            SCAN => {
                let from = reader.bound()?;
                let to = if reader.flag()? { Some(reader.bound()?) } else { None };
                let items_max = limit(reader.varint()?)?;
                let bytes_max = limit(reader.varint()?)?;
                reader.finish()?;
                if items_max == 0 {
                    return Err(CodecError::Malformed(DecodeError::Limit));
                }
                Ok(Self::Scan(Scan { from, to, items_max, bytes_max }))
            }
            GET_MANY => {
                let count = reader.varint()?;
                if count == 0 || count > MANY_KEYS_MAX as u64 {
                    return Err(CodecError::Malformed(DecodeError::Limit));
                }
                let keys = Keys { left: count as usize, bytes: reader.rest() };
                for _ in 0..count {
                    reader.key()?;
                }
                reader.finish()?;
                Ok(Self::GetMany(keys))
            }
            other => Err(CodecError::Malformed(DecodeError::Tag(other))),
        }
    }
}

fn whole_key(reader: Reader<'_>) -> Result<&[u8], CodecError> {
    let key = reader.rest();
    if key.len() > KEY_BYTES_MAX {
        return Err(CodecError::KeyTooLarge { bytes: key.len() as u64 });
    }
    Ok(key)
}

fn limit(n: u64) -> Result<u32, CodecError> {
    u32::try_from(n).map_err(|_| CodecError::Malformed(DecodeError::Limit))
}

/// Appends a query for a key's value and version.
pub fn get(out: &mut Vec<u8>, key: &[u8]) {
    out.push(GET);
    out.extend_from_slice(key);
}

/// Appends a query for a key's version.
pub fn version(out: &mut Vec<u8>, key: &[u8]) {
    out.push(VERSION);
    out.extend_from_slice(key);
}

/// Appends a query for the values and versions of several keys: at least one, at most [`MANY_KEYS_MAX`].
pub fn get_many<'k>(out: &mut Vec<u8>, keys: impl ExactSizeIterator<Item = &'k [u8]>) {
    out.push(GET_MANY);
    write_varint(out, keys.len() as u64);
    keys.for_each(|key| write_slice(out, key));
}

/// Appends a query for one page of a range.
pub fn scan(out: &mut Vec<u8>, scan: &Scan<'_>) {
    out.push(SCAN);
    write_slice(out, scan.from);
    out.push(u8::from(scan.to.is_some()));
    if let Some(to) = scan.to {
        write_slice(out, to);
    }
    write_varint(out, u64::from(scan.items_max));
    write_varint(out, u64::from(scan.bytes_max));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::BOUND_BYTES_MAX;
    use super::*;

    fn encoded(query: &Query<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        match query {
            Query::Get { key } => get(&mut out, key),
            Query::Version { key } => version(&mut out, key),
            Query::Scan(range) => scan(&mut out, range),
            Query::GetMany(keys) => get_many(&mut out, keys.collect::<Vec<_>>().into_iter()),
        }
        out
    }

    proptest! {
        #[test]
        fn every_query_survives_the_round_trip(
            a in prop::collection::vec(any::<u8>(), 0..200),
            b in prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
            items_max in 1..=u32::MAX, bytes_max in any::<u32>(),
        ) {
            let range = Scan { from: &a, to: b.as_deref(), items_max, bytes_max };
            for query in [Query::Get { key: &a }, Query::Version { key: &a }, Query::Scan(range)] {
                let bytes = encoded(&query);
                prop_assert_eq!(Query::decode(&bytes), Ok(query));
            }
            let keys = [&a[..], b"", &a[..a.len() / 2]];
            let mut bytes = Vec::new();
            get_many(&mut bytes, keys.into_iter());
            let Ok(Query::GetMany(read)) = Query::decode(&bytes) else { panic!("another query") };
            prop_assert_eq!(read.collect::<Vec<_>>(), keys);
        }

        #[test]
        fn no_bytes_make_the_reader_panic_and_what_it_accepts_has_one_encoding(
            tag in 0..5u8, tail in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..60),
        ) {
            let bytes = [&[tag], &tail[..]].concat();
            if let Ok(query) = Query::decode(&bytes) {
                prop_assert_eq!(encoded(&query), bytes);
            }
        }
    }

    #[test]
    fn just_after_the_longest_key_is_still_a_bound() {
        let from = vec![0xFF; BOUND_BYTES_MAX];
        let range = Query::Scan(Scan { from: &from, to: None, items_max: 1, bytes_max: 0 });
        assert_eq!(Query::decode(&encoded(&range)), Ok(range));
        let key = Query::Get { key: &from };
        let bytes = BOUND_BYTES_MAX as u64;
        assert_eq!(Query::decode(&encoded(&key)), Err(CodecError::KeyTooLarge { bytes }));
    }

    #[test]
    fn a_scan_for_no_items_is_refused_since_its_pages_would_never_end() {
        let range = Scan { from: b"a", to: None, items_max: 0, bytes_max: 9 };
        assert_eq!(
            Query::decode(&encoded(&Query::Scan(range))),
            Err(CodecError::Malformed(DecodeError::Limit))
        );
    }
}
