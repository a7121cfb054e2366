//! A worker's groups: their replicas, and what becomes of them.

pub(crate) mod apply;
pub(crate) mod bootstrap;
pub(crate) mod conditions;
pub(crate) mod loss;
pub(crate) mod machines;
pub(crate) mod orders;
pub(crate) mod quarantine;
pub(crate) mod replica;
pub(crate) mod table;
pub(crate) mod timers;
