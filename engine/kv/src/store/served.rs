//! Where an answer is from, and read options that outlive their call.

use std::time::Duration;

use raftwerk_frame::Index;

use raftwerk_multiraft::{Consistency, ReadOptions, Session};

/// A value, and the state of its shard that it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served<T> {
    /// The value.
    pub value: T,
    /// The last entry that the shard's replica had applied.
    pub index: Index,
    /// The maximum age of that state; `None`: unknown. See [`ReadAnswer::staleness`](raftwerk_multiraft::ReadAnswer).
    pub staleness: Option<Duration>,
}

/// Options that own their session.
#[derive(Clone, Debug)]
pub(super) struct HeldOptions {
    consistency: Consistency,
    patience: Option<Duration>,
    session: Option<Session>,
}

impl HeldOptions {
    pub(super) fn new(options: &ReadOptions<'_>) -> Self {
        let ReadOptions { consistency, patience, session } = *options;
        Self { consistency, patience, session: session.cloned() }
    }

    pub(super) fn options(&self) -> ReadOptions<'_> {
        ReadOptions { consistency: self.consistency, patience: self.patience, session: self.session.as_ref() }
    }
}
