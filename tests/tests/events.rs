//! A node tells what becomes of its parts: by events, and by what is the matter with it now.

use std::sync::{Arc, Mutex};

use raftwerk::{Condition, Event, GroupId, NodeId, OnEvent};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::Nodes;

#[test]
fn every_node_reports_a_peer_that_goes_and_returns() {
    let seen: Arc<Mutex<Vec<(NodeId, Event)>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let mut nodes = Nodes::start(3, move |config| {
        let (node, sink) = (config.node, Arc::clone(&sink));
        config.on_event = Some(OnEvent::new(move |event| sink.lock().unwrap().push((node, event.clone()))));
    });
    let group = GroupId(1);
    nodes.create(&[group]);
    nodes.write(group, 10);
    let gone = NodeId(3);
    let lost = Condition::PeerLost { node: gone };
    let others = [NodeId(1), NodeId(2)];
    until("all to be well", || {
        nodes.ids().iter().all(|node| nodes.engine(*node).health().is_empty()).then_some(())
    });
    nodes.close(gone);
    until("the others to notice", || {
        others.iter().all(|node| nodes.engine(*node).health() == [lost.clone()]).then_some(())
    });
    nodes.engine(NodeId(1)).remove_peer(gone);
    assert_eq!(nodes.engine(NodeId(1)).health(), [], "nobody misses a stranger");
    nodes.open(gone);
    nodes.engine(NodeId(1)).set_address(gone, nodes.engine(gone).local_addr());
    let told = |node: NodeId| -> Vec<bool> {
        let seen = seen.lock().unwrap();
        let of_it = seen.iter().filter(|(of, event)| *of == node && event.condition == lost);
        of_it.map(|(_, event)| event.is_over).collect()
    };
    until("all to be well again, and told of it", || {
        let is_well = |node: &NodeId| nodes.engine(*node).health().is_empty();
        let is_told = others.iter().all(|node| told(*node).last() == Some(&true));
        (is_told && nodes.ids().iter().all(is_well)).then_some(())
    });
    for node in others {
        let ends = told(node);
        assert!(ends.chunks(2).all(|pair| pair == [false, true]), "{node}: {ends:?}");
    }
}
