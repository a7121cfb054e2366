//! A cluster of engines in one process, over loopback, with a folder that is gone afterwards.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use raftwerk::identity::{ClusterAuthority, Identity};
use raftwerk::{
    Applied, Config, Consistency, Engine, GroupId, Index, Membership, NodeId, PeerId, ProposeError,
    ReadError, Reconfiguration, ReconfigureError, Refusal, Role,
};
use tempfile::TempDir;

use crate::facts::until;
use crate::journal::{self, Journal, Line};

/// Nodes 1, 2, … Every group has a replica on each, with a [`Journal`] behind it.
pub struct Nodes {
    engines: BTreeMap<NodeId, Engine>,
    ids: Vec<NodeId>,
    authority: ClusterAuthority,
    tune: Box<dyn Fn(&mut Config)>,
    writes: Cell<u64>,
    dir: TempDir,
}

/// The first of some nodes that leads a group, as it says itself, and has committed something in its term.
pub(crate) fn leader_among<T>(
    open: &BTreeMap<NodeId, T>,
    engine_of: impl Fn(&T) -> &Engine,
    group: GroupId,
) -> NodeId {
    until("a leader", || {
        let leads = |one: &T| {
            let status = engine_of(one).group(group).status().wait().ok();
            status.is_some_and(|status| status.role == Role::Leader && status.commit >= status.last.index)
        };
        open.iter().find(|(_, one)| leads(one)).map(|(node, _)| *node)
    })
}

impl Nodes {
    /// Opens `count` nodes and tells each where the others are. `tune` changes the settings of each, also when it is
    /// opened again; they begin small: two workers, files of 1 MiB.
    ///
    /// # Panics
    /// If a node does not open.
    #[must_use]
    pub fn start(count: u64, tune: impl Fn(&mut Config) + 'static) -> Self {
        let mut nodes = Self {
            engines: BTreeMap::new(),
            ids: (1..=count).map(NodeId).collect(),
            authority: ClusterAuthority::new("tests").expect("a name of letters will do"),
            tune: Box::new(tune),
            writes: Cell::new(0),
            dir: tempfile::tempdir().expect("there is room for temporary files"),
        };
        for node in nodes.ids.clone() {
            nodes.open(node);
        }
        nodes
    }

