//! The parts of a lane's state, each with private fields and the methods that keep its invariants.

pub(crate) mod background;
pub(crate) mod queue;
pub(crate) mod reach;
pub(crate) mod recent;
pub(crate) mod relocation;
pub(crate) mod segments;
pub(crate) mod turn;
pub(crate) mod watermarks;
