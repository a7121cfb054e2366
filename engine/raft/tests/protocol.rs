//! The protocol on trial: scenarios from the paper and the thesis, and random schedules, on a cluster in memory. What each
//! room of the core does by itself is tested beside its code. Next: `cluster` for the driver, then `scenario`.

mod cluster;
mod scenario;
mod schedule;
