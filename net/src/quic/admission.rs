//! Admission of incoming connections.
pub(crate) mod filter;
pub(crate) mod policy;
