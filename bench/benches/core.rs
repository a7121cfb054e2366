//! The core's single steps in time: heartbeats, appends of 1 and of 64 entries, an acknowledgement that commits, an election.
//!
//! A quiet machine is needed for figures worth keeping; `core_instructions` counts what does not depend on it. IMPURE: it
//! measures time.

mod steps;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn core(criterion: &mut Criterion) {
    steps::assert_scenes();
    let mut group = criterion.benchmark_group("core");
    for (name, scene) in steps::SCENES {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(scene, |scene| black_box(scene).run(), BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, core);
criterion_main!(benches);
