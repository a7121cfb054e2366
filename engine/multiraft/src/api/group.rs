//! The handle of one group: propose, read, inspect.

use std::sync::Arc;

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index};
use tokio::sync::oneshot;

use crate::api::call::Call;
use crate::api::consistency::ReadOptions;
use crate::api::error::{ProposeError, ReadError, ReplicaError};
use crate::api::session::Session;
use crate::api::status::{Applied, FrozenState, GroupStatus, ReadAnswer, Received};
use crate::node::handle::NodeShared;
use crate::node::inbox::Inbox;
use crate::node::request::{Order, Refused, Request};

/// A group, by way of this node's replica of it. Cheap to make and to clone; usable from any thread. Where
/// the node has no replica of the group, its calls end with an error that names that.
#[derive(Clone)]
pub struct Group {
    id: GroupId,
    shared: Arc<NodeShared>,
}

impl Group {
    pub(crate) const fn new(id: GroupId, shared: Arc<NodeShared>) -> Self {
        Self { id, shared }
    }

    /// The id of the group.
    #[must_use]
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// Proposes a payload. The call completes when it is durable on a quorum and applied here, or with the
    /// reason why it was not; dropping the call does not withdraw the proposal.
    ///
    /// For many proposals a second, use a [`Pipeline`](crate::Pipeline): this call allocates.
    ///
    /// # Errors
    /// [`ProposeError`]; only `Unknown` leaves open whether it is or will be applied.
    pub fn propose(&self, payload: impl Into<Bytes>) -> Call<Applied, ProposeError> {
        self.propose_for(payload.into(), None)
    }

    /// As [`Group::propose`]; the acknowledgement advances the session, so that it reads its own write on
    /// every node.
    pub fn propose_in(&self, payload: impl Into<Bytes>, session: &Session) -> Call<Applied, ProposeError> {
        self.propose_for(payload.into(), Some((session.clone(), self.id)))
    }

    fn propose_for(
        &self,
        payload: Bytes,
        session: Option<(Session, GroupId)>,
    ) -> Call<Applied, ProposeError> {
        if let Err(error) = self.check(&payload) {
            return Call::done(Err(error));
        }
        let (reply, answer) = oneshot::channel();
        match self.inbox().request(Request::Propose { group: self.id, payload, reply }) {
            Ok(()) => Call::proposed(answer, session),
            Err(refused) => Call::done(Err(refused.into())),
        }
    }

    /// Proposes a payload that need not be durable to be acknowledged. The call completes when a quorum has
    /// written it: sooner than [`Group::propose`] by a sync on each node, with a weaker guarantee, see
    /// [`Received`].
    ///
    /// # Errors
    /// As for [`Group::propose`].
    pub fn propose_relaxed(&self, payload: impl Into<Bytes>) -> Call<Received, ProposeError> {
        let payload = payload.into();
        if let Err(error) = self.check(&payload) {
            return Call::done(Err(error));
        }
        let (reply, answer) = oneshot::channel();
        match self.inbox().request(Request::ProposeRelaxed { group: self.id, payload, reply }) {
            Ok(()) => Call::answered(answer, || ProposeError::Unknown),
            Err(refused) => Call::done(Err(refused.into())),
        }
    }

    fn check(&self, payload: &Bytes) -> Result<(), ProposeError> {
        let (bytes, max) = (payload.len(), self.shared.payload_bytes_max);
        if bytes > max { Err(ProposeError::TooLarge { bytes, max }) } else { Ok(()) }
    }

    /// Queries the state machine, linearizably: the answer reflects every write that was acknowledged before
    /// this call (read index, thesis section 6.4). Served by the leader alone; costs one round of heartbeats,
    /// shared by all reads of a worker's turn. The same as [`Group::query`] at
    /// [`Consistency::Strong`](crate::Consistency::Strong).
    ///
    /// # Errors
    /// [`ReadError`]; all may be retried.
    pub fn read(&self, query: impl Into<Bytes>) -> Call<ReadAnswer, ReadError> {
        self.query(query, ReadOptions::default())
    }

    /// Queries this node's replica, at the consistency level of the options; they also state what happens if
    /// it cannot answer at once. For many reads a second, use a [`Pipeline`](crate::Pipeline): this call
    /// allocates.
    ///
    /// # Errors
    /// [`ReadError`]; all may be retried.
    pub fn query<'a>(
        &self,
        query: impl Into<Bytes>,
        options: impl Into<ReadOptions<'a>>,
    ) -> Call<ReadAnswer, ReadError> {
        let (group, query, options) = (self.id, query.into(), options.into());
        let demand = match options.demand(group) {
            Ok(demand) => demand,
            Err(error) => return Call::done(Err(error)),
        };
        if let Err(error) = self.check(&query) {
            return Call::done(Err(error.into()));
        }
        let (reply, answer) = oneshot::channel();
        match self.inbox().request(Request::Read { group, query, demand, reply }) {
            Ok(()) => Call::asked(answer, options.session.map(|session| (session.clone(), group))),
            Err(refused) => Call::done(Err(ProposeError::from(refused).into())),
        }
    }

    /// The state of this node's replica, frozen at the level of the options, for any number of queries that
    /// all see one index and cost the worker nothing. The data is shared with the live state, and is freed
    /// when the frozen state is dropped.
    ///
    /// # Errors
    /// [`ReadError`]; all but `NotFreezable` may be retried.
    pub fn freeze<'a>(&self, options: impl Into<ReadOptions<'a>>) -> Call<FrozenState, ReadError> {
        let (group, options) = (self.id, options.into());
        let demand = match options.demand(group) {
            Ok(demand) => demand,
            Err(error) => return Call::done(Err(error)),
        };
        let (reply, answer) = oneshot::channel();
        if let Err(refused) = self.inbox().request(Request::Freeze { group, demand, reply }) {
            return Call::done(Err(ProposeError::from(refused).into()));
        }
        let call = Call::answered(answer, || ReadError::Closed);
        let Some(session) = options.session.cloned() else { return call };
        call.then(move |state: Result<FrozenState, ReadError>| {
            state.inspect(|state| session.saw(group, state.index()))
        })
    }

    /// The status of this node's replica, after about one turn of its worker.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn status(&self) -> Call<GroupStatus, ReplicaError> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Status { group: self.id, reply });
        Call::answered(answer, || ReplicaError::Closed)
    }

    /// The applied index of this node's replica and a hash of its state there. Keeps the worker from its
    /// other groups while the state is hashed.
    ///
    /// # Errors
    /// [`ReplicaError`]; `NoState` of a witness, and of a replica in quarantine.
    pub fn digest(&self) -> Call<(Index, u64), ReplicaError> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Digest { group: self.id, reply });
        Call::answered(answer, || ReplicaError::Closed)
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        self.shared.inbox_of(self.id)
    }
}

impl From<Refused> for ProposeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full(_) => Self::Busy,
            Refused::Closed(_) => Self::Closed,
        }
    }
}
