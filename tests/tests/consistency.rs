//! Reads at six levels on real engines: what each level shows at every replica, what it does where it cannot serve, and
//! sessions that go from node to node; and writes that are sent again, and applied once. That no level ever shows less
//! than it says, under faults of every kind, is for `levels.rs` and the simulator to prove (`sim/src/world/readers.rs`).

use std::time::Duration;

use raftwerk::kv::codec::{Change, Swap};
use raftwerk::kv::{Client, Once, StoreError};
use raftwerk::{Consistency, GroupId, Index, NodeId, ReadError, ReadOptions, Session};
use raftwerk_tests::facts::until;
use raftwerk_tests::stores::{LONG, Stores};

const SHARD: GroupId = GroupId(1);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn put(stores: &Stores, key: &[u8], value: &[u8]) -> Index {
    stores.until_done("a write", |store| store.put(key, value).wait())
}

#[test]
fn every_replica_serves_every_level_with_its_index() {
    let stores = Stores::start(3, 1);
    let bounded = Consistency::BoundedStaleness(Duration::from_millis(50));
    let session = Session::new();
    for round in 0..5u8 {
        let version = put(&stores, b"key", &[round]);
        session.wrote(SHARD, version);
        for node in NODES {
            for level in [Consistency::Strong, Consistency::ReadMyWrites, Consistency::Monotonic] {
                let options = ReadOptions::new(level).in_session(&session).or_wait(LONG);
                let read = stores.at(node).at(options).get(b"key").wait().unwrap();
                assert_eq!(read.value.unwrap().value[..], [round], "{level:?} at {node}");
                assert!(read.index >= version);
            }
            let read =
                stores.at(node).at(ReadOptions::new(bounded).or_wait(LONG)).get(b"key").wait().unwrap();
            assert!(read.staleness.is_some(), "whoever serves a bound knows an age");
            for level in [Consistency::ConsistentPrefix, Consistency::Eventual] {
                let read = stores.at(node).at(level).get(b"key").wait().unwrap();
                assert!(
                    read.value.is_none_or(|found| found.value[0] <= round && found.version <= read.index)
                );
            }
        }
    }
    // Those that promised nothing come to the same in the end.
    for node in NODES {
        until("the last value everywhere", || {
            let read = stores.at(node).at(Consistency::Eventual).get(b"key").wait().unwrap();
            read.value.filter(|found| found.value[..] == [4])
        });
    }
}

#[test]
fn replica_that_cannot_serve_a_read_names_the_reason() {
    let stores = Stores::start(3, 1);
    put(&stores, b"key", b"1");
    let (leader, followers) = (stores.leader(SHARD), stores.followers(SHARD));
    let follower = stores.at(followers[0]);
    // It knows its leader when it has answered one that waits.
    let strong = ReadOptions::new(Consistency::Strong);
    follower.at(strong.or_wait(LONG)).get(b"key").wait().unwrap();
    let told = follower.at(strong).get(b"key").wait();
    assert_eq!(told, Err(StoreError::Read(ReadError::NotLeader { hint: Some(leader) })));
    // A session that has seen what never was.
    let ahead = Session::new();
    ahead.saw(SHARD, Index(1_000_000));
    let monotonic = ReadOptions::new(Consistency::Monotonic);
    for options in [monotonic, monotonic.or_wait(Duration::from_millis(20))] {
        let told = follower.at(options.in_session(&ahead)).get(b"key").wait();
        let Err(StoreError::Read(ReadError::Behind { applied, wanted })) = told else { panic!("{told:?}") };
        assert!(applied < wanted && wanted == Index(1_000_000));
    }
    let told = follower.at(monotonic).get(b"key").wait();
    assert_eq!(told, Err(StoreError::Read(ReadError::NoSession)));
}

#[test]
fn lone_node_serves_levels_that_need_no_quorum() {
    let mut stores = Stores::start(3, 1);
    let version = put(&stores, b"key", b"1");
    let left = stores.followers(SHARD)[0];
    let session = Session::new();
    session.wrote(SHARD, version);
    let own = ReadOptions::new(Consistency::ReadMyWrites).in_session(&session);
    stores.at(left).at(own.or_wait(LONG)).get(b"key").wait().unwrap();
    for node in NODES {
        if node != left {
            stores.close(node);
        }
    }
    let store = stores.at(left);
    for options in [own, ReadOptions::new(Consistency::Eventual), Consistency::ConsistentPrefix.into()] {
        let read = store.at(options).get(b"key").wait().unwrap();
        assert_eq!(&read.value.unwrap().value[..], b"1");
    }
    let short = Duration::from_millis(20);
    let told = store.at(ReadOptions::new(Consistency::Strong).or_wait(short)).get(b"key").wait();
    assert!(matches!(told, Err(StoreError::Read(ReadError::NotLeader { .. }))), "{told:?}");
    let level = Consistency::BoundedStaleness(Duration::from_millis(1));
    let told = store.at(ReadOptions::new(level).or_wait(short)).get(b"key").wait();
    assert!(matches!(told, Err(StoreError::Read(ReadError::Stale { .. }))), "{told:?}");
    // What it was told before the others left is good enough for whoever allows for that.
    let level = Consistency::BoundedStaleness(Duration::from_secs(3600));
    if let Ok(read) = store.at(level).get(b"key").wait() {
        assert!(read.staleness.unwrap() > Duration::ZERO);
    }
}

