//! Tests of the protocol: scenarios from the paper and the thesis, and random schedules, on a cluster in
//! memory. Unit tests of each module of the core are beside its code. Next: `cluster` for the driver, then
//! `scenario`.

mod cluster;
mod scenario;
mod schedule;
