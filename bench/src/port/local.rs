//! A node in this process: a [`raftwerk::Pipeline`].

use std::time::Duration;

use raftwerk::{Completion, GroupId, Pipeline, ProposeError, ReadError, ReadOptions};

use super::{NodePort, Refused};

/// How long one pipeline is waited for while others have operations in flight too: a pipeline wakes only for its own.
const OTHERS_WAIT: Duration = Duration::from_micros(200);

/// A pipeline as a port.
pub struct LocalPort(Pipeline);

impl LocalPort {
    /// The port that submits through `pipeline`.
    #[must_use]
    pub const fn new(pipeline: Pipeline) -> Self {
        Self(pipeline)
    }
}

impl NodePort for LocalPort {
    fn submit(&mut self, group: GroupId, token: u64, payload: &[u8]) -> Result<(), Refused> {
        self.0.propose(group, token, payload).map_err(|error| match error {
            ProposeError::Busy => Refused::Busy,
            _ => Refused::Closed,
        })
    }

    fn read(
        &mut self,
        group: GroupId,
        token: u64,
        query: &[u8],
        options: ReadOptions<'_>,
    ) -> Result<(), Refused> {
        self.0.query(group, token, query, options).map_err(|error| match error {
            ReadError::Busy => Refused::Busy,
            _ => Refused::Closed,
        })
    }

    fn flush(&mut self) {
        self.0.flush();
    }

    fn take(&mut self, out: &mut Vec<Completion>) -> usize {
        self.0.take(out)
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// A closing engine completes what is in flight, so a pipeline needs no giving up.
    fn is_open(&self) -> bool {
        true
    }

    fn wait_any(ports: &mut [Option<Self>], at_most: Duration) {
        let busy = ports.iter().flatten().filter(|port| port.0.in_flight() > 0).count();
        let at_most = if busy > 1 { at_most.min(OTHERS_WAIT) } else { at_most };
        match ports.iter_mut().flatten().max_by_key(|port| port.0.in_flight()) {
            Some(port) => {
                port.0.wait(at_most);
            }
            None => std::thread::park_timeout(at_most),
        }
    }
}
