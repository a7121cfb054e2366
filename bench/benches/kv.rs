//! The ordered map of the key-value machine: writes, reads and copies, with cold and with warm caches.
//!
//! `cargo bench -p raftwerk-bench --bench kv`; half a minute, most of it in sweeps. The cold cells are what a worker does: three
//! replicas' maps in turns, some puts each, in maps larger than the caches; a sweep over memory larger than the last level comes
//! before every round and is not measured. One iteration is one put, one get, one copy. IMPURE: it measures time.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use raftwerk::kv::{Tree, TreeItem};
use raftwerk_bench::rng::{Rng, mix};
use raftwerk_frame::Index;

/// Larger than the last level of any machine's caches that is at hand.
const SWEEP_BYTES: usize = 320 << 20;
/// Puts between two sweeps.
const ROUND: usize = 3072;
const KEYS: u64 = 100_000;

const fn key(n: u64) -> [u8; 8] {
    mix(n).to_be_bytes()
}

fn filled(keys: u64, value: &[u8]) -> Tree {
    let mut tree = Tree::new();
    for n in 0..keys {
        tree.insert(&key(n), value, Index(n));
    }
    tree
}

/// What throws everything else out of the caches.
struct Sweep(Vec<u64>);

impl Sweep {
    fn new() -> Self {
        Self(vec![0; SWEEP_BYTES / 8])
    }

    fn run(&mut self) {
        for word in self.0.iter_mut().step_by(8) {
            *word += 1;
        }
        black_box(&self.0);
    }
}

/// The time of a round's puts of random keys: so many to each map in turn, as many at once.
fn round(maps: &mut [Tree], keys: u64, value: &[u8], batch: usize, rng: &mut Rng) -> Duration {
    let round: Vec<[u8; 8]> = (0..ROUND).map(|_| key(rng.below(keys))).collect();
    let items: Vec<TreeItem<'_>> =
        round.iter().map(|key| TreeItem { key, value, version: Index(rng.next()) }).collect();
    let started = Instant::now();
    for (turn, items) in items.chunks(batch).enumerate() {
        let map = turn % maps.len();
        maps[map].insert_all(black_box(items));
    }
    started.elapsed()
}

fn brief(group: &mut BenchmarkGroup<'_, WallTime>, measured: Duration) {
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(measured)
        .throughput(Throughput::Elements(1));
}

/// So many rounds as are asked for, per iteration.
fn rounds(iterations: u64, mut round: impl FnMut() -> Duration) -> Duration {
    let rounds = iterations.div_ceil(ROUND as u64);
    let all: Duration = (0..rounds).map(|_| round()).sum();
    all.mul_f64(iterations as f64 / (rounds as f64 * ROUND as f64))
}

fn writes(criterion: &mut Criterion) {
    let mut sweep = Sweep::new();
    let mut rng = Rng::new(1);
    let cells: [(&str, usize, u64, usize, &[usize]); 4] = [
        ("3 maps of 100,000, 6 B", 3, KEYS, 6, &[4, 64, 256]),
        ("144 maps of 2,083, 6 B", 144, KEYS / 48, 6, &[4, 16, 64]),
        ("3 maps of 30,000, 128 B", 3, 30_000, 128, &[4, 64]),
        ("3 maps of 10,000, 1 KiB", 3, 10_000, 1024, &[4, 64]),
    ];
    for (name, count, keys, bytes, batches) in cells {
        let value = vec![7; bytes];
        let mut maps: Vec<Tree> = (0..count).map(|_| filled(keys, &value)).collect();
        let mut group = criterion.benchmark_group(format!("kv, cold puts, {name}"));
        brief(&mut group, Duration::from_millis(20));
        for &batch in batches {
            group.bench_function(format!("{batch} at once"), |bencher| {
                bencher.iter_custom(|iterations| {
                    rounds(iterations, || {
                        sweep.run();
                        round(&mut maps, keys, &value, batch, &mut rng)
                    })
                });
            });
        }
    }

    let mut group = criterion.benchmark_group("kv, warm");
    brief(&mut group, Duration::from_millis(500));
    let mut maps = [filled(2000, b"value.")];
    group.bench_function("put, 2,000 keys, 64 at once", |bencher| {
        bencher
            .iter_custom(|iterations| rounds(iterations, || round(&mut maps, 2000, b"value!", 64, &mut rng)));
    });
    group.bench_function("insert of a new key, up to 100,000", |bencher| {
        bencher.iter_custom(|iterations| {
            let (mut left, mut all) = (iterations, Duration::ZERO);
            while left > 0 {
                let count = left.min(KEYS);
                let started = Instant::now();
                black_box(filled(count, b"value."));
                (left, all) = (left - count, all + started.elapsed());
            }
            all
        });
    });
}

fn reads(criterion: &mut Criterion) {
    let mut sweep = Sweep::new();
    let mut rng = Rng::new(2);
    let map = filled(KEYS, b"value.");
    let mut group = criterion.benchmark_group("kv, cold reads, 100,000 keys");
    brief(&mut group, Duration::from_millis(20));
    for (name, first) in [("get", 0), ("get of an absent key", KEYS)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                rounds(iterations, || {
                    let keys: Vec<[u8; 8]> = (0..ROUND).map(|_| key(first + rng.below(KEYS))).collect();
                    sweep.run();
                    let started = Instant::now();
                    for key in &keys {
                        black_box(map.get(key));
                    }
                    started.elapsed()
                })
            });
        });
    }
    group.bench_function("item of a scan", |bencher| {
        bencher.iter_custom(|iterations| {
            rounds(iterations, || {
                let from = key(rng.below(KEYS));
                sweep.run();
                let started = Instant::now();
                let items = map.range(&from, None).chain(&map).take(ROUND);
                black_box(items.map(|item| item.version.0 + item.key.len() as u64).sum::<u64>());
                started.elapsed()
            })
        });
    });
}

fn copies(criterion: &mut Criterion) {
    let mut rng = Rng::new(3);
    let mut group = criterion.benchmark_group("kv, copies");
    brief(&mut group, Duration::from_millis(100));
    for keys in [KEYS, 10 * KEYS] {
        let mut map = filled(keys, b"value.");
        group.bench_function(format!("clone of {keys}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut all = Duration::ZERO;
                for _ in 0..iterations {
                    let started = Instant::now();
                    let copy = map.clone();
                    all += started.elapsed();
                    drop(copy);
                }
                all
            });
        });
        group.bench_function(format!("put after a clone of {keys}, the first 3,072"), |bencher| {
            bencher.iter_custom(|iterations| {
                rounds(iterations, || {
                    let copy = map.clone();
                    let taken = round(std::slice::from_mut(&mut map), keys, b"value!", 64, &mut rng);
                    drop(copy);
                    taken
                })
            });
        });
    }
}

criterion_group!(benches, writes, reads, copies);
criterion_main!(benches);
