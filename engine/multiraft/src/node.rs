//! A node made of workers: which worker owns a group, the queues between threads, the directory, and the two
//! drivers, `threads` and `manual`.
//!
//! What is not here: a worker's turn ([`crate::worker`]).

pub(crate) mod data_dir;
pub(crate) mod dispatch;
pub(crate) mod events;
pub(crate) mod handle;
pub(crate) mod inbox;
pub mod manual;
pub(crate) mod peers;
pub(crate) mod placement;
pub(crate) mod request;
pub(crate) mod submission;
pub(crate) mod threads;
