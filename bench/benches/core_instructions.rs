//! The core's single steps in instructions: the same figures on every run, however busy the machine is.
//!
//! Needs valgrind and `gungraun-runner` in the version of the library; without them it says what is missing. How to install
//! them, and the table: `bench/README.md`.
#![allow(missing_docs, reason = "the macros make public items of their own")]

#[allow(dead_code, reason = "scenes are named one by one here, and tried out by the other bench")]
mod steps;

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use steps::Scene;

#[library_benchmark]
#[bench::heartbeats_at_the_leader(steps::heartbeats_at_the_leader())]
#[bench::heartbeat_at_a_follower(steps::heartbeat_at_a_follower())]
#[bench::append_1_at_the_leader(steps::append_at_the_leader(1))]
#[bench::append_64_at_the_leader(steps::append_at_the_leader(64))]
#[bench::append_1_at_a_follower(steps::append_at_a_follower(1))]
#[bench::append_64_at_a_follower(steps::append_at_a_follower(64))]
#[bench::acknowledgement_that_commits(steps::acknowledgement_that_commits())]
#[bench::election(steps::election())]
fn step(scene: Scene) -> Scene {
    black_box(scene).run()
}

library_benchmark_group!(name = core, benchmarks = [step]);

main!(library_benchmark_groups = core);
