//! The image of a tree: the stream that a checkpoint writes and a restore reads.
//!
//! ```text
//! image = magic "RWKV", version u32 (1), count u64, count × item, checksum u32
//! item  = key length u32, value length u32, version u64, key, value
//! ```
//! Integers are little-endian; the checksum is the CRC32 of all before it. An image is valid if and only if
//! the checksum matches, the keys rise strictly and are within their limit, and the stream ends after it.
//! Equal trees have equal images. Lengths read from a stream are not trusted: memory grows with the bytes
//! that arrive.

use std::io::{self, ErrorKind, Read, Write};

use raftwerk_frame::Index;
use raftwerk_frame::frame::PAYLOAD_BYTES_MAX;

use super::codec::KEY_BYTES_MAX;
use super::tree::Tree;

const MAGIC: [u8; 4] = *b"RWKV";
const VERSION: u32 = 1;
const ITEM_HEAD_BYTES: usize = 16;
/// The size of the buffer in front of the stream and the checksum.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why a stream is not an image. It is the source of an [`io::Error`] of kind `InvalidData`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The magic number is wrong.
    #[error("not an image of a key-value machine")]
    Magic,
    /// The image was written by a later version.
    #[error("image version {0} is unknown")]
    Version(u32),
    /// The stream ends inside the image.
    #[error("the image is cut off")]
    Short,
    /// A key or a value is longer than any operation could make it.
    #[error("item {nth} of the image has impossible lengths")]
    Length {
        /// The item, counted from 0.
        nth: u64,
    },
    /// The keys do not rise.
    #[error("item {nth} of the image is out of order")]
    Order {
        /// The item, counted from 0.
        nth: u64,
    },
    /// The checksum does not match.
    #[error("the image's checksum does not match")]
    Checksum,
    /// The stream continues after the image.
    #[error("there are bytes after the image")]
    Trailing,
}

impl From<ImageError> for io::Error {
    fn from(error: ImageError) -> Self {
        Self::new(ErrorKind::InvalidData, error)
    }
}

/// Writes the image of a tree. Takes 64 KiB of memory, whatever the tree's size.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(tree: &Tree, out: &mut dyn Write) -> io::Result<()> {
    let mut out = Summing { out, crc: crc32fast::Hasher::new(), buffer: Vec::with_capacity(BUFFER_BYTES) };
    out.put(&MAGIC)?;
    out.put(&VERSION.to_le_bytes())?;
    out.put(&(tree.len() as u64).to_le_bytes())?;
    for item in tree {
        let mut head = [0; ITEM_HEAD_BYTES];
        head[..4].copy_from_slice(&(item.key.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(item.value.len() as u32).to_le_bytes());
        head[8..].copy_from_slice(&item.version.0.to_le_bytes());
        out.put(&head)?;
        out.put(item.key)?;
        out.put(item.value)?;
    }
    out.finish()
}

struct Summing<'a> {
    out: &'a mut dyn Write,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
}

impl Summing<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.empty()?;
            if bytes.len() >= BUFFER_BYTES {
                self.crc.update(bytes);
                return self.out.write_all(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn empty(&mut self) -> io::Result<()> {
        self.crc.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.empty()?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        self.out.flush()
    }
}

/// Reads an image.
///
/// # Errors
/// Those of `from`, and [`ImageError`] if the stream is not exactly one image.
pub(crate) fn read(from: &mut dyn Read) -> io::Result<Tree> {
    let mut from =
        Checking { from: io::BufReader::with_capacity(BUFFER_BYTES, from), crc: crc32fast::Hasher::new() };
    if from.take::<4>()? != MAGIC {
        return Err(ImageError::Magic.into());
    }
    let version = u32::from_le_bytes(from.take()?);
    if version != VERSION {
        return Err(ImageError::Version(version).into());
    }
    let count = u64::from_le_bytes(from.take()?);
    let mut tree = Tree::new();
    let (mut before, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
    for nth in 0..count {
        let key_bytes = u32::from_le_bytes(from.take()?) as usize;
        let value_bytes = u32::from_le_bytes(from.take()?) as usize;
        let version = Index(u64::from_le_bytes(from.take()?));
        if key_bytes > KEY_BYTES_MAX || value_bytes > PAYLOAD_BYTES_MAX {
            return Err(ImageError::Length { nth }.into());
        }
        std::mem::swap(&mut before, &mut key);
        from.fill(&mut key, key_bytes)?;
        from.fill(&mut value, value_bytes)?;
        if nth > 0 && before >= key {
            return Err(ImageError::Order { nth }.into());
        }
        tree.insert(&key, &value, version);
    }
    from.finish()?;
    Ok(tree)
}

struct Checking<'a> {
    from: io::BufReader<&'a mut dyn Read>,
    crc: crc32fast::Hasher,
}

impl Checking<'_> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(cut_off)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// Replaces the content of `into` by the next `bytes` bytes. It grows as they arrive.
    fn fill(&mut self, into: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
        into.clear();
        if self.from.by_ref().take(bytes as u64).read_to_end(into)? < bytes {
            return Err(ImageError::Short.into());
        }
        self.crc.update(into);
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        let expected = self.crc.clone().finalize();
        if u32::from_le_bytes(self.take()?) != expected {
            return Err(ImageError::Checksum.into());
        }
        // Reading to the end, rather than one byte more, lets the reader retry after an interrupted call.
        match self.from.take(1).read_to_end(&mut Vec::new())? {
            0 => Ok(()),
            _ => Err(ImageError::Trailing.into()),
        }
    }
}

