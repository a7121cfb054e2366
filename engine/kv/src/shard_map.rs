//! The shard map: ranges of the key space and the group that holds each, fixed when the map is made. Pure;
//! [`super::shard_file`] stores one on disk.
//!
//! ```text
//! map   = magic "RWSM", version u32 (1), count u32, count × shard, checksum u32
//! shard = group u64, first key length u32, first key
//! ```
//! Integers are little-endian; the checksum is the CRC32 of all before it. A map is valid if and only if the checksum
//! matches, there are 1 to [`ShardMap::SHARDS_MAX`] shards, the first of them begins at the empty key, first keys rise
//! strictly and are within the limit of keys, and no group appears twice.

use raftwerk_frame::GroupId;
use rustc_hash::FxHashSet;

use super::codec::KEY_BYTES_MAX;
use super::inline_bytes::InlineBytes;
use super::key_array::{Inside, KeyArray, Keyed};

const MAGIC: [u8; 4] = *b"RWSM";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
const SHARD_HEAD_BYTES: usize = 12;

/// Ranges of keys and the group of each: together they cover the whole key space, without overlap.
#[derive(Clone)]
pub struct ShardMap {
    /// Sorted by first key; the first one is the empty key.
    shards: KeyArray<Begin>,
}

#[derive(Clone)]
struct Begin {
    first: InlineBytes,
    group: GroupId,
}

impl Keyed for Begin {
    #[inline]
    fn key(&self) -> &[u8] {
        self.first.as_slice()
    }
}

/// One shard: the keys `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard<'a> {
    /// The group that holds it.
    pub group: GroupId,
    /// Its lowest possible key.
    pub first: &'a [u8],
    /// The first key after it; `None`: it has no end.
    pub end: Option<&'a [u8]>,
}

/// Why lists or bytes are not a shard map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardMapError {
    /// There are no shards, or too many.
    #[error("a map of {0} shards; it must have 1 to {max}", max = ShardMap::SHARDS_MAX)]
    Count(u64),
    /// The shards' first keys do not rise from the empty key.
    #[error("shard {nth} does not begin after the one before it")]
    Order {
        /// The shard, counted from 0.
        nth: usize,
    },
    /// A shard's first key is over the limit of keys.
    #[error("the first key of shard {nth} is over {KEY_BYTES_MAX} bytes")]
    KeyTooLarge {
        /// The shard, counted from 0.
        nth: usize,
    },
    /// A group holds two shards.
    #[error("group {0} holds two shards")]
    GroupTwice(GroupId),
    /// The magic number is wrong.
    #[error("not a shard map")]
    Magic,
    /// The bytes were written by a later version.
    #[error("shard map version {0} is unknown")]
    Version(u32),
    /// The bytes end before the map does, or continue after it.
    #[error("the shard map's lengths do not add up")]
    Length,
    /// The checksum does not match.
    #[error("the shard map's checksum does not match")]
    Checksum,
}

impl ShardMap {
    /// The maximum of shards of a map.
    pub const SHARDS_MAX: usize = 1 << 20;

    /// A map of shards given by first key and group, in the order of keys. The first shard begins at the empty key.
    ///
    /// # Errors
    /// [`ShardMapError`] if they are not a map.
    pub fn new<K: AsRef<[u8]>>(
        shards: impl IntoIterator<Item = (K, GroupId)>,
    ) -> Result<Self, ShardMapError> {
        let begins = shards.into_iter().take(Self::SHARDS_MAX + 1);
        let begins: Vec<Begin> =
            begins.map(|(first, group)| Begin { first: InlineBytes::new(first.as_ref()), group }).collect();
        check(&begins)?;
        Ok(Self { shards: KeyArray::new(&Inside, begins) })
    }

    /// A map that assigns each group about as many *slots*: 2-byte key prefixes, a shorter key counting as if
    /// padded with zeros. With over 65,536 groups, 4-byte prefixes.
    ///
    /// ```
    /// # mod raftwerk { pub use raftwerk_multiraft::*; pub use raftwerk_kv as kv; }
    /// use raftwerk::{GroupId, kv::ShardMap};
    ///
    /// let map = ShardMap::uniform((1..=4).map(GroupId))?;
    /// assert_eq!(map.route(&[0x3F, 0xFF, 0xFF]), GroupId(1));
    /// assert_eq!(map.route(&[0x40]), GroupId(2));
    /// # Ok::<(), raftwerk::kv::ShardMapError>(())
    /// ```
    ///
    /// # Errors
    /// [`ShardMapError`] if there are no groups, too many, or one is named twice.
    pub fn uniform(groups: impl IntoIterator<Item = GroupId>) -> Result<Self, ShardMapError> {
        let groups: Vec<GroupId> = groups.into_iter().take(Self::SHARDS_MAX + 1).collect();
        let count = groups.len() as u64;
        let prefix_bytes = if count <= 1 << 16 { 2 } else { 4 };
        let slots = 1u64 << (8 * prefix_bytes);
        Self::new(groups.into_iter().enumerate().map(|(nth, group)| {
            let slot = (nth as u64 * slots / count) as u32;
            let slot = slot.to_be_bytes();
            let prefix = &slot[4 - prefix_bytes..];
            // Without its trailing zeros a slot begins at the lowest key that, padded, has this prefix.
            let bytes = prefix.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            (InlineBytes::new(&prefix[..bytes]), group)
        }))
    }

