//! The handle of one group: propose, read, look.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Term};
use raftwerk_raft::{NewcomerStatus, PeerStatus, Role};
use tokio::sync::oneshot;

use crate::engine::Shared;
use crate::error::{ProposeError, ReadError};
use crate::inbox::{Inbox, Order, Refused, Request};

/// A group of this node. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Group {
    id: GroupId,
    shared: Arc<Shared>,
}

/// What became of an acknowledged proposal: it is durable on a quorum and applied here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Where it stands in the group's log.
    pub id: EntryId,
    /// What the state machine answered.
    pub reply: Bytes,
}

/// A replica, as its worker saw it a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Follower, candidate, leader …
    pub role: Role,
    /// The latest term it knows.
    pub term: Term,
    /// The leader of that term, if it knows one.
    pub leader: Option<NodeId>,
    /// Its log starts after this entry.
    pub compacted: EntryId,
    /// The last entry of its log.
    pub last: EntryId,
    /// Durable on a quorum up to here.
    pub commit: Index,
    /// In the state machine up to here.
    pub applied: Index,
    /// Who takes part.
    pub configuration: Configuration,
    /// The index of that configuration. It is committed if `commit` has reached it. What
    /// [`Reconfiguration::seen`](crate::Reconfiguration) wants.
    pub configuration_index: Index,
    /// In a leader: how far every other replica is.
    pub peers: Vec<(NodeId, PeerStatus)>,
    /// In a leader: nodes that are on their way to being voters.
    pub newcomers: Vec<NewcomerStatus>,
    /// In a leader: to whom it is handing over.
    pub transfer_to: Option<NodeId>,
    /// Whether this replica takes no part any longer, and may be forgotten:
    /// [`Engine::remove_group`](crate::Engine::remove_group).
    pub is_removed: bool,
    /// Bytes of its entries in the log.
    pub log_bytes: u64,
}

impl Group {
    pub(crate) const fn new(id: GroupId, shared: Arc<Shared>) -> Self {
        Self { id, shared }
    }

    /// Which group this is.
    #[must_use]
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// Proposes a payload. The future ends when it is durable on a quorum and applied here, or with the reason why it
    /// was not; dropping the future does not take the proposal back.
    ///
    /// For many proposals a second, use a [`Pipeline`](crate::Pipeline): this call allocates.
    pub fn propose(&self, payload: impl Into<Bytes>) -> Proposal {
        propose(self.inbox(), self.shared.payload_bytes_max, self.id, payload.into())
    }

    /// Asks the state machine, linearizably: the answer reflects every write that was acknowledged before this call
    /// (read index, thesis section 6.4). Served by the leader; costs one round of heartbeats, shared by all reads of
    /// a worker's turn.
    pub fn read(&self, query: impl Into<Bytes>) -> Read {
        let request = |group, query, reply| Request::Read { group, query, reply };
        ask(self.inbox(), self.shared.payload_bytes_max, self.id, query.into(), request)
    }

    /// As [`Group::read`], answered by this node's replica, whoever leads: it asks the leader up to where it has to have
    /// applied, once for all reads of a turn. Fails if it knows no leader, or loses it before there is an answer.
    pub fn read_anywhere(&self, query: impl Into<Bytes>) -> Read {
        let request = |group, query, reply| Request::ReadAnywhere { group, query, reply };
        ask(self.inbox(), self.shared.payload_bytes_max, self.id, query.into(), request)
    }

    /// Asks this node's replica as it is: possibly stale, no guarantee of any kind. For tools and checks.
    pub fn query_local(&self, query: impl Into<Bytes>) -> Read {
        let request = |group, query, reply| Request::QueryLocal { group, query, reply };
        ask(self.inbox(), self.shared.payload_bytes_max, self.id, query.into(), request)
    }

    /// Looks at the replica. Blocks for about one turn of its worker, so not for async contexts, where it panics.
    /// `None` if it is no longer there.
    #[must_use]
    pub fn status(&self) -> Option<GroupStatus> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Status { group: self.id, reply });
        answer.blocking_recv().ok().flatten()
    }

    /// The applied index of this node's replica and a hash of its state there. Blocks, and keeps the worker from its
    /// other groups, while the state is hashed; panics in async contexts. `None` if the replica is no longer there.
    #[must_use]
    pub fn digest(&self) -> Option<(Index, u64)> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Digest { group: self.id, reply });
        answer.blocking_recv().ok().flatten()
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        self.shared.inbox_of(self.id)
    }
}

