//! The ledger of the key-value machine: the sums of all puts ([`sums`](super::sums)), and per key the acknowledged write with the
//! highest index.
//!
//! The sums tell whether every acknowledged put was applied once, also those that later ones cover; the keys, whether the map
//! shows what was put.
//!
//! A put of exactly `payload_bytes` carries an 8-byte key and a value that begins with the low 48 bits of the write's
//! counter. A replica has every acknowledged write of a key if and only if it holds the key in a version above the
//! ledger's, or in the same version with the same value; versions are indices of the group's log.

use std::collections::HashMap;

use bytes::Bytes;
use raftwerk::EntryId;
use raftwerk::kv::codec::{self, PUT_OVERHEAD_BYTES, Scan};

use super::sums::SumLedger;
use super::{Ask, Verdict, Write};
use crate::rng::mix;
use crate::workload::KeyNumber;

const KEY_BYTES: usize = 8;
const COUNTER_BYTES: usize = 6;
/// The shortest put that can be unique.
pub const PAYLOAD_BYTES_MIN: usize = PUT_OVERHEAD_BYTES + KEY_BYTES + COUNTER_BYTES;
const BARRIER_KEY: [u8; KEY_BYTES] = *b"barrier!";
const PAGE_ITEMS_MAX: u32 = 4096;
const PAGE_BYTES_MAX: u32 = 512 << 10;

#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    /// 0: none yet.
    version: u64,
    counter: u64,
}

/// Keys, payloads and outcomes of puts.
pub struct KvSubject {
    sums: SumLedger,
    keys: Vec<Acknowledged>,
    value: Vec<u8>,
    scratch: Vec<u8>,
}

impl KvSubject {
    /// For payloads of at least [`PAYLOAD_BYTES_MIN`].
    #[must_use]
    pub fn new(groups: u32, keys: u32, payload_bytes: usize) -> Self {
        let value_bytes = payload_bytes - PUT_OVERHEAD_BYTES - KEY_BYTES;
        let value = (0..value_bytes).map(|at| mix(at as u64) as u8).collect();
        let sums = SumLedger::new(groups);
        Self { sums, keys: vec![Acknowledged::default(); keys as usize], value, scratch: Vec::new() }
    }

    /// The group of a key: key ranges of equal size, in order.
    #[inline]
    #[must_use]
    pub fn group_of(&self, key: KeyNumber) -> u32 {
        spread(key, self.sums.groups())
    }

    /// The put of a write.
    #[inline]
    pub fn payload(&mut self, write: &Write) -> &[u8] {
        self.value[..COUNTER_BYTES].copy_from_slice(&write.counter.to_le_bytes()[..COUNTER_BYTES]);
        self.scratch.clear();
        codec::put(&mut self.scratch, &key_bytes(write.key), &self.value);
        &self.scratch
    }

    /// The get of a key.
    #[inline]
    pub fn query(&mut self, key: KeyNumber) -> &[u8] {
        self.scratch.clear();
        codec::get(&mut self.scratch, &key_bytes(key));
        &self.scratch
    }

    /// The version that a read starting now must reach.
    #[inline]
    #[must_use]
    pub fn floor(&self, key: KeyNumber) -> u64 {
        self.keys.get(key.0 as usize).map_or(0, |acknowledged| acknowledged.version)
    }

    /// Notes an acknowledged put.
    #[inline]
    pub fn acknowledged(&mut self, write: &Write, id: EntryId) {
        self.payload(write);
        self.sums.acknowledged(write.group, &self.scratch);
        if let Some(key) = self.keys.get_mut(write.key.0 as usize)
            && id.index.0 > key.version
        {
            *key = Acknowledged { version: id.index.0, counter: write.counter };
        }
    }

    /// Notes a put that may or may not be applied.
    pub fn unknown(&mut self, write: &Write) {
        self.payload(write);
        self.sums.unknown(write.group, &self.scratch);
    }

