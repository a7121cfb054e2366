//! Membership and leadership of a group: requests for another configuration, and for another leader.
//!
//! The protocol is in `raftwerk_raft` (`membership`, `admission`, `transfer`); the worker's part in
//! `worker/calls/membership.rs`.

pub(crate) mod initial_members;
pub(crate) mod reconfiguration;

use raftwerk_frame::{Membership, NodeId};
use tokio::sync::oneshot;

use crate::api::call::Call;
use crate::api::error::{ReconfigureError, TransferError};
use crate::api::group::Group;
use crate::api::membership::reconfiguration::Reconfiguration;
use crate::node::request::Order;

impl Group {
    /// Requests another configuration (paper, section 6). To be sent to the leader. Completes when the new
    /// configuration is committed and no longer joint, unless it is to be held joint; new members may take as
    /// long as they need to catch up. The outcome is the configuration in force; of a dry run, the one that
    /// would be next, with the index of the present one.
    ///
    /// A new node first needs an empty replica, [`join_group`](crate::NodeHandle::join_group), and the others
    /// need its address, [`Engine::set_address`](crate::Engine::set_address). It comes in with the log that
    /// it has now: the configuration records that log, and no member accepts another log under the node's id
    /// in its place.
    ///
    /// # Errors
    /// [`ReconfigureError`]; only `Unknown` leaves open what happened.
    pub fn reconfigure(&self, wish: Reconfiguration) -> Call<Membership, ReconfigureError> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Reconfigure { group: self.id(), wish, reply });
        Call::answered(answer, || ReconfigureError::Unknown)
    }

    /// Requests a leadership transfer to another voter (thesis, section 3.10). Writes are refused as busy
    /// meanwhile, for at most an election timeout. Completes with `Ok` when this node no longer leads.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn transfer_leadership(&self, to: NodeId) -> Call<(), TransferError> {
        let (reply, answer) = oneshot::channel();
        self.inbox().order(Order::Transfer { group: self.id(), to, reply });
        Call::answered(answer, || TransferError::Unknown)
    }
}
