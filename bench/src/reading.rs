//! How the load generator reads: at which level, and at which replica.

use std::time::Duration;

use raftwerk::{Consistency, GroupId, Index, ReadOptions, Session};

use crate::cli::duration;

/// How long a read may wait at a replica that cannot answer it at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where reads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Replica {
    /// To the group's leader.
    Leader,
    /// To every node in turn.
    Any,
}

/// How a client reads.
#[derive(Clone, Debug)]
pub struct Reading {
    consistency: Consistency,
    replica: Replica,
    session: Session,
}

impl Reading {
    /// At that level, there.
    #[must_use]
    pub fn new(consistency: Consistency, replica: Replica) -> Self {
        Self { consistency, replica, session: Session::new() }
    }

    /// Whether any node will do.
    #[must_use]
    pub const fn is_anywhere(&self) -> bool {
        matches!(self.replica, Replica::Any)
    }

    /// Whether a read has to see all that was acknowledged to this client before.
    #[must_use]
    pub const fn sees_own_writes(&self) -> bool {
        matches!(self.consistency, Consistency::Strong | Consistency::Monotonic | Consistency::ReadMyWrites)
    }

    /// The options of one read.
    pub const fn options(&self) -> ReadOptions<'_> {
        let options = ReadOptions::new(self.consistency).in_session(&self.session);
        if self.is_anywhere() { options.or_wait(PATIENCE) } else { options }
    }

    /// A write was acknowledged.
    pub fn wrote(&self, group: GroupId, index: Index) {
        if self.has_session() {
            self.session.wrote(group, index);
        }
    }

    /// A read was answered.
    pub fn saw(&self, group: GroupId, index: Index) {
        if self.has_session() {
            self.session.saw(group, index);
        }
    }

    const fn has_session(&self) -> bool {
        matches!(self.consistency, Consistency::Monotonic | Consistency::ReadMyWrites)
    }
}

/// Reads a level as the command line has it.
///
/// # Errors
/// What is wrong with it.
pub fn consistency(text: &str) -> Result<Consistency, String> {
    match text {
        "strong" => Ok(Consistency::Strong),
        "monotonic" => Ok(Consistency::Monotonic),
        "read-my-writes" => Ok(Consistency::ReadMyWrites),
        "consistent-prefix" => Ok(Consistency::ConsistentPrefix),
        "eventual" => Ok(Consistency::Eventual),
        other => match other.split_once(':') {
            Some(("bounded", bound)) => duration(bound).map(Consistency::BoundedStaleness),
            _ => Err("strong, bounded:TIME, monotonic, read-my-writes, consistent-prefix or eventual".into()),
        },
    }
}

/// The level as the command line has it.
#[must_use]
pub fn name(consistency: Consistency) -> String {
    match consistency {
        Consistency::Strong => "strong".into(),
        Consistency::BoundedStaleness(bound) => format!("bounded:{}ms", bound.as_millis()),
        Consistency::Monotonic => "monotonic".into(),
        Consistency::ReadMyWrites => "read-my-writes".into(),
        Consistency::ConsistentPrefix => "consistent-prefix".into(),
        Consistency::Eventual => "eventual".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_name_that_leads_back() {
        let bounded = Consistency::BoundedStaleness(Duration::from_millis(50));
        let levels = [Consistency::Strong, bounded, Consistency::Monotonic, Consistency::ReadMyWrites];
        for level in levels.into_iter().chain([Consistency::ConsistentPrefix, Consistency::Eventual]) {
            assert_eq!(consistency(&name(level)), Ok(level));
        }
        assert!(consistency("bounded").is_err() && consistency("weak").is_err());
    }
}
