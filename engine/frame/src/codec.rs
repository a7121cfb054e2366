//! Numbers and byte strings of any length as bytes: for tokens, envelopes and operations, which unlike frames and wire
//! records have no fixed layout.
//!
//! ```text
//! varint = LEB128 of a u64 in its shortest form
//! slice  = varint length, bytes
//! ```
//! Every value has exactly one encoding.

use alloc::vec::Vec;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
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
    /// The first byte of a part has no meaning in this version.
    #[error("tag {0:#04x} is unknown")]
    Tag(u8),
    /// A number is out of bounds, or out of order.
    #[error("a limit is out of bounds")]
    Limit,
}

/// How many bytes the varint of `n` takes.
#[inline]
#[must_use]
pub const fn varint_bytes(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `n` in its shortest form.
#[inline]
pub fn write_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends length and bytes.
#[inline]
pub fn write_slice(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from the front of untrusted bytes; takes no memory.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All remaining bytes.
    #[inline]
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`].
    #[inline]
    pub const fn finish(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    #[inline]
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.0.split_first().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(byte)
    }

    /// The next byte, 0 or 1.
    ///
    /// # Errors
    /// [`DecodeError::Short`], [`DecodeError::Tag`].
    #[inline]
    pub fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Tag(other)),
        }
    }

    /// The next eight bytes, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// The next varint.
    ///
    /// # Errors
    /// [`DecodeError::Short`]; [`DecodeError::Varint`] if it is over 64 bits or not in its shortest form.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let first = self.byte()?;
        if first < 0x80 { Ok(u64::from(first)) } else { self.long_varint(u64::from(first & 0x7F)) }
    }

    fn long_varint(&mut self, mut n: u64) -> Result<u64, DecodeError> {
        for shift in (7..=63).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Varint);
            }
            n |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 { Err(DecodeError::Varint) } else { Ok(n) };
            }
        }
        Err(DecodeError::Varint)
    }

    /// The next so many bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    #[inline]
    pub fn slice_of(&mut self, bytes: u64) -> Result<&'a [u8], DecodeError> {
        let bytes = usize::try_from(bytes).map_err(|_| DecodeError::Short)?;
        let (slice, rest) = self.0.split_at_checked(bytes).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(slice)
    }

    /// Length and bytes.
    ///
    /// # Errors
    /// As [`Reader::varint`] and [`Reader::slice_of`].
    #[inline]
    pub fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = self.varint()?;
        self.slice_of(bytes)
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
            assert_eq!(Reader::new(bad).varint(), Err(DecodeError::Varint), "{bad:x?}");
        }
        let mut over = [0xFF; 10];
        over[9] = 0x02;
        assert_eq!(Reader::new(&over).varint(), Err(DecodeError::Varint));
        over[9] = 0x01;
        assert_eq!(Reader::new(&over).varint(), Ok(u64::MAX));
    }
}