    /// The number of shards; never 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.shards.len()
    }

    /// The group that holds `key`. Costs a binary search.
    #[must_use]
    #[inline]
    pub fn route(&self, key: &[u8]) -> GroupId {
        self.shards.items()[self.shards.floor(&Inside, key)].group
    }

    /// The shard that holds `key`.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> Shard<'_> {
        self.shard(self.shards.floor(&Inside, key))
    }

    /// All shards, in the order of keys.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Shard<'_>> + DoubleEndedIterator {
        (0..self.len()).map(|nth| self.shard(nth))
    }

    /// The shards that hold keys from `from` on, and below `to` if there is one, in the order of keys; none if the
    /// range is empty.
    pub fn shards_in(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> impl ExactSizeIterator<Item = Shard<'_>> + DoubleEndedIterator {
        let after = match to.map(|to| self.shards.search(&Inside, to)) {
            None => self.len(),
            Some(Ok(at) | Err(at)) => at,
        };
        let begin = if to.is_some_and(|to| to <= from) { after } else { self.shards.floor(&Inside, from) };
        (begin..after.max(begin)).map(|nth| self.shard(nth))
    }

    /// Appends the byte form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
        for shard in self.ranges() {
            out.extend_from_slice(&shard.group.0.to_le_bytes());
            out.extend_from_slice(&(shard.first.len() as u32).to_le_bytes());
            out.extend_from_slice(shard.first);
        }
        let crc = crc32fast::hash(&out[begin..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    /// Decodes and checks the byte form. Takes no more memory than the length of the bytes justifies.
    ///
    /// # Errors
    /// [`ShardMapError`] if the bytes are not exactly one map.
    pub fn decode(bytes: &[u8]) -> Result<Self, ShardMapError> {
        let (magic, _) = bytes.split_first_chunk::<4>().ok_or(ShardMapError::Length)?;
        if *magic != MAGIC {
            return Err(ShardMapError::Magic);
        }
        let (body, crc) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(ShardMapError::Length)?;
        let (head, mut rest) = body.split_first_chunk::<HEAD_BYTES>().ok_or(ShardMapError::Length)?;
        let (version, count) = (u32_at(head, 4), u32_at(head, 8));
        if version != VERSION {
            return Err(ShardMapError::Version(version));
        }
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(ShardMapError::Checksum);
        }
        if count as usize > Self::SHARDS_MAX {
            return Err(ShardMapError::Count(count.into()));
        }
        if count as usize > rest.len() / SHARD_HEAD_BYTES {
            return Err(ShardMapError::Length);
        }
        let mut shards: Vec<(&[u8], GroupId)> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (group, after) = rest.split_first_chunk::<8>().ok_or(ShardMapError::Length)?;
            let (bytes, after) = after.split_first_chunk::<4>().ok_or(ShardMapError::Length)?;
            let bytes = u32::from_le_bytes(*bytes) as usize;
            let (first, after) = after.split_at_checked(bytes).ok_or(ShardMapError::Length)?;
            shards.push((first, GroupId(u64::from_le_bytes(*group))));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(ShardMapError::Length);
        }
        Self::new(shards)
    }

    fn shard(&self, nth: usize) -> Shard<'_> {
        let begins = self.shards.items();
        Shard { group: begins[nth].group, first: begins[nth].key(), end: begins.get(nth + 1).map(Keyed::key) }
    }
}

fn check(begins: &[Begin]) -> Result<(), ShardMapError> {
    if begins.is_empty() || begins.len() > ShardMap::SHARDS_MAX {
        return Err(ShardMapError::Count(begins.len() as u64));
    }
    for (nth, begin) in begins.iter().enumerate() {
        if begin.key().len() > KEY_BYTES_MAX {
            return Err(ShardMapError::KeyTooLarge { nth });
        }
        let rises = if nth == 0 { begin.key().is_empty() } else { begins[nth - 1].key() < begin.key() };
        if !rises {
            return Err(ShardMapError::Order { nth });
        }
    }
    let mut seen = FxHashSet::default();
    match begins.iter().find(|begin| !seen.insert(begin.group)) {
        Some(begin) => Err(ShardMapError::GroupTwice(begin.group)),
        None => Ok(()),
    }
}

impl PartialEq for ShardMap {
    fn eq(&self, other: &Self) -> bool {
        self.ranges().eq(other.ranges())
    }
}

impl Eq for ShardMap {}

