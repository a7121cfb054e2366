//! The cells, over raft-engine: the log that TiKV uses. IMPURE: clock, files, threads.
//!
//! Its writers are threads, since its calls block. Segments are used again and nothing is compressed, so that both write what
//! they are given.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::{Cell, LogOptions, Run, Seen};
use crate::latency::Latencies;
use crate::usage::own_cpu_nanos;

/// An entry is bytes that begin with its index.
#[derive(Clone)]
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

/// Groups are compacted when they have grown by so many entries in all.
const KEPT_BYTES: u64 = 192 << 20;

pub(super) fn run(folder: &Path, cell: Cell, options: &LogOptions) -> Result<Seen, String> {
    let dir = folder.join("raft-engine");
    let config = Config {
        dir: dir.display().to_string(),
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize::mb(32),
        purge_threshold: ReadableSize(KEPT_BYTES),
        enable_log_recycle: true,
        ..Config::default()
    };
    let engine = Engine::open(config).wait().map_err(|error| error.to_string())?;
    write(&engine, cell, Duration::from_millis(100), 0)?;
    let run = write(&engine, cell, Duration::from_secs_f64(options.seconds), cell.groups)?;
    drop(engine);
    std::fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
    Ok(Seen::new("raft-engine", "buffered", cell, &run))
}

fn write(engine: &Engine, cell: Cell, length: Duration, first_group: u64) -> Result<Run, String> {
    let (started, cpu_before) = (Instant::now(), own_cpu_nanos());
    let is_over = AtomicBool::new(false);
    let writer = |number: usize| -> Result<(u64, Latencies), String> {
        // Every writer has groups of its own, since indices must follow each other.
        let own: Vec<u64> = (0..cell.groups.div_ceil(cell.writers as u64).max(1))
            .map(|at| 1 + first_group * 16 + at * cell.writers as u64 + number as u64)
            .collect();
        let mut last = vec![0u64; own.len()];
        let (mut at, mut records, mut latencies) = (0, 0, Latencies::default());
        let mut entries =
            vec![BytesValue { value: vec![0x6B; cell.record_bytes], ..BytesValue::default() }; cell.batch];
        let mut since_compaction = 0;
        while started.elapsed() < length {
            let before = Instant::now();
            for entry in &mut entries {
                last[at] += 1;
                entry.value[..8].copy_from_slice(&last[at].to_le_bytes());
            }
            let mut batch = LogBatch::with_capacity(1);
            batch.add_entries::<Indexed>(own[at], &entries).map_err(|error| error.to_string())?;
            engine.write(&mut batch, cell.synced).map_err(|error| error.to_string())?;
            latencies.record(before.elapsed().as_nanos() as u64);
            records += cell.batch as u64;
            since_compaction += (cell.batch * cell.record_bytes) as u64;
            at = (at + 1) % own.len();
            if since_compaction > KEPT_BYTES / 2 / cell.writers as u64 {
                since_compaction = 0;
                for (group, last) in own.iter().zip(&last) {
                    engine.compact_to(*group, *last);
                }
            }
        }
        Ok((records, latencies))
    };
    let mut run = Run::default();
    std::thread::scope(|scope| -> Result<(), String> {
        let hands: Vec<_> = (0..cell.writers).map(|number| scope.spawn(move || writer(number))).collect();
        let purge = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(100));
                let _next_time = engine.purge_expired_files();
            }
        });
        for hand in hands {
            let (records, latencies) = hand.join().map_err(|_| "a writer panicked".to_owned())??;
            run.records += records;
            run.latencies.merge(&latencies);
        }
        is_over.store(true, Ordering::Relaxed);
        run.took = started.elapsed();
        run.cpu_nanos = own_cpu_nanos() - cpu_before;
        purge.thread().unpark();
        purge.join().map_err(|_| "the purge panicked".to_owned())
    })?;
    Ok(run)
}
