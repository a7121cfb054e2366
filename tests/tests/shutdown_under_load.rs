//! A node is shut down while many threads use it by every face: each call ends, what was acknowledged is there when the node
//! is opened again, and what is sent once more then has had one effect. With its real threads, disks and wake-ups; the same
//! under simulated faults is the simulator's (`tests/sim/src/world/faces`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use raftwerk::exactly_once::ExactlyOnce;
use raftwerk::identity::{ClusterAuthority, Identity};
use raftwerk::kv::codec::{self, Swap};
use raftwerk::kv::{Client, KvMachine, Once, ShardMap, Store, StoreError};
use raftwerk::{
    Call, Completion, Config, Engine, GroupId, Index, NodeId, Outcome, PeerId, ProposeError, ReadError,
};
use raftwerk_tests::facts::{ends, until};

const GROUPS: u64 = 4;
/// What each kind of user has done before the node is shut down.
const ENOUGH: u64 = 300;
/// Operations that a pipeline has in flight.
const IN_FLIGHT: usize = 512;
/// Calls that a user of the store, or a client, has open at a time.
const WINDOW: usize = 16;

/// How far each kind of user is.
#[derive(Default)]
struct Progress {
    pipelines: AtomicU64,
    stores: AtomicU64,
    clients: AtomicU64,
    scans: AtomicU64,
}

fn open(directory: &Path, identity: &Identity) -> (Engine, Store) {
    let mut config = Config::new(NodeId(1), directory.join("data"), identity.clone());
    (config.workers, config.segment_bytes, config.payload_bytes_max) = (2, 1 << 20, 1 << 16);
    config.checkpoint_log_bytes = 64 << 10;
    let engine =
        Engine::open(config, |_group| ExactlyOnce::new(KvMachine::new())).wait().expect("the node opens");
    let map = ShardMap::uniform((1..=GROUPS).map(GroupId)).expect("a map of a few groups");
    let store =
        Store::create(&engine, &directory.join("shards"), map, &[NodeId(1)]).wait().expect("the store opens");
    for group in 1..=GROUPS {
        let group = engine.group(GroupId(group));
        until("a leader", || group.read(vec![]).wait().ok());
    }
    (engine, store)
}

/// A key of one shard or another.
fn key(kind: u8, number: u64) -> Vec<u8> {
    [&[(number * 37) as u8, kind][..], &number.to_be_bytes()].concat()
}

/// Proposes and reads through a pipeline until it is told that the node is closed; which marks were acknowledged.
fn use_pipeline(engine: &Engine, map: &ShardMap, progress: &Progress) -> Vec<u64> {
    let mut pipeline = engine.pipeline(IN_FLIGHT);
    let (mut next, mut open, mut acknowledged) = (0, BTreeMap::new(), Vec::new());
    let mut is_closed = false;
    let mut done: Vec<Completion> = Vec::new();
    until("a pipeline's completions, to the last", || {
        while !is_closed && pipeline.in_flight() < IN_FLIGHT {
            let mut bytes = Vec::new();
            let group = map.route(&key(b'p', next));
            if next % 4 == 3 {
                codec::get(&mut bytes, &key(b'p', next));
                pipeline.read(group, next, &bytes).expect("there is room in flight");
            } else {
                codec::put(&mut bytes, &key(b'p', next), &next.to_le_bytes());
                pipeline.propose(group, next, &bytes).expect("there is room in flight");
            }
            open.insert(next, next % 4 == 3);
            next += 1;
        }
        pipeline.flush();
        pipeline.take(&mut done);
        for Completion { token, outcome } in done.drain(..) {
            let reads = open.remove(&token).expect("a mark is answered once");
            match outcome {
                Outcome::Proposal(Ok(_)) if !reads => acknowledged.push(token),
                Outcome::Read(Ok(_)) if reads => {}
                Outcome::Proposal(Err(ProposeError::Closed | ProposeError::Unknown)) if !reads => {
                    is_closed = true
                }
                Outcome::Read(Err(ReadError::Closed)) if reads => is_closed = true,
                Outcome::Proposal(Err(ProposeError::Busy)) | Outcome::Read(Err(ReadError::Busy)) => {}
                other => panic!("{token}: {other:?}"),
            }
            progress.pipelines.fetch_add(1, Ordering::Relaxed);
        }
        (is_closed && pipeline.in_flight() == 0).then_some(())
    });
    assert!(open.is_empty(), "each mark is answered: {open:?}");
    acknowledged
}

