//! Nodes as peers: one is removed and named again, one gets another certificate while it runs. The
//! transport's part is tested in `net`; here, that the engine passes it on, and that groups survive it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raftwerk::identity::{ClusterAuthority, Validity};
use raftwerk::kv::KvMachine;
use raftwerk::{Condition, Config, Engine, NodeId, OnEvent, OpenError, PeerError, PeerId};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

struct Pair {
    authority: ClusterAuthority,
    one: Engine,
    two: Engine,
    _folder: tempfile::TempDir,
}

/// Two nodes that have each other's addresses.
fn pair() -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let authority = ClusterAuthority::new("peers").unwrap();
    let open = |node: NodeId| {
        let identity = authority.issue(PeerId(node.0)).unwrap();
        let mut config = Config::new(node, folder.path().join(node.0.to_string()), identity);
        (config.workers, config.segment_bytes) = (1, 1 << 20);
        config.payload_bytes_max = 64 << 10;
        Engine::open(config, |_| KvMachine::new()).wait().unwrap()
    };
    let (one, two) = (open(ONE), open(TWO));
    one.set_address(TWO, two.local_addr());
    two.set_address(ONE, one.local_addr());
    Pair { authority, one, two, _folder: folder }
}

/// Waits for `count` connections in all. On failure it hangs, rather than return a wrong number.
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
    // The next connection uses it.
    one.remove_peer(TWO);
    one.set_address(TWO, two.local_addr());
    until_connections(&one, 2);
    until_connections(&two, 2);
}

/// A node with a certificate of this validity, and its events about certificates.
fn open_until(
    folder: &Path,
    authority: &ClusterAuthority,
    node: NodeId,
    validity: Validity,
) -> (Engine, Told) {
    let identity = authority.issue_for(PeerId(node.0), validity).unwrap();
    let mut config = Config::new(node, folder.join(node.0.to_string()), identity);
    (config.workers, config.segment_bytes, config.payload_bytes_max) = (1, 1 << 20, 64 << 10);
    let told = Told::default();
    let sink = Arc::clone(&told);
    config.on_event = Some(OnEvent::new(move |event| {
        if event.condition.to_string().contains("certificate") {
            sink.lock().unwrap().push((event.condition.clone(), event.is_over));
        }
    }));
    (Engine::open(config, |_| KvMachine::new()).wait().unwrap(), told)
}

type Told = Arc<Mutex<Vec<(Condition, bool)>>>;

fn until_told(told: &Told, count: usize) -> Vec<(Condition, bool)> {
    while told.lock().unwrap().len() < count {
        std::thread::yield_now();
    }
    told.lock().unwrap().clone()
}

#[test]
fn ends_of_certificates_are_told_and_are_over_with_other_identities() {
    let folder = tempfile::tempdir().unwrap();
    let authority = ClusterAuthority::new("peers").unwrap();
    let ten_days = Duration::from_secs((10 * 24 + 1) * 60 * 60);
    let (one, of_one) = open_until(folder.path(), &authority, ONE, Validity::from_now(ten_days));
    let in_2001 = Validity { not_before: 990_000_000, not_after: 1_000_000_000 };
    let (two, of_two) = open_until(folder.path(), &authority, TWO, in_2001);
    one.set_address(TWO, two.local_addr());
    two.set_address(ONE, one.local_addr());
    let (ends, ended) = (Condition::CertificateEnds { days: 10 }, Condition::CertificateEnded);
    let refused = Condition::PeerCertificateEnded { node: TWO };
    assert_eq!(until_told(&of_one, 2), [(ends.clone(), false), (refused.clone(), false)]);
    assert_eq!(one.health(), [ends.clone(), refused.clone()]);
    assert_eq!(until_told(&of_two, 1), [(ended.clone(), false)]);
    assert_eq!(two.health(), std::slice::from_ref(&ended));

    two.set_identity(&authority.issue(PeerId(2)).unwrap()).unwrap();
    assert_eq!(until_told(&of_one, 3)[2..], [(refused, true)]);
    assert_eq!(until_told(&of_two, 2)[1..], [(ended, true)]);
    one.set_identity(&authority.issue(PeerId(1)).unwrap()).unwrap();
    assert_eq!(until_told(&of_one, 4)[3..], [(ends, true)]);
}

#[test]
fn limits_of_the_wire_are_checked_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let identity = ClusterAuthority::new("peers").unwrap().issue(PeerId(1)).unwrap();
    let mut config = Config::new(ONE, folder.path().join("data"), identity);
    config.stream_window_bytes = 1;
    let refused = Engine::open(config, |_| KvMachine::new()).wait().map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Net(_)), "{refused}");
    assert!(!folder.path().join("data").exists());
}
