//! A disk in memory, for tests and simulation: [`MemoryFiles`] knows what a power cut would leave, and fails on demand;
//! [`StepDisk`] runs a lane's jobs one at a time, when it is told to.
//!
//! What is not here: chance. Whoever cuts the power says, sector by sector, what becomes of unsynced bytes, and a
//! [`Fate`] decides call by call what goes wrong. Next: `files`, then `inode` for what is durable of a file.

mod files;
mod inode;
mod names;
mod step;

pub use files::{Call, Fate, MemoryFile, MemoryFiles, Outcome};
pub use inode::{SECTOR_BYTES, SectorFate};
pub use step::StepDisk;