    /// Compares a replica with the ledger: its sums, and, by scanning each group that an acknowledged write went to, its keys. What
    /// both miss is counted once.
    ///
    /// # Errors
    /// An error of `ask`, or an answer that makes no sense.
    pub fn verify(&mut self, ask: &mut Ask<'_>) -> Result<Verdict, String> {
        let mut wanted: Vec<HashMap<[u8; KEY_BYTES], Acknowledged>> =
            vec![HashMap::new(); self.sums.groups() as usize];
        for (number, acknowledged) in self.keys.iter().enumerate().filter(|(_, key)| key.version > 0) {
            let key = KeyNumber(number as u32);
            wanted[spread(key, self.sums.groups()) as usize].insert(key_bytes(key), *acknowledged);
        }
        let mut missing = 0;
        for (group, mut wanted) in wanted.into_iter().enumerate().filter(|(_, wanted)| !wanted.is_empty()) {
            self.strike_found(group as u32, &mut wanted, ask)?;
            missing += wanted.len() as u64;
        }
        let verdict = self.sums.verify(ask)?;
        Ok(Verdict { lost: verdict.lost.max(missing), ..verdict })
    }

    /// Takes out of `wanted` what the replica of `group` has.
    fn strike_found(
        &mut self,
        group: u32,
        wanted: &mut HashMap<[u8; KEY_BYTES], Acknowledged>,
        ask: &mut Ask<'_>,
    ) -> Result<(), String> {
        let mut from = Vec::new();
        loop {
            self.scratch.clear();
            let limits = (PAGE_ITEMS_MAX, PAGE_BYTES_MAX);
            let scan = Scan { from: &from, to: None, items_max: limits.0, bytes_max: limits.1 };
            codec::scan(&mut self.scratch, &scan);
            let page = codec::page(&ask(group, &self.scratch)?).map_err(|error| error.to_string())?;
            for item in &page.items {
                let Ok(key) = <[u8; KEY_BYTES]>::try_from(&item.key[..]) else {
                    return Err(format!("group {group} holds a key that nobody wrote"));
                };
                if wanted.get(&key).is_some_and(|wanted| self.holds(item, wanted)) {
                    wanted.remove(&key);
                }
            }
            match page.items.last() {
                Some(last) if page.more => {
                    from.clear();
                    from.extend_from_slice(&last.key);
                    from.push(0);
                }
                _ => return Ok(()),
            }
        }
    }

    fn holds(&self, item: &codec::Item, wanted: &Acknowledged) -> bool {
        let counter = &wanted.counter.to_le_bytes()[..COUNTER_BYTES];
        item.version.0 > wanted.version
            || item.version.0 == wanted.version
                && item.value.len() == self.value.len()
                && item.value[..COUNTER_BYTES] == *counter
                && item.value[COUNTER_BYTES..] == self.value[COUNTER_BYTES..]
    }
}

/// The version in the answer to a get, 0 for an absent key; `None` if it is not such an answer.
#[inline]
#[must_use]
pub fn version_of(answer: &Bytes) -> Option<u64> {
    codec::found(answer).ok().map(|found| found.map_or(0, |found| found.version.0))
}

/// The group of a key, by the position of its bytes in the key space.
#[inline]
pub(super) fn spread(key: KeyNumber, groups: u32) -> u32 {
    ((u128::from(mix(u64::from(key.0) + 1)) * u128::from(groups)) >> 64) as u32
}