fn u32_at(head: &[u8; HEAD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

impl std::fmt::Debug for ShardMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |shard: Shard<'_>| (format!("{}..", shard.first.escape_ascii()), shard.group);
        f.debug_map().entries(self.ranges().map(shown)).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(firsts: &[&[u8]]) -> ShardMap {
        ShardMap::new(firsts.iter().enumerate().map(|(nth, first)| (*first, GroupId(nth as u64 + 1))))
            .unwrap()
    }

    fn encoded(map: &ShardMap) -> Vec<u8> {
        let mut bytes = Vec::new();
        map.encode(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn every_key_is_in_the_one_shard_it_is_routed_to(
            splits in prop::collection::btree_set(prop::collection::vec(0..4u8, 1..4), 0..20),
            key in prop::collection::vec(0..4u8, 0..5), to in prop::option::of(prop::collection::vec(0..4u8, 0..5)),
        ) {
            let firsts: Vec<&[u8]> = std::iter::once(&[][..]).chain(splits.iter().map(|split| &split[..])).collect();
            let map = map(&firsts);
            let holds = |shard: &Shard<'_>| shard.first <= &key[..] && shard.end.is_none_or(|end| &key[..] < end);
            let holding: Vec<Shard<'_>> = map.ranges().filter(holds).collect();
            prop_assert_eq!(&holding, &[map.shard_of(&key)]);
            prop_assert_eq!(map.route(&key), holding[0].group);

            let overlapping: Vec<Shard<'_>> = map
                .ranges()
                .filter(|shard| to.as_ref().is_none_or(|to| &key < to && shard.first < &to[..]))
                .filter(|shard| shard.end.is_none_or(|end| end > &key[..]))
                .collect();
            prop_assert_eq!(map.shards_in(&key, to.as_deref()).collect::<Vec<_>>(), overlapping);
            prop_assert_eq!(ShardMap::decode(&encoded(&map)), Ok(map));
        }

        #[test]
        fn a_uniform_map_splits_the_slots_evenly(count in 1..3000u64, key in prop::collection::vec(any::<u8>(), 0..4)) {
            let map = ShardMap::uniform((0..count).map(GroupId)).unwrap();
            let slot = |key: &[u8]| {
                let at = |nth| u64::from(key.get(nth).copied().unwrap_or(0));
                (at(0) << 8) | at(1)
            };
            let slots: Vec<u64> =
                map.ranges().map(|shard| shard.end.map_or(1 << 16, slot) - slot(shard.first)).collect();
            prop_assert_eq!(slots.iter().sum::<u64>(), 1 << 16);
            prop_assert!(slots.iter().max().unwrap() - slots.iter().min().unwrap() <= 1);
            // A key and the same key padded to a whole slot are in the same shard.
            let mut filled = key.clone();
            filled.resize(2.max(key.len()), 0);
            prop_assert_eq!(map.route(&key), map.route(&filled));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(tail in prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..80)) {
            let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &tail].concat();
            let _ = ShardMap::decode(&bytes);
            let crc = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            if let Ok(map) = ShardMap::decode(&bytes) {
                prop_assert_eq!(encoded(&map), bytes);
            }
        }
    }

    #[test]
    fn what_is_no_map_is_refused_with_the_reason() {
        let new = |shards: &[(&[u8], u64)]| {
            ShardMap::new(shards.iter().map(|(first, group)| (*first, GroupId(*group))))
        };
        assert_eq!(new(&[]), Err(ShardMapError::Count(0)));
        assert_eq!(new(&[(b"a", 1)]), Err(ShardMapError::Order { nth: 0 }));
        assert_eq!(new(&[(b"", 1), (b"b", 2), (b"b", 3)]), Err(ShardMapError::Order { nth: 2 }));
        assert_eq!(new(&[(b"", 1), (b"b", 1)]), Err(ShardMapError::GroupTwice(GroupId(1))));
        let long = vec![1; KEY_BYTES_MAX + 1];
        assert_eq!(new(&[(b"", 1), (&long, 2)]), Err(ShardMapError::KeyTooLarge { nth: 1 }));
        assert_eq!(
            ShardMap::uniform((0..).map(GroupId)),
            Err(ShardMapError::Count(ShardMap::SHARDS_MAX as u64 + 1))
        );
    }

    #[test]
    fn a_flip_of_any_bit_and_a_cut_at_any_byte_is_noticed() {
        let good = encoded(&map(&[b"", b"dog", b"m"]));
        for at in 0..good.len() {
            assert!(ShardMap::decode(&good[..at]).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(ShardMap::decode(&bad).is_err());
            }
        }
        assert!(ShardMap::decode(&[&good[..], &[0]].concat()).is_err());
    }

    #[test]
    fn more_groups_than_two_byte_slots_still_share_the_key_space() {
        let map = ShardMap::uniform((0..100_000).map(GroupId)).unwrap();
        assert_eq!(map.len(), 100_000);
        assert_eq!(map.route(&[0xFF; 8]), GroupId(99_999));
        assert_eq!(map.route(&[0x80]), GroupId(50_000));
    }
}
