//! The calls of clients: taken in, queued, and answered, each exactly once.

pub(crate) mod clients;
pub(crate) mod membership;
pub(crate) mod reading;
pub(crate) mod reads;
pub(crate) mod requests;
pub(crate) mod waiters;
pub(crate) mod waiting;