/// Puts a proposal into the inbox of the group's worker.
pub(crate) fn propose(inbox: &Inbox, bytes_max: usize, group: GroupId, payload: Bytes) -> Proposal {
    if payload.len() > bytes_max {
        let error = ProposeError::TooLarge { bytes: payload.len(), max: bytes_max };
        return Proposal(Answer::Now(Some(Err(error))));
    }
    let (reply, answer) = oneshot::channel();
    Proposal(match inbox.request(Request::Propose { group, payload, reply }) {
        Ok(()) => Answer::Later(answer),
        Err(Refused::Full(_)) => Answer::Now(Some(Err(ProposeError::Busy))),
        Err(Refused::Closed(_)) => Answer::Now(Some(Err(ProposeError::Closed))),
    })
}

/// Puts a query into the inbox of the group's worker.
pub(crate) fn ask(
    inbox: &Inbox,
    bytes_max: usize,
    group: GroupId,
    query: Bytes,
    request: impl FnOnce(GroupId, Bytes, oneshot::Sender<Result<Bytes, ReadError>>) -> Request,
) -> Read {
    if query.len() > bytes_max {
        let error = ReadError::TooLarge { bytes: query.len(), max: bytes_max };
        return Read(Answer::Now(Some(Err(error))));
    }
    let (reply, answer) = oneshot::channel();
    Read(match inbox.request(request(group, query, reply)) {
        Ok(()) => Answer::Later(answer),
        Err(Refused::Full(_)) => Answer::Now(Some(Err(ReadError::Busy))),
        Err(Refused::Closed(_)) => Answer::Now(Some(Err(ReadError::Closed))),
    })
}

/// What a future of this crate holds: an answer, or where it will come from.
pub(crate) enum Answer<T, E> {
    Now(Option<Result<T, E>>),
    Later(oneshot::Receiver<Result<T, E>>),
}

impl<T: Unpin, E: Unpin> Answer<T, E> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, lost: E) -> Poll<Result<T, E>> {
        match self {
            Self::Now(result) => Poll::Ready(result.take().expect("a finished future is not polled again")),
            Self::Later(receiver) => Pin::new(receiver).poll(cx).map(|sent| sent.unwrap_or(Err(lost))),
        }
    }

    pub(crate) fn wait(self, lost: E) -> Result<T, E> {
        match self {
            Self::Now(result) => result.expect("a finished future is not waited for again"),
            Self::Later(receiver) => receiver.blocking_recv().unwrap_or(Err(lost)),
        }
    }
}

/// A proposal on its way. A future; or block on it with [`Proposal::wait`].
#[must_use = "the outcome of a proposal should be looked at"]
pub struct Proposal(Answer<Applied, ProposeError>);

impl Proposal {
    /// Blocks until the outcome is known.
    ///
    /// # Errors
    /// [`ProposeError`]; only `Unknown` leaves open whether it is or will be applied.
    ///
    /// # Panics
    /// In an async context, which must not block: await it there.
    pub fn wait(self) -> Result<Applied, ProposeError> {
        self.0.wait(ProposeError::Unknown)
    }
}

impl Future for Proposal {
    type Output = Result<Applied, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, ProposeError::Unknown)
    }
}

/// A read on its way. A future; or block on it with [`Read::wait`].
#[must_use = "a read does nothing but answer"]
pub struct Read(Answer<Bytes, ReadError>);

impl Read {
    /// Blocks until there is an answer.
    ///
    /// # Errors
    /// [`ReadError`]; all may be retried.
    ///
    /// # Panics
    /// In an async context, which must not block: await it there.
    pub fn wait(self) -> Result<Bytes, ReadError> {
        self.0.wait(ReadError::Closed)
    }
}

impl Future for Read {
    type Output = Result<Bytes, ReadError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, ReadError::Closed)
    }
}
