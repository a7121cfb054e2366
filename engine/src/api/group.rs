//! The handle of one group: propose, read, inspect.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index};
use tokio::sync::oneshot;

use crate::api::call::{Answer, wait};
use crate::api::consistency::ReadOptions;
use crate::api::error::{ProposeError, ReadError};
use crate::api::session::Session;
use crate::api::status::{Applied, FrozenState, GroupStatus, ReadAnswer, Received};
use crate::node::handle::NodeHandle;
use crate::node::inbox::Inbox;
use crate::node::request::{Order, Refused, Request};

/// A group of this node. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Group {
    id: GroupId,
    shared: Arc<NodeHandle>,
}

impl Group {
    pub(crate) const fn new(id: GroupId, shared: Arc<NodeHandle>) -> Self {
        Self { id, shared }
    }

    /// The id of the group.
    #[must_use]
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// Proposes a payload. The future completes when it is durable on a quorum and applied here, or with the
    /// reason why it was not; dropping the future does not withdraw the proposal.
    ///
    /// For many proposals a second, use a [`Pipeline`](crate::Pipeline): this call allocates.
    pub fn propose(&self, payload: impl Into<Bytes>) -> Proposal {
        propose(self.inbox(), self.shared.payload_bytes_max, self.id, payload.into())
    }

    /// Proposes a payload that need not be durable to be acknowledged. The future completes when a quorum has
    /// written it: sooner than [`Group::propose`] by a sync on each node, with a weaker guarantee, see
    /// [`Received`].
    pub fn propose_relaxed(&self, payload: impl Into<Bytes>) -> RelaxedProposal {
        propose_relaxed(self.inbox(), self.shared.payload_bytes_max, self.id, payload.into())
    }

    /// As [`Group::propose`]; the acknowledgement advances the session, so that it reads its own write on
    /// every node.
    pub fn propose_in(&self, payload: impl Into<Bytes>, session: &Session) -> Proposal {
        let mut proposal = self.propose(payload);
        proposal.session = Some((session.clone(), self.id));
        proposal
    }

    /// Queries the state machine, linearizably: the answer reflects every write that was acknowledged before
    /// this call (read index, thesis section 6.4). Served by the leader alone; costs one round of heartbeats,
    /// shared by all reads of a worker's turn. The same as [`Group::query`] at
    /// [`Consistency::Strong`](crate::Consistency::Strong).
    pub fn read(&self, query: impl Into<Bytes>) -> Read {
        self.query(query, ReadOptions::default())
    }

    /// Queries this node's replica, at the consistency level of the options; they also state what happens if
    /// it cannot answer at once. For many reads a second, use a [`Pipeline`](crate::Pipeline): this call
    /// allocates.
    pub fn query<'a>(&self, query: impl Into<Bytes>, options: impl Into<ReadOptions<'a>>) -> Read {
        ask(self.inbox(), self.shared.payload_bytes_max, self.id, query.into(), &options.into())
    }

    /// The state of this node's replica, frozen at the level of the options, for any number of queries that
    /// all see one index and cost the worker nothing. The data is shared with the live state, and is freed
    /// when the frozen state is dropped.
    pub fn freeze<'a>(&self, options: impl Into<ReadOptions<'a>>) -> Freezing {
        freeze(self.inbox(), self.id, &options.into())
    }

    /// The status of the replica. Blocks for about one turn of its worker. `None` if it no longer exists.
    #[must_use]
    pub fn status(&self) -> Option<GroupStatus> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Status { group: self.id, reply });
        wait(answer).flatten()
    }

    /// The applied index of this node's replica and a hash of its state there. Blocks, and keeps the worker
    /// from its other groups, while the state is hashed. `None` if the replica no longer exists, or is a
    /// witness.
    #[must_use]
    pub fn digest(&self) -> Option<(Index, u64)> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Digest { group: self.id, reply });
        wait(answer).flatten()
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        self.shared.inbox_of(self.id)
    }
}

/// Enqueues a proposal in the inbox of the group's worker.
pub(crate) fn propose(inbox: &Inbox, bytes_max: usize, group: GroupId, payload: Bytes) -> Proposal {
    if payload.len() > bytes_max {
        let error = ProposeError::TooLarge { bytes: payload.len(), max: bytes_max };
        return Proposal::new(Answer::Now(Some(Err(error))));
    }
    let (reply, answer) = oneshot::channel();
    Proposal::new(match inbox.request(Request::Propose { group, payload, reply }) {
        Ok(()) => Answer::Later(answer),
        Err(Refused::Full(_)) => Answer::Now(Some(Err(ProposeError::Busy))),
        Err(Refused::Closed(_)) => Answer::Now(Some(Err(ProposeError::Closed))),
    })
}

/// Enqueues a query in the inbox of the group's worker.
pub(crate) fn ask(
    inbox: &Inbox,
    bytes_max: usize,
    group: GroupId,
    query: Bytes,
    options: &ReadOptions<'_>,
) -> Read {
    let session = options.session.map(|session| (session.clone(), group));
    let now = |error| Answer::Now(Some(Err(error)));
    let answer = match options.demand(group) {
        Err(error) => now(error),
        Ok(_) if query.len() > bytes_max => now(ReadError::TooLarge { bytes: query.len(), max: bytes_max }),
        Ok(demand) => {
            let (reply, answer) = oneshot::channel();
            sent(inbox.request(Request::Read { group, query, demand, reply }), answer)
        }
    };
    Read { answer, session }
}

