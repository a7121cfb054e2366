//! Every operation of the public API, awaited within a runtime of each flavour: none blocks it, none panics there, and
//! each can be waited for by a thread as well.
//!
//! That making a call does not block is shown with a state machine that holds the node's only worker: nothing can be
//! answered meanwhile, so a call that waited for an answer before it returned would never return.

use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use raftwerk::exactly_once::ExactlyOnce;
use raftwerk::identity::{ClusterAuthority, Identity};
use raftwerk::kv::codec::Change;
use raftwerk::kv::{Client, KvMachine, ShardMap, Store, codec};
use raftwerk::{
    AcceptLossError, Call, Checkpoint, Committed, Consistency, Engine, EntryId, GroupId, Index, Loss, NodeId,
    PeerId, ProposeError, ReadOptions, Reconfiguration, ReplaceError, ReplicaError, Replies, ReviveError,
    Session, StateMachine, Term,
};
use raftwerk_tests::facts::until;

const NODE: NodeId = NodeId(1);
const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

fn identity() -> Identity {
    ClusterAuthority::new("one-face").expect("it succeeds").issue(PeerId(NODE.0)).expect("it succeeds")
}

fn open(directory: &Path, identity: &Identity) -> Call<Engine, raftwerk::OpenError> {
    Engine::builder(NODE, directory.join("data"))
        .identity(identity.clone())
        .listen("127.0.0.1:0".parse().expect("it succeeds"))
        .workers(2)
        .payload_bytes_max(64 << 10)
        .with(|config| config.accept_losses = true)
        .open(|_group| ExactlyOnce::new(KvMachine::new()))
}

async fn every_operation(directory: std::path::PathBuf) {
    let identity = identity();
    let engine = open(&directory, &identity).await.expect("it succeeds");
    groups(&engine).await;
    stores(&engine, &directory).await;
    // And waited for, on a thread of the runtime.
    assert_eq!(engine.groups().wait(), Ok(vec![GROUP, OTHER]));
    assert!(engine.group(GROUP).status().wait().is_ok());
    assert!(engine.group(GROUP).propose(codec_put(b"k")).wait().is_ok());
    assert_eq!(engine.shutdown().await, Ok(()));
    assert_eq!(engine.shutdown().await, Ok(()), "and again");
    assert_eq!(engine.groups().await, Err(ReplicaError::Closed));
    assert_eq!(engine.group(GROUP).propose(codec_put(b"k")).await, Err(ProposeError::Closed));
    drop(engine);
    open(&directory, &identity).await.expect("it succeeds").shutdown().await.expect("it succeeds");
}

fn codec_put(key: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    codec::put(&mut payload, key, b"value");
    payload
}

/// What a node and its groups offer.
async fn groups(engine: &Engine) {
    let group = engine.create_group(GROUP, &[NODE]).await.expect("it succeeds");
    engine.create_groups(&[GROUP, OTHER], &[NODE]).await.expect("it succeeds");
    assert_eq!(engine.groups().await, Ok(vec![GROUP, OTHER]));
    while group.read(Vec::new()).await.is_err() {}
    while engine.group(OTHER).read(Vec::new()).await.is_err() {}
    assert_eq!(group.status().await.expect("it succeeds").leader, Some(NODE));
    let session = Session::new();
    let applied = group.propose_in(codec_put(b"a"), &session).await.expect("it succeeds");
    assert_eq!(session.written(GROUP), applied.id.index);
    group.propose(codec_put(b"b")).await.expect("it succeeds");
    group.propose_relaxed(codec_put(b"c")).await.expect("it succeeds");
    let options =
        ReadOptions::new(Consistency::ReadMyWrites).or_wait(Duration::from_secs(5)).in_session(&session);
    assert!(group.query(Vec::new(), options).await.expect("it succeeds").index >= applied.id.index);
    let frozen = group.freeze(options).await.expect("it succeeds");
    assert!(session.seen(GROUP) >= frozen.index());
    assert!(group.digest().await.is_ok());
    group.reconfigure(Reconfiguration::of([])).await.expect("it succeeds");
    assert!(group.transfer_leadership(NODE).await.is_err(), "there is no other voter");
    let third = engine.join_group(GroupId(3)).await.expect("it succeeds");
    assert_eq!(engine.loss(GroupId(3)).await, Ok(None));
    assert_eq!(engine.remove_group(GroupId(3)).await, Ok(()));
    assert_eq!(third.status().await, Err(ReplicaError::NoReplica(GroupId(3))));
    engine.join_group_as_witness(GroupId(4)).await.expect("it succeeds");
    assert_eq!(engine.group(GroupId(4)).digest().await, Err(ReplicaError::NoState(GroupId(4))));
    engine.remove_group(GroupId(4)).await.expect("it succeeds");
    assert_eq!(engine.revive(GROUP).await, Err(ReviveError::None));
    let lost = Loss { group: GROUP, fence: Term(0), last: EntryId::default(), applied: Index(0) };
    assert_eq!(engine.accept_loss(lost).await, Err(AcceptLossError::None));
    let replaced = engine.replace_peer(NodeId(2), engine.log_id()).await;
    assert!(matches!(replaced, Ok(()) | Err(ReplaceError::Member(_) | ReplaceError::Disk)), "{replaced:?}");
}