fn cut_off(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::UnexpectedEof { ImageError::Short.into() } else { error }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(tree: &Tree) -> Vec<u8> {
        let mut image = Vec::new();
        write(tree, &mut image).unwrap();
        image
    }

    fn refusal(image: &[u8]) -> ImageError {
        let error = read(&mut &image[..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        *error.get_ref().unwrap().downcast_ref().unwrap()
    }

    fn small_tree() -> Tree {
        let mut tree = Tree::new();
        tree.insert(b"a", b"first", Index(4));
        tree.insert(b"bb", b"", Index(9));
        tree.insert(b"", &[7; 40], Index(11));
        tree
    }

    /// Restores the checksum after bytes were changed on purpose.
    fn resealed(mut image: Vec<u8>) -> Vec<u8> {
        let end = image.len() - 4;
        let crc = crc32fast::hash(&image[..end]);
        image[end..].copy_from_slice(&crc.to_le_bytes());
        image
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            items in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 0..40), (prop::collection::vec(any::<u8>(), 0..80), any::<u64>()), 0..300),
        ) {
            let mut tree = Tree::new();
            for (key, (value, version)) in &items {
                tree.insert(key, value, Index(*version));
            }
            let image = written(&tree);
            let again = read(&mut &image[..]).unwrap();
            prop_assert!(tree.iter().eq(again.iter()));
            prop_assert_eq!(written(&again), image);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut image = written(&Tree::new());
            image.truncate(16);
            image[8] = 3;
            image.extend_from_slice(&bytes);
            prop_assert!(read(&mut &image[..]).is_err());
        }
    }

    #[test]
    fn a_flip_of_any_bit_a_cut_at_any_byte_and_a_byte_more_are_noticed() {
        let good = written(&small_tree());
        for at in 0..good.len() {
            assert!(matches!(refusal(&good[..at]), ImageError::Short), "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                refusal(&bad);
            }
        }
        assert_eq!(refusal(&[&good[..], &[0]].concat()), ImageError::Trailing);
    }

    #[test]
    fn what_no_machine_would_write_is_refused_even_under_a_valid_checksum() {
        let good = written(&small_tree());
        let with = |at: usize, bytes: &[u8]| {
            let mut image = good.clone();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            refusal(&resealed(image))
        };
        assert_eq!(with(0, b"RWKX"), ImageError::Magic);
        assert_eq!(with(4, &[2]), ImageError::Version(2));
        assert_eq!(with(8, &[0xFF; 8]), ImageError::Short);
        assert_eq!(with(16, &[0xFF; 4]), ImageError::Length { nth: 0 });
        assert_eq!(with(20, &[0xFF; 4]), ImageError::Length { nth: 0 });
        // A length within the limit, of which nothing arrives, takes no memory to refuse.
        assert_eq!(with(20, &(PAYLOAD_BYTES_MAX as u32).to_le_bytes()), ImageError::Short);
        // The second key, "a", becomes "z".
        assert_eq!(with(16 + 16 + 40 + 16, b"z"), ImageError::Order { nth: 2 });
    }

    #[test]
    fn values_larger_than_the_buffer_survive_and_errors_of_the_stream_come_through() {
        let mut tree = small_tree();
        tree.insert(b"large", &vec![5; 3 * BUFFER_BYTES], Index(12));
        let image = written(&tree);
        assert!(tree.iter().eq(read(&mut &image[..]).unwrap().iter()));

        let mut room = vec![0; image.len() - 1];
        assert_eq!(write(&tree, &mut &mut room[..]).unwrap_err().kind(), ErrorKind::WriteZero);
    }
}
