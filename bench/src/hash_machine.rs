//! The state machine that engines are compared by: it counts payloads and folds them into hashes, and keeps nothing
//! else.
//!
//! Beside a rolling hash of everything in order it keeps 256 sums, payload by payload hash, from which a
//! [`ledger`](crate::ledger::hash) can tell whether each acknowledged payload was applied exactly once.
//!
//! IMPURE: there is a question that it takes as long to answer as the question asks: a worker is stuck meanwhile.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use raftwerk::{Checkpoint, Committed, Replies, StateMachine};

use crate::rng::mix;

/// How many sums there are.
pub const BUCKETS: usize = 256;
/// Asks for the number of payloads; the answer is a little-endian u64.
pub const COUNT_QUERY: &[u8] = b"count";
/// Asks for everything: count, rolling hash, sums; all little-endian u64.
pub const SUMS_QUERY: &[u8] = b"sums";
/// Before so many milliseconds, a little-endian u64: does nothing for so long, and then answers nothing.
pub const STALL_QUERY: &[u8] = b"stall";
/// Bytes of the answer to [`SUMS_QUERY`].
pub const SUMS_BYTES: usize = 8 * (2 + BUCKETS);
const MAGIC: [u8; 8] = *b"RWhash1\n";
const FOLD: u64 = 0xD6E8_FEB8_6659_FD93;

/// 64 bits that stand for a payload. Cost: one wide multiplication per 16 bytes.
#[inline]
#[must_use]
pub fn payload_hash(payload: &[u8]) -> u64 {
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        wide as u64 ^ (wide >> 64) as u64
    };
    let (pairs, rest) = payload.as_chunks::<16>();
    let mut hash = FOLD ^ payload.len() as u64;
    for pair in pairs {
        let both = u128::from_le_bytes(*pair);
        hash = fold(both as u64 ^ FOLD, (both >> 64) as u64 ^ hash).wrapping_add(hash.rotate_left(23));
    }
    if !rest.is_empty() {
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        let both = u128::from_le_bytes(last);
        hash = fold(both as u64 ^ FOLD, (both >> 64) as u64 ^ hash).wrapping_add(hash.rotate_left(23));
    }
    mix(hash)
}

/// Which sum a payload counts into.
#[inline]
#[must_use]
pub const fn bucket_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// One group's count, rolling hash and sums. Sums take memory from the first payload on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashMachine {
    count: u64,
    rolling: u64,
    sums: Option<Box<[u64; BUCKETS]>>,
}

impl HashMachine {
    #[inline]
    fn fold(&mut self, payload: &[u8]) {
        let hash = payload_hash(payload);
        self.count += 1;
        self.rolling = (self.rolling.rotate_left(5) ^ hash).wrapping_mul(FOLD);
        let sums = self.sums.get_or_insert_with(|| Box::new([0; BUCKETS]));
        let sum = &mut sums[bucket_of(hash)];
        *sum = sum.wrapping_add(hash);
    }

    fn image(&self) -> Vec<u8> {
        let zero = [0; BUCKETS];
        let sums = self.sums.as_deref().unwrap_or(&zero);
        let words = [self.count, self.rolling].into_iter().chain(sums.iter().copied());
        words.flat_map(u64::to_le_bytes).collect()
    }
}

impl StateMachine for HashMachine {
    fn apply(&mut self, entries: Committed<'_>, _replies: &mut Replies) {
        for entry in entries {
            self.fold(entry.payload);
        }
    }

    fn query(&self, query: &[u8]) -> Bytes {
        match query {
            COUNT_QUERY => Bytes::copy_from_slice(&self.count.to_le_bytes()),
            SUMS_QUERY => self.image().into(),
            _ => {
                let millis = query.strip_prefix(STALL_QUERY).and_then(|rest| rest.try_into().ok());
                std::thread::sleep(Duration::from_millis(millis.map_or(0, u64::from_le_bytes)));
                Bytes::new()
            }
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        let image = self.image();
        Box::new(move |out: &mut dyn Write| {
            out.write_all(&MAGIC)?;
            out.write_all(&image)?;
            out.write_all(&payload_hash(&image).to_le_bytes())
        })
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8 + SUMS_BYTES + 8];
        image.read_exact(&mut bytes)?;
        let (magic, rest) = bytes.split_at(8);
        let (image, check) = rest.split_at(SUMS_BYTES);
        if magic != MAGIC || check != payload_hash(image).to_le_bytes() {
            return Err(io::Error::new(ErrorKind::InvalidData, "not an image of a hash machine"));
        }
        let mut words = image.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().expect("the image has a fixed length");
        (self.count, self.rolling) = (next(), next());
        self.sums = (self.count > 0).then(|| Box::new(std::array::from_fn(|_| next())));
        Ok(())
    }

    fn digest(&self) -> u64 {
        mix(self.rolling ^ mix(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(payloads: &[&[u8]]) -> HashMachine {
        let mut machine = HashMachine::default();
        payloads.iter().for_each(|payload| machine.fold(payload));
        machine
    }

    #[test]
    fn order_loss_and_repetition_change_the_digest() {
        let all = machine(&[b"a", b"b", b"c"]).digest();
        for other in
            [&[&b"a"[..], b"c", b"b"][..], &[b"a", b"b"], &[b"a", b"b", b"b", b"c"], &[b"a", b"b", b"C"]]
        {
            assert_ne!(machine(other).digest(), all);
        }
        assert_ne!(payload_hash(b""), payload_hash(&[0]));
        assert_ne!(payload_hash(&[0; 15]), payload_hash(&[0; 16]));
    }

    #[test]
    fn an_image_restores_and_a_damaged_one_does_not() {
        for machine in [machine(&[]), machine(&[b"one", b"two"])] {
            let mut image = Vec::new();
            machine.checkpoint()(&mut image).unwrap();
            let mut restored = HashMachine::default();
            restored.restore(&mut &image[..]).unwrap();
            assert_eq!(restored, machine);
            for at in (0..image.len()).step_by(97) {
                let mut bad = image.clone();
                bad[at] ^= 4;
                assert!(HashMachine::default().restore(&mut &bad[..]).is_err(), "byte {at}");
                assert!(HashMachine::default().restore(&mut &image[..at]).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn queries_tell_the_count_and_the_sums_and_nonsense_is_answered_by_nothing() {
        let machine = machine(&[&b"x"[..]; 3]);
        assert_eq!(&machine.query(COUNT_QUERY)[..], 3u64.to_le_bytes());
        assert_eq!(machine.query(SUMS_QUERY).len(), SUMS_BYTES);
        assert!(machine.query(b"nonsense").is_empty());
    }
}