/// What a store and its client offer.
async fn stores(engine: &Engine, directory: &Path) {
    let map = ShardMap::new([(&b""[..], GROUP), (b"m", OTHER)]).expect("it succeeds");
    let path = directory.join("shards");
    let store = Store::create(engine, &path, map, &[NODE]).await.expect("it succeeds");
    let version = store.put(b"apple", b"red").await.expect("it succeeds");
    assert_eq!(store.get(b"apple").await.expect("it succeeds").expect("it succeeds").version, version);
    assert_eq!(store.version(b"apple").await, Ok(Some(version)));
    store.compare_and_set(b"zebra", None, Some(b"black")).await.expect("it succeeds");
    store.batch(&[Change::Delete { key: b"nothing" }]).await.expect("it succeeds");
    let many = store.get_many(&[b"apple", b"zebra"]).await.expect("it succeeds");
    assert!(many.iter().all(|found| found.value.is_some()));
    let mut scanner = store.scan(b"apple", None);
    let mut keys = Vec::new();
    while let Some(items) = scanner.next_page().await.expect("it succeeds") {
        keys.extend(items.into_iter().map(|item| item.key));
    }
    assert_eq!((keys.first().map(|key| &key[..]), keys.len()), (Some(&b"apple"[..]), 4));
    assert_eq!(store.delete(b"zebra").await, Ok(true));
    let client = Client::new();
    client.register(&store, b"once").await.expect("it succeeds");
    let once = client.put(&store, b"once", b"1").expect("it succeeds");
    assert_eq!(once.send(&store).await, once.send(&store).await);
    let opened = Store::open(engine, &path).await.expect("it succeeds");
    assert!(opened.get(b"apple").await.expect("it succeeds").is_some());
}

#[test]
fn a_runtime_of_one_thread_awaits_every_operation() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(every_operation(directory.path().to_owned()));
}

#[test]
fn a_runtime_of_many_threads_awaits_every_operation() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let directory_of_task = directory.path().to_owned();
    runtime.block_on(async { tokio::spawn(every_operation(directory_of_task)).await }).unwrap();
}

/// A machine that holds its worker at the first entry until the test lets go.
struct Held(Arc<Mutex<Option<Gate>>>);

/// Where the machine reports that it holds, and where it learns to go on.
type Gate = (Sender<()>, Receiver<()>);

impl StateMachine for Held {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        for entry in entries {
            if let Some((holds, go_on)) = self.0.lock().expect("the test waits").take() {
                holds.send(()).expect("the test waits");
                let _test_is_over = go_on.recv();
            }
            replies.push(entry.index, Bytes::new());
        }
    }

    fn query(&self, query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(query)
    }

    fn checkpoint(&self) -> Checkpoint {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _image: &mut dyn Read) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether a call that was just made is still open.
fn is_open<T, E>(call: &mut Call<T, E>) -> bool {
    matches!(Pin::new(call).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

#[test]
fn a_call_returns_before_its_answer_exists() {
    let directory = tempfile::tempdir().unwrap();
    let (holds, held) = channel();
    let (go_on, waits) = channel();
    let gate = Arc::new(Mutex::new(Some((holds, waits))));
    let engine = Engine::builder(NODE, directory.path().join("data"))
        .identity(identity())
        .workers(1)
        .open(move |_group| Held(Arc::clone(&gate)))
        .wait()
        .unwrap();
    let group = engine.create_group(GROUP, &[NODE]).wait().unwrap();
    until("a leader", || group.read(Vec::new()).wait().ok());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let first = group.propose("hold");
        held.recv().unwrap();
        let lost = Loss { group: GROUP, fence: Term(0), last: EntryId::default(), applied: Index(0) };
        let mut proposals = [group.propose("a"), group.propose_in("b", &Session::new())];
        let mut reads = [group.read("c"), group.query("d", Consistency::Eventual)];
        let (mut relaxed, mut status, mut digest) =
            (group.propose_relaxed("e"), group.status(), group.digest());
        let (mut groups, mut loss) = (engine.groups(), engine.loss(GROUP));
        let (mut creations, mut removal) = (
            [engine.create_group(OTHER, &[NODE]), engine.join_group(GroupId(3))],
            engine.remove_group(GroupId(4)),
        );
        let (mut accepted, mut revived) = (engine.accept_loss(lost), engine.revive(GROUP));
        let mut changed = (group.reconfigure(Reconfiguration::of([])), group.transfer_leadership(NODE));
        let mut closing = engine.shutdown();
        assert!(proposals.iter_mut().all(is_open) && reads.iter_mut().all(is_open) && is_open(&mut relaxed));
        assert!(is_open(&mut status) && is_open(&mut digest) && is_open(&mut groups) && is_open(&mut loss));
        assert!(creations.iter_mut().all(is_open) && is_open(&mut removal) && is_open(&mut accepted));
        assert!(
            is_open(&mut revived)
                && is_open(&mut changed.0)
                && is_open(&mut changed.1)
                && is_open(&mut closing)
        );
        go_on.send(()).unwrap();
        // Every one of them ends, with whatever outcome a node has that is closed meanwhile.
        let _outcomes = (first.await, relaxed.await, status.await, digest.await, groups.await, loss.await);
        let _outcomes = (removal.await, accepted.await, revived.await, changed.0.await, changed.1.await);
        for call in proposals {
            let _outcome = call.await;
        }
        for call in reads {
            let _outcome = call.await;
        }
        for call in creations {
            let _outcome = call.await;
        }
        assert_eq!(closing.await, Ok(()));
    });
}
