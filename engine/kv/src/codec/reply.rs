//! Replies to operations and queries: written by the machine, read by callers. Pure; see [`super`] for the
//! encoding.

use bytes::Bytes;
use raftwerk_frame::Index;

use super::{CodecError, MANY_BYTES_MAX, ReadKeys};
use raftwerk_frame::codec::{DecodeError, Reader, write_slice};

/// The whole reply to bytes that are no operation or query: the same on every replica, without a change of
/// the state.
pub const INVALID: &[u8] = &[0xFF];

/// The maximum size of an item, besides its value, in a reply to a query for many.
const MANY_ITEM_BYTES: usize = 1 + 8 + 10;

/// The value of a key. It shares the memory of the reply that carried it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The index of the entry that wrote it, in the log of the key's group.
    pub version: Index,
}

/// The outcome of a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The key had the expected value; now it has the new one.
    Applied,
    /// The key has this value instead, unchanged; `None`: it is absent.
    Refused(Option<Found>),
}

/// One item of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The index of the entry that wrote it, in the log of the key's group.
    pub version: Index,
}

/// The result of a scan, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The items. Never empty if there are more.
    pub items: Vec<Item>,
    /// Whether the range goes on after the last item.
    pub more: bool,
}

/// Builds the reply to a scan.
#[derive(Debug)]
pub struct PageWriter(Vec<u8>);

impl PageWriter {
    /// A page without items, and so far the last one.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0])
    }

    /// Appends an item.
    pub fn push(&mut self, key: &[u8], value: &[u8], version: Index) {
        write_slice(&mut self.0, key);
        write_slice(&mut self.0, value);
        self.0.extend_from_slice(&version.0.to_le_bytes());
    }

    /// Marks that the range continues after the last item.
    pub fn more(&mut self) {
        self.0[0] = 1;
    }

    /// The reply.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.0.into()
    }
}

impl Default for PageWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// The reply to a get: the item, or its absence.
pub(crate) fn found_reply(item: Option<(&[u8], Index)>) -> Bytes {
    with_found(&[], item)
}

/// The reply to a compare-and-set that did not apply.
pub(crate) fn refused_reply(current: Option<(&[u8], Index)>) -> Bytes {
    with_found(&[0], current)
}

/// The reply to a query for a version.
pub(crate) fn version_reply(version: Option<Index>) -> Bytes {
    with_found(&[], version.map(|version| (&[][..], version)))
}

fn with_found(head: &[u8], item: Option<(&[u8], Index)>) -> Bytes {
    let value_bytes = item.map_or(0, |(value, _)| 8 + value.len());
    let mut out = Vec::with_capacity(head.len() + 1 + value_bytes);
    out.extend_from_slice(head);
    out.push(u8::from(item.is_some()));
    if let Some((value, version)) = item {
        out.extend_from_slice(&version.0.to_le_bytes());
        out.extend_from_slice(value);
    }
    out.into()
}

/// The reply to a query for several keys: for as many of the first ones as fit its maximum size, and for at
/// least one.
pub(crate) fn many_reply<'a>(items: impl Iterator<Item = Option<(&'a [u8], Index)>>) -> Bytes {
    let mut out = Vec::new();
    for item in items {
        let bytes = MANY_ITEM_BYTES + item.map_or(0, |(value, _)| value.len());
        if !out.is_empty() && out.len() + bytes > MANY_BYTES_MAX {
            break;
        }
        out.push(u8::from(item.is_some()));
        if let Some((value, version)) = item {
            out.extend_from_slice(&version.0.to_le_bytes());
            write_slice(&mut out, value);
        }
    }
    out.into()
}

fn accepted(reply: &[u8]) -> Result<Reader<'_>, CodecError> {
    if reply == INVALID { Err(CodecError::Refused) } else { Ok(Reader::new(reply)) }
}

/// Decodes the reply to a put or a batch.
///
/// # Errors
/// [`CodecError::Refused`] if the machine could not decode the operation; others if these bytes are no such
/// reply.
pub fn nothing(reply: &[u8]) -> Result<(), CodecError> {
    Ok(accepted(reply)?.finish()?)
}

/// Reads the reply to a delete: whether the key was there.
///
/// # Errors
/// As [`nothing`].
pub fn existed(reply: &[u8]) -> Result<bool, CodecError> {
    let mut reader = accepted(reply)?;
    let existed = reader.flag()?;
    reader.finish()?;
    Ok(existed)
}

/// Reads the reply to a compare-and-set.
///
/// # Errors
/// As [`nothing`].
pub fn swapped(reply: &Bytes) -> Result<Swap, CodecError> {
    let mut reader = accepted(reply)?;
    if reader.flag()? {
        reader.finish()?;
        return Ok(Swap::Applied);
    }
    Ok(Swap::Refused(found_in(reply, reader)?))
}

/// Reads the reply to a get.
///
/// # Errors
/// As [`nothing`].
pub fn found(reply: &Bytes) -> Result<Option<Found>, CodecError> {
    found_in(reply, accepted(reply)?)
}

