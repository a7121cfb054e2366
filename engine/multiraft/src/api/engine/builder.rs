//! A node's settings, one call each, up to its opening.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use raftwerk_frame::NodeId;
use raftwerk_net::identity::Identity;

use super::Engine;
use crate::api::call::Call;
use crate::api::config::Config;
use crate::api::error::OpenError;
use crate::api::state_machine::StateMachines;
use crate::node::events::{Event, OnEvent};

/// The settings of a node that is to be opened: see [`Engine::builder`]. What is not set has the default that
/// [`Config`] documents; only the identity has none.
#[must_use = "a builder opens nothing until `open`"]
pub struct EngineBuilder {
    node: NodeId,
    data_dir: PathBuf,
    identity: Option<Identity>,
    changes: Vec<Setter>,
}

/// One change of the defaults.
type Setter = Box<dyn FnOnce(&mut Config)>;

impl EngineBuilder {
    pub(super) fn new(node: NodeId, data_dir: PathBuf) -> Self {
        Self { node, data_dir, identity: None, changes: Vec::new() }
    }

    /// This node's certificate and key, and the cluster's authority. Required.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The UDP address to listen on. Default 127.0.0.1:0, a free port.
    pub fn listen(self, address: SocketAddr) -> Self {
        self.with(move |config| config.listen = address)
    }

    /// The address of another node. To be called for each that is known; more can follow by
    /// [`Engine::set_address`].
    pub fn peer(self, node: NodeId, address: SocketAddr) -> Self {
        self.with(move |config| config.peers.push((node, address)))
    }

    /// Threads that own groups ([`Config::workers`]). Default: one a core, within what memory allows.
    pub fn workers(self, workers: usize) -> Self {
        self.with(move |config| config.workers = workers)
    }

    /// Lanes of the log ([`Config::lanes`]). Default: as many as there are workers.
    pub fn lanes(self, lanes: usize) -> Self {
        self.with(move |config| config.lanes = Some(lanes))
    }

    /// Memory for the log's buffers and its index, in bytes ([`Config::memory_bytes`]). Default: derived from
    /// the machine and the number of workers.
    pub fn memory_bytes(self, bytes: u64) -> Self {
        self.with(move |config| config.memory_bytes = bytes)
    }

    /// The longest payload or query, in bytes ([`Config::payload_bytes_max`]). Default 1 MiB.
    pub fn payload_bytes_max(self, bytes: usize) -> Self {
        self.with(move |config| config.payload_bytes_max = bytes)
    }

    /// The election timeout ([`Config::election_timeout`]). Default 500 ms.
    pub fn election_timeout(self, timeout: Duration) -> Self {
        self.with(move |config| config.election_timeout = timeout)
    }

    /// A callback for events of disk, lanes, groups and peers ([`Config::on_event`]). Default: none.
    pub fn on_event(self, on_event: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.with(move |config| config.on_event = Some(OnEvent::new(on_event)))
    }

    /// Changes any other setting.
    /// ```
    /// # use raftwerk_multiraft as raftwerk;
    /// # use raftwerk::{Engine, NodeId};
    /// let builder = Engine::builder(NodeId(1), "data/n1").with(|config| config.lane_bytes_max = 4 << 30);
    /// ```
    pub fn with(mut self, change: impl FnOnce(&mut Config) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// The settings, as far as they are made.
    ///
    /// # Errors
    /// [`OpenError::Config`] without an identity.
    pub fn config(self) -> Result<Config, OpenError> {
        let identity = self.identity.ok_or(OpenError::Config("an identity is required"))?;
        let mut config = Config::new(self.node, self.data_dir, identity);
        self.changes.into_iter().for_each(|change| change(&mut config));
        Ok(config)
    }

    /// Opens the node: [`Engine::open`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(self, machines: impl StateMachines) -> Call<Engine, OpenError> {
        match self.config() {
            Ok(config) => Engine::open(config, machines),
            Err(error) => Call::done(Err(error)),
        }
    }
}