/// Enqueues a request for a frozen state in the inbox of the group's worker.
pub(crate) fn freeze(inbox: &Inbox, group: GroupId, options: &ReadOptions<'_>) -> Freezing {
    let session = options.session.map(|session| (session.clone(), group));
    let answer = match options.demand(group) {
        Err(error) => Answer::Now(Some(Err(error))),
        Ok(demand) => {
            let (reply, answer) = oneshot::channel();
            sent(inbox.request(Request::Freeze { group, demand, reply }), answer)
        }
    };
    Freezing { answer, session }
}

fn sent<T>(
    outcome: Result<(), Refused>,
    answer: oneshot::Receiver<Result<T, ReadError>>,
) -> Answer<T, ReadError> {
    match outcome {
        Ok(()) => Answer::Later(answer),
        Err(Refused::Full(_)) => Answer::Now(Some(Err(ReadError::Busy))),
        Err(Refused::Closed(_)) => Answer::Now(Some(Err(ReadError::Closed))),
    }
}

/// A pending proposal. A future; or block on it with [`Proposal::wait`].
#[must_use = "the outcome of a proposal should be looked at"]
pub struct Proposal {
    answer: Answer<Applied, ProposeError>,
    session: Option<(Session, GroupId)>,
}

impl Proposal {
    const fn new(answer: Answer<Applied, ProposeError>) -> Self {
        Self { answer, session: None }
    }

    /// Blocks until the outcome is known.
    ///
    /// # Errors
    /// [`ProposeError`]; only `Unknown` leaves open whether it is or will be applied.
    pub fn wait(self) -> Result<Applied, ProposeError> {
        let applied = self.answer.wait(ProposeError::Unknown)?;
        note_written(self.session.as_ref(), &applied);
        Ok(applied)
    }
}

impl Future for Proposal {
    type Output = Result<Applied, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.answer.poll(cx, ProposeError::Unknown);
        if let Poll::Ready(Ok(applied)) = &polled {
            note_written(self.session.as_ref(), applied);
        }
        polled
    }
}

fn note_written(session: Option<&(Session, GroupId)>, applied: &Applied) {
    if let Some((session, group)) = session {
        session.wrote(*group, applied.id.index);
    }
}

fn note_seen(session: Option<&(Session, GroupId)>, index: Index) {
    if let Some((session, group)) = session {
        session.saw(*group, index);
    }
}

/// A pending read. A future; or block on it with [`Read::wait`].
#[must_use = "a read does nothing but answer"]
pub struct Read {
    answer: Answer<ReadAnswer, ReadError>,
    session: Option<(Session, GroupId)>,
}

impl Read {
    /// Blocks until there is an answer.
    ///
    /// # Errors
    /// [`ReadError`]; all may be retried.
    pub fn wait(self) -> Result<ReadAnswer, ReadError> {
        let answer = self.answer.wait(ReadError::Closed)?;
        note_seen(self.session.as_ref(), answer.index);
        Ok(answer)
    }
}

impl Future for Read {
    type Output = Result<ReadAnswer, ReadError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.answer.poll(cx, ReadError::Closed);
        if let Poll::Ready(Ok(answer)) = &polled {
            note_seen(self.session.as_ref(), answer.index);
        }
        polled
    }
}

/// A pending request for a frozen state. A future; or block on it with [`Freezing::wait`].
#[must_use = "a frozen state is there to be asked"]
pub struct Freezing {
    answer: Answer<FrozenState, ReadError>,
    session: Option<(Session, GroupId)>,
}

impl Freezing {
    /// Blocks until it is available.
    ///
    /// # Errors
    /// [`ReadError`]; all but `NotFreezable` may be retried.
    pub fn wait(self) -> Result<FrozenState, ReadError> {
        let state = self.answer.wait(ReadError::Closed)?;
        note_seen(self.session.as_ref(), state.index());
        Ok(state)
    }
}

impl Future for Freezing {
    type Output = Result<FrozenState, ReadError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.answer.poll(cx, ReadError::Closed);
        if let Poll::Ready(Ok(state)) = &polled {
            note_seen(self.session.as_ref(), state.index());
        }
        polled
    }
}

/// Enqueues a relaxed proposal in the inbox of the group's worker.
pub(crate) fn propose_relaxed(
    inbox: &Inbox,
    bytes_max: usize,
    group: GroupId,
    payload: Bytes,
) -> RelaxedProposal {
    let now = |error| RelaxedProposal(Answer::Now(Some(Err(error))));
    if payload.len() > bytes_max {
        return now(ProposeError::TooLarge { bytes: payload.len(), max: bytes_max });
    }
    let (reply, answer) = oneshot::channel();
    match inbox.request(Request::ProposeRelaxed { group, payload, reply }) {
        Ok(()) => RelaxedProposal(Answer::Later(answer)),
        Err(Refused::Full(_)) => now(ProposeError::Busy),
        Err(Refused::Closed(_)) => now(ProposeError::Closed),
    }
}

/// A pending relaxed proposal. A future; or block on it with [`RelaxedProposal::wait`].
#[must_use = "the outcome of a proposal should be looked at"]
pub struct RelaxedProposal(Answer<Received, ProposeError>);

impl RelaxedProposal {
    /// Blocks until there is a receipt.
    ///
    /// # Errors
    /// [`ProposeError`]; only `Unknown` leaves open whether it is or will be applied.
    pub fn wait(self) -> Result<Received, ProposeError> {
        self.0.wait(ProposeError::Unknown)
    }
}

impl Future for RelaxedProposal {
    type Output = Result<Received, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, ProposeError::Unknown)
    }
}