/// Puts until the node is closed; which numbers were acknowledged, and their versions.
fn use_store(store: &Store, progress: &Progress) -> Vec<(u64, Index)> {
    let (mut open, mut acknowledged, mut next) =
        (Vec::<(u64, Call<Index, StoreError>)>::new(), Vec::new(), 0);
    let mut is_closed = false;
    while !is_closed || !open.is_empty() {
        while !is_closed && open.len() < WINDOW {
            open.push((next, store.put(&key(b's', next), &next.to_le_bytes())));
            next += 1;
        }
        let (number, write) = open.remove(0);
        match write.wait() {
            Ok(version) => acknowledged.push((number, version)),
            Err(StoreError::Propose(ProposeError::Closed | ProposeError::Unknown)) => is_closed = true,
            Err(StoreError::Propose(ProposeError::Busy)) => {}
            Err(other) => panic!("{number}: {other}"),
        }
        progress.stores.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// Counts on keys of its own, with several writes open, until the node is closed: what is open then, and how many there were.
fn use_client(client: &Client, store: &Store, progress: &Progress) -> (Vec<Once<Swap>>, u64) {
    until("a registration", || client.register(store, b"once").wait().ok());
    let (mut done, mut open) = (0, Vec::new());
    loop {
        while open.len() < WINDOW {
            let name = [&b"once"[..], &(done + open.len() as u64).to_be_bytes()].concat();
            open.push(
                client
                    .compare_and_set(store, &name, None, Some(b"1"))
                    .expect("it is registered, and few are open"),
            );
        }
        // All at once, then each once more, although most have their answer.
        let attempts: Vec<_> = open.iter().map(|once| once.send(store)).collect();
        let told = attempts.into_iter().map(Call::wait);
        let mut is_closed = told.fold(false, |before, told| before | is_closed(told));
        for once in &open {
            is_closed |= until("an answer", || match once.send(store).wait() {
                Err(StoreError::Propose(ProposeError::Busy)) => None,
                told => Some(self::is_closed(told)),
            });
        }
        if is_closed {
            let count = done + open.len() as u64;
            return (open, count);
        }
        done += open.len() as u64;
        open.clear();
        progress.clients.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one attempt of a client was told: that it is applied, or that the node is closed, which this gives.
fn is_closed(told: Result<Swap, StoreError>) -> bool {
    match told {
        Ok(Swap::Applied) | Err(StoreError::Propose(ProposeError::Busy)) => false,
        Err(StoreError::Propose(ProposeError::Closed | ProposeError::Unknown)) => true,
        other => panic!("{other:?}"),
    }
}

/// Walks through all keys, over and over, until the node is closed.
fn use_scans(store: &Store, progress: &Progress) {
    loop {
        let (mut scanner, mut last) = (store.scan(b"", None).page_limits(64, 1 << 16), Vec::new());
        loop {
            match scanner.next_page().wait() {
                Ok(Some(items)) => {
                    for item in items {
                        assert!(last.is_empty() || last < item.key.to_vec(), "keys rise");
                        last = item.key.to_vec();
                    }
                }
                Ok(None) => break,
                Err(StoreError::Read(ReadError::Closed)) => return,
                Err(StoreError::Read(ReadError::Busy)) => {}
                Err(other) => panic!("{other}"),
            }
            progress.scans.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The result of a thread that has to end.
fn result_of<T: Send + 'static>(what: &str, thread: JoinHandle<T>) -> T {
    match ends(what, move || thread.join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn shutdown_under_load_ends_calls_and_keeps_acknowledged_writes() {
    let directory = tempfile::tempdir().unwrap();
    let identity = ClusterAuthority::new("tests").unwrap().issue(PeerId(1)).unwrap();
    let (engine, store) = open(directory.path(), &identity);
    let progress = Arc::new(Progress::default());
    let client = Client::new();

    let (of_pipeline, map, at) = (engine.clone(), store.shard_map().clone(), Arc::clone(&progress));
    let pipelines = thread::spawn(move || use_pipeline(&of_pipeline, &map, &at));
    let (of_store, at) = (store.clone(), Arc::clone(&progress));
    let stores = thread::spawn(move || use_store(&of_store, &at));
    let (of_client, known, at) = (store.clone(), client.clone(), Arc::clone(&progress));
    let clients = thread::spawn(move || use_client(&known, &of_client, &at));
    let (of_scans, at) = (store.clone(), Arc::clone(&progress));
    let scans = thread::spawn(move || use_scans(&of_scans, &at));
    until("every user to have done something", || {
        let done = |of: &AtomicU64, enough: u64| of.load(Ordering::Relaxed) >= enough;
        let enough = done(&progress.pipelines, ENOUGH) && done(&progress.stores, ENOUGH);
        (enough && done(&progress.clients, 3) && done(&progress.scans, 3)).then_some(())
    });
    let closing = engine.clone();
    ends("a shutdown", move || closing.shutdown().wait()).unwrap();
    let marks = result_of("the user of a pipeline", pipelines);
    let numbers = result_of("the user of the store", stores);
    let (open_writes, count) = result_of("the client", clients);
    result_of("the scanner", scans);
    assert_eq!(store.put(b"late", b"").wait(), Err(StoreError::Propose(ProposeError::Closed)));
    assert_eq!(store.get(b"late").wait(), Err(StoreError::Read(ReadError::Closed)));
    drop((store, engine));

    let (engine, store) = open(directory.path(), &identity);
    for token in marks {
        let (group, mut query) = (engine.group(store.shard_map().route(&key(b'p', token))), Vec::new());
        codec::get(&mut query, &key(b'p', token));
        let found = codec::found(&group.read(query).wait().unwrap().reply).unwrap();
        assert_eq!(&found.expect("it was acknowledged").value[..], token.to_le_bytes());
    }
    for (number, version) in numbers {
        let found = store.get(&key(b's', number)).wait().unwrap().expect("it was acknowledged");
        assert_eq!((&found.value[..], found.version), (&number.to_le_bytes()[..], version));
    }
    for once in &open_writes {
        assert_eq!(once.send(&store).wait(), Ok(Swap::Applied), "it is applied now, or was then");
    }
    let counted = (0..count).map(|at| [&b"once"[..], &at.to_be_bytes()].concat());
    assert!(counted.into_iter().all(|name| store.get(&name).wait().unwrap().is_some()));
    engine.shutdown().wait().unwrap();
}
