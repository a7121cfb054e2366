//! Calls that wait, made where nobody should wait: within an asynchronous runtime, and in a state machine; and ends of a node that
//! several wait for, or that take longer than they are waited for.

use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use raftwerk::identity::{ClusterAuthority, Identity};
use raftwerk::{
    Checkpoint, Committed, Config, CreateError, Engine, GroupId, NodeId, PeerId, ReplicaError, Replies,
    ShutdownError, StateMachine,
};
use raftwerk_tests::facts::until;

const GROUP: GroupId = GroupId(1);
const VOTERS: [NodeId; 1] = [NodeId(1)];

/// What is called at each payload.
type Call = dyn Fn(&[u8]) + Send + Sync;

/// Calls what the test says.
struct Calling(Arc<Call>);

impl StateMachine for Calling {
    fn apply(&mut self, entries: Committed<'_>, _: &mut Replies) {
        entries.for_each(|entry| (self.0)(entry.payload));
    }

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn checkpoint(&self) -> Checkpoint {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

fn open(
    directory: &Path,
    identity: &Identity,
    change: impl FnOnce(&mut Config),
    call: impl Fn(&[u8]) + Send + Sync + 'static,
) -> Engine {
    let mut config = Config::new(NodeId(1), directory.join("data"), identity.clone());
    (config.workers, config.lanes, config.segment_bytes) = (2, Some(3), 1 << 20);
    config.payload_bytes_max = 1 << 16;
    change(&mut config);
    let call: Arc<Call> = Arc::new(call);
    Engine::open(config, move |_| Calling(Arc::clone(&call))).wait().expect("the node opens")
}

fn identity() -> Identity {
    let authority = ClusterAuthority::new("tests").expect("a name of letters will do");
    authority.issue(PeerId(1)).expect("an identity")
}

fn lead(engine: &Engine) {
    let group = engine.create_group(GROUP, VOTERS.as_slice()).wait().expect("a group can be made");
    until("a leader", || group.read(vec![]).wait().ok());
}

#[test]
fn every_call_that_waits_can_be_made_in_a_task() {
    let directory = tempfile::tempdir().expect("a folder");
    let identity = identity();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let engine = open(directory.path(), &identity, |_| (), |_| ());
        lead(&engine);
        let group = engine.group(GROUP);
        // More than a task may do without its runtime's turn.
        for _ in 0..300 {
            assert_eq!(engine.groups().wait(), Ok(vec![GROUP]));
        }
        assert!(group.status().wait().ok().is_some_and(|status| status.quarantine.is_none()));
        assert!(group.propose(&b"waited for"[..]).wait().is_ok());
        assert!(group.propose(&b"awaited"[..]).await.is_ok());
        assert_eq!(engine.loss(GROUP).wait(), Ok(None));
        assert!(engine.join_group(GroupId(2)).wait().is_ok());
        assert_eq!(engine.remove_group(GroupId(2)).wait(), Ok(()));
        assert_eq!(engine.shutdown().wait(), Ok(()));
        assert_eq!(engine.create_group(GROUP, VOTERS.as_slice()).wait().err(), Some(CreateError::Closed));
    });
}

#[test]
fn state_machine_may_shut_down_its_own_node() {
    let directory = tempfile::tempdir().expect("a folder");
    let (handle, told): (Arc<OnceLock<Engine>>, _) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
    let (its_handle, its_told) = (Arc::clone(&handle), Arc::clone(&told));
    let call = move |_: &[u8]| {
        if let Some(engine) = its_handle.get() {
            // A call that waits for a worker is refused where it may be this one.
            let status = engine.group(GROUP).status().wait().map(drop);
            its_told.lock().expect("no test panics with it").push((status, engine.shutdown().wait()));
        }
    };
    let engine = open(directory.path(), &identity(), |_| (), call);
    lead(&engine);
    let group = engine.group(GROUP);
    handle.set(engine.clone()).ok().expect("it is set once");
    let _applied_or_unknown = group.propose(&b"the end"[..]).wait();
    assert_eq!(engine.shutdown().wait(), Ok(()), "others wait for it");
    assert_eq!(
        *told.lock().expect("no test panics with it"),
        [(Err(ReplicaError::Closed), Err(ShutdownError::OwnThread))]
    );
}

/// What a machine that hangs at a payload is told through, and tells through. It meets those of its former lives, too.
fn gate(at: &'static [u8]) -> (impl Fn(&[u8]) + Send + Sync + 'static, Receiver<()>, Sender<()>) {
    let (tell, told) = channel();
    let (go_on, wait) = channel::<()>();
    let (tell, wait) = (Mutex::new(tell), Mutex::new(wait));
    let call = move |payload: &[u8]| {
        if payload == at {
            tell.lock().expect("no panic").send(()).expect("the test listens");
            let _the_test_is_over = wait.lock().expect("no panic").recv();
        }
    };
    (call, told, go_on)
}

#[test]
fn shutdown_past_its_limit_returns_and_waiters_see_the_end() {
    let (directory, identity) = (tempfile::tempdir().expect("a folder"), identity());
    let (call, hangs, go_on) = gate(b"hang");
    let hasty = |config: &mut Config| config.shutdown_patience = Duration::ZERO;
    let engine = open(directory.path(), &identity, hasty, call);
    lead(&engine);
    let hanging = engine.group(GROUP).propose(&b"hang"[..]);
    hangs.recv().expect("it is applied");
    assert_eq!(engine.shutdown().wait(), Err(ShutdownError::Unfinished), "its thread has not ended");
    drop(hanging);
    drop(go_on);
    until("the thread to end", || engine.shutdown().wait().ok());
    drop(engine);

    // Several at once: none returns before all has ended, so that the directory can be opened at once.
    let (call, hangs, go_on) = gate(b"hang again");
    let engine = open(directory.path(), &identity, |_| (), call);
    until("a leader", || engine.group(GROUP).read(vec![]).wait().ok());
    let hanging = engine.group(GROUP).propose(&b"hang again"[..]);
    hangs.recv().expect("it is applied");
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let engine = engine.clone();
            std::thread::spawn(move || engine.shutdown().wait())
        })
        .collect();
    drop(go_on);
    assert!(waiting.into_iter().all(|waiting| waiting.join().expect("no panic").is_ok()));
    assert!(open_again(directory.path(), &identity), "the directory is free");
    drop(hanging);
}

fn open_again(directory: &Path, identity: &Identity) -> bool {
    let config = Config::new(NodeId(1), directory.join("data"), identity.clone());
    Engine::open(config, |_| Calling(Arc::new(|_: &[u8]| ()))).wait().is_ok()
}
