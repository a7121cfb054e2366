//! Operations: proposed to a shard's group, and decoded by its replicas. Pure; see [`super`] for the
//! encoding.

use super::{CodecError, ReadKeys, write_optional};
use raftwerk_frame::codec::{DecodeError, Reader, write_slice, write_varint};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const COMPARE_AND_SET: u8 = 3;
const BATCH: u8 = 4;

/// One operation, borrowed from an entry's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key, if it is there.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Sets or removes a key if its value equals the expected one.
    CompareAndSet {
        /// The key.
        key: &'a [u8],
        /// The expected value; `None`: the key must be absent.
        expected: Option<&'a [u8]>,
        /// The new value; `None`: the key is removed.
        new: Option<&'a [u8]>,
    },
    /// Several changes, all or none, in order.
    Batch(Changes<'a>),
}

/// One change of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key, if it is there.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Change<'a> {
    /// The key that changes.
    #[must_use]
    pub const fn key(&self) -> &'a [u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        match reader.byte()? {
            PUT => Ok(Self::Put { key: reader.key()?, value: reader.slice()? }),
            DELETE => Ok(Self::Delete { key: reader.key()? }),
            other => Err(CodecError::Malformed(DecodeError::Tag(other))),
        }
    }
}

/// The changes of a batch, in order. All were checked when the batch was decoded.
#[derive(Clone, Debug)]
pub struct Changes<'a> {
    reader: Reader<'a>,
    left: u64,
}

impl<'a> Changes<'a> {
    /// Walks through the whole batch, so that iterating it later cannot fail half-way.
    fn checked(mut reader: Reader<'a>) -> Result<Self, CodecError> {
        let left = reader.varint()?;
        let changes = Self { reader, left };
        for _ in 0..left {
            Change::read(&mut reader)?;
        }
        reader.finish()?;
        Ok(changes)
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Change::read(&mut self.reader).ok()
    }
}

impl PartialEq for Changes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.left == other.left && self.reader.rest() == other.reader.rest()
    }
}

impl Eq for Changes<'_> {}

impl<'a> Operation<'a> {
    /// Reads an operation. Takes no memory; costs a few nanoseconds, or a walk over a batch.
    ///
    /// # Errors
    /// [`CodecError`] unless the bytes are exactly one operation.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(payload);
        if reader.byte()? == PUT {
            let key = reader.key()?;
            return Ok(Self::Put { key, value: reader.rest() });
        }
        Self::decode_rare(payload[0], reader)
    }

    fn decode_rare(tag: u8, mut reader: Reader<'a>) -> Result<Self, CodecError> {
        let operation = match tag {
            DELETE => Self::Delete { key: reader.key()? },
            COMPARE_AND_SET => {
                let key = reader.key()?;
                Self::CompareAndSet { key, expected: reader.optional()?, new: reader.optional()? }
            }
            BATCH => return Ok(Self::Batch(Changes::checked(reader)?)),
            other => return Err(CodecError::Malformed(DecodeError::Tag(other))),
        };
        reader.finish()?;
        Ok(operation)
    }
}

/// Appends a put: [`put_overhead_bytes`](super::put_overhead_bytes) more than key and value.
///
/// This and the other encoders accept keys of any length; replicas refuse those over
/// [`KEY_BYTES_MAX`](super::KEY_BYTES_MAX).
#[inline]
pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.push(PUT);
    write_slice(out, key);
    out.extend_from_slice(value);
}

/// Appends a delete.
pub fn delete(out: &mut Vec<u8>, key: &[u8]) {
    out.push(DELETE);
    write_slice(out, key);
}

/// Appends a compare-and-set; `None` stands for "absent" on either side.
pub fn compare_and_set(out: &mut Vec<u8>, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) {
    out.push(COMPARE_AND_SET);
    write_slice(out, key);
    write_optional(out, expected);
    write_optional(out, new);
}

