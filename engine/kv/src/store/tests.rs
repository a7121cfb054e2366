//! The store on a node that is alone in its groups: routing, replies, and what is refused before anything is sent.

use super::*;
use crate::codec::CodecError;
use crate::{KvMachine, ShardFileError};
use raftwerk_multiraft::ProposeError;
use raftwerk_multiraft::identity::ClusterAuthority;
use raftwerk_multiraft::{Config, Engine, NodeId, PeerId};

const NODE: NodeId = NodeId(1);

fn engine(directory: &Path) -> Engine {
    let identity = ClusterAuthority::new("kv").unwrap().issue(PeerId(NODE.0)).unwrap();
    let mut config = Config::new(NODE, directory.join("data"), identity);
    config.segment_bytes = 1 << 20;
    config.payload_bytes_max = 1 << 16;
    Engine::open(config, |_group| KvMachine::new()).wait().unwrap()
}

fn map() -> ShardMap {
    ShardMap::new([(&b""[..], GroupId(1)), (b"g", GroupId(2)), (b"p", GroupId(3))]).unwrap()
}

/// A node, and a store of it with a leader in every group.
fn opened() -> (tempfile::TempDir, Engine, Store) {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(directory.path());
    let store = led_store(&engine, directory.path());
    (directory, engine, store)
}

/// A store with a leader in every group: each has applied a write, of a key that was deleted again.
fn led_store(engine: &Engine, directory: &Path) -> Store {
    let store = Store::create(engine, &directory.join("shards"), map(), &[NODE]).wait().unwrap();
    for shard in map().ranges() {
        loop {
            match store.delete(shard.first).wait() {
                Err(StoreError::Propose(ProposeError::NotLeader { .. })) => std::thread::yield_now(),
                other => break assert!(!other.unwrap()),
            }
        }
    }
    store
}

fn scanned(scanner: &mut Scanner) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(items) = scanner.next_page().wait().unwrap() {
        assert!(!items.is_empty());
        all.extend(items.iter().map(|item| (item.key.to_vec(), item.value.to_vec())));
    }
    all
}

#[test]
fn what_is_written_is_read_from_the_shard_it_belongs_to() {
    let (_directory, engine, store) = opened();

    let version = store.put(b"apple", b"red").wait().unwrap();
    assert_eq!(store.get(b"apple").wait().unwrap(), Some(Found { value: "red".into(), version }));
    assert_eq!(store.version(b"apple").wait().unwrap(), Some(version));
    assert_eq!((store.get(b"pear").wait(), store.version(b"pear").wait()), (Ok(None), Ok(None)));

    let refused = Swap::Refused(Some(Found { value: "red".into(), version }));
    assert_eq!(store.compare_and_set(b"apple", None, Some(b"blue")).wait(), Ok(refused));
    assert_eq!(store.compare_and_set(b"apple", Some(b"red"), Some(b"green")).wait(), Ok(Swap::Applied));
    assert_eq!(store.compare_and_set(b"apple", Some(b"green"), None).wait(), Ok(Swap::Applied));
    assert_eq!(store.compare_and_set(b"apple", Some(b"green"), None).wait(), Ok(Swap::Refused(None)));

    store.put(b"house", b"1").wait().unwrap();
    assert_eq!((store.delete(b"house").wait(), store.delete(b"house").wait()), (Ok(true), Ok(false)));
    engine.shutdown().wait().unwrap();
}

#[test]
fn a_batch_stays_within_one_shard() {
    let (_directory, engine, store) = opened();

    let put = |key: &'static [u8]| Change::Put { key, value: b"1" };
    let version = store.batch(&[put(b"a"), put(b"b"), Change::Delete { key: b"a" }]).wait().unwrap();
    assert_eq!((store.version(b"a").wait(), store.version(b"b").wait()), (Ok(None), Ok(Some(version))));

    let cross = StoreError::CrossShard { first: GroupId(1), other: GroupId(3) };
    assert_eq!(store.batch(&[put(b"c"), put(b"z")]).wait(), Err(cross));
    assert_eq!(store.get(b"c").wait(), Ok(None));
    assert_eq!(store.batch(&[]).wait(), Err(StoreError::EmptyBatch));
    engine.shutdown().wait().unwrap();
}

#[test]
fn a_scan_goes_through_the_shards_in_key_order_whatever_the_size_of_its_pages() {
    let (_directory, engine, store) = opened();

    let keys: Vec<[u8; 2]> = (b'a'..=b'z').flat_map(|a| [[a, b'1'], [a, b'2']]).collect();
    let writes: Vec<Call<Index, StoreError>> = keys.iter().rev().map(|key| store.put(key, key)).collect();
    for write in writes {
        write.wait().unwrap();
    }
    for items_max in [0, 1, 3, 5, 100] {
        for (from, to) in [(&b""[..], None), (b"c2", Some(&b"q"[..])), (b"g", Some(b"p")), (b"h", Some(b"h"))]
        {
            let in_range = |key: &&[u8; 2]| &key[..] >= from && to.is_none_or(|to| &key[..] < to);
            let expected: Vec<_> =
                keys.iter().filter(in_range).map(|key| (key.to_vec(), key.to_vec())).collect();
            assert_eq!(scanned(&mut store.scan(from, to).page_limits(items_max, 1 << 20)), expected);
        }
    }
    engine.shutdown().wait().unwrap();
}

