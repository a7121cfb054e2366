//! Commands that only look: what they print about replicas and the wire.

use raftwerk_frame::{Index, NodeId};
use raftwerk_raft::PeerState;

use super::cluster::Cluster;
use super::trace::{self, parcel, payloads, role, spans};

/// One line per replica, or only one's: what it is and how far its log is.
pub(crate) fn status(cluster: &mut Cluster, only: Option<NodeId>) {
    let Cluster { replicas, trace, .. } = cluster;
    for (node, replica) in replicas.iter().filter(|(node, _)| only.is_none_or(|only| only == **node)) {
        let Some(group) = &replica.group else {
            trace.deed(format_args!("{} is down", node.0));
            continue;
        };
        let vote = group.hard_state().vote.map_or("nobody".to_owned(), |node| node.0.to_string());
        let leader = group.leader().map_or("nobody".to_owned(), |node| node.0.to_string());
        trace.deed(format_args!(
            "{} {} {} vote {vote} leader {leader} log {} durable {} commit {}",
            node.0,
            role(group.role()),
            group.term(),
            group.last(),
            group.durable(),
            group.commit(),
        ));
    }
}

/// The entries of every log, or only one's, behind what is compacted.
pub(crate) fn log(cluster: &mut Cluster, only: Option<NodeId>) {
    let Cluster { replicas, trace, .. } = cluster;
    for (node, replica) in replicas.iter().filter(|(node, _)| only.is_none_or(|only| only == **node)) {
        let image = if replica.group.is_some() { &replica.written } else { &replica.disk };
        let begin = match image.checkpoint.id.index {
            Index(0) => String::new(),
            _ => format!(" ({})", image.checkpoint.id),
        };
        let entries = if image.log.is_empty() { String::new() } else { format!(" {}", spans(&image.log)) };
        trace.deed(format_args!("{}:{begin}{entries}", node.0));
    }
}

/// What state machines were given.
pub(crate) fn state(cluster: &mut Cluster, only: Option<NodeId>) {
    let Cluster { replicas, trace, .. } = cluster;
    for (node, replica) in replicas.iter().filter(|(node, _)| only.is_none_or(|only| only == **node)) {
        trace.deed(format_args!("{}: {}", node.0, payloads(replica.state.iter())));
    }
}

/// Who takes part, as every replica knows it, or only one.
pub(crate) fn configuration(cluster: &mut Cluster, only: Option<NodeId>) {
    let Cluster { replicas, trace, .. } = cluster;
    for (node, replica) in replicas.iter().filter(|(node, _)| only.is_none_or(|only| only == **node)) {
        let Some(group) = &replica.group else { continue };
        let (index, now) = (group.configuration_index(), trace::configuration(group.configuration()));
        let committed = if index <= group.commit() { "" } else { ", not committed" };
        let waiting = group.new_members().map(|newcomer| {
            let (node, matched, target) = (newcomer.node.0, newcomer.matched, newcomer.target);
            format!("; {node} has {matched} of {target}")
        });
        let waiting: String = waiting.collect();
        trace.deed(format_args!("{}: {now} since {index}{committed}{waiting}", node.0));
    }
}

/// What a leader knows of its peers.
pub(crate) fn progress(cluster: &mut Cluster, node: NodeId) -> Result<(), String> {
    let group = cluster.group(node)?;
    let statuses: Vec<_> = group.peers().filter_map(|peer| Some((peer, group.progress(peer)?))).collect();
    for (peer, status) in statuses {
        let state = match status.state {
            PeerState::Probe => "probe",
            PeerState::Replicate => "replicate",
            PeerState::Snapshot => "snapshot",
        };
        let (matched, next, in_flight) = (status.matched, status.next, status.in_flight_bytes);
        let line = format!("{} {state} matched {matched} next {next} in flight {in_flight}", peer.0);
        cluster.trace.deed(line);
    }
    Ok(())
}

/// What is on the wire, with the numbers by which single messages can be named.
pub(crate) fn messages(cluster: &mut Cluster) {
    for letter in cluster.wire.letters() {
        let (from, to) = (letter.from.0, letter.to.0);
        cluster.trace.deed(format_args!("#{} {from}->{to} {}", letter.number, parcel(&letter.parcel)));
    }
}
