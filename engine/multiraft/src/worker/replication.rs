//! Messages between the cores of a group: effects into the batch and the outboxes, units in and out.

pub(crate) mod appends;
pub(crate) mod frames;
pub(crate) mod outbox;
pub(crate) mod perform;
pub(crate) mod receive;
pub(crate) mod witness;