/// Appends a batch: all of `changes`, in order, or none.
pub fn batch(out: &mut Vec<u8>, changes: &[Change<'_>]) {
    out.push(BATCH);
    write_varint(out, changes.len() as u64);
    for change in changes {
        match *change {
            Change::Put { key, value } => {
                out.push(PUT);
                write_slice(out, key);
                write_slice(out, value);
            }
            Change::Delete { key } => delete(out, key),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{KEY_BYTES_MAX, put_overhead_bytes};
    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..200)
    }

    fn encoded(operation: &Operation<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        match operation.clone() {
            Operation::Put { key, value } => put(&mut out, key, value),
            Operation::Delete { key } => delete(&mut out, key),
            Operation::CompareAndSet { key, expected, new } => compare_and_set(&mut out, key, expected, new),
            Operation::Batch(changes) => batch(&mut out, &changes.collect::<Vec<_>>()),
        }
        out
    }

    proptest! {
        #[test]
        fn every_operation_survives_the_round_trip(
            key in bytes(), a in prop::option::of(bytes()), b in prop::option::of(bytes()),
            batched in prop::collection::vec((bytes(), prop::option::of(bytes())), 0..9),
        ) {
            let (a, b) = (a.as_deref(), b.as_deref());
            let mut payload = Vec::new();
            put(&mut payload, &key, a.unwrap_or_default());
            prop_assert_eq!(payload.len(), put_overhead_bytes(key.len()) + key.len() + a.unwrap_or_default().len());
            prop_assert_eq!(Operation::decode(&payload), Ok(Operation::Put { key: &key, value: a.unwrap_or_default() }));

            payload.clear();
            delete(&mut payload, &key);
            prop_assert_eq!(Operation::decode(&payload), Ok(Operation::Delete { key: &key }));

            payload.clear();
            compare_and_set(&mut payload, &key, a, b);
            prop_assert_eq!(
                Operation::decode(&payload),
                Ok(Operation::CompareAndSet { key: &key, expected: a, new: b })
            );

            let changes: Vec<Change<'_>> = batched.iter().map(|(key, value)| match value {
                Some(value) => Change::Put { key, value },
                None => Change::Delete { key },
            }).collect();
            payload.clear();
            batch(&mut payload, &changes);
            match Operation::decode(&payload) {
                Ok(Operation::Batch(read)) => prop_assert_eq!(read.collect::<Vec<_>>(), changes),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic_and_what_it_accepts_has_one_encoding(
            tag in 0..6u8, tail in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..60),
        ) {
            let payload = [&[tag], &tail[..]].concat();
            if let Ok(operation) = Operation::decode(&payload) {
                prop_assert_eq!(encoded(&operation), payload);
            }
        }
    }

    #[test]
    fn a_put_of_an_8_byte_key_and_a_6_byte_value_is_16_bytes() {
        let mut payload = Vec::new();
        put(&mut payload, &[7; 8], &[9; 6]);
        assert_eq!(payload.len(), 16);
        assert_eq!(payload.len(), super::super::PUT_OVERHEAD_BYTES + 14);
        assert_eq!(put_overhead_bytes(super::super::SHORT_KEY_BYTES - 1), super::super::PUT_OVERHEAD_BYTES);
        assert_eq!(put_overhead_bytes(super::super::SHORT_KEY_BYTES), super::super::PUT_OVERHEAD_BYTES + 1);
    }

    #[test]
    fn a_key_over_the_limit_is_refused_whatever_follows() {
        let mut payload = Vec::new();
        put(&mut payload, &vec![0; KEY_BYTES_MAX], b"");
        assert!(Operation::decode(&payload).is_ok());
        payload.clear();
        put(&mut payload, &vec![0; KEY_BYTES_MAX + 1], b"");
        assert_eq!(
            Operation::decode(&payload),
            Err(CodecError::KeyTooLarge { bytes: KEY_BYTES_MAX as u64 + 1 })
        );
        payload.clear();
        payload.push(DELETE);
        write_varint(&mut payload, u64::MAX);
        assert_eq!(Operation::decode(&payload), Err(CodecError::KeyTooLarge { bytes: u64::MAX }));
    }

    #[test]
    fn a_batch_that_claims_more_changes_than_it_has_is_refused_at_once() {
        let mut payload = vec![BATCH];
        write_varint(&mut payload, u64::MAX);
        payload.extend_from_slice(&[DELETE, 1, b'a']);
        assert_eq!(Operation::decode(&payload), Err(CodecError::Malformed(DecodeError::Short)));
        assert_eq!(
            Operation::decode(&[BATCH, 1, DELETE, 1, b'a', 0]),
            Err(CodecError::Malformed(DecodeError::Trailing { bytes: 1 }))
        );
        assert_eq!(
            Operation::decode(&[BATCH, 1, BATCH, 0]),
            Err(CodecError::Malformed(DecodeError::Tag(BATCH)))
        );
        assert_eq!(Operation::decode(&[]), Err(CodecError::Malformed(DecodeError::Short)));
    }
}
