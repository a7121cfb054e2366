//! What a driver and a group exchange: settings, inputs and effects.
//!
//! What is not here: what a group does with them (`group`).

mod config;
mod effects;
mod identity;
mod input;
mod reconfigure;
mod transfer;

pub(crate) use config::Settings;
pub use config::{Config, Opening, Origin, Restored, TermRun};
pub use effects::{Append, AppendPlan, Effects, Install, Rejected};
pub use identity::{MessageKind, MessageSender, ReceiverStanding, Recipient};
pub use input::Input;
pub use reconfigure::{Admission, Reconfigure, Reconfigured, Refusal, Transition};
pub use transfer::{Transfer, TransferRefusal};
