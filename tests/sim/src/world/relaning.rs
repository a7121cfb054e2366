//! A node that comes back with another number of workers has its log moved into as many lanes, in some runs; and may die at any call of
//! that. In the others it goes on with the lanes that it has.
//!
//! What is drawn here is drawn apart: a run that moves no log is what it would be without. What must not come of it is what must not
//! come of any restart (`watch`).

use raftwerk::OpenError;
use raftwerk::drive;
use raftwerk_wal::simulated::MemoryFiles;
use raftwerk_wal::{Directory, OpenError as LogError, RelaneError};

use super::World;
use crate::chance::Chance;
use crate::disk::held;
use crate::variety;

/// One in so many logs that are moved is not moved to the end.
const ENDS_ONE_IN: u64 = 2;
/// Calls that change something while a log is moved, about.
const CALLS: u64 = 80;

impl World<'_> {
    /// Opens a node's directory, with as many lanes as it has workers where this run moves logs.
    pub(super) fn open_directory(
        &mut self,
        at: usize,
        log_id: u64,
    ) -> Result<Directory<MemoryFiles>, OpenError> {
        let node = &self.nodes[at];
        let (files, wanted) = (node.files.clone(), node.workers as u16);
        let mut directory = match Directory::open(files.clone(), wanted, log_id) {
            Err(LogError::LaneCount { on_disk, .. }) => Directory::open(files, on_disk, log_id)?,
            opened => opened?,
        };
        if directory.lanes() != wanted && variety::relanes(self.seed) {
            self.relane(at, &mut directory)?;
        }
        self.nodes[at].first_lane = directory.lane_numbers().start;
        Ok(directory)
    }

    /// Moves a log. Where it is not moved, there must be a reason.
    fn relane(&mut self, at: usize, directory: &mut Directory<MemoryFiles>) -> Result<(), OpenError> {
        let node = &self.nodes[at];
        let (has, wanted) = (directory.lanes(), node.workers as u16);
        let mut chance =
            Chance::of(self.seed ^ (at as u64 + 1) << 40 ^ u64::from(node.life) << 48, "relaning");
        if self.plan.crashes && !self.is_ending && chance.below(ENDS_ONE_IN) == 0 {
            held(&node.mishaps).crash_after.get_or_insert(chance.below(CALLS));
        }
        let moved = directory.relane(wanted, &self.plan.lane, &drive::lane_of);
        let is_ill = {
            let mishaps = held(&node.mishaps);
            node.is_damaged || node.is_fenced || mishaps.has_crashed || mishaps.struck > 0
        };
        self.say(|| format!("n{}  from {has} to {wanted} lanes: {moved:?}", at + 1));
        match moved {
            Ok(_) | Err(RelaneError::NoRoom(_)) => Ok(()),
            Err(RelaneError::Undecided(error)) => Err(OpenError::Log(error)),
            Err(_) if is_ill => Ok(()),
            Err(RelaneError::Damaged(error) | RelaneError::Refused(error)) => Err(OpenError::Log(error)),
            Err(_) => Err(OpenError::Log(LogError::Options("a log could not be moved into other lanes"))),
        }
    }
}
