//! The machine against a model, and its guarantees one by one.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use proptest::prelude::*;
use raftwerk_multiraft::CommittedEntry;

use super::*;
use crate::codec::{CodecError, Found, Swap};

/// Applies payloads as entries from this index on; gives the replies, empty ones included.
fn applied(machine: &mut KvMachine, first: u64, payloads: &[Vec<u8>], caller: Caller) -> Vec<Bytes> {
    let mut replies = Replies::new(caller);
    let indices: Vec<Index> = (first..).map(Index).take(payloads.len()).collect();
    for (index, payload) in indices.iter().zip(payloads) {
        machine.apply(Committed::one(CommittedEntry { index: *index, payload }), &mut replies);
    }
    indices.iter().map(|index| replies.to_entry(*index).cloned().unwrap_or_default()).collect()
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
    encoded(|out| codec::put(out, key, value))
}

fn delete(key: &[u8]) -> Vec<u8> {
    encoded(|out| codec::delete(out, key))
}

fn cas(key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Vec<u8> {
    encoded(|out| codec::compare_and_set(out, key, expected, new))
}

fn get(machine: &KvMachine, key: &[u8]) -> Option<(Vec<u8>, u64)> {
    let found = codec::found(&machine.query(&encoded(|out| codec::get(out, key)))).unwrap();
    let version = codec::found_version(&machine.query(&encoded(|out| codec::version(out, key)))).unwrap();
    assert_eq!(found.as_ref().map(|found| found.version), version);
    found.map(|found| (found.value.to_vec(), found.version.0))
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>),
    Delete(u8),
    CompareAndSet(u8, Option<Vec<u8>>, Option<Vec<u8>>),
    Batch(Vec<(u8, Option<Vec<u8>>)>),
    Noise(Vec<u8>),
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    // Few and short, so that expectations sometimes hold; one long.
    prop_oneof![Just(vec![]), Just(b"one".to_vec()), Just(b"two".to_vec()), Just(vec![3; 50])]
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..6u8;
    let maybe = || prop::option::of(value());
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key().prop_map(Step::Delete),
        4 => (key(), maybe(), maybe()).prop_map(|(key, expected, new)| Step::CompareAndSet(key, expected, new)),
        2 => prop::collection::vec((key(), maybe()), 0..5).prop_map(Step::Batch),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Step::Noise),
    ]
}

impl Step {
    fn payload(&self) -> Vec<u8> {
        match self {
            Self::Put(key, value) => put(&[*key], value),
            Self::Delete(key) => delete(&[*key]),
            Self::CompareAndSet(key, expected, new) => cas(&[*key], expected.as_deref(), new.as_deref()),
            Self::Batch(changes) => {
                let keys: Vec<[u8; 1]> = changes.iter().map(|(key, _)| [*key]).collect();
                let changes: Vec<Change<'_>> = changes
                    .iter()
                    .zip(&keys)
                    .map(|((_, value), key)| match value {
                        Some(value) => Change::Put { key, value },
                        None => Change::Delete { key },
                    })
                    .collect();
                encoded(|out| codec::batch(out, &changes))
            }
            // A first byte that no operation has.
            Self::Noise(bytes) => [&[0xF0], &bytes[..]].concat(),
        }
    }
}

type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

fn model_change(model: &mut Model, key: u8, value: Option<&Vec<u8>>, index: u64) -> bool {
    match value {
        Some(value) => model.insert(vec![key], (value.clone(), index)).is_some(),
        None => model.remove(&vec![key]).is_some(),
    }
}

/// Applies a step to the model and checks the reply.
fn model_step(model: &mut Model, step: &Step, index: u64, reply: &Bytes) {
    match step {
        Step::Put(key, value) => {
            model_change(model, *key, Some(value), index);
            assert_eq!(codec::nothing(reply), Ok(()));
        }
        Step::Delete(key) => {
            assert_eq!(codec::existed(reply), Ok(model_change(model, *key, None, index)));
        }
        Step::CompareAndSet(key, expected, new) => {
            let current = model.get(&vec![*key]).cloned();
            let outcome = if current.as_ref().map(|(value, _)| value) == expected.as_ref() {
                model_change(model, *key, new.as_ref(), index);
                Swap::Applied
            } else {
                Swap::Refused(
                    current.map(|(value, version)| Found { value: value.into(), version: Index(version) }),
                )
            };
            assert_eq!(codec::swapped(reply), Ok(outcome));
        }
        Step::Batch(changes) => {
            for (key, value) in changes {
                model_change(model, *key, value.as_ref(), index);
            }
            assert_eq!(codec::nothing(reply), Ok(()));
        }
        Step::Noise(_) => assert_eq!(codec::nothing(reply), Err(CodecError::Refused)),
    }
}

