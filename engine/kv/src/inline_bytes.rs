//! Immutable byte strings, stored inline when short and shared when long. 24 bytes each.
//!
//! Keys and values of the [`tree`](super::tree) are such strings, so that copying a leaf copies short ones
//! and shares long ones. Not a buffer: contents are set as a whole.

use triomphe::Arc;

/// Strings up to this long, in bytes, take no memory of their own.
pub(crate) const INLINE_BYTES: usize = 22;

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Shared(Arc<[u8]>),
}

/// A byte string.
#[derive(Clone)]
pub(crate) struct InlineBytes(Repr);

const _: () = assert!(size_of::<InlineBytes>() == 24);

impl InlineBytes {
    /// A copy of `bytes`; takes memory if they are longer than [`INLINE_BYTES`].
    #[inline]
    pub(crate) fn new(bytes: &[u8]) -> Self {
        if bytes.len() > INLINE_BYTES {
            return Self(Repr::Shared(bytes.into()));
        }
        let mut inline = [0; INLINE_BYTES];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self(Repr::Inline { len: bytes.len() as u8, bytes: inline })
    }

    /// Becomes a copy of `bytes`: in place if they are short, or as long as before and not shared.
    #[inline]
    pub(crate) fn set(&mut self, bytes: &[u8]) {
        if let Repr::Shared(shared) = &mut self.0
            && shared.len() == bytes.len()
            && let Some(own) = Arc::get_mut(shared)
        {
            own.copy_from_slice(bytes);
        } else {
            *self = Self::new(bytes);
        }
    }

    /// Loads what [`InlineBytes::set`] reads of a long string, and returns something that depends on it.
    #[inline]
    pub(crate) fn touch(&self) -> usize {
        match &self.0 {
            Repr::Inline { len, .. } => usize::from(*len),
            Repr::Shared(shared) => Arc::count(shared),
        }
    }

    /// The bytes.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(shared) => shared,
        }
    }
}

impl Default for InlineBytes {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl AsRef<[u8]> for InlineBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for InlineBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_around_the_limit_is_kept_and_overwritten_by_every_other() {
        let long = [7; 3 * INLINE_BYTES];
        for before in 0..long.len() {
            for after in 0..long.len() {
                let mut small = InlineBytes::new(&[9; 3 * INLINE_BYTES][..before]);
                small.set(&long[..after]);
                assert_eq!(small.as_slice(), &long[..after]);
            }
        }
    }

    #[test]
    fn overwriting_leaves_a_clone_as_it_was() {
        for bytes in [&[1; 8][..], &[1; 80]] {
            let mut small = InlineBytes::new(bytes);
            let clone = small.clone();
            small.set(&vec![2; bytes.len()]);
            assert_eq!((small.as_slice()[0], clone.as_slice()), (2, bytes));
        }
    }
}