#[test]
fn the_same_calls_can_be_awaited() {
    let (_directory, engine, store) = opened();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let version = store.put(b"k", b"v").await.unwrap();
        assert_eq!(store.get(b"k").await.unwrap().unwrap().version, version);
        let mut scanner = store.scan(b"", None);
        assert_eq!(scanner.next_page().await.unwrap().unwrap().len(), 1);
        assert_eq!(scanner.next_page().await, Ok(None));
        assert_eq!(store.batch(&[]).await, Err(StoreError::EmptyBatch));
    });
    engine.shutdown().wait().unwrap();
}

#[test]
fn a_key_over_the_limit_is_refused_before_it_is_sent() {
    let (_directory, engine, store) = opened();
    let long = vec![b'a'; KEY_BYTES_MAX + 1];
    let refused = StoreError::KeyTooLarge { bytes: KEY_BYTES_MAX + 1 };
    assert_eq!(store.put(&long, b"").wait(), Err(refused.clone()));
    assert_eq!(store.get(&long).wait(), Err(refused.clone()));
    assert_eq!(store.batch(&[Change::Delete { key: &long }]).wait(), Err(refused));
    assert!(store.put(&long[1..], b"").wait().is_ok());
    assert_eq!(scanned(&mut store.scan(&long, None)), []);
    // Sent directly to the group, it is refused by the machine itself.
    let mut payload = Vec::new();
    codec::put(&mut payload, &long, b"");
    let applied = engine.group(GroupId(1)).propose(payload).wait().unwrap();
    assert_eq!(codec::nothing(&applied.reply), Err(CodecError::Refused));
    engine.shutdown().wait().unwrap();
}

#[test]
fn a_store_is_opened_with_the_map_and_the_groups_it_was_created_with_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(directory.path());
    let path = directory.path().join("shards");
    assert!(matches!(
        Store::open(&engine, &path).wait(),
        Err(StoreOpenError::Map(ShardFileError::Io { .. }))
    ));
    map().save(&path).unwrap();
    assert!(matches!(Store::open(&engine, &path).wait(), Err(StoreOpenError::NoSuchGroup(GroupId(1)))));

    let created = led_store(&engine, directory.path());
    let version = created.put(b"x", b"1").wait().unwrap();
    let opened = Store::open(&engine, &path).wait().unwrap();
    assert_eq!(opened.shard_map(), &map());
    assert_eq!(opened.version(b"x").wait(), Ok(Some(version)));

    let other = ShardMap::uniform([GroupId(1), GroupId(2)]).unwrap();
    let mismatch = Store::create(&engine, &path, other, &[NODE]).wait();
    assert!(matches!(mismatch, Err(StoreOpenError::Map(ShardFileError::Mismatch { .. }))));
    engine.shutdown().wait().unwrap();
}

/// 1,024 keys, or one that often, may hold gigabytes: a reply is limited to one MiB, and the rest is looked
/// up outside the worker.
#[test]
fn many_keys_that_hold_much_are_of_one_moment_and_hold_nobody_up() {
    let (_directory, engine, store) = opened();
    let value = vec![7; 60 << 10];
    let keys: Vec<Vec<u8>> = (b'h'..b'l').map(|byte| vec![byte]).collect();
    for key in &keys {
        store.put(key, &value).wait().unwrap();
    }
    store.put(b"a", b"1").wait().unwrap();
    // In one shard the four keys a hundred times over, and others around them.
    let mut wanted: Vec<&[u8]> = vec![b"a", b"absent"];
    wanted.extend((0..400).map(|at| &keys[at % keys.len()][..]));
    wanted.push(b"zoo");

    let mut query = Vec::new();
    codec::get_many(&mut query, wanted[2..402].iter().copied());
    let answer = engine.group(GroupId(2)).read(query).wait().unwrap();
    assert!(answer.reply.len() <= codec::MANY_BYTES_MAX, "{} bytes at once", answer.reply.len());
    assert_eq!(
        codec::found_many(&answer.reply, 400).unwrap().len(),
        codec::MANY_BYTES_MAX / (value.len() + 19)
    );

    let waited = store.get_many(&wanted).wait().unwrap();
    let awaited = pollster::block_on(store.get_many(&wanted)).unwrap();
    for found in [waited, awaited] {
        assert_eq!(found.len(), wanted.len());
        let bytes: Vec<usize> =
            found.iter().map(|served| served.value.as_ref().map_or(0, |found| found.value.len())).collect();
        assert_eq!((bytes[0], bytes[1], bytes[402]), (1, 0, 0));
        assert!(bytes[2..402].iter().all(|bytes| *bytes == value.len()));
        assert!(found[2..402].iter().all(|served| served.index == found[2].index), "of one moment");
    }
    engine.shutdown().wait().unwrap();
}