proptest! {
    #[test]
    fn it_does_and_answers_what_the_model_does_and_replicas_agree(
        steps in prop::collection::vec(step(), 1..60), cut in any::<prop::sample::Index>(), first in 1..1000u64,
    ) {
        let payloads: Vec<Vec<u8>> = steps.iter().map(Step::payload).collect();
        let (mut machine, mut model) = (KvMachine::new(), Model::new());
        let replies = applied(&mut machine, first, &payloads, Caller::Waits);
        for (nth, (step, reply)) in steps.iter().zip(&replies).enumerate() {
            model_step(&mut model, step, first + nth as u64, reply);
        }
        // Entries of one frame are applied together, and it is as if they were not.
        let (mut at_once, mut replies_at_once) = (KvMachine::new(), Replies::new(Caller::Waits));
        let entries = (first..).zip(&payloads).map(|(index, payload)| CommittedEntry { index: Index(index), payload });
        at_once.apply_all(entries, &mut replies_at_once);
        for (index, reply) in (first..).zip(&replies) {
            prop_assert_eq!(&replies_at_once.to_entry(Index(index)).cloned().unwrap_or_default(), reply);
        }
        prop_assert!(at_once.items().iter().eq(machine.items().iter()));

        let items: Model =
            machine.items().iter().map(|item| (item.key.to_vec(), (item.value.to_vec(), item.version.0))).collect();
        prop_assert_eq!(&items, &model);
        for key in 0..6u8 {
            prop_assert_eq!(get(&machine, &[key]), model.get(&vec![key]).cloned());
        }

        // A replica without waiting callers, restored from an image, holds the same state and gives no
        // replies.
        let cut = cut.index(payloads.len());
        let (mut early, mut late) = (KvMachine::new(), KvMachine::new());
        applied(&mut early, first, &payloads[..cut], Caller::Absent);
        let checkpoint = early.checkpoint();
        applied(&mut early, first + cut as u64, &payloads[cut..], Caller::Absent);
        let mut image = Vec::new();
        checkpoint(&mut image).unwrap();
        late.restore(&mut &image[..]).unwrap();
        let unseen = applied(&mut late, first + cut as u64, &payloads[cut..], Caller::Absent);
        prop_assert!(unseen.iter().all(Bytes::is_empty));
        prop_assert_eq!((early.digest(), late.digest()), (machine.digest(), machine.digest()));
        prop_assert!(late.items().iter().eq(machine.items().iter()));
    }

    #[test]
    fn pages_put_together_are_the_range(
        count in 0..300u32, from in 0..300u32, to in prop::option::of(0..300u32), items_max in 1..50u32,
        bytes_max in 0..200u32,
    ) {
        let mut machine = KvMachine::new();
        let payloads: Vec<Vec<u8>> = (0..count).map(|n| put(&n.to_be_bytes(), &vec![1; (n % 7) as usize])).collect();
        applied(&mut machine, 1, &payloads, Caller::Absent);
        let to_key = to.map(u32::to_be_bytes);
        let mut at = from.to_be_bytes().to_vec();
        let mut seen = Vec::new();
        loop {
            let scan = Scan { from: &at, to: to_key.as_ref().map(|to| &to[..]), items_max, bytes_max };
            let page = codec::page(&machine.query(&encoded(|out| codec::scan(out, &scan)))).unwrap();
            let bytes: usize = page.items.iter().map(|item| item.key.len() + item.value.len()).sum();
            prop_assert!(page.items.len() <= items_max as usize);
            prop_assert!(bytes <= bytes_max as usize || page.items.len() == 1);
            seen.extend(page.items.iter().map(|item| u32::from_be_bytes((&item.key[..]).try_into().unwrap())));
            if !page.more {
                break;
            }
            at = [&page.items.last().unwrap().key[..], &[0]].concat();
        }
        prop_assert_eq!(seen, (from..to.unwrap_or(count).min(count)).collect::<Vec<_>>());
    }
}

#[test]
fn a_put_costs_no_reply_and_a_malformed_entry_changes_nothing() {
    let mut machine = KvMachine::new();
    let replies =
        applied(&mut machine, 5, &[put(b"k", b"v"), vec![], vec![1, 9, b'k'], vec![0xFF; 3]], Caller::Waits);
    assert_eq!(replies, [&b""[..], INVALID, INVALID, INVALID]);
    assert_eq!(get(&machine, b"k"), Some((b"v".to_vec(), 5)));
    assert_eq!(machine.items().len(), 1);
}

#[test]
fn a_batch_with_one_malformed_change_is_refused_as_a_whole() {
    let mut machine = KvMachine::new();
    let mut payload = encoded(|out| codec::batch(out, &[Change::Put { key: b"a", value: b"1" }; 2]));
    payload.pop();
    assert_eq!(applied(&mut machine, 1, &[payload], Caller::Waits), [INVALID]);
    assert!(machine.items().is_empty());
}

#[test]
fn malformed_queries_are_answered_so() {
    let machine = KvMachine::new();
    for query in [&b""[..], b"\x09", b"\x03\x01"] {
        assert_eq!(codec::found(&machine.query(query)), Err(CodecError::Refused));
    }
}

#[test]
fn the_digest_tells_versions_and_boundaries_apart_but_not_histories() {
    let digest_of = |first: u64, payloads: &[Vec<u8>]| {
        let mut machine = KvMachine::new();
        applied(&mut machine, first, payloads, Caller::Absent);
        machine.digest()
    };
    let plain = digest_of(2, &[put(b"a", b"1")]);
    assert_ne!(plain, digest_of(3, &[put(b"a", b"1")]));
    assert_ne!(plain, digest_of(2, &[put(b"a1", b"")]));
    assert_ne!(plain, digest_of(2, &[put(b"", b"a1")]));
    assert_eq!(plain, digest_of(1, &[put(b"z", b"gone later"), put(b"a", b"1"), delete(b"z")]));
}

#[test]
fn a_damaged_image_leaves_the_machine_as_it_was() {
    let mut machine = KvMachine::new();
    applied(&mut machine, 1, &[put(b"a", b"1"), put(b"b", b"2")], Caller::Absent);
    let mut image = Vec::new();
    machine.checkpoint()(&mut image).unwrap();
    *image.last_mut().unwrap() ^= 1;
    let mut other = KvMachine::new();
    assert_eq!(other.restore(&mut &image[..]).unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(other.items().is_empty());
}
