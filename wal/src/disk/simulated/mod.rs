//! A simulated disk, for tests and simulation: [`MemoryFiles`] models the state after a power cut, and fails
//! on demand; [`StepDisk`] runs a lane's jobs one at a time, on request.
//!
//! Not here: randomness. The caller that cuts the power decides, sector by sector, the fate of unsynced
//! bytes, and a [`Fate`] decides the outcome of each call. Next: `files`, then `inode` for the durable part
//! of a file.

mod files;
mod inode;
mod names;
mod step;

pub use files::{Call, Fate, MemoryFile, MemoryFiles, Outcome};
pub use inode::{SECTOR_BYTES, SectorFate};
pub use step::StepDisk;
