//! The calls of clients: taken in, queued, and answered, each exactly once.

pub(crate) mod clients;
pub(crate) mod membership;
pub(crate) mod proposals;
pub(crate) mod reading;
pub(crate) mod reads;
pub(crate) mod requests;
pub(in crate::worker) mod sampling;
pub(crate) mod waiters;
pub(crate) mod waiting;

use raftwerk_frame::{GroupId, Message, NodeId, Time};
use raftwerk_wal::GroupSlot;

use self::clients::Clients;
use self::sampling::Sampling;
use crate::api::state_machine::Replies;
use crate::worker::groups::timers::Timers;

/// The clients of a worker, and what is to be done for their reads.
#[derive(Default)]
pub(in crate::worker) struct Calls {
    clients: Clients,
    /// Scratch: what a state machine replies to the entries that it applies.
    replies: Replies,
    sampling: Sampling,
    /// Length of the request queue before the turn's time was read.
    requests_seen: usize,
    /// The last token of a read-index request to a core.
    read_tokens: u64,
    /// Deadlines of the groups' reads.
    reads_due: Timers,
    /// Read-index requests of followers; the lease of the next turn may answer them.
    pending_read_index: Vec<(GroupSlot, GroupId, NodeId, Message)>,
    /// Groups read at bounded staleness since their last read-index request.
    watched: Vec<GroupSlot>,
}

impl Calls {
    pub(in crate::worker) const fn clients(&mut self) -> &mut Clients {
        &mut self.clients
    }

    /// What applying an entry needs: where its reply is collected, and the clients that wait for it.
    pub(in crate::worker) const fn for_apply(&mut self) -> (&mut Replies, &mut Clients) {
        (&mut self.replies, &mut self.clients)
    }

    pub(in crate::worker) const fn sampling(&mut self) -> &mut Sampling {
        &mut self.sampling
    }

    /// When the first deadline of a group's reads comes.
    pub(in crate::worker) fn next_deadline(&self) -> Time {
        self.reads_due.next()
    }

    /// How many read-index requests of followers wait for the next turn.
    pub(in crate::worker) const fn pending_read_index(&self) -> usize {
        self.pending_read_index.len()
    }

    /// Drops them: the log has failed.
    pub(in crate::worker) fn drop_read_index(&mut self) {
        self.pending_read_index.clear();
    }
}

#[cfg(test)]
impl Calls {
    pub(in crate::worker) fn waiting(&self) -> waiting::Waiting {
        self.clients.waiting
    }

    pub(in crate::worker) fn timers(&self) -> usize {
        self.reads_due.len()
    }

    pub(in crate::worker) fn watched(&self) -> usize {
        self.watched.len()
    }
}