fn key_bytes(key: KeyNumber) -> [u8; KEY_BYTES] {
    if key == KeyNumber::BARRIER { BARRIER_KEY } else { mix(u64::from(key.0) + 1).to_be_bytes() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use raftwerk::kv::codec::{Operation, PageWriter, Query};
    use raftwerk::{Index, Term};

    use super::*;
    use crate::hash_machine::{BUCKETS, SUMS_QUERY, bucket_of, payload_hash};

    const GROUPS: u32 = 5;

    type Item = (Index, Vec<u8>);

    /// A replica that keeps what it is given, in pages of seven.
    #[derive(Clone, Default)]
    struct Replica(Vec<BTreeMap<Vec<u8>, Item>>, Vec<Vec<u64>>);

    impl Replica {
        fn new() -> Self {
            Self(vec![BTreeMap::new(); GROUPS as usize], vec![vec![0; 2 + BUCKETS]; GROUPS as usize])
        }

        fn apply(&mut self, group: u32, index: u64, payload: &[u8]) {
            let Ok(Operation::Put { key, value }) = Operation::decode(payload) else { panic!("not a put") };
            self.0[group as usize].insert(key.to_vec(), (Index(index), value.to_vec()));
            self.count(group, payload);
        }

        fn count(&mut self, group: u32, payload: &[u8]) {
            let (hash, words) = (payload_hash(payload), &mut self.1[group as usize]);
            let sum = &mut words[2 + bucket_of(hash)];
            *sum = sum.wrapping_add(hash);
            words[0] += 1;
        }

        fn ask(&self, group: u32, query: &[u8]) -> Bytes {
            if query == SUMS_QUERY {
                return self.1[group as usize].iter().flat_map(|word| word.to_le_bytes()).collect();
            }
            let Ok(Query::Scan(scan)) = Query::decode(query) else { panic!("not a scan") };
            let mut page = PageWriter::new();
            for (at, (key, (version, value))) in
                self.0[group as usize].range(scan.from.to_vec()..).enumerate()
            {
                if at == 7 {
                    page.more();
                    break;
                }
                page.push(key, value, *version);
            }
            page.finish()
        }

        fn lost(&self, subject: &mut KvSubject) -> u64 {
            subject.verify(&mut |group, query| Ok(self.ask(group, query))).unwrap().lost
        }
    }

    fn written() -> (KvSubject, Replica) {
        let (mut subject, mut replica) = (KvSubject::new(GROUPS, 100, 30), Replica::new());
        for counter in 1..=300u64 {
            let key = KeyNumber((counter % 90) as u32);
            let write = Write { group: subject.group_of(key), key, counter };
            assert_eq!(subject.payload(&write).len(), 30);
            let payload = subject.payload(&write).to_vec();
            replica.apply(write.group, counter, &payload);
            subject.acknowledged(&write, EntryId::new(Term(1), Index(counter)));
        }
        (subject, replica)
    }

    #[test]
    fn a_replica_with_every_write_has_lost_none_even_if_later_writes_cover_them() {
        let (mut subject, mut replica) = written();
        assert_eq!(replica.lost(&mut subject), 0);
        let (key, counter) = (KeyNumber(8), 999);
        let nobody_vouches = Write { group: subject.group_of(key), key, counter };
        let payload = subject.payload(&nobody_vouches).to_vec();
        replica.apply(nobody_vouches.group, 400, &payload);
        assert_eq!(replica.lost(&mut subject), 1, "nobody has written that");
        subject.unknown(&nobody_vouches);
        assert_eq!(replica.lost(&mut subject), 0);
    }

    /// One that the map does not miss: a later write of the same key covers it.
    #[test]
    fn a_write_that_vanished_is_missed_also_where_a_later_one_covers_it() {
        let (mut subject, whole) = written();
        for lost in [5u64, 77, 210] {
            let mut replica = Replica(whole.0.clone(), Replica::new().1);
            for counter in (1..=300u64).filter(|counter| *counter != lost) {
                let key = KeyNumber((counter % 90) as u32);
                let write = Write { group: subject.group_of(key), key, counter };
                let payload = subject.payload(&write).to_vec();
                replica.count(write.group, &payload);
            }
            assert_eq!(replica.lost(&mut subject), 1, "{lost}");
        }
    }

    #[test]
    fn a_missing_an_older_and_an_altered_value_are_each_lost() {
        let (mut subject, replica) = written();
        let key_of =
            |number| (spread(KeyNumber(number), GROUPS) as usize, key_bytes(KeyNumber(number)).to_vec());
        let damage = |number, change: &dyn Fn(&mut Item)| {
            let mut replica = replica.clone();
            let (group, key) = key_of(number);
            change(replica.0[group].get_mut(&key).unwrap());
            replica
        };
        assert_eq!(damage(3, &|item| item.0.0 -= 90).lost(&mut subject), 1);
        assert_eq!(damage(3, &|item| item.1[0] ^= 1).lost(&mut subject), 1);
        assert_eq!(damage(3, &|item| item.1[19] ^= 1).lost(&mut subject), 1);
        let mut short = replica.clone();
        for number in [7, 50] {
            let (group, key) = key_of(number);
            short.0[group].remove(&key).unwrap();
        }
        assert_eq!(short.lost(&mut subject), 2);
    }

    #[test]
    fn the_shortest_put_is_sixteen_bytes_and_barriers_are_apart() {
        assert_eq!(PAYLOAD_BYTES_MIN, 16);
        let mut subject = KvSubject::new(1, 10, 16);
        let write = Write { group: 0, key: KeyNumber::BARRIER, counter: 1 };
        assert_eq!(subject.payload(&write).len(), 16);
        subject.acknowledged(&write, EntryId::new(Term(1), Index(4)));
        assert_eq!(subject.floor(KeyNumber::BARRIER), 0);
        assert_eq!(version_of(&Bytes::from_static(&[9, 9])), None);
    }
}
