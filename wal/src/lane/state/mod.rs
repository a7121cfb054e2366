//! The parts of a lane's state, each with fields of its own.

pub(crate) mod segments;