#[test]
fn session_reads_its_writes_and_never_goes_back() {
    let stores = Stores::start(3, 4);
    let keys = [&b"\x00a"[..], b"\x50b", b"\x90c", b"\xD0d"];
    let mut token = Session::new().to_token();
    let mut shown = [0u8; 4];
    for round in 1..40u8 {
        // Another process takes up the session at another node.
        let session = Session::from_token(&token).unwrap();
        let key = usize::from(round) % 4;
        stores.until_done("a write", |store| store.in_session(&session).put(keys[key], &[round]).wait());
        shown[key] = round;
        let session = Session::from_token(&session.to_token()).unwrap();
        let node = stores.at(NODES[usize::from(round) % 3]).in_session(&session);
        let level = if round % 2 == 0 { Consistency::Monotonic } else { Consistency::ReadMyWrites };
        let found = node.at(ReadOptions::new(level).or_wait(LONG)).get_many(&keys).wait().unwrap();
        for (at, read) in found.iter().enumerate() {
            let value = read.value.as_ref().map_or(0, |found| found.value[0]);
            assert_eq!(value, shown[at], "key {at} at round {round}, {level:?}");
            assert!(session.seen(GroupId(at as u64 + 1)) >= read.index);
        }
        token = session.to_token();
    }
}

#[test]
fn consistent_prefix_shows_keys_and_pages_of_one_moment() {
    let stores = Stores::start(3, 1);
    let keys: Vec<[u8; 2]> = (0..20).map(|n| [b'k', n]).collect();
    let all: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let write = |round: u8| {
        let value = [round];
        let changes: Vec<Change<'_>> = keys.iter().map(|key| Change::Put { key, value: &value }).collect();
        stores.until_done("a batch", |store| store.batch(&changes).wait());
    };
    write(0);
    let node = stores.followers(SHARD)[0];
    let prefix = ReadOptions::new(Consistency::ConsistentPrefix);
    let session = Session::new();
    let caught_up = ReadOptions::new(Consistency::Strong).in_session(&session).or_wait(LONG);
    stores.at(node).at(caught_up).get(b"k").wait().unwrap();
    for round in 1..20u8 {
        let mut scanner = stores.at(node).at(prefix).scan(b"k", None).page_limits(3, 1 << 20);
        let mut seen = Vec::new();
        while let Some(items) = scanner.next_page().wait().unwrap() {
            if seen.is_empty() {
                // In the middle of the walk everything changes.
                write(round);
                stores.at(node).at(caught_up).get(b"k").wait().unwrap();
            }
            seen.extend(items.iter().map(|item| item.value[0]));
        }
        assert_eq!(seen, vec![round - 1; keys.len()], "the state of before");
        let many = stores.at(node).at(prefix).get_many(&all).wait().unwrap();
        let values: Vec<u8> = many.iter().map(|read| read.value.as_ref().unwrap().value[0]).collect();
        assert_eq!(values, vec![round; keys.len()]);
        assert!(many.iter().all(|read| read.index == many[0].index));
    }
}

/// Sends a write until it has an answer, whatever becomes of its attempts.
fn settle<T: 'static>(stores: &Stores, once: &Once<T>) -> T {
    until("a write's answer", || stores.all().find_map(|store| once.send(store).wait().ok()))
}

#[test]
fn repeated_write_is_applied_once_across_leader_changes() {
    let mut stores = Stores::start(3, 1);
    let client = Client::new();
    stores.until_done("a registration", |store| client.register(store, b"sum").wait());
    let mut sum = 0u64;
    for round in 0..6 {
        for _ in 0..10 {
            let (old, new) = (sum.to_string(), (sum + 1).to_string());
            let expected = (sum > 0).then_some(old.as_bytes());
            let store = stores.all().next().unwrap();
            let once = client.compare_and_set(store, b"sum", expected, Some(new.as_bytes())).unwrap();
            let answers = [settle(&stores, &once), settle(&stores, &once)];
            assert_eq!(answers, [Swap::Applied, Swap::Applied], "the second is the first one's answer");
            sum += 1;
        }
        // Under way while the leader goes: whatever its attempts are told, it is applied once.
        let leader = stores.leader(SHARD);
        let (old, new) = (sum.to_string(), (sum + 1).to_string());
        let once = client
            .compare_and_set(stores.at(leader), b"sum", Some(old.as_bytes()), Some(new.as_bytes()))
            .unwrap();
        let attempts: Vec<_> = (0..4).map(|_| once.send(stores.at(leader))).collect();
        stores.close(leader);
        for attempt in attempts {
            if let Ok(answer) = attempt.wait() {
                assert_eq!(answer, Swap::Applied);
            }
        }
        assert_eq!(settle(&stores, &once), Swap::Applied, "round {round}");
        sum += 1;
        stores.open(leader);
    }
    let strong = ReadOptions::new(Consistency::Strong).or_wait(LONG);
    let found = stores.until_done("a read", |store| store.at(strong).get(b"sum").wait());
    assert_eq!(found.value.unwrap().value, sum.to_string());
}
