//! One scenario per test, named after the section that describes it.

mod bounds;
mod commit;
mod departure;
mod edges;
mod election;
mod fence;
mod founding;
mod incarnation;
mod liveness;
mod membership;
mod newcomer;
mod read;
mod replication;
mod rest;
mod size;
mod snapshot;
mod stranger;
mod transfer;
mod window;
mod witness;
