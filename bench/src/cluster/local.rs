//! A node in this process. IMPURE: it has threads, files and a socket, through its engine.
//!
//! Killing it shuts the engine down without notice to its clients: pending calls end, nothing is handed over, no
//! checkpoint is taken. That is gentler than SIGKILL, which only a process of its own can suffer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use raftwerk::{Engine, NodeId};
use raftwerk_wal::FileObserver;

use super::control::{self, NodeControl, NodeSettings, NodeUsage};
use crate::port::LocalPort;

/// An engine and what it takes to open it again.
pub struct LocalNode {
    settings: NodeSettings,
    /// Is shown what the engine does to its files, in each of its lives.
    observer: Option<Arc<dyn FileObserver>>,
    engine: Option<Engine>,
    /// Every other node's place, set again after a restart.
    others: Vec<(u64, SocketAddr)>,
    earlier: NodeUsage,
}

impl LocalNode {
    /// Starts a node, and shows the observer each system call that changes its files.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start_observed(
        settings: NodeSettings,
        observer: Option<Arc<dyn FileObserver>>,
    ) -> Result<Self, String> {
        let engine = Some(settings.open(observer.clone())?);
        Ok(Self { settings, observer, engine, others: Vec::new(), earlier: NodeUsage::default() })
    }

    /// The node that was killed starts again from another folder, which nothing observes, and knows of no other node.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn restart_from(&mut self, data_dir: PathBuf) -> Result<(), String> {
        (self.settings.data_dir, self.observer) = (data_dir, None);
        self.others.clear();
        self.restart()
    }

    fn engine(&self) -> Result<&Engine, String> {
        self.engine.as_ref().ok_or_else(|| format!("node n{} is down", self.settings.node))
    }
}

impl NodeControl for LocalNode {
    type Port = LocalPort;

    fn start(settings: NodeSettings) -> Result<Self, String> {
        Self::start_observed(settings, None)
    }

    fn address(&self) -> SocketAddr {
        self.engine.as_ref().map_or_else(|| SocketAddr::from(([0; 4], 0)), Engine::local_addr)
    }

    fn set_address(&mut self, node: u64, address: SocketAddr) -> Result<(), String> {
        self.others.retain(|(other, _)| *other != node);
        self.others.push((node, address));
        self.engine()?.set_address(NodeId(node), address);
        Ok(())
    }

    fn create_groups(&mut self, count: u32, voters: u64) -> Result<(), String> {
        control::create_groups(self.engine()?, count, voters)
    }

    fn port(&mut self) -> Result<LocalPort, String> {
        Ok(LocalPort::new(self.engine()?.pipeline(self.settings.in_flight_max)))
    }

    fn applied(&mut self, count: u32) -> Result<Vec<u64>, String> {
        control::applied(self.engine()?, count)
    }

    fn digests(&mut self, count: u32) -> Result<Vec<(u64, u64)>, String> {
        control::digests(self.engine()?, count)
    }

    fn query(&mut self, group: u32, query: &[u8]) -> Result<Bytes, String> {
        control::query(self.engine()?, group, query)
    }

    fn usage(&mut self) -> Result<NodeUsage, String> {
        Ok(NodeUsage::of(self.engine()?).plus(&self.earlier))
    }

    fn kill(&mut self) -> Result<(), String> {
        self.earlier = self.usage()?;
        if let Some(engine) = self.engine.take() {
            engine.shutdown().wait().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        let engine = self.settings.open(self.observer.clone())?;
        for (node, address) in &self.others {
            engine.set_address(NodeId(*node), *address);
        }
        self.engine = Some(engine);
        Ok(())
    }

    fn stop(self) {
        // The last handle waits for the node's end.
        drop(self.engine);
    }
}