    /// All nodes, open or not.
    #[must_use]
    pub fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    /// Those that are open, in order.
    pub fn open_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.engines.keys().copied()
    }

    /// The settings that a node would be opened with.
    ///
    /// # Panics
    /// If no certificate can be made.
    #[must_use]
    pub fn config(&self, node: NodeId) -> Config {
        self.config_as(node, self.authority.issue(PeerId(node.0)).expect("certificates can be made"))
    }

    /// The same, under another identity, and in a folder of its own.
    #[must_use]
    pub fn config_as(&self, node: NodeId, identity: Identity) -> Config {
        let is_ours = identity.roots_pem() == self.authority.certificate_pem();
        let folder = if is_ours { format!("{node}") } else { format!("{node}-stranger") };
        let mut config = Config::new(node, self.dir.path().join(folder), identity);
        config.workers = 2;
        config.segment_bytes = 1 << 20;
        config.payload_bytes_max = 64 << 10;
        config.election_timeout = Duration::from_millis(500);
        (self.tune)(&mut config);
        config
    }

    /// Opens a node, again if it was open before, and introduces it to the others.
    ///
    /// # Panics
    /// If it does not open.
    pub fn open(&mut self, node: NodeId) {
        let engine = match Engine::open(self.config(node), |_| Journal::default()).wait() {
            Ok(engine) => engine,
            Err(error) => panic!("{node} does not open: {error}"),
        };
        for (other, theirs) in &self.engines {
            theirs.set_address(node, engine.local_addr());
            engine.set_address(*other, theirs.local_addr());
        }
        self.engines.insert(node, engine);
    }

    /// Shuts a node down.
    ///
    /// # Panics
    /// If it is not open.
    pub fn close(&mut self, node: NodeId) {
        self.engines
            .remove(&node)
            .expect("only an open node can be closed")
            .shutdown()
            .wait()
            .expect("it ends");
    }

    /// The engine of an open node.
    ///
    /// # Panics
    /// If it is not open.
    #[must_use]
    pub fn engine(&self, node: NodeId) -> &Engine {
        self.engines.get(&node).expect("the node is open")
    }

    /// A group, by way of a node's replica of it.
    ///
    /// # Panics
    /// If the node is not open.
    #[must_use]
    pub fn replica(&self, node: NodeId, group: GroupId) -> raftwerk::Group {
        self.engine(node).group(group)
    }

    /// Makes groups on all open nodes.
    ///
    /// # Panics
    /// If one cannot be made.
    pub fn create(&self, groups: &[GroupId]) {
        for engine in self.engines.values() {
            engine.create_groups(groups, &self.ids).wait().expect("the groups can be made");
        }
    }

    /// A node that leads a group and has committed something in its term, as it says itself.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> NodeId {
        leader_among(&self.engines, |engine| engine, group)
    }

    /// Asks whoever leads until the change is made.
    ///
    /// # Panics
    /// If it is refused for good.
    pub fn reconfigure(&self, group: GroupId, wish: &Reconfiguration) -> Membership {
        self.try_reconfigure(group, wish).unwrap_or_else(|error| panic!("{wish:?}: {error}"))
    }

    /// Asks whoever leads until there is an answer that does not pass.
    ///
    /// # Errors
    /// Refusals that make no sense of leaders that have just been elected or unseated. All others are asked again; what was
    /// left unknown is so already then.
    pub fn try_reconfigure(
        &self,
        group: GroupId,
        wish: &Reconfiguration,
    ) -> Result<Membership, ReconfigureError> {
        until("a change of the configuration", || {
            let leader = self.leader(group);
            match self.replica(leader, group).reconfigure(wish.clone()).wait() {
                Err(
                    ReconfigureError::Unknown
                    | ReconfigureError::UnknownPeer(_)
                    | ReconfigureError::Refused(
                        Refusal::NotReady
                        | Refusal::NotLeader { .. }
                        | Refusal::InProgress(_)
                        | Refusal::QuorumAtRisk,
                    ),
                ) => None,
                answer => Some(answer),
            }
        })
    }

    /// Proposes until a proposal is acknowledged; gives its payload, which no other proposal has, and its outcome.
    ///
    /// # Panics
    /// If that never happens, or a refusal makes no sense.
    pub fn write(&self, group: GroupId, size: usize) -> (Bytes, Applied) {
        let mut at = 0;
        until("an acknowledged write", || {
            let engine = self.engines.values().nth(at % self.engines.len())?;
            let payload = self.payload(size);
            match engine.group(group).propose(payload.clone()).wait() {
                Ok(applied) => Some((payload, applied)),
                Err(ProposeError::NotLeader { hint }) => {
                    let hinted = hint.and_then(|hint| self.engines.keys().position(|node| *node == hint));
                    at = hinted.unwrap_or(at + 1);
                    None
                }
                Err(ProposeError::NoSuchGroup(_)) => {
                    at += 1;
                    None
                }
                Err(ProposeError::Busy | ProposeError::Unknown) => None,
                Err(error) => panic!("a write to {group}: {error}"),
            }
        })
    }

    fn payload(&self, size: usize) -> Bytes {
        self.writes.set(self.writes.get() + 1);
        let mut payload = format!("write {} ", self.writes.get()).into_bytes();
        payload.resize(payload.len().max(size), b'.');
        payload.into()
    }

    /// Reads a group's journal, linearizably, wherever its leader is.
    ///
    /// # Panics
    /// If that never succeeds, or a refusal makes no sense.
    #[must_use]
    pub fn read(&self, group: GroupId) -> Vec<Line> {
        until("a linearizable read", || {
            self.engines.values().find_map(|engine| match engine.group(group).read("").wait() {
                Ok(answer) => Some(journal::read(&answer.reply).expect("the journal answers with itself")),
                Err(
                    ReadError::NotLeader { .. }
                    | ReadError::Witness { .. }
                    | ReadError::NoSuchGroup(_)
                    | ReadError::Busy,
                ) => None,
                Err(error) => panic!("a read of {group}: {error}"),
            })
        })
    }

    /// Waits until all open replicas of a group have applied as much, and compares them.
    ///
    /// # Panics
    /// If they differ.
    pub fn assert_equal(&self, group: GroupId) -> Index {
        let digests = until("replicas that have applied as much", || {
            let digest = |engine: &Engine| engine.group(group).digest().wait().ok();
            let digests: Option<Vec<(Index, u64)>> = self.engines.values().map(digest).collect();
            digests.filter(|digests| digests.iter().all(|(applied, _)| *applied == digests[0].0))
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{group}: {digests:?}");
        digests[0].0
    }

    /// A node's own journal of a group, however stale.
    ///
    /// # Panics
    /// If the node has none.
    #[must_use]
    pub fn local(&self, node: NodeId, group: GroupId) -> Vec<Line> {
        let answer =
            self.replica(node, group).query("", Consistency::Eventual).wait().expect("the replica answers");
        journal::read(&answer.reply).expect("the journal answers with itself")
    }
}

/// Fails unless the journal has each of these writes exactly once, where it was acknowledged.
///
/// # Panics
/// If not.
pub fn assert_kept(journal: &[Line], acknowledged: &[(Bytes, Applied)]) {
    for (payload, applied) in acknowledged {
        let mut found = journal.iter().filter(|line| line.payload == payload);
        let line = found.next().map(|line| line.index);
        assert_eq!(line, Some(applied.id.index), "{payload:?} was acknowledged");
        assert!(found.next().is_none(), "{payload:?} is there twice");
    }
}
