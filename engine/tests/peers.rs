//! Nodes as peers: one is made a stranger and named again, one gets another certificate while it runs. What the transport
//! does then is tested in `net`; here, that the engine passes it on, and that groups live through it.
#![allow(clippy::unwrap_used, reason = "tests")]

use raftwerk::identity::{ClusterAuthority, Validity};
use raftwerk::kv::KvMachine;
use raftwerk::{Config, Engine, NodeId, OpenError, PeerError, PeerId};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

struct Pair {
    authority: ClusterAuthority,
    one: Engine,
    two: Engine,
    _folder: tempfile::TempDir,
}

/// Two nodes that are told of each other.
fn pair() -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let authority = ClusterAuthority::new("peers").unwrap();
    let open = |node: NodeId| {
        let identity = authority.issue(PeerId(node.0)).unwrap();
        let mut config = Config::new(node, folder.path().join(node.0.to_string()), identity);
        (config.workers, config.segment_bytes) = (1, 1 << 20);
        config.payload_bytes_max = 64 << 10;
        Engine::open(config, |_| KvMachine::new()).unwrap()
    };
    let (one, two) = (open(ONE), open(TWO));
    one.set_address(TWO, two.local_addr());
    two.set_address(ONE, one.local_addr());
    Pair { authority, one, two, _folder: folder }
}

/// Waits for so many connections in all. A hang, not a wrong number, is what a failure looks like.
fn until_connections(engine: &Engine, count: u64) {
    while engine.net_stats().connections < count {
        std::thread::yield_now();
    }
}

#[test]
fn removed_peer_is_a_stranger_until_it_is_named_again() {
    let Pair { one, two, .. } = pair();
    until_connections(&one, 1);
    until_connections(&two, 1);
    two.remove_peer(ONE);
    while two.net_stats().strangers_refused == 0 {
        std::thread::yield_now();
    }
    while one.peer_error(TWO) != Some(PeerError::Unknown) {
        std::thread::yield_now();
    }
    assert_eq!(two.net_stats().connections, 1);
    two.set_address(ONE, one.local_addr());
    until_connections(&two, 2);
    until_connections(&one, 2);
    assert_eq!(two.stats().unread_units, 0);
}

#[test]
fn node_gets_another_identity_while_it_runs() {
    let Pair { authority, one, two, _folder } = pair();
    until_connections(&one, 1);
    until_connections(&two, 1);
    let other = authority.issue_for(PeerId(1), Validity::from_now(Validity::NODE / 2)).unwrap();
    one.set_identity(&other).unwrap();
    assert!(one.set_identity(&authority.issue(PeerId(2)).unwrap()).is_err(), "another node's");
    // The next connection goes by it.
    one.remove_peer(TWO);
    one.set_address(TWO, two.local_addr());
    until_connections(&one, 2);
    until_connections(&two, 2);
}

#[test]
fn limits_of_the_wire_are_checked_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let identity = ClusterAuthority::new("peers").unwrap().issue(PeerId(1)).unwrap();
    let mut config = Config::new(ONE, folder.path().join("data"), identity);
    config.stream_window_bytes = 1;
    let refused = Engine::open(config, |_| KvMachine::new()).map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Net(_)), "{refused}");
    assert!(!folder.path().join("data").exists());
}
