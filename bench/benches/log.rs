//! The log's ways of writing, side by side, and against the device alone: one synced record, 64 under way, large batches.
//!
//! `cargo bench -p raftwerk-bench --bench log`; about a minute. It writes to a folder in `target`, on the disk that is on, so
//! that figures of a run belong together; the raw device is among them. What framing, checksum and copy cost against a copy and a
//! checksum alone is in `frame`; cells of many groups, with CPU, are in the command `raftwerk-bench log`. IMPURE: it measures
//! time, and writes files.
#![allow(clippy::unwrap_used, reason = "a bench that cannot write has nothing to measure")]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::task::Waker;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raftwerk_frame::frame::EntryKind;
use raftwerk_frame::{EntryId, GroupId, Term};
use raftwerk_wal::{AppendMode, Directory, GroupSlot, Lane, LaneOptions, OsDisk, OsDiskOptions, OsFiles};
use rustix::fs::{Advice, OFlags};

const RECORD_BYTES: usize = 128;
const LARGE_BYTES: usize = 1 << 20;
const RAW_FILE_BYTES: usize = 64 << 20;
/// What was written is let go of when the log holds so much.
const KEPT_BYTES: u64 = 192 << 20;

/// A lane of one group.
struct Rig {
    lane: Lane<OsDisk>,
    slot: GroupSlot,
}

impl Rig {
    /// `None` if the file system refuses the mode.
    fn open(path: &Path, mode: AppendMode) -> Option<Self> {
        let directory = Directory::open(OsFiles::new(path, mode).unwrap(), 1, 7).unwrap();
        let disk = OsDisk::open(&directory, &OsDiskOptions::default(), Waker::noop().clone()).unwrap();
        let options = LaneOptions {
            segment_bytes: 32 << 20,
            ready_segments: 3,
            spare_segments: 12,
            frame_bytes_max: 2 << 20,
            ..LaneOptions::default()
        };
        let mut lane = Lane::open(disk, options).unwrap().0;
        while lane.stats().ready_segments < 3 {
            lane.poll().unwrap();
            std::thread::yield_now();
        }
        let slot = lane.attach(GroupId(1));
        (lane.stats().mode == mode).then_some(Self { lane, slot })
    }

    /// Writes so many records, each a turn of its own, and never more than `under_way` that are not durable.
    fn write(&mut self, records: u64, payload: &[u8], under_way: u64) -> Duration {
        let (started, mut begun) = (Instant::now(), 0);
        let first = self.lane.poll().unwrap().submitted;
        loop {
            let durable = self.lane.poll().unwrap().durable;
            if durable.0 >= first.0 + records {
                return started.elapsed();
            }
            // Batches that the lane adds by itself, when it moves facts forward, count as one more that is under way.
            while begun < records
                && first.0 + begun < durable.0 + under_way
                && self.lane.turn_budget() >= payload.len() + 4
            {
                let id = EntryId::new(Term(1), self.lane.last(self.slot).next());
                let mut frame = self.lane.begin_frame(self.slot, id, payload.len() + 4).unwrap();
                assert!(frame.push(EntryKind::Payload, black_box(payload)) && frame.finish().is_some());
                if self.lane.log_bytes() > KEPT_BYTES {
                    let last = self.lane.last(self.slot);
                    self.lane.compact(self.slot, EntryId::new(Term(1), last));
                }
                self.lane.submit().unwrap();
                begun += 1;
            }
            std::thread::yield_now();
        }
    }
}

/// The device alone: one synced write at a time, to a file that was written before.
struct Raw {
    file: File,
    room: Vec<u8>,
    at: u64,
}

impl Raw {
    fn open(path: &Path) -> Self {
        let made = File::create(path).unwrap();
        let chunk = vec![0x5A; LARGE_BYTES];
        for at in (0..RAW_FILE_BYTES).step_by(LARGE_BYTES) {
            made.write_all_at(&chunk, at as u64).unwrap();
        }
        made.sync_all().unwrap();
        // What is in the page cache has to be thrown out by every write past it.
        rustix::fs::fadvise(&made, 0, None, Advice::DontNeed).unwrap();
        let open =
            |flags: OFlags| OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path);
        let file = open(OFlags::DIRECT | OFlags::DSYNC).or_else(|_| open(OFlags::DSYNC)).unwrap();
        Self { file, room: vec![0xA5; LARGE_BYTES + 4096], at: 0 }
    }

    fn write(&mut self, bytes: usize) {
        let start = self.room.as_ptr().align_offset(4096);
        self.file.write_all_at(&self.room[start..start + bytes], self.at).unwrap();
        self.at = (self.at + bytes as u64) % (RAW_FILE_BYTES - bytes + 1) as u64 / 4096 * 4096;
    }
}

fn brief(group: &mut BenchmarkGroup<'_, WallTime>) {
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500));
}

fn log(criterion: &mut Criterion) {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target).unwrap();
    let folder = tempfile::tempdir_in(target).unwrap();
    let mut raw = Raw::open(&folder.path().join("raw"));
    let mut rigs: Vec<(&str, Rig)> = Vec::new();
    for mode in AppendMode::ALL {
        match Rig::open(&folder.path().join(mode.name()), mode) {
            Some(rig) => rigs.push((mode.name(), rig)),
            None => eprintln!("SKIPPED: the file system refuses {}", mode.name()),
        }
    }
    let cells = [
        ("one synced record", 1, RECORD_BYTES, 4096),
        ("64 synced records under way", 64, RECORD_BYTES, 4096),
        ("large batches", 4, LARGE_BYTES, LARGE_BYTES),
    ];
    for (name, under_way, bytes, raw_bytes) in cells {
        let mut group = criterion.benchmark_group(format!("log, {name}"));
        brief(&mut group);
        group.throughput(if bytes == LARGE_BYTES {
            Throughput::Bytes(bytes as u64)
        } else {
            Throughput::Elements(1)
        });
        group.bench_function(BenchmarkId::new("raw, one at a time", raw_bytes), |bencher| {
            bencher.iter(|| raw.write(raw_bytes));
        });
        let payload = vec![0x6B; bytes];
        for (mode, rig) in &mut rigs {
            group.bench_function(BenchmarkId::new(*mode, bytes), |bencher| {
                bencher.iter_custom(|records| rig.write(records, &payload, under_way));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, log);
criterion_main!(benches);