/// Reads the reply to a query for `keys` keys, in their order: for all of them, or for the first ones, if all
/// would take more than [`MANY_BYTES_MAX`]. Query again for the others.
///
/// # Errors
/// As [`nothing`].
pub fn found_many(reply: &Bytes, keys: usize) -> Result<Vec<Option<Found>>, CodecError> {
    let mut reader = accepted(reply)?;
    let mut all = Vec::with_capacity(keys.min(reply.len()));
    while all.len() < keys && (all.is_empty() || !reader.rest().is_empty()) {
        all.push(if reader.flag()? {
            let version = Index(reader.u64()?);
            Some(Found { value: reply.slice_ref(reader.slice()?), version })
        } else {
            None
        });
    }
    reader.finish()?;
    Ok(all)
}

/// Reads the reply to a query for a version.
///
/// # Errors
/// As [`nothing`].
pub fn found_version(reply: &Bytes) -> Result<Option<Index>, CodecError> {
    match found(reply)? {
        Some(Found { value, .. }) if !value.is_empty() => {
            Err(CodecError::Malformed(DecodeError::Trailing { bytes: value.len() }))
        }
        found => Ok(found.map(|found| found.version)),
    }
}

fn found_in(reply: &Bytes, mut reader: Reader<'_>) -> Result<Option<Found>, CodecError> {
    if !reader.flag()? {
        reader.finish()?;
        return Ok(None);
    }
    let version = Index(reader.u64()?);
    Ok(Some(Found { value: reply.slice_ref(reader.rest()), version }))
}

/// Reads the reply to a scan. Takes memory for the items that are really there.
///
/// # Errors
/// As [`nothing`].
pub fn page(reply: &Bytes) -> Result<Page, CodecError> {
    let mut reader = accepted(reply)?;
    let more = reader.flag()?;
    let mut items = Vec::new();
    while !reader.is_empty() {
        let (key, value) = (reader.key()?, reader.slice()?);
        let version = Index(reader.u64()?);
        items.push(Item { key: reply.slice_ref(key), value: reply.slice_ref(value), version });
    }
    if more && items.is_empty() {
        return Err(CodecError::Malformed(DecodeError::Short));
    }
    Ok(Page { items, more })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_reply_survives_the_round_trip(
            value in prop::collection::vec(any::<u8>(), 0..40), version in any::<u64>(),
            items in prop::collection::vec((any::<[u8; 3]>(), any::<[u8; 5]>(), any::<u64>()), 1..9), more in any::<bool>(),
        ) {
            let version = Index(version);
            let item = Found { value: Bytes::from(value.clone()), version };
            prop_assert_eq!(found(&found_reply(Some((&value, version)))), Ok(Some(item.clone())));
            prop_assert_eq!(found(&found_reply(None)), Ok(None));
            prop_assert_eq!(found_version(&version_reply(Some(version))), Ok(Some(version)));
            prop_assert_eq!(found_version(&version_reply(None)), Ok(None));
            prop_assert_eq!(swapped(&refused_reply(Some((&value, version)))), Ok(Swap::Refused(Some(item))));
            prop_assert_eq!(swapped(&refused_reply(None)), Ok(Swap::Refused(None)));

            let mut writer = PageWriter::new();
            for (key, value, version) in &items {
                writer.push(key, value, Index(*version));
            }
            if more {
                writer.more();
            }
            let read = page(&writer.finish()).unwrap();
            prop_assert_eq!(read.more, more);
            let read: Vec<_> = read.items.iter().map(|item| (&item.key[..], &item.value[..], item.version.0)).collect();
            let wrote: Vec<_> = items.iter().map(|(key, value, version)| (&key[..], &value[..], *version)).collect();
            prop_assert_eq!(read, wrote);
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..60)) {
            let bytes = Bytes::from(bytes);
            let _ = (nothing(&bytes), existed(&bytes), swapped(&bytes), found(&bytes), found_version(&bytes));
            let _ = page(&bytes);
        }
    }

    #[test]
    fn a_refused_operation_is_told_apart_from_every_answer() {
        let refused = Bytes::from_static(INVALID);
        assert_eq!(nothing(&refused), Err(CodecError::Refused));
        assert_eq!(existed(&refused), Err(CodecError::Refused));
        assert_eq!(swapped(&refused), Err(CodecError::Refused));
        assert_eq!(found(&refused), Err(CodecError::Refused));
        assert_eq!(found_version(&refused), Err(CodecError::Refused));
        assert_eq!(page(&refused), Err(CodecError::Refused));
    }

    #[test]
    fn replies_to_the_wrong_question_are_refused() {
        assert_eq!(nothing(&[1]), Err(CodecError::Malformed(DecodeError::Trailing { bytes: 1 })));
        assert_eq!(existed(&[1, 0]), Err(CodecError::Malformed(DecodeError::Trailing { bytes: 1 })));
        assert_eq!(existed(&[2]), Err(CodecError::Malformed(DecodeError::Tag(2))));
        assert_eq!(
            swapped(&Bytes::from_static(&[1, 1])),
            Err(CodecError::Malformed(DecodeError::Trailing { bytes: 1 }))
        );
        assert_eq!(page(&Bytes::from_static(&[1])), Err(CodecError::Malformed(DecodeError::Short)));
        let answer = found_reply(Some((b"x", Index(1))));
        assert_eq!(found_version(&answer), Err(CodecError::Malformed(DecodeError::Trailing { bytes: 1 })));
    }
}
